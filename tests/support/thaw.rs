//! Directories of members, frozen as files: `tests/fixtures/member-<n>` has one for each format that was ever written.
//! tests/compat/member.rs makes them.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The newest of them.
pub(crate) const NEWEST: &str = "member-1";

/// Where one lies.
pub(crate) fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// Puts a copy of a frozen directory at `data_dir`, which must not be there.
pub(crate) fn thaw(name: &str, data_dir: &Path) {
    thaw_into(&folder(name).join("data"), data_dir);
}

fn thaw_into(from: &Path, to: &Path) {
    fs::DirBuilder::new().mode(0o700).create(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
        if path.is_dir() {
            thaw_into(&path, &to.join(name));
        } else if let Some(name) = name.strip_suffix(".zst") {
            zstd::stream::copy_decode(fs::File::open(&path).unwrap(), fs::File::create(to.join(name)).unwrap())
                .unwrap();
        } else {
            fs::copy(&path, to.join(name)).unwrap();
        }
    }
}
