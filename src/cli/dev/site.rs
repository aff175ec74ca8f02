//! The one directory of `dev`: what is where in it, and the policy that it is given.
//!
//! ```text
//! DIR/
//!   dev.toml       the policy: written when there is none, and from then on the operator's
//!   data/          the member
//!   repository/    the restore points
//! ```

use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::base::durable::NewFile;
use crate::base::error::{Error, IoContext, Kind, Result};
use crate::cli::target::policy;
use crate::policy::Policy;
use crate::recovery::facts::absolute;
use crate::store::datadir::Datadir;
use crate::store::options::value::{Address, Scheme};

const POLICY: &str = "dev.toml";
const DATA: &str = "data";
const REPOSITORY: &str = "repository";
const FILE_MODE: u32 = 0o600;

const HINT_DIR: &str = "give --dir a folder, there or not yet, that you may write to";

/// The directory.
#[derive(Clone, Debug)]
pub(super) struct Site {
    /// As it was given: what people are told to type is to look like what they typed.
    named: PathBuf,
    root: PathBuf,
}

impl Site {
    /// The directory `named`, which need not be there.
    pub(super) fn of(named: &Path) -> Result<Self> {
        let root = absolute(named)?;
        if Datadir::holds_member(&root) {
            let message = format!("{} is the directory of a member", named.display());
            let hint =
                format!("a directory of `dev` keeps its member in {DATA}/: give another --dir, or run this member");
            return Err(Error::new(Kind::Usage, message).hint(format!("{hint} with `holdfast serve --data-dir`")));
        }
        Ok(Site { named: named.to_owned(), root })
    }

    /// Makes the directory when there is none.
    pub(super) fn make(&self) -> Result<()> {
        let made = std::fs::create_dir_all(&self.root).during(|| format!("make {}", self.named.display()));
        made.map_err(|error| error.hint(HINT_DIR))
    }

    /// The directory, as it was given.
    pub(super) fn named(&self) -> &Path {
        &self.named
    }

    /// The member's directory.
    pub(super) fn data(&self) -> PathBuf {
        self.root.join(DATA)
    }

    /// The policy's file.
    pub(super) fn policy_file(&self) -> PathBuf {
        self.root.join(POLICY)
    }

    /// The same, as people would name it.
    pub(super) fn policy_named(&self) -> PathBuf {
        self.named.join(POLICY)
    }

    /// The policy and where it has the member; none when there is none yet. One for a cluster that `dev` cannot have
    /// started is refused: this member's points are not to lie among that one's.
    pub(super) fn policy(&self) -> Result<Option<(Policy, Address)>> {
        let file = self.policy_file();
        if !file
            .try_exists()
            .during(|| format!("look for {}", file.display()))
            .map_err(|error| error.or_hint(HINT_DIR))?
        {
            return Ok(None);
        }
        let policy = policy(&file)?;
        match &policy.cluster.endpoints[..] {
            [endpoint] => match own(endpoint) {
                Some(address) => Ok(Some((policy, address))),
                None => {
                    Err(self.foreign(&format!("names {endpoint}, which is no port of this machine over plain HTTP")))
                }
            },
            _ => Err(self.foreign("names several endpoints, and `dev` runs one member")),
        }
    }

    /// The same for the member that is reached at `here`: a policy may have another port, and no other host.
    pub(super) fn policy_at(&self, here: &Address) -> Result<Option<(Policy, Address)>> {
        let known = self.policy()?;
        match &known {
            Some((_, address)) if !is_private(address) && address.host != here.host => {
                let (there, here) = (&address.text, &here.text);
                Err(self.foreign(&format!("names {there}, and the member is at {here}")))
            }
            _ => Ok(known),
        }
    }

    fn foreign(&self, what: &str) -> Error {
        let message = format!("the policy {} {what}", self.policy_named().display());
        let hint = "let it name the member that `dev` runs, as endpoints = [\"http://127.0.0.1:2379\"]; or move it away, \
                    and a new one is written; a cluster that is there is backed up by `holdfast backup --policy FILE`";
        Error::new(Kind::Usage, message).hint(hint)
    }

    /// Writes a policy for a member at `endpoint`.
    pub(super) fn write_policy(&self, endpoint: &str) -> Result<()> {
        let mut file = NewFile::create(&self.policy_file(), FILE_MODE)?;
        file.append(text(endpoint, &file_url(&self.root.join(REPOSITORY))).as_bytes())?;
        file.commit()
    }
}

/// The address of an endpoint that can be a member of `dev`: on this machine, and without TLS.
fn own(endpoint: &str) -> Option<Address> {
    let address = Address::parse(endpoint).ok()?;
    (address.scheme == Scheme::Http && address.is_local() && address.port != 0).then_some(address)
}

/// Whether only this machine reaches it.
pub(super) fn is_private(address: &Address) -> bool {
    address.host == "localhost" || address.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The URL of a folder.
fn file_url(path: &Path) -> String {
    path.as_os_str().as_bytes().iter().fold("file://".to_owned(), |mut url, &byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' | b'~' => url.push(char::from(byte)),
            _ => url.push_str(&format!("%{byte:02X}")),
        }
        url
    })
}

/// A policy to begin with.
fn text(endpoint: &str, repository: &str) -> String {
    format!(
        r#"# Written by `holdfast dev`, which reads it again before every backup: what you change here counts from the next one
# on. It is a policy like any other (docs/policy.md), and every command takes it as --policy.

[cluster]
# The cluster's name in the repository.
name = "dev"
endpoints = ["{endpoint}"]
# Points are compared with the live cluster by its own hash. Its only member is its leader, so that one is asked.
hash_on_leader = "on"

[repository]
url = "{repository}"
# Restore points hold what the cluster holds, in the clear. docs/policy.md has the other ways.
encryption = "none"

# What is kept: by number, and then the last of each hour and of each day. `holdfast dev` prunes by it now and then, and what
# it condemned can be taken back for an hour (`holdfast undelete`); without this table everything is kept.
[retention]
last = 60
hourly = 24
daily = 7

# `holdfast dev` makes a point in each --every, and a full one each day. Where timers run backups, say when they do, and
# retention and objectives are judged by it:
# [schedule]
# full = "0 2 * * *"
# incremental = "*/5 * * * *"
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::parse;

    #[test]
    fn the_policy_that_is_written_is_one() {
        let url = file_url(Path::new("/a b/\"ü%/repository"));
        assert_eq!(url, "file:///a%20b/%22%C3%BC%25/repository");
        let policy = parse(&text("http://127.0.0.1:2379", &url), POLICY).unwrap();
        assert_eq!((policy.cluster.name.as_str(), policy.repository.url.as_str()), ("dev", url.as_str()));
        assert_eq!(policy.cluster.endpoints, ["http://127.0.0.1:2379"]);
    }

    #[test]
    fn the_schedule_that_is_suggested_is_one() {
        let text = text("http://127.0.0.1:2379", "file:///r");
        let (head, tail) = text.split_once("# [schedule]\n").unwrap();
        let schedule = format!("{head}[schedule]\n{}", tail.replace("# ", ""));
        let policy = parse(&schedule, POLICY).unwrap();
        assert!(policy.schedule.of(crate::policy::schedule::Job::Full).is_some());
    }

    #[test]
    fn a_member_of_dev_is_on_this_machine_and_without_tls() {
        for endpoint in ["http://127.0.0.1:2379", "http://localhost:1", "http://[::1]:2379"] {
            assert!(own(endpoint).is_some(), "{endpoint}");
        }
        for endpoint in ["https://127.0.0.1:2379", "http://etcd.example:2379", "http://127.0.0.1:0", "127.0.0.1:2379"] {
            assert!(own(endpoint).is_none(), "{endpoint}");
        }
    }
}
