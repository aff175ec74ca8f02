//! A new member for a test.

use std::path::Path;

use crate::store::node::{Handle, Member, Paths, create};
use crate::store::options::Tuning;

/// Where a member of a test is.
pub(crate) fn paths(folder: &Path) -> Paths {
    Paths { state: folder.join("db"), log: folder.join("wal") }
}

/// Makes a member in an empty folder and starts it.
pub(crate) async fn begin(folder: &Path, member: Member, tuning: Tuning) -> Handle {
    std::fs::create_dir_all(folder.join("wal")).unwrap();
    create(&paths(folder), &member, &tuning).unwrap();
    Handle::start(&paths(folder), member, tuning).await.unwrap()
}
