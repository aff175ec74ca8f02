//! One cluster's policy and repository, and what operators run on them; members started by hand.

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

use crate::support::etcd::Etcd;
use crate::support::peers;
use crate::support::ports::Port;
use crate::support::run::{Outcome, Process, Run, wait_until};

/// How long a member may take to answer, on a busy machine.
const READY_LIMIT: Duration = Duration::from_mins(1);

/// A folder with a policy, a repository and room for files; gone when dropped.
pub(crate) struct Site {
    dir: TempDir,
    policy: PathBuf,
}

impl Site {
    /// A site for all members of a cluster.
    pub(crate) fn of(etcd: &Etcd) -> Site {
        Site::with(&etcd.policy_table("prod"))
    }

    /// A site whose policy has this `[cluster]` table.
    pub(crate) fn with(cluster: &str) -> Site {
        let dir = TempDir::with_prefix_in("site-", env!("CARGO_TARGET_TMPDIR")).unwrap();
        let site = Site { policy: dir.path().join("prod.toml"), dir };
        site.describe(cluster);
        site
    }

    /// Another policy for the repository of `other`, which stays its owner's.
    pub(crate) fn beside(other: &Site, cluster: &str) -> Site {
        let dir = TempDir::with_prefix_in("site-", env!("CARGO_TARGET_TMPDIR")).unwrap();
        let site = Site { policy: dir.path().join("prod.toml"), dir };
        std::os::unix::fs::symlink(other.repository(), site.repository()).unwrap();
        site.describe(cluster);
        site
    }

    /// Writes the policy anew; the repository stays.
    pub(crate) fn describe(&self, cluster: &str) {
        let url = format!("file://{}", self.repository().display());
        let repository = format!("[repository]\nurl = {url:?}\nencryption = \"none\"\n");
        fs::write(&self.policy, format!("{cluster}\n{repository}")).unwrap();
    }

    /// A file or folder of the site.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The folder of the repository.
    pub(crate) fn repository(&self) -> PathBuf {
        self.path("repository")
    }

    /// A command with this policy, its result as JSON.
    pub(crate) fn holdfast(&self, args: &[&str]) -> Outcome {
        self.holdfast_in(self.dir.path(), args)
    }

    /// The same with another folder for scratch.
    pub(crate) fn holdfast_in(&self, scratch: &Path, args: &[&str]) -> Outcome {
        let policy = self.policy.to_str().unwrap();
        Run::holdfast().args(args).args(&["--policy", policy, "-o", "json"]).env("HOLDFAST_SCRATCH", scratch).run()
    }

    /// `holdfast backup`, which must exit with `code`.
    #[track_caller]
    pub(crate) fn backup(&self, code: i32) -> Backup {
        self.backup_any(&[code])
    }

    /// `holdfast backup`, which must exit with one of `codes`.
    #[track_caller]
    pub(crate) fn backup_any(&self, codes: &[i32]) -> Backup {
        self.backup_of_kind("auto", codes)
    }

    /// `holdfast backup --kind KIND`, which must exit with one of `codes`.
    #[track_caller]
    pub(crate) fn backup_of_kind(&self, kind: &str, codes: &[i32]) -> Backup {
        let outcome = self.holdfast(&["backup", "--kind", kind]);
        assert!(codes.contains(&outcome.code()), "wanted exit code {codes:?} from {outcome}");
        let answer = outcome.json();
        assert_eq!(
            (&answer["verified"], &answer["verified_level"]),
            (&Value::Bool(true), &Value::from(1)),
            "{outcome}"
        );
        Backup::of(&answer)
    }

    /// `holdfast restore` of a point into the file `name`; its report.
    #[track_caller]
    pub(crate) fn restore(&self, point: &str, name: &str) -> (PathBuf, Value) {
        let file = self.path(name);
        let args = ["restore", "--point", point, "--etcd-snapshot", file.to_str().unwrap(), "--yes"];
        let answer = self.holdfast(&args).success().json();
        (file, answer["report"].clone())
    }
}

/// A restore point as `holdfast backup` reported it.
#[derive(Clone, Debug)]
pub(crate) struct Backup {
    pub(crate) id: String,
    pub(crate) warnings: Vec<String>,
    pub(crate) manifest: Value,
}

impl Backup {
    /// What `holdfast backup` answered.
    pub(crate) fn of(answer: &Value) -> Backup {
        let warnings = answer["warnings"].as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned());
        Backup {
            id: answer["point"].as_str().unwrap().to_owned(),
            warnings: warnings.collect(),
            manifest: answer["manifest"].clone(),
        }
    }

    /// The revision of the state.
    pub(crate) fn revision(&self) -> i64 {
        self.manifest["descriptor"]["revision"].as_i64().unwrap()
    }

    /// How it compares with the cluster: `equal`, `differs` or `not_compared`.
    pub(crate) fn verdict(&self) -> &str {
        self.manifest["proofs"]["hash_at_source"]["verdict"].as_str().unwrap()
    }

    /// Why it was not compared; nothing when it was.
    pub(crate) fn reason(&self) -> &str {
        self.manifest["proofs"]["hash_at_source"]["reason"].as_str().unwrap_or_default()
    }

    /// The address it was taken from.
    pub(crate) fn source(&self) -> &str {
        self.manifest["source"]["endpoint"].as_str().unwrap()
    }

    /// The branch of history it lies on.
    pub(crate) fn lineage(&self) -> &str {
        self.manifest["lineage"].as_str().unwrap()
    }
}

/// A command on a file, its result as JSON.
#[track_caller]
pub(crate) fn on_file(args: &[&str], file: &Path) -> Value {
    Run::holdfast().args(args).args(&[file]).args(&["-o", "json"]).run().success().json()
}

/// etcd's own tool for files.
pub(crate) fn etcdutl(args: &[&str]) -> Outcome {
    Run::new(peers::program(peers::ETCD_3_5, "etcdutl")).args(args).run()
}

/// One member that is started by hand, with its ports claimed beforehand.
pub(crate) struct Solo {
    pub(crate) name: String,
    client: Port,
    peer: Port,
    process: Option<Process>,
}

impl Solo {
    /// A member that is still to be started.
    pub(crate) fn claim(name: &str) -> Solo {
        Solo { name: name.to_owned(), client: Port::claim(), peer: Port::claim(), process: None }
    }

    /// Where clients reach it.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.client.address())
    }

    /// Where other members reach it.
    pub(crate) fn peer_url(&self) -> String {
        format!("http://{}", self.peer.address())
    }

    /// Starts it on a data directory and waits until it listens.
    pub(crate) fn start(&mut self, data_dir: &Path, more: &[&str]) {
        let (client, peer) = (self.endpoint(), self.peer_url());
        let flags = [
            format!("--name={}", self.name),
            format!("--data-dir={}", data_dir.display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
        ];
        let run = Run::new(peers::program(peers::ETCD_3_5, "etcd")).args(&flags).args(more);
        let mut process = run.start(data_dir.with_extension("log"));
        let address = self.client.address().parse().unwrap();
        wait_until("the member listens", READY_LIMIT, || {
            assert!(process.ended().is_none(), "{} ended; it said:\n{}", self.name, process.said());
            std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
        });
        self.process = Some(process);
    }
}
