//! Files that are there whole or not at all.
//!
//! A new file has no name while it is written (`O_TMPFILE`): whatever ends the process, nothing of it stays. Once it is
//! whole and synced it is linked to its name. Where a file system cannot do that, it is written beside its target as
//! `.TARGET.<16 hexadecimal digits>.part` and renamed; a kill leaves that file behind. Its writer keeps it locked, so the
//! next writer of the same target tells a leftover from a file in the making, and removes it.
//!
//! Invariants:
//! - Until `commit` returns, nothing is visible under the final name; afterwards it survives a power cut.
//! - A file that is already there is never replaced: of two writers of one name, the later one loses. Only `replace` does otherwise, and it is for
//!   what may be lost.
//! - No file that was there before is opened for writing, and none is removed but leftovers: the name to the letter, a
//!   regular file, and nobody's lock on it.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions, Permissions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, RenameFlags, flock};
use rustix::io::Errno;

use crate::base::error::{Error, IoContext, Kind, Result};
use crate::base::id;

/// What the name of a file in the making ends with, where it needs one.
const PART_SUFFIX: &[u8] = b".part";
/// Random digits in such a name.
const PART_DIGITS: usize = 16;
/// How often a writer whose new file another one took for a leftover makes a new one.
const ATTEMPTS_MAX: usize = 16;

/// A new file in the making. Dropped before `commit`, it leaves nothing behind.
#[derive(Debug)]
pub struct NewFile {
    file: File,
    /// Its name for the time being, where it needs one.
    part: Option<PathBuf>,
    path: PathBuf,
    len: u64,
}

impl NewFile {
    /// Starts the file that will be at `path`. Refused with `Kind::Conflict` when something is there.
    pub fn create(path: &Path, mode: u32) -> Result<Self> {
        refuse_existing(path)?;
        match nameless(path) {
            Some(file) => NewFile::of(file, None, path, mode),
            None => NewFile::named(path, mode),
        }
    }

    /// The same under a name of its own, where a file system has no files without one.
    fn named(path: &Path, mode: u32) -> Result<Self> {
        remove_leftovers(path);
        for _ in 0..ATTEMPTS_MAX {
            let part = part_of(path, &id::random()?);
            let file = OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(&part);
            let file = file.during(|| format!("create {}", part.display()))?;
            let locked = lock(&file);
            // Before it was locked, another writer may have taken it for a leftover.
            if locked && file.metadata().is_ok_and(|there| there.nlink() == 1) {
                return NewFile::of(file, Some(part), path, mode);
            }
            let _ = std::fs::remove_file(&part);
        }
        Err(Error::new(Kind::Failed, format!("no file beside {} can be kept locked", path.display()))
            .hint("write to a file system that knows locks, and move the file afterwards"))
    }

    fn of(file: File, part: Option<PathBuf>, path: &Path, mode: u32) -> Result<Self> {
        let new = NewFile { file, part, path: path.to_owned(), len: 0 };
        let protected = new.file.set_permissions(Permissions::from_mode(mode));
        protected.during(|| format!("protect {}", path.display())).map(|()| new)
    }

    /// Appends `bytes`.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).during(|| format!("write {}", self.path.display()))?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Replaces bytes written before, at `offset`.
    pub fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        assert!(offset + bytes.len() as u64 <= self.len, "only bytes written before can be replaced");
        self.file.write_all_at(bytes, offset).during(|| format!("write {}", self.path.display()))
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
        self.file.try_clone().during(|| format!("open {} again", self.path.display()))
    }

    /// Makes the file durable and visible under its final name.
    pub fn commit(mut self) -> Result<()> {
        self.file.sync_all().during(|| format!("sync {}", self.path.display()))?;
        // Neither replaces what appeared there since the first look.
        let given = match &self.part {
            Some(part) => rustix::fs::renameat_with(CWD, part, CWD, &self.path, RenameFlags::NOREPLACE),
            None => rustix::fs::linkat(CWD, open_as(&self.file), CWD, &self.path, AtFlags::SYMLINK_FOLLOW),
        };
        match given {
            Ok(()) => self.part = None,
            Err(Errno::EXIST) => return Err(already_there(&self.path)),
            Err(error) => return Err(Error::io(format!("give {} its name", self.path.display()), error.into())),
        }
        sync_folder(&self.path)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(part) = &self.part {
            // Best effort: what stays is a leftover, and the next attempt removes it.
            let _ = std::fs::remove_file(part);
        }
    }
}

/// A file without a name in the folder of `path`; none when it cannot be made or could not be given its name later.
/// Whatever is wrong with the folder itself is told by the way with a name.
fn nameless(path: &Path) -> Option<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(folder_of(path), flags, Mode::RUSR | Mode::WUSR).ok()?);
    std::fs::read_link(open_as(&file)).is_ok().then_some(file)
}

/// The path by which the system knows an open file, with a name or without.
fn open_as(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// The name of a file in the making: `.TARGET.<digits>.part`.
fn part_of(path: &Path, digits: &str) -> PathBuf {
    let mut name = part_prefix(path);
    name.push(digits);
    name.push(OsStr::from_bytes(PART_SUFFIX));
    folder_of(path).join(name)
}

fn part_prefix(path: &Path) -> OsString {
    let mut prefix = OsString::from(".");
    prefix.push(path.file_name().unwrap_or_default());
    prefix.push(".");
    prefix
}

/// Removes what killed writers of `path` left. Best effort: a leftover is in nobody's way.
fn remove_leftovers(path: &Path) {
    let prefix = part_prefix(path);
    let is_part = |name: &OsStr| {
        let digits = name.as_bytes().strip_prefix(prefix.as_bytes()).and_then(|rest| rest.strip_suffix(PART_SUFFIX));
        let hexadecimal = |c: &u8| c.is_ascii_digit() || (b'a'..=b'f').contains(c);
        digits.is_some_and(|digits| digits.len() == PART_DIGITS && digits.iter().all(hexadecimal))
    };
    let Ok(entries) = std::fs::read_dir(folder_of(path)) else { return };
    for part in entries.flatten().filter(|entry| is_part(&entry.file_name())).map(|entry| entry.path()) {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let opened = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(&part);
        let Ok(file) = opened else { continue };
        if file.metadata().is_ok_and(|there| there.is_file()) && lock(&file) {
            let _ = std::fs::remove_file(&part);
        }
    }
}

/// Writes a file in place of what is there, in one step: readers see the old one or the new one. Not synced: this is for
/// caches and their like, readable by their owner only. Folders on the way are made.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).during(|| format!("create {}", folder.display()))?;
    replace_with(path, bytes, 0o600)
}

/// The same, readable by everybody whatever the process's umask, in a folder that is there: for what other services read
/// and no secret is in.
pub fn replace_public(path: &Path, bytes: &[u8]) -> Result<()> {
    replace_with(path, bytes, 0o644)
}

fn replace_with(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.part", id::random()?));
    let part = PathBuf::from(name);
    let written = OpenOptions::new().write(true).create_new(true).mode(mode).open(&part).and_then(|mut file| {
        file.set_permissions(Permissions::from_mode(mode))?;
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

/// Gives a file that is synced another name in the same folder, in place of whatever has it, and makes that durable.
pub fn give_name(from: &Path, to: &Path) -> Result<()> {
    rename(from, to).during(|| format!("name {}", to.display()))?;
    sync_folder(to)
}

/// Refuses a path where something is already.
pub fn refuse_existing(path: &Path) -> Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => Err(already_there(path)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io(format!("look at {}", path.display()), error)),
    }
}

fn already_there(path: &Path) -> Error {
    Error::new(Kind::Conflict, format!("{} is already there", path.display()))
        .hint("nothing was changed; choose a new name, or move the old file away first")
}

/// Makes the name of `path` durable in its folder, or that it is gone.
pub fn sync_folder(path: &Path) -> Result<()> {
    let folder = folder_of(path);
    let handle = File::open(folder).during(|| format!("open {}", folder.display()))?;
    handle.sync_all().during(|| format!("sync {}", folder.display()))
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// From now on, what this process creates can be read by its user only, whatever it was started with.
pub fn keep_private() {
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
}

/// Locks a file for as long as it is open, by whatever ends its process; false when somebody else has.
pub fn lock(file: &File) -> bool {
    flock(file, FlockOperation::NonBlockingLockExclusive).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    type Create = fn(&Path, u32) -> Result<NewFile>;
    /// Both ways; the first one takes the second where the file system has no other.
    const WAYS: [Create; 2] = [NewFile::create, NewFile::named];

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        for create in WAYS {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("snapshot.db");
            let mut file = create(&path, 0o600).unwrap();
            file.append(b"0123").unwrap();
            assert!(!path.exists());
            drop(file);
            assert_eq!(names(folder.path()), [""; 0]);

            let mut file = create(&path, 0o640).unwrap();
            file.append(b"0123").unwrap();
            file.write_at(1, b"xy").unwrap();
            file.commit().unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), b"0xy3");
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
            assert_eq!(names(folder.path()), ["snapshot.db"]);
            assert_eq!(NewFile::create(&path, 0o600).unwrap_err().kind(), Kind::Conflict);
        }
    }

    #[test]
    fn a_file_that_appeared_meanwhile_is_not_replaced() {
        for create in WAYS {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("snapshot.db");
            let mut file = create(&path, 0o600).unwrap();
            file.append(b"ours").unwrap();
            std::os::unix::fs::symlink("elsewhere", &path).unwrap();
            let error = file.commit().unwrap_err();
            assert_eq!((error.kind(), error.hint_text().is_some()), (Kind::Conflict, true));
            assert_eq!(std::fs::read_link(&path).unwrap(), Path::new("elsewhere"));
            assert_eq!(names(folder.path()), ["snapshot.db"]);
        }
    }

    #[test]
    fn a_file_in_the_making_has_no_name_where_that_can_be() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("snapshot.db");
        let expected = if nameless(&path).is_some() { 0 } else { 1 };
        let mut file = NewFile::create(&path, 0o600).unwrap();
        file.append(b"ours").unwrap();
        assert_eq!(names(folder.path()).len(), expected);
        assert!(NewFile::create(&folder.path().join("none/snapshot.db"), 0o600).is_err());
    }

    #[test]
    fn leftovers_are_removed_and_nothing_else_is_touched() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("snapshot.db");
        let write = |name: &str| File::create(folder.path().join(name)).unwrap().write_all(b"precious").unwrap();
        let (digits, other) = ("0123456789abcdef", "fedcba9876543210");
        let kept = [
            "snapshot.db.part".to_owned(),
            ".snapshot.db.part".to_owned(),
            format!(".snapshot.db.{}.part", &digits[1..]),
            format!(".snapshot.db.{}.part", digits.to_uppercase()),
            format!(".snapshot.db.{digits}.part~"),
            format!(".other.db.{digits}.part"),
        ];
        kept.iter().for_each(|name| write(name));
        let link = part_of(&path, "aaaaaaaaaaaaaaaa");
        std::os::unix::fs::symlink(folder.path().join("snapshot.db.part"), &link).unwrap();
        std::fs::create_dir(part_of(&path, "bbbbbbbbbbbbbbbb")).unwrap();
        let in_the_making = NewFile::named(&path, 0o600).unwrap();
        write(part_of(&path, digits).file_name().unwrap().to_str().unwrap());
        write(part_of(&path, other).file_name().unwrap().to_str().unwrap());
        let before = names(folder.path()).len();
        let second = NewFile::named(&path, 0o600).unwrap();
        // Two leftovers are gone, one file has begun.
        assert_eq!(names(folder.path()).len(), before - 2 + 1);
        for name in kept {
            assert_eq!(std::fs::read(folder.path().join(name)).unwrap(), b"precious");
        }
        assert!(link.is_symlink() && in_the_making.part.as_ref().unwrap().exists());
        drop(second);
        in_the_making.commit().unwrap();
        assert!(path.exists());
    }

    #[test]
    fn of_racing_writers_one_wins_and_its_file_is_whole() {
        for create in WAYS {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("snapshot.db");
            let barrier = std::sync::Barrier::new(4);
            let write = |n: u8| {
                barrier.wait();
                let mut file = create(&path, 0o600)?;
                for _ in 0..100 {
                    file.append(&[n; 1_000])?;
                }
                barrier.wait();
                file.commit()
            };
            let results: Vec<Result<()>> = std::thread::scope(|threads| {
                let writers: Vec<_> = (0..4).map(|n| threads.spawn(move || write(n))).collect();
                writers.into_iter().map(|writer| writer.join().unwrap()).collect()
            });
            let winner = u8::try_from(results.iter().position(Result::is_ok).unwrap()).unwrap();
            for error in results.into_iter().filter_map(Result::err) {
                assert_eq!((error.kind(), error.hint_text().is_some()), (Kind::Conflict, true), "{}", error.chain());
            }
            assert_eq!(std::fs::read(&path).unwrap(), vec![winner; 100_000]);
            assert_eq!(names(folder.path()), ["snapshot.db"]);
        }
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

    #[test]
    fn a_public_file_is_readable_by_everybody_in_a_folder_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.prom");
        replace(&path, b"private").unwrap();
        replace_public(&path, b"public").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"public");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o644);
        let error = replace_public(&dir.path().join("not/there"), b"x").unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        assert_eq!(names(dir.path()), ["metrics.prom"]);
    }
}
