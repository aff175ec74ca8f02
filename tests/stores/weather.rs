//! Bad weather: whatever the network and the provider do, a point that is visible afterwards restores, nothing visible is
//! lost, and memory stays flat. Each storm is seeded, and is shown to have been one.

use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::join_all;
use holdfast::base::error::Kind as ErrorKind;
use holdfast::vault::layout::{Attempt, Location, folder};
use holdfast::vault::repository::{Listed, Repository};
use std::time::{Duration, Instant};

use crate::points::state;
use crate::site::{BUCKETS, Kind, Site};
use crate::support::bucket::Flaw;
use crate::support::etcd::Etcd;
use crate::support::load;
use crate::support::weather::Weather;

/// A quarter of the requests fail, nearly a third are throttled, replies are lost, connections reset.
fn storm(seed: u64) -> Weather {
    Weather {
        errors: 250,
        throttling: 300,
        resets: 30,
        lost_replies: 60,
        cut: 30,
        corrupt_down: 10,
        seed,
        ..Weather::default()
    }
}

/// A cluster with a few objects' worth of state.
fn cluster() -> Etcd {
    let etcd = Etcd::start();
    load::fill(&etcd, 7, 0, 1_500);
    etcd
}

/// Fails unless every visible point verifies at level 3; how many there are.
#[track_caller]
fn all_verify(site: &Site) -> usize {
    let points = site.points().len();
    if points > 0 {
        site.holdfast(&["verify", "--level", "3"]).success();
    }
    points
}

#[tokio::test]
async fn a_storm_loses_nothing_doubles_nothing_and_alters_nothing() {
    for kind in BUCKETS {
        let site = Site::new(kind);
        let repository = Repository::create_or_open(&site.options()).await.unwrap();
        // Only a bucket that checks uploads can be trusted with altered ones.
        let corrupt_up = if kind == Kind::S3 { 0 } else { 30 };
        site.proxy().set(Weather { corrupt_up, corrupt_down: 0, ..storm(11) });
        let objects: Vec<(Location, Bytes)> = (0..60_u8)
            .map(|n| (Location::Probe(Attempt::random().unwrap()), Bytes::from(vec![n; 100 + usize::from(n) * 1000])))
            .collect();
        let puts = objects.iter().map(|(at, content)| repository.put_new(at, content.clone()));
        for result in join_all(puts).await {
            result.unwrap();
        }
        let gets = objects.iter().map(|(at, content)| repository.get(at, content.len() as u64));
        for (got, (_, content)) in join_all(gets).await.into_iter().zip(&objects) {
            assert!(got.unwrap() == *content, "{kind:?}");
        }
        let listed: Vec<Listed> = repository.list(folder::PROBE).try_collect().await.unwrap();
        assert_eq!(listed.len(), objects.len(), "{kind:?}");
        for fault in ["error", "throttled", "reset", "lost reply", "cut"] {
            assert!(site.proxy().count(fault) > 0, "{kind:?}: no {fault} struck");
        }
        assert!(kind == Kind::S3 || site.proxy().count("corrupt up") > 0, "{kind:?}");
    }
}

#[test]
fn backups_in_a_storm_are_whole_when_they_are_visible() {
    let etcd = cluster();
    for kind in [Kind::S3, Kind::Google] {
        let site = Site::new(kind);
        site.policy(&etcd.policy_table("prod"));
        let mut struck = 0;
        for seed in 0..2 {
            load::fill(&etcd, 20 + seed, seed * 10, seed * 10 + 10);
            site.proxy().set(storm(seed));
            let outcome = site.holdfast(&["backup", "-o", "json"]).success();
            assert!(outcome.peak_rss_bytes < 256 << 20, "{kind:?}: {} bytes of memory", outcome.peak_rss_bytes);
            struck +=
                ["error", "throttled", "reset", "lost reply", "cut"].map(|f| site.proxy().count(f)).iter().sum::<u64>();
        }
        assert!(struck > 20, "{kind:?}: only {struck} faults struck");
        // Reading in the storm, too: what comes wrong is asked for again.
        site.proxy().set(Weather { corrupt_down: 100, ..storm(9) });
        let restored = site.text("restored.db");
        site.holdfast(&["restore", "--point", "latest", "--etcd-snapshot", &restored, "--bump", "none", "--yes"])
            .success();
        assert!(site.proxy().count("corrupt down") > 0, "{kind:?}");
        site.proxy().set(Weather::default());
        assert_eq!(all_verify(&site), 2, "{kind:?}");
        let back = Etcd::options().restored_from(&restored).start();
        assert!(state(&back) == state(&etcd), "{kind:?}");
    }
}

#[test]
fn credentials_lost_half_way_leave_a_whole_point_or_none() {
    let etcd = cluster();
    for kind in [Kind::StrictS3, Kind::Google] {
        let site = Site::new(kind);
        site.policy(&etcd.policy_table("prod"));
        site.holdfast(&["backup"]).success();
        let (mut failed, mut visible, mut succeeded) = (0, 1, false);
        for from in [0, 1, 3, 6, 8, 10, 12, 14, 16, 20, 30] {
            load::fill(&etcd, 100 + from, 0, 2);
            site.proxy().set(Weather { denied_from: Some(from), ..Weather::default() });
            let outcome = site.holdfast(&["backup"]);
            let denied = site.proxy().count("denied");
            site.proxy().set(Weather::default());
            let points = site.points().len();
            assert!(points == visible || points == visible + 1, "{kind:?}: nothing visible is lost");
            visible = points;
            if denied > 0 && outcome.code() != 0 && outcome.code() != 5 {
                failed += 1;
                assert!(outcome.stderr.contains("answered 403"), "{kind:?} {from}: {outcome}");
                assert!(outcome.stderr.contains("hint: allow s"), "{kind:?} {from}: {outcome}");
            }
            succeeded |= denied == 0 && outcome.code() == 0;
        }
        assert!(failed >= 6 && succeeded, "{kind:?}: {failed} backups failed");
        assert_eq!(all_verify(&site), visible, "{kind:?}");
    }
}

#[test]
fn an_outage_is_waited_for_and_then_said_and_is_never_no_data() {
    let etcd = cluster();
    for kind in [Kind::S3, Kind::Google] {
        let mut site = Site::new(kind);
        site.patience = Duration::from_millis(800);
        site.policy(&etcd.policy_table("prod"));
        site.holdfast(&["backup"]).success();
        site.proxy().set(Weather { down: true, ..Weather::default() });
        for args in [&["backup"][..], &["list"], &["verify"], &["show", "latest"]] {
            let outcome = site.holdfast(args).exits(1);
            assert!(outcome.stderr.contains("given up after"), "{kind:?}: {outcome}");
            assert!(outcome.stderr.contains("check the network"), "{kind:?}: {outcome}");
            assert!(outcome.elapsed < Duration::from_secs(8), "{kind:?}: {outcome}");
        }
        site.proxy().set(Weather::default());
        assert_eq!(all_verify(&site), 1, "{kind:?}");
        // A short one is only waited for.
        site.patience = Duration::from_secs(30);
        site.policy(&etcd.policy_table("prod"));
        std::thread::scope(|scope| {
            site.proxy().set(Weather { down: true, ..Weather::default() });
            let backup = scope.spawn(|| site.holdfast(&["backup"]));
            crate::support::run::wait_until("the outage is met", Duration::from_secs(20), || {
                site.proxy().count("down") > 2
            });
            site.proxy().set(Weather::default());
            backup.join().unwrap().success();
        });
        assert_eq!(all_verify(&site), 2, "{kind:?}");
    }
}

#[test]
fn an_empty_or_denied_listing_is_never_taken_for_no_data() {
    let etcd = Etcd::start();
    load::fill(&etcd, 7, 0, 3);
    for kind in [Kind::StrictS3, Kind::Google] {
        let site = Site::new(kind);
        site.policy(&etcd.policy_table("prod"));
        site.holdfast(&["backup"]).success();
        let before = site.bucket().objects();
        for (flaw, says) in [(Flaw::ListsNothing, "its listing shows nothing"), (Flaw::Denies("LIST"), "AccessDenied")]
        {
            site.bucket().set(&[flaw]);
            for args in [&["backup"][..], &["list"], &["verify"]] {
                let outcome = site.holdfast(args).exits(1);
                assert!(outcome.stderr.contains(says), "{kind:?}: {outcome}");
            }
        }
        assert!(site.bucket().objects() == before, "{kind:?}: nothing was written");
        site.bucket().set(&[]);
        assert_eq!(all_verify(&site), 1, "{kind:?}");
    }
}

#[tokio::test]
async fn a_silent_connection_is_given_up_and_a_slow_one_is_not() {
    for kind in [Kind::StrictS3, Kind::Google] {
        let site = Site::new(kind);
        let repository = Repository::create_or_open(&site.options()).await.unwrap();
        site.proxy().set(Weather { silent: 300, seed: 4, ..Weather::default() });
        let content = Bytes::from(vec![7; 200_000]);
        for _ in 0..6 {
            let at = Location::Probe(Attempt::random().unwrap());
            repository.put_new(&at, content.clone()).await.unwrap();
        }
        assert!(site.proxy().count("silent") > 0, "{kind:?}");
        // Slower than the silence that is allowed, but never silent for so long.
        let mut options = site.options();
        options.bucket.said.limit_upload = Some(100_000);
        site.proxy().set(Weather::default());
        let repository = Repository::open(&options).await.unwrap();
        let started = Instant::now();
        repository.put_new(&Location::Probe(Attempt::random().unwrap()), content.clone()).await.unwrap();
        assert!(started.elapsed() > Duration::from_millis(1_500), "{kind:?}: {:?}", started.elapsed());
        assert_eq!(site.proxy().count("PUT"), 1, "{kind:?}: the slow upload was one");
    }
}

#[tokio::test]
async fn limits_hold_in_both_directions_for_all_requests_together() {
    let site = Site::new(Kind::StrictS3);
    let mut options = site.options();
    (options.bucket.said.limit_upload, options.bucket.said.limit_download) = (Some(400_000), Some(400_000));
    let repository = Repository::create_or_open(&options).await.unwrap();
    let objects: Vec<Location> = (0..4).map(|_| Location::Probe(Attempt::random().unwrap())).collect();
    let content = Bytes::from(vec![7; 150_000]);
    // Four at once share one limit: 600,000 bytes at 400,000 a second.
    let started = Instant::now();
    join_all(objects.iter().map(|at| repository.put_new(at, content.clone())))
        .await
        .into_iter()
        .for_each(|r| assert!(r.is_ok()));
    assert!(started.elapsed() > Duration::from_millis(1_200), "{:?}", started.elapsed());
    let started = Instant::now();
    join_all(objects.iter().map(|at| repository.get(at, 150_000))).await.into_iter().for_each(|r| assert!(r.is_ok()));
    assert!(started.elapsed() > Duration::from_millis(1_200), "{:?}", started.elapsed());
    let error = repository.get(&Location::Probe(Attempt::random().unwrap()), 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}
