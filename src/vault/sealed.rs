//! Sealed documents: JSON that proves its own integrity and says which versions may read it.
//!
//! Every JSON document of a repository is one pretty-printed object that opens with the same four members:
//!
//! ```text
//! {
//!   "checksum": "<64 hexadecimal digits>",
//!   "document": "manifest",
//!   "format": 1,
//!   "min_reader": 1,
//! ```
//!
//! The checksum is the SHA-256 of the file's bytes with those 64 digits replaced by zeros. Anyone can check it:
//!
//! ```text
//! sed -E "2s/[0-9a-f]{64}/$(printf '0%.0s' $(seq 64))/" FILE | sha256sum
//! ```
//!
//! Invariants:
//! - No byte of a document can change unnoticed: the digits themselves are compared, everything else is hashed.
//! - Fields that a reader does not know are ignored (additions do not break old readers); a change that an old reader
//!   must not overlook raises `min_reader`, and old readers then refuse the document instead of misreading it.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::base::digest::{self, Sha256};
use crate::base::error::{Error, Kind, Result};

/// A document of a repository.
pub trait Document: Serialize + DeserializeOwned {
    /// What it is, in its second member.
    const NAME: &'static str;
    /// The version this program writes, and the newest it knows how to read.
    const FORMAT: u32 = 1;
    /// The oldest reader that understands what this program writes.
    const MIN_READER: u32 = 1;
    /// No such document is larger.
    const BYTES_MAX: u64 = 1 << 20;
}

const OPENING: &str = "{\n  \"checksum\": \"";
const DIGITS: usize = 64;

/// The members that every document opens with.
#[derive(Deserialize)]
struct Header {
    document: String,
    format: u32,
    min_reader: u32,
}

/// The bytes of `document` as stored.
pub fn seal<D: Document>(document: &D) -> Result<Vec<u8>> {
    let body = serde_json::to_string_pretty(document)
        .map_err(|error| Error::new(Kind::Failed, format!("write a {} as JSON", D::NAME)).source(error))?;
    let fields = body.strip_prefix("{\n").expect("a document is an object with at least one field");
    let (name, format, min_reader) = (D::NAME, D::FORMAT, D::MIN_READER);
    let mut text = format!(
        "{OPENING}{:0>DIGITS$}\",\n  \"document\": \"{name}\",\n  \"format\": {format},\n  \"min_reader\": {min_reader},\n{fields}\n",
        ""
    )
    .into_bytes();
    let checksum = Sha256::of(&text).to_string();
    text[OPENING.len()..OPENING.len() + DIGITS].copy_from_slice(checksum.as_bytes());
    if text.len() as u64 > D::BYTES_MAX {
        return Err(Error::new(Kind::Failed, format!("a {name} of {} bytes is too large to be stored", text.len())));
    }
    Ok(text)
}

/// What to do about a document that cannot be believed.
pub(crate) const HINT_DAMAGED: &str =
    "put this object back from a copy of the repository, or use a point that does not need it (`holdfast list`)";

/// The document in `bytes`; `path` names it in errors.
pub fn open<D: Document>(path: &str, bytes: &[u8]) -> Result<D> {
    let damaged = |why: &str| Error::damaged(format!("{path} is damaged: {why}")).hint(HINT_DAMAGED);
    if bytes.len() as u64 > D::BYTES_MAX {
        return Err(damaged("it is larger than any such document"));
    }
    let rest = bytes.strip_prefix(OPENING.as_bytes()).ok_or_else(|| damaged("it does not open with a checksum"))?;
    let (digits, rest) = rest.split_at_checked(DIGITS).ok_or_else(|| damaged("it is cut short"))?;
    let mut stated = [0; 32];
    let digits = std::str::from_utf8(digits).unwrap_or_default();
    if !digest::from_hex(digits, &mut stated) {
        return Err(damaged("it does not open with a checksum"));
    }
    if Sha256::of_parts(&[OPENING.as_bytes(), &[b'0'; DIGITS], rest]) != Sha256(stated) {
        return Err(damaged("its checksum does not match its content"));
    }
    let not_json = |error| damaged("it is not the JSON it should be").source(error);
    let header: Header = serde_json::from_slice(bytes).map_err(not_json)?;
    if header.document != D::NAME {
        return Err(damaged(&format!("it is a {:?}, not a {}", header.document, D::NAME)));
    }
    if header.min_reader > D::FORMAT {
        let text = format!(
            "{path} was written by a newer version of Holdfast (format {}, needs a reader of {}; this one reads {})",
            header.format,
            header.min_reader,
            D::FORMAT
        );
        return Err(Error::new(Kind::Usage, text).hint("upgrade Holdfast on this host, then run the command again"));
    }
    serde_json::from_slice(bytes).map_err(not_json)
}

/// Wall times in documents: RFC 3339, UTC, to the millisecond.
pub mod rfc3339 {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::base::clock::{Time, parse_rfc3339, rfc3339_ms};

    /// For `#[serde(with)]`.
    pub fn serialize<S: Serializer>(time: &Time, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&rfc3339_ms(*time))
    }

    /// For `#[serde(with)]`.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Time, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        parse_rfc3339(&text).map_err(serde::de::Error::custom)
    }
}

/// The same where there may be none.
pub mod rfc3339_option {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::base::clock::{Time, parse_rfc3339, rfc3339_ms};

    /// For `#[serde(with)]`.
    pub fn serialize<S: Serializer>(time: &Option<Time>, serializer: S) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => serializer.serialize_some(&rfc3339_ms(*time)),
            None => serializer.serialize_none(),
        }
    }

    /// For `#[serde(with)]`.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Time>, D::Error> {
        let text = Option::<std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.map(|text| parse_rfc3339(&text).map_err(serde::de::Error::custom)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Note {
        text: String,
        n: i64,
    }

    impl Document for Note {
        const NAME: &'static str = "note";
        const FORMAT: u32 = 2;
        const BYTES_MAX: u64 = 400;
    }

    fn note() -> Note {
        Note { text: "a \"quoted\" é".into(), n: i64::MAX }
    }

    /// The document with its text changed and a right checksum again.
    fn resealed(from: &str, to: &str) -> Vec<u8> {
        let text = String::from_utf8(seal(&note()).unwrap()).unwrap();
        assert!(text.contains(from), "{from}");
        let zeroed = format!("{OPENING}{:0>64}{}", "", &text[OPENING.len() + 64..]).replace(from, to);
        zeroed.replacen(&"0".repeat(64), &Sha256::of(zeroed.as_bytes()).to_string(), 1).into_bytes()
    }

    #[test]
    fn a_document_reads_back_and_opens_as_documented() {
        let bytes = seal(&note()).unwrap();
        assert_eq!(open::<Note>("n", &bytes).unwrap(), note());
        let text = String::from_utf8(bytes).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].starts_with("  \"checksum\": \"") && lines[1].len() == 15 + 64 + 2);
        assert_eq!(lines[2..5], ["  \"document\": \"note\",", "  \"format\": 2,", "  \"min_reader\": 1,"]);
        assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
    }

    #[test]
    fn no_flipped_bit_and_no_cut_goes_unnoticed() {
        let bytes = seal(&note()).unwrap();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut wrong = bytes.clone();
                wrong[at] ^= 1 << bit;
                assert_eq!(open::<Note>("n", &wrong).unwrap_err().kind(), Kind::Damaged, "byte {at} bit {bit}");
            }
            assert_eq!(open::<Note>("n", &bytes[..at]).unwrap_err().kind(), Kind::Damaged, "cut at {at}");
        }
        assert!(open::<Note>("n", &[&bytes[..], b" "].concat()).is_err());
    }

    #[test]
    fn versions_decide_who_may_read() {
        assert!(open::<Note>("n", &resealed("\"format\": 2", "\"format\": 9")).is_ok());
        let error = open::<Note>("n", &resealed("\"min_reader\": 1", "\"min_reader\": 3")).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        assert!(error.hint_text().unwrap().contains("upgrade"));
        assert!(open::<Note>("n", &resealed("\"note\"", "\"rota\"")).unwrap_err().chain().contains("rota"));
    }

    #[test]
    fn unknown_fields_pass_missing_double_and_huge_ones_do_not() {
        assert_eq!(open::<Note>("n", &resealed("\"n\":", "\"later\": [1],\n  \"n\":")).unwrap(), note());
        for (from, to) in [
            ("\"n\":", "\"m\":"),
            ("\"n\":", "\"n\": 1,\n  \"n\":"),
            ("\"format\": 2", "\"format\": 2, \"format\": 2"),
            ("9223372036854775807", "9223372036854775808"),
        ] {
            assert_eq!(open::<Note>("n", &resealed(from, to)).unwrap_err().kind(), Kind::Damaged, "{to}");
        }
        assert!(seal(&Note { text: "x".repeat(400), n: 0 }).is_err());
        assert!(open::<Note>("n", &resealed("é", &"x".repeat(400))).unwrap_err().chain().contains("larger"));
    }
}
