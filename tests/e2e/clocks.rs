//! Hosts whose clock is a year off, either way: history is in the order of revisions, and grace is over by the clock of the
//! store.

use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;

use crate::place::Place;
use crate::support::etcd::Etcd;
use crate::support::run::Outcome;

const CLOCK_VARIABLE: &str = "HOLDFAST_TEST_CLOCK_S";
const YEAR_S: i64 = 365 * 24 * 3600;
/// How far the clock of each backup's host is off.
const OFF_S: [i64; 5] = [0, YEAR_S, -YEAR_S, 0, 0];

/// Runs a command on a host whose clock is so far off.
fn at(place: &Place, off_s: i64, args: &[&str]) -> Outcome {
    let policy = place.text("policy.toml");
    place.run(&[args, &["--policy", &policy, "-o", "json"]].concat()).env(CLOCK_VARIABLE, off_s.to_string()).run()
}

/// Points of one history, made by hosts with different clocks; their ids and kinds, in the order of making.
fn made(etcd: &Etcd, place: &Place) -> Vec<(String, String)> {
    let text = fs::read_to_string(place.policy_at(&etcd.address(0))).unwrap();
    place.write("policy.toml", format!("{text}[retention]\nlast = 2\nmin_verified = 1\n"));
    let point = |off_s: &i64| {
        etcd.etcdctl(&["put", "/registry/pods/default/a", &format!("off {off_s}")]).success();
        let point = at(place, *off_s, &["backup"]).success().json();
        let kind = point["manifest"]["kind"].as_str().unwrap().to_owned();
        (point["point"].as_str().unwrap().to_owned(), kind)
    };
    OFF_S.iter().map(point).collect()
}

fn ids(value: &Value) -> BTreeSet<&str> {
    value.as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect()
}

#[test]
fn points_stand_in_the_order_of_history_whatever_their_hosts_believed() {
    let etcd = Etcd::start();
    let place = Place::new();
    let made = made(&etcd, &place);
    let kinds: Vec<&str> = made.iter().map(|(_, kind)| kind.as_str()).collect();
    // A base that is a year old, or of the future, is followed by a full point; a right one by an increment.
    assert_eq!(kinds, ["full", "full", "full", "full", "incremental"]);
    for off_s in [0, YEAR_S, -YEAR_S] {
        let listed = at(&place, off_s, &["list"]).success().json();
        let listed: Vec<_> = listed["points"].as_array().unwrap().iter().map(|point| &point["id"]).collect();
        assert_eq!(listed, made.iter().map(|(id, _)| id).collect::<Vec<_>>());
        let latest = at(&place, off_s, &["show", "latest"]).success().json();
        assert_eq!(latest["manifest"]["attempt"], made[4].0);
        at(&place, off_s, &["verify", "--level", "3"]).success();
    }
    let file = place.text("restored.db");
    let restored = at(&place, YEAR_S, &["restore", "--etcd-snapshot", &file, "--yes"]).success().json();
    assert_eq!(restored["report"]["revision"], etcd.revision());
}

#[test]
fn a_grace_is_not_over_because_a_host_says_so() {
    let etcd = Etcd::start();
    let place = Place::new();
    let made = made(&etcd, &place);
    // The point of the future is kept, and named in a warning.
    let going: BTreeSet<&str> = [&made[0], &made[2]].map(|(id, _)| id.as_str()).into();
    let prune = |off_s, grace| {
        let run = at(&place, off_s, &["prune", "--yes", "--grace", grace]).exits(5).json();
        assert!(run["warnings"].to_string().contains("future"), "{run}");
        run
    };
    let condemned = prune(-YEAR_S, "24h");
    assert_eq!(ids(&condemned["condemned"]["points"]), going);
    let before = place.points();
    for off_s in [YEAR_S, -YEAR_S, 0] {
        let again = prune(off_s, "24h");
        assert_eq!((ids(&again["deleted"]["points"]), again["deleted"]["objects"].as_u64()), ([].into(), Some(0)));
        assert_eq!(place.points(), before);
    }
    assert_eq!(ids(&prune(-YEAR_S, "0s")["deleted"]["points"]), going);
    at(&place, 0, &["verify", "--level", "3"]).success();
}
