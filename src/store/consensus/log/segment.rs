//! Segments: files of a fixed size, written from front to back, used again under another number.
//!
//! Writing into a file whose blocks are there already costs one flush of the disk; growing a file costs two, for its length
//! is news as well. So the next segment is made ahead of time, full of zeros, or is an old one that nobody needs.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::base::clock::Stopwatch;
use crate::base::durable::{give_name, sync_folder};
use crate::base::error::{Error, IoContext, Kind, Result};
use crate::base::file::free_bytes;
use crate::store::consensus::log::frame::HEAD_BYTES;

/// The file that becomes the next segment.
const SPARE: &str = "spare";
/// Zeros are written in pieces of this size.
const ZEROS_BYTES: usize = 1 << 20;

/// Where segment `number` lies.
pub fn path_of(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:016x}.log"))
}

/// The numbers of the segments in a folder, ascending.
pub fn numbers(folder: &Path) -> Result<Vec<u64>> {
    let mut numbers = vec![];
    for entry in std::fs::read_dir(folder).during(|| format!("list {}", folder.display()))? {
        let name = entry.during(|| format!("list {}", folder.display()))?.file_name();
        let name = name.to_string_lossy();
        match name
            .strip_suffix(".log")
            .filter(|digits| digits.len() == 16)
            .map(|digits| u64::from_str_radix(digits, 16))
        {
            Some(Ok(number)) => numbers.push(number),
            _ if name == SPARE => {}
            _ => {
                let text = format!("{} does not belong in a log", folder.join(&*name).display());
                return Err(Error::new(Kind::Usage, text).hint("move it out of this directory, then start the member"));
            }
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// A segment that is written to.
#[derive(Debug)]
pub struct Segment {
    /// Its number.
    pub number: u64,
    /// What its frames are bound to.
    pub seed: u64,
    file: File,
    path: PathBuf,
    bytes: u64,
    /// Where the next frame goes.
    pub end: u64,
}

impl Segment {
    /// Opens one that is there; its frames end at `end`.
    pub fn open(folder: &Path, number: u64, seed: u64, end: u64) -> Result<Self> {
        let path = path_of(folder, number);
        let file =
            OpenOptions::new().read(true).write(true).open(&path).during(|| format!("open {}", path.display()))?;
        let bytes = file.metadata().during(|| format!("look at {}", path.display()))?.len();
        Ok(Segment { number, seed, file, path, bytes, end })
    }

    /// Makes segment `number` of at least so many bytes, with its first frame: from the spare file, if there is one. It has
    /// its name only when that frame is durable.
    pub fn create(folder: &Path, number: u64, seed: u64, bytes: u64, first_frame: &[u8]) -> Result<Self> {
        let spare = folder.join(SPARE);
        let file = prepare(folder, bytes)?;
        let end = first_frame.len() as u64;
        let bytes = file.metadata().during(|| format!("look at {}", spare.display()))?.len();
        file.write_all_at(&ended(first_frame), 0).during(|| format!("write {}", spare.display()))?;
        file.sync_data().during(|| format!("sync {}", spare.display()))?;
        let path = path_of(folder, number);
        give_name(&spare, &path)?;
        Ok(Segment { number, seed, file, path, bytes, end })
    }

    /// Whether a frame of so many bytes fits, and the end behind it.
    pub fn fits(&self, bytes: usize) -> bool {
        self.end + (bytes + HEAD_BYTES) as u64 <= self.bytes
    }

    /// Whether more than half of it is written.
    pub fn is_half_full(&self) -> bool {
        self.end > self.bytes / 2
    }

    /// Appends a frame and makes it durable; how long the writing took, without the wait for the disk.
    pub fn append(&mut self, frame: &mut Vec<u8>) -> Result<Duration> {
        let watch = Stopwatch::start();
        let bytes = frame.len() as u64;
        frame.extend_from_slice(&[0; HEAD_BYTES]);
        self.file.write_all_at(frame, self.end).during(|| format!("write {}", self.path.display()))?;
        let written = watch.elapsed();
        self.file.sync_data().during(|| format!("sync {}", self.path.display()))?;
        self.end += bytes;
        Ok(written)
    }

    /// Ends the segment behind its last frame, where something torn stands.
    pub fn cut(&mut self) -> Result<()> {
        self.file.write_all_at(&[0; HEAD_BYTES], self.end).during(|| format!("write {}", self.path.display()))?;
        self.file.sync_data().during(|| format!("sync {}", self.path.display()))
    }
}

fn ended(frame: &[u8]) -> Vec<u8> {
    [frame, &[0; HEAD_BYTES]].concat()
}

/// The spare file of at least so many bytes, made when there is none.
pub fn prepare(folder: &Path, bytes: u64) -> Result<File> {
    let path = folder.join(SPARE);
    let context = || format!("prepare {}", path.display());
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).during(context)?;
    let there = file.metadata().during(context)?.len();
    if there < bytes {
        // Not even begun where it would take the last room from others, only to end without.
        let fits = !free_bytes(folder).is_ok_and(|free| free < bytes - there);
        let made = if fits {
            write_zeros(&file, there, bytes).and_then(|()| file.sync_all())
        } else {
            Err(std::io::Error::from(std::io::ErrorKind::StorageFull))
        };
        if let Err(error) = made.during(context) {
            // Half a file is of no use. The first error is the one to tell.
            let _ = if there == 0 { std::fs::remove_file(&path) } else { file.set_len(there) };
            return Err(error);
        }
        sync_folder(&path)?;
    }
    Ok(file)
}

/// Whether there is a spare file of at least so many bytes.
pub fn has_spare(folder: &Path, bytes: u64) -> bool {
    std::fs::metadata(folder.join(SPARE)).is_ok_and(|spare| spare.len() >= bytes)
}

fn write_zeros(file: &File, from: u64, until: u64) -> std::io::Result<()> {
    let zeros = vec![0; ZEROS_BYTES];
    let mut at = from;
    while at < until {
        let piece = usize::try_from(until - at).map_or(ZEROS_BYTES, |left| left.min(ZEROS_BYTES));
        file.write_all_at(&zeros[..piece], at)?;
        at += piece as u64;
    }
    Ok(())
}

/// Gives segments up: the first becomes the spare one, if there is none.
pub fn retire(folder: &Path, numbers: &[u64]) -> Result<()> {
    for number in numbers {
        let (path, spare) = (path_of(folder, *number), folder.join(SPARE));
        if spare.exists() {
            std::fs::remove_file(&path).during(|| format!("remove {}", path.display()))?;
        } else {
            give_name(&path, &spare)?;
        }
    }
    sync_folder(&folder.join(SPARE))
}
