//! A directory as a store: what it needs beyond `object_store`'s own.
//!
//! What was checked of `LocalFileSystem` (object_store 0.14) and relied on:
//! - A create-only put writes `<name>#<n>`, fsyncs it, hard-links it to `<name>` (which fails if that exists), fsyncs the
//!   folder and removes the staging name. Killed anywhere in between it leaves a staging name at most; listings skip
//!   every name that ends in `#` and digits, and no name of this format holds a `#`.
//! - It fsyncs the folders that it creates itself, but not one that it finds: a folder left by a killed run, or made by
//!   another thread a moment ago, may not be durable yet. So `Folders` makes and fsyncs the whole way down once per
//!   run, before the first object goes in.
//! - A create that finds the name taken fsyncs nothing: an equal object is fsynced here before it counts as stored.
//! - Listing a missing folder gives nothing; an unreadable one gives an error.

use object_store::local::LocalFileSystem;
use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::base::error::{Error, IoContext, Kind, Result};
use crate::vault::store::failed;

/// The objects below an existing directory, and the folders that hold them.
pub(super) fn open(root: &Path, url: &str) -> Result<(LocalFileSystem, Folders)> {
    if !root.is_dir() {
        let (kind, what) = match root.exists() {
            true => (Kind::Usage, "is not a directory"),
            false => (Kind::NotFound, "does not exist"),
        };
        return Err(Error::new(kind, format!("repository {url} {what}"))
            .hint("check the URL; the first `holdfast backup` creates the directory"));
    }
    let objects = LocalFileSystem::new_with_prefix(root)
        .map_err(|error| failed(format!("open directory {}", root.display()), error))?
        .with_fsync(true);
    Ok((objects, Folders { root: root.to_owned(), durable: Mutex::default() }))
}

/// The folders of a directory repository, made durable before anything is put into them.
#[derive(Debug)]
pub(super) struct Folders {
    root: PathBuf,
    durable: Mutex<HashSet<PathBuf>>,
}

impl Folders {
    pub(super) fn make(&self, path: &str) -> io::Result<()> {
        let object = self.root.join(path);
        let folder = object.parent().unwrap_or(&self.root).to_owned();
        if self.durable.lock().unwrap_or_else(PoisonError::into_inner).contains(&folder) {
            return Ok(());
        }
        std::fs::create_dir_all(&folder)?;
        for part in folder.ancestors().take_while(|part| part.starts_with(&self.root)) {
            sync_folder(part)?;
        }
        self.durable.lock().unwrap_or_else(PoisonError::into_inner).insert(folder);
        Ok(())
    }

    pub(super) fn sync_object(&self, path: &str) -> io::Result<()> {
        let object = self.root.join(path);
        File::open(&object)?.sync_all()?;
        sync_folder(object.parent().unwrap_or(&self.root))
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Creates the directory of a new repository, readable by its owner only: backups hold secrets.
pub(super) fn create_root(root: &Path) -> Result<()> {
    if root.exists() {
        return Ok(());
    }
    use std::os::unix::fs::DirBuilderExt;
    let during = || format!("create directory {}", root.display());
    let old = root.ancestors().find(|part| part.exists()).unwrap_or(root).to_owned();
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(root).during(during)?;
    for part in root.ancestors().take_while(|part| part.starts_with(&old)) {
        sync_folder(part).during(during)?;
    }
    Ok(())
}
