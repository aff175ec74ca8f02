//! What is shipped for systemd and Prometheus, held by their own checkers: systemd-analyze, sysusers, tmpfiles, promtool.
//! Each checker is shown to reject before it is believed.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::program;
use crate::support::etcd::Etcd;
use crate::support::member::{Member, get};
use crate::support::run::{Outcome, Run};

/// The most that a unit may be exposed, in tenths, as `systemd-analyze security` counts.
const EXPOSURE_MAX: &str = "15";

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd")
}

/// The files of systemd/ that end in this.
fn names(suffix: &str) -> Vec<String> {
    let entries = fs::read_dir(shipped()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(suffix)).collect();
    names.sort();
    names
}

fn analyze(args: &[&str]) -> Outcome {
    let run = Run::new(program("HOLDFAST_SYSTEM_TOOLS", "systemd-analyze")).args(args);
    run.env("SYSTEMD_LOG_LEVEL", "warning").env("SYSTEMD_COLORS", "0").run()
}

/// All units as instances named `prod` in a folder of their own, with the built binary where the packaged one would be;
/// `change` may spoil one of them.
fn instances(change: impl Fn(&str, String) -> String) -> (tempfile::TempDir, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let mut paths = vec![];
    for name in names(".service").into_iter().chain(names(".timer")) {
        let text = fs::read_to_string(shipped().join(&name)).unwrap();
        let text = change(&name, text.replace("/usr/bin/holdfast", env!("CARGO_BIN_EXE_holdfast")));
        // The template lies beside its instance, for the units that refer to it.
        fs::write(dir.path().join(&name), &text).unwrap();
        let path = dir.path().join(name.replace("@.", "@prod."));
        fs::write(&path, text).unwrap();
        paths.push(path.display().to_string());
    }
    (dir, paths)
}

fn verify(paths: &[String]) -> Outcome {
    let flags = ["verify", "--man=no", "--recursive-errors=yes"];
    analyze(&flags.into_iter().chain(paths.iter().map(String::as_str)).collect::<Vec<_>>())
}

#[test]
fn systemd_understands_every_unit() {
    assert_eq!(names(".service").len(), 6, "{:?}", names(".service"));
    assert_eq!(names(".timer").len(), 4, "{:?}", names(".timer"));
    let (_dir, paths) = instances(|_, text| text);
    let out = verify(&paths).success();
    assert_eq!((out.stdout().as_str(), out.stderr.as_str()), ("", ""), "not even a warning");
    // A misspelt key and a program that is not there are refused.
    for (from, to) in [("TimeoutStartSec=", "TimeoutStrtSec="), (env!("CARGO_BIN_EXE_holdfast"), "/nowhere/holdfast")] {
        let (_dir, paths) = instances(|_, text| text.replace(from, to));
        assert_ne!(verify(&paths).code(), 0, "{to}");
    }
}

#[test]
fn units_are_exposed_to_little() {
    for name in names(".service") {
        let path = shipped().join(&name).display().to_string();
        let check = ["security", "--offline=true", "--no-pager", "--threshold", EXPOSURE_MAX];
        analyze(&[&check[..], &[path.as_str()]].concat()).success();
        let dir = tempfile::tempdir().unwrap();
        let bare = dir.path().join(&name);
        fs::write(&bare, "[Service]\nType=oneshot\nExecStart=/bin/true\n").unwrap();
        assert_ne!(analyze(&[&check[..], &[bare.to_str().unwrap()]].concat()).code(), 0, "a bare unit is refused");
    }
}

#[test]
fn timers_come_when_they_say() {
    // The seconds between two runs.
    for (name, apart) in [("backup", 3600), ("verify", 86_400), ("prune", 86_400), ("drill", 7 * 86_400)] {
        let text = fs::read_to_string(shipped().join(format!("holdfast-{name}@.timer"))).unwrap();
        let field = |field: &str| text.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default().to_owned();
        assert_eq!(field("Persistent="), "true", "{name}");
        assert!(!field("RandomizedDelaySec=").is_empty(), "{name}");
        let base = "2026-11-20 12:34:56 UTC";
        let calendar = field("OnCalendar=");
        let out = analyze(&["calendar", "--iterations=3", "--base-time", base, &calendar]).success();
        let times: Vec<String> = out
            .stdout()
            .lines()
            .filter(|line| line.contains("Next elapse:") || line.contains("Iter. #"))
            .map(|line| line.split_once(": ").unwrap().1.trim().to_owned())
            .collect();
        assert_eq!(times.len(), 3, "{out}");
        let seconds: Vec<i64> = times.iter().map(|time| seconds_of(time)).collect();
        assert!(seconds.windows(2).all(|pair| pair[1] - pair[0] == apart), "{name}: {times:?}");
    }
    assert_ne!(analyze(&["calendar", "sometimes"]).code(), 0);
}

fn seconds_of(time: &str) -> i64 {
    Run::new("date").args(&["-u", "-d", time, "+%s"]).run().success().stdout().trim().parse().unwrap()
}

#[test]
fn the_user_and_the_folders_are_as_private_as_they_should_be() {
    let root = tempfile::tempdir().unwrap();
    for folder in ["etc", "var/lib", "var/cache", "var/backups"] {
        fs::create_dir_all(root.path().join(folder)).unwrap();
    }
    let at = format!("--root={}", root.path().display());
    let file = |name: &str| shipped().join(name).display().to_string();
    Run::new("systemd-sysusers").args(&[at.as_str(), &file("sysusers.conf")]).run().success();
    let out = Run::new("systemd-tmpfiles").args(&[at.as_str(), "--create", &file("tmpfiles.conf")]).run().success();
    assert_eq!(out.stderr, "");
    let passwd = fs::read_to_string(root.path().join("etc/passwd")).unwrap();
    let user = passwd.lines().find(|line| line.starts_with("holdfast:")).unwrap();
    assert!(user.ends_with(":/var/lib/holdfast:/usr/sbin/nologin"), "{user}");
    let id: u32 = user.split(':').nth(2).unwrap().parse().unwrap();
    for (folder, mode, uid) in [
        ("etc/holdfast", 0o750, 0),
        ("etc/holdfast/policies", 0o750, 0),
        ("etc/credstore", 0o700, 0),
        ("var/lib/holdfast/metrics", 0o755, id),
        ("var/cache/holdfast", 0o700, id),
        ("var/backups/etcd", 0o700, id),
    ] {
        let there = fs::metadata(root.path().join(folder)).unwrap();
        assert_eq!((there.permissions().mode() & 0o7777, there.uid()), (mode, uid), "{folder}");
    }
}

#[test]
fn promtool_reads_the_rules_and_they_fire_when_they_should() {
    let promtool = || Run::new(program("HOLDFAST_SYSTEM_PROMTOOL", "promtool"));
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/prometheus/holdfast.rules.yml");
    let shown = rules.display().to_string();
    promtool().args(&["check", "rules", &shown]).run().success();
    let dir = tempfile::tempdir().unwrap();
    let test = dir.path().join("alerts.test.yml");
    let with = |rules: &str| fs::write(&test, include_str!("alerts.test.yml").replace("RULES", rules)).unwrap();
    let run = || promtool().args(&["test", "rules", test.to_str().unwrap()]).run();
    with(&shown);
    run().success();
    // The test would notice another threshold, and the check a broken expression.
    let spoilt = dir.path().join("spoilt.yml");
    let text = fs::read_to_string(&rules).unwrap();
    fs::write(&spoilt, text.replace("2.5 * 3600", "25 * 3600")).unwrap();
    with(spoilt.to_str().unwrap());
    assert_ne!(run().code(), 0);
    fs::write(&spoilt, text.replace("max by (cluster) (", "max by (cluster (")).unwrap();
    assert_ne!(promtool().args(&["check", "rules", spoilt.to_str().unwrap()]).run().code(), 0);
}

/// Rules on members: none fires for members that are well, each for one that is not.
#[test]
fn alerts_on_members_fire_when_they_should() {
    let promtool = || Run::new(program("HOLDFAST_SYSTEM_PROMTOOL", "promtool"));
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/prometheus");
    let [etcd, member] = ["etcd.rules.yml", "member.rules.yml"].map(|name| rules.join(name).display().to_string());
    promtool().args(&["check", "rules", &etcd, &member]).run().success();
    let dir = tempfile::tempdir().unwrap();
    let test = dir.path().join("members.test.yml");
    let run = |etcd: &str, member: &str| {
        let text = include_str!("members.test.yml").replace("- ETCD", &format!("- {etcd}"));
        fs::write(&test, text.replace("- MEMBER", &format!("- {member}"))).unwrap();
        promtool().args(&["test", "rules", test.to_str().unwrap()]).run()
    };
    run(&etcd, &member).success();
    // The test would notice another threshold.
    let spoilt = dir.path().join("spoilt.yml");
    let spoilt_path = spoilt.to_str().unwrap();
    for (text, other) in [(" > 0.25", " > 0.6"), (" >= 4", " >= 40"), (" < 0.5", " < 0.1"), (" > 0.7", " > 7")] {
        let whole = fs::read_to_string(&etcd).unwrap();
        assert!(whole.contains(text), "{text}");
        fs::write(&spoilt, whole.replace(text, other)).unwrap();
        assert_ne!(run(spoilt_path, &member).code(), 0, "{text}");
    }
    fs::write(&spoilt, fs::read_to_string(&member).unwrap().replace("3 * 86400", "30 * 86400")).unwrap();
    assert_ne!(run(&etcd, spoilt_path).code(), 0);
}

#[test]
fn promtool_reads_the_metrics_of_a_run() {
    let source = Etcd::start();
    source.etcdctl(&["put", "a", "1"]).success();
    let dir = tempfile::tempdir().unwrap();
    let (policy, metrics) = (dir.path().join("policy.toml"), dir.path().join("metrics.prom"));
    let url = format!("file://{}/repository", dir.path().display());
    let table = source.policy_table("odd-name.1");
    let objectives = "[objectives]\nrpo = \"1h\"\n";
    fs::write(&policy, format!("{table}\n[repository]\nurl = {url:?}\nencryption = \"none\"\n{objectives}")).unwrap();
    for command in ["backup", "verify"] {
        let args = ["--policy", policy.to_str().unwrap(), "--metrics-file", metrics.to_str().unwrap()];
        Run::holdfast().args(&[command]).args(&args).run().success();
        let text = fs::read_to_string(&metrics).unwrap();
        let check = |text: String| {
            let promtool = Run::new(program("HOLDFAST_SYSTEM_PROMTOOL", "promtool"));
            promtool.args(&["check", "metrics"]).stdin(text).run()
        };
        let out = check(text.clone()).success();
        assert_eq!(out.stderr, "", "no complaint about names or types");
        assert_ne!(check(text.replace("} ", " ")).code(), 0, "a broken line is refused");
    }
}

#[test]
fn promtool_reads_the_metrics_of_a_member() {
    let member = Member::start(&["--metrics=extensive"]);
    member.etcdctl(&["put", "a", "1"]).success();
    let text = get(&member.client.address(), "/metrics").body;
    let check = |text: String| {
        let promtool = Run::new(program("HOLDFAST_SYSTEM_PROMTOOL", "promtool"));
        promtool.args(&["check", "metrics"]).stdin(text).run()
    };
    // What it dislikes are names, and the names are etcd's.
    let complaints = check(text.clone()).stderr;
    let ours: Vec<&str> =
        complaints.lines().filter(|line| !line.starts_with("etcd_") && !line.starts_with("os_")).collect();
    assert_eq!(ours, [""; 0]);
    assert!(!complaints.contains("error while linting"), "{complaints}");
    let broken = check(text.replacen("} ", " ", 1));
    assert!(broken.code() != 0 && broken.stderr.contains("error while linting"), "a broken line is refused: {broken}");
}
