//! Signed tokens: JSON Web Tokens (RFC 7519) in the compact form of RFC 7515.
//!
//! Such a token says itself who it stands for, and until when; whoever knows the key can tell that nobody else wrote it, and
//! needs no table of sessions. Three parts in base64url, with points between them: a header that names the method of
//! signing, the claims, and the signature of both.
//!
//! The methods are those of RFC 7518 and RFC 8037 that the cryptography of this program has: HMAC, RSA with both paddings,
//! ECDSA on P-256 and P-384, Ed25519. `keys` reads their keys from files.
//!
//! Invariants:
//! - The method is the operator's. What a token's header says of it only has to be the same; so no token can choose `none`, or
//!   have a public key taken for a secret.
//! - Of a token that is refused nothing is believed, and a header that demands to be understood (`crit`) refuses it.
//! - No secret appears in a message or in `Debug` output.
//!
//! docs/decisions/0035-tokens.md says why this is no library's.

mod keys;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use ring::rand::SystemRandom;
use ring::signature as sign;
use ring::{hmac, signature::UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::base::clock::Time;
use crate::base::digest::{base64url, from_base64url};

/// Largest token that is looked at, in bytes; a signature of RSA's largest key has 1,366.
const TOKEN_BYTES_MAX: usize = 16 << 10;

/// How tokens are signed. The names are those of RFC 7518, section 3.1, and RFC 8037.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the standard's")]
pub enum Method {
    HS256,
    HS384,
    HS512,
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
}

/// All of them.
pub const METHODS: [Method; 12] = [
    Method::HS256,
    Method::HS384,
    Method::HS512,
    Method::RS256,
    Method::RS384,
    Method::RS512,
    Method::PS256,
    Method::PS384,
    Method::PS512,
    Method::ES256,
    Method::ES384,
    Method::EdDSA,
];

impl Method {
    /// Of this name.
    pub fn of(name: &str) -> Option<Method> {
        METHODS.into_iter().find(|method| method.to_string() == name)
    }

    /// Whether the two parties share a secret, instead of a pair of keys.
    pub fn is_shared(self) -> bool {
        matches!(self, Method::HS256 | Method::HS384 | Method::HS512)
    }

    fn hmac(self) -> hmac::Algorithm {
        match self {
            Method::HS384 => hmac::HMAC_SHA384,
            Method::HS512 => hmac::HMAC_SHA512,
            _ => hmac::HMAC_SHA256,
        }
    }

    fn padding(self) -> &'static dyn sign::RsaEncoding {
        match self {
            Method::RS384 => &sign::RSA_PKCS1_SHA384,
            Method::RS512 => &sign::RSA_PKCS1_SHA512,
            Method::PS256 => &sign::RSA_PSS_SHA256,
            Method::PS384 => &sign::RSA_PSS_SHA384,
            Method::PS512 => &sign::RSA_PSS_SHA512,
            _ => &sign::RSA_PKCS1_SHA256,
        }
    }

    fn curve(self) -> &'static sign::EcdsaSigningAlgorithm {
        if self == Method::ES384 {
            &sign::ECDSA_P384_SHA384_FIXED_SIGNING
        } else {
            &sign::ECDSA_P256_SHA256_FIXED_SIGNING
        }
    }

    fn check(self) -> &'static dyn sign::VerificationAlgorithm {
        match self {
            Method::RS384 => &sign::RSA_PKCS1_2048_8192_SHA384,
            Method::RS512 => &sign::RSA_PKCS1_2048_8192_SHA512,
            Method::PS256 => &sign::RSA_PSS_2048_8192_SHA256,
            Method::PS384 => &sign::RSA_PSS_2048_8192_SHA384,
            Method::PS512 => &sign::RSA_PSS_2048_8192_SHA512,
            Method::ES256 => &sign::ECDSA_P256_SHA256_FIXED,
            Method::ES384 => &sign::ECDSA_P384_SHA384_FIXED,
            Method::EdDSA => &sign::ED25519,
            _ => &sign::RSA_PKCS1_2048_8192_SHA256,
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What an operator says of tokens: the method, and the files of the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// How tokens are signed.
    pub method: Method,
    /// The key that signs; of HMAC, the secret. Without it tokens are only checked.
    pub private: Option<PathBuf>,
    /// The key that checks, where there is none that signs.
    pub public: Option<PathBuf>,
    /// How long a token is good for.
    pub ttl: Duration,
}

/// What signs.
enum Secret {
    Hmac(hmac::Key),
    Rsa(sign::RsaKeyPair),
    Ecdsa(sign::EcdsaKeyPair),
    Ed25519(sign::Ed25519KeyPair),
}

/// Keys of one method.
pub struct Keys {
    method: Method,
    secret: Option<Secret>,
    public: Vec<u8>,
    ttl: Duration,
    random: SystemRandom,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys")
            .field("method", &self.method)
            .field("signs", &self.secret.is_some())
            .finish_non_exhaustive()
    }
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// Who it stands for.
    pub username: String,
    /// The revision of the rules at which that user's password was compared.
    pub revision: u64,
}

/// The header of a token.
#[derive(Deserialize)]
struct Header {
    alg: String,
    crit: Option<Value>,
}

/// The claims as they are written; in the order in which they are sent.
#[derive(Serialize)]
struct Written<'a> {
    exp: i64,
    revision: u64,
    username: &'a str,
}

/// The claims as they are read: seconds may have a fraction (RFC 7519, section 2).
#[derive(Deserialize)]
struct Read {
    username: String,
    revision: u64,
    exp: Option<f64>,
    nbf: Option<f64>,
    iat: Option<f64>,
}

/// No key of these signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CannotSign;

impl Keys {
    /// Writes a token for a user.
    pub fn write(&self, claims: &Claims, now: Time) -> Result<String, CannotSign> {
        let header = format!(r#"{{"alg":"{}","typ":"JWT"}}"#, self.method);
        let exp = now.timestamp().saturating_add(i64::try_from(self.ttl.as_secs()).unwrap_or(i64::MAX));
        let written = Written { exp, revision: claims.revision, username: &claims.username };
        let written = serde_json::to_vec(&written).map_err(|_| CannotSign)?;
        let message = format!("{}.{}", base64url(header.as_bytes()), base64url(&written));
        let signature = self.sign(message.as_bytes()).ok_or(CannotSign)?;
        Ok(format!("{message}.{}", base64url(&signature)))
    }

    fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        Some(match self.secret.as_ref()? {
            Secret::Hmac(key) => hmac::sign(key, message).as_ref().to_vec(),
            Secret::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(self.method.padding(), &self.random, message, &mut signature).ok()?;
                signature
            }
            Secret::Ecdsa(key) => key.sign(&self.random, message).ok()?.as_ref().to_vec(),
            Secret::Ed25519(key) => key.sign(message).as_ref().to_vec(),
        })
    }

    /// What a token says, where these keys signed it and it is good now.
    pub fn read(&self, token: &str, now: Time) -> Option<Claims> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let (message, signature) = token.rsplit_once('.')?;
        let (header, claims) = message.split_once('.')?;
        let header: Header = serde_json::from_slice(&from_base64url(header)?).ok()?;
        if Method::of(&header.alg) != Some(self.method) || header.crit.is_some() {
            return None;
        }
        if !self.verifies(message.as_bytes(), &from_base64url(signature)?) {
            return None;
        }
        let claims: Read = serde_json::from_slice(&from_base64url(claims)?).ok()?;
        claims.at(now)
    }

    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        if let Some(Secret::Hmac(key)) = &self.secret {
            return hmac::verify(key, message, signature).is_ok();
        }
        UnparsedPublicKey::new(self.method.check(), &self.public).verify(message, signature).is_ok()
    }
}

impl Read {
    /// Where they are good at this moment.
    fn at(self, now: Time) -> Option<Claims> {
        let now = now.timestamp_millis() as f64 / 1000.0;
        let lasts = self.exp.is_none_or(|exp| now < exp);
        let begun = [self.nbf, self.iat].into_iter().flatten().all(|from| from <= now);
        (lasts && begun).then_some(Claims { username: self.username, revision: self.revision })
    }
}

#[cfg(test)]
mod tests;
