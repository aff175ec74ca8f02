//! Signatures: who made a restore point (Ed25519, RFC 8032).
//!
//! A checksum finds damage. Whoever can write to a bucket can compute one, and could put a point there that restores a
//! cluster of his own making. So whoever has a signing key signs manifests, and readers who name the keys they trust use
//! no others. A manifest lists the SHA-256 of every object of its chain, so one signature stands for all the data.
//!
//! What a signature does not tell:
//! - **That a point is the newest.** Whoever writes to the bucket may delete points or put old ones back; each says when
//!   it was taken. The objective for the age of the newest point, and drills, notice.
//! - **That the cluster was well.** It is the one who holds the key who speaks, on the host that makes backups.
//! - Anything about documents beside manifests. docs/decisions/0022-signing.md says why that is enough.
//!
//! Invariants:
//! - Trusted keys come from the policy and from flags, never from the repository.
//! - A wrong signature is damage, whatever is trusted or allowed.
//! - Without any trusted key, what nobody signed is used as if there were no signatures; what somebody signed is not,
//!   until that key is trusted.
//! - No private key appears in a message or in `Debug` output.
//!
//! Where a signature stands in a document is for `sealed` to know.

use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use std::fmt;
use std::sync::Arc;

use crate::base::digest::{base64, from_base64};
use crate::base::error::{Error, Kind, Result};
use crate::base::tls::{private_key_of, public_key_of};

/// What stands before the 32 bytes of a public key in its SubjectPublicKeyInfo (RFC 8410): the name of Ed25519.
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// Length of that structure.
const SPKI_BYTES: usize = SPKI_PREFIX.len() + 32;
/// Length of a signature.
const SIGNATURE_BYTES: usize = 64;

/// A signer's public key; as text the one line of base64 that `openssl pkey -pubout` writes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Reads the line of base64, strictly: a key has one spelling.
    pub fn parse(text: &str) -> Option<Self> {
        let mut spki = [0; SPKI_BYTES];
        if !from_base64(text, &mut spki) {
            return None;
        }
        let (prefix, key) = spki.split_at(SPKI_PREFIX.len());
        (prefix == SPKI_PREFIX).then(|| PublicKey(*key.first_chunk().expect("32 bytes follow")))
    }

    /// Reads what an operator names: that line, or a PEM file around it. `name` is for messages.
    pub fn of_text(name: &str, text: &str) -> Result<Self> {
        if private_key_of(text.as_bytes()).is_some() {
            return Err(Error::new(
                Kind::Usage,
                format!("{name} holds a private key, and a signer is trusted by the public one"),
            )
            .hint(
                "give what `openssl pkey -in FILE -pubout` prints, and keep the private key where backups are made",
            ));
        }
        let key = match public_key_of(text.as_bytes()) {
            Some(spki) => PublicKey::parse(&base64(&spki)),
            None => PublicKey::parse(text.trim()),
        };
        key.ok_or_else(|| Error::new(Kind::Usage, format!("{name} holds no public key of Ed25519")).hint(HINT_PUBLIC))
    }

    /// Whether the owner of this key signed `message`.
    pub fn verifies(&self, message: &[u8], signature: &Signature) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(message, &signature.0).is_ok()
    }
}

/// How a public key looks.
pub const HINT_PUBLIC: &str = "give the line between BEGIN and END of what `openssl pkey -in FILE -pubout` prints: MCowBQYDK2VwAyEA..., 60 characters";

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base64(&[&SPKI_PREFIX[..], &self.0].concat()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A signature; as text base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature([u8; SIGNATURE_BYTES]);

impl Signature {
    /// Reads base64, strictly.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; SIGNATURE_BYTES];
        from_base64(text, &mut bytes).then_some(Signature(bytes))
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base64(&self.0))
    }
}

/// A private key. Clones share it.
#[derive(Clone)]
pub struct SigningKey(Arc<Ed25519KeyPair>);

impl SigningKey {
    /// Reads the PEM that `openssl genpkey -algorithm ed25519` writes. `name` is for messages.
    pub fn parse(name: &str, pem: &str) -> Result<Self> {
        const MAKE: &str = "make one with `openssl genpkey -algorithm ed25519 -out FILE`";
        let wrong = |why: String, hint: &str| Error::new(Kind::Usage, why).hint(hint);
        if pem.contains("ENCRYPTED PRIVATE KEY") {
            let hint =
                "take the passphrase off with `openssl pkey -in FILE -out NEW`, and let only the backup's user read it";
            return Err(wrong(format!("the key in {name} is protected by a passphrase"), hint));
        }
        let Some(pkcs8) = private_key_of(pem.as_bytes()) else {
            let what = if public_key_of(pem.as_bytes()).is_some() { "a public key" } else { "no private key in PEM" };
            return Err(wrong(format!("{name} holds {what}, and only a private key signs"), MAKE));
        };
        // openssl writes version 1 of PKCS #8, which does not hold the public key beside the private one.
        match Ed25519KeyPair::from_pkcs8_maybe_unchecked(&pkcs8) {
            Ok(pair) => Ok(SigningKey(Arc::new(pair))),
            Err(_) => Err(wrong(format!("the key in {name} is not one of Ed25519"), MAKE)),
        }
    }

    /// By what others know it.
    pub fn public(&self) -> PublicKey {
        PublicKey(*self.0.public_key().as_ref().first_chunk().expect("a public key has 32 bytes"))
    }

    /// Signs; the same bytes always get the same signature.
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature(*self.0.sign(message).as_ref().first_chunk().expect("a signature has 64 bytes"))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public())
    }
}

/// What a document's signature is worth to this reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Signed by somebody who is trusted.
    Trusted(PublicKey),
    /// Signed by somebody who is not.
    Unknown(PublicKey),
    /// Not signed.
    Unsigned,
}

impl Standing {
    /// Its name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Standing::Trusted(_) => "trusted",
            Standing::Unknown(_) => "unknown_signer",
            Standing::Unsigned => "unsigned",
        }
    }

    /// Who signed.
    pub const fn signer(self) -> Option<PublicKey> {
        match self {
            Standing::Trusted(key) | Standing::Unknown(key) => Some(key),
            Standing::Unsigned => None,
        }
    }
}

/// Whom this reader believes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signers {
    trusted: Vec<PublicKey>,
    allow_unsigned: bool,
}

impl Signers {
    /// These; and everybody, with a remark, where the operator allows it.
    pub fn new(mut trusted: Vec<PublicKey>, allow_unsigned: bool) -> Self {
        trusted.sort_unstable();
        trusted.dedup();
        Signers { trusted, allow_unsigned }
    }

    /// The keys that are trusted, in order.
    pub fn trusted(&self) -> &[PublicKey] {
        &self.trusted
    }

    /// Whether the operator allows what nobody trusted has signed.
    pub fn allow_unsigned(&self) -> bool {
        self.allow_unsigned
    }

    /// What a signature by `signer` is worth; none: there is no signature.
    pub fn standing(&self, signer: Option<PublicKey>) -> Standing {
        match signer {
            None => Standing::Unsigned,
            Some(key) if self.trusted.contains(&key) => Standing::Trusted(key),
            Some(key) => Standing::Unknown(key),
        }
    }

    /// Whether it is believed without anybody allowing it.
    pub fn believes(&self, standing: Standing) -> bool {
        match standing {
            Standing::Trusted(_) => true,
            Standing::Unsigned => self.trusted.is_empty(),
            Standing::Unknown(_) => false,
        }
    }

    /// Whether it may be used.
    pub fn admits(&self, standing: Standing) -> bool {
        self.allow_unsigned || self.believes(standing)
    }

    /// Why it may not be used, when that is so; `what` is what was signed, or not.
    pub fn check(&self, what: &str, standing: Standing) -> Result<()> {
        if self.admits(standing) {
            return Ok(());
        }
        Err(match standing {
            Standing::Unknown(key) => {
                Error::damaged(format!("{what} is signed by {key}, which is not trusted")).hint(format!(
                    "if that key is yours, name it with --trust-key {key} or in trusted_signers; --allow-unsigned uses \
                     the point whoever signed it"
                ))
            }
            _ => Error::damaged(format!("{what} is not signed, and only points of trusted signers are used"))
                .hint("if you know who made the point, use it with --allow-unsigned; otherwise treat it as forged"),
        })
    }

    /// What is to be said of a point that is used although nobody trusted has signed it.
    pub fn doubt(&self, standing: Standing) -> Option<String> {
        match standing {
            Standing::Trusted(_) => None,
            Standing::Unknown(key) => Some(format!("signed by {key}, which is not trusted")),
            Standing::Unsigned if self.trusted.is_empty() && !self.allow_unsigned => None,
            Standing::Unsigned => Some("unsigned: nothing tells who made it".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::testing;

    fn hex(text: &str) -> Vec<u8> {
        let mut bytes = vec![0; text.len() / 2];
        assert!(crate::base::digest::from_hex(text, &mut bytes));
        bytes
    }

    /// The key of a seed, as openssl writes it.
    fn key(seed: &[u8]) -> SigningKey {
        SigningKey::parse("key", &testing::key_pem(seed)).unwrap()
    }

    #[test]
    fn the_vectors_of_rfc_8032_hold() {
        // RFC 8032, 7.1, tests 1 to 3: seed, public key, message, signature.
        for (seed, public, message, signature) in [
            (
                "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
                "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
                "",
                "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
            ),
            (
                "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
                "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
                "72",
                "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
            ),
            (
                "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
                "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
                "af82",
                "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
            ),
        ] {
            let key = key(&hex(seed));
            assert_eq!(key.public().0[..], hex(public)[..]);
            let made = key.sign(&hex(message));
            assert_eq!(made.0[..], hex(signature)[..]);
            assert!(key.public().verifies(&hex(message), &made));
            assert!(!key.public().verifies(b"x", &made));
            for at in 0..SIGNATURE_BYTES {
                let mut wrong = made;
                wrong.0[at] ^= 1;
                assert!(!key.public().verifies(&hex(message), &wrong), "byte {at}");
            }
        }
    }

    #[test]
    fn what_openssl_writes_is_read() {
        // A key made by `openssl genpkey -algorithm ed25519`, and what `openssl pkey -pubout` says of it.
        let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIGzgSSKbQWZ0CV/QdJ1FMyGrB95vUVMFJWZw9FBZ1QSo\n-----END PRIVATE KEY-----\n";
        let line = "MCowBQYDK2VwAyEAQJjwDg7vC6H32uYbUBskG/S8SfjruUhMKHeRqCAPMvE=";
        let key = SigningKey::parse("key", pem).unwrap();
        assert_eq!(key.public().to_string(), line);
        assert_eq!(format!("{key:?}"), format!("SigningKey({line})"));
        assert_eq!(PublicKey::parse(line), Some(key.public()));
        let public_pem = format!("-----BEGIN PUBLIC KEY-----\n{line}\n-----END PUBLIC KEY-----\n");
        for text in [line, &format!(" {line}\n"), &public_pem] {
            assert_eq!(PublicKey::of_text("x", text).unwrap(), key.public());
        }
        let error = PublicKey::of_text("x", pem).unwrap_err();
        assert!(error.to_string().contains("private key") && !error.as_warning().contains("MC4CAQ"), "{error}");
        let signature = key.sign(b"m");
        assert_eq!(Signature::parse(&signature.to_string()), Some(signature));
    }

    #[test]
    fn what_is_no_key_is_refused_with_what_to_do() {
        let public = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAQJjwDg7vC6H32uYbUBskG/S8SfjruUhMKHeRqCAPMvE=\n-----END PUBLIC KEY-----\n";
        // X25519 under RFC 8410, and a passphrase.
        let x25519 = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VuBCIEIGzgSSKbQWZ0CV/QdJ1FMyGrB95vUVMFJWZw9FBZ1QSo\n-----END PRIVATE KEY-----\n";
        let locked = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        for (text, words) in [
            ("", "no private key"),
            (public, "a public key"),
            (x25519, "not one of Ed25519"),
            (locked, "passphrase"),
            ("MC4CAQAwBQYDK2VwBCIEIGzg", "no private key"),
        ] {
            let error = SigningKey::parse("key.pem", text).unwrap_err();
            assert!(error.to_string().contains(words) && error.hint_text().is_some(), "{error}");
            assert_eq!(error.kind(), Kind::Usage);
            assert!(!error.as_warning().contains("MC4"), "{}", error.as_warning());
        }
        for text in [
            "",
            "MCowBQYDK2VwAyEAQJjwDg7vC6H32uYbUBskG/S8SfjruUhMKHeRqCAPMvE",
            "MCowBQYDK2VwAyEAQJjwDg7vC6H32uYbUBskG/S8SfjruUhMKHeRqCAPMvF=",
            "MCowBQYDK2VuAyEAQJjwDg7vC6H32uYbUBskG/S8SfjruUhMKHeRqCAPMvE=",
            "MCowBQYDK2VwAyEBQJjwDg7vC6H32uYbUBskG/S8SfjruUhMKHeRqCAPMvE=",
            "QJjwDg7vC6H32uYbUBskG/S8SfjruUhMKHeRqCAPMvE=",
        ] {
            assert_eq!(PublicKey::parse(text), None, "{text}");
            assert!(PublicKey::of_text("x", text).unwrap_err().hint_text().is_some());
        }
    }

    #[test]
    fn whom_one_trusts_decides_what_is_used_and_what_is_said() {
        let (ours, theirs) = (key(&[1; 32]).public(), key(&[2; 32]).public());
        let nobody = Signers::default();
        let us = Signers::new(vec![ours, ours], false);
        let anybody = Signers::new(vec![ours], true);
        assert_eq!(us.trusted(), [ours]);
        // Whom one trusts, who signed; whether it is used, whether something is said.
        for (signers, signer, used, said) in [
            (&nobody, None, true, false),
            (&nobody, Some(ours), false, true),
            (&us, None, false, true),
            (&us, Some(theirs), false, true),
            (&us, Some(ours), true, false),
            (&anybody, None, true, true),
            (&anybody, Some(theirs), true, true),
            (&anybody, Some(ours), true, false),
        ] {
            let standing = signers.standing(signer);
            assert_eq!(standing.signer(), signer);
            assert_eq!((signers.admits(standing), signers.doubt(standing).is_some()), (used, said), "{standing:?}");
            let checked = signers.check("point", standing);
            assert_eq!(checked.is_ok(), used);
            if let Err(error) = checked {
                let hint = error.hint_text().unwrap();
                assert_eq!(error.kind(), Kind::Damaged);
                assert!(hint.contains("--allow-unsigned"), "{hint}");
                assert!(signer.is_none_or(|key| hint.contains(&format!("--trust-key {key}"))), "{hint}");
            }
        }
        assert!(!anybody.believes(Standing::Unsigned) && nobody.believes(Standing::Unsigned));
    }
}
