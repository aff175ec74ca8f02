//! From flags to the things commands work on: a policy, a repository, a client, a file someone else wrote.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::base::error::{Error, Kind, Result};
use crate::base::file::{ReadAt, read_small};
use crate::base::stop::{Stop, blocking};
use crate::base::tls::TlsFiles;
use crate::cli::args;
use crate::cli::run::Context;
use crate::client::Client;
use crate::client::options::{Options, Secret};
use crate::policy::{Bucket, POLICY_BYTES_MAX, Policy, parse};
use crate::vault::catalog::Catalog;
use crate::vault::foreign::{ForeignOptions, Origin, UNPACKED_BYTES_MAX, open};
use crate::vault::repository::{BucketOptions, Environment, Repository, RepositoryOptions};

/// The longest password file, in bytes.
const PASSWORD_BYTES_MAX: u64 = 4096;

/// Reads and validates a policy file. Paths in it are relative to its folder.
pub(crate) fn policy(file: &Path) -> Result<Policy> {
    let bytes = read_small(file, POLICY_BYTES_MAX as u64).map_err(|error| {
        error.during("read the policy").kind_of(Kind::Usage).or_hint("check the path given with --policy")
    })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        Error::new(Kind::Usage, format!("the policy {} is not text", file.display()))
            .source(error)
            .hint("policies are TOML files in UTF-8")
    })?;
    let mut policy = parse(&text, &file.display().to_string())?;
    let folder = file.parent().unwrap_or(Path::new("."));
    let resolve = |path: &mut PathBuf| *path = folder.join(&*path);
    policy.cluster.ca.iter_mut().for_each(resolve);
    if let Some(identity) = &mut policy.cluster.identity {
        resolve(&mut identity.cert);
        resolve(&mut identity.key);
    }
    policy.cluster.login.iter_mut().for_each(|login| resolve(&mut login.password_file));
    policy.repository.bucket.credentials_file.iter_mut().for_each(resolve);
    policy.repository.bucket.ca.iter_mut().for_each(resolve);
    policy.drill.etcd.iter_mut().for_each(resolve);
    policy.drill.etcdutl.iter_mut().for_each(resolve);
    Ok(policy)
}

/// The client that a policy describes; a stream that is silent for `stall` has failed.
pub(crate) fn client(policy: &Policy, stall: Duration) -> Result<Client> {
    let cluster = &policy.cluster;
    let tls = TlsFiles {
        ca: cluster.ca.clone(),
        cert: cluster.identity.as_ref().map(|identity| identity.cert.clone()),
        key: cluster.identity.as_ref().map(|identity| identity.key.clone()),
    };
    let user = cluster.login.as_ref().map(|login| login.user.clone());
    let password = cluster.login.as_ref().map(|login| password(&login.password_file)).transpose()?;
    Client::new(&Options { endpoints: cluster.endpoints.clone(), tls, user, password, stall, ..Options::default() })
}

/// The first line of a password file.
pub(crate) fn password(path: &Path) -> Result<Secret> {
    let bytes = read_small(path, PASSWORD_BYTES_MAX).map_err(|error| {
        error.during("read the password file").kind_of(Kind::Usage).or_hint("check the path and its permissions")
    })?;
    let text = String::from_utf8(bytes).map_err(|_| {
        Error::new(Kind::Usage, format!("the password in {} is not text", path.display()))
            .hint("write the password as one line of text")
    })?;
    Ok(Secret::new(text.lines().next().unwrap_or_default()))
}

/// A repository's address and the cluster in it.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) url: String,
    pub(crate) cluster: String,
    pub(crate) bucket: Bucket,
}

impl Place {
    /// The place that flags name, by a policy or directly.
    pub(crate) fn of(args: &args::Repository) -> Result<Self> {
        match (&args.policy, &args.repository, &args.cluster) {
            (Some(file), None, None) => Ok(Place::of_policy(&policy(file)?)),
            (None, Some(url), Some(cluster)) => {
                Ok(Place { url: url.clone(), cluster: cluster.clone(), bucket: Bucket::default() })
            }
            _ => Err(Error::new(Kind::Usage, "no repository was named")
                .hint("give --policy FILE, or --repository URL with --cluster NAME")),
        }
    }

    /// The place that a policy names.
    pub(crate) fn of_policy(policy: &Policy) -> Self {
        let repository = &policy.repository;
        Place { url: repository.url.clone(), cluster: policy.cluster.name.clone(), bucket: repository.bucket.clone() }
    }

    /// How the repository is opened.
    pub(crate) fn options(&self, context: &Context) -> RepositoryOptions {
        let bucket = self.bucket.clone();
        let bucket = BucketOptions {
            endpoint: bucket.endpoint,
            region: bucket.region,
            storage_class: bucket.storage_class,
            credentials_file: bucket.credentials_file,
            profile: bucket.profile,
            ca: bucket.ca,
            limit_upload: bucket.limit_upload,
            limit_download: bucket.limit_download,
            stall: bucket.stall,
            patience: bucket.patience,
            environment: environment(),
        };
        RepositoryOptions { url: self.url.clone(), clock: context.clock, bucket }
    }

    /// Opens the repository, which must exist.
    pub(crate) async fn open(&self, context: &Context) -> Result<Repository> {
        Repository::open(&self.options(context)).await
    }

    /// Opens the repository and lists the cluster's points.
    pub(crate) async fn catalog(&self, context: &Context) -> Result<(Repository, Catalog)> {
        let repository = self.open(context).await?;
        let catalog = context.stop.or(Catalog::load(&repository, &self.cluster)).await?;
        Ok((repository, catalog))
    }
}

/// Where a cache may be kept: `$XDG_CACHE_HOME/holdfast`, or `~/.cache/holdfast`; none when neither is known.
pub(crate) fn cache_folder() -> Option<PathBuf> {
    let folder = |name: &str| {
        let value = std::env::vars_os().find(|(key, _)| key == name)?.1;
        // What the base directory specification says of relative ones: as if they were not set.
        Some(PathBuf::from(value)).filter(|path| path.is_absolute())
    };
    folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache"))).map(|cache| cache.join("holdfast"))
}

/// The variables that say who we are to a bucket, as its provider's own tools read them.
fn environment() -> Environment {
    const PREFIXES: [&str; 2] = ["AWS_", "GOOGLE_"];
    let ours = |name: &str| name == "HOME" || PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    let text =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Environment::new(text.filter(|(name, _)| ours(name)))
}

/// What to do next about damage in a file that someone else wrote, where the error does not say.
pub(crate) fn in_file(error: Error) -> Error {
    match error.kind() {
        Kind::Damaged => {
            error.or_hint("do not use this file: copy it again from where it was made, or use another snapshot")
        }
        _ => error,
    }
}

/// What to do next about damage in a restore point, where the error does not say.
pub(crate) fn in_point(error: Error) -> Error {
    match error.kind() {
        Kind::Damaged => error.or_hint(
            "do not use this point: `holdfast verify --level 3` says what is wrong with it, `holdfast list` shows others",
        ),
        _ => error,
    }
}

/// Opens a snapshot file, unpacked; `-` is standard input. A signal ends it even while nothing comes from there.
pub(crate) async fn snapshot_file(path: &Path, scratch: &args::Scratch, context: &Context) -> Result<ReadAt> {
    let (path, scratch, stop) = (path.to_owned(), scratch.folder.clone(), context.stop.clone());
    context.stop.or(blocking(move || unpacked(&path, scratch, stop))).await
}

fn unpacked(path: &Path, scratch: PathBuf, stop: Stop) -> Result<ReadAt> {
    let origin = if path == Path::new("-") {
        Origin::Stream(Box::new(std::io::stdin()), "standard input".to_owned())
    } else {
        Origin::Path(path.to_owned())
    };
    let options = ForeignOptions { scratch, unpacked_bytes_max: UNPACKED_BYTES_MAX, stop };
    let foreign = open(origin, &options).map_err(|error| match error.kind() {
        Kind::NotFound => error.or_hint("check the file's path"),
        _ => error,
    })?;
    ReadAt::of(foreign.file, Path::new(&foreign.name))
}
