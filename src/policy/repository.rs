//! `[repository]`: where restore points are kept, and how a bucket is reached.
//!
//! ```toml
//! [repository]
//! url = "s3://my-cluster-backups/etcd"
//! encryption = "none"
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

use crate::base::error::Result;
use crate::base::units;
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
    /// How its bucket is reached; nothing of it is set for a directory.
    pub bucket: Bucket,
}

/// How data is encrypted. A policy must say so when it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// Not at all.
    None,
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

const FIELDS: [&str; 12] = [
    "url",
    "encryption",
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

/// Reads the table.
pub(super) fn read(root: &mut Table<'_>) -> Result<Repository> {
    const PLAIN: &str = "write encryption = \"none\"; keep the repository where only you can read it";
    let mut table = root.table("repository", &FIELDS)?;
    let url = table.required("url", "where to keep backups, for example url = \"file:///var/backups/etcd\"")?;
    let Some(encryption) = table.any("encryption") else {
        return Err(table
            .wrong("[repository] does not say encryption = \"none\"")
            .hint("backups are not encrypted in this version: say that you accept it with encryption = \"none\""));
    };
    if encryption.as_str() != Some("none") {
        return Err(encryption.wrong("encryption is not in this version").hint(PLAIN));
    }
    let bucket = bucket(&mut table, url.value.starts_with("file:"))?;
    Ok(Repository { url: url.value, encryption: Encryption::None, bucket })
}

fn bucket(table: &mut Table<'_>, directory: bool) -> Result<Bucket> {
    for name in FIELDS.iter().skip(2).filter(|_| directory) {
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
