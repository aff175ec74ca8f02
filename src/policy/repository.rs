//! `[repository]`: where restore points are kept, and how a bucket is reached.
//!
//! ```toml
//! [repository]
//! url = "s3://my-cluster-backups/etcd"
//! encryption = { recipients = ["age1..."] }      # or { passphrase_file = "..." }, or "none"
//! identity = "/etc/holdfast/age.key"             # only on hosts that may read
//! signing_key = "/etc/holdfast/signing.pem"      # only on hosts that make points
//! trusted_signers = ["MCowBQYDK2VwAyEA..."]      # whose points are used, beside those of signing_key
//! endpoint = "https://minio.example:9000"        # where it is not the provider's own
//! region = "eu-central-1"
//! storage_class = "STANDARD_IA"
//! credentials_file = "/etc/holdfast/credentials" # AWS's ini format, or a Google key; otherwise the environment's
//! profile = "backup"
//! ca = "/etc/holdfast/pki/minio-ca.crt"
//! limit_upload = "50MiB/s"
//! limit_download = "50MiB/s"
//! stall = "30s"
//! patience = "5m"
//! ```

use std::path::PathBuf;
use std::time::Duration;
use url::Url;

use crate::base::digest::from_base64;
use crate::base::error::Result;
use crate::base::units;
use crate::policy::Policy;
use crate::policy::raw::{Field, Table};

/// The slowest limit: below it a backup of any size would never end.
const LIMIT_BYTES_MIN: u64 = 64 * units::KIB;
/// The shortest silence that may be called one, and the shortest patience.
const WAIT_MIN: Duration = Duration::from_millis(100);
/// The longest of either.
const WAIT_MAX: Duration = Duration::from_hours(1);
/// Classes whose objects must be thawed for hours before anyone can read them.
const FROZEN_CLASSES: [&str; 2] = ["GLACIER", "DEEP_ARCHIVE"];

/// Where restore points are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    /// Its address.
    pub url: String,
    /// How its data is encrypted.
    pub encryption: Encryption,
    /// A file of keys that open it; none on hosts that may not read.
    pub identity: Option<PathBuf>,
    /// A file with the key that signs manifests; none: they are not signed.
    pub signing_key: Option<PathBuf>,
    /// Public keys whose manifests are believed.
    pub trusted_signers: Vec<String>,
    /// How its bucket is reached; nothing of it is set for a directory.
    pub bucket: Bucket,
}

/// How data is encrypted. A policy must say so when it is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// Not at all.
    None,
    /// For these public keys of age.
    Recipients(Vec<String>),
    /// With the passphrase in this file.
    PassphraseFile(PathBuf),
}

impl Policy {
    /// Whether this host has what opens the data that it stores.
    pub fn reads_data(&self) -> bool {
        let repository = &self.repository;
        match &repository.encryption {
            Encryption::None | Encryption::PassphraseFile(_) => true,
            Encryption::Recipients(_) => repository.identity.is_some(),
        }
    }
}

/// How a bucket is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// The server's address, where it is not the provider's own.
    pub endpoint: Option<String>,
    /// Its region.
    pub region: Option<String>,
    /// The class that objects are stored in.
    pub storage_class: Option<String>,
    /// A file that says who we are; none: the environment does.
    pub credentials_file: Option<PathBuf>,
    /// The profile in that file.
    pub profile: Option<String>,
    /// Certificates of the authorities that sign the server's; none: the system's.
    pub ca: Option<PathBuf>,
    /// Bytes per second, written.
    pub limit_upload: Option<u64>,
    /// Bytes per second, read.
    pub limit_download: Option<u64>,
    /// No byte for this long is a failed request.
    pub stall: Option<Duration>,
    /// How long a failed request is tried again.
    pub patience: Option<Duration>,
}

/// The fields of every repository.
const FIELDS: [&str; 5] = ["url", "encryption", "identity", "signing_key", "trusted_signers"];
/// The fields of a bucket.
const BUCKET_FIELDS: [&str; 10] = [
    "endpoint",
    "region",
    "storage_class",
    "credentials_file",
    "profile",
    "ca",
    "limit_upload",
    "limit_download",
    "stall",
    "patience",
];

/// What `encryption` can be.
const ENCRYPTION: &str = "write encryption = { recipients = [\"age1...\"] }, { passphrase_file = \"...\" } or \"none\"";
/// Bytes of a public key of Ed25519 (RFC 8410), in base64 in a policy.
const SIGNER_BYTES: usize = 44;
/// What tells in each of them that it is one.
const SIGNER_START: &str = "MCowBQYDK2VwAyEA";
/// How a private key of Ed25519 begins.
const PRIVATE_KEY_START: &str = "MC4CAQAwBQYDK2Vw";
/// Length of an age public key: `age1`, 52 digits and 6 of a checksum.
const RECIPIENT_BYTES: usize = 62;

/// Reads the table.
pub(super) fn read(root: &mut Table<'_>) -> Result<Repository> {
    let mut table = root.table("repository", &[&FIELDS[..], &BUCKET_FIELDS].concat())?;
    let url = table.required("url", "where to keep backups, for example url = \"file:///var/backups/etcd\"")?;
    let encryption = encryption(&mut table)?;
    let identity = table.path("identity")?;
    if let Some(field) = identity.as_ref().filter(|_| encryption == Encryption::None) {
        return Err(field
            .wrong("identity opens encrypted data, and encryption is \"none\"")
            .hint("remove identity; data that was encrypted before is read with --identity FILE"));
    }
    let signing_key = table.path("signing_key")?.map(|field| field.value);
    let trusted_signers = trusted_signers(&mut table)?;
    let bucket = bucket(&mut table, url.value.starts_with("file:"))?;
    let identity = identity.map(|field| field.value);
    Ok(Repository { url: url.value, encryption, identity, signing_key, trusted_signers, bucket })
}

/// Public keys of Ed25519 as `openssl pkey -pubout` writes them. What is none is not repeated: it may be a secret one.
fn trusted_signers(table: &mut Table<'_>) -> Result<Vec<String>> {
    const EXAMPLE: &str = "for example trusted_signers = [\"MCowBQYDK2VwAyEA...\"]: the line between BEGIN and END of \
                           what `openssl pkey -in FILE -pubout` prints";
    let Some(list) = table.strings("trusted_signers", EXAMPLE)? else { return Ok(vec![]) };
    if list.value.is_empty() {
        return Err(list
            .wrong("trusted_signers names nobody, so no point could be used")
            .hint("name the public key of each host that makes points, or remove the line"));
    }
    let mut signers = vec![];
    for field in list.value {
        let mut key = [0; SIGNER_BYTES];
        if field.value.contains("PRIVATE KEY") || field.value.starts_with(PRIVATE_KEY_START) {
            return Err(field
                .wrong("a trusted signer is a private key")
                .hint("put its public key there, and make a new pair: this one stood in a policy"));
        }
        if !field.value.starts_with(SIGNER_START) || !from_base64(&field.value, &mut key) {
            return Err(field.wrong("a trusted signer is not a public key of Ed25519").hint(EXAMPLE));
        }
        signers.push(field.value);
    }
    Ok(signers)
}

fn encryption(table: &mut Table<'_>) -> Result<Encryption> {
    if !table.holds_table("encryption") {
        let Some(field) = table.any("encryption") else {
            return Err(table.wrong("[repository] does not say how data is encrypted").hint(format!(
                "{ENCRYPTION}; \"none\" says that you know that everyone who reads the repository reads your secrets"
            )));
        };
        if field.as_str() != Some("none") {
            return Err(field.wrong("encryption is none that this version knows").hint(ENCRYPTION));
        }
        return Ok(Encryption::None);
    }
    let Some(mut table) = table.optional("encryption", &["recipients", "passphrase_file"])? else {
        return Ok(Encryption::None);
    };
    let recipients = table.strings("recipients", "for example recipients = [\"age1...\"]")?;
    match (recipients, table.path("passphrase_file")?) {
        (Some(recipients), None) if !recipients.value.is_empty() => {
            let mut names = vec![];
            for field in recipients.value {
                check_recipient(&field)?;
                names.push(field.value);
            }
            Ok(Encryption::Recipients(names))
        }
        (None, Some(file)) => Ok(Encryption::PassphraseFile(file.value)),
        _ => Err(table.wrong("encryption names no recipient, or recipients and a passphrase").hint(ENCRYPTION)),
    }
}

/// Whether it looks like a public key. What does not is not repeated: it may be a secret one.
fn check_recipient(field: &Field<String>) -> Result<()> {
    if field.value.to_ascii_uppercase().starts_with("AGE-SECRET-KEY-") {
        return Err(field
            .wrong("a recipient is a secret key")
            .hint("put its public key there, age1..., and make a new pair: this one stood in a policy"));
    }
    let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if field.value.len() == RECIPIENT_BYTES && field.value.starts_with("age1") && field.value.chars().all(known) {
        return Ok(());
    }
    Err(field
        .wrong("a recipient is not a public key of age (X25519)")
        .hint("recipients look like age1..., 62 characters, as age-keygen prints them"))
}

fn bucket(table: &mut Table<'_>, directory: bool) -> Result<Bucket> {
    for name in BUCKET_FIELDS.iter().filter(|_| directory) {
        if let Some(field) = table.any(name) {
            return Err(field
                .wrong(format!("{name} is for buckets, and this repository is a directory"))
                .hint(format!("remove {name}, or give an s3:// or gs:// url")));
        }
    }
    let plain = |field: Option<Field<String>>| field.map(|field| field.value);
    Ok(Bucket {
        endpoint: endpoint(table)?,
        region: plain(table.string("region")?),
        storage_class: storage_class(table)?,
        credentials_file: table.path("credentials_file")?.map(|field| field.value),
        profile: plain(table.string("profile")?),
        ca: table.path("ca")?.map(|field| field.value),
        limit_upload: limit(table, "limit_upload")?,
        limit_download: limit(table, "limit_download")?,
        stall: wait(table, "stall")?,
        patience: wait(table, "patience")?,
    })
}

fn endpoint(table: &mut Table<'_>) -> Result<Option<String>> {
    const EXAMPLE: &str = "for example endpoint = \"https://minio.example:9000\"";
    let Some(field) = table.string("endpoint")? else { return Ok(None) };
    if field.value.contains('@') {
        return Err(field
            .wrong("endpoint holds a user or a password")
            .hint("write the address alone; credentials come from the environment or from credentials_file"));
    }
    let url = Url::parse(&field.value).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let whole =
        |url: &Url| url.host().is_some() && url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    match url.filter(whole) {
        Some(_) => Ok(Some(field.value.trim_end_matches('/').to_owned())),
        None => {
            let text = format!("endpoint {:?} is not the address of a server", field.value);
            Err(field.wrong(text).hint(EXAMPLE))
        }
    }
}

fn storage_class(table: &mut Table<'_>) -> Result<Option<String>> {
    let Some(field) = table.string("storage_class")? else { return Ok(None) };
    if FROZEN_CLASSES.contains(&field.value.as_str()) {
        let text = format!("objects of the class {} cannot be read when they are needed", field.value);
        return Err(field.wrong(text).hint("use a class that is read at once, such as STANDARD_IA or GLACIER_IR"));
    }
    let known = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    if !field.value.chars().all(known) {
        let text = format!("storage_class {:?} is not the name of a class", field.value);
        return Err(field.wrong(text).hint("write it as the provider does, for example STANDARD_IA or NEARLINE"));
    }
    Ok(Some(field.value))
}

fn limit(table: &mut Table<'_>, name: &str) -> Result<Option<u64>> {
    let Some(field) = table.string(name)? else { return Ok(None) };
    let rate = units::parse_rate(&field.value).map_err(|error| {
        field.wrong(format!("{name}: {error}")).hint(error.hint_text().unwrap_or_default().to_owned())
    })?;
    if rate < LIMIT_BYTES_MIN {
        return Err(field.wrong(format!("{name} is below 64KiB/s")).hint("a backup would hardly ever end; allow more"));
    }
    Ok(Some(rate))
}

fn wait(table: &mut Table<'_>, name: &str) -> Result<Option<Duration>> {
    let Some(field) = table.string(name)? else { return Ok(None) };
    let wait = units::parse_duration(&field.value).map_err(|error| {
        field.wrong(format!("{name}: {error}")).hint(error.hint_text().unwrap_or_default().to_owned())
    })?;
    if !(WAIT_MIN..=WAIT_MAX).contains(&wait) {
        return Err(field
            .wrong(format!("{name} must be from 100ms to 1h"))
            .hint(format!("for example {name} = \"1m\"")));
    }
    Ok(Some(wait))
}
