//! `holdfast check` against good buckets and against buckets that are wrong in one way each.

use serde_json::Value;
use std::time::Duration;

use crate::site::{BUCKETS, Kind, Site};
use crate::support::bucket::Flaw;
use crate::support::run::Outcome;
use crate::support::weather::Weather;

const CLUSTER: &str = "[cluster]\nname = \"prod\"\nendpoints = [\"http://127.0.0.1:1\"]\n";

fn site(kind: Kind) -> Site {
    let site = Site::new(kind);
    site.policy(CLUSTER);
    site
}

fn check(outcome: &Outcome, name: &str) -> Value {
    let checks = outcome.json()["checks"].clone();
    let found = checks.as_array().unwrap().iter().find(|check| check["name"] == name);
    found.unwrap_or_else(|| panic!("no check {name:?} in {outcome}")).clone()
}

#[test]
fn good_buckets_keep_every_promise_and_nothing_stays_behind() {
    for kind in [Kind::StrictS3, Kind::Google] {
        let site = site(kind);
        let outcome = site.holdfast(&["check", "-o", "json"]).success();
        let names: Vec<String> =
            outcome.json()["checks"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap().into()).collect();
        let all =
            ["list", "create", "read back", "create once", "altered upload", "list after write", "clock", "delete"];
        assert_eq!(names, all, "{kind:?}");
        assert!(site.bucket().objects().is_empty(), "{kind:?}");
        let table = site.holdfast(&["check"]).success();
        assert!(table.stdout().contains("an upload that changed on the way was refused"), "{table}");
    }
}

#[test]
fn moto_takes_altered_uploads_and_that_is_a_warning() {
    let site = site(Kind::S3);
    let outcome = site.holdfast(&["check", "-o", "json"]).exits(5);
    let altered = check(&outcome, "altered upload");
    assert_eq!((&altered["ok"], &altered["required"]), (&Value::Bool(false), &Value::Bool(false)));
    assert_eq!(outcome.json()["ok"], true);
    let table = site.holdfast(&["check"]).exits(5);
    assert!(table.stderr.contains("https"), "{table}");
}

#[test]
fn a_flaw_is_found_and_named() {
    let flaws = [
        (Flaw::IgnoresConditions, "create once", 1, "two writers could overwrite each other"),
        (Flaw::IgnoresChecksums, "altered upload", 5, "verify new points"),
        (Flaw::ListsNothing, "list after write", 1, "listings show every object"),
        (Flaw::ClockAhead(Duration::from_hours(1)), "clock", 1, "correct the clock"),
        (Flaw::KeepsDeleted, "delete", 5, "cannot make room"),
    ];
    for kind in [Kind::StrictS3, Kind::Google] {
        for (flaw, name, code, says) in &flaws {
            let site = site(kind);
            site.bucket().set(std::slice::from_ref(flaw));
            let outcome = site.holdfast(&["check", "-o", "json"]).exits(*code);
            if *code == 5 {
                assert_eq!(check(&outcome, name)["ok"], false, "{kind:?} {flaw:?}");
            }
            let table = site.holdfast(&["check"]);
            assert!(table.stderr.contains(says), "{kind:?} {flaw:?}: {table}");
            let row = table.stdout().lines().find(|line| line.trim_start().starts_with(name)).unwrap().to_owned();
            assert!(row.contains(if *code == 5 { "warning" } else { "FAILED" }), "{kind:?} {flaw:?}: {table}");
        }
    }
}

#[test]
fn a_server_error_is_an_answer_to_an_altered_upload() {
    for kind in [Kind::StrictS3, Kind::Google] {
        for (flaw, code, said) in [
            (Flaw::FailsOnChecksums, 0, "refused, with a server error"),
            (Flaw::StoresAndFails, 5, "did not match its checksum"),
        ] {
            let mut site = site(kind);
            // What a backup would wait; a check does not.
            site.patience = Duration::from_mins(5);
            site.policy(CLUSTER);
            site.bucket().set(std::slice::from_ref(&flaw));
            site.proxy().set(Weather::default());
            let watch = std::time::Instant::now();
            let outcome = site.holdfast(&["check", "-o", "json"]).exits(code);
            let took = watch.elapsed();
            let detail = check(&outcome, "altered upload")["detail"].as_str().unwrap().to_owned();
            assert!(detail.contains(said), "{kind:?} {flaw:?}: {detail}");
            // One is created, two creates are refused, and the altered one is tried four times.
            assert_eq!(site.proxy().count("PUT"), 1 + 2 + 4, "{kind:?} {flaw:?}");
            assert!(took < Duration::from_secs(20), "{kind:?} {flaw:?}: {took:?}");
            assert!(site.bucket().objects().is_empty(), "{kind:?} {flaw:?}");
        }
    }
}

#[test]
fn a_missing_right_is_named_as_the_provider_calls_it() {
    let rights = [
        ("LIST", 1, "s3:ListBucket", "storage.objects.list"),
        ("PUT", 1, "s3:PutObject", "storage.objects.create"),
        ("GET", 1, "s3:GetObject", "storage.objects.get"),
        ("DELETE", 5, "s3:DeleteObject", "storage.objects.delete"),
    ];
    for (denied, code, s3, google) in rights {
        for (kind, right) in [(Kind::StrictS3, s3), (Kind::Google, google)] {
            let site = site(kind);
            site.bucket().set(&[Flaw::Denies(denied)]);
            let outcome = site.holdfast(&["check"]).exits(code);
            assert!(outcome.stderr.contains(&format!("allow {right}")), "{kind:?} {denied}: {outcome}");
        }
    }
}

#[test]
fn old_versions_are_pointed_out() {
    let site = site(Kind::StrictS3);
    site.bucket().set(&[Flaw::Versioned]);
    let outcome = site.holdfast(&["check", "-o", "json"]).success();
    assert!(check(&outcome, "versions")["detail"].as_str().unwrap().contains("lifecycle"), "{outcome}");
}

#[test]
fn a_missing_bucket_missing_keys_and_a_silent_server_are_told_apart() {
    for kind in BUCKETS {
        let mut site = site(kind);
        let policy = std::fs::read_to_string(site.path("policy.toml")).unwrap();
        let elsewhere = policy.replace("/some/folder", "-gone/some/folder");
        std::fs::write(site.path("policy.toml"), elsewhere).unwrap();
        let outcome = site.holdfast(&["check"]);
        assert!(outcome.code() != 0 && outcome.stderr.contains("NoSuchBucket"), "{kind:?}: {outcome}");
        assert!(outcome.stderr.contains("create the bucket"), "{kind:?}: {outcome}");
        site.patience = Duration::from_millis(500);
        site.policy(CLUSTER);
        site.proxy().set(Weather { silent: 1000, ..Weather::default() });
        let outcome = site.holdfast(&["check"]).exits(1);
        assert!(outcome.stderr.contains("was silent for 1.0 s"), "{kind:?}: {outcome}");
        site.proxy().set(Weather { down: true, ..Weather::default() });
        let outcome = site.holdfast(&["check"]).exits(1);
        assert!(outcome.stderr.contains("given up after"), "{kind:?}: {outcome}");
    }
    let site = site(Kind::StrictS3);
    let outcome = site.run(&["check"]).env("AWS_ACCESS_KEY_ID", "").env("AWS_SECRET_ACCESS_KEY", "").run().exits(1);
    assert!(outcome.stderr.contains("AWS_ACCESS_KEY_ID") && outcome.stderr.contains("no credentials"), "{outcome}");
}
