//! Snapshots that other tools left: a plain file, gzip or zstd, a pipe or standard input, opened for reading anywhere.
//!
//! What a snapshot is says its content, not its name: scripts call gzip `.db` and the other way round. Readers of etcd's
//! format need random access, so whatever is compressed or not a regular file is unpacked into a scratch file without a
//! name: nothing is left behind, whatever happens.
//!
//! Invariants:
//! - The source is only read.
//! - A stream cut short is damage, never a shorter snapshot.
//! - Unpacking ends at a limit; a bomb fills the limit, not the disk.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::PathBuf;

use crate::base::error::{Error, IoContext, Kind, Result};
use crate::base::file::Scratch;
use crate::base::stop::Stop;
use crate::base::units;

/// What may be unpacked unless the caller says otherwise; etcd itself advises against states above 8 GiB.
pub const UNPACKED_BYTES_MAX: u64 = 32 << 30;
/// zstd's own default for decoders: 128 MiB.
const WINDOW_LOG_MAX: u32 = 27;
const COPY_BYTES: usize = 1 << 20;
/// As many bytes as the longest magic has.
const MAGIC_BYTES: usize = 4;

/// Where a snapshot comes from.
pub enum Origin {
    /// A file, or a named pipe.
    Path(PathBuf),
    /// A stream with a name for messages, for example standard input.
    Stream(Box<dyn Read + Send>, String),
}

/// How to open it.
#[derive(Clone, Debug)]
pub struct ForeignOptions {
    /// A directory with room for the unpacked snapshot.
    pub scratch: PathBuf,
    /// Unpacking ends here.
    pub unpacked_bytes_max: u64,
    /// Ends the work.
    pub stop: Stop,
}

/// How the bytes were packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Not at all.
    Plain,
    /// gzip, one member or several.
    Gzip,
    /// zstd, one frame or several.
    Zstd,
}

/// An open snapshot.
#[derive(Debug)]
pub struct Foreign {
    /// Its bytes, unpacked, at position 0.
    pub file: File,
    /// Its name for messages.
    pub name: String,
    /// How it was packed.
    pub packing: Packing,
    /// Whether it was copied into scratch, where it takes up room until it is closed.
    pub copied: bool,
}

impl Origin {
    fn name(&self) -> String {
        match self {
            Origin::Path(path) => path.display().to_string(),
            Origin::Stream(_, name) => name.clone(),
        }
    }
}

impl std::fmt::Debug for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Origin").field(&self.name()).finish()
    }
}

/// Opens a snapshot. Blocks, as long as unpacking takes.
pub fn open(origin: Origin, options: &ForeignOptions) -> Result<Foreign> {
    let name = origin.name();
    let read = || format!("read {name}");
    let (mut source, regular): (Box<dyn Read + Send>, Option<File>) = match origin {
        Origin::Stream(stream, _) => (stream, None),
        Origin::Path(path) => {
            let file = File::open(&path).during(|| format!("open {name}"))?;
            let kind = file.metadata().during(read)?.file_type();
            if kind.is_dir() {
                return Err(Error::new(Kind::Usage, format!("{name} is a directory, not a snapshot file"))
                    .hint("give the snapshot file itself; of an etcd data directory that is member/snap/db"));
            }
            let again = if kind.is_file() { Some(file.try_clone().during(read)?) } else { None };
            (Box::new(file), again)
        }
    };
    let mut magic = Vec::with_capacity(MAGIC_BYTES);
    source.by_ref().take(MAGIC_BYTES as u64).read_to_end(&mut magic).during(read)?;
    if magic.is_empty() {
        return Err(Error::damaged(format!("{name} is empty")).hint("give a snapshot that was written completely"));
    }
    let packing = packing_of(&magic);
    if let (Packing::Plain, Some(mut file)) = (packing, regular) {
        file.rewind().during(read)?;
        return Ok(Foreign { file, name, packing, copied: false });
    }
    let whole = io::Cursor::new(magic).chain(source);
    let file = match packing {
        Packing::Plain => unpack(whole, &name, packing, options),
        Packing::Gzip => unpack(flate2::read::MultiGzDecoder::new(whole), &name, packing, options),
        Packing::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::new(whole).during(read)?;
            decoder.window_log_max(WINDOW_LOG_MAX).during(read)?;
            unpack(decoder, &name, packing, options)
        }
    }?;
    Ok(Foreign { file, name, packing, copied: true })
}

fn packing_of(magic: &[u8]) -> Packing {
    match magic {
        [0x1f, 0x8b, ..] => Packing::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd] => Packing::Zstd,
        // A skippable frame, which some tools write before the data.
        [low, 0x2a, 0x4d, 0x18] if low >> 4 == 5 => Packing::Zstd,
        _ => Packing::Plain,
    }
}

fn unpack(mut source: impl Read, name: &str, packing: Packing, options: &ForeignOptions) -> Result<File> {
    let mut scratch = Scratch::create(&options.scratch)?;
    let mut buffer = vec![0; COPY_BYTES];
    let mut total = 0_u64;
    loop {
        options.stop.check()?;
        let n = match source.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(unreadable(error, name, packing)),
        };
        total += n as u64;
        if total > options.unpacked_bytes_max {
            let limit = units::bytes(options.unpacked_bytes_max);
            return Err(Error::new(Kind::Usage, format!("{name} unpacks to more than {limit}"))
                .hint("if it really is that large, unpack it yourself and give the plain file"));
        }
        scratch.append(&buffer[..n]).map_err(|error| error.during(format!("unpack {name}")))?;
    }
    if total == 0 {
        return Err(
            Error::damaged(format!("{name} unpacks to nothing")).hint("give a snapshot that was written completely")
        );
    }
    let mut file = scratch.into_file();
    file.rewind().during(|| format!("read {name}"))?;
    Ok(file)
}

/// A decoder's complaint is about the data; a system's code is about the disk.
fn unreadable(error: io::Error, name: &str, packing: Packing) -> Error {
    if packing == Packing::Plain || error.raw_os_error().is_some() {
        return Error::io(format!("read {name}"), error);
    }
    let tool = if packing == Packing::Gzip { "gzip -t" } else { "zstd -t" };
    Error::damaged(format!("{name} cannot be unpacked: it is damaged or cut short"))
        .source(error)
        .hint(format!("check it with `{tool}`, copy it again from where it was made, or use another snapshot"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::path::Path;

    fn options(dir: &Path) -> ForeignOptions {
        ForeignOptions { scratch: dir.to_owned(), unpacked_bytes_max: 1 << 20, stop: Stop::new() }
    }

    fn content() -> Vec<u8> {
        (0..200_000_u32).flat_map(|n| (n % 1000).to_le_bytes()).take(300_000).collect()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// As the command line tool writes it: with a checksum of the content.
    fn zstd(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = zstd::stream::Encoder::new(vec![], 1).unwrap();
        encoder.include_checksum(true).unwrap();
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn stream(bytes: Vec<u8>) -> Origin {
        Origin::Stream(Box::new(io::Cursor::new(bytes)), "standard input".into())
    }

    fn read(mut foreign: Foreign) -> Vec<u8> {
        let mut bytes = vec![];
        foreign.file.read_to_end(&mut bytes).unwrap();
        assert!(foreign.copied || foreign.file.write_all(b"x").is_err(), "the source is only read");
        bytes
    }

    #[test]
    fn each_packing_is_known_by_its_content_and_leaves_no_scratch() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("backup.db.gz");
        let plain = content();
        let zstd = zstd(&plain);
        let several = [gzip(&plain[..1000]), gzip(&plain[1000..])].concat();
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9][..], &zstd].concat();
        for (bytes, packing) in [
            (plain.clone(), Packing::Plain),
            (gzip(&plain), Packing::Gzip),
            (several, Packing::Gzip),
            (zstd, Packing::Zstd),
            (skippable, Packing::Zstd),
        ] {
            let mut file = File::create(&source).unwrap();
            file.write_all(&bytes).unwrap();
            let from_file = open(Origin::Path(source.clone()), &options(dir.path())).unwrap();
            assert_eq!((from_file.packing, from_file.copied), (packing, packing != Packing::Plain));
            let from_stream = open(stream(bytes.clone()), &options(dir.path())).unwrap();
            assert!(from_stream.copied);
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "scratch has no name");
            assert_eq!(read(from_file), plain);
            assert_eq!(read(from_stream), plain);
            assert_eq!(std::fs::read(&source).unwrap(), bytes, "the source is only read");
        }
    }

    #[test]
    fn cut_or_damaged_streams_are_damage() {
        let dir = tempfile::tempdir().unwrap();
        for packed in [gzip(&content()), zstd(&content())] {
            for cut in [5, packed.len() / 2, packed.len() - 1] {
                let error = open(stream(packed[..cut].to_vec()), &options(dir.path())).unwrap_err();
                assert_eq!(error.kind(), Kind::Damaged, "cut at {cut}: {}", error.chain());
                assert!(error.hint_text().is_some());
            }
            let mut flipped = packed.clone();
            let middle = packed.len() / 2;
            flipped[middle] ^= 4;
            assert_eq!(open(stream(flipped), &options(dir.path())).unwrap_err().kind(), Kind::Damaged);
            let trailing = [&packed[..], b"garbage"].concat();
            assert_eq!(open(stream(trailing), &options(dir.path())).unwrap_err().kind(), Kind::Damaged);
        }
        for nothing in [vec![], gzip(b"")] {
            assert_eq!(open(stream(nothing), &options(dir.path())).unwrap_err().kind(), Kind::Damaged);
        }
    }

    #[test]
    fn limits_stops_and_wrong_paths_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let bomb = gzip(&vec![0; 40 << 20]);
        let error = open(stream(bomb), &options(dir.path())).unwrap_err();
        assert!(error.kind() == Kind::Usage && error.to_string().contains("1.00 MiB"), "{error}");
        let stopped = options(dir.path());
        stopped.stop.stop();
        assert_eq!(open(stream(content()), &stopped).unwrap_err().kind(), Kind::Interrupted);
        let path = |path: PathBuf| open(Origin::Path(path), &options(dir.path())).unwrap_err().kind();
        assert_eq!(path(dir.path().join("none")), Kind::NotFound);
        assert_eq!(path(dir.path().to_owned()), Kind::Usage);
        let no_scratch = options(&dir.path().join("none"));
        assert_eq!(open(stream(content()), &no_scratch).unwrap_err().kind(), Kind::Usage);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
