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
//! A signed document has two more, in the lines that follow:
//!
//! ```text
//!   "signer": "<60 characters of base64>",
//!   "signature": "<88 characters of base64>",
//! ```
//!
//! Signed is the file without the line of the signature, with zeros for the checksum's digits; the checksum is computed
//! last and covers the signature.
//!
//! Invariants:
//! - No byte of a document can change unnoticed: the digits themselves are compared, everything else is hashed.
//! - Fields that a reader does not know are ignored (additions do not break old readers); a change that an old reader
//!   must not overlook raises `min_reader`, and old readers then refuse the document instead of misreading it.
//! - A document that says who signed it was signed by him. Whether he is to be believed is for the reader to know.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::base::digest::{self, Sha256};
use crate::base::error::{Error, Kind, Result};
use crate::vault::sign::{PublicKey, Signature, SigningKey};

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
/// The lines that every document opens with.
const HEADER_LINES: usize = 5;
const SIGNER: &str = "signer";
const SIGNATURE: &str = "signature";

/// The members that every document opens with.
#[derive(Deserialize)]
struct Header<'a> {
    document: String,
    format: u32,
    min_reader: u32,
    #[serde(borrow, default, deserialize_with = "present")]
    signer: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    signature: Option<&'a RawValue>,
}

/// A member that is there, whatever it says: `null` is something as well. It is not parsed, because a list of millions of
/// zeros would become a gigabyte.
fn present<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// The bytes of `document` as stored.
pub fn seal<D: Document>(document: &D) -> Result<Vec<u8>> {
    write(document, None)
}

/// The same, signed with `key`.
pub fn seal_signed<D: Document>(document: &D, key: &SigningKey) -> Result<Vec<u8>> {
    write(document, Some(key))
}

fn write<D: Document>(document: &D, key: Option<&SigningKey>) -> Result<Vec<u8>> {
    let body = serde_json::to_string_pretty(document)
        .map_err(|error| Error::new(Kind::Failed, format!("write a {} as JSON", D::NAME)).source(error))?;
    let fields = body.strip_prefix("{\n").expect("a document is an object with at least one field");
    let (name, format, min_reader) = (D::NAME, D::FORMAT, D::MIN_READER);
    let mut head = format!(
        "{OPENING}{:0>DIGITS$}\",\n  \"document\": \"{name}\",\n  \"format\": {format},\n  \"min_reader\": {min_reader},\n",
        ""
    );
    if let Some(key) = key {
        head.push_str(&member(SIGNER, &key.public().to_string()));
        let signature = key.sign(format!("{head}{fields}\n").as_bytes());
        head.push_str(&member(SIGNATURE, &signature.to_string()));
    }
    let mut text = format!("{head}{fields}\n").into_bytes();
    let checksum = Sha256::of(&text).to_string();
    text[OPENING.len()..OPENING.len() + DIGITS].copy_from_slice(checksum.as_bytes());
    if text.len() as u64 > D::BYTES_MAX {
        return Err(Error::new(Kind::Failed, format!("a {name} of {} bytes is too large to be stored", text.len())));
    }
    Ok(text)
}

/// A member with a line of its own.
fn member(name: &str, text: &str) -> String {
    format!("  \"{name}\": \"{text}\",\n")
}

/// What to do about a document that cannot be believed.
pub(crate) const HINT_DAMAGED: &str =
    "put this object back from a copy of the repository, or use a point that does not need it (`holdfast list`)";

/// The document in `bytes`; `path` names it in errors.
pub fn open<D: Document>(path: &str, bytes: &[u8]) -> Result<D> {
    open_signed(path, bytes).map(|(document, _)| document)
}

/// The same, and who signed it; none: nobody did.
pub fn open_signed<D: Document>(path: &str, bytes: &[u8]) -> Result<(D, Option<PublicKey>)> {
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
    let signer = signer(bytes, &header).map_err(damaged)?;
    Ok((serde_json::from_slice(bytes).map_err(not_json)?, signer))
}

/// Who signed the document in `bytes`, whose checksum is right; none: nobody did. The two members count in their own
/// lines, written in the one way that there is; anywhere else, or one without the other, they are damage.
fn signer<'a>(bytes: &[u8], header: &Header<'a>) -> Result<Option<PublicKey>, &'static str> {
    if header.signer.is_none() && header.signature.is_none() {
        return Ok(None);
    }
    const FORM: &str = "its signer and its signature are not written as they must be";
    let mut ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
    let signer_at = ends.nth(HEADER_LINES - 1).ok_or(FORM)?;
    let signature_at = ends.next().ok_or(FORM)?;
    let rest_at = ends.next().ok_or(FORM)?;
    let text = |value: Option<&'a RawValue>| value?.get().strip_prefix('"')?.strip_suffix('"');
    let (signer, signature) = (text(header.signer).ok_or(FORM)?, text(header.signature).ok_or(FORM)?);
    if bytes[signer_at..signature_at] != *member(SIGNER, signer).as_bytes()
        || bytes[signature_at..rest_at] != *member(SIGNATURE, signature).as_bytes()
    {
        return Err(FORM);
    }
    let (signer, signature) = (PublicKey::parse(signer).ok_or(FORM)?, Signature::parse(signature).ok_or(FORM)?);
    let zeros = [b'0'; DIGITS];
    let parts = [OPENING.as_bytes(), &zeros, &bytes[OPENING.len() + DIGITS..signature_at], &bytes[rest_at..]];
    if !signer.verifies(&parts.concat(), &signature) {
        return Err("its signature does not match its content");
    }
    Ok(Some(signer))
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
    use crate::vault::testing;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Note {
        text: String,
        n: i64,
    }

    impl Document for Note {
        const NAME: &'static str = "note";
        const FORMAT: u32 = 2;
        const BYTES_MAX: u64 = 1_000;
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

    /// `text` with the checksum that belongs to it, as anyone can compute it.
    fn summed(text: &str) -> Vec<u8> {
        let zeroed = format!("{OPENING}{:0>64}{}", "", &text[OPENING.len() + 64..]);
        zeroed.replacen(&"0".repeat(64), &Sha256::of(zeroed.as_bytes()).to_string(), 1).into_bytes()
    }

    fn signed(text: &str, n: u8) -> String {
        let note = Note { text: text.into(), n: 7 };
        String::from_utf8(seal_signed(&note, &testing::signing_key(n)).unwrap()).unwrap()
    }

    #[test]
    fn a_signed_document_says_who_signed_it_and_is_the_same_every_time() {
        let text = signed("a", 1);
        assert_eq!(text, signed("a", 1));
        let (note, signer) = open_signed::<Note>("n", text.as_bytes()).unwrap();
        assert_eq!((note.n, signer), (7, Some(testing::signing_key(1).public())));
        assert_eq!(open_signed::<Note>("n", &seal(&note).unwrap()).unwrap().1, None);
        let lines: Vec<&str> = text.lines().collect();
        let (signer, signature) = (lines[5].split('"').nth(3).unwrap(), lines[6].split('"').nth(3).unwrap());
        assert_eq!((lines[5].len(), lines[6].len()), (13 + 60 + 2, 16 + 88 + 2));
        // As the document says: without the seventh line, with zeros for digits.
        let message = text.replace(&lines[1][15..79], &"0".repeat(64)).replace(&format!("{}\n", lines[6]), "");
        let (signer, signature) = (PublicKey::parse(signer).unwrap(), Signature::parse(signature).unwrap());
        assert!(signer.verifies(message.as_bytes(), &signature));
    }

    #[test]
    fn no_flipped_bit_of_a_signed_document_is_believed_with_a_right_checksum() {
        let text = signed("a", 1);
        let (mut signatures, mut others) = (0, 0);
        for at in OPENING.len() + 64..text.len() {
            for bit in 0..7 {
                let mut wrong = text.clone().into_bytes();
                wrong[at] ^= 1 << bit;
                let Ok(wrong) = String::from_utf8(wrong) else { continue };
                // One that nobody is said to have signed, by another name of the member, is as good as an unsigned one.
                match open_signed::<Note>("n", &summed(&wrong)) {
                    Ok((_, signer)) => panic!("byte {at} bit {bit}: {signer:?} {wrong}"),
                    Err(error) if error.chain().contains("signature does not match") => signatures += 1,
                    Err(_) => others += 1,
                }
            }
        }
        assert!(signatures > 500 && others > 500, "{signatures} {others}");
    }

    #[test]
    fn a_signature_belongs_to_one_document_and_to_its_place() {
        let (text, other) = (signed("a", 1), signed("b", 1));
        let line = |text: &str, n: usize| format!("{}\n", text.lines().nth(n).unwrap());
        let (signer, signature) = (line(&text, 5), line(&text, 6));
        let both = format!("{signer}{signature}");
        let without = text.replace(&both, "");
        let at_end =
            |lines: &str| without.replace("\"n\": 7\n", &format!("\"n\": 7,\n{}\n", lines.trim_end_matches(",\n")));
        for (wrong, why) in [
            (text.replace(&signature, &line(&other, 6)), "does not match"),
            (text.replace(&signer, &line(&signed("a", 2), 5)), "does not match"),
            (text.replace("\"a\"", "\"b\""), "does not match"),
            (text.replace("\"note\"", "\"nota\""), "not a note"),
            (text.replace("\"format\": 2", "\"format\": 3"), "does not match"),
            (text.replace(&signature, ""), "as they must be"),
            (text.replace(&signer, ""), "as they must be"),
            (text.replace(&both, &format!("{signature}{signer}")), "as they must be"),
            (text.replace(&both, &both.replace("  \"", "   \"")), "as they must be"),
            (text.replace(&both, &both.replace(": ", ":")), "as they must be"),
            (text.replace(&signer, &signer.replace('M', "\\u004d")), "as they must be"),
            (text.replace(&signature, "  \"signature\": null,\n"), "as they must be"),
            (text.replace(&signer, "  \"signer\": null,\n"), "as they must be"),
            (text.replace(&signature, "  \"signature\": \"\",\n"), "as they must be"),
            (text.replace(&signature, &signature.replace("==\"", "\"")), "as they must be"),
            (text.replace(&signer, "  \"signer\": [0, 0],\n"), "as they must be"),
            (text.replace(&signer, "  \"signer\": {\"a\": \"b\"},\n"), "as they must be"),
            (text.replace(&signer, "  \"signer\": \"\",\n"), "as they must be"),
            // The same two names, spelled otherwise: JSON knows them all the same.
            (text.replace("\"signer\"", "\"\\u0073igner\""), "as they must be"),
            (text.replace("\"signature\"", "\"signatur\\u0065\""), "as they must be"),
            (without.replace("\"text\"", "\"\\u0073igner\": 1,\n  \"text\""), "as they must be"),
            (text.replace("\"text\"", "\"\\u0073igner\": 1,\n  \"text\""), "JSON"),
            // Line ends and spaces are signed as they are.
            (text.replace(",\n", ",\r\n"), "as they must be"),
            (text.replace("\"n\": 7\n", "\"n\": 7\r\n"), "does not match"),
            (text.replace(&both, &format!("{both}\u{feff}")), "JSON"),
            (text.replace(&both, &format!("{both}{signer}")), "JSON"),
            (text.replace(&both, &format!("{both}{signature}")), "JSON"),
            (text.replace(&both, &format!("  \"later\": 1,\n{both}")), "as they must be"),
            (at_end(&both), "as they must be"),
            (at_end(&signer), "as they must be"),
            (at_end(&signature), "as they must be"),
        ] {
            assert_ne!(wrong, text, "{why}");
            let error = open_signed::<Note>("n", &summed(&wrong)).unwrap_err();
            assert_eq!(error.kind(), Kind::Damaged);
            assert!(error.chain().contains(why), "{why}: {} of {wrong}", error.chain());
        }
        // Without both lines it is a document that nobody signed.
        assert_eq!(open_signed::<Note>("n", &summed(&without)).unwrap().1, None);
        // Deeper inside, the names mean nothing.
        let nested = seal(&Note { text: "\"signer\"".into(), n: 1 }).unwrap();
        assert_eq!(open_signed::<Note>("n", &nested).unwrap().1, None);
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
        assert!(seal(&Note { text: "x".repeat(1_000), n: 0 }).is_err());
        assert!(open::<Note>("n", &resealed("é", &"x".repeat(1_000))).unwrap_err().chain().contains("larger"));
    }
}
