//! Retention at work on points of a real cluster: what a run deletes and frees, kills at every step of it, backups beside
//! it, and what it refuses.

use std::fs;

use crate::place::{Place, Tree};
use crate::support::etcd::Etcd;
use crate::support::run::Outcome;

/// Says where a run is to kill itself.
const CRASH_VARIABLE: &str = "HOLDFAST_TEST_CRASH_AT";

/// A place whose policy keeps the last two points of `etcd`.
fn place(etcd: &Etcd) -> Place {
    let place = Place::new();
    let policy = place.policy_at(&etcd.address(0));
    let text = fs::read_to_string(policy).unwrap();
    place.write("policy.toml", format!("{text}[retention]\nlast = 2\n"));
    place
}

/// Makes full points, each with changes of its own; their ids, oldest first.
fn points(etcd: &Etcd, place: &Place, count: u32) -> Vec<String> {
    let point = |n: u32| {
        etcd.etcdctl(&["put", "/registry/pods/default/a", &format!("{n}")]).success();
        let made = place.with_policy(&["backup", "--kind", "full", "-o", "json"]).success().json();
        made["point"].as_str().unwrap().to_owned()
    };
    (0..count).map(point).collect()
}

fn prune(place: &Place, args: &[&str]) -> Outcome {
    place.with_policy(&[&["prune", "--yes", "--grace", "0s", "-o", "json"], args].concat())
}

fn bytes(tree: &Tree, part: &str) -> u64 {
    tree.iter().filter(|(path, _)| path.contains(part)).map(|(_, (bytes, _))| bytes).sum()
}

fn ids(value: &serde_json::Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect()
}

#[test]
fn points_go_in_two_runs_and_come_back_until_the_second() {
    let etcd = Etcd::start();
    let place = place(&etcd);
    let made = points(&etcd, &place, 4);
    let before = place.tree("repository");
    // Nobody to ask, and nothing to be done: nothing is touched.
    let unasked = place.with_policy(&["prune"]).exits(2);
    assert!(unasked.stderr.contains("needs a confirmation") && unasked.stderr.contains("--yes"), "{unasked}");
    let dry = prune(&place, &["--dry-run"]).success().json();
    assert_eq!(ids(&dry["condemned"]["points"]), made[..2]);
    assert_eq!(place.tree("repository"), before);

    let first = prune(&place, &[]).success().json();
    assert_eq!(
        (ids(&first["condemned"]["points"]), first["deleted"]["objects"].as_u64()),
        (vec![&made[0][..], &made[1]], Some(0))
    );
    let listed = place.with_policy(&["list"]).success().stdout();
    assert_eq!(listed.matches("condemned").count(), 2, "{listed}");
    assert_eq!(place.verify_all(), 4);
    place.with_policy(&["undelete", &made[0]]).success();
    place.with_policy(&["hold", &made[0], "--reason", "before the upgrade"]).success();
    let listed = place.with_policy(&["list"]).success().stdout();
    assert_eq!((listed.matches("condemned").count(), listed.matches("held").count()), (1, 1), "{listed}");

    let before = place.tree("repository");
    let second = prune(&place, &[]).success().json();
    let after = place.tree("repository");
    assert_eq!(ids(&second["deleted"]["points"]), [&made[1]]);
    let gone = before.keys().filter(|path| path.contains("/data/") && !after.contains_key(*path)).count();
    assert_eq!(second["deleted"]["objects"].as_u64(), Some(gone as u64));
    assert_eq!(second["deleted"]["bytes"].as_u64(), Some(bytes(&before, "/data/") - bytes(&after, "/data/")));
    assert!(gone > 0 && second["deleted_lists"] == 1, "{second}");
    assert_eq!(bytes(&after, "/condemned/"), 0);
    assert!(!after.keys().any(|path| path.contains(&made[1])), "verdicts of a point that is gone");
    assert_eq!(place.points(), [&made[0][..], &made[2], &made[3]]);
    // Held, it stays for any number of runs; released, it goes.
    assert_eq!(ids(&prune(&place, &[]).success().json()["condemned"]["points"]), Vec::<&str>::new());
    place.with_policy(&["release", &made[0]]).success();
    prune(&place, &[]).success();
    prune(&place, &[]).success();
    assert_eq!(place.points(), made[2..]);
    assert_eq!(place.verify_all(), 2);
    place.with_policy(&["restore", "--etcd-snapshot", &place.text("out/r.db"), "--yes"]).success();
}

#[test]
fn killed_at_any_step_a_prune_loses_nothing_that_is_listed() {
    let etcd = Etcd::start();
    let mut killed = 0;
    let place = place(&etcd);
    points(&etcd, &place, 4);
    // Each round condemns, then dies one step further in the run that deletes.
    for n in 1.. {
        prune(&place, &[]).success();
        let policy = place.text("policy.toml");
        let run = place.run(&["prune", "--yes", "--grace", "0s", "--policy", &policy]);
        let edge = if n % 2 == 0 { "before" } else { "after" };
        let outcome = run.env(CRASH_VARIABLE, format!("{n}:{edge}")).run();
        let listed = place.verify_all();
        assert!((2..=4).contains(&listed), "step {n}");
        if outcome.code() == 0 {
            break;
        }
        assert_eq!(outcome.code(), -1, "step {n}: {outcome}");
        killed += 1;
        points(&etcd, &place, 1);
    }
    prune(&place, &[]).success();
    prune(&place, &[]).success();
    assert_eq!(place.verify_all(), 2);
    // The claim, a manifest, its objects, its verdict, the list, older epochs.
    assert!(killed >= 5, "{killed}");
}

#[test]
fn backups_beside_prunes_are_whole_or_say_that_they_are_not() {
    let etcd = Etcd::start();
    let place = place(&etcd);
    points(&etcd, &place, 3);
    for round in 0..5 {
        etcd.etcdctl(&["put", "/registry/pods/default/b", &format!("{round}")]).success();
        let [backup, one, two] = std::thread::scope(|threads| {
            let backup = threads.spawn(|| place.with_policy(&["backup"]));
            let prunes = [0, 1].map(|_| threads.spawn(|| prune(&place, &[])));
            let [one, two] = prunes.map(|run| run.join().unwrap());
            [backup.join().unwrap(), one, two]
        });
        assert!(backup.code() == 0 || backup.stderr.contains("withdrawn"), "round {round}: {backup}");
        for run in [one, two] {
            assert!(run.code() == 0 || run.stderr.contains("another collector"), "round {round}: {run}");
        }
        assert!(place.verify_all() >= 2, "round {round}");
    }
}

#[test]
fn what_a_prune_and_a_hold_refuse() {
    let etcd = Etcd::start();
    let place = place(&etcd);
    let made = points(&etcd, &place, 3);
    let refuses = |args: &[&str], code: i32, message: &str| {
        let refused = place.with_policy(args).exits(code);
        assert!(refused.stderr.contains(message) && refused.stderr.contains("hint: "), "{refused}");
    };
    refuses(&["undelete", &made[0]], 4, "is not condemned");
    refuses(&["hold", &made[0], "--until", "2001-01-01"], 2, "is past");
    refuses(&["hold", &made[0], "--until", "tomorrow"], 2, "is not a time");
    refuses(&["release", "ffff0000"], 4, "no restore point");
    prune(&place, &[]).success();
    let before = place.tree("repository");
    let list = before.keys().find(|path| path.contains("/condemned/")).unwrap();
    let right = fs::read(place.repository().join(list)).unwrap();
    fs::write(place.repository().join(list), "damaged").unwrap();
    refuses(&["prune", "--yes", "--grace", "0s"], 3, "what is condemned is not known");
    fs::write(place.repository().join(list), right).unwrap();
    assert_eq!(place.tree("repository"), before);
    // Without rules nothing goes, whatever is condemned.
    let text = fs::read_to_string(place.path("policy.toml")).unwrap();
    place.write("policy.toml", text.replace("last = 2\n", ""));
    let idle = place.with_policy(&["prune", "--yes", "--grace", "0s"]).exits(5);
    assert!(idle.stderr.contains("no rule that says what to keep"), "{idle}");
    assert_eq!(place.tree("repository"), before);
}
