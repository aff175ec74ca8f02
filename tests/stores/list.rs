//! Ten thousand points: listed from names, with the details of the newest and of whatever was read before.

use holdfast::base::clock::parse_rfc3339;
use holdfast::base::digest::Sha256;
use holdfast::base::rng::Seeded;
use holdfast::vault::condemned::CondemnedList;
use holdfast::vault::sealed;
use std::fs;
use std::time::Duration;

use crate::site::{Kind, Site};
use crate::support::etcd::Etcd;
use crate::support::load;
use crate::support::run::Outcome;
use crate::support::weather::Weather;

const POINTS: usize = 10_000;
/// Points whose documents one list reads.
const FRESH: u64 = 250;

/// The objects of a repository with one point: names below its root, and contents.
fn one_point() -> Vec<(String, Vec<u8>)> {
    let etcd = Etcd::start();
    load::fill(&etcd, 7, 0, 20);
    let site = Site::new(Kind::StrictS3);
    site.policy(&etcd.policy_table("prod"));
    site.holdfast(&["backup"]).success();
    let objects = site.bucket().objects().into_iter();
    objects.map(|(name, content)| (name.strip_prefix("some/folder/").unwrap().to_owned(), content)).collect()
}

/// The same with ten thousand: manifests that differ in their attempt, each sealed anew.
fn many_points() -> Vec<(String, Vec<u8>)> {
    let mut objects = one_point();
    let (name, manifest) = objects.iter().find(|(name, _)| name.contains("/points/")).unwrap().clone();
    let manifest = String::from_utf8(manifest).unwrap();
    let attempt = name.rsplit_once('-').unwrap().1.strip_suffix(".json").unwrap();
    let checksum = manifest.lines().nth(1).unwrap().split('"').nth(3).unwrap().to_owned();
    let mut rng = Seeded::new(1);
    for _ in 1..POINTS {
        let other = format!("{:016x}", rng.bits());
        let open = manifest.replace(&checksum, &"0".repeat(64)).replace(attempt, &other);
        let sealed = open.replacen(&"0".repeat(64), &Sha256::of(open.as_bytes()).to_string(), 1);
        objects.push((name.replace(attempt, &other), sealed.into_bytes()));
    }
    objects
}

fn site(kind: Kind, objects: &[(String, Vec<u8>)]) -> Site {
    let site = Site::new(kind);
    site.policy("[cluster]\nname = \"prod\"\nendpoints = [\"http://127.0.0.1:1\"]\n");
    for (name, content) in objects {
        match &site.bucket {
            Some(bucket) => bucket.put(&format!("some/folder/{name}"), content),
            None => {
                let path = site.path("repository").join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, content).unwrap();
            }
        }
    }
    site
}

/// Rows, and how many of them have their details.
fn shown(outcome: &Outcome) -> (usize, usize) {
    let points = outcome.json()["points"].as_array().unwrap().clone();
    let complete = points.iter().filter(|point| point["complete"] == true && point["keys"].is_u64()).count();
    assert!(points.iter().all(|point| point["time"].is_string() && point["damage"].is_null()), "every row has a time");
    (points.len(), complete)
}

#[test]
fn ten_thousand_points_are_listed_from_names() {
    let objects = many_points();
    let fresh = usize::try_from(FRESH).unwrap();
    for (kind, limit) in [(Kind::Directory, Duration::from_secs(1)), (Kind::StrictS3, Duration::from_secs(3))] {
        let site = site(kind, &objects);
        let cold = site.holdfast(&["list", "-o", "json"]).success();
        eprintln!("{kind:?}: {POINTS} points listed in {:?}", cold.elapsed);
        assert_eq!(shown(&cold), (POINTS, fresh), "{kind:?}");
        assert!(cold.elapsed < limit, "{kind:?}: {:?}", cold.elapsed);
        // Each list learns more, and reads nothing twice.
        if kind == Kind::StrictS3 {
            let proxy = site.proxy();
            proxy.set(Weather::default());
            assert_eq!(shown(&site.holdfast(&["list", "-o", "json"]).success()), (POINTS, 2 * fresh));
            let reads = proxy.count("GET");
            assert!((FRESH..FRESH + 8).contains(&reads), "{reads} reads");
            // Ten pages of points, and a page each of what else there is.
            assert!(proxy.count("LIST") <= 16, "{} listings", proxy.count("LIST"));
        }
        let table = site.holdfast(&["list"]).success();
        assert!(table.stderr.contains("only the names were read"), "{}", table.stderr);
        if kind == Kind::StrictS3 {
            choosing_one_reads_few(&site);
        }
    }
}

/// Neither does a restore read all manifests to choose one, nor a list because something is condemned.
fn choosing_one_reads_few(site: &Site) {
    let proxy = site.proxy();
    for args in [&["restore", "--etcd-snapshot", "r.db", "--dry-run"][..], &["show"], &["export", "latest", "e.db"]] {
        proxy.set(Weather::default());
        site.holdfast(args).success();
        // The config, the lineage, the manifest, its verdict and first object, and a dozen for the rate of changes.
        assert!(proxy.count("GET") <= 20, "{args:?}: {} reads", proxy.count("GET"));
        assert!(proxy.count("LIST") <= 16, "{args:?}: {} listings", proxy.count("LIST"));
    }
    let newest = site.holdfast(&["show", "-o", "json"]).success().json();
    let object = newest["manifest"]["objects"][0]["name"].as_str().unwrap().to_owned();
    let created = parse_rfc3339("2026-05-15T02:00:00Z").unwrap();
    let list = CondemnedList { epoch: 1, n: 1, created, objects: vec![object], points: vec![] };
    let name = "some/folder/clusters/prod/condemned/00000001-00000001.json";
    site.bucket().put(name, &sealed::seal(&list).unwrap());
    proxy.set(Weather::default());
    site.holdfast(&["list"]).success();
    assert!(proxy.count("GET") <= FRESH + 8, "{} reads", proxy.count("GET"));
}

#[test]
fn the_cache_is_only_a_cache() {
    let objects = one_point();
    let site = site(Kind::StrictS3, &objects);
    let first = site.holdfast(&["list", "-o", "json"]).success().json();
    let proxy = site.proxy();
    proxy.set(Weather::default());
    assert_eq!(site.holdfast(&["list", "-o", "json"]).success().json(), first);
    assert_eq!(proxy.count("GET"), 2, "the config and the lineage; the manifest and the verdict are known");
    // Damaged, foreign, a folder, unwritable: as if there were none.
    let folder = fs::read_dir(site.path("cache/holdfast")).unwrap().next().unwrap().unwrap().path();
    let file = folder.join("prod.json");
    let whole = fs::read(&file).unwrap();
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    for content in [&flipped[..], &whole[..whole.len() / 2], b"", b"{}", b"\xff"] {
        fs::write(&file, content).unwrap();
        proxy.set(Weather::default());
        assert_eq!(site.holdfast(&["list", "-o", "json"]).success().json(), first);
        assert_eq!(proxy.count("GET"), 4, "the documents were read again");
        assert!(fs::read(&file).unwrap() == whole, "and are known again");
    }
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    assert_eq!(site.holdfast(&["list", "-o", "json"]).success().json(), first);
    fs::remove_dir(&file).unwrap();
    fs::write(&file, &whole).unwrap();
    // What is known is known of exactly that object: damage in the bucket is seen, and a verifier looks for itself.
    let (name, manifest) = objects.iter().find(|(name, _)| name.contains("/points/")).unwrap();
    let mut damaged = manifest.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    site.bucket().put(&format!("some/folder/{name}"), &damaged);
    let listed = site.holdfast(&["list", "-o", "json"]).exits(3).json();
    assert!(listed["points"][0]["damage"].as_str().unwrap().contains("checksum"), "{listed}");
    site.holdfast(&["verify", "--level", "1"]).exits(3);
}
