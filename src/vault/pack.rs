//! Data objects as bytes: one plain zstd frame of whole length-delimited records, and how to open one safely.
//!
//! What is opened may come from anyone who can write to the bucket. The order of checks is therefore: size against the
//! manifest, digest of the stored bytes, decryption (`encryption`), shape of the frame (one frame, nothing after it, no dictionary, a small
//! window), and only then decompression, into a buffer that does not grow. A bomb finds no room to unfold.

use std::fmt;
use std::sync::Arc;
use zstd::zstd_safe::{self, CCtx, CParameter, DCtx, InBuffer, OutBuffer, ResetDirective};

use crate::base::digest::Sha256;
use crate::base::error::{Error, Kind, Result};
use crate::vault::buffers::{BUFFER_BYTES_MIN, Buffers};
use crate::vault::manifest::ObjectEntry;

/// Any zstd decoder accepts windows up to this size; ours asks for no more.
const WINDOW_BYTES_MAX: u64 = 8 << 20;
/// zstd holds back less than two of its blocks of input before it writes output.
const HELD_BACK_BYTES_MAX: usize = 2 * zstd_safe::BLOCKSIZE_MAX as usize;

/// A check that stored data passes or fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Check {
    /// The manifest reads, matches its name and does not contradict itself.
    Manifest,
    /// Somebody who is trusted signed the manifest.
    Signature,
    /// The object exists.
    Exists,
    /// The disk gives its bytes.
    Read,
    /// It has the stored size that the manifest says.
    Size,
    /// Its stored bytes have the digest that the manifest says.
    Sha256,
    /// It is an age file that opens.
    Age,
    /// It is one zstd frame of the shape that Holdfast writes.
    Frame,
    /// It decompresses, to exactly the declared size.
    Content,
    /// Its records decode and say what the manifest says.
    Records,
    /// A member boots from it and serves what the manifest says.
    Member,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Check::Manifest => "manifest",
            Check::Signature => "signature",
            Check::Exists => "exists",
            Check::Read => "read",
            Check::Size => "size",
            Check::Sha256 => "sha256",
            Check::Age => "age",
            Check::Frame => "frame",
            Check::Content => "content",
            Check::Records => "records",
            Check::Member => "member",
        })
    }
}

/// A check that an object failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which one.
    pub check: Check,
    /// What was expected and what was found.
    pub detail: String,
}

impl Fault {
    pub(crate) fn new(check: Check, detail: impl Into<String>) -> Self {
        Fault { check, detail: detail.into() }
    }

    /// The fault as an error that names the object.
    pub fn into_error(self, object: &str) -> Error {
        Error::damaged(format!("data object {object} fails the check {}: {}", self.check, self.detail))
            .hint("do not restore from this point; `holdfast verify --level 2` names everything that is damaged")
    }
}

/// Makes data objects, one after the other.
pub(crate) struct Packer {
    context: CCtx<'static>,
    buffers: Arc<Buffers>,
    stored: Vec<u8>,
    raw_bytes: usize,
    stored_bytes_max: usize,
}

impl Packer {
    /// `level` is zstd's; `stored_bytes_max` is what `has_room` keeps to; objects are made in `buffers`.
    pub(crate) fn new(level: i32, stored_bytes_max: usize, buffers: &Arc<Buffers>) -> Result<Self> {
        let mut context = CCtx::try_create().ok_or_else(|| failed("create a compressor", 0))?;
        for parameter in [CParameter::CompressionLevel(level), CParameter::ChecksumFlag(true)] {
            context.set_parameter(parameter).map_err(|code| failed("set up a compressor", code))?;
        }
        Ok(Packer { context, buffers: Arc::clone(buffers), stored: Vec::new(), raw_bytes: 0, stored_bytes_max })
    }

    /// Whether an object was begun.
    pub(crate) fn is_empty(&self) -> bool {
        self.raw_bytes == 0
    }

    /// Whether `more` raw bytes surely leave the object within its stored size, even if they do not compress at all.
    pub(crate) fn has_room(&self, more: usize) -> bool {
        let unseen = self.raw_bytes.min(HELD_BACK_BYTES_MAX) + more;
        self.stored.len() + zstd_safe::compress_bound(unseen) <= self.stored_bytes_max
    }

    /// Adds bytes to the object.
    pub(crate) fn add(&mut self, raw: &[u8]) -> Result<()> {
        if self.is_empty() {
            self.stored = self.buffers.take();
            self.stored.reserve_exact(BUFFER_BYTES_MIN.max(self.stored_bytes_max + CCtx::out_size()));
        }
        self.raw_bytes += raw.len();
        let mut input = InBuffer::around(raw);
        while input.pos() < raw.len() {
            self.stored.reserve(CCtx::out_size());
            let at = self.stored.len();
            let mut output = OutBuffer::around_pos(&mut self.stored, at);
            self.context.compress_stream(&mut output, &mut input).map_err(|code| failed("compress", code))?;
        }
        Ok(())
    }

    /// Ends the object and returns its stored bytes, in one of the buffers.
    pub(crate) fn finish(&mut self) -> Result<Vec<u8>> {
        loop {
            self.stored.reserve(CCtx::out_size());
            let at = self.stored.len();
            let mut output = OutBuffer::around_pos(&mut self.stored, at);
            if self.context.end_stream(&mut output).map_err(|code| failed("compress", code))? == 0 {
                break;
            }
        }
        let reset = self.context.reset(ResetDirective::SessionOnly);
        reset.map_err(|code| failed("reset a compressor", code))?;
        self.raw_bytes = 0;
        Ok(std::mem::take(&mut self.stored))
    }
}

fn failed(what: &str, code: usize) -> Error {
    Error::new(Kind::Failed, format!("{what}: {}", zstd_safe::get_error_name(code)))
}

/// Whether `stored` are the bytes that the entry speaks of.
pub(crate) fn check_stored(entry: &ObjectEntry, stored: &[u8]) -> Result<(), Fault> {
    let fault = |check, detail| Err(Fault { check, detail });
    if stored.len() as u64 != entry.stored_bytes {
        return fault(Check::Size, format!("{} bytes, the manifest says {}", stored.len(), entry.stored_bytes));
    }
    let digest = Sha256::of(stored);
    if digest != entry.sha256 {
        return fault(Check::Sha256, format!("{digest}, the manifest says {}", entry.sha256));
    }
    Ok(())
}

/// Fills the empty buffer `raw` with the records in `frame`: a stored object that was checked, or what its age file held.
pub(crate) fn unpack(entry: &ObjectEntry, frame: &[u8], raw: &mut Vec<u8>) -> Result<(), Fault> {
    let fault = |check, detail| Err(Fault { check, detail });
    if !entry.fits() {
        return fault(Check::Content, format!("{} raw bytes are more than an object may hold", entry.raw_bytes));
    }
    let raw_bytes = usize::try_from(entry.raw_bytes).expect("at most RECORD_BYTES_MAX");
    check_frame(frame, entry.raw_bytes).map_err(|detail| Fault::new(Check::Frame, detail))?;
    // There may be more room than this object needs; the length is compared afterwards.
    raw.reserve_exact(BUFFER_BYTES_MIN.max(raw_bytes));
    let mut context = DCtx::try_create().ok_or_else(|| Fault::new(Check::Content, "no memory for a decompressor"))?;
    if let Err(code) = context.decompress(raw, frame) {
        return fault(Check::Content, format!("zstd says: {}", zstd_safe::get_error_name(code)));
    }
    if raw.len() != raw_bytes {
        return fault(Check::Content, format!("{} bytes when decompressed, the manifest says {raw_bytes}", raw.len()));
    }
    Ok(())
}

/// The frame header as RFC 8878 §3.1.1 lays it out, as far as it decides what decompression may cost.
fn check_frame(stored: &[u8], raw_bytes: u64) -> Result<(), String> {
    const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    const SINGLE_SEGMENT: u8 = 0x20;
    const DICTIONARY: u8 = 0x03;
    let Some(([flags, window], _)) = stored.strip_prefix(&MAGIC).and_then(|rest| rest.split_first_chunk::<2>()) else {
        return Err("it does not begin with a zstd frame".to_owned());
    };
    if flags & DICTIONARY != 0 {
        return Err("it wants a dictionary".to_owned());
    }
    if flags & SINGLE_SEGMENT == 0 {
        let base = 1_u64 << (10 + (window >> 3));
        let bytes = base + base / 8 * u64::from(window & 7);
        if bytes > WINDOW_BYTES_MAX {
            return Err(format!("it wants a window of {bytes} bytes, more than {WINDOW_BYTES_MAX}"));
        }
    }
    if let Ok(Some(bytes)) = zstd_safe::get_frame_content_size(stored)
        && bytes != raw_bytes
    {
        return Err(format!("it announces {bytes} bytes, the manifest says {raw_bytes}"));
    }
    match zstd_safe::find_frame_compressed_size(stored) {
        Ok(bytes) if bytes == stored.len() => Ok(()),
        Ok(bytes) => Err(format!("its frame ends at byte {bytes} of {}", stored.len())),
        Err(code) => Err(format!("zstd says: {}", zstd_safe::get_error_name(code))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Seeded;
    use crate::vault::testing;

    fn entry(stored: &[u8], raw_bytes: usize) -> ObjectEntry {
        let (raw_bytes, stored_bytes) = (raw_bytes as u64, stored.len() as u64);
        ObjectEntry { raw_bytes, stored_bytes, sha256: Sha256::of(stored), ..testing::entry("prod", 1, 2) }
    }

    fn unpack(entry: &ObjectEntry, stored: &[u8]) -> Result<Vec<u8>, Fault> {
        let mut raw = Vec::new();
        check_stored(entry, stored).and_then(|()| super::unpack(entry, stored, &mut raw)).map(|()| raw)
    }

    fn pack(raw: &[u8]) -> Vec<u8> {
        let mut packer = Packer::new(1, 1 << 20, &Buffers::new(1)).unwrap();
        packer.add(raw).unwrap();
        packer.finish().unwrap()
    }

    fn noise(bytes: usize) -> Vec<u8> {
        let mut rng = Seeded::new(1);
        (0..bytes).map(|_| rng.bits().to_le_bytes()[0]).collect()
    }

    #[test]
    fn objects_read_back_and_any_zstd_can_read_them() {
        let mut packer = Packer::new(1, 1 << 20, &Buffers::new(1)).unwrap();
        for raw in [b"a few records".repeat(9), noise(300_000), vec![7; 500_000]] {
            packer.add(&raw).unwrap();
            let stored = packer.finish().unwrap();
            assert!(packer.is_empty());
            assert_eq!(unpack(&entry(&stored, raw.len()), &stored).unwrap(), raw);
            assert_eq!(zstd::decode_all(&stored[..]).unwrap(), raw);
            // The content checksum is there: bit 2 of the frame's flags.
            assert_eq!(stored[4] & 4, 4);
        }
    }

    #[test]
    fn room_is_never_promised_beyond_the_limit() {
        for (limit, block) in [(4_096, 100), (400_000, 5_000), (1 << 20, 70_000)] {
            let mut packer = Packer::new(1, limit, &Buffers::new(1)).unwrap();
            let noise = noise(block);
            while packer.has_room(noise.len()) {
                packer.add(&noise).unwrap();
            }
            assert!(!packer.is_empty());
            let stored = packer.finish().unwrap().len();
            assert!(stored <= limit, "{stored} of {limit}");
        }
    }

    #[test]
    fn every_way_of_lying_about_an_object_has_its_check() {
        let raw = b"a few records".repeat(900);
        let stored = pack(&raw);
        let refused = |entry: &ObjectEntry, stored: &[u8]| unpack(entry, stored).unwrap_err().check;
        let right = entry(&stored, raw.len());
        assert_eq!(refused(&right, &stored[1..]), Check::Size);
        let mut flipped = stored.to_vec();
        flipped[20] ^= 1;
        assert_eq!(refused(&right, &flipped), Check::Sha256);
        // From here on the digest is right, as an attacker's would be.
        assert_eq!(refused(&entry(&stored, raw.len() - 1), &stored), Check::Content);
        assert_eq!(refused(&entry(&stored, raw.len() + 1), &stored), Check::Content);
        assert_eq!(refused(&entry(&stored, 1 << 40), &stored), Check::Content);
        let twice = [&stored[..], &stored].concat();
        assert_eq!(refused(&entry(&twice, 2 * raw.len()), &twice), Check::Frame);
        let trailing = [&stored[..], b"x"].concat();
        assert_eq!(refused(&entry(&trailing, raw.len()), &trailing), Check::Frame);
        let cut = &stored[..stored.len() - 5];
        assert_eq!(refused(&entry(cut, raw.len()), cut), Check::Frame);
        assert_eq!(refused(&entry(b"no frame", 80), b"no frame"), Check::Frame);
        let mut checksum = stored.to_vec();
        *checksum.last_mut().unwrap() ^= 1;
        assert_eq!(refused(&entry(&checksum, raw.len()), &checksum), Check::Content);
    }

    #[test]
    fn ten_thousand_mutations_of_a_frame_are_refused_or_unpack_to_the_same() {
        const MUTATIONS: u64 = 10_000;
        let records: Vec<u8> = (0..400_u32).flat_map(|n| format!("record {};", n * n % 97).into_bytes()).collect();
        let original = pack(&records);
        let mut checks = std::collections::BTreeMap::<String, u64>::new();
        let (mut same, mut raw) = (0, Vec::new());
        for seed in 0..MUTATIONS {
            let mut rng = Seeded::new(seed);
            let mut below = |bound: usize| usize::try_from(rng.below(bound as u64)).unwrap();
            let mut stored = original.to_vec();
            for _ in 0..below(3) {
                let at = below(stored.len());
                match below(6) {
                    0 => stored[at] ^= 1 << below(8),
                    1 => stored[at] = u8::try_from(below(256)).unwrap(),
                    2 => stored.truncate(at.max(1)),
                    3 => stored.insert(at, u8::try_from(below(256)).unwrap()),
                    // The header decides what decompression costs.
                    4 => {
                        let at = at.min(13);
                        stored[at] = u8::try_from(below(256)).unwrap();
                    }
                    _ => stored.extend_from_slice(&original[..below(original.len())]),
                }
            }
            let claimed = match below(8) {
                0 => below(1 << 26),
                1 => records.len() + below(3) - 1,
                _ => records.len(),
            };
            let mut entry = entry(&stored, claimed);
            if below(8) == 0 {
                entry.sha256 = Sha256::of(b"another");
            }
            raw.clear();
            match check_stored(&entry, &stored).and_then(|()| super::unpack(&entry, &stored, &mut raw)) {
                Ok(()) => {
                    assert!(raw == records, "seed {seed}: other records came out");
                    same += 1;
                }
                Err(fault) => {
                    assert!(!fault.detail.is_empty(), "seed {seed}");
                    *checks.entry(fault.check.to_string()).or_default() += 1;
                }
            }
            // The buffer is reserved by the limits on objects, not by what a frame or an entry announces.
            assert!(raw.capacity() <= BUFFER_BYTES_MIN.max(1 << 26), "seed {seed}: {} bytes", raw.capacity());
        }
        assert!(same > 1000 && same < MUTATIONS / 2, "{same} of {MUTATIONS} unpacked");
        for check in ["sha256", "frame", "content"] {
            assert!(checks.get(check).is_some_and(|met| *met > 100), "{check}: {checks:?}");
        }
    }

    #[test]
    fn bombs_and_wide_windows_are_refused_before_they_unfold() {
        let bomb = zstd::bulk::compress(&vec![0; 40 << 20], 1).unwrap();
        assert!(bomb.len() < 10_000);
        // Announced in the frame, hidden from the manifest; and the other way round.
        assert_eq!(unpack(&entry(&bomb, 1000), &bomb).unwrap_err().check, Check::Frame);
        assert_eq!(unpack(&entry(&bomb, 40 << 20), &bomb).unwrap_err().check, Check::Content);
        let hidden = pack(&vec![0; 20 << 20]);
        assert_eq!(unpack(&entry(&hidden, 1000), &hidden).unwrap_err().check, Check::Content);

        let mut wide = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
        wide.window_log(24).unwrap();
        std::io::Write::write_all(&mut wide, &noise(1000)).unwrap();
        std::io::Write::flush(&mut wide).unwrap();
        let wide = wide.finish().unwrap();
        let fault = unpack(&entry(&wide, 1000), &wide).unwrap_err();
        assert!(fault.check == Check::Frame && fault.detail.contains("window"), "{fault:?}");
    }
}
