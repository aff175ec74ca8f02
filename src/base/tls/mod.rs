//! Certificates and keys as files: read, checked for what they claim to be, handed on as PEM.
//!
//! Most TLS trouble is a wrong file: the key where the certificate belongs, DER instead of PEM, a path that moved. Such a
//! mistake is told here with the path, because a TLS library that meets the bytes later no longer knows where they came
//! from. Whether a certificate is trusted, valid today and fits its key is the TLS library's to say.
//!
//! Invariants:
//! - What leaves here holds at least one block of the kind it should that the TLS library can use, and every block is
//!   well-formed base64.
//! - A private key appears in no message and in no `Debug` output.

mod name;
mod own;
mod server;

use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use rustls::server::ParsedCertificate;

use crate::base::error::{Error, IoContext, Kind, Result};
use crate::base::units;

pub use name::{common_name, public_bits_in};
pub use own::OwnFiles;
pub use server::{ServerFiles, ServerTls, Versions};

/// Largest PEM file, in bytes; a system's whole bundle of authorities has about 220 KiB.
pub const PEM_BYTES_MAX: u64 = 4 * units::MIB;

/// Where the files of a TLS client are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates of the authorities to trust; none: those of the system.
    pub ca: Option<PathBuf>,
    /// Our certificate, followed by its intermediates.
    pub cert: Option<PathBuf>,
    /// The private key of our certificate.
    pub key: Option<PathBuf>,
}

/// What the files hold: PEM that was checked.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// Authorities to trust; none: those of the system.
    pub ca: Option<Vec<u8>>,
    /// What we show to be let in.
    pub identity: Option<Identity>,
}

impl Tls {
    /// A client's configuration with ring that trusts these authorities, or the system's when there are none here.
    pub fn client_config(&self) -> Result<rustls::ClientConfig> {
        let cannot = |why: String| {
            Error::new(Kind::Usage, format!("the authorities cannot be used: {why}"))
                .hint("name a PEM file with the certificates of the authorities that sign the server's")
        };
        let mut roots = RootCertStore::empty();
        match &self.ca {
            Some(pem) => {
                for certificate in CertificateDer::pem_slice_iter(pem) {
                    let certificate = certificate.map_err(|error| cannot(error.to_string()))?;
                    roots.add(certificate).map_err(|error| cannot(error.to_string()))?;
                }
            }
            // A machine without any has no use for https, and may still speak http.
            None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        Ok(builder.expect("ring speaks TLS 1.2 and 1.3").with_root_certificates(roots).with_no_client_auth())
    }
}

/// A certificate chain and its private key.
#[derive(Clone)]
pub struct Identity {
    /// PEM of the chain, our own certificate first.
    pub cert: Vec<u8>,
    /// PEM of the key.
    pub key: Vec<u8>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({} bytes of certificates and a key)", self.cert.len())
    }
}

impl TlsFiles {
    /// Whether no file is named.
    pub fn is_empty(&self) -> bool {
        *self == TlsFiles::default()
    }

    /// Reads and checks all files.
    pub fn load(&self) -> Result<Tls> {
        let ca = self.ca.as_deref().map(|path| read("the CA certificate", path, Holds::Authority)).transpose()?;
        let identity = match (&self.cert, &self.key) {
            (None, None) => None,
            (Some(cert), Some(key)) => Some(Identity {
                cert: read("the client certificate", cert, Holds::Certificate)?,
                key: read("the client key", key, Holds::Key)?,
            }),
            (Some(cert), None) => {
                return Err(Error::new(Kind::Usage, format!("client certificate {} has no key", cert.display()))
                    .hint("name the certificate's private key with `key`"));
            }
            (None, Some(key)) => {
                return Err(Error::new(Kind::Usage, format!("client key {} has no certificate", key.display()))
                    .hint("name the key's certificate with `cert`"));
            }
        };
        Ok(Tls { ca, identity })
    }
}

/// The first private key of a PEM text, in PKCS #8; none when it holds none.
pub fn private_key_of(pem: &[u8]) -> Option<Vec<u8>> {
    Some(PrivatePkcs8KeyDer::from_pem_slice(pem).ok()?.secret_pkcs8_der().to_vec())
}

/// A private key as a file may hold it, each in DER.
#[derive(Clone, PartialEq, Eq)]
pub enum PrivateKey {
    /// Of any kind (RFC 5958).
    Pkcs8(Vec<u8>),
    /// Of RSA (RFC 8017).
    Pkcs1(Vec<u8>),
    /// Of an elliptic curve (RFC 5915).
    Sec1(Vec<u8>),
}

/// The first private key of a PEM text, as it is there; none when it holds none.
pub fn private_key_in(pem: &[u8]) -> Option<PrivateKey> {
    match PrivateKeyDer::from_pem_slice(pem).ok()? {
        PrivateKeyDer::Pkcs8(der) => Some(PrivateKey::Pkcs8(der.secret_pkcs8_der().to_vec())),
        PrivateKeyDer::Pkcs1(der) => Some(PrivateKey::Pkcs1(der.secret_pkcs1_der().to_vec())),
        PrivateKeyDer::Sec1(der) => Some(PrivateKey::Sec1(der.secret_sec1_der().to_vec())),
        _ => None,
    }
}

/// The first public key of a PEM text, as a SubjectPublicKeyInfo; none when it holds none.
pub fn public_key_of(pem: &[u8]) -> Option<Vec<u8>> {
    Some(SubjectPublicKeyInfoDer::from_pem_slice(pem).ok()?.to_vec())
}

/// What a file must hold at least one of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holds {
    /// Certificates of authorities. One that can be used is enough: bundles hold odd ones.
    Authority,
    /// A chain, our own certificate first.
    Certificate,
    Key,
    Revocations,
}

impl Holds {
    fn is(self, label: &str) -> bool {
        match self {
            Holds::Authority | Holds::Certificate => label == "CERTIFICATE",
            Holds::Key => matches!(label, "PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY"),
            Holds::Revocations => label == "X509 CRL",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Holds::Authority | Holds::Certificate => "certificate",
            Holds::Key => "private key",
            Holds::Revocations => "list of revoked certificates",
        }
    }
}

fn read(what: &str, path: &Path, holds: Holds) -> Result<Vec<u8>> {
    let during = || format!("read {what} {}", path.display());
    let file = std::fs::File::open(path).during(during).map_err(|error| unreadable(error, path))?;
    if file.metadata().is_ok_and(|file| file.is_dir()) {
        return Err(wrong("it is a directory", "name the PEM file itself").during(during()));
    }
    let mut pem = Vec::new();
    file.take(PEM_BYTES_MAX + 1).read_to_end(&mut pem).during(during).map_err(|error| unreadable(error, path))?;
    check(&pem, holds).map_err(|error| error.during(during()))?;
    Ok(pem)
}

/// A file that is not there is a mistake in the configuration, not data that nobody has.
fn unreadable(error: Error, path: &Path) -> Error {
    match error.kind() {
        Kind::NotFound => {
            error.kind_of(Kind::Usage).hint(format!("correct the path, or put the file at {}", path.display()))
        }
        Kind::Denied => error.hint("let the user who runs this read the file, or run as another user"),
        _ => error.or_hint("name a readable PEM file"),
    }
}

fn wrong(message: impl Into<String>, hint: impl Into<String>) -> Error {
    Error::new(Kind::Usage, message).hint(hint)
}

/// Checks that `pem` is PEM and holds what it should.
fn check(pem: &[u8], holds: Holds) -> Result<()> {
    const AS_PEM: &str =
        "convert it, for example with `openssl x509 -inform der -in FILE -out FILE.pem` (keys: `openssl pkey`)";
    if pem.len() as u64 > PEM_BYTES_MAX {
        return Err(wrong(
            format!("more than {}", units::bytes(PEM_BYTES_MAX)),
            "name a PEM file; this is something else",
        ));
    }
    let Ok(text) = std::str::from_utf8(pem) else {
        // 0x30 opens every DER certificate and key.
        let what = if pem.first() == Some(&0x30) { "DER, not PEM" } else { "not PEM: it holds bytes that are no text" };
        return Err(wrong(what, AS_PEM));
    };
    let labels = labels(text)?;
    if labels.iter().any(|label| holds.is(label)) {
        return usable(pem, holds);
    }
    if holds == Holds::Key && labels.contains(&"ENCRYPTED PRIVATE KEY") {
        return Err(wrong(
            "the key is protected by a passphrase",
            "decrypt it: `openssl pkey -in FILE -out FILE.plain`",
        ));
    }
    let other = if holds == Holds::Key { Holds::Certificate } else { Holds::Key };
    if labels.iter().any(|label| other.is(label)) {
        return Err(wrong(
            format!("it holds a {}, not a {}", other.name(), holds.name()),
            "the paths of certificate and key may have been swapped",
        ));
    }
    match labels.first() {
        Some(label) => Err(wrong(format!("it holds a {label:?}, not a {}", holds.name()), "name another file")),
        None => Err(wrong("not PEM: no line begins with -----BEGIN", AS_PEM)),
    }
}

/// Asks the TLS library. It passes over an authority that it cannot read, and then calls every peer untrusted.
fn usable(pem: &[u8], holds: Holds) -> Result<()> {
    let mut certificates = CertificateDer::pem_slice_iter(pem);
    let usable = match holds {
        Holds::Authority => certificates.flatten().any(|der| RootCertStore::empty().add(der).is_ok()),
        Holds::Certificate => certificates.next().is_some_and(|der| der.is_ok_and(|der| parses(&der))),
        Holds::Key => PrivateKeyDer::from_pem_slice(pem).is_ok_and(|der| any_supported_type(&der).is_ok()),
        // Its use says more about it.
        Holds::Revocations => true,
    };
    if usable {
        return Ok(());
    }
    let tool = if holds == Holds::Key { "openssl pkey -noout -in FILE" } else { "openssl x509 -noout -text -in FILE" };
    Err(wrong(
        format!("it holds no usable {}: what its block says is none", holds.name()),
        format!("copy the file again from its source; `{tool}` tells what is in it"),
    ))
}

fn parses(der: &CertificateDer<'_>) -> bool {
    ParsedCertificate::try_from(der).is_ok()
}

/// The labels of all blocks, each checked to be closed and to be base64. Text between blocks is comment.
fn labels(text: &str) -> Result<Vec<&str>> {
    const INTACT: &str = "the file is cut short or was edited: copy it again from its source";
    let label = |line: &'_ str, edge: &str| -> Option<(usize, usize)> {
        let inner = line.strip_prefix(edge)?.strip_suffix("-----")?;
        Some((edge.len(), inner.len()))
    };
    let mut labels = Vec::new();
    let mut open: Option<&str> = None;
    for (n, line) in text.lines().enumerate() {
        let (n, line) = (n + 1, line.trim());
        if let Some((start, len)) = label(line, "-----BEGIN ") {
            if open.is_some() {
                return Err(wrong(format!("line {n}: a block begins inside another"), INTACT));
            }
            open = Some(&line[start..start + len]);
        } else if let Some((start, len)) = label(line, "-----END ") {
            if open != Some(&line[start..start + len]) {
                return Err(wrong(format!("line {n}: a block ends that did not begin"), INTACT));
            }
            labels.extend(open.take());
        } else if open.is_some() {
            // Old encrypted keys carry headers such as `Proc-Type: 4,ENCRYPTED` inside the block.
            if line.starts_with("Proc-Type:") && line.ends_with("ENCRYPTED") {
                return Err(wrong(
                    "the key is protected by a passphrase",
                    "decrypt it: `openssl pkey -in FILE -out FILE.plain`",
                ));
            }
            let base64 = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'/' | b'=');
            if !line.bytes().all(base64) {
                return Err(wrong(format!("line {n}: not base64"), INTACT));
            }
        }
    }
    match open {
        Some(label) => Err(wrong(format!("the block {label:?} has no end"), INTACT)),
        None => Ok(labels),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Well-formed, but nobody can use it.
    const CERT: &str = "# ours\n-----BEGIN CERTIFICATE-----\nMIIBszCCAVmgAwIBAgIU\nAA==\n-----END CERTIFICATE-----\n";
    const KEY: &str = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n\
                       -----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIF==\n-----END EC PRIVATE KEY-----\n";

    /// A certificate and its key.
    fn pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(vec!["etcd".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn file(dir: &tempfile::TempDir, name: &str, bytes: &[u8]) -> Option<PathBuf> {
        use std::io::Write as _;
        let path = dir.path().join(name);
        std::fs::File::create(&path).unwrap().write_all(bytes).unwrap();
        Some(path)
    }

    #[test]
    fn right_files_load_and_the_key_stays_hidden() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = pair();
        let parameters = &KEY[..KEY.find("-----BEGIN EC PRIVATE").unwrap()];
        let both = format!("{parameters}{key}# ours\n{cert}");
        // A bundle may hold what nobody can use, beside what can be.
        let bundle = format!("{CERT}{cert}").replace('\n', "\r\n");
        let files = TlsFiles {
            ca: file(&dir, "ca.crt", bundle.as_bytes()),
            cert: file(&dir, "both.pem", both.as_bytes()),
            key: file(&dir, "both.pem", both.as_bytes()),
        };
        let tls = files.load().unwrap();
        assert!(tls.ca.is_some() && !files.is_empty());
        let secret = key.lines().nth(1).unwrap();
        assert!(!secret.is_empty() && !format!("{tls:?}").contains(secret));
        assert!(TlsFiles::default().load().unwrap().identity.is_none() && TlsFiles::default().is_empty());
    }

    #[test]
    fn a_certificate_needs_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let alone = TlsFiles { cert: file(&dir, "c", CERT.as_bytes()), ..TlsFiles::default() };
        assert!(alone.load().unwrap_err().chain().ends_with("has no key"));
        let alone = TlsFiles { key: file(&dir, "k", KEY.as_bytes()), ..TlsFiles::default() };
        assert!(alone.load().unwrap_err().chain().ends_with("has no certificate"));
    }

    #[test]
    fn what_no_tls_library_can_use_is_named_before_it_is_called_untrusted() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = pair();
        // Not base64 for its padding; base64 of nothing; right with one byte less.
        let short = |pem: &str| pem.replacen("\nMII", "\nMIM", 1).replacen("\nMIG", "\nMIH", 1);
        let nothing = |label: &str| format!("-----BEGIN {label}-----\nnothing\n-----END {label}-----\n");
        for (holds, what, wrong) in [
            (Holds::Authority, "certificate", vec![CERT.to_owned(), nothing("CERTIFICATE"), short(&cert)]),
            (Holds::Certificate, "certificate", vec![CERT.to_owned(), nothing("CERTIFICATE"), CERT.to_owned() + &cert]),
            (Holds::Key, "private key", vec![KEY.to_owned(), nothing("PRIVATE KEY"), short(&key)]),
        ] {
            for pem in wrong {
                let path = file(&dir, "wrong.pem", pem.as_bytes()).unwrap();
                let error = read("the file", &path, holds).unwrap_err();
                let text = format!("read the file {}: it holds no usable {what}", path.display());
                assert!(error.chain().starts_with(&text), "{}", error.chain());
                assert!(error.kind() == Kind::Usage && error.hint_text().unwrap().contains("openssl"), "{text}");
            }
        }
    }

    #[test]
    fn every_mistake_has_its_own_words() {
        let dir = tempfile::tempdir().unwrap();
        let encrypted = CERT.replace("CERTIFICATE", "ENCRYPTED PRIVATE KEY");
        let old = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n-----END RSA PRIVATE KEY-----\n";
        let large = vec![b'\n'; usize::try_from(PEM_BYTES_MAX).unwrap() + 1];
        let cases: &[(&[u8], bool, &str)] = &[
            (b"", false, "not PEM: no line begins with -----BEGIN"),
            (b"\x30\x82\x03\xff", false, "DER, not PEM"),
            (b"\xff\xfe", false, "not PEM: it holds bytes that are no text"),
            (CERT.as_bytes(), true, "it holds a certificate, not a private key"),
            (KEY.as_bytes(), false, "it holds a private key, not a certificate"),
            (encrypted.as_bytes(), true, "the key is protected by a passphrase"),
            (old.as_bytes(), true, "the key is protected by a passphrase"),
            (&CERT.as_bytes()[..40], false, "the block \"CERTIFICATE\" has no end"),
            (&CERT.as_bytes()[20..], false, "line 4: a block ends that did not begin"),
            (b"-----BEGIN X-----\n-----BEGIN Y-----\n", false, "line 2: a block begins inside another"),
            (b"-----BEGIN X-----\n{}\n", false, "line 2: not base64"),
            (b"-----BEGIN X-----\n-----END X-----\n", false, "it holds a \"X\", not a certificate"),
            (&large, false, "more than 4.00 MiB"),
        ];
        for (bytes, is_key, text) in cases {
            let holds = if *is_key { Holds::Key } else { Holds::Certificate };
            let path = file(&dir, "f", bytes).unwrap();
            let error = read("the file", &path, holds).unwrap_err();
            assert!(error.chain().ends_with(text), "{} is not {text}", error.chain());
            assert!(error.hint_text().is_some() && error.kind() == Kind::Usage, "{text}");
        }
    }

    #[test]
    fn a_missing_file_is_a_mistake_of_configuration() {
        let files = TlsFiles { ca: Some(PathBuf::from("/nowhere/ca.crt")), ..TlsFiles::default() };
        let error = files.load().unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        assert!(error.chain().starts_with("read the CA certificate /nowhere/ca.crt: No such file"));
        assert!(error.hint_text().unwrap().contains("/nowhere/ca.crt"));
        let dir = tempfile::tempdir().unwrap();
        let files = TlsFiles { ca: Some(dir.path().to_owned()), ..TlsFiles::default() };
        let error = files.load().unwrap_err();
        assert!(error.kind() == Kind::Usage && error.chain().ends_with("it is a directory"), "{}", error.chain());
    }
}
