//! The member of a drill: a scratch folder, etcdutl's data directory in it, and a real etcd on a leash.
//!
//! Invariants:
//! - Whatever happens, the member ends with this process, and the scratch folder goes when its owner does. After a
//!   `kill -9` the folder, which holds the cluster's state in the clear, goes with the next drill in the same scratch: it
//!   is called `holdfast-drill-...`, and whoever uses it keeps a file in it locked.
//! - The member listens on 127.0.0.1 and lets in nobody but the holder of the drill's one certificate. The name in it is
//!   `root`: etcd takes that for the user's, so authentication that came with the point stays on and is no obstacle.
//! - Nothing of the environment reaches the programs, and no message repeats a key.

use std::fs::{DirBuilder, File};
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::{Child, Command};

use crate::base::authority::mint;
use crate::base::clock::Stopwatch;
use crate::base::durable::{lock, replace};
use crate::base::error::{Error, IoContext, Kind, Result};
use crate::base::id::{self, EtcdId, cluster_id, member_id};
use crate::base::stop::Stop;
use crate::base::tls::TlsFiles;
use crate::client::maintenance::MemberStatus;
use crate::client::{Client, Endpoint, Options};

/// What scratch folders are called, before 16 digits of their own.
const FOLDER_PREFIX: &str = "holdfast-drill-";
/// Names that are tried for a folder.
const FOLDER_TRIES_MAX: u32 = 4;
/// The file in it that its user keeps locked.
const LOCK: &str = "lock";
/// The user that etcd lets do everything; whoever enables authentication must have made it.
const USER: &str = "root";
/// How long a member may take to read its database and serve.
const BOOT_LIMIT: Duration = Duration::from_mins(30);
/// How long a program may take to tell its version.
const VERSION_LIMIT: Duration = Duration::from_secs(30);
/// How often a booting member is asked whether it serves.
const POLL: Duration = Duration::from_millis(50);
/// The least room for its database that the member is given: etcd's own greatest advice.
const QUOTA_BYTES_MIN: u64 = 8 << 30;
/// What a process that the system ended for want of memory was sent.
const SIGKILL: i32 = 9;
/// Characters of a program's own words that are repeated.
const WORDS_MAX: usize = 300;

/// The programs of a drill.
#[derive(Clone, Debug)]
pub struct Programs {
    /// etcd.
    pub etcd: PathBuf,
    /// etcdutl, or etcdctl before 3.5.
    pub etcdutl: PathBuf,
    /// This program, which holds the leash.
    pub leash: PathBuf,
}

impl Programs {
    /// etcd's version. Both programs are asked: one that is not what it is taken for must not look like a bad point.
    pub async fn version(&self, stop: &Stop) -> Result<String> {
        let prefixes = ["etcdutl version: ", "etcdctl version: "];
        version_of("etcdutl", &self.etcdutl, "version", &prefixes, stop).await?;
        version_of("etcd", &self.etcd, "--version", &["etcd Version: "], stop).await
    }
}

/// What `program` says after one of the `prefixes` when it is asked for its version.
async fn version_of(name: &str, program: &Path, ask: &str, prefixes: &[&str], stop: &Stop) -> Result<String> {
    let hint = "name etcd and etcdutl in [drill] of the policy, or with --etcd and --etcdutl";
    if !program.is_file() {
        let text = format!("there is no {name} at {}", program.display());
        return Err(Error::new(Kind::Usage, text).hint(hint));
    }
    let what = || format!("run {} {ask}", program.display());
    let mut command = Command::new(program);
    command.arg(ask).env_clear().env("ETCDCTL_API", "3").stdin(Stdio::null()).kill_on_drop(true);
    let late = |_| Error::new(Kind::Usage, format!("{}: it did not answer", what()));
    let ran = async { tokio::time::timeout(VERSION_LIMIT, command.output()).await.map_err(late)?.during(what) };
    let output = stop.or(ran).await.map_err(|error| match error.kind() {
        Kind::Interrupted => error,
        _ => error.kind_of(Kind::Usage).hint(hint),
    })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.lines().find_map(|line| prefixes.iter().find_map(|prefix| line.strip_prefix(prefix)));
    version.map(|version| version.trim().to_owned()).ok_or_else(|| {
        Error::new(Kind::Usage, format!("{} is no {name}: it tells no version", program.display())).hint(hint)
    })
}

/// A folder of its own for one drill, removed when dropped.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Locked for as long as the folder is in use.
    lock: File,
}

impl Folder {
    /// A new one in `scratch`; what killed drills left there goes first.
    pub fn create(scratch: &Path) -> Result<Self> {
        sweep(scratch);
        for _ in 1..FOLDER_TRIES_MAX {
            let folder = Folder::attempt(scratch)?;
            // Before it was locked, another drill may have taken it for a leftover.
            if lock(&folder.lock) && folder.lock.metadata().is_ok_and(|there| there.nlink() == 1) {
                return Ok(folder);
            }
        }
        // A file system without locks: there nothing is ever swept.
        Folder::attempt(scratch)
    }

    fn attempt(scratch: &Path) -> Result<Self> {
        let path = std::path::absolute(scratch.join(format!("{FOLDER_PREFIX}{}", id::random()?)));
        let path = path.during(|| format!("resolve {}", scratch.display()))?;
        let made = DirBuilder::new().mode(0o700).create(&path).during(|| format!("create {}", path.display()));
        made.map_err(|error| error.hint("name a folder on a local disk that this user may write to with --scratch"))?;
        let lock = File::create(path.join(LOCK)).during(|| format!("create {}/{LOCK}", path.display()))?;
        Ok(Folder { path, lock })
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn remove(folder: &Path) {
    if let Err(error) = std::fs::remove_dir_all(folder) {
        tracing::warn!(folder = %folder.display(), %error, "the scratch folder could not be removed");
    }
}

/// Removes folders of drills that were killed: those whose lock nobody holds.
fn sweep(scratch: &Path) {
    let entries = std::fs::read_dir(scratch).into_iter().flatten().filter_map(std::result::Result::ok);
    for entry in entries {
        let left = entry.file_name().to_str().is_some_and(|name| name.starts_with(FOLDER_PREFIX))
            && entry.file_type().is_ok_and(|kind| kind.is_dir())
            && File::open(entry.path().join(LOCK)).is_ok_and(|file| lock(&file));
        if left {
            tracing::info!(folder = %entry.path().display(), "a drill that was killed left its scratch folder");
            remove(&entry.path());
        }
    }
}

/// A data directory and what is to be booted on it.
#[derive(Debug)]
pub struct Seed<'a> {
    programs: &'a Programs,
    folder: &'a Folder,
    token: String,
    peer_url: String,
    /// The id that the new cluster will have.
    pub cluster_id: EtcdId,
}

/// What a program that failed said; what failed to run at all is an error.
pub type Said<T> = std::result::Result<T, String>;

impl<'a> Seed<'a> {
    /// Makes a data directory of the snapshot file in the folder.
    pub async fn make(programs: &'a Programs, folder: &'a Folder, snapshot: &Path, stop: &Stop) -> Result<Said<Self>> {
        let token = format!("drill-{}", id::random()?);
        let peer_url = format!("https://127.0.0.1:{}", free_port()?);
        let cluster_id = cluster_id(&[member_id(std::slice::from_ref(&peer_url), &token)]);
        let seed = Seed { programs, folder, token, peer_url, cluster_id };
        let mut command = seed.on_leash(&programs.etcdutl);
        command.args(["snapshot", "restore"]).arg(snapshot).args(seed.identity());
        command.arg(format!("--initial-advertise-peer-urls={}", seed.peer_url));
        let log = seed.log("etcdutl.log")?;
        command.stdout(log.try_clone().during(|| "share a log".to_owned())?).stderr(log);
        let status = async { command.status().await.during(|| format!("run {}", programs.etcdutl.display())) };
        let status = stop.or(status).await?;
        if status.success() {
            return Ok(Ok(seed));
        }
        said(&programs.etcdutl, status, words(&folder.path("etcdutl.log"))).map(Err)
    }

    fn identity(&self) -> [String; 4] {
        [
            "--name=drill".to_owned(),
            format!("--data-dir={}", self.folder.path("member").display()),
            format!("--initial-cluster=drill={}", self.peer_url),
            format!("--initial-cluster-token={}", self.token),
        ]
    }

    /// A program that ends when this one does.
    fn on_leash(&self, program: &Path) -> Command {
        let mut command = Command::new(&self.programs.leash);
        command.arg("leash").arg(std::process::id().to_string()).arg(program);
        command.env_clear().env("ETCDCTL_API", "3").stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    fn log(&self, name: &str) -> Result<File> {
        let path = self.folder.path(name);
        File::create(&path).during(|| format!("create {}", path.display()))
    }

    /// Boots etcd on the data directory and waits until it serves.
    pub async fn boot(&self, bytes: u64, stop: &Stop) -> Result<Said<Member>> {
        let minted = mint(USER)?;
        let file = |name: &str| self.folder.path(name);
        for (name, pem) in [("ca.crt", &minted.ca), ("drill.crt", &minted.cert), ("drill.key", &minted.key)] {
            replace(&file(name), pem.as_bytes())?;
        }
        let client_url = format!("https://127.0.0.1:{}", free_port()?);
        let mut command = self.on_leash(&self.programs.etcd);
        command.args(self.identity()).args([
            format!("--listen-client-urls={client_url}"),
            format!("--advertise-client-urls={client_url}"),
            format!("--listen-peer-urls={}", self.peer_url),
            format!("--initial-advertise-peer-urls={}", self.peer_url),
            format!("--quota-backend-bytes={}", QUOTA_BYTES_MIN.max(2 * bytes)),
            "--logger=zap".to_owned(),
            "--client-cert-auth".to_owned(),
            "--peer-client-cert-auth".to_owned(),
        ]);
        for (flag, name) in [("trusted-ca-file", "ca.crt"), ("cert-file", "drill.crt"), ("key-file", "drill.key")] {
            command.arg(format!("--{flag}={}", file(name).display()));
            command.arg(format!("--peer-{flag}={}", file(name).display()));
        }
        let log = self.log("etcd.log")?;
        command.stdout(log.try_clone().during(|| "share a log".to_owned())?).stderr(log);
        let child = command.spawn().during(|| format!("start {}", self.programs.etcd.display()))?;
        let tls = TlsFiles { ca: Some(file("ca.crt")), cert: Some(file("drill.crt")), key: Some(file("drill.key")) };
        let client = Client::new(&Options { endpoints: vec![client_url], tls, ..Options::default() })?;
        let endpoint = client.endpoints().next().expect("the one endpoint").clone();
        let mut member = Member { child, client, endpoint };
        stop.or(member.serves(&file("etcd.log"))).await.map(|said| said.map(|()| member))
    }
}

/// A running member; ended when dropped.
#[derive(Debug)]
pub struct Member {
    child: Child,
    /// Reaches it, as the user `root`.
    pub client: Client,
    /// Its address.
    pub endpoint: Endpoint,
}

impl Member {
    /// Waits until it leads its cluster of one.
    async fn serves(&mut self, log: &Path) -> Result<Said<()>> {
        let watch = Stopwatch::start();
        while watch.elapsed() < BOOT_LIMIT {
            if self.status().await.is_ok_and(|status| status.has_leader) {
                return Ok(Ok(()));
            }
            if let Some(status) = self.child.try_wait().during(|| "look after etcd".to_owned())? {
                return said(Path::new("etcd"), status, format!("etcd ended with {status}: {}", words(log))).map(Err);
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(Err(format!("it did not serve within {BOOT_LIMIT:?}: {}", words(log))))
    }

    /// How it is.
    pub async fn status(&self) -> Result<MemberStatus> {
        self.client.member_status(&self.endpoint).await
    }

    /// Ends it. What it would still write is thrown away with the folder.
    pub async fn end(mut self) -> Result<()> {
        self.child.kill().await.during(|| "end etcd".to_owned())
    }
}

/// A TCP port of 127.0.0.1 that nobody listens on.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
    let address = listener.during(|| "find a free port on 127.0.0.1".to_owned());
    Ok(address.map_err(|error| error.or_hint("a drill needs TCP on 127.0.0.1"))?.port())
}

/// What a program that failed said, where that is about the point; what is about this host is an error.
fn said(program: &Path, status: ExitStatus, words: String) -> Result<String> {
    let (kind, hint) = match () {
        () if words.contains("address already in use") => {
            (Kind::Conflict, "another program took the port: run it again")
        }
        () if words.contains("no space left on device") => {
            (Kind::Full, "make room, or name another folder with --scratch")
        }
        () if status.signal() == Some(SIGKILL) => {
            (Kind::Interrupted, "something killed it: see whether memory ran out (journalctl -k), then run it again")
        }
        () => return Ok(words),
    };
    Err(Error::new(kind, format!("{}: {words}", program.display())).hint(hint))
}

/// The last thing a program complained of: etcd logs JSON lines, its tools end with `Error: ...`.
fn words(log: &Path) -> String {
    let text = std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let complaint = |line: &str| {
        let Ok(json) = serde_json::from_str::<serde_json::Value>(line) else {
            return line.strip_prefix("Error: ").map(str::to_owned);
        };
        let bad = matches!(json["level"].as_str(), Some("fatal" | "panic" | "error"));
        let field = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
        bad.then(|| format!("{} {}", field("msg"), field("error")))
    };
    let said = text.lines().rev().find_map(complaint).unwrap_or_else(|| "it did not say why".to_owned());
    said.trim().chars().take(WORDS_MAX).collect()
}
