//! etcdctl 3.5: what it shows of both, and the commands that run until they are ended.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::ctl::{Target, side_by_side};
use crate::support::etcd::Etcd;
use crate::support::member::Member;
use crate::support::peers;
use crate::support::run::{Process, Run, wait_until};

#[test]
fn etcdctl_shows_the_same_of_both() {
    let (etcd, holdfast) = (Etcd::start(), Member::start(&["--name=m0"]));
    let program = peers::program(peers::ETCD_3_5, "etcdctl");
    let mut theirs = Target::new(program.clone(), etcd.endpoint(0));
    let mut ours = Target::new(program, holdfast.endpoint());
    let commands = side_by_side(&mut theirs, &mut ours);
    println!("etcdctl: {commands} commands");
    assert!(commands > 650, "{commands}");
}

/// How long something that is due may take, on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

/// etcdctl, to be run to its end or left running.
fn etcdctl(endpoint: &str, args: &[&str]) -> Run {
    let run = Run::new(peers::program(peers::ETCD_3_5, "etcdctl")).env("ETCDCTL_API", "3");
    run.args(&[format!("--endpoints={endpoint}")]).args(args)
}

/// etcdctl left running, with what it says.
struct Running {
    process: Process,
    log: PathBuf,
}

impl Running {
    fn start(dir: &Path, name: &str, run: Run) -> Running {
        let log = dir.join(name);
        Running { process: run.start(&log), log }
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What it has said, once that has so many lines.
    fn lines(&self, count: usize) -> Vec<String> {
        wait_until(&format!("{} has {count} lines", self.log.display()), LIMIT, || {
            self.said().lines().count() >= count
        });
        self.said().lines().map(str::to_owned).collect()
    }
}

/// Both members, and a folder.
struct Pair {
    etcd: Etcd,
    ours: Member,
    dir: TempDir,
}

impl Pair {
    fn start() -> Pair {
        let etcd = Etcd::options().args(&["--experimental-watch-progress-notify-interval=1s"]).start();
        let ours = Member::start(&["--name=m0", "--watch-progress-notify-interval=1s"]);
        Pair { etcd, ours, dir: TempDir::with_prefix_in("ctl-", env!("CARGO_TARGET_TMPDIR")).unwrap() }
    }

    fn endpoints(&self) -> [String; 2] {
        [self.etcd.endpoint(0), self.ours.endpoint()]
    }

    /// Runs a command on both; it must succeed.
    fn both(&self, args: &[&str]) {
        self.endpoints().iter().for_each(|endpoint| drop(etcdctl(endpoint, args).run().success()));
    }
}

#[test]
fn etcdctl_watches_both_alike() {
    let pair = Pair::start();
    let script = "echo $ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY $ETCD_WATCH_VALUE $ETCD_WATCH_REVISION";
    pair.both(&["put", "k/0", "past"]);
    // What each is asked, and how many lines are due.
    let asked: [(&[&str], usize); 6] = [
        (&["watch", "k/", "--prefix"], 8),
        (&["watch", "k/", "--prefix", "--prev-kv"], 11),
        (&["watch", "k/", "--prefix", "--rev=2", "-w", "fields"], 40),
        (&["watch", "k/1", "k/2"], 8),
        (&["watch", "k/1", "--", "sh", "-c", script], 12),
        (&["watch", "none", "--progress-notify"], 1),
    ];
    let watches = pair.endpoints().map(|endpoint| {
        let start = |(n, (args, _)): (usize, &(&[&str], usize))| {
            let name = format!("{}-{n}", endpoint.rsplit(':').next().unwrap());
            Running::start(pair.dir.path(), &name, etcdctl(&endpoint, args))
        };
        asked.iter().enumerate().map(start).collect::<Vec<_>>()
    });
    // That they have begun is seen by the first event, which is therefore repeated until all have it.
    for endpoint in pair.endpoints() {
        let begun = |watch: &Running| !watch.said().is_empty();
        let watches = if endpoint == pair.endpoints()[0] { &watches[0] } else { &watches[1] };
        wait_until("all watch", LIMIT, || watches[5].said().contains("progress notify") && begun(&watches[2]));
    }
    pair.both(&["put", "k/1", "a"]);
    pair.both(&["put", "k/1", "b"]);
    pair.both(&["del", "k/1"]);
    for (n, (args, count)) in asked.iter().enumerate().take(5) {
        let [etcd, ours] = [&watches[0][n], &watches[1][n]].map(|watch| watch.lines(*count));
        let common = |lines: Vec<String>| {
            let ids = ["\"ClusterID\"", "\"MemberID\"", "\"RaftTerm\""];
            lines.into_iter().filter(|line| !ids.iter().any(|id| line.starts_with(id))).collect::<Vec<_>>()
        };
        assert_eq!(common(ours), common(etcd), "{args:?}");
    }
    // From standard input; its end is an error.
    let ends = pair.endpoints().map(|endpoint| {
        let outcome = etcdctl(&endpoint, &["watch", "-i"]).stdin("nonsense\nwatch\n").run();
        (outcome.code(), outcome.stdout(), outcome.stderr)
    });
    assert_eq!(ends[0], ends[1]);
}

#[test]
fn etcdctl_locks_and_elects_on_a_member() {
    let member = Member::start(&[]);
    let (endpoint, dir) = (member.endpoint(), member.dir.path());
    // The exit code is the command's, the lock is given up in any case.
    etcdctl(&endpoint, &["lock", "l", "--", "sh", "-c", "exit 0"]).run().success();
    let failed = etcdctl(&endpoint, &["lock", "l", "--", "sh", "-c", "exit 7"]).run();
    assert_eq!(failed.code(), 7, "{failed}");
    let shown =
        etcdctl(&endpoint, &["lock", "l", "--", "sh", "-c", "echo $ETCD_LOCK_KEY $ETCD_LOCK_REV"]).run().success();
    assert!(shown.stdout().starts_with("l/"), "{shown}");
    // Who comes second waits until the first is gone: with its process, when its lease ends.
    let first = Running::start(dir, "first", etcdctl(&endpoint, &["lock", "--ttl=2", "l"]));
    assert!(first.lines(1)[0].starts_with("l/"));
    let second = Running::start(dir, "second", etcdctl(&endpoint, &["lock", "--ttl=2", "l"]));
    wait_until("the second waits", LIMIT, || {
        etcdctl(&endpoint, &["get", "l/", "--prefix", "--keys-only"]).run().success().stdout().lines().count() >= 4
    });
    assert_eq!(second.said(), "");
    drop(first);
    assert!(second.lines(1)[0].starts_with("l/"));
    let mut leader = Running::start(dir, "leader", etcdctl(&endpoint, &["elect", "e", "one"]));
    assert_eq!(leader.lines(2)[1], "one");
    let observer = Running::start(dir, "observer", etcdctl(&endpoint, &["elect", "-l", "e"]));
    assert_eq!(observer.lines(2)[1], "one");
    let next = Running::start(dir, "next", etcdctl(&endpoint, &["elect", "e", "two"]));
    wait_until("the next one waits", LIMIT, || {
        let said = etcdctl(&endpoint, &["get", "e/", "--prefix", "--print-value-only"]).run().success().stdout();
        said.lines().collect::<BTreeSet<_>>() == BTreeSet::from(["one", "two"])
    });
    assert_eq!(next.said(), "");
    // Told to end, it resigns.
    leader.process.terminate(LIMIT);
    assert_eq!((next.lines(2)[1].as_str(), observer.lines(4)[3].as_str()), ("two", "two"));
}

/// Everything below a prefix, as values.
fn values(endpoint: &str, prefix: &str, user: &[&str]) -> String {
    etcdctl(endpoint, &["get", prefix, "--prefix"]).args(user).run().success().stdout()
}

#[test]
fn etcdctl_mirrors_to_etcd_and_back() {
    let pair = Pair::start();
    let [etcd, ours] = pair.endpoints();
    for n in 0..300 {
        etcdctl(if n % 2 == 0 { &etcd } else { &ours }, &["put", &format!("m/{n:03}"), &n.to_string()]).run().success();
    }
    // The one with a user, the other without; each under a prefix of its own.
    for command in
        [&["user", "add", "root:secret"][..], &["role", "add", "root"], &["user", "grant-role", "root", "root"]]
    {
        etcdctl(&ours, command).run().success();
    }
    etcdctl(&ours, &["auth", "enable"]).run().success();
    let user = ["--user=root:secret"];
    let to_ours =
        ["make-mirror", "--prefix=m/", "--dest-prefix=of-etcd/", "--dest-user=root", "--dest-password=secret"];
    let _there =
        Running::start(pair.dir.path(), "there", etcdctl(&etcd, &to_ours).args(&[ours.replace("http://", "")]));
    let to_etcd = ["make-mirror", "--prefix=m/", "--dest-prefix=of-ours/"];
    let back = etcdctl(&ours, &to_etcd).args(&user).args(&[etcd.replace("http://", "")]);
    let _back = Running::start(pair.dir.path(), "back", back);
    let mirrored = || {
        let same = |source: String, mirror: String, name: &str| source.replace("m/", name) == mirror;
        same(values(&etcd, "m/", &[]), values(&ours, "of-etcd/", &user), "of-etcd/")
            && same(values(&ours, "m/", &user), values(&etcd, "of-ours/", &[]), "of-ours/")
    };
    wait_until("both have what the other has", LIMIT, mirrored);
    for n in 0..20 {
        etcdctl(&etcd, &["put", "m/live", &n.to_string()]).run().success();
        etcdctl(&ours, &["put", "m/live", &format!("ours {n}")]).args(&user).run().success();
    }
    etcdctl(&etcd, &["del", "m/000", "m/100"]).run().success();
    etcdctl(&ours, &["del", "m/001", "m/100"]).args(&user).run().success();
    wait_until("both have what changed", LIMIT, mirrored);
    assert_eq!(values(&ours, "of-etcd/live", &user), "of-etcd/live\n19\n");
    assert_eq!(values(&etcd, "of-ours/live", &[]), "of-ours/live\nours 19\n");
}

#[test]
fn etcdctl_saves_and_checks_a_member() {
    let member = Member::start(&[]);
    let endpoint = member.endpoint();
    let checked = etcdctl(&endpoint, &["check", "datascale", "--load=s", "--command-timeout=60s"]).run().success();
    assert!(
        checked.stdout().contains("PASS: Approximate system memory used") || !checked.stdout().contains("FAIL"),
        "{checked}"
    );
    etcdctl(&endpoint, &["put", "a", "1"]).run().success();
    let file = member.dir.path().join("saved.db");
    let file = file.to_str().unwrap();
    let saved = etcdctl(&endpoint, &["snapshot", "save", file]).run().success();
    assert!(saved.stdout().ends_with(&format!("Snapshot saved at {file}\n")), "{saved}");
    let utl = |args: &[&str]| Run::new(peers::program(peers::ETCD_3_5, "etcdutl")).args(args).run().success();
    let status = utl(&["snapshot", "status", file, "-w", "json"]).json();
    let now = etcdctl(&endpoint, &["get", "a", "-w", "json"]).run().success().json();
    assert_eq!(status["revision"], now["header"]["revision"]);
    let restored = Etcd::options().restored_from(file).start();
    assert_eq!(values(&restored.endpoint(0), "a", &[]), "a\n1\n");
}
