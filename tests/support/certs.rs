//! Certificates for one test: a right set, and wrong ones to be refused.

use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer};
use rcgen::{CertificateRevocationListParams, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber, date_time_ymd};
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
    /// The authority's list of revoked certificates, with none in it.
    pub crl: PathBuf,
    /// The same, with the client's.
    pub client_crl: PathBuf,
}

/// The number of the client's certificate.
const CLIENT: u64 = 4711;

impl Certs {
    /// Makes all of them in `dir`.
    pub fn make(dir: &Path) -> Certs {
        let (ca, other_ca) = (Authority::new("holdfast test authority"), Authority::new("another authority"));
        let server = &["127.0.0.1", "localhost"][..];
        let (server_cert, server_key) = ca.sign(dir, "server", &params(server, "server"));
        let mut client = params(&[], "client");
        client.serial_number = Some(SerialNumber::from(CLIENT));
        let (client_cert, client_key) = ca.sign(dir, "client", &client);
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
            crl: write(dir, "none.crl", &ca.revoke(&[])),
            client_crl: write(dir, "client.crl", &ca.revoke(&[CLIENT])),
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

impl Authority {
    /// A list of revoked certificates, by their numbers.
    fn revoke(&self, numbers: &[u64]) -> String {
        let revoked = |number: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*number),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2100, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: numbers.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
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
