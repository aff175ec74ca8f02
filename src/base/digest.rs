//! SHA-256 (FIPS 180-4), hexadecimal and base64 text: the only module that names the digest library.
//!
//! SHA-256 is used everywhere a digest leaves the program, because anyone can check it again with `sha256sum`.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use sha2::Digest as _; // also that of sha1: both come from the same trait
use std::fmt;

use crate::base::error::{Error, Result};

/// A SHA-256 digest, printed as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Sha256(pub [u8; 32]);

impl Sha256 {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Sha256(sha2::Sha256::digest(bytes).into())
    }

    /// The digest of the concatenation of `parts`.
    pub fn of_parts(parts: &[&[u8]]) -> Self {
        let mut hasher = Sha256Hasher::default();
        for part in parts {
            hasher.update(part);
        }
        hasher.finish()
    }

    /// Reads 64 hexadecimal digits.
    pub fn parse(text: &str) -> Result<Self> {
        let mut digest = [0; 32];
        if !from_hex(text, &mut digest) {
            return Err(Error::damaged(format!("{text:?} is not a SHA-256 digest")));
        }
        Ok(Sha256(digest))
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Sha256 {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Sha256 {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Sha256::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// A SHA-256 digest in the making.
#[derive(Clone, Default)]
pub struct Sha256Hasher(sha2::Sha256);

impl Sha256Hasher {
    /// Adds `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of everything added.
    pub fn finish(self) -> Sha256 {
        Sha256(self.0.finalize().into())
    }
}

impl fmt::Debug for Sha256Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sha256Hasher")
    }
}

/// The first eight bytes of the SHA-1 (FIPS 180-4) of `parts` one after another, as a big-endian number: how etcd
/// derives ids.
pub fn sha1_prefix(parts: &[&[u8]]) -> u64 {
    let mut hasher = sha1::Sha1::new();
    parts.iter().for_each(|part| hasher.update(part));
    let digest: [u8; 20] = hasher.finalize().into();
    u64::from_be_bytes(*digest.first_chunk().expect("20 bytes"))
}

/// The CRC32C (Castagnoli, RFC 3720) of `parts` one after another.
pub fn crc32c(parts: &[&[u8]]) -> u32 {
    parts.iter().fold(0, |crc, part| crc32c::crc32c_append(crc, part))
}

/// The CRC32C of `bytes` as Google writes it: big-endian, in base64.
pub fn crc32c_base64(bytes: &[u8]) -> String {
    base64(&crc32c::crc32c(bytes).to_be_bytes())
}

/// `bytes` in base64 (RFC 4648, 4), padded.
pub fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// What padded base64 stands for; none when `text` is anything else.
pub fn bytes_of_base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// Base64 for URLs, without padding (RFC 4648, section 5; RFC 7515, section 2).
pub fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The bytes that such a text stands for; none when it is no such text.
pub fn from_base64url(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// Reads exactly `bytes.len()` bytes of padded base64; false when `text` is anything else, or not the one text that these
/// bytes have.
pub fn from_base64(text: &str, bytes: &mut [u8]) -> bool {
    let Ok(read) = STANDARD.decode(text) else { return false };
    if read.len() != bytes.len() || base64(&read) != text {
        return false;
    }
    bytes.copy_from_slice(&read);
    true
}

/// Lower-case hexadecimal digits of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

/// Reads exactly `bytes.len()` bytes of lower-case hexadecimal digits; false when `text` is anything else.
pub fn from_hex(text: &str, bytes: &mut [u8]) -> bool {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    if text.len() != 2 * bytes.len() {
        return false;
    }
    for (pair, byte) in text.as_bytes().chunks_exact(2).zip(bytes) {
        let (Some(high), Some(low)) = (digit(pair[0]), digit(pair[1])) else { return false };
        *byte = high << 4 | low;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_nothing_is_the_published_one() {
        // FIPS 180-4's example for the empty message.
        let text = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Sha256::of(b"").to_string(), text);
        assert_eq!(Sha256::parse(text).unwrap(), Sha256::of_parts(&[]));
    }

    #[test]
    fn crc32c_is_written_as_google_writes_it() {
        // RFC 3720, B.4: 32 bytes of zeros have 0x8a9136aa.
        assert_eq!(crc32c_base64(&[0; 32]), "ipE2qg==");
        assert_eq!(crc32c_base64(b""), "AAAAAA==");
    }

    #[test]
    fn base64_is_strict() {
        let mut two = [0; 2];
        assert!(from_base64("Cv8=", &mut two) && two == [0x0a, 0xff]);
        assert_eq!(base64(&two), "Cv8=");
        // Bits that mean nothing, no padding, line ends, another alphabet, other lengths.
        for wrong in ["Cv9=", "Cv8", "Cv8=\n", " Cv8=", "Cv_=", "Cv==", "Cv8A", "", "é8="] {
            assert!(!from_base64(wrong, &mut two), "{wrong:?}");
        }
    }

    #[test]
    fn hexadecimal_is_strict() {
        let mut two = [0; 2];
        assert!(from_hex("0aff", &mut two) && two == [0x0a, 0xff]);
        for wrong in ["0aFF", "0af", "0aff0", "0ag0", "é0a"] {
            assert!(!from_hex(wrong, &mut two), "{wrong}");
        }
    }
}
