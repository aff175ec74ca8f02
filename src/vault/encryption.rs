//! Encryption of data objects: for whom they are sealed, and who can open them. The only module that names age.
//!
//! A stored object is a plain age file of a plain zstd file, so `age -d | zstd -d` reads it. It is sealed for X25519
//! **recipients**, whose **identities** open it. A host that has recipients alone writes what it cannot read.
//!
//! With a **passphrase** there is one identity, made at random, that lies in `config/<n>.json` wrapped by the
//! passphrase. scrypt is slow on purpose, so it is paid once a run and never per object.
//!
//! Invariants:
//! - Recipients come from the operator, never from the repository: whoever can write there could add his own. A wrapped
//!   identity is believed because the passphrase opens it.
//! - What is sealed grows by at most `overhead_bytes_max`, so limits on stored bytes hold for what is stored.
//! - What is opened may be hostile: its header is small, its work factor limited, its content no longer than itself.
//! - No identity and no passphrase stands in a message, or in what `Debug` prints.

use std::fmt;
use std::io::{Read, Write};
use std::sync::Arc;

use age::armor::{ArmoredReader, ArmoredWriter, Format};
use age::secrecy::{ExposeSecret, SecretString};
use age::x25519;
use age::{DecryptError, Decryptor, Encryptor};

use crate::base::error::{Error, Kind, Result};
use crate::vault::buffers::BUFFER_BYTES_MIN;
use crate::vault::pack::{Check, Fault};

/// Recipients of one object.
pub const RECIPIENTS_MAX: usize = 32;
/// Identities a reader may hold, and passphrases.
pub const KEYS_MAX: usize = 64;
/// What age adds for each chunk of this size.
const CHUNK_BYTES: usize = 64 << 10;
const TAG_BYTES: usize = 16;
/// What age adds once: its first line, a stanza of random length that keeps readers honest, a MAC and a nonce.
const HEADER_BYTES_MAX: usize = 400;
/// What age adds for each recipient.
const STANZA_BYTES_MAX: usize = 110;
/// scrypt's work when an identity is wrapped, as a power of two: 128 MiB of memory for a moment, half a second.
const WORK_LOG2: u8 = 17;
/// The most that a reader spends: 256 MiB.
const WORK_LOG2_MAX: u8 = 18;

/// What the operator wants of new data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Data as it is.
    Plain,
    /// Sealed for these.
    For(Recipients),
    /// Sealed for an identity that a passphrase opens.
    Passphrase(Passphrases),
}

/// For whom objects are sealed.
#[derive(Clone, PartialEq, Eq)]
pub struct Recipients {
    names: Vec<String>,
    keys: Vec<x25519::Recipient>,
}

impl Recipients {
    /// Reads recipients as `age-keygen` prints them.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut keys = vec![];
        for text in texts {
            let key: x25519::Recipient = text.parse().map_err(|why: &str| {
                Error::new(Kind::Usage, format!("{text:?} is no age recipient: {why}"))
                    .hint("recipients are public keys, age1..., as age-keygen prints them")
            })?;
            keys.push(key);
        }
        if !(1..=RECIPIENTS_MAX).contains(&keys.len()) {
            return Err(Error::new(Kind::Usage, format!("{} recipients", keys.len()))
                .hint(format!("give from 1 to {RECIPIENTS_MAX} recipients")));
        }
        Ok(Recipients::of(keys))
    }

    fn of(keys: Vec<x25519::Recipient>) -> Self {
        let mut named: Vec<_> = keys.into_iter().map(|key| (key.to_string(), key)).collect();
        named.sort_by(|a, b| a.0.cmp(&b.0));
        named.dedup_by(|a, b| a.0 == b.0);
        let (names, keys) = named.into_iter().unzip();
        Recipients { names, keys }
    }

    /// As documents name them: sorted, each once.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The age file of `plain`, made in the empty buffer `sealed`.
    pub(crate) fn seal(&self, plain: &[u8], mut sealed: Vec<u8>) -> Result<Vec<u8>> {
        let failed = |error: &dyn fmt::Display| Error::new(Kind::Failed, format!("encrypt a data object: {error}"));
        sealed.reserve_exact(BUFFER_BYTES_MIN.max(plain.len() + self.overhead_bytes_max(plain.len())));
        let keys = self.keys.iter().map(|key| key as &dyn age::Recipient);
        let encryptor = Encryptor::with_recipients(keys).map_err(|error| failed(&error))?;
        let mut writer = encryptor.wrap_output(&mut sealed).map_err(|error| failed(&error))?;
        writer.write_all(plain).map_err(|error| failed(&error))?;
        writer.finish().map_err(|error| failed(&error))?;
        Ok(sealed)
    }

    /// How much longer than `plain_bytes` an age file of so many can be.
    pub(crate) fn overhead_bytes_max(&self, plain_bytes: usize) -> usize {
        HEADER_BYTES_MAX + STANZA_BYTES_MAX * self.keys.len() + TAG_BYTES * (plain_bytes / CHUNK_BYTES + 1)
    }
}

impl fmt::Debug for Recipients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.names).finish()
    }
}

/// Keys that open objects.
#[derive(Clone)]
pub struct Identities {
    name: String,
    keys: Arc<[x25519::Identity]>,
}

impl Identities {
    /// Reads an identity file as `age-keygen` writes it; `name` is what messages call it.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        const HINT: &str = "an identity file holds lines AGE-SECRET-KEY-1..., as age-keygen writes them";
        let lines = text.lines().map(str::trim).enumerate();
        let mut keys = vec![];
        for (n, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            // What the parser says might repeat the line.
            let key: x25519::Identity = line.parse().map_err(|_| {
                Error::new(Kind::Usage, format!("line {} of {name} is no age identity (X25519)", n + 1)).hint(HINT)
            })?;
            keys.push(key);
        }
        if !(1..=KEYS_MAX).contains(&keys.len()) {
            return Err(Error::new(Kind::Usage, format!("{name} holds {} identities", keys.len())).hint(HINT));
        }
        Ok(Identities { name: name.to_owned(), keys: keys.into() })
    }

    /// Both together.
    pub(crate) fn and(self, more: Option<&Identities>) -> Identities {
        let Some(more) = more else { return self };
        let keys = self.keys.iter().chain(more.keys.iter()).cloned().collect();
        Identities { name: format!("{} and {}", self.name, more.name), keys }
    }

    /// What messages call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// For whom these can read.
    pub fn recipients(&self) -> Recipients {
        Recipients::of(self.keys.iter().map(x25519::Identity::to_public).collect())
    }

    /// What is in the age file `sealed`.
    pub(crate) fn open(&self, sealed: &[u8], mut plain: Vec<u8>) -> Result<Vec<u8>, Unopened> {
        let broken = |detail: String| Unopened::Broken(Fault::new(Check::Age, detail));
        let header_bytes_max = HEADER_BYTES_MAX + STANZA_BYTES_MAX * RECIPIENTS_MAX;
        let front = &sealed[..sealed.len().min(header_bytes_max)];
        // Each stanza costs a multiplication for each identity, and a whole object could be stanzas.
        if !front.windows(5).any(|window| window == b"\n--- ") {
            return Err(broken("it does not begin with the header of an age file".to_owned()));
        }
        let keys = self.keys.iter().map(|key| key as &dyn age::Identity);
        let reader = Decryptor::new_buffered(sealed).and_then(|decryptor| decryptor.decrypt(keys));
        let reader = reader.map_err(|error| match error {
            DecryptError::NoMatchingKeys => Unopened::Stranger,
            error => broken(format!("age says: {error}")),
        })?;
        plain.clear();
        plain.reserve_exact(BUFFER_BYTES_MIN.max(sealed.len()));
        let mut reader = reader.take(sealed.len() as u64);
        reader.read_to_end(&mut plain).map_err(|error| broken(format!("age says: {error}")))?;
        Ok(plain)
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} identities of {}", self.keys.len(), self.name)
    }
}

/// Why an age file was not opened.
#[derive(Debug)]
pub(crate) enum Unopened {
    /// It is for others.
    Stranger,
    /// It is none, or damaged.
    Broken(Fault),
}

/// A passphrase, and those that were used before it.
#[derive(Clone, PartialEq, Eq)]
pub struct Passphrases {
    name: String,
    lines: Vec<String>,
}

impl Passphrases {
    /// Reads a passphrase file: the first line is the passphrase, further lines are earlier ones.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let lines: Vec<String> = text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
        if !(1..=KEYS_MAX).contains(&lines.len()) {
            return Err(Error::new(Kind::Usage, format!("{name} holds {} passphrases", lines.len()))
                .hint("write the passphrase on the first line; earlier ones may follow"));
        }
        Ok(Passphrases { name: name.to_owned(), lines })
    }

    /// What messages call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A new identity, and it wrapped by the first passphrase. Slow on purpose.
    pub(crate) fn create(&self) -> Result<(Identities, String)> {
        let key = x25519::Identity::generate();
        let made = Identities { name: self.name.clone(), keys: [key].into() };
        let wrapped = self.wrap(&made)?;
        Ok((made, wrapped))
    }

    /// The one identity wrapped by the first passphrase, as armored text. Slow on purpose.
    pub(crate) fn wrap(&self, identities: &Identities) -> Result<String> {
        let failed = |error: &dyn fmt::Display| Error::new(Kind::Failed, format!("wrap an identity: {error}"));
        let mut recipient = age::scrypt::Recipient::new(SecretString::from(self.lines[0].clone()));
        recipient.set_work_factor(WORK_LOG2);
        let encryptor = Encryptor::with_recipients(std::iter::once(&recipient as &dyn age::Recipient));
        let encryptor = encryptor.map_err(|error| failed(&error))?;
        let mut text = Vec::new();
        let write = || -> std::io::Result<()> {
            let armored = ArmoredWriter::wrap_output(&mut text, Format::AsciiArmor)?;
            let mut writer = encryptor.wrap_output(armored)?;
            for key in identities.keys.iter() {
                writeln!(writer, "{}", key.to_string().expose_secret())?;
            }
            writer.finish()?.finish()?;
            Ok(())
        };
        write().map_err(|error| failed(&error))?;
        Ok(String::from_utf8(text).expect("armor is ASCII"))
    }

    /// What is in `wrapped`, and which line opened it; none when no line does. Slow on purpose.
    pub(crate) fn unwrap(&self, wrapped: &str) -> Result<Option<(Identities, usize)>> {
        for (n, line) in self.lines.iter().enumerate() {
            let mut identity = age::scrypt::Identity::new(SecretString::from(line.clone()));
            identity.set_max_work_factor(WORK_LOG2_MAX);
            let decryptor = Decryptor::new_buffered(ArmoredReader::new(wrapped.as_bytes()));
            let opened = decryptor.and_then(|decryptor| decryptor.decrypt(std::iter::once(&identity as _)));
            let mut reader = match opened {
                Ok(reader) => reader.take(wrapped.len() as u64),
                Err(DecryptError::NoMatchingKeys | DecryptError::DecryptionFailed) => continue,
                Err(DecryptError::KeyDecryptionFailed) => continue,
                Err(error) => return Err(damaged_wrapping(&format!("age says: {error}"))),
            };
            let mut text = String::new();
            reader.read_to_string(&mut text).map_err(|_| damaged_wrapping("it does not decrypt to text"))?;
            let opened = Identities::parse(&self.name, &text);
            return Ok(Some((opened.map_err(|_| damaged_wrapping("it holds no identity"))?, n)));
        }
        Ok(None)
    }
}

fn damaged_wrapping(why: &str) -> Error {
    Error::damaged(format!("the wrapped identity of the repository is damaged: {why}"))
        .hint("put the folder `config` back from a copy of the repository")
}

impl fmt::Debug for Passphrases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passphrases of {}", self.lines.len(), self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> (Identities, Recipients) {
        let key = x25519::Identity::generate();
        let identities = Identities { name: "key".into(), keys: [key].into() };
        let recipients = identities.recipients();
        (identities, recipients)
    }

    #[test]
    fn what_is_sealed_opens_for_each_recipient_and_for_nobody_else() {
        let (one, for_one) = identity();
        let (two, for_two) = identity();
        let (other, _) = identity();
        let both = Recipients::parse([for_one.names()[0].as_str(), &for_two.names()[0]]).unwrap();
        for bytes in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, 3 * CHUNK_BYTES + 7] {
            let plain = vec![7; bytes];
            let sealed = both.seal(&plain, vec![]).unwrap();
            assert!(sealed.len() <= bytes + both.overhead_bytes_max(bytes), "{bytes}");
            assert_eq!(one.open(&sealed, vec![]).unwrap(), plain);
            assert_eq!(two.open(&sealed, vec![]).unwrap(), plain);
            assert_eq!(other.clone().and(Some(&two)).open(&sealed, vec![]).unwrap(), plain);
            assert!(matches!(other.open(&sealed, vec![]), Err(Unopened::Stranger)));
        }
        assert_ne!(
            both.seal(b"same", vec![]).unwrap(),
            both.seal(b"same", vec![]).unwrap(),
            "no two objects are alike"
        );
        let keys: Vec<_> = (0..RECIPIENTS_MAX).map(|_| identity().1.names()[0].clone()).collect();
        let many = Recipients::parse(keys.iter().map(String::as_str)).unwrap();
        for _ in 0..50 {
            assert!(many.seal(b"x", vec![]).unwrap().len() <= 1 + many.overhead_bytes_max(1));
        }
    }

    #[test]
    fn no_flipped_byte_and_no_cut_opens() {
        let (key, recipients) = identity();
        let sealed = recipients.seal(&b"records ".repeat(20), vec![]).unwrap();
        for at in 0..sealed.len() {
            let mut wrong = sealed.clone();
            wrong[at] ^= 1;
            assert!(key.open(&wrong, vec![]).is_err(), "byte {at}");
            assert!(key.open(&sealed[..at], vec![]).is_err(), "cut at {at}");
        }
        let stanzas = [b"age-encryption.org/v1\n".to_vec(), b"-> X25519 a\nb\n".repeat(9_000)].concat();
        assert!(matches!(key.open(&stanzas, vec![]), Err(Unopened::Broken(fault)) if fault.check == Check::Age));
    }

    #[test]
    fn a_passphrase_opens_what_it_wrapped_and_earlier_ones_do() {
        let first = Passphrases::parse("file", "correct horse\n").unwrap();
        let (made, wrapped) = first.create().unwrap();
        assert!(wrapped.starts_with("-----BEGIN AGE ENCRYPTED FILE-----"));
        let later = Passphrases::parse("file", "battery staple\ncorrect horse\n").unwrap();
        let (opened, line) = later.unwrap(&wrapped).unwrap().unwrap();
        assert_eq!((opened.recipients(), line), (made.recipients(), 1));
        assert!(Passphrases::parse("file", "wrong").unwrap().unwrap(&wrapped).unwrap().is_none());
        let mut broken = wrapped.clone();
        broken.truncate(wrapped.len() / 2);
        assert!(!matches!(first.unwrap(&broken), Ok(Some(_))));
    }

    #[test]
    fn nothing_secret_is_printed_and_what_is_no_key_is_refused_without_repeating_it() {
        let key = x25519::Identity::generate().to_string();
        let text = format!("# created\n\n{}\n", key.expose_secret());
        let identities = Identities::parse("age.key", &text).unwrap();
        let shown = format!("{identities:?} {:?}", Passphrases::parse("file", "horse\n").unwrap());
        assert!(!shown.contains("AGE-SECRET") && !shown.contains("horse"), "{shown}");
        for wrong in ["", "# nothing\n", "AGE-SECRET-KEY-1QQQQ\n", "age1nokey\n"] {
            let error = Identities::parse("age.key", wrong).unwrap_err();
            assert_eq!((error.kind(), error.hint_text().is_some()), (Kind::Usage, true));
            assert!(!error.chain().contains("1QQQQ"), "{}", error.chain());
        }
        assert_eq!(Recipients::parse(["age1xyz"]).unwrap_err().kind(), Kind::Usage);
        assert_eq!(Recipients::parse([]).unwrap_err().kind(), Kind::Usage);
        assert_eq!(Passphrases::parse("file", "\n").unwrap_err().kind(), Kind::Usage);
    }
}
