//! The certificates of a server: what it shows, whom it lets in, and that new files count without a restart.
//!
//! Whoever renews certificates replaces files. So files are looked at before each handshake, by their times and sizes, and
//! read again when they changed. New files that cannot be used change nothing: the old ones serve on, and a warning says
//! what is wrong, once.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, ProtocolVersion, RootCertStore, ServerConfig,
};
use rustls::{SignatureScheme, SupportedCipherSuite, version};

use crate::base::error::{Error, Kind, Result};
use crate::base::tls::{Holds, common_name, read};

/// What is spoken over a connection, the better first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];
/// Suites of TLS 1.2 that Go knows and rustls deliberately does not: too weak, or too slow to be worth it.
const NOT_SPOKEN: &[&str] = &[
    "TLS_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    // TLS 1.3 has no choice of suites in Go, and none here.
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
];

/// Which versions of TLS are spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Versions {
    /// 1.2 and 1.3.
    #[default]
    Both,
    /// 1.2 alone.
    Only12,
    /// 1.3 alone.
    Only13,
}

/// Where the files of a TLS server are, and what it speaks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerFiles {
    /// Its certificate, followed by its intermediates.
    pub cert: Option<PathBuf>,
    /// The private key of the certificate.
    pub key: Option<PathBuf>,
    /// Authorities that must have signed what clients show; none: clients show nothing.
    pub ca: Option<PathBuf>,
    /// Certificates of clients that count no more.
    pub crl: Option<PathBuf>,
    /// Names of which what clients show must have one; none for any.
    pub names: Vec<String>,
    /// Common names of which what clients show must have one; none for any.
    pub common_names: Vec<String>,
    /// Versions of the protocol.
    pub versions: Versions,
    /// Cipher suites of TLS 1.2, by Go's names; none for all.
    pub suites: Vec<String>,
}

impl ServerFiles {
    /// Reads and checks all files.
    fn config(&self) -> Result<ServerConfig> {
        let (Some(cert), Some(key)) = (&self.cert, &self.key) else {
            return Err(wrong("a server needs a certificate and its key", "name both files"));
        };
        let provider = Arc::new(self.provider()?);
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_protocol_versions(&self.versions_with(&provider)?).map_err(|error| {
            wrong("no cipher suite is left to speak", "name suites that can be had, or none").source(error)
        })?;
        let (chain_pem, key_pem) =
            (read("the certificate", cert, Holds::Certificate)?, read("the key", key, Holds::Key)?);
        let hint = "the certificate and its key must belong together; make them again, or correct the paths";
        let unusable = |error: String| wrong(format!("use the certificate {}: {error}", cert.display()), hint);
        let chain = CertificateDer::pem_slice_iter(&chain_pem).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| unusable(error.to_string()))?;
        let private = PrivateKeyDer::from_pem_slice(&key_pem).map_err(|error| unusable(error.to_string()))?;
        let verifier = match &self.ca {
            Some(ca) => self.verifier(ca, &provider)?,
            None => WebPkiClientVerifier::no_client_auth(),
        };
        let config = builder.with_client_cert_verifier(verifier).with_single_cert(chain, private);
        let mut config = config.map_err(|error| unusable(error.to_string()))?;
        config.alpn_protocols = PROTOCOLS.iter().map(|name| name.to_vec()).collect();
        Ok(config)
    }

    fn verifier(&self, ca: &Path, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>> {
        let mut roots = RootCertStore::empty();
        let pem = read("the CA certificate", ca, Holds::Authority)?;
        // Bundles hold odd ones.
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
        let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        let mut during = format!("use the authorities in {}", ca.display());
        if let Some(crl) = &self.crl {
            let pem = read("the list of revoked certificates", crl, Holds::Revocations)?;
            during = format!("use the list of revoked certificates in {}", crl.display());
            let lists = CertificateRevocationListDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
            let lists = lists.map_err(|error| wrong(&during, "make the list again").source(error))?;
            // As etcd has it: what the list does not speak of is not revoked.
            builder = builder.with_crls(lists).only_check_end_entity_revocation().allow_unknown_revocation_status();
        }
        let inner = builder.build();
        let inner =
            inner.map_err(|error| wrong(during, "name a PEM file made by the clients' authority").source(error))?;
        if self.names.is_empty() && self.common_names.is_empty() {
            return Ok(inner);
        }
        let read = |name: &String| ServerName::try_from(name.clone()).ok();
        let names: Option<Vec<_>> = self.names.iter().map(read).collect();
        let hint = "give host names or IP addresses, as they stand in certificates";
        let names = names.ok_or_else(|| wrong("a name that clients' certificates must have is none", hint))?;
        Ok(Arc::new(Named { inner, names, common_names: self.common_names.clone() }))
    }

    /// Those of the suites that are passed over, because they are not spoken here; an error when one has no known name.
    pub fn suites_passed_over(&self) -> Result<Vec<String>> {
        self.provider()?;
        let passed_over = |name: &&String| NOT_SPOKEN.contains(&with_hash(name).as_str());
        Ok(self.suites.iter().filter(passed_over).cloned().collect())
    }

    fn provider(&self) -> Result<CryptoProvider> {
        let mut provider = rustls::crypto::ring::default_provider();
        if self.suites.is_empty() {
            return Ok(provider);
        }
        let name_of = |suite: &SupportedCipherSuite| suite.suite().as_str().unwrap_or_default();
        let is_13 = |suite: &SupportedCipherSuite| suite.version().version == ProtocolVersion::TLSv1_3;
        for name in &self.suites {
            let full = with_hash(name);
            let spoken = provider.cipher_suites.iter().any(|suite| !is_13(suite) && name_of(suite) == full);
            if !spoken && !NOT_SPOKEN.contains(&full.as_str()) {
                let known: Vec<&str> =
                    provider.cipher_suites.iter().filter(|suite| !is_13(suite)).map(name_of).collect();
                let hint = format!("these can be had: {}", known.join(", "));
                return Err(wrong(format!("{name:?} is no cipher suite"), hint));
            }
        }
        let wanted: Vec<String> = self.suites.iter().map(|name| with_hash(name)).collect();
        provider.cipher_suites.retain(|suite| is_13(suite) || wanted.iter().any(|name| name == name_of(suite)));
        Ok(provider)
    }

    /// The versions that can be spoken with the suites that are left.
    fn versions_with(&self, provider: &CryptoProvider) -> Result<Vec<&'static rustls::SupportedProtocolVersion>> {
        let has_12 = provider.cipher_suites.iter().any(|suite| suite.version().version == ProtocolVersion::TLSv1_2);
        match (self.versions, has_12) {
            (Versions::Both, true) => Ok(vec![&version::TLS13, &version::TLS12]),
            (Versions::Only12, true) => Ok(vec![&version::TLS12]),
            (Versions::Only12, false) => {
                Err(wrong("none of the cipher suites can be had", "name others, or allow TLS 1.3, which needs none"))
            }
            (Versions::Both | Versions::Only13, _) => Ok(vec![&version::TLS13]),
        }
    }
}

/// Lets in who shows a certificate of the authorities that has one of these names.
#[derive(Debug)]
struct Named {
    inner: Arc<dyn ClientCertVerifier>,
    names: Vec<ServerName<'static>>,
    common_names: Vec<String>,
}

impl Named {
    /// Whether a certificate has one of the names, and one of the common names, where such are wanted.
    fn admits(&self, der: &CertificateDer<'_>) -> Result<bool, rustls::Error> {
        let certificate = ParsedCertificate::try_from(der)?;
        let is_named = |name| verify_server_name(&certificate, name).is_ok();
        let names = self.names.is_empty() || self.names.iter().any(is_named);
        let is_called = |name: String| self.common_names.contains(&name);
        Ok(names && (self.common_names.is_empty() || common_name(der).is_some_and(is_called)))
    }
}

impl ClientCertVerifier for Named {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        if self.admits(end_entity)? {
            return Ok(verified);
        }
        Err(rustls::Error::InvalidCertificate(CertificateError::NotValidForName))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Go has names for two suites that leave their hash out.
fn with_hash(name: &str) -> String {
    if name.ends_with("_CHACHA20_POLY1305") { format!("{name}_SHA256") } else { name.to_owned() }
}

/// What was seen of each file.
type Stamps = Vec<Option<(i64, i64, u64, u64)>>;

/// The TLS of a server, as its files are now.
pub struct ServerTls {
    files: ServerFiles,
    held: Mutex<Held>,
}

struct Held {
    stamps: Stamps,
    config: Arc<ServerConfig>,
}

impl ServerTls {
    /// Reads the files for the first time.
    pub fn load(files: ServerFiles) -> Result<Self> {
        let stamps = stamps(&files);
        let config = Arc::new(files.config()?);
        Ok(ServerTls { files, held: Mutex::new(Held { stamps, config }) })
    }

    /// What to show the next client. Reads files that changed.
    pub fn config(&self) -> Arc<ServerConfig> {
        let now = stamps(&self.files);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.stamps != now {
            held.stamps = now;
            match self.files.config() {
                Ok(config) => {
                    held.config = Arc::new(config);
                    tracing::info!("certificates were read again");
                }
                Err(error) => tracing::warn!("the old certificates serve on: {}", error.as_warning()),
            }
        }
        Arc::clone(&held.config)
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").field("files", &self.files).finish_non_exhaustive()
    }
}

fn stamps(files: &ServerFiles) -> Stamps {
    let stamp = |path: &PathBuf| {
        let found = std::fs::metadata(path).ok()?;
        Some((found.mtime(), found.mtime_nsec(), found.len(), found.ino()))
    };
    [&files.cert, &files.key, &files.ca, &files.crl].into_iter().map(|path| path.as_ref().and_then(stamp)).collect()
}

fn wrong(message: impl Into<String>, hint: impl Into<String>) -> Error {
    Error::new(Kind::Usage, message).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::authority::mint;
    use std::io::Write as _;

    fn put(dir: &Path, name: &str, text: &str) -> PathBuf {
        let path = dir.join(name);
        std::fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
        path
    }

    fn files(dir: &Path) -> ServerFiles {
        let minted = mint("root").unwrap();
        ServerFiles {
            cert: Some(put(dir, "c", &minted.cert)),
            key: Some(put(dir, "k", &minted.key)),
            ca: Some(put(dir, "ca", &minted.ca)),
            ..ServerFiles::default()
        }
    }

    #[test]
    fn new_files_count_at_once_and_wrong_ones_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let tls = ServerTls::load(files(dir.path())).unwrap();
        let first = tls.config();
        assert!(Arc::ptr_eq(&first, &tls.config()), "unchanged files are not read again");
        put(dir.path(), "k", "-----BEGIN nothing");
        assert!(Arc::ptr_eq(&first, &tls.config()));
        files(dir.path());
        let second = tls.config();
        assert!(!Arc::ptr_eq(&first, &second) && Arc::ptr_eq(&second, &tls.config()));
        assert_eq!(second.alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut wrong = files(dir.path());
        wrong.key = Some(put(dir.path(), "other", &mint("root").unwrap().key));
        let error = ServerTls::load(wrong).unwrap_err();
        assert!(error.kind() == Kind::Usage && error.chain().starts_with("use the certificate "), "{}", error.chain());
        assert!(error.hint_text().unwrap().contains("belong together"));
    }

    #[test]
    fn suites_are_chosen_by_the_names_that_go_has() {
        let dir = tempfile::tempdir().unwrap();
        let with = |suites: &[&str], versions| {
            let suites = suites.iter().map(|name| (*name).to_owned()).collect();
            ServerFiles { suites, versions, ..files(dir.path()) }.config()
        };
        let count = |config: ServerConfig| config.crypto_provider().cipher_suites.len();
        let all = count(with(&[], Versions::Both).unwrap());
        assert!(all > 6);
        let one =
            with(&["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLS_RSA_WITH_AES_128_CBC_SHA"], Versions::Both).unwrap();
        assert_eq!(count(one), 4, "three of TLS 1.3 and one");
        assert_eq!(count(with(&["TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305"], Versions::Only12).unwrap()), 4);
        let only_13 = with(&["TLS_RSA_WITH_AES_128_CBC_SHA"], Versions::Both).unwrap();
        assert_eq!(count(only_13), 3);
        for (suites, versions) in [(["TLS_FOO"], Versions::Both), (["TLS_RSA_WITH_AES_128_CBC_SHA"], Versions::Only12)]
        {
            assert!(with(&suites, versions).unwrap_err().hint_text().is_some());
        }
    }

    #[test]
    fn a_list_of_revoked_certificates_must_be_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut wrong = files(dir.path());
        wrong.crl = wrong.ca.clone();
        let error = ServerTls::load(wrong).unwrap_err();
        assert!(
            error.chain().contains("it holds a \"CERTIFICATE\", not a list of revoked certificates"),
            "{}",
            error.chain()
        );
    }
}
