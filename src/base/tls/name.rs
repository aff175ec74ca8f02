//! What is in a certificate: a name, and a public key.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::parse_x509_certificate;
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::public_key_of;

/// The common name (RFC 5280, 4.1.2.6; X.520) of whom a certificate in DER is about: the last, where there are several, as
/// Go and so etcd take it.
/// None when it has none, or cannot be read.
pub fn common_name(certificate: &[u8]) -> Option<String> {
    let (_, certificate) = parse_x509_certificate(certificate).ok()?;
    let name = certificate.subject().iter_common_name().last()?;
    name.as_str().ok().map(str::to_owned)
}

/// The bits of the first public key of a PEM text, which may be within a certificate: of RSA its two numbers in DER (RFC 8017),
/// of an elliptic curve the point. None when it holds none.
pub fn public_bits_in(pem: &[u8]) -> Option<Vec<u8>> {
    let bits = |key: &SubjectPublicKeyInfo<'_>| key.subject_public_key.data.to_vec();
    if let Some(key) = public_key_of(pem) {
        return SubjectPublicKeyInfo::from_der(&key).ok().map(|(_, key)| bits(&key));
    }
    let certificate = CertificateDer::from_pem_slice(pem).ok()?;
    let (_, certificate) = parse_x509_certificate(&certificate).ok()?;
    Some(bits(certificate.public_key()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    #[test]
    fn a_certificate_names_whom_it_is_about() {
        let key = KeyPair::generate().unwrap();
        let of = |names: &[&str]| {
            let mut params = CertificateParams::default();
            params.distinguished_name = DistinguishedName::new();
            names.iter().for_each(|name| params.distinguished_name.push(DnType::CommonName, *name));
            params.self_signed(&key).unwrap().der().to_vec()
        };
        assert_eq!(common_name(&of(&["ann"])).as_deref(), Some("ann"));
        assert_eq!(common_name(&of(&["a\u{f6}"])).as_deref(), Some("a\u{f6}"));
        assert_eq!(common_name(&of(&["ann", "root"])).as_deref(), Some("root"));
        assert_eq!(common_name(&of(&[])), None);
        let whole = of(&["ann"]);
        for cut in 0..whole.len() {
            assert_eq!(common_name(&whole[..cut]), None);
        }
    }
}
