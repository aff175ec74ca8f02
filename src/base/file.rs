//! Files read at any place, and scratch files that vanish with their last handle.
//!
//! Reading is by `pread` into the caller's buffer, not by a memory map: a mapped file that another process cuts short
//! kills the reader with SIGBUS, and mapped pages count as this process's memory.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::digest::{Sha256, Sha256Hasher};
use crate::base::error::{Error, IoContext, Kind, Result};
use crate::base::id;
use crate::base::stop::Stop;

/// Bytes read at a time when a whole file is digested or copied.
const CHUNK_BYTES: usize = 1 << 20;

/// An open file that is only read, from any number of threads. Clones share the handle.
#[derive(Clone, Debug)]
pub struct ReadAt {
    file: Arc<File>,
    name: Arc<Path>,
    len: u64,
}

impl ReadAt {
    /// Opens the regular file at `path`.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).during(|| format!("open {}", path.display()))?;
        Self::of(file, path)
    }

    /// An already open file; `name` is what messages call it.
    pub fn of(file: File, name: &Path) -> Result<Self> {
        let metadata = file.metadata().during(|| format!("read the size of {}", name.display()))?;
        if !metadata.is_file() {
            return Err(Error::new(Kind::Usage, format!("{} is not a regular file", name.display()))
                .hint("name the file itself; to read from a pipe, use - for standard input"));
        }
        Ok(ReadAt { file: Arc::new(file), name: name.into(), len: metadata.len() })
    }

    /// The length in bytes when the file was opened.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the file was empty when it was opened.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What messages call the file.
    pub fn name(&self) -> &Path {
        &self.name
    }

    /// Fills `buffer` with the bytes at `offset`.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.file
            .read_exact_at(buffer, offset)
            .during(|| format!("read {} bytes at {offset} of {}", buffer.len(), self.name.display()))
    }

    /// The SHA-256 of the first `len` bytes.
    pub fn sha256(&self, len: u64, stop: &Stop) -> Result<Sha256> {
        let mut hasher = Sha256Hasher::default();
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut offset = 0;
        while offset < len {
            stop.check()?;
            let rest = usize::try_from(len - offset).unwrap_or(usize::MAX);
            let part = &mut buffer[..rest.min(CHUNK_BYTES)];
            self.read(offset, part)?;
            hasher.update(part);
            offset += part.len() as u64;
        }
        Ok(hasher.finish())
    }
}

/// A file without a name in `folder`: the system removes it when the last handle is gone, however the process ends.
#[derive(Debug)]
pub struct Scratch {
    file: File,
    folder: PathBuf,
    len: u64,
}

impl Scratch {
    /// An empty scratch file in `folder`.
    pub fn create(folder: &Path) -> Result<Self> {
        let hint = "name a folder on a local disk that this user may write to with --scratch";
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        let access = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
        let file = match rustix::fs::open(folder, access | rustix::fs::OFlags::TMPFILE, mode) {
            // Some file systems know no nameless files; theirs lose the name at once instead.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => {
                let path = folder.join(format!(".holdfast-{}", id::random()?));
                let file =
                    rustix::fs::open(&path, access | rustix::fs::OFlags::CREATE | rustix::fs::OFlags::EXCL, mode);
                if file.is_ok() {
                    std::fs::remove_file(&path).during(|| format!("remove the name of {}", path.display()))?;
                }
                file
            }
            other => other,
        };
        let file = file
            .map_err(std::io::Error::from)
            .during(|| format!("create a scratch file in {}", folder.display()))
            .map_err(|error| scratch_error(error).or_hint(hint))?;
        Ok(Scratch { file: File::from(file), folder: folder.to_owned(), len: 0 })
    }

    /// Appends `bytes`.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).during(|| format!("write to a scratch file in {}", self.folder.display()))?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Bytes written so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The file itself.
    pub fn into_file(self) -> File {
        self.file
    }

    /// The finished file, to be read; `name` is what messages call it.
    pub fn into_read_at(self, name: &Path) -> Result<ReadAt> {
        ReadAt::of(self.file, name)
    }
}

/// A scratch folder that is not there is a wrong flag, not something looked for in vain.
fn scratch_error(error: Error) -> Error {
    if error.kind() == Kind::NotFound { error.kind_of(Kind::Usage) } else { error }
}

/// Bytes free for an unprivileged writer on the file system that holds `folder`.
pub fn free_bytes(folder: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(folder)
        .map_err(std::io::Error::from)
        .during(|| format!("read the free space of {}", folder.display()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Reads a small text file of at most `max_bytes`.
pub fn read_small(path: &Path, max_bytes: u64) -> Result<Vec<u8>> {
    let mut file = File::open(path).during(|| format!("open {}", path.display()))?;
    let len = file.seek(SeekFrom::End(0)).during(|| format!("read the size of {}", path.display()))?;
    if len > max_bytes {
        return Err(Error::new(Kind::Usage, format!("{} is larger than {max_bytes} bytes", path.display()))
            .hint("check that this is the file you meant"));
    }
    file.rewind().during(|| format!("read {}", path.display()))?;
    let mut bytes = Vec::new();
    file.take(max_bytes).read_to_end(&mut bytes).during(|| format!("read {}", path.display()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scratch_files_have_no_name_and_keep_their_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let mut scratch = Scratch::create(folder.path()).unwrap();
        scratch.append(b"hello ").unwrap();
        scratch.append(b"world").unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let file = scratch.into_read_at(Path::new("scratch")).unwrap();
        let mut bytes = [0; 5];
        file.read(6, &mut bytes).unwrap();
        assert_eq!(&bytes, b"world");
        assert_eq!(file.sha256(11, &Stop::new()).unwrap(), Sha256::of(b"hello world"));
        assert!(file.read(7, &mut bytes).is_err());
    }

    #[test]
    fn a_folder_is_not_a_file() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(ReadAt::open(folder.path()).unwrap_err().kind(), Kind::Usage);
        assert_eq!(ReadAt::open(&folder.path().join("absent")).unwrap_err().kind(), Kind::NotFound);
        assert!(free_bytes(folder.path()).unwrap() > 0);
    }
}
