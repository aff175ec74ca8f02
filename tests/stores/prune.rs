//! Pruning a bucket: what each run asks for, kills at every step of one, and points taken back.

use serde_json::Value;

use crate::site::{BUCKETS, Kind, Site};
use crate::support::etcd::Etcd;
use crate::support::run::Outcome;
use crate::support::weather::Weather;

/// Says where a run is to kill itself.
const CRASH_VARIABLE: &str = "HOLDFAST_TEST_CRASH_AT";
/// Points that the policy keeps.
const KEPT: u64 = 2;
/// Requests of any run, whatever there is: the config, listings of each folder, the claim and its time.
const FIXED_MAX: u64 = 20;

/// An empty place of this kind, whose policy keeps the last two points of `etcd`.
fn site(kind: Kind, etcd: &Etcd) -> Site {
    let mut site = Site::new(kind);
    site.more = format!("\n[retention]\nlast = {KEPT}\n");
    site.policy(&etcd.policy_table("prod"));
    site
}

/// Makes full points of one object each, with a change of its own.
fn points(etcd: &Etcd, site: &Site, count: u64) {
    for n in 0..count {
        etcd.etcdctl(&["put", "/registry/pods/default/a", &format!("{n}")]).success();
        site.holdfast(&["backup", "--kind", "full"]).success();
    }
}

fn prune(site: &Site) -> Outcome {
    site.holdfast(&["prune", "--yes", "--grace", "0s", "-o", "json"])
}

/// Verifies all points by their bytes; how many there are.
fn whole(site: &Site) -> usize {
    let verified = site.holdfast(&["verify", "--level", "2", "-o", "json"]).success().json();
    verified["verdicts"].as_array().unwrap().len()
}

fn number(answer: &Value, part: &str, what: &str) -> u64 {
    answer[part][what].as_u64().unwrap()
}

/// Lists, reads (of content and of times), creations, deletions.
fn requests(site: &Site) -> [u64; 4] {
    let proxy = site.proxy();
    [proxy.count("LIST"), proxy.count("GET") + proxy.count("HEAD"), proxy.count("PUT"), proxy.count("DELETE")]
}

/// A run's requests, the proxy counting from nought.
fn counted(site: &Site) -> (Value, [u64; 4]) {
    site.proxy().set(Weather::default());
    let answer = prune(site).success().json();
    (answer, requests(site))
}

#[test]
fn a_prune_costs_a_few_requests_for_each_point_and_each_object_that_goes() {
    let etcd = Etcd::start();
    for kind in BUCKETS {
        let mut listings = vec![];
        for count in [4, 12] {
            let (site, going) = (site(kind, &etcd), count - KEPT);
            points(&etcd, &site, count);
            let (condemned, [lists, reads, puts, deletes]) = counted(&site);
            let said = format!("{kind:?}, {count} points, first run: {lists} {reads} {puts} {deletes}");
            assert_eq!(number(&condemned, "condemned", "objects"), going, "{said}");
            // The claim and one list; each point's manifest and verdict are read.
            assert_eq!((puts, deletes), (2, 0), "{said}");
            assert!(lists <= FIXED_MAX && (2 * count..=2 * count + FIXED_MAX).contains(&reads), "{said}");

            let (deleted, [lists, reads, puts, deletes]) = counted(&site);
            let said = format!("{kind:?}, {count} points, second run: {lists} {reads} {puts} {deletes}");
            assert_eq!(number(&deleted, "deleted", "objects"), going, "{said}");
            // Of each point its manifest, object and verdict; the list, and the claim of the first run.
            assert_eq!((puts, deletes), (1, 3 * going + 2), "{said}");
            // For each point that goes: the epochs, its holds, and what was said about it in two folders.
            assert!((4 * going..=4 * going + FIXED_MAX).contains(&lists), "{said}");
            assert!((2 * count..=2 * count + FIXED_MAX).contains(&reads), "{said}");
            listings.push((going, lists));

            let (idle, [lists, _, puts, deletes]) = counted(&site);
            let said = format!("{kind:?}, {count} points, idle run: {lists} {puts} {deletes}");
            assert_eq!(number(&idle, "condemned", "objects") + number(&idle, "deleted", "objects"), 0, "{said}");
            assert!(puts == 1 && deletes == 1 && lists <= FIXED_MAX, "{said}");
            assert_eq!(whole(&site), usize::try_from(KEPT).unwrap(), "{said}");
        }
        // Three times the points are three times the listings, not nine.
        let [(few, lists_few), (many, lists_many)] = listings[..] else { panic!("{listings:?}") };
        assert_eq!(lists_many - lists_few, 4 * (many - few), "{kind:?}");
    }
}

#[test]
fn killed_at_any_step_a_prune_of_a_bucket_loses_nothing_that_is_listed() {
    let etcd = Etcd::start();
    for kind in [Kind::StrictS3, Kind::Google] {
        let site = site(kind, &etcd);
        points(&etcd, &site, 4);
        let mut killed = 0;
        // Each round condemns, then dies one step further in the run that deletes.
        for n in 1.. {
            prune(&site).success();
            let edge = if n % 2 == 0 { "before" } else { "after" };
            let run = site.run(&["prune", "--yes", "--grace", "0s"]).env(CRASH_VARIABLE, format!("{n}:{edge}"));
            let outcome = run.run();
            assert!((2..=4).contains(&whole(&site)), "{kind:?}, step {n}");
            if outcome.code() == 0 {
                break;
            }
            assert_eq!(outcome.code(), -1, "{kind:?}, step {n}: {outcome}");
            killed += 1;
            points(&etcd, &site, 1);
        }
        prune(&site).success();
        prune(&site).success();
        assert_eq!(whole(&site), 2, "{kind:?}");
        let left = site.bucket().objects().into_keys().filter(|name| name.contains("/data/")).count();
        assert_eq!(left, 2, "{kind:?}: an object for each point, and none that nobody lists");
        assert!(killed >= 5, "{kind:?}: {killed}");
    }
}

#[test]
fn a_point_in_a_bucket_is_taken_back_and_held() {
    let etcd = Etcd::start();
    for kind in BUCKETS {
        let site = site(kind, &etcd);
        points(&etcd, &site, 4);
        let made = site.points();
        let condemned = prune(&site).success().json();
        assert_eq!(condemned["condemned"]["points"].as_array().unwrap().len(), 2, "{kind:?}");
        site.holdfast(&["undelete", &made[0]]).success();
        site.holdfast(&["hold", &made[0], "--reason", "before the upgrade"]).success();
        let deleted = prune(&site).success().json();
        assert_eq!(deleted["deleted"]["points"][0], made[1].as_str(), "{kind:?}");
        assert_eq!(site.points(), [&made[0][..], &made[2], &made[3]], "{kind:?}");
        assert_eq!(whole(&site), 3, "{kind:?}");
    }
}
