//! A certificate authority for the length of one drill: it signs one certificate, and its own key is gone at once.
//!
//! A member that serves a copy of a cluster's secrets must serve them to nobody else on the host, and where the copy has
//! authentication on, whoever looks must be somebody. One certificate does both: it is the only one that the authority
//! ever signs, and etcd takes the name in it for the user's.

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

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
