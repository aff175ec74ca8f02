//! Keys of signed tokens, from the files that openssl writes.
//!
//! A secret of HMAC is a file's bytes as they are. Everything else is PEM: private keys as PKCS #8, or as the older PKCS #1
//! of RSA and SEC 1 of elliptic curves; public keys as a SubjectPublicKeyInfo, or within a certificate.

use std::path::Path;

use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair};
use sec1::EcPrivateKey;
use sec1::der::Decode as _;

use super::{Files, Keys, Method, Secret};
use crate::base::error::{Error, Kind, Result};
use crate::base::file::read_small;
use crate::base::tls::{PrivateKey, private_key_in, public_bits_in};

/// Largest file of a key, in bytes.
const KEY_BYTES_MAX: u64 = 1 << 20;

impl Files {
    /// Reads the keys.
    pub fn load(&self) -> Result<Keys> {
        let read = |path: &Path| read_small(path, KEY_BYTES_MAX);
        let public = match &self.public {
            Some(path) if !self.method.is_shared() => {
                Some(read(path).and_then(|pem| public_of(&pem)).map_err(|error| about(path, error))?)
            }
            _ => None,
        };
        let secret = match &self.private {
            Some(path) => {
                Some(read(path).and_then(|bytes| secret_of(self.method, &bytes)).map_err(|error| about(path, error))?)
            }
            None => None,
        };
        let own = secret.as_ref().map(public_key_of);
        if let (Some(own), Some(public), Some(path)) = (&own, &public, &self.public)
            && own != public
        {
            return Err(about(
                path,
                wrong(
                    "it is not the public key of the private one",
                    "give the two of one pair, or the private one alone",
                ),
            ));
        }
        let public = own.or(public).ok_or_else(|| wrong("no key is given", "name one with priv-key= or pub-key="))?;
        let keys = Keys { method: self.method, secret, public, ttl: self.ttl, random: SystemRandom::new() };
        keys.proved()
    }
}

fn about(path: &Path, error: Error) -> Error {
    error.during(format!("read key of tokens {}", path.display()))
}

fn wrong(message: impl Into<String>, hint: impl Into<String>) -> Error {
    Error::new(Kind::Usage, message).hint(hint)
}

/// The bytes that the library takes for a public key: what SubjectPublicKeyInfo has as its bits, for each kind of key.
fn public_of(pem: &[u8]) -> Result<Vec<u8>> {
    let hint = "give what `openssl pkey -in FILE -pubout` prints, or a certificate";
    public_bits_in(pem).ok_or_else(|| wrong("it holds no public key in PEM", hint))
}

fn public_key_of(secret: &Secret) -> Vec<u8> {
    match secret {
        Secret::Hmac(_) => Vec::new(),
        Secret::Rsa(pair) => pair.public_key().as_ref().to_vec(),
        Secret::Ecdsa(pair) => pair.public_key().as_ref().to_vec(),
        Secret::Ed25519(pair) => pair.public_key().as_ref().to_vec(),
    }
}

fn secret_of(method: Method, bytes: &[u8]) -> Result<Secret> {
    if method.is_shared() {
        if bytes.is_empty() {
            return Err(wrong("it is empty", "write a secret into it: `openssl rand -out FILE 32`"));
        }
        return Ok(Secret::Hmac(hmac::Key::new(method.hmac(), bytes)));
    }
    let hint = "decrypt it, or convert it: `openssl pkey -in FILE -out FILE.pem`";
    let key = private_key_in(bytes).ok_or_else(|| wrong("it holds no private key in PEM", hint))?;
    let pair = match method {
        Method::ES256 | Method::ES384 => ecdsa(method, &key).map(Secret::Ecdsa),
        Method::EdDSA => ed25519(&key).map(Secret::Ed25519),
        _ => rsa(&key).map(Secret::Rsa),
    };
    pair.ok_or_else(|| wrong(format!("it is no key for {method}"), hint_for(method)))
}

fn hint_for(method: Method) -> &'static str {
    match method {
        Method::ES256 => "make one: `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out FILE`",
        Method::ES384 => "make one: `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out FILE`",
        Method::EdDSA => "make one: `openssl genpkey -algorithm ED25519 -out FILE`",
        _ => "make one of 2048 to 4096 bits: `openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:3072 -out FILE`",
    }
}

fn rsa(key: &PrivateKey) -> Option<RsaKeyPair> {
    match key {
        PrivateKey::Pkcs8(der) => RsaKeyPair::from_pkcs8(der).ok(),
        PrivateKey::Pkcs1(der) => RsaKeyPair::from_der(der).ok(),
        PrivateKey::Sec1(_) => None,
    }
}

fn ecdsa(method: Method, key: &PrivateKey) -> Option<EcdsaKeyPair> {
    let (curve, random) = (method.curve(), SystemRandom::new());
    match key {
        PrivateKey::Pkcs8(der) => EcdsaKeyPair::from_pkcs8(curve, der, &random).ok(),
        PrivateKey::Sec1(der) => {
            let key = EcPrivateKey::from_der(der).ok()?;
            EcdsaKeyPair::from_private_key_and_public_key(curve, key.private_key, key.public_key?, &random).ok()
        }
        PrivateKey::Pkcs1(_) => None,
    }
}

fn ed25519(key: &PrivateKey) -> Option<Ed25519KeyPair> {
    match key {
        // openssl writes the first version of the format, without the public key.
        PrivateKey::Pkcs8(der) => Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).ok(),
        _ => None,
    }
}

impl Keys {
    /// Makes sure at the start that the keys are of use: the library looks at a public key only when it checks with it.
    fn proved(self) -> Result<Keys> {
        let Some(signature) = self.sign(b"proof") else {
            return if self.secret.is_some() {
                Err(wrong("its key does not sign", hint_for(self.method)))
            } else {
                self.plausible()
            };
        };
        if self.verifies(b"proof", &signature) {
            Ok(self)
        } else {
            Err(wrong("what its key signs does not verify", hint_for(self.method)))
        }
    }

    /// Without a key that signs: whether the public one has the shape of its kind.
    fn plausible(self) -> Result<Keys> {
        let fits = match self.method {
            Method::ES256 => self.public.len() == 65,
            Method::ES384 => self.public.len() == 97,
            Method::EdDSA => self.public.len() == 32,
            // A sequence of two numbers, of which the modulus has 2048 bits at least.
            _ => self.public.first() == Some(&0x30) && self.public.len() > 256,
        };
        if fits {
            Ok(self)
        } else {
            Err(wrong(format!("the public key is none for {}", self.method), hint_for(self.method)))
        }
    }
}
