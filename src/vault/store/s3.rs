//! A bucket that speaks S3: AWS, MinIO, Ceph, R2 and their kin.
//!
//! Every object is created by one PUT with `If-None-Match: *` and `x-amz-checksum-sha256`, so the bucket itself refuses a
//! second writer and bytes that changed on the way. No multipart: it has neither for the whole object.
//!
//! Who we are is looked for in AWS's order: the environment's keys, a web identity, a file of credentials (named by the
//! policy, by the environment, or `~/.aws/credentials`), the container's service, the machine's. The first two and the
//! last two are `object_store`'s; the file is read here.

use object_store::ClientOptions;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, Checksum as S3Checksum, S3ConditionalPut};
use std::path::PathBuf;

use crate::base::error::{Error, Kind, Result};
use crate::base::file::read_small;
use crate::vault::store::address::Place;
use crate::vault::store::credentials::{Keys, find};
use crate::vault::store::http::{Checksum, Connector, Transport};
use crate::vault::store::options::{BucketOptions, Environment};
use crate::vault::store::{failed, no_retries};

/// What is taken from the environment as it is. Not among them: whatever could switch a promise off (checksums,
/// conditions, signatures), and the bucket.
const VARIABLES: [&str; 18] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_ENDPOINT_URL_STS",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_METADATA_ENDPOINT",
    "AWS_IMDSV1_FALLBACK",
    "AWS_REQUEST_PAYER",
    "AWS_VIRTUAL_HOSTED_STYLE_REQUEST",
    "AWS_SERVER_SIDE_ENCRYPTION",
    "AWS_SSE_KMS_KEY_ID",
    "AWS_SSE_BUCKET_KEY_ENABLED",
    "AWS_SSE_CUSTOMER_KEY_BASE64",
];
/// Any of these means that the environment says who we are, and no file is looked for.
const IDENTITIES: [&str; 4] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
];
const CREDENTIALS_BYTES_MAX: u64 = 1 << 20;

/// The bucket at `place`.
pub(super) fn open(place: &Place, options: &BucketOptions) -> Result<AmazonS3> {
    let environment = &options.environment;
    let region =
        options.said.region.as_deref().or(environment.get("AWS_REGION")).or(environment.get("AWS_DEFAULT_REGION"));
    let endpoint = options.said.endpoint.as_deref();
    let endpoint = endpoint.or(environment.get("AWS_ENDPOINT_URL_S3")).or(environment.get("AWS_ENDPOINT_URL"));
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&place.bucket)
        .with_region(region.unwrap_or("us-east-1"))
        .with_checksum_algorithm(S3Checksum::SHA256)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_config(AmazonS3ConfigKey::DisableBulkDelete, "true")
        .with_retry(no_retries())
        .with_client_options(ClientOptions::new().with_allow_http(true))
        .with_http_connector(Connector::new(Transport::new(options, Checksum::Given)?));
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    for name in VARIABLES {
        if let (Some(value), Ok(key)) = (environment.get(name), name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>())
        {
            builder = builder.with_config(key, value);
        }
    }
    if let Some(keys) = keys(options)? {
        builder = builder.with_access_key_id(keys.id).with_secret_access_key(keys.secret);
        // Not the environment's: a token belongs to its key.
        builder = builder.with_config(AmazonS3ConfigKey::Token, keys.token.unwrap_or_default());
    } else if environment.get("AWS_EC2_METADATA_DISABLED") == Some("true")
        && IDENTITIES.iter().all(|name| environment.get(name).is_none())
    {
        return Err(Error::new(Kind::Denied, format!("no credentials for the bucket {}", place.bucket)).hint(
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a credentials_file in the policy's [repository]",
        ));
    }
    builder.build().map_err(|error| {
        failed(format!("open the bucket {}", place.bucket), error)
            .or_hint("check endpoint, region and credentials; docs/providers.md says what each provider needs")
    })
}

/// The keys of a credentials file, when one is to be used.
fn keys(options: &BucketOptions) -> Result<Option<Keys>> {
    let environment = &options.environment;
    let named = options.said.credentials_file.clone();
    if named.is_none()
        && options.said.profile.is_none()
        && IDENTITIES.iter().any(|name| environment.get(name).is_some())
    {
        return Ok(None);
    }
    let profile = options.said.profile.as_deref().or(environment.get("AWS_PROFILE"));
    let wanted = named.or_else(|| environment.path("AWS_SHARED_CREDENTIALS_FILE"));
    // The default file may be missing; one that was asked for may not.
    let (path, must_exist) = match wanted {
        Some(path) => (path, true),
        None => match home_file(environment) {
            Some(path) => (path, profile.is_some()),
            None => return Ok(None),
        },
    };
    if !must_exist && !path.exists() {
        return Ok(None);
    }
    let bytes = read_small(&path, CREDENTIALS_BYTES_MAX).map_err(|error| {
        error.during("read the credentials file").kind_of(Kind::Usage).or_hint("check the path and its permissions")
    })?;
    find(&String::from_utf8_lossy(&bytes), profile.unwrap_or("default"), &path.display().to_string()).map(Some)
}

fn home_file(environment: &Environment) -> Option<PathBuf> {
    environment.path("HOME").map(|home| home.join(".aws/credentials"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Bucket;
    use crate::vault::testing;
    use std::fs;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment::new(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    fn place() -> Place {
        Place { bucket: "bucket".into(), prefix: String::new() }
    }

    #[test]
    fn a_named_file_wins_over_the_environment_and_the_default_file_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys");
        testing::overwrite(&file, b"[default]\naws_access_key_id = FILE\naws_secret_access_key = s\n");
        fs::create_dir(dir.path().join(".aws")).unwrap();
        fs::copy(&file, dir.path().join(".aws/credentials")).unwrap();
        let home = dir.path().to_str().unwrap();
        let keys = |options: &BucketOptions| super::keys(options).unwrap().map(|keys| keys.id);
        let with_keys = environment(&[("HOME", home), ("AWS_ACCESS_KEY_ID", "ENV"), ("AWS_SECRET_ACCESS_KEY", "s")]);
        let file_of = |path: PathBuf| Bucket { credentials_file: Some(path), ..Bucket::default() };
        let named = BucketOptions { said: file_of(file.clone()), environment: with_keys.clone() };
        assert_eq!(keys(&named).as_deref(), Some("FILE"));
        assert_eq!(keys(&BucketOptions { environment: with_keys, ..BucketOptions::default() }), None);
        let home_only = BucketOptions { environment: environment(&[("HOME", home)]), ..BucketOptions::default() };
        assert_eq!(keys(&home_only).as_deref(), Some("FILE"));
        let nothing = BucketOptions { environment: environment(&[("HOME", "/nowhere")]), ..BucketOptions::default() };
        assert_eq!(keys(&nothing), None);
        let missing = BucketOptions { said: file_of("/nowhere/keys".into()), ..BucketOptions::default() };
        let error = super::keys(&missing).unwrap_err();
        assert!(error.kind() == Kind::Usage && error.hint_text().is_some());
    }

    #[test]
    fn without_anyone_to_ask_missing_credentials_are_said_at_once() {
        let options = BucketOptions {
            environment: environment(&[("AWS_EC2_METADATA_DISABLED", "true")]),
            ..BucketOptions::default()
        };
        let error = open(&place(), &options).unwrap_err();
        assert_eq!(error.kind(), Kind::Denied);
        assert!(error.hint_text().unwrap().contains("AWS_ACCESS_KEY_ID"));
    }

    #[test]
    fn the_environment_cannot_switch_promises_off() {
        let variables = [
            ("AWS_ACCESS_KEY_ID", "id"),
            ("AWS_SECRET_ACCESS_KEY", "hush"),
            ("AWS_CONDITIONAL_PUT", "disabled"),
            ("AWS_CHECKSUM_ALGORITHM", "crc64nvme"),
            ("AWS_SKIP_SIGNATURE", "true"),
            ("AWS_BUCKET", "other"),
        ];
        let options = BucketOptions { environment: environment(&variables), ..BucketOptions::default() };
        let shown = open(&place(), &options).unwrap().to_string();
        assert_eq!(shown, "AmazonS3(bucket)");
        for name in ["AWS_CONDITIONAL_PUT", "AWS_CHECKSUM_ALGORITHM", "AWS_SKIP_SIGNATURE", "AWS_UNSIGNED_PAYLOAD"] {
            assert!(!VARIABLES.contains(&name));
        }
        for name in VARIABLES {
            assert!(name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>().is_ok(), "{name} means nothing");
        }
    }
}
