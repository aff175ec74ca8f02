//! Files that are there whole or not at all: temporary name, fsync, rename, fsync of the folder.
//!
//! Invariants:
//! - Until `commit` returns, nothing is visible under the final name; afterwards it survives a power cut.
//! - A file that is already there is never replaced, except by `replace`, which is for what may be lost.
//! - An abandoned temporary file is removed; one left by a kill is recognised by its suffix and replaced next time.

use std::fs::{File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::base::error::{Error, IoContext, Kind, Result};
use crate::base::id;

/// What a file's name ends with until it is whole.
pub const PART_SUFFIX: &str = ".part";

/// A new file in the making. Dropped before `commit`, it leaves nothing behind.
#[derive(Debug)]
pub struct NewFile {
    file: File,
    part: PathBuf,
    path: PathBuf,
    len: u64,
    committed: bool,
}

impl NewFile {
    /// Starts the file that will be at `path`. Refused with `Kind::Conflict` when something is there.
    pub fn create(path: &Path, mode: u32) -> Result<Self> {
        refuse_existing(path)?;
        let mut name = path.as_os_str().to_owned();
        name.push(PART_SUFFIX);
        let part = PathBuf::from(name);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false) // not before the lock: these may be another process's bytes
            .mode(mode)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
            .open(&part)
            .during(|| format!("create {}", part.display()))?;
        // Two processes making the same file would write into each other's.
        let flags = rustix::fs::FlockOperation::NonBlockingLockExclusive;
        rustix::fs::flock(&file, flags).map_err(|_| {
            Error::new(Kind::Conflict, format!("{} is being written by another process", path.display()))
                .hint("wait for it to end, or choose another name")
        })?;
        // Between opening and locking, its owner may have given it its final name: then it is not ours to empty.
        let ours = |file: &File| Ok::<_, std::io::Error>((file.metadata()?, std::fs::symlink_metadata(&part)?));
        let same = ours(&file).is_ok_and(|(ours, named)| (ours.dev(), ours.ino()) == (named.dev(), named.ino()));
        if !same {
            return Err(Error::new(Kind::Conflict, format!("{} was just finished by another process", path.display()))
                .hint("look at what is there now, or choose another name"));
        }
        file.set_permissions(Permissions::from_mode(mode)).during(|| format!("protect {}", part.display()))?;
        file.set_len(0).during(|| format!("empty {}", part.display()))?;
        Ok(NewFile { file, part, path: path.to_owned(), len: 0, committed: false })
    }

    /// Appends `bytes`.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).during(|| format!("write {}", self.part.display()))?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Replaces bytes written before, at `offset`.
    pub fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        assert!(offset + bytes.len() as u64 <= self.len, "only bytes written before can be replaced");
        self.file.write_all_at(bytes, offset).during(|| format!("write {}", self.part.display()))
    }

    /// Bytes written so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A second handle: to read the bytes back, or to sync them from another thread while they are still being written.
    pub fn handle(&self) -> Result<File> {
        self.file.try_clone().during(|| format!("open {} again", self.part.display()))
    }

    /// Makes the file durable and visible under its final name.
    pub fn commit(mut self) -> Result<()> {
        self.file.sync_all().during(|| format!("sync {}", self.part.display()))?;
        // RENAME_NOREPLACE closes the gap between the first look and now.
        let cwd = rustix::fs::CWD;
        rustix::fs::renameat_with(cwd, &self.part, cwd, &self.path, rustix::fs::RenameFlags::NOREPLACE)
            .map_err(std::io::Error::from)
            .during(|| format!("rename {} to {}", self.part.display(), self.path.display()))?;
        self.committed = true;
        sync_folder(&self.path)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.committed {
            // Best effort: what stays is named .part and is replaced by the next attempt.
            let _ = std::fs::remove_file(&self.part);
        }
    }
}

/// Writes a file in place of what is there, in one step: readers see the old one or the new one. Not synced: this is for
/// caches and their like, readable by their owner only.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).during(|| format!("create {}", folder.display()))?;
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}{PART_SUFFIX}", id::random()?));
    let part = PathBuf::from(name);
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part).and_then(|mut file| {
        file.write_all(bytes)?;
        rename(&part, path)
    });
    written.during(|| format!("replace {}", path.display())).inspect_err(|_| {
        // It may never have been made.
        drop(std::fs::remove_file(&part));
    })
}

#[expect(clippy::disallowed_methods, reason = "this is the owner of renames")]
fn rename(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::rename(from, to)
}

/// Refuses a path where something is already.
pub fn refuse_existing(path: &Path) -> Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => Err(Error::new(Kind::Conflict, format!("{} is already there", path.display()))
            .hint("nothing was changed; choose a new name, or move the old file away first")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io(format!("look at {}", path.display()), error)),
    }
}

/// Makes the name of `path` durable in its folder.
fn sync_folder(path: &Path) -> Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let handle = File::open(folder).during(|| format!("open {}", folder.display()))?;
    handle.sync_all().during(|| format!("sync {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("snapshot.db");
        let mut file = NewFile::create(&path, 0o600).unwrap();
        file.append(b"0123").unwrap();
        assert!(!path.exists());
        drop(file);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);

        let mut file = NewFile::create(&path, 0o600).unwrap();
        file.append(b"0123").unwrap();
        file.write_at(1, b"xy").unwrap();
        file.commit().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"0xy3");
        assert_eq!(NewFile::create(&path, 0o600).unwrap_err().kind(), Kind::Conflict);
    }

    #[test]
    fn a_file_that_appeared_meanwhile_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("snapshot.db");
        let mut file = NewFile::create(&path, 0o600).unwrap();
        file.append(b"ours").unwrap();
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        assert_eq!(file.commit().unwrap_err().kind(), Kind::Conflict);
        assert_eq!(std::fs::read_link(&path).unwrap(), Path::new("elsewhere"));
    }

    #[test]
    fn a_link_in_place_of_the_temporary_file_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let precious = folder.path().join("precious");
        std::os::unix::fs::symlink(&precious, folder.path().join("snapshot.db.part")).unwrap();
        assert!(NewFile::create(&folder.path().join("snapshot.db"), 0o600).is_err());
        assert!(!precious.exists());
    }

    #[test]
    fn two_writers_of_one_file_do_not_mix() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("snapshot.db");
        let _first = NewFile::create(&path, 0o600).unwrap();
        assert_eq!(NewFile::create(&path, 0o600).unwrap_err().kind(), Kind::Conflict);
    }

    #[test]
    fn a_replaced_file_is_whole_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er/cache");
        for content in [&b"one"[..], b"longer", b""] {
            replace(&path, content).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), content);
        }
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        assert!(replace(dir.path(), b"x").is_err());
    }
}
