//! The file of a member's log, put aside when it is large.
//!
//! As etcd's: `etcd.log` becomes `etcd-2026-05-15T02-00-00.000.log` beside it, and a new one begins. What was put aside is
//! removed by age and by number. Another program may put the file aside too, as logrotate does: who is told so (`reopen`)
//! goes on in the file that has the name now.
//!
//! Invariants:
//! - A line is in one file.
//! - A log that cannot be put aside grows on: lines are worth more than the limit.
//! - Only files are removed whose names this module gives.

use std::fs::{File, OpenOptions};
use std::io::{Result, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::base::clock::{Clock, Time, parse_format, rfc3339_ms};
use crate::base::durable::give_name;
use crate::store::options::Rotation;

/// How a time is written in a name; `rfc3339_ms` with other signs, as etcd has it.
const NAME_FORMAT: &str = "%Y-%m-%dT%H-%M-%S%.3f";

/// How often it was asked to open the files of logs anew. A signal is the process's, and so is this.
static ASKED: AtomicU64 = AtomicU64::new(0);

/// Has all files of logs opened anew, each before its next line.
pub(crate) fn reopen() {
    ASKED.fetch_add(1, Ordering::Relaxed);
}

/// A file that lines are appended to.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    rotation: Option<Rotation>,
    clock: Clock,
    /// What was asked when it was opened.
    asked: u64,
}

impl LogFile {
    /// Opens it, or begins it.
    pub(crate) fn open(path: &Path, rotation: Option<Rotation>, clock: Clock) -> Result<LogFile> {
        let file = open(path)?;
        let bytes = file.metadata()?.len();
        let asked = ASKED.load(Ordering::Relaxed);
        Ok(LogFile { path: path.to_owned(), file, bytes, rotation, clock, asked })
    }

    /// Goes on in the file that has the name now.
    fn renew(&mut self) -> Result<()> {
        self.file = open(&self.path)?;
        self.bytes = self.file.metadata()?.len();
        Ok(())
    }

    /// Puts the file aside and begins a new one.
    fn rotate(&mut self, rotation: Rotation) -> Result<()> {
        let now = self.clock.now();
        let aside = self.path.with_file_name(name_at(&self.path, now));
        // Where it is gone, it was put aside before, and the new one could not be opened.
        if self.path.exists() {
            // Its own error has more to say than a log that cannot be written can.
            give_name(&self.path, &aside).map_err(std::io::Error::other)?;
        }
        self.renew()?;
        for old in superfluous(aside_of(&self.path), rotation, now) {
            std::fs::remove_file(old)?;
        }
        Ok(())
    }
}

impl Write for LogFile {
    fn write(&mut self, line: &[u8]) -> Result<usize> {
        let length = line.len() as u64;
        let asked = ASKED.load(Ordering::Relaxed);
        if asked != self.asked && self.renew().is_ok() {
            // Otherwise tried again with the next line, which is in the old file.
            self.asked = asked;
        }
        if let Some(rotation) =
            self.rotation.filter(|rotation| self.bytes > 0 && self.bytes + length > rotation.bytes_max)
        {
            // Tried again with the next line.
            let _ = self.rotate(rotation);
        }
        self.file.write_all(line)?;
        self.bytes += length;
        Ok(line.len())
    }

    fn flush(&mut self) -> Result<()> {
        self.file.flush()
    }
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// What stands before and after the time in the names of files that were put aside.
fn around(path: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let ending = path.extension().map(|ending| format!(".{}", ending.to_string_lossy()));
    (format!("{}-", text(path.file_stem())), ending.unwrap_or_default())
}

fn name_at(path: &Path, now: Time) -> String {
    let (before, after) = around(path);
    format!("{before}{}{after}", rfc3339_ms(now).trim_end_matches('Z').replace(':', "-"))
}

/// The files that were put aside, and when.
fn aside_of(path: &Path) -> Vec<(Time, PathBuf)> {
    let (before, after) = around(path);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Ok(entries) = std::fs::read_dir(folder) else { return vec![] };
    let aside = |entry: std::fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        let time = parse_format(name.strip_prefix(&before)?.strip_suffix(&after)?, NAME_FORMAT)?;
        Some((time, entry.path()))
    };
    entries.flatten().filter_map(aside).collect()
}

/// Those of them that are too old or too many.
fn superfluous(mut aside: Vec<(Time, PathBuf)>, rotation: Rotation, now: Time) -> Vec<PathBuf> {
    aside.sort_unstable_by(|a, b| b.cmp(a));
    let age = |time: Time| (now - time).to_std().unwrap_or(Duration::ZERO);
    let is_kept = |n: usize, time: Time| {
        rotation.files_max.is_none_or(|most| n < most) && rotation.age_max.is_none_or(|most| age(time) <= most)
    };
    let removed = aside.into_iter().enumerate().filter(|(n, (time, _))| !is_kept(*n, *time));
    removed.map(|(_, (_, path))| path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::{parse_rfc3339, seconds};

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn a_large_file_is_put_aside_and_the_oldest_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("etcd.log");
        std::fs::File::create(dir.path().join("etcd-notes.log")).unwrap();
        let rotation = Rotation { bytes_max: 10, age_max: None, files_max: Some(2) };
        let start = parse_rfc3339("2026-05-15T02:00:00.250Z").unwrap();
        for n in 0..4_i64 {
            let mut log = LogFile::open(&path, Some(rotation), Clock::Fixed(start + seconds(n))).unwrap();
            log.write_all(format!("line {n}\n").as_bytes()).unwrap();
        }
        let expected =
            ["etcd-2026-05-15T02-00-02.250.log", "etcd-2026-05-15T02-00-03.250.log", "etcd-notes.log", "etcd.log"];
        assert_eq!(names(dir.path()), expected);
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!([read(expected[0]), read(expected[1]), read(expected[3])], ["line 1\n", "line 2\n", "line 3\n"]);
        let later = Clock::Fixed(start + seconds(90_002));
        let rotation = Rotation { age_max: Some(Duration::from_secs(90_000)), files_max: None, ..rotation };
        LogFile::open(&path, Some(rotation), later).unwrap().write_all(b"a long line\n").unwrap();
        let expected = [expected[0], expected[1], "etcd-2026-05-16T03-00-02.250.log", "etcd-notes.log", "etcd.log"];
        assert_eq!(names(dir.path()), expected);
    }

    #[test]
    fn what_another_program_put_aside_is_left_when_that_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let (path, aside) = (dir.path().join("log"), dir.path().join("aside"));
        let mut log = LogFile::open(&path, None, Clock::System).unwrap();
        log.write_all(b"one\n").unwrap();
        give_name(&path, &aside).unwrap();
        log.write_all(b"two\n").unwrap();
        reopen();
        log.write_all(b"three\n").unwrap();
        let read = |path: &Path| std::fs::read_to_string(path).unwrap();
        assert_eq!([read(&aside), read(&path)], ["one\ntwo\n", "three\n"]);
        // A file that cannot be opened leaves the old one in use.
        give_name(&path, &dir.path().join("aside-2")).unwrap();
        std::fs::create_dir(&path).unwrap();
        reopen();
        log.write_all(b"four\n").unwrap();
        std::fs::remove_dir(&path).unwrap();
        log.write_all(b"five\n").unwrap();
        assert_eq!([read(&dir.path().join("aside-2")), read(&path)], ["three\nfour\n", "five\n"]);
    }

    #[test]
    fn a_line_is_written_where_nothing_can_be_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let rotation = Rotation { bytes_max: 1, age_max: None, files_max: None };
        let clock = Clock::Fixed(parse_rfc3339("2026-05-15T02:00:00Z").unwrap());
        let mut log = LogFile::open(&path, Some(rotation), clock).unwrap();
        log.write_all(b"one\n").unwrap();
        std::fs::create_dir_all(dir.path().join("log-2026-05-15T02-00-00.000/x")).unwrap();
        log.write_all(b"two\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\n");
    }
}
