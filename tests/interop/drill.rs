//! Drills with a real etcd: what they prove and measure, what they refuse, and what they leave behind.

use holdfast::recovery::drill::report::Report;
use holdfast::vault::layout::Location;
use holdfast::vault::manifest::Manifest;
use holdfast::vault::sealed;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::site::Site;
use crate::support::etcd::Etcd;
use crate::support::load;
use crate::support::peers;
use crate::support::ports::Port;
use crate::support::run::{Outcome, Run, wait_until};

const LIMIT: Duration = Duration::from_mins(1);

fn etcd_program() -> String {
    peers::program(peers::ETCD_3_5, "etcd").to_str().unwrap().to_owned()
}

/// The cluster's policy with these tables behind it.
fn promise(site: &Site, etcd: &Etcd, tables: &str) {
    site.describe(&format!("{}\n{tables}", etcd.policy_table("prod")));
}

/// `holdfast drill` with etcd, and these arguments.
fn drill(site: &Site, args: &[&str]) -> Outcome {
    site.holdfast(&[&["drill", "--etcd", &etcd_program()], args].concat())
}

fn verdicts<'a>(report: &'a Value, verdict: &str) -> Vec<&'a str> {
    let proofs = report["proofs"].as_array().unwrap().iter().filter(|proof| proof["verdict"] == verdict);
    proofs.map(|proof| proof["what"].as_str().unwrap()).collect()
}

/// Scratch folders that drills left in a site.
fn left(site: &Site) -> Vec<PathBuf> {
    let entries = fs::read_dir(site.path(".")).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("holdfast-drill-")).collect()
}

/// Reports that a site's repository holds.
fn stored(site: &Site) -> Vec<PathBuf> {
    let folder = site.repository().join("clusters/prod/drills");
    fs::read_dir(folder).map(|all| all.map(|entry| entry.unwrap().path()).collect()).unwrap_or_default()
}

/// Processes whose command line holds `text`.
fn running(text: &str) -> usize {
    let all = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let lines = all.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).contains(text)).count()
}

/// Changes the newest manifest and seals it again, as an attacker would.
fn doctor(site: &Site, change: impl FnOnce(&mut Manifest)) {
    let folder = site.repository().join("clusters/prod/points");
    let lineage = fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let path = fs::read_dir(lineage).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    let mut manifest: Manifest = sealed::open("manifest", &fs::read(&path).unwrap()).unwrap();
    change(&mut manifest);
    fs::remove_file(&path).unwrap();
    fs::write(&path, sealed::seal(&manifest).unwrap()).unwrap();
}

#[test]
fn a_drill_proves_what_a_real_member_serves_and_measures_it() {
    let etcd = Etcd::start();
    load::fill(&etcd, 5, 0, 2_000);
    etcd.etcdctl(&["lease", "grant", "3600"]).success();
    let site = Site::of(&etcd);
    site.backup(0);
    promise(&site, &etcd, "[objectives]\nrpo = \"1h\"\nrto = \"30m\"\n");
    let page = site.path("drill.html");
    let answer = drill(&site, &["--report", page.to_str().unwrap()]).success().json();
    let report = &answer["report"];
    assert_eq!((&report["outcome"], &report["level"]), (&"passed".into(), &"member".into()));
    assert_eq!(report["etcd_version"], "3.5.1");
    let through = |what: &str| {
        let proofs = report["proofs"].as_array().unwrap().iter();
        proofs.filter(|proof| proof["through"] == what && proof["verdict"] == "equal").count()
    };
    assert_eq!((through("file"), through("member")), (4, 11), "{report}");
    let found = |what: &str| {
        let mut proofs = report["proofs"].as_array().unwrap().iter();
        proofs.rfind(|proof| proof["what"] == what).unwrap()["found"].clone()
    };
    assert_eq!((found("sampled keys with their values"), found("leases")), ("1000 of 1000".into(), "1".into()));
    // RTO is the stages that a recovery waits for.
    let stages = report["stages"].as_array().unwrap();
    assert_eq!(
        stages.iter().map(|stage| stage["counts"].as_bool().unwrap()).collect::<Vec<_>>(),
        [true, true, true, false]
    );
    let waited: f64 = stages[..3].iter().map(|stage| stage["duration_s"].as_f64().unwrap()).sum();
    assert!((report["measured"]["rto_s"].as_f64().unwrap() - waited).abs() < 0.01, "{report}");

    // Stored as a document that says what was shown; the page needs nothing else; nothing is left.
    let at = answer["stored"].as_str().unwrap();
    assert!(matches!(Location::parse(at).unwrap(), Location::Drill(..)));
    let document: Report = sealed::open(at, &fs::read(site.repository().join(at)).unwrap()).unwrap();
    assert_eq!(&serde_json::to_value(&document).unwrap(), report);
    let html = fs::read_to_string(&page).unwrap();
    assert!(html.contains("PASSED") && html.contains("1000 of 1000") && html.contains("Not proved by this drill"));
    assert!(!html.contains("http") && !html.contains("src=") && !html.contains("@import") && !html.contains("url("));
    assert_eq!((left(&site), stored(&site).len()), (vec![], 1));
    // The page is not replaced, and that is told before anything is done.
    let again = drill(&site, &["--report", page.to_str().unwrap()]).exits(1);
    assert!(again.stderr.contains("already there"), "{again}");
    assert_eq!(stored(&site).len(), 1);
    // The protected cluster was not written to.
    assert!(!etcd.etcdctl(&["get", "holdfast/", "--prefix", "--keys-only"]).success().stdout().contains("holdfast/"));
}

#[test]
fn objectives_that_are_missed_and_members_that_are_not_there_are_never_passed() {
    let etcd = Etcd::start();
    load::fill(&etcd, 5, 0, 50);
    let site = Site::of(&etcd);
    site.backup(0);
    promise(&site, &etcd, "[objectives]\nrpo = \"1ms\"\nrto = \"1ms\"\n");
    let missed = drill(&site, &[]).exits(5).json();
    assert_eq!((&missed["report"]["outcome"], &missed["report"]["level"]), (&"missed".into(), &"member".into()));
    assert_eq!(missed["report"]["measured"]["missed"].as_array().unwrap().len(), 2);
    assert_eq!(verdicts(&missed["report"], "differs"), Vec::<&str>::new());

    promise(&site, &etcd, "[objectives]\nrpo = \"1h\"\n");
    let file = site.holdfast(&["drill"]).exits(5).json();
    assert_eq!((&file["report"]["outcome"], &file["report"]["level"]), (&"missed".into(), &"file_only".into()));
    assert!(file["report"]["not_proved"][0].as_str().unwrap().contains("no etcd is named"), "{file}");
    assert_eq!((&file["report"]["measured"]["rto_s"], stored(&site).len()), (&Value::Null, 2));

    // The plan alone changes nothing; programs that are none are told before anything is done.
    let planned = drill(&site, &["--dry-run"]).success().json();
    assert_eq!((&planned["type"], planned["plan"]["steps"].as_array().unwrap().len()), (&"drill_plan".into(), 8));
    for (args, words) in [
        (["drill", "--etcd", "/nowhere/etcd"], "there is no etcdutl at /nowhere/etcdutl"),
        (["drill", "--etcdutl", "/nowhere/etcdutl"], "etcdutl is given without etcd"),
    ] {
        let outcome = site.holdfast(&args).exits(2);
        assert!(outcome.stderr.contains(words) && outcome.stderr.contains("hint"), "{outcome}");
    }
    assert_eq!((left(&site), stored(&site).len()), (vec![], 2));
}

#[test]
fn with_authentication_on_the_drill_still_looks_inside() {
    let etcd = Etcd::options().auth("root", "secret").start();
    load::fill(&etcd, 5, 0, 100);
    etcd.etcdctl(&["role", "add", "reader"]).success();
    let site = Site::of(&etcd);
    site.backup(0);
    let report = drill(&site, &[]).success().json()["report"].clone();
    assert_eq!(report["outcome"], "passed");
    let user = report["proofs"].as_array().unwrap().iter().find(|proof| proof["what"] == "users").unwrap();
    assert_eq!((&user["through"], &user["found"]), (&"member".into(), &"1".into()));
    assert!(verdicts(&report, "equal").contains(&"write and read back"));
}

#[test]
fn a_doctored_point_fails() {
    let etcd = Etcd::start();
    load::fill(&etcd, 5, 0, 100);
    let site = Site::of(&etcd);
    site.backup(0);
    let whole = drill(&site, &[]).success().json();
    doctor(&site, |manifest| manifest.samples[7].fact_sha256.0[0] ^= 1);
    let failed = drill(&site, &[]).exits(3).json();
    assert_eq!(failed["report"]["outcome"], "failed");
    assert_eq!(verdicts(&failed["report"], "differs"), ["restored file"]);
    doctor(&site, |manifest| {
        manifest.samples[7].fact_sha256.0[0] ^= 1;
        manifest.counts.leases += 1;
    });
    assert_eq!(drill(&site, &[]).exits(3).json()["report"]["outcome"], "failed");
    assert_eq!((left(&site), stored(&site).len()), (vec![], 3));
    assert_eq!(whole["report"]["outcome"], "passed");
}

#[test]
fn a_member_that_serves_another_state_fails_by_what_it_serves() {
    let (etcd, other) = (Etcd::start(), Etcd::start());
    load::fill(&etcd, 5, 0, 100);
    load::fill(&other, 5, 0, 100);
    // One value differs, and nothing else.
    etcd.etcdctl(&["put", "odd", "one"]).success();
    other.etcdctl(&["put", "odd", "out"]).success();
    let site = Site::of(&etcd);
    site.backup(0);
    let swapped = site.path("other.db");
    other.etcdctl(&["snapshot", "save", swapped.to_str().unwrap()]).success();
    // An etcdutl that restores another file than it is given.
    let etcdutl = peers::program(peers::ETCD_3_5, "etcdutl");
    let restore = format!("shift 3; exec {} snapshot restore {} \"$@\"", etcdutl.display(), swapped.display());
    let script = format!("#!/bin/sh\n{VERSION}\n{restore}\n");
    let wrong = program(&site, "etcdutl", &script);
    let report = drill(&site, &["--etcdutl", &wrong]).exits(3).json()["report"].clone();
    let differs = verdicts(&report, "differs");
    assert_eq!(differs, ["state digest", "sampled keys with their values", "HashKV"], "{report}");
    // One that fails, and an etcd that ends at once, in their own words.
    let wrong = program(&site, "etcdutl-2", &format!("#!/bin/sh\n{VERSION}\necho 'Error: no such luck' >&2\nexit 1\n"));
    let report = drill(&site, &["--etcdutl", &wrong]).exits(3).json()["report"].clone();
    assert_eq!(verdicts(&report, "differs"), ["data directory"]);
    assert!(report["proofs"].to_string().contains("no such luck"), "{report}");
    let version = "case $1 in --version) echo 'etcd Version: 9.9';; *) echo '{\"level\":\"fatal\",\"msg\":\"no\",\"error\":\"heart\"}'; exit 1;; esac";
    let wrong = program(&site, "etcd", &format!("#!/bin/sh\n{version}\n"));
    let args = ["drill", "--etcd", &wrong, "--etcdutl", etcdutl.to_str().unwrap()];
    let report = site.holdfast(&args).exits(3).json()["report"].clone();
    assert_eq!(verdicts(&report, "differs"), ["boot"]);
    assert!(report["proofs"].to_string().contains("no heart"), "{report}");
    assert_eq!(left(&site), Vec::<PathBuf>::new());
}

/// How a stand-in for etcdutl answers when it is asked for its version.
const VERSION: &str = "test \"$1\" != version || { echo 'etcdutl version: 9.9'; exit; }";

/// The verdicts on the newest point, as `list` shows them: how deep, and whether good.
fn judged(site: &Site) -> (Value, Value) {
    let listed = site.holdfast(&["list"]).success().json();
    let newest = listed["points"].as_array().unwrap().last().unwrap().clone();
    (newest["verified_level"].clone(), newest["verified"].clone())
}

#[test]
fn a_drill_is_a_verdict_on_its_point_unless_it_could_not_look() {
    let etcd = Etcd::start();
    load::fill(&etcd, 5, 0, 100);
    let site = Site::of(&etcd);
    site.backup(0);
    promise(&site, &etcd, "[objectives]\nrto = \"1ms\"\n");
    drill(&site, &[]).exits(5);
    assert_eq!(judged(&site), (4.into(), true.into()), "an objective is about time, not about the point");
    // Nothing is said about the point by a drill without a member, by programs that are none, by a host that is in the way.
    let before = site.holdfast(&["show", "latest"]).success().json()["verdict"].clone();
    site.holdfast(&["drill"]).exits(5);
    let etcdutl = |name: &str, script: &str| program(&site, name, &format!("#!/bin/sh\n{VERSION}\n{script}\n"));
    for (program, code, words) in [
        (etcdutl("none", "").replace("none", "missing"), 2, "there is no etcdutl"),
        (program(&site, "other", "#!/bin/sh\nexit 0\n"), 2, "tells no version"),
        (etcdutl("full", "echo 'Error: write: no space left on device' >&2; exit 1"), 1, "make room"),
        (etcdutl("taken", "echo 'Error: listen: address already in use' >&2; exit 1"), 1, "run it again"),
    ] {
        let outcome = drill(&site, &["--etcdutl", &program]).exits(code);
        assert!(outcome.stderr.contains(words) && outcome.stderr.contains("hint"), "{outcome}");
    }
    assert_eq!(site.holdfast(&["show", "latest"]).success().json()["verdict"], before);
    // A page that cannot be written is told before an hour has passed, and so is scratch that is not there.
    for args in [["--report", "/nowhere/drill.html"], ["--scratch", "/nowhere"]] {
        let outcome = drill(&site, &args).exits(2);
        assert!(outcome.stderr.contains("/nowhere") && outcome.stderr.contains("hint"), "{outcome}");
    }

    // A failed one is a bad verdict, and the next point stands on its own.
    let wrong = etcdutl("wrong", "echo 'Error: no such luck' >&2; exit 1");
    drill(&site, &["--etcdutl", &wrong]).exits(3);
    assert_eq!(judged(&site), (4.into(), false.into()));
    let shown = site.holdfast(&["show", "latest"]).success().json();
    let finding = &shown["verdict"]["findings"][0];
    assert_eq!(finding["check"], "member", "{shown}");
    assert!(finding["detail"].as_str().unwrap().starts_with("data directory: no such luck; expected: "), "{finding}");
    load::fill(&etcd, 6, 0, 1);
    let next = site.backup(5);
    assert_eq!(next.manifest["kind"], "full");
    assert!(next.warnings[0].contains("fails verification at level 4"), "{:?}", next.warnings);
}

/// An etcd that runs once before it runs for the drill, until `etcdctl` answers `command` with `wanted`.
fn meanwhile(site: &Site, name: &str, command: &str, wanted: &str) -> String {
    let (etcd, etcdctl) = (etcd_program(), peers::program(peers::ETCD_3_5, "etcdctl"));
    let aside = Port::claim().address();
    let script = format!(
        "#!/bin/sh\ncase $1 in --version) exec {etcd} --version;; esac\n\
         for arg in \"$@\"; do case $arg in\n\
           --trusted-ca-file=*) ca=${{arg#*=}};; --cert-file=*) cert=${{arg#*=}};; --key-file=*) key=${{arg#*=}};;\n\
         esac; done\n\
         {etcd} \"$@\" --listen-client-urls=https://{aside} --advertise-client-urls=https://{aside} & pid=$!\n\
         until {} --endpoints=https://{aside} --cacert=$ca --cert=$cert --key=$key {command} | grep -q '{wanted}'; do :; done\n\
         kill -9 $pid; wait $pid; exec {etcd} \"$@\"\n",
        etcdctl.display()
    );
    program(site, name, &script)
}

#[test]
fn a_lease_that_runs_out_before_the_member_is_asked_fails_no_drill_and_a_lost_one_does() {
    let etcd = Etcd::start();
    load::fill(&etcd, 5, 0, 100);
    let grant = |ttl_s: &str| {
        let granted = etcd.etcdctl(&["lease", "grant", ttl_s]).success().stdout();
        granted.split_whitespace().nth(1).unwrap().to_owned()
    };
    let (long, short) = (grant("3600"), grant("5"));
    etcd.etcdctl(&["put", "session", "x", "--lease", &short]).success();
    let site = Site::of(&etcd);
    let manifest = site.backup(0).manifest;
    assert_eq!(manifest["counts"]["leases"], 2);
    let etcdutl = peers::program(peers::ETCD_3_5, "etcdutl");
    let run = |program: &str, code| {
        let args = ["drill", "--etcd", program, "--etcdutl", etcdutl.to_str().unwrap()];
        site.holdfast(&args).exits(code).json()["report"].clone()
    };
    let report = run(&meanwhile(&site, "slow", "lease list", "found 1 leases"), 0);
    assert_eq!(report["outcome"], "passed");
    let leases = report["proofs"].as_array().unwrap().iter().find(|proof| proof["what"] == "leases").unwrap();
    assert_eq!(leases["found"], "1, and 1 that ran out before the member could be asked");
    let report = run(&meanwhile(&site, "lossy", &format!("lease revoke {long}"), "revoked"), 3);
    let differs = verdicts(&report, "differs");
    assert_eq!(differs, ["state digest", "leases"], "{report}");
}

/// Writes a program into a folder of the site; its path.
fn program(site: &Site, name: &str, text: &str) -> String {
    let path = site.path(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_drill_that_is_stopped_or_killed_leaves_no_member() {
    let etcd = Etcd::start();
    load::fill(&etcd, 5, 0, 100);
    let site = Site::of(&etcd);
    site.backup(0);
    // An etcd that never serves, so that there is time to stop the drill.
    let etcd = "case $1 in --version) echo 'etcd Version: 9.9';; *) exec sleep 600;; esac";
    let slow = program(&site, "etcd", &format!("#!/bin/sh\n{etcd}\n"));
    let etcdutl = peers::program(peers::ETCD_3_5, "etcdutl");
    for (signal, remains) in [("INT", 0), ("KILL", 1)] {
        let policy = site.path("prod.toml");
        let args =
            ["drill", "--etcd", &slow, "--etcdutl", etcdutl.to_str().unwrap(), "--policy", policy.to_str().unwrap()];
        let run = Run::holdfast().args(&args).env("HOLDFAST_SCRATCH", site.path("."));
        let mut process = run.start(site.path(&format!("{signal}.log")));
        let member = || left(&site).iter().any(|folder| folder.join("etcd.log").exists());
        wait_until("the member is started", LIMIT, member);
        let pid = process.pid().to_string();
        let leash = format!("leash\0{pid}\0");
        // Its log is there before it is.
        let mut children = vec![];
        wait_until("the leash became the member", LIMIT, || {
            children = children_of(&pid);
            children.len() == 1 && running(&leash) == 0
        });
        Run::new("kill").args(&[format!("-{signal}"), pid]).run().success();
        wait_until("the drill is over", LIMIT, || process.ended().is_some());
        wait_until("the member is gone", LIMIT, || !Path::new("/proc").join(&children[0]).exists());
        assert_eq!(left(&site).len(), remains, "after {signal}");
    }
    assert_eq!(stored(&site).len(), 0);
    // What the killed one left holds the cluster's state in the clear: the next drill removes it.
    site.holdfast(&["drill"]).exits(5);
    assert_eq!(left(&site), Vec::<PathBuf>::new());
}

/// The children of a process.
fn children_of(pid: &str) -> Vec<String> {
    let all = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    let parent = |child: &String| {
        let status = fs::read_to_string(Path::new("/proc").join(child).join("status")).unwrap_or_default();
        status.lines().any(|line| line.split_whitespace().eq(["PPid:", pid]))
    };
    all.filter(parent).collect()
}
