//! A bucket of Google Cloud Storage, through its XML API.
//!
//! Every object is created by one PUT with `x-goog-if-generation-match: 0` and `x-goog-hash` (CRC32C, added by the
//! transport), so the bucket itself refuses a second writer and bytes that changed on the way.
//!
//! Who we are: the key file that the policy names, the one of `GOOGLE_APPLICATION_CREDENTIALS`, the login that Google's
//! own tool left, the machine's service account.

use object_store::ClientOptions;
use object_store::gcp::{GoogleCloudStorage, GoogleCloudStorageBuilder};
use serde::Deserialize;

use crate::base::error::{Error, Kind, Result};
use crate::base::file::read_small;
use crate::vault::store::address::Place;
use crate::vault::store::http::{Checksum, Connector, Transport};
use crate::vault::store::options::BucketOptions;
use crate::vault::store::{failed, no_retries};

const KEY_BYTES_MAX: u64 = 1 << 20;

/// What every kind of key file says first.
#[derive(Deserialize)]
struct KeyFile {
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// The bucket at `place`.
pub(super) fn open(place: &Place, options: &BucketOptions) -> Result<GoogleCloudStorage> {
    let mut builder = GoogleCloudStorageBuilder::new()
        .with_bucket_name(&place.bucket)
        .with_retry(no_retries())
        .with_client_options(ClientOptions::new().with_allow_http(true))
        .with_http_connector(Connector::new(Transport::new(options, Checksum::Google)?));
    if let Some(endpoint) = &options.said.endpoint {
        builder = builder.with_base_url(endpoint.trim_end_matches('/'));
    }
    let file =
        options.said.credentials_file.clone().or_else(|| options.environment.path("GOOGLE_APPLICATION_CREDENTIALS"));
    if let Some(path) = file {
        let shown = path.display().to_string();
        let bytes = read_small(&path, KEY_BYTES_MAX).map_err(|error| {
            error.during("read the Google key file").kind_of(Kind::Usage).or_hint("check the path and its permissions")
        })?;
        // The parser's words could repeat a piece of the key.
        let wrong = |what: &str, hint: &str| Error::new(Kind::Usage, format!("{shown} {what}")).hint(hint);
        let key: KeyFile = serde_json::from_slice(&bytes)
            .map_err(|_| wrong("is not JSON", "name the key file that Google gave for the service account"))?;
        builder = match key.kind.as_deref() {
            Some("service_account") | None => {
                builder.with_service_account_key(String::from_utf8_lossy(&bytes).into_owned())
            }
            Some("authorized_user") => builder.with_application_credentials(&shown),
            Some(other) => {
                return Err(wrong(
                    &format!("holds credentials of the kind {other:?}, which are not used here"),
                    "use a service account's key, or run on a machine with a service account (workload identity)",
                ));
            }
        };
    }
    builder.build().map_err(|error| {
        failed(format!("open the bucket {}", place.bucket), error)
            .or_hint("check the key file; docs/providers.md says what is needed")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Bucket;
    use crate::vault::testing;

    fn open_with(key: &str) -> Result<GoogleCloudStorage> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key.json");
        testing::overwrite(&file, key.as_bytes());
        let said = Bucket { credentials_file: Some(file), ..Bucket::default() };
        let options = BucketOptions { said, ..BucketOptions::default() };
        open(&Place { bucket: "bucket".into(), prefix: String::new() }, &options)
    }

    #[test]
    fn key_files_are_told_apart_and_never_repeated() {
        let dummy = r#"{"type": "service_account", "private_key": "", "private_key_id": "", "client_email": "x",
                        "disable_oauth": true}"#;
        assert!(open_with(dummy).is_ok());
        for (key, says) in [
            ("hush", "is not JSON"),
            (r#"{"type": "external_account", "x": "hush"}"#, "external_account"),
            (r#"{"type": "service_account", "private_key": 7, "hush": 1}"#, "open the bucket"),
        ] {
            let error = open_with(key).unwrap_err();
            assert!(error.chain().contains(says) && error.hint_text().is_some(), "{}", error.chain());
            assert!(!error.chain().contains("hush"), "{}", error.chain());
        }
    }
}
