//! A member's directory: where everything of it is, whose it is, and that nobody else uses it.
//!
//! ```text
//! DATA-DIR/
//!   holdfast.lock             locked for as long as the member runs
//!   member/identity.json      who it is (identity.rs)
//!   member/snap/db            the state
//!   member/wal/               the log, unless there is a --wal-dir: then WAL-DIR/log/
//!   member.tmp/               a member in the making
//! ```
//!
//! A member is made as `member.tmp` and then given its name, which is the one step that makes it a member: a power cut
//! before leaves what the next start sweeps away, afterwards everything is there. A log in a folder of its own cannot be
//! renamed with it (it may be on a disk of its own), so a marker lies beside it for as long as it is half.
//!
//! etcd keeps its own files in the same places. They are recognised by what is in them and left alone.
//!
//! Invariants:
//! - Nothing is changed before the lock is held, and nothing ever in a directory that is not ours, or not whole.
//! - Only `member.tmp` and a log with the marker are ever removed.
//!
//! Deliberately unknown here: what state and log hold.

pub mod identity;

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::base::durable::{self, NewFile, give_name, sync_folder};
use crate::base::error::{Error, HINT_MEMBER_DAMAGED, IoContext, Kind, Result};
use crate::store::datadir::identity::{BYTES_MAX, Identity};

const MEMBER: &str = "member";
const MAKING: &str = "member.tmp";
const LOCK: &str = "holdfast.lock";
const IDENTITY: &str = "identity.json";
/// The log in a folder of its own, which may be the top of a disk.
const LOG: &str = "log";
/// Lies beside that while its member is in the making.
const MARKER: &str = "bootstrap.tmp";
/// What a database of etcd holds at these places: in its first page, or where that one is torn, in its second.
const ETCD_MAGIC: [u8; 4] = [0xed, 0xda, 0x0c, 0xed];
const ETCD_MAGIC_AT: [usize; 2] = [16, 4096 + 16];
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

const HINT_ETCD: &str = "nothing was changed. To bring its data here: stop etcd, `holdfast snapshot save` or copy member/snap/db, \
     and restore that into another --data-dir with `holdfast restore --file FILE --data-dir DIR`";

/// Where the parts of a member are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The folder of the state.
    pub snap: PathBuf,
    /// The file of the state.
    pub state: PathBuf,
    /// The folder of the log.
    pub wal: PathBuf,
}

/// A member's directory that this process has locked.
#[derive(Debug)]
pub struct Datadir {
    root: PathBuf,
    /// The folder that was named for the log, if one was.
    wal: Option<PathBuf>,
    /// Whether others than its owner may look into it.
    wide: bool,
    _lock: File,
}

impl Datadir {
    /// Opens and locks the directory, which is made when there is none; with who the member in it is, if there is one.
    pub fn open(root: &Path, wal: Option<&Path>) -> Result<(Datadir, Option<Identity>)> {
        refuse_etcd(root)?;
        if let Some(wal) = wal {
            refuse_etcd_log(wal)?;
            if !Datadir::holds_member(root) {
                refuse_foreign_log(wal)?;
            }
        }
        folder(root)?;
        let lock = lock(root)?;
        // Whoever held the lock may have made something meanwhile.
        refuse_etcd(root)?;
        let mode = std::fs::metadata(root).during(|| format!("look at {}", root.display()))?.permissions().mode();
        let datadir =
            Datadir { root: root.to_owned(), wal: wal.map(Path::to_owned), wide: mode & 0o077 != 0, _lock: lock };
        datadir.sweep()?;
        let identity = datadir.identity()?;
        Ok((datadir, identity))
    }

    /// Whether the directory holds a member, as far as can be seen without touching it.
    pub fn holds_member(root: &Path) -> bool {
        root.join(MEMBER).exists()
    }

    /// Where the parts of the member are.
    pub fn places(&self) -> Places {
        self.places_in(MEMBER)
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether others than the owner may look into the directory, which holds every secret of a cluster.
    pub fn is_wide(&self) -> bool {
        self.wide
    }

    /// Makes the member: `make` fills the places it is given, and when this returns, all of it is durable.
    pub fn bootstrap(&self, identity: &Identity, make: impl FnOnce(&Places) -> Result<()>) -> Result<()> {
        self.bootstrap_until(identity, make, u32::MAX).inspect_err(|_| {
            // Best effort: the next start does it again.
            let _ = self.sweep();
        })
    }

    /// The same, given up before step `until`, as a power cut would.
    fn bootstrap_until(&self, identity: &Identity, make: impl FnOnce(&Places) -> Result<()>, until: u32) -> Result<()> {
        let mut done = 0;
        let mut step = || {
            done += 1;
            if done == until {
                return Err(Error::new(Kind::Interrupted, "given up").hint("this happens in tests alone"));
            }
            Ok(())
        };
        let making = self.root.join(MAKING);
        let places = self.places_in(MAKING);
        step()?;
        folder(&making)?;
        folder(&places.snap)?;
        step()?;
        if let Some(wal) = &self.wal {
            folder(wal)?;
            NewFile::create(&wal.join(MARKER), FILE_MODE)?.commit()?;
        }
        folder(&places.wal)?;
        step()?;
        let mut file = NewFile::create(&making.join(IDENTITY), FILE_MODE)?;
        file.append(&identity.to_document())?;
        file.commit()?;
        step()?;
        make(&places)?;
        step()?;
        // The names of what was made, innermost first.
        for made in [&places.state, &places.snap, &places.wal.join(LOG), &places.wal, &making.join(IDENTITY)] {
            sync_folder(made)?;
        }
        step()?;
        give_name(&making, &self.root.join(MEMBER))?;
        step()?;
        self.unmark()
    }

    /// Removes what a start that did not come to its end left.
    fn sweep(&self) -> Result<()> {
        let whole = self.root.join(MEMBER).exists();
        if let Some(wal) = self.wal.as_ref().filter(|wal| wal.join(MARKER).exists()) {
            if !whole {
                remove_folder(&wal.join(LOG))?;
            }
            self.unmark()?;
        }
        remove_folder(&self.root.join(MAKING))
    }

    fn unmark(&self) -> Result<()> {
        let Some(marker) = self.wal.as_ref().map(|wal| wal.join(MARKER)) else { return Ok(()) };
        match std::fs::remove_file(&marker) {
            Ok(()) => sync_folder(&marker),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::io(format!("remove {}", marker.display()), error)),
        }
    }

    /// Who the member is; none when there is no member yet.
    fn identity(&self) -> Result<Option<Identity>> {
        let member = self.root.join(MEMBER);
        if !member.exists() {
            return Ok(None);
        }
        let path = member.join(IDENTITY);
        let during = || format!("read {}", path.display());
        let missing = |error: Error| match error.kind() {
            Kind::NotFound => error.kind_of(Kind::Damaged).hint(HINT_MEMBER_DAMAGED),
            _ => error.or_hint("let the user who runs this member read its directory"),
        };
        let file = File::open(&path).during(during).map_err(missing)?;
        let mut bytes = vec![];
        file.take(BYTES_MAX as u64 + 1).read_to_end(&mut bytes).during(during)?;
        if bytes.len() > BYTES_MAX {
            return Err(Error::damaged(format!("{} is larger than any", path.display())).hint(HINT_MEMBER_DAMAGED));
        }
        let identity = Identity::from_document(&bytes).map_err(|error| error.during(during()))?;
        let places = self.places();
        present(&places.state, "the state")?;
        let elsewhere = self.wal.is_none();
        present(&places.wal, "the log").map_err(|error| match elsewhere {
            true => error.hint(format!(
                "if this member was started with --wal-dir, give it again; otherwise {HINT_MEMBER_DAMAGED}"
            )),
            false => error,
        })?;
        Ok(Some(identity))
    }

    fn places_in(&self, member: &str) -> Places {
        let member = self.root.join(member);
        let snap = member.join("snap");
        let wal = self.wal.as_ref().map_or_else(|| member.join("wal"), |wal| wal.join(LOG));
        Places { state: snap.join("db"), snap, wal }
    }
}

/// What a member cannot be without.
fn present(path: &Path, what: &str) -> Result<()> {
    let gone = match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none()),
        Ok(found) => found.len() == 0,
        Err(error) if error.kind() == ErrorKind::NotFound => true,
        Err(error) => return Err(Error::io(format!("look at {}", path.display()), error)),
    };
    if gone {
        return Err(Error::damaged(format!(
            "{what} of this member is missing: {} is empty or not there",
            path.display()
        ))
        .hint(HINT_MEMBER_DAMAGED));
    }
    Ok(())
}

fn no_directory(path: &Path) -> Error {
    Error::new(Kind::Usage, format!("{} is no directory", path.display()))
        .hint("give the path of a directory, there or not yet")
}

/// Makes a folder that only its owner may use, and those on the way; one that is there is left as it is.
fn folder(path: &Path) -> Result<()> {
    match std::fs::metadata(path) {
        Ok(there) if there.is_dir() => return Ok(()),
        Ok(_) => {
            return Err(no_directory(path));
        }
        Err(_) => {}
    }
    let made = DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(path);
    made.during(|| format!("create {}", path.display()))
        .map_err(|error| error.or_hint("give a path where a directory can be made"))
}

fn lock(root: &Path) -> Result<File> {
    let path = root.join(LOCK);
    let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(FILE_MODE).open(&path);
    let file = file
        .during(|| format!("open {}", path.display()))
        .map_err(|error| error.or_hint("give a --data-dir that this user may write to"))?;
    if !durable::lock(&file) {
        return Err(Error::new(Kind::Conflict, format!("another process uses the data directory {}", root.display()))
            .hint("stop that one first, or give this one a --data-dir of its own"));
    }
    Ok(file)
}

/// Refuses a directory of etcd's.
fn refuse_etcd(root: &Path) -> Result<()> {
    let member = root.join(MEMBER);
    if member.join(IDENTITY).exists() {
        return Ok(());
    }
    let is_etcd = holds_etcd_magic(&member.join("snap/db"))?;
    if is_etcd || has_etcd_log(&member.join("wal")) {
        return Err(
            Error::new(Kind::Conflict, format!("{} is the data directory of an etcd", root.display())).hint(HINT_ETCD)
        );
    }
    Ok(())
}

fn refuse_etcd_log(wal: &Path) -> Result<()> {
    if has_etcd_log(wal) {
        return Err(Error::new(Kind::Conflict, format!("{} holds the log of an etcd", wal.display())).hint(HINT_ETCD));
    }
    Ok(())
}

/// Refuses a folder for a new log in which something is already.
fn refuse_foreign_log(wal: &Path) -> Result<()> {
    let entries = match std::fs::read_dir(wal) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == ErrorKind::NotADirectory => return Err(no_directory(wal)),
        Err(error) => return Err(Error::io(format!("list {}", wal.display()), error).or_hint("give a directory")),
    };
    let names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
    // What a birth that was cut off left is ours; a disk of its own has a folder for lost files.
    if !names.iter().any(|name| name == MARKER) && names.iter().any(|name| name != "lost+found") {
        return Err(Error::new(
            Kind::Conflict,
            format!("--wal-dir {} holds something, and this member is new", wal.display()),
        )
        .hint("give an empty directory; if it holds this member's log, its --data-dir is another one"));
    }
    Ok(())
}

/// Whether a file is a database of etcd.
fn holds_etcd_magic(path: &Path) -> Result<bool> {
    let mut head = vec![];
    match File::open(path) {
        Ok(file) => file.take(2 * 4096).read_to_end(&mut head).during(|| format!("read {}", path.display()))?,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(false),
        Err(error) => return Err(Error::io(format!("open {}", path.display()), error)),
    };
    Ok(ETCD_MAGIC_AT.iter().any(|at| head.get(*at..at + 4) == Some(&ETCD_MAGIC)))
}

/// Whether a folder holds files that are named as etcd names those of its log.
fn has_etcd_log(wal: &Path) -> bool {
    let Ok(mut entries) = std::fs::read_dir(wal) else { return false };
    entries.any(|entry| {
        entry.is_ok_and(|entry| entry.file_name().to_string_lossy().ends_with(".wal") && entry.file_name().len() == 37)
    })
}

fn remove_folder(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            let hint = "let the user who runs this member write to its directory";
            Err(Error::io(format!("remove {}", path.display()), error).or_hint(hint))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
