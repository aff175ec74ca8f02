//! Kills and signals: kill -9 at every durable step and at seeded times, SIGTERM, SIGINT and SIGUSR1 in mid-work. What is
//! listed is whole, what has its final name is whole, and the next run succeeds.

use holdfast::base::rng::Seeded;
use rustix::process::Signal;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::files::fixture;
use crate::place::{Place, loaded};
use crate::support::proxy::{Fault, Proxy};
use crate::support::run::{Process, wait_until};

/// Says where a backup is to kill itself.
const CRASH_VARIABLE: &str = "HOLDFAST_TEST_CRASH_AT";
const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn killed_at_any_step_a_backup_leaves_no_half_point() {
    let etcd = loaded();
    let mut killed = 0;
    for n in 1.. {
        let mut survived = false;
        for edge in ["before", "after"] {
            let place = Place::new();
            let policy = place.policy_at(&etcd.address(0));
            let backup = place.run(&["backup", "--policy", &policy]);
            let outcome = backup.env(CRASH_VARIABLE, format!("{n}:{edge}")).run();
            if outcome.code() == 0 {
                survived = true;
                break;
            }
            assert_eq!(outcome.code(), -1, "step {n}, {edge}: {outcome}");
            killed += 1;
            // What is visible after the kill is whole, and only the manifest's step makes something visible.
            let visible = place.verify_all();
            assert!(visible <= 1, "step {n}, {edge}");
            place.assert_nothing_left();
            place.with_policy(&["backup"]).success();
            assert_eq!(place.verify_all(), visible + 1, "step {n}, {edge}");
            // A killed writer leaves at most the staging files of the uploads that were on their way.
            let staged = place.tree("repository").into_keys().filter(|path| path.contains('#')).count();
            assert!(staged <= 4, "step {n}, {edge}: {staged}");
        }
        if survived {
            break;
        }
    }
    // At least three data objects, the lineage and the manifest.
    assert!(killed >= 10, "{killed}");
}

#[test]
fn killed_at_any_time_a_backup_leaves_no_half_point() {
    let (place, etcd) = (Place::new(), loaded());
    let policy = place.policy_at(&etcd.address(0));
    let whole = place.with_policy(&["backup"]).success().elapsed;
    let mut rng = Seeded::new(41);
    for n in 0..20 {
        let mut backup = place.run(&["backup", "--policy", &policy]).start(place.path("log"));
        wait_or_end(&mut backup, whole, &mut rng);
        backup.kill();
        place.assert_nothing_left();
        assert!(place.points().len() <= n + 2);
    }
    let visible = place.verify_all();
    place.with_policy(&["backup"]).success();
    assert_eq!(place.verify_all(), visible + 1);
}

/// Waits a seeded part of `whole`.
fn wait_or_end(process: &mut Process, whole: Duration, rng: &mut Seeded) {
    let until = Instant::now() + whole.mul_f64(rng.below(1_000) as f64 / 1_000.0);
    while process.ended().is_none() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether a process has a file open in `folder`, with a name or without: it writes there.
fn writes_into(pid: u32, folder: &Path) -> bool {
    let Ok(handles) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    handles.flatten().any(|handle| fs::read_link(handle.path()).is_ok_and(|file| file.starts_with(folder)))
}

/// Whether `path` has a whole snapshot; panics when it has half a one.
fn is_whole(place: &Place, path: &Path) -> bool {
    if !path.exists() {
        return false;
    }
    let status = place.run(&["snapshot", "status", path.to_str().unwrap(), "-o", "json"]).run().success().json();
    assert_eq!(status["sha256"], "right");
    true
}

#[test]
fn a_killed_restore_gives_no_name_to_half_a_file() {
    let (place, etcd) = (Place::new(), loaded());
    place.policy_at(&etcd.address(0));
    place.with_policy(&["backup"]).success();
    let (policy, target) = (place.text("policy.toml"), place.path("out/r.db"));
    let args = ["restore", "--etcd-snapshot", "out/r.db", "--yes", "--policy", &policy];
    let whole = place.run(&args).run().success().elapsed;
    fs::remove_file(&target).unwrap();
    let (mut rng, mut halves, out) = (Seeded::new(42), 0, place.path("out"));
    for _ in 0..20 {
        let mut restore = place.run(&args).start(place.path("log"));
        wait_or_end(&mut restore, whole, &mut rng);
        if restore.ended().is_none() {
            // Stopped first: what was seen is what is killed.
            restore.pause();
            halves += u32::from(!target.exists() && writes_into(restore.pid(), &out));
        }
        restore.kill();
        if is_whole(&place, &target) {
            fs::remove_file(&target).unwrap();
        }
        // A file that has no name leaves nothing. Where it needs one, what is left says what it is.
        let left = place.tree("out");
        assert!(left.keys().all(|name| name.starts_with(".r.db.") && name.ends_with(".part")), "{left:?}");
    }
    assert!(halves > 0, "no kill fell into the writing");
    place.run(&args).run().success();
    assert!(is_whole(&place, &target));
    assert_eq!(place.tree("out").len(), 1, "leftovers are removed");
}

#[test]
fn a_signal_in_mid_backup_ends_it_with_130_and_nothing_half_done() {
    let (place, etcd) = (Place::new(), loaded());
    let proxy = Proxy::before(etcd.address(0));
    let policy = place.policy_at(&proxy.address());
    for signal in [Signal::TERM, Signal::INT] {
        // Held in mid-stream, where it would wait for half a minute.
        let struck = proxy.fired();
        proxy.set(Fault::StallAfter(2_000_000));
        let log = place.path("log");
        drop(fs::remove_file(&log));
        let mut backup = place.run(&["backup", "--policy", &policy]).start(&log);
        wait_until("the stream stalls", LIMIT, || proxy.fired() > struck);
        backup.signal(Signal::USR1);
        wait_until("progress is told", LIMIT, || backup.said().contains("receiving the snapshot: "));
        assert!(backup.said().contains(" after "), "{}", backup.said());
        backup.signal(signal);
        wait_until("it ends", Duration::from_secs(5), || backup.ended().is_some());
        assert_eq!(backup.ended().unwrap().code(), Some(130), "{}", backup.said());
        assert!(backup.said().contains("error: interrupted\nhint: "), "{}", backup.said());
        proxy.set(Fault::None);
        place.assert_nothing_left();
        assert!(place.points().is_empty());
    }
    place.with_policy(&["backup"]).success();
}

#[test]
fn a_signal_in_mid_restore_leaves_no_target() {
    let (place, etcd) = (Place::new(), loaded());
    place.policy_at(&etcd.address(0));
    place.with_policy(&["backup"]).success();
    let (policy, target) = (place.text("policy.toml"), place.path("out/r.db"));
    let args = ["restore", "--etcd-snapshot", "out/r.db", "--yes", "--policy", &policy];
    let mut interrupted = 0;
    for signal in [Signal::TERM, Signal::INT, Signal::TERM, Signal::INT] {
        let mut restore = place.run(&args).start(place.path("log"));
        let writes = |restore: &Process| writes_into(restore.pid(), &place.path("out"));
        wait_until("it writes or ends", LIMIT, || writes(&restore) || restore.ended().is_some());
        if restore.ended().is_none() {
            restore.signal(signal);
        }
        wait_until("it ends", LIMIT, || restore.ended().is_some());
        match restore.ended().unwrap().code() {
            Some(130) => interrupted += 1,
            // The signal came when everything was done.
            Some(0) => assert!(is_whole(&place, &target), "{}", restore.said()),
            code => panic!("{code:?}: {}", restore.said()),
        }
        if target.exists() {
            fs::remove_file(&target).unwrap();
        }
        place.assert_nothing_left();
    }
    assert!(interrupted > 0);
}

/// Killed at once, wherever it was: there is a whole member or none, and the next restore into the same place makes one.
#[test]
fn a_kill_in_mid_restore_leaves_no_member() {
    let (place, etcd) = (Place::new(), loaded());
    place.policy_at(&etcd.address(0));
    place.with_policy(&["backup"]).success();
    let (policy, member) = (place.text("policy.toml"), place.path("out/m/member"));
    let args = ["restore", "--data-dir", "out/m", "--yes", "--policy", &policy];
    let steps = ["out/m", "out/m/member.tmp", "out/m/member.tmp/snap/db", "out/m/member.tmp/wal/0000000000000001.log"];
    for step in steps {
        let mut restore = place.run(&args).start(place.path("log"));
        let reached = place.path(step);
        wait_until("it comes so far or ends", LIMIT, || {
            reached.exists() || (step.ends_with(".log") && member.exists()) || restore.ended().is_some()
        });
        restore.kill();
        if member.exists() {
            fs::remove_dir_all(place.path("out/m")).unwrap();
        }
    }
    place.run(&args).run().success();
    assert!(member.join("identity.json").exists() && !place.path("out/m/member.tmp").exists());
}

#[test]
fn a_signal_while_standard_input_is_silent_ends_the_command() {
    let place = Place::new();
    let url = place.url();
    let half = fixture("etcd-3.5-auth.db");
    let half = place.write("half.db", &half[..half.len() / 2]);
    let binary = env!("CARGO_BIN_EXE_holdfast");
    let commands = [
        "restore --file - --etcd-snapshot out/r.db --yes".to_owned(),
        format!("import - --repository {url} --cluster prod"),
        "snapshot status -".to_owned(),
        "keys ls --file -".to_owned(),
    ];
    for command in commands {
        // The shell's `sleep` keeps the pipe open; its pid file ends it with the test.
        let script = format!("(cat {half}; echo $$ > fed; exec sleep 60) | {binary} {command}; echo \"ended with $?\"");
        let log = place.path("log");
        drop(fs::remove_file(&log));
        drop(fs::remove_file(place.path("fed")));
        let shell = crate::support::run::Run::new("sh").env("HOLDFAST_SCRATCH", place.path("scratch"));
        let shell = shell.dir(place.root()).args(&["-c", &script]).start(&log);
        wait_until("the half was fed", LIMIT, || place.path("fed").exists());
        let mut pid = None;
        wait_until("holdfast runs", LIMIT, || {
            pid = child_named(shell.pid(), "holdfast");
            pid.is_some_and(hears_sigterm)
        });
        rustix::process::kill_process(pid.unwrap(), Signal::TERM).unwrap();
        wait_until("it ends", Duration::from_secs(5), || child_named(shell.pid(), "holdfast").is_none());
        let mut sleep = None;
        wait_until("the pipe's other end sleeps", LIMIT, || {
            sleep = child_named(shell.pid(), "sleep");
            sleep.is_some()
        });
        rustix::process::kill_process(sleep.unwrap(), Signal::TERM).unwrap();
        wait_until("the shell tells", LIMIT, || shell.said().contains("ended with 130"));
        place.assert_nothing_left();
    }
}

/// Whether a process has a handler for SIGTERM already.
fn hears_sigterm(pid: rustix::process::Pid) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or_default();
    u64::from_str_radix(caught.trim(), 16).is_ok_and(|caught| caught >> (Signal::TERM.as_raw() - 1) & 1 == 1)
}

/// The child of `parent` that runs `name`, unless it has ended.
fn child_named(parent: u32, name: &str) -> Option<rustix::process::Pid> {
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((head, tail)) = stat.rsplit_once(") ") else { continue };
        let mut fields = tail.split(' ');
        let (state, of) = (fields.next()?, fields.next()?);
        if state != "Z" && of == parent.to_string() && head.ends_with(&format!("({name}")) {
            return rustix::process::Pid::from_raw(head.split(' ').next()?.parse().ok()?);
        }
    }
    None
}
