//! Policies: what an operator wants for one cluster, as a value.
//!
//! A policy file is TOML, one per cluster. It is read in two stages: `raw` finds every field with its line and refuses
//! what it does not know, and this module checks what fields mean together. What comes out has nothing left to guess.
//!
//! ```toml
//! [cluster]
//! name = "prod"
//! endpoints = ["https://10.0.0.1:2379", "https://10.0.0.2:2379"]
//! ca = "/etc/holdfast/pki/ca.crt"
//! cert = "/etc/holdfast/pki/client.crt"
//! key = "/etc/holdfast/pki/client.key"
//!
//! [repository]
//! url = "file:///var/backups/etcd"
//! encryption = "none"
//!
//! [schedule]
//! full = "0 2 * * *"
//! incremental = "0 * * * *"
//!
//! [retention]
//! hourly = 24
//! daily = 7
//! ```
//!
//! What the tables mean stands in modules of their names: `schedule` (when), `retention` (what to keep, and why),
//! `objective` (what is promised, and whether it holds), `hooks` (whom to tell). `zone` knows clocks and calendars, `advice`
//! what does not fit together, `simulate` what a year under a policy comes to.
//!
//! Invariants:
//! - An unknown field is an error that names the line and the nearest known field: a misspelt option must not read as
//!   "not set".
//! - Pure: no file is opened here. Paths stay as written; whoever opens them resolves relative ones against the folder of
//!   the policy file.
//! - No message holds a secret: passwords come from files only, and an address with a password in it is not repeated.

pub mod advice;
pub mod drill;
pub mod hooks;
pub mod objective;
mod raw;
mod repository;
pub mod retention;
pub mod schedule;
pub mod simulate;
pub mod zone;

use std::collections::HashSet;
use std::path::PathBuf;
use url::Url;

use crate::base::error::{Error, Kind, Result};
use crate::base::id;
use crate::policy::drill::Drill;
use crate::policy::hooks::Hooks;
use crate::policy::objective::Objectives;
use crate::policy::raw::{Document, Table};
pub use crate::policy::repository::{Bucket, Encryption, Repository};
use crate::policy::retention::Retention;
use crate::policy::schedule::Schedule;

/// Bytes of a policy file.
pub const POLICY_BYTES_MAX: usize = 1 << 20;
/// Endpoints of a cluster; etcd advises at most seven members.
pub const ENDPOINTS_MAX: usize = 64;

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The cluster that is protected.
    pub cluster: Cluster,
    /// Where its restore points are kept.
    pub repository: Repository,
    /// What is done when.
    pub schedule: Schedule,
    /// Which points are kept.
    pub retention: Retention,
    /// What is promised.
    pub objectives: Objectives,
    /// Whom to tell.
    pub hooks: Hooks,
    /// With which etcd a restore is rehearsed.
    pub drill: Drill,
}

/// The cluster that is protected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Its name in the repository.
    pub name: String,
    /// Client addresses of its members, all `https` or all `http`.
    pub endpoints: Vec<String>,
    /// Certificates of the authorities that sign the members' certificates; none: the system's.
    pub ca: Option<PathBuf>,
    /// The client's certificate.
    pub identity: Option<Identity>,
    /// The user, when the cluster has authentication on.
    pub login: Option<Login>,
    /// Whether the leader may be asked for a hash, which holds up its writes.
    pub hash_on_leader: HashOnLeader,
}

/// A client's certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The certificate, PEM.
    pub cert: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
}

/// A user and where its password stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The user's name.
    pub user: String,
    /// A file that holds the password.
    pub password_file: PathBuf,
}

/// Whether the leader may be asked for a hash when no follower can be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HashOnLeader {
    /// Yes, and say so.
    #[default]
    Warn,
    /// No; the point is then not compared.
    Off,
    /// Yes, silently.
    On,
}

/// Reads a policy; `name` is the file's, for messages.
pub fn parse(text: &str, name: &str) -> Result<Policy> {
    if text.len() > POLICY_BYTES_MAX {
        return Err(Error::new(Kind::Usage, format!("{name} is larger than any policy"))
            .hint("give the policy file, not the data"));
    }
    let document = Document::parse(text, name)?;
    let mut root =
        document.root(&["cluster", "repository", "schedule", "retention", "objectives", "hooks", "drill"])?;
    let cluster = cluster(&mut root)?;
    let repository = repository::read(&mut root)?;
    let schedule = Schedule::read(&mut root)?;
    let retention = Retention::read(&mut root)?;
    let objectives = Objectives::read(&mut root)?;
    let hooks = Hooks::read(&mut root)?;
    let drill = Drill::read(&mut root)?;
    Ok(Policy { cluster, repository, schedule, retention, objectives, hooks, drill })
}

fn cluster(root: &mut Table<'_>) -> Result<Cluster> {
    let known = ["name", "endpoints", "ca", "cert", "key", "user", "password_file", "hash_on_leader"];
    let mut table = root.table("cluster", &known)?;
    let name = table.required("name", "the cluster's name in the repository, for example name = \"prod\"")?;
    id::check_name("cluster", &name.value).map_err(|error| {
        let hint = error.hint_text().unwrap_or_default().to_owned();
        name.wrong(error.to_string()).hint(hint)
    })?;
    let (endpoints, secure) = endpoints(&mut table)?;
    let ca = table.path("ca")?;
    let (cert, key) = (table.path("cert")?, table.path("key")?);
    for (field, set) in [("ca", &ca), ("cert", &cert), ("key", &key)] {
        if let (Some(path), false) = (set, secure) {
            return Err(path
                .wrong(format!("{field} is set, but the endpoints are http"))
                .hint(format!("write https:// endpoints, or remove {field}")));
        }
    }
    let identity = both(cert, key, "cert", "key")?.map(|(cert, key)| Identity { cert, key });
    let user = table.string("user")?;
    let password_file = table.path("password_file")?;
    let login = both(user, password_file, "user", "password_file")?;
    let login = login.map(|(user, password_file)| Login { user, password_file });
    let hash_on_leader = match table.string("hash_on_leader")? {
        None => HashOnLeader::default(),
        Some(value) => match value.value.as_str() {
            "warn" => HashOnLeader::Warn,
            "off" => HashOnLeader::Off,
            "on" => HashOnLeader::On,
            other => {
                return Err(value
                    .wrong(format!("hash_on_leader cannot be {other:?}"))
                    .hint("write \"warn\", \"off\" or \"on\""));
            }
        },
    };
    Ok(Cluster { name: name.value, endpoints, ca: ca.map(|ca| ca.value), identity, login, hash_on_leader })
}

/// The endpoints, and whether they are https.
fn endpoints(table: &mut Table<'_>) -> Result<(Vec<String>, bool)> {
    const EXAMPLE: &str = "for example endpoints = [\"https://10.0.0.1:2379\"]";
    let list = table.required_strings("endpoints", EXAMPLE)?;
    if list.value.is_empty() {
        return Err(list.wrong("endpoints is empty").hint(EXAMPLE));
    }
    if list.value.len() > ENDPOINTS_MAX {
        return Err(list.wrong(format!("more than {ENDPOINTS_MAX} endpoints")).hint("list the members of one cluster"));
    }
    let mut seen = HashSet::new();
    let mut schemes = HashSet::new();
    for endpoint in &list.value {
        let text = &endpoint.value;
        if text.contains('@') {
            return Err(endpoint
                .wrong("an endpoint holds a user or a password")
                .hint("write the address alone, and the login as user and password_file"));
        }
        if !text.contains("://") {
            return Err(endpoint
                .wrong(format!("endpoint {text:?} has no scheme"))
                .hint(format!("write \"https://{text}\", or \"http://{text}\" when the cluster has no TLS")));
        }
        let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let plain = |url: &Url| url.host().is_some() && matches!(url.path(), "" | "/") && url.query().is_none();
        let Some(url) = url.filter(|url| plain(url) && url.fragment().is_none()) else {
            return Err(endpoint.wrong(format!("endpoint {text:?} is not the address of a member")).hint(EXAMPLE));
        };
        if !seen.insert(url.as_str().to_owned()) {
            return Err(endpoint.wrong(format!("endpoint {text:?} is listed twice")).hint("list each member once"));
        }
        schemes.insert(url.scheme().to_owned());
        if schemes.len() > 1 {
            return Err(endpoint.wrong("endpoints mix https and http").hint("use https for all members, or for none"));
        }
    }
    let secure = schemes.contains("https");
    Ok((list.value.into_iter().map(|endpoint| endpoint.value).collect(), secure))
}

/// Two fields that make sense together only.
fn both<A, B>(
    a: Option<raw::Field<A>>,
    b: Option<raw::Field<B>>,
    a_name: &str,
    b_name: &str,
) -> Result<Option<(A, B)>> {
    match (a, b) {
        (Some(a), Some(b)) => Ok(Some((a.value, b.value))),
        (None, None) => Ok(None),
        (Some(a), None) => Err(a.wrong(format!("{a_name} is set without {b_name}")).hint(format!("add {b_name}"))),
        (None, Some(b)) => Err(b.wrong(format!("{b_name} is set without {a_name}")).hint(format!("add {a_name}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    /// What a reader of the golden files sees: the policy, or the error with its kind and hint.
    fn outcome(text: &str, name: &str) -> String {
        match parse(text, name) {
            Ok(policy) => format!("{policy:#?}\n"),
            Err(error) => format!(
                "error ({}): {}\nhint: {}\n",
                error.kind().name(),
                error.chain(),
                error.hint_text().expect("every error of a policy has a hint")
            ),
        }
    }

    /// Each `<name>.toml` in scripts is a policy file, each `<name>.expected` beside it what must come out.
    #[test]
    fn golden_files_say_what_comes_out() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/policy/scripts");
        let mut seen = 0;
        let mut wrong = String::new();
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "toml") {
                continue;
            }
            let name = path.file_name().unwrap().to_str().unwrap();
            let actual = outcome(&fs::read_to_string(&path).unwrap(), name);
            let expected = fs::read_to_string(path.with_extension("expected")).unwrap_or_default();
            if actual != expected {
                wrong.push_str(&format!("=== {name}\n{actual}"));
            }
            seen += 1;
        }
        assert!(wrong.is_empty(), "these differ from what is expected:\n{wrong}");
        assert!(seen >= 25, "{seen} golden files");
    }

    #[test]
    fn hostile_text_is_an_error_never_a_panic() {
        let right =
            fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/policy/scripts/full.toml")).unwrap();
        for at in 0..right.len() {
            let _ = parse(&right[..at], "cut.toml");
            for wrong in ["\"", "[", "\n", "=", "\u{0}", "é"] {
                let mut changed = right.clone();
                changed.replace_range(at..=at, wrong);
                let _ = parse(&changed, "changed.toml");
            }
        }
        assert!(parse(&"[".repeat(100_000), "deep.toml").is_err());
        assert!(parse(&" ".repeat(POLICY_BYTES_MAX + 1), "huge.toml").is_err());
    }
}
