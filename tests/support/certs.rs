//! Certificates for one test: a right set, and wrong ones to be refused.

use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer};
use rcgen::{KeyPair, date_time_ymd};
use std::fs;
use std::path::{Path, PathBuf};

/// Files made by `Certs::make`. A client trusts `ca` and shows `client_cert` with `client_key`.
#[derive(Debug)]
pub struct Certs {
    pub ca: PathBuf,
    pub server_cert: PathBuf,
    pub server_key: PathBuf,
    pub client_cert: PathBuf,
    pub client_key: PathBuf,
    /// An authority that signed nothing here.
    pub other_ca: PathBuf,
    /// A client certificate of that authority, with its key.
    pub other_cert: PathBuf,
    pub other_key: PathBuf,
    /// For 127.0.0.1, but its time is over.
    pub expired_cert: PathBuf,
    pub expired_key: PathBuf,
    /// In time, but for another host.
    pub elsewhere_cert: PathBuf,
    pub elsewhere_key: PathBuf,
}

impl Certs {
    /// Makes all of them in `dir`.
    pub fn make(dir: &Path) -> Certs {
        let (ca, other_ca) = (Authority::new("holdfast test authority"), Authority::new("another authority"));
        let server = &["127.0.0.1", "localhost"][..];
        let (server_cert, server_key) = ca.sign(dir, "server", &params(server, "server"));
        let (client_cert, client_key) = ca.sign(dir, "client", &params(&[], "client"));
        let (other_cert, other_key) = other_ca.sign(dir, "other", &params(&[], "client"));
        let mut expired = params(server, "server");
        (expired.not_before, expired.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(2001, 2, 1));
        let (expired_cert, expired_key) = ca.sign(dir, "expired", &expired);
        let elsewhere = params(&["etcd.example.com"], "server");
        let (elsewhere_cert, elsewhere_key) = ca.sign(dir, "elsewhere", &elsewhere);
        Certs {
            ca: write(dir, "ca.crt", &ca.cert.pem()),
            server_cert,
            server_key,
            client_cert,
            client_key,
            other_ca: write(dir, "other-ca.crt", &other_ca.cert.pem()),
            other_cert,
            other_key,
            expired_cert,
            expired_key,
            elsewhere_cert,
            elsewhere_key,
        }
    }
}

struct Authority {
    cert: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Authority { cert: params.self_signed(&key).unwrap(), issuer: Issuer::new(params, key) }
    }

    fn sign(&self, dir: &Path, name: &str, params: &CertificateParams) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let cert = write(dir, &format!("{name}.crt"), &cert.pem());
        (cert, write(dir, &format!("{name}.key"), &key.serialize_pem()))
    }
}

fn params(hosts: &[&str], name: &str) -> CertificateParams {
    let hosts = hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>();
    let mut params = CertificateParams::new(hosts).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    // etcd's own gateway shows the server's certificate as a client.
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn write(dir: &Path, name: &str, pem: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, pem).unwrap();
    path
}
