//! Frames: what is written to a segment at once, and told from whatever else may lie there.
//!
//! ```text
//! length   u32  of the payload in bytes, little-endian like the rest
//! payload  u32  CRC-32C of the payload
//! head     u32  CRC-32C of: the segment's seed (u64), the frame's offset (u64), length, payload
//! zero     u32
//! payload, then zeros up to a multiple of 8
//! ```
//!
//! The head is bound to its place: in a segment that was used before, with another seed, old frames are no frames, and a
//! frame that was moved is none either. The seed is drawn for each segment, so that nobody can write a value that is taken
//! for a frame. Behind the last frame stand zeros where the next head would be: anything else there was torn. Zeros are never
//! a frame, whatever the head's checksum of a place may be (of one segment in 500 it is 0 somewhere): a payload is not empty.

use crate::base::digest::crc32c;

/// Bytes of a frame before its payload.
pub const HEAD_BYTES: usize = 16;
/// Frames begin at multiples of this.
pub const ALIGN_BYTES: usize = 8;
/// The longest payload. A batch that is proposed is a fraction of it.
pub const PAYLOAD_BYTES_MAX: usize = 32 << 20;

/// What stands at a place of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// A whole frame, and where the next one would begin.
    Frame(&'a [u8], usize),
    /// A head that belongs here, whose payload is not what was written.
    Broken,
    /// No frame.
    Nothing,
}

/// Appends a frame that is to stand at `offset` of a segment.
pub fn put(out: &mut Vec<u8>, seed: u64, offset: u64, payload: &[u8]) {
    assert!(!payload.is_empty() && payload.len() <= PAYLOAD_BYTES_MAX, "a batch is something, and fits into a frame");
    let length = u32::try_from(payload.len()).expect("at most 32 MiB").to_le_bytes();
    let payload_crc = crc32c(&[payload]).to_le_bytes();
    let head_crc = head_crc(seed, offset, &length, &payload_crc).to_le_bytes();
    for part in [length, payload_crc, head_crc, [0; 4]] {
        out.extend_from_slice(&part);
    }
    out.extend_from_slice(payload);
    out.resize(out.len().next_multiple_of(ALIGN_BYTES), 0);
}

/// What stands at `offset` of a segment.
pub fn find(segment: &[u8], seed: u64, offset: usize) -> Found<'_> {
    let Some((head, rest)) = segment.get(offset..).and_then(|rest| rest.split_first_chunk::<HEAD_BYTES>()) else {
        return Found::Nothing;
    };
    let word = |n: usize| -> [u8; 4] { head[4 * n..4 * n + 4].try_into().expect("4 of 16 bytes") };
    let (length, payload_crc) = (word(0), word(1));
    let is_empty = length == [0; 4];
    if is_empty
        || u32::from_le_bytes(word(2)) != head_crc(seed, offset as u64, &length, &payload_crc)
        || word(3) != [0; 4]
    {
        return Found::Nothing;
    }
    let length = u32::from_le_bytes(length) as usize;
    match rest.get(..length) {
        Some(payload) if crc32c(&[payload]) == u32::from_le_bytes(payload_crc) => {
            Found::Frame(payload, (offset + HEAD_BYTES + length).next_multiple_of(ALIGN_BYTES))
        }
        _ => Found::Broken,
    }
}

/// Whether a frame stands anywhere from `offset` on: then what is broken before it was not the end.
pub fn any_after(segment: &[u8], seed: u64, offset: usize) -> bool {
    let places = (offset.next_multiple_of(ALIGN_BYTES)..segment.len()).step_by(ALIGN_BYTES);
    places.into_iter().any(|at| matches!(find(segment, seed, at), Found::Frame(..)))
}

fn head_crc(seed: u64, offset: u64, length: &[u8; 4], payload_crc: &[u8; 4]) -> u32 {
    crc32c(&[&seed.to_le_bytes(), &offset.to_le_bytes(), length, payload_crc])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_where_they_were_put_and_nowhere_else() {
        let mut segment = vec![];
        for payload in [&b"first"[..], b"2", b"the third one"] {
            let offset = segment.len() as u64;
            put(&mut segment, 3, offset, payload);
        }
        let end = segment.len();
        segment.resize(end + 64, 0);
        let Found::Frame(b"first", second) = find(&segment, 3, 0) else { panic!("the first") };
        let Found::Frame(b"2", third) = find(&segment, 3, second) else { panic!("the second") };
        assert_eq!(find(&segment, 3, third), Found::Frame(b"the third one", end));
        assert_eq!(find(&segment, 3, end), Found::Nothing);
        assert!((0..segment.len() + 9).filter(|at| find(&segment, 3, *at) != Found::Nothing).eq([0, second, third]));
        assert!((0..segment.len()).all(|at| find(&segment, 4, at) == Found::Nothing));
        assert!(any_after(&segment, 3, 8) && any_after(&segment, 3, third) && !any_after(&segment, 3, third + 8));
        // Moved, it is none.
        assert_eq!(find(&segment[second..], 3, 0), Found::Nothing);
    }

    /// The checksum of an empty frame is 0 at some places of some segments. A checksum of seed and offset is the sum of one of
    /// either, so such places are found by looking for sums that meet.
    #[test]
    fn zeros_are_no_frame_at_any_place() {
        let empty = |seed: u64, offset: u64| head_crc(seed, offset, &[0; 4], &[0; 4]);
        let seeds: std::collections::HashMap<u32, u64> = (0..1 << 18).map(|seed| (empty(seed, 0), seed)).collect();
        let offsets = (0..1 << 18).map(|n| n * ALIGN_BYTES as u64);
        let places: Vec<_> = offsets.filter_map(|at| Some((*seeds.get(&(empty(0, at) ^ empty(0, 0)))?, at))).collect();
        assert!(places.len() > 3, "{places:?}");
        let zeros = vec![0; (1 << 18) * ALIGN_BYTES + HEAD_BYTES];
        for (seed, at) in places {
            assert_eq!(empty(seed, at), 0);
            assert_eq!(find(&zeros, seed, usize::try_from(at).unwrap()), Found::Nothing);
        }
    }

    #[test]
    fn a_flipped_bit_makes_no_frame() {
        let mut segment = vec![];
        put(&mut segment, 3, 0, b"payload!");
        for at in 0..segment.len() {
            for bit in 0..8 {
                segment[at] ^= 1 << bit;
                assert!(!matches!(find(&segment, 3, 0), Found::Frame(..)), "byte {at}");
                segment[at] ^= 1 << bit;
            }
            assert!(!matches!(find(&segment[..at], 3, 0), Found::Frame(..)), "cut at {at}");
        }
    }
}
