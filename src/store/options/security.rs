//! Certificates of the listeners: which files, who may come in, and what must not be given without what.

use std::path::{Path, PathBuf};

use crate::base::error::{Error, Kind, Result};
use crate::base::tls::{OwnFiles, ServerFiles, Versions};
use crate::store::options::Listeners;
use crate::store::options::given::Given;
use crate::store::options::value::{self, Address};

/// Where a member keeps the certificates that it makes, in its directory. etcd's place.
const OWN_FOLDER: &str = "fixtures/client";
/// Certificates for longer are for nobody.
const YEARS_MAX: u64 = 1000;

const HINT_AUTHORITIES: &str = "give --trusted-ca-file, the authorities that sign clients' certificates";

/// The files of the listeners; and those that are to be made, where it was asked for and none are named.
pub(super) fn files(
    given: &Given,
    clients: &Listeners,
    data_dir: &Path,
    warnings: &mut Vec<String>,
) -> Result<(ServerFiles, Option<OwnFiles>)> {
    let path = |name: &str| Some(given.text(name)).filter(|path| !path.is_empty()).map(PathBuf::from);
    let mut files = ServerFiles {
        cert: path("cert-file"),
        key: path("key-file"),
        ca: path("trusted-ca-file"),
        crl: path("client-crl-file"),
        names: value::words(given.text("client-cert-allowed-hostname")),
        common_names: value::words(given.text("client-cert-allowed-cn")),
        versions: versions(given)?,
        suites: value::words(given.text("cipher-suites")),
    };
    let passed_over = files.suites_passed_over().map_err(|error| error.during("--cipher-suites"))?;
    if !passed_over.is_empty() {
        warnings.push(format!("cipher suites that are not spoken here, or need no choice: {}", passed_over.join(", ")));
    }
    if files.cert.is_some() != files.key.is_some() {
        let (there, missing) =
            if files.cert.is_some() { ("cert-file", "--key-file") } else { ("key-file", "--cert-file") };
        return Err(given.wrong(there, "a certificate and its key go together", format!("give {missing} too")));
    }
    let secure = clients.all().find(|address| address.scheme.is_secure());
    let own = own(given, clients, data_dir)?;
    let own = match (own, secure) {
        (Some(_), _) if files.cert.is_some() => {
            warnings.push("auto-tls is of no effect: --cert-file and --key-file are given".to_owned());
            None
        }
        (Some(_), None) => {
            warnings.push("auto-tls is of no effect: no listener is https:// or unixs://".to_owned());
            None
        }
        (own, _) => own,
    };
    if let Some(own) = &own {
        (files.cert, files.key) = (Some(own.cert()), Some(own.key()));
    }
    if let Some(address) = secure.filter(|_| files.cert.is_none()) {
        let hint = "give --cert-file and --key-file, or listen at http://";
        return Err(Error::new(Kind::Usage, format!("{} needs a certificate and its key", address.text)).hint(hint));
    }
    judge_clients(given, &files)?;
    let plain = clients.grpc.iter().chain(&clients.http).find(|address| !address.scheme.is_secure());
    if let Some(address) = plain.filter(|_| files.cert.is_some()) {
        warnings.push(format!("{} is plain HTTP: certificates are not used there", address.text));
    }
    Ok((files, own))
}

fn versions(given: &Given) -> Result<Versions> {
    let version = |name: &str| match given.text(name) {
        "" => Ok(None),
        "TLS1.2" => Ok(Some(false)),
        "TLS1.3" => Ok(Some(true)),
        other => Err(given.wrong(
            name,
            format!("{other:?} is no version of TLS that is spoken here"),
            "give TLS1.2 or TLS1.3",
        )),
    };
    let only_13 = version("tls-min-version")? == Some(true);
    let only_12 = version("tls-max-version")? == Some(false);
    match (only_13, only_12) {
        (true, true) => Err(given.wrong("tls-max-version", "TLS1.2 is below --tls-min-version", "let the two overlap")),
        (true, false) => Ok(Versions::Only13),
        (false, true) => Ok(Versions::Only12),
        (false, false) => Ok(Versions::Both),
    }
}

/// What `--auto-tls` makes: a certificate for every host that clients are served at, or told of.
fn own(given: &Given, clients: &Listeners, data_dir: &Path) -> Result<Option<OwnFiles>> {
    let years = super::at_most(given, "self-signed-cert-validity", 1, YEARS_MAX)?;
    if !value::switch(given.text("auto-tls"))? {
        return Ok(None);
    }
    let advertised = super::addresses(given, "advertise-client-urls")?;
    let network = |address: &&Address| !address.scheme.is_unix() && !address.host.is_empty();
    let all = clients.all().chain(&advertised).filter(network);
    let mut hosts: Vec<String> = all.map(|address| address.host.clone()).collect();
    hosts.sort_unstable();
    hosts.dedup();
    let years = u32::try_from(years).unwrap_or(u32::MAX);
    Ok(Some(OwnFiles { folder: data_dir.join(OWN_FOLDER), hosts, years }))
}

/// Without authorities nobody is asked for a certificate, and nothing could be said of one.
fn judge_clients(given: &Given, files: &ServerFiles) -> Result<()> {
    if !files.names.is_empty() && !files.common_names.is_empty() {
        let hint = "give one of the two; etcd takes no more";
        return Err(given.wrong("client-cert-allowed-cn", "names are compared already, by allowed-hostname", hint));
    }
    if files.ca.is_some() {
        return Ok(());
    }
    if value::switch(given.text("client-cert-auth"))? {
        return Err(given.wrong("client-cert-auth", "there are no authorities to trust", HINT_AUTHORITIES));
    }
    let beside = ["client-crl-file", "client-cert-allowed-hostname", "client-cert-allowed-cn"];
    match beside.into_iter().find(|name| !given.text(name).is_empty()) {
        Some(name) => Err(given.wrong(name, "without authorities no certificate is asked for", HINT_AUTHORITIES)),
        None => Ok(()),
    }
}
