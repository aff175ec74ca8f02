//! Many small keys: the whole way, with the memory of each command.
//!
//! What a command holds does not grow with the bytes of a state, but with the number of its keys: fingerprints of 16 bytes
//! tell which version of a key is its newest. docs/performance.md has the figures for three million keys, which
//! `HOLDFAST_TEST_KEYS=3000000 cargo test --test e2e many` prints.

use holdfast::base::rng::Seeded;
use holdfast::snapshot::bbolt::shape::Sizes;
use holdfast::snapshot::bbolt::write::Writer;
use holdfast::snapshot::entry::{KEY, RevisionKey};
use holdfast::snapshot::record::Rev;
use std::fs::File;
use std::io::{BufWriter, Seek, Write};
use std::time::Duration;

use crate::place::Place;
use crate::support::run::Outcome;

/// Sets another number of keys.
const KEYS_VARIABLE: &str = "HOLDFAST_TEST_KEYS";
const KEYS: u64 = 300_000;
/// No command may hold more at this number of keys.
const MEMORY_BYTES: u64 = 256 << 20;

/// Values of noise in a state that does not compress, and bytes of each.
const NOISE: u64 = 250;
const NOISE_BYTES: u64 = 1 << 20;
/// What packs it or reads it ahead may hold: src/vault/get.rs reckons 192 MiB at most, and the program itself takes some.
const NOISE_MEMORY_BYTES: u64 = (192 + 32) << 20;
/// A restore builds a file beside that.
const NOISE_RESTORE_BYTES: u64 = (240 + 16) << 20;

fn small(n: u64) -> Vec<u8> {
    format!("{:x>64}", n * 7919).into_bytes()
}

fn noise(n: u64) -> Vec<u8> {
    let mut rng = Seeded::new(n);
    (0..NOISE_BYTES / 8).flat_map(|_| rng.bits().to_be_bytes()).collect()
}

/// `mvccpb.KeyValue`, as Go's protobuf writes it.
fn key_value(n: u64, main: u64, version: u64, value: &[u8]) -> Vec<u8> {
    fn number(stored: &mut Vec<u8>, tag: u8, mut n: u64) {
        stored.push(tag);
        while n >= 0x80 {
            stored.push(u8::try_from(n & 0x7f).unwrap() | 0x80);
            n >>= 7;
        }
        stored.push(u8::try_from(n).unwrap());
    }
    let key = format!("/registry/configmaps/namespace-{:03}/name-{n:09}", n % 1000);
    let mut stored = vec![];
    number(&mut stored, 0x0a, key.len() as u64);
    stored.extend_from_slice(key.as_bytes());
    number(&mut stored, 0x10, n + 2);
    number(&mut stored, 0x18, main);
    number(&mut stored, 0x20, version);
    number(&mut stored, 0x2a, value.len() as u64);
    stored.extend_from_slice(value);
    stored
}

/// Writes an etcd file of `keys` keys, the first `changed` of which were written twice; its path.
fn file_of(place: &Place, name: &str, keys: u64, changed: u64, value: fn(u64) -> Vec<u8>) -> String {
    let sizes = Sizes::default();
    let mut file = BufWriter::new(File::create(place.path(name)).unwrap());
    file.write_all(&vec![0; 2 * sizes.page]).unwrap();
    let mut sink = |chunk: &[u8]| {
        file.write_all(chunk).unwrap();
        Ok(())
    };
    let mut writer = Writer::start(sizes, &mut sink).unwrap();
    let again = (0..changed).map(|n| (n, keys + 2 + n, 2));
    for (n, main, version) in (0..keys).map(|n| (n, n + 2, 1)).chain(again) {
        let rev = Rev { main: i64::try_from(main).unwrap(), sub: 0 };
        let key = RevisionKey::new(rev, false);
        writer.put(key.as_bytes(), &key_value(n, main, version, &value(n)), &mut sink).unwrap();
    }
    writer.end_bucket(KEY, 0, &mut sink).unwrap();
    let head = writer.finish(&mut sink).unwrap();
    file.rewind().unwrap();
    file.write_all(&head.bytes).unwrap();
    file.flush().unwrap();
    place.text(name)
}

#[test]
fn a_state_of_many_keys_goes_the_whole_way_within_memory() {
    let told = std::env::var(KEYS_VARIABLE).ok();
    let keys: u64 = told.as_ref().map_or(KEYS, |told| told.parse().unwrap());
    let place = Place::new();
    let (old, new) = (file_of(&place, "old.db", keys, 0, small), file_of(&place, "new.db", keys, keys / 300, small));
    let url = place.url();
    let at = ["--repository", &url, "--cluster", "prod"];
    let run = |args: &[&str]| -> Outcome {
        let outcome = place.run(args).limit(Duration::from_mins(10)).run();
        if told.is_some() {
            let peak = outcome.peak_rss_bytes;
            let (mib, each, args) = (peak >> 20, peak / keys, args[..2].join(" "));
            let _ = writeln!(std::io::stderr(), "{args}: {mib} MiB, {each} bytes a key, {:.1?}", outcome.elapsed);
        }
        assert!(outcome.peak_rss_bytes < MEMORY_BYTES || told.is_some(), "{} bytes: {outcome}", outcome.peak_rss_bytes);
        outcome
    };
    let point = |args: &[&str]| run(&[args, &at].concat());
    let imported = point(&["import", &new, "-o", "json"]).success().json();
    assert_eq!(imported["imported"][0]["live_keys"], keys);
    point(&["verify", "latest", "--level", "3"]).success();
    let restored = place.text("out/r.db");
    point(&["restore", "--etcd-snapshot", &restored, "--yes"]).success();
    run(&["restore", "--file", &new, "--etcd-snapshot", "out/f.db", "--yes"]).success();
    let hash = |file: &str| run(&["hashkv", file, "-o", "json"]).success().json();
    assert_eq!(hash(&restored), hash(&new));
    let status = run(&["snapshot", "status", &restored, "-o", "json"]).success().json();
    assert_eq!(status["liveKeys"], keys);
    let diff = run(&["diff", &old, &restored, "-o", "json"]).success().json();
    assert_eq!((&diff["changed"], &diff["unchanged"]), (&(keys / 300).into(), &(keys - keys / 300).into()));
    let same = point(&["diff", "latest", &restored, "-o", "json"]).success().json();
    assert_eq!((&same["unchanged"], &same["differences"]), (&keys.into(), &serde_json::json!([])));
    let listed = point(&["keys", "ls", "/registry/configmaps/namespace-007/"]).success().stdout();
    assert_eq!(listed.lines().count() as u64, 1 + keys / 1000);
    let first = point(&["keys", "ls", "--limit", "3", "-o", "json"]).success().json();
    assert_eq!((&first["matched"], first["keys"].as_array().unwrap().len()), (&keys.into(), 3));
    assert_eq!(first["keys"][0]["key"], "/registry/configmaps/namespace-000/name-000000000");
    let kinds = point(&["keys", "ls", "--by-kind", "-o", "json"]).success().json();
    assert_eq!(kinds["kinds"][0]["objects"], keys);
    point(&["keys", "get", "/registry/configmaps/namespace-001/name-000000001"]).success();
    // All of them: listed as long as there are not too many, refused with a way out otherwise.
    let all = point(&["keys", "ls"]);
    if all.code() == 0 {
        let listed = all.stdout();
        assert_eq!(listed.lines().count() as u64, 1 + keys);
        assert!(listed.lines().skip(2).is_sorted(), "in order");
    } else {
        let all = all.exits(2);
        assert!(keys > KEYS && all.stderr.contains("too many") && all.stderr.contains("--limit"), "{all}");
    }
}

/// Nothing compresses, so every buffer is as large as it gets. What is held is what is read ahead, and not what the
/// allocator kept of earlier buffers.
#[test]
fn a_state_of_noise_goes_the_whole_way_within_memory() {
    let place = Place::new();
    let file = file_of(&place, "noise.db", NOISE, 0, noise);
    let url = place.url();
    let at = ["--repository", &url, "--cluster", "prod"];
    let run = |args: &[&str], bytes_max: u64| {
        let outcome = place.run(&[args, &at].concat()).limit(Duration::from_mins(2)).run().success();
        assert!(outcome.peak_rss_bytes < bytes_max, "{} bytes: {outcome}", outcome.peak_rss_bytes);
        outcome
    };
    let imported = run(&["import", &file, "-o", "json"], NOISE_MEMORY_BYTES).json();
    assert!(imported["imported"][0]["stored_bytes"].as_u64().unwrap() > NOISE * NOISE_BYTES, "{imported}");
    run(&["verify", "latest", "--level", "3"], NOISE_MEMORY_BYTES);
    run(&["restore", "--etcd-snapshot", &place.text("r.db"), "--yes"], NOISE_RESTORE_BYTES);
}
