//! A certificate authority for the length of one drill: it signs one certificate, and its own key is gone at once.
//!
//! A member that serves a copy of a cluster's secrets must serve them to nobody else on the host, and where the copy has
//! authentication on, whoever looks must be somebody. One certificate does both: it is the only one that the authority
//! ever signs, and etcd takes the name in it for the user's.
//!
//! And a certificate that vouches for itself, for a server that was told to make its own.

use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rcgen::{KeyUsagePurpose, date_time_ymd};

use crate::base::clock::Time;
use crate::base::error::{Error, Kind, Result};

/// What was made, as PEM.
pub struct Minted {
    /// The authority's certificate.
    pub ca: String,
    /// The one certificate, for both ends of a connection to 127.0.0.1.
    pub cert: String,
    /// Its private key.
    pub key: String,
}

impl std::fmt::Debug for Minted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Minted").finish_non_exhaustive()
    }
}

/// An authority, and a certificate of it in the name of `user`.
pub fn mint(user: &str) -> Result<Minted> {
    make(user).map_err(|error| {
        Error::new(Kind::Failed, "make a certificate")
            .source(error)
            .hint("this is a fault of Holdfast: please report it")
    })
}

fn make(user: &str) -> std::result::Result<Minted, rcgen::Error> {
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(DnType::CommonName, "holdfast drill");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate()?;
    let ca = authority.self_signed(&authority_key)?.pem();
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, user);
    params.use_authority_key_identifier_extension = true;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate()?;
    let cert = params.signed_by(&key, &Issuer::new(authority, authority_key))?;
    Ok(Minted { ca, cert: cert.pem(), key: key.serialize_pem() })
}

/// A certificate that nobody signed but itself, and its private key, as PEM.
pub struct SelfSigned {
    /// The certificate.
    pub cert: String,
    /// Its private key.
    pub key: String,
}

impl std::fmt::Debug for SelfSigned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SelfSigned").finish_non_exhaustive()
    }
}

/// A server's certificate for these names and IP addresses, from now on for so long.
pub fn self_signed(hosts: &[String], now: Time, lasts: Duration) -> Result<SelfSigned> {
    sign_itself(hosts, now, lasts).map_err(|error| {
        Error::new(Kind::Usage, format!("make a certificate for {}", hosts.join(", ")))
            .source(error)
            .hint("listen at IP addresses or host names that a certificate can hold")
    })
}

fn sign_itself(hosts: &[String], now: Time, lasts: Duration) -> std::result::Result<SelfSigned, rcgen::Error> {
    let mut params = CertificateParams::new(hosts.to_vec())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "holdfast");
    params.not_before = date_time_ymd(1970, 1, 1) + Duration::from_secs(now.timestamp().max(0).unsigned_abs());
    params.not_after = params.not_before + lasts;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate()?;
    Ok(SelfSigned { cert: params.self_signed(&key)?.pem(), key: key.serialize_pem() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_minted_can_be_loaded_and_is_never_the_same() {
        let (one, two) = (mint("root").unwrap(), mint("root").unwrap());
        assert!(one.ca != two.ca && one.key != two.key);
        for (pem, kind) in [(&one.ca, "CERTIFICATE"), (&one.cert, "CERTIFICATE"), (&one.key, "PRIVATE KEY")] {
            assert!(pem.starts_with(&format!("-----BEGIN {kind}-----")), "{kind}");
        }
        assert!(!format!("{one:?}").contains("BEGIN"), "a key is shown nowhere");
    }
}
