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
use crate::policy::{Bucket, Encryption, POLICY_BYTES_MAX, Policy, parse};
use crate::vault::catalog::Catalog;
use crate::vault::encryption::{Identities, Passphrases, Recipients, Wanted};
use crate::vault::foreign::{ForeignOptions, Origin, UNPACKED_BYTES_MAX, open};
use crate::vault::repository::{BucketOptions, Environment, Keys, Repository, RepositoryOptions};
use crate::vault::sign::{HINT_PUBLIC, PublicKey, Signers, SigningKey};

/// The longest password file, in bytes.
const PASSWORD_BYTES_MAX: u64 = 4096;

/// The variable in which systemd names the folder of a job's credentials.
const CREDENTIALS_VARIABLE: &str = "CREDENTIALS_DIRECTORY";
/// Where systemd takes credentials from.
const CREDENTIALS_STORE: &str = "/etc/credstore";
/// The longest file of identities or passphrases, in bytes.
const SECRETS_BYTES_MAX: u64 = 64 << 10;

/// Reads and validates a policy file. Paths in it are relative to its folder.
pub(crate) fn policy(file: &Path) -> Result<Policy> {
    let bytes = read_small(file, POLICY_BYTES_MAX as u64).map_err(|error| {
        error.during("read the policy").kind_of(Kind::Usage).or_hint("check the path of the policy file")
    })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        Error::new(Kind::Usage, format!("the policy {} is not text", file.display()))
            .source(error)
            .hint("policies are TOML files in UTF-8")
    })?;
    let mut policy = parse(&text, &file.display().to_string())?;
    let given = std::env::vars_os().find(|(name, _)| name == CREDENTIALS_VARIABLE);
    let given = given.map(|(_, folder)| PathBuf::from(folder));
    let resolve = |path: &mut PathBuf| *path = located(path, file, given.as_deref());
    policy.cluster.ca.iter_mut().for_each(resolve);
    if let Some(identity) = &mut policy.cluster.identity {
        resolve(&mut identity.cert);
        resolve(&mut identity.key);
    }
    policy.cluster.login.iter_mut().for_each(|login| resolve(&mut login.password_file));
    policy.repository.bucket.credentials_file.iter_mut().for_each(resolve);
    policy.repository.bucket.ca.iter_mut().for_each(resolve);
    policy.repository.identity.iter_mut().for_each(resolve);
    policy.repository.signing_key.iter_mut().for_each(resolve);
    if let Encryption::PassphraseFile(file) = &mut policy.repository.encryption {
        resolve(file);
    }
    policy.drill.etcd.iter_mut().for_each(resolve);
    policy.drill.etcdutl.iter_mut().for_each(resolve);
    Ok(policy)
}

/// Where a path of the policy `file` leads: a relative one begins at the policy's folder, a credential in the folder that
/// systemd has `given` this job; or, outside of a unit, where the shipped units take it from.
fn located(path: &Path, file: &Path, given: Option<&Path>) -> PathBuf {
    match (path.strip_prefix(format!("${CREDENTIALS_VARIABLE}")), given) {
        (Ok(name), Some(given)) => given.join(name),
        (Ok(name), None) => {
            let policy = file.file_stem().unwrap_or_default().to_string_lossy();
            Path::new(CREDENTIALS_STORE).join(format!("holdfast.{policy}.{}", name.display()))
        }
        (Err(_), _) => file.parent().unwrap_or(Path::new(".")).join(path),
    }
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

/// How to reach the cluster that the flags describe; a stream that is silent for `stall` has failed.
pub(crate) fn reached(args: &args::Endpoints, stall: Duration) -> Result<Options> {
    if args.user.as_deref().is_some_and(|user| user.contains(':')) {
        return Err(Error::new(
            Kind::Usage,
            "the user name holds a colon: a password does not belong on a command line",
        )
        .hint("give the name with --user and put the password into a file named by --password-file"));
    }
    let password = args.password_file.as_deref().map(password).transpose()?;
    let tls = TlsFiles { ca: args.cacert.clone(), cert: args.cert.clone(), key: args.key.clone() };
    let (endpoints, user) = (args.endpoints.clone(), args.user.clone());
    Ok(Options { endpoints, tls, user, password, stall, ..Options::default() })
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

/// What seals and opens the data of a policy's repository, what signs its manifests, and whose signatures count.
pub(crate) fn keys(policy: &Policy) -> Result<Keys> {
    let repository = &policy.repository;
    let identities = repository.identity.as_deref().map(identities).transpose()?;
    let (wanted, passphrases) = match &repository.encryption {
        Encryption::None => (Wanted::Plain, None),
        Encryption::Recipients(names) => {
            (Wanted::For(Recipients::parse(names.iter().map(String::as_str)).map_err(in_policy)?), None)
        }
        Encryption::PassphraseFile(file) => {
            let passphrases = passphrases(file)?;
            (Wanted::Passphrase(passphrases.clone()), Some(passphrases))
        }
    };
    let signing = repository.signing_key.as_deref().map(signing_key).transpose()?;
    let named = repository.trusted_signers.iter().map(|text| PublicKey::of_text("trusted_signers", text));
    let mut trusted = named.collect::<Result<Vec<_>>>()?;
    trusted.extend(signing.as_ref().map(SigningKey::public));
    Ok(Keys { wanted: Some(wanted), identities, passphrases, signing, signers: Signers::new(trusted, false) })
}

fn signing_key(file: &Path) -> Result<SigningKey> {
    SigningKey::parse(&file.display().to_string(), &secret_text(file, "signing key")?)
}

/// A key that is trusted for one command: itself, or a file with it.
fn trusted(named: &str) -> Result<PublicKey> {
    if let Some(key) = PublicKey::parse(named) {
        return Ok(key);
    }
    let file = Path::new(named);
    let bytes = read_small(file, SECRETS_BYTES_MAX).map_err(|error| match error.kind() {
        // What is neither may be a private key, so it is not repeated.
        Kind::NotFound => {
            Error::new(Kind::Usage, "--trust-key names neither a public key of Ed25519 nor a file").hint(HINT_PUBLIC)
        }
        _ => error.during("read the key of --trust-key").kind_of(Kind::Usage).or_hint(HINT_PUBLIC),
    })?;
    PublicKey::of_text(named, &String::from_utf8_lossy(&bytes))
}

fn in_policy(error: Error) -> Error {
    error.during("[repository] encryption")
}

fn identities(file: &Path) -> Result<Identities> {
    Identities::parse(&file.display().to_string(), &secret_text(file, "identity file")?)
}

fn passphrases(file: &Path) -> Result<Passphrases> {
    Passphrases::parse(&file.display().to_string(), &secret_text(file, "passphrase file")?)
}

/// The text of a small file that holds secrets.
fn secret_text(file: &Path, what: &str) -> Result<String> {
    let bytes = read_small(file, SECRETS_BYTES_MAX).map_err(|error| {
        error.during(format!("read the {what}")).kind_of(Kind::Usage).or_hint("check the path and its permissions")
    })?;
    String::from_utf8(bytes).map_err(|_| {
        Error::new(Kind::Usage, format!("the {what} {} is not text", file.display()))
            .hint("check that it is the file you mean")
    })
}

/// A repository's address and the cluster in it.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) url: String,
    pub(crate) cluster: String,
    pub(crate) bucket: Bucket,
    pub(crate) keys: Keys,
}

impl Place {
    /// The place that flags name, by a policy or directly.
    pub(crate) fn of(args: &args::Repository) -> Result<Self> {
        let mut place = match (&args.policy, &args.repository, &args.cluster) {
            (Some(file), None, named) => {
                let place = Place::of_policy(&policy(file)?)?;
                match named {
                    // A hook has the cluster's name in its environment, and may call us with the policy.
                    Some(named) if *named != place.cluster => {
                        let what = format!("the policy is for cluster {:?}, not {named:?}", place.cluster);
                        return Err(Error::new(Kind::Usage, what)
                            .hint("leave --cluster and HOLDFAST_CLUSTER out, or give the policy of that cluster"));
                    }
                    _ => place,
                }
            }
            (None, Some(url), Some(cluster)) => {
                Place { url: url.clone(), cluster: cluster.clone(), bucket: Bucket::default(), keys: Keys::default() }
            }
            _ => {
                return Err(Error::new(Kind::Usage, "no repository was named")
                    .hint("give --policy FILE, or --repository URL with --cluster NAME"));
            }
        };
        if let Some(file) = &args.identity {
            place.keys.identities = Some(identities(file)?);
        }
        if let Some(file) = &args.passphrase_file {
            place.keys.passphrases = Some(passphrases(file)?);
        }
        place.trusting(&args.trust)
    }

    /// The same place, with whom flags trust beside the policy's signers.
    pub(crate) fn trusting(mut self, args: &args::Trust) -> Result<Self> {
        let mut keys = self.keys.signers.trusted().to_vec();
        for named in &args.trust_keys {
            keys.push(trusted(named)?);
        }
        self.keys.signers = Signers::new(keys, args.allow_unsigned);
        Ok(self)
    }

    /// The place that a policy names.
    pub(crate) fn of_policy(policy: &Policy) -> Result<Self> {
        let repository = &policy.repository;
        Ok(Place {
            url: repository.url.clone(),
            cluster: policy.cluster.name.clone(),
            bucket: repository.bucket.clone(),
            keys: keys(policy)?,
        })
    }

    /// How the repository is opened.
    pub(crate) fn options(&self, context: &Context) -> RepositoryOptions {
        let bucket = BucketOptions { said: self.bucket.clone(), environment: environment() };
        RepositoryOptions { url: self.url.clone(), clock: context.clock, bucket, keys: self.keys.clone() }
    }

    /// Opens the repository, which must exist.
    pub(crate) async fn open(&self, context: &Context) -> Result<Repository> {
        context.stop.or(Repository::open(&self.options(context))).await
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_a_policy_lead_where_it_says() {
        let file = Path::new("/etc/holdfast/policies/prod.toml");
        let at = |path: &str, given: Option<&str>| located(Path::new(path), file, given.map(Path::new));
        for given in [None, Some("/run/credentials/x")] {
            assert_eq!(at("/pki/ca.crt", given), Path::new("/pki/ca.crt"));
            assert_eq!(at("pki/ca.crt", given), Path::new("/etc/holdfast/policies/pki/ca.crt"));
        }
        let credential = "$CREDENTIALS_DIRECTORY/client.key";
        assert_eq!(at(credential, Some("/run/credentials/x")), Path::new("/run/credentials/x/client.key"));
        assert_eq!(at(credential, None), Path::new("/etc/credstore/holdfast.prod.client.key"));
        assert_eq!(at("$CREDENTIALS/x", None), Path::new("/etc/holdfast/policies/$CREDENTIALS/x"));
    }
}
