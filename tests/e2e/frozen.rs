//! Repositories as the first version of the format wrote them, frozen as files (tests/fixtures/repository-1): every document
//! and every point must be read by each later version as it was then.
//!
//! `plain` holds a full point that is held, two increments on it, one of them condemned, another full point, verdicts of
//! levels 1, 3 and 4, and a drill; `age` and `passphrase` a full point and an increment each. The cluster had a lease, a
//! user and a role. `facts.tsv` says what the cluster itself answered when they were made.

use holdfast::recovery::drill::report::Report;
use holdfast::vault::condemned::CondemnedList;
use holdfast::vault::epoch::Claim;
use holdfast::vault::hold::HoldDocument;
use holdfast::vault::layout::Location;
use holdfast::vault::lineage::LineageDocument;
use holdfast::vault::manifest::Manifest;
use holdfast::vault::repository::{Config, Encryption};
use holdfast::vault::sealed::{self, Document};
use holdfast::vault::verdict::Verdict;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::place::Place;

fn frozen() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/repository-1")
}

/// What is known of a point.
struct Fact {
    repository: String,
    point: String,
    kind: String,
    revision: i64,
    live_keys: u64,
    hash_kv: u64,
    state_digest: String,
}

fn facts() -> Vec<Fact> {
    let text = fs::read_to_string(frozen().join("facts.tsv")).unwrap();
    let fact = |line: &str| {
        let words: Vec<&str> = line.split('\t').collect();
        Fact {
            repository: words[0].to_owned(),
            point: words[1].to_owned(),
            kind: words[2].to_owned(),
            revision: words[3].parse().unwrap(),
            live_keys: words[4].parse().unwrap(),
            hash_kv: words[5].parse().unwrap(),
            state_digest: words[6].to_owned(),
        }
    };
    text.lines().skip(1).map(fact).collect()
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_all(&entry.path(), &target),
            false => fs::write(target, fs::read(entry.path()).unwrap()).unwrap(),
        }
    }
}

/// A copy of a frozen repository, and the arguments that read it.
fn thawed(name: &str) -> (Place, Vec<String>) {
    let place = Place::new();
    copy_all(&frozen().join(name), &place.repository());
    let key = |flag: &str, file: &str| vec![flag.to_owned(), frozen().join(file).display().to_string()];
    let keys = match name {
        "age" => key("--identity", "age.key"),
        "passphrase" => key("--passphrase-file", "passphrase.txt"),
        _ => vec![],
    };
    let at = ["--repository", &place.url(), "--cluster", "prod", "-o", "json"].map(str::to_owned).to_vec();
    (place, [at, keys].concat())
}

fn read<D: Document>(path: &str, bytes: &[u8]) -> D {
    sealed::open(path, bytes).unwrap()
}

/// Reads a document as what its path says it is; which kind that is, and something that it says.
fn kind_of(path: &str, bytes: &[u8]) -> (&'static str, String) {
    match Location::parse(path).unwrap() {
        Location::Config(n) => {
            let config: Config = read(path, bytes);
            assert_eq!(config.n, n);
            let said = match config.encryption {
                Encryption::Plain(_) => "plain".to_owned(),
                Encryption::Age(age) => format!("{} wrapped: {}", age.recipients.len(), age.wrapped_identity.is_some()),
                Encryption::Unknown(other) => panic!("{other}"),
            };
            ("config", said)
        }
        Location::Lineage(..) => ("lineage", read::<LineageDocument>(path, bytes).reason),
        Location::Point(name) => {
            let manifest: Manifest = read(path, bytes);
            manifest.validate(&name).unwrap();
            ("manifest", format!("{} of {} segments", manifest.kind, manifest.segments.len()))
        }
        Location::Verdict(.., level) => {
            let verdict: Verdict = read(path, bytes);
            assert_eq!(verdict.level, level);
            ("verdict", format!("level {level}, {:?}", verdict.result))
        }
        Location::Hold(..) => ("hold", read::<HoldDocument>(path, bytes).reason.unwrap_or_default()),
        Location::Epoch(..) => ("epoch", format!("{}", read::<Claim>(path, bytes).epoch)),
        Location::Condemned(..) => ("condemned", format!("{}", read::<CondemnedList>(path, bytes).points.len())),
        Location::Drill(..) => ("drill", format!("{:?}", read::<Report>(path, bytes).outcome)),
        other => panic!("{other} is no document"),
    }
}

#[test]
fn every_document_of_the_first_format_is_read() {
    let mut said: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for name in ["plain", "age", "passphrase"] {
        let (place, _) = thawed(name);
        for path in place.tree("repository").into_keys().filter(|path| !path.contains("/data/")) {
            let (kind, words) = kind_of(&path, &fs::read(place.repository().join(&path)).unwrap());
            said.entry(kind).or_default().push(words);
        }
    }
    let all = |kind: &str| said[kind].iter().map(String::as_str).collect::<Vec<_>>();
    // One that is missing here was not frozen, or is not read any more.
    assert_eq!(
        said.keys().copied().collect::<Vec<_>>(),
        ["condemned", "config", "drill", "epoch", "hold", "lineage", "manifest", "verdict"]
    );
    assert_eq!(all("config"), ["plain", "1 wrapped: false", "1 wrapped: true"]);
    assert_eq!((all("condemned"), all("epoch"), all("hold")), (vec!["1"], vec!["1"], vec!["before the upgrade"]));
    assert_eq!(all("lineage").len(), 3);
    assert_eq!(all("drill"), ["Passed"]);
    for (kind, words, times) in [
        ("manifest", "full of 1 segments", 4),
        ("manifest", "incremental of 2 segments", 3),
        ("manifest", "incremental of 3 segments", 1),
        ("verdict", "level 1, Ok", 8),
        ("verdict", "level 3, Ok", 1),
        ("verdict", "level 4, Ok", 1),
    ] {
        assert_eq!(all(kind).iter().filter(|said| **said == words).count(), times, "{kind}: {words}");
    }
}

#[test]
fn every_point_of_the_first_format_is_proved_and_restored() {
    let facts = facts();
    assert_eq!(facts.len(), 8);
    for name in ["plain", "age", "passphrase"] {
        let (place, at) = thawed(name);
        let run = |args: &[&str]| place.run(args).args(&at).run();
        let listed = run(&["list"]).success().json();
        let points: Vec<&Fact> = facts.iter().filter(|fact| fact.repository == name).collect();
        for (row, fact) in listed["points"].as_array().unwrap().iter().zip(&points) {
            assert_eq!((&row["id"], &row["kind"]), (&fact.point.clone().into(), &fact.kind.clone().into()));
            assert_eq!((&row["revision"], &row["keys"]), (&fact.revision.into(), &fact.live_keys.into()));
        }
        let verdicts = run(&["verify", "--level", "3"]).success().json();
        assert_eq!(verdicts["verdicts"].as_array().unwrap().len(), points.len());
        for fact in points {
            let file = format!("out/{}.db", fact.point);
            let restored =
                run(&["restore", "--point", &fact.point, "--etcd-snapshot", &file, "--yes"]).success().json();
            let report = &restored["report"];
            assert_eq!(report["hash_kv"], fact.hash_kv, "{name} {}: {report}", fact.point);
            assert_eq!(report["state_digest"], fact.state_digest, "{report}");
            assert_eq!(report["revision"], fact.revision, "{report}");
        }
    }
}

#[test]
fn what_keeps_and_condemns_points_of_the_first_format_still_does() {
    let (place, at) = thawed("plain");
    let run = |args: &[&str]| place.run(args).args(&at).run();
    let listed = run(&["list"]).success().json();
    let noted = |field: &str| {
        let noted = |row: &&Value| row[field] == true;
        listed["points"].as_array().unwrap().iter().filter(noted).map(|row| row["revision"].clone()).collect::<Vec<_>>()
    };
    assert_eq!((noted("condemned"), noted("held")), (vec![10.into()], vec![7.into()]), "{listed}");
    run(&["undelete", "2a75807b"]).success();
    let listed = run(&["list"]).success().json();
    assert!(listed["points"].as_array().unwrap().iter().all(|row| row["condemned"] == false), "{listed}");
    let shown = run(&["show", "latest~1"]).success().json();
    assert_eq!(shown["verdict"]["level"], 4, "{shown}");
}
