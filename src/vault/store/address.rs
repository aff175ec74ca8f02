//! Addresses of repositories: `file:///path`, `s3://bucket/prefix`, `gs://bucket/prefix`, and nothing that could be
//! misread.
//!
//! Invariants:
//! - An address has one meaning: no query, no user, no port, no dots that climb; what a bucket cannot hold is refused
//!   before anything is sent.
//! - No credential fits into an address, so no address needs to be kept from a message.

use std::path::{Path, PathBuf};
use url::Url;

use crate::base::error::{Error, Kind, Result};

/// Bytes of a prefix; object names below it need the rest of the 1,024 that buckets allow.
const PREFIX_BYTES_MAX: usize = 256;

/// Where a repository is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// A directory.
    Directory(PathBuf),
    /// A bucket that speaks S3.
    S3(Place),
    /// A bucket of Google Cloud Storage.
    Gcs(Place),
}

/// A bucket and the folder in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The bucket's name.
    pub(crate) bucket: String,
    /// The folder, without slashes at its ends; empty for the whole bucket.
    pub(crate) prefix: String,
}

const EXAMPLE: &str = "write s3://bucket/folder, gs://bucket/folder, or a directory as file:///absolute/path";

impl Address {
    /// Understands a repository's URL.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        if !text.contains("://") {
            return Err(match text.starts_with('/') {
                true => wrong(text, "is a path", &format!("write file://{text}")),
                false => wrong(text, "is not a URL", EXAMPLE),
            });
        }
        let Ok(url) = Url::parse(text) else { return Err(wrong(text, "cannot be understood", EXAMPLE)) };
        if url.password().is_some() || !url.username().is_empty() {
            // Not repeated: it may be a secret.
            let text = "the repository URL holds a user or a password";
            return Err(Error::new(Kind::Usage, text)
                .hint("credentials come from the environment or from a file that the policy names"));
        }
        match url.scheme() {
            "file" => directory(text, &url).map(Address::Directory),
            "s3" | "s3a" => place(text, &url, S3_BUCKET_BYTES_MAX, false).map(Address::S3),
            "gs" | "gcs" => place(text, &url, GCS_BUCKET_BYTES_MAX, true).map(Address::Gcs),
            scheme => Err(wrong(text, &format!("has the unknown scheme {scheme:?}"), EXAMPLE)),
        }
    }
}

fn wrong(text: &str, what: &str, hint: &str) -> Error {
    Error::new(Kind::Usage, format!("repository URL {text:?} {what}")).hint(hint)
}

fn directory(text: &str, url: &Url) -> Result<PathBuf> {
    if url.host_str().is_some_and(|host| host != "localhost") {
        return Err(wrong(text, "names a host; a path begins after the third slash", EXAMPLE));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong(text, "has a '?' or '#' part", "write such characters as %3F and %23"));
    }
    match url.to_file_path() {
        Ok(path) if path.is_absolute() && path != Path::new("/") => Ok(path),
        _ => Err(wrong(text, "is not the path of a directory", EXAMPLE)),
    }
}

const S3_BUCKET_BYTES_MAX: usize = 63;
const GCS_BUCKET_BYTES_MAX: usize = 222;

/// Taken from the text and not from the parsed URL, which would decode, fold case and climb.
fn place(text: &str, url: &Url, bucket_bytes_max: usize, underscore: bool) -> Result<Place> {
    if url.port().is_some() {
        let hint = "write the bucket alone, and the server's address as `endpoint` in the policy's [repository]";
        return Err(wrong(text, "names a port", hint));
    }
    let rest = text.split_once("://").map_or("", |(_, rest)| rest);
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let inner =
        |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.') || (underscore && c == '_');
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let right = (3..=bucket_bytes_max).contains(&bucket.len())
        && bucket.chars().all(inner)
        && ends(bucket.chars().next())
        && ends(bucket.chars().last())
        && !bucket.contains("..");
    if !right {
        let hint = "bucket names have 3 or more lower-case letters, digits, dots and hyphens";
        return Err(wrong(text, "has no valid bucket name", hint));
    }
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    let part = |part: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '=');
        !part.is_empty() && !part.chars().all(|c| c == '.') && part.chars().all(plain)
    };
    if prefix.len() > PREFIX_BYTES_MAX || !(prefix.is_empty() || prefix.split('/').all(part)) {
        let hint = "a folder in a bucket has letters, digits, '-', '_', '.', '=' and single slashes";
        return Err(wrong(text, "has a folder that cannot be used", hint));
    }
    Ok(Place { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_absolute_and_local() {
        for (right, path) in
            [("file:///a/b", "/a/b"), ("file:///a%20b", "/a b"), ("file://localhost/a", "/a"), ("file:///a/", "/a/")]
        {
            assert_eq!(Address::parse(right).unwrap(), Address::Directory(PathBuf::from(path)));
        }
    }

    #[test]
    fn buckets_have_a_name_and_a_folder() {
        let place = |bucket: &str, prefix: &str| Place { bucket: bucket.to_owned(), prefix: prefix.to_owned() };
        for (right, address) in [
            ("s3://my-bucket", Address::S3(place("my-bucket", ""))),
            ("s3://my-bucket/", Address::S3(place("my-bucket", ""))),
            ("s3://my.bucket/a/B_c=1/", Address::S3(place("my.bucket", "a/B_c=1"))),
            ("gs://my_bucket/etcd", Address::Gcs(place("my_bucket", "etcd"))),
        ] {
            assert_eq!(Address::parse(right).unwrap(), address);
        }
    }

    #[test]
    fn whatever_could_be_misread_is_refused_with_what_to_write() {
        for (wrong, says) in [
            ("/a/b", "write file:///a/b"),
            ("backups", "absolute"),
            ("", "absolute"),
            ("file://a/b", "file:///absolute/path"),
            ("file:///", "absolute"),
            ("ftp://x/y", "file:///"),
            ("file:///a?b", "%3F"),
            ("s3://", "3 or more"),
            ("s3://ab", "3 or more"),
            ("s3://My-bucket/x", "lower-case"),
            ("s3://my_bucket/x", "lower-case"),
            ("s3://-bucket/x", "lower-case"),
            ("s3://a..b/x", "lower-case"),
            ("s3://bucket:9000/x", "endpoint"),
            ("s3://bucket//x", "single slashes"),
            ("s3://bucket/a/../b", "single slashes"),
            ("s3://bucket/a?x=1", "letters"),
            ("s3://bucket/a%20b", "letters"),
            ("gs://bucket/x#y", "letters"),
        ] {
            let error = Address::parse(wrong).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage, "{wrong}");
            assert!(error.hint_text().unwrap().contains(says), "{wrong}: {:?}", error.hint_text());
        }
        let error = Address::parse("s3://AKIDEXAMPLE:secret@bucket/x").unwrap_err();
        assert!(!error.chain().contains("secret") && !error.chain().contains("AKID"), "{}", error.chain());
    }
}
