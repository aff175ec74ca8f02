//! Hostile files and streams of many tiny things: refused within the memory that any command may take.
//!
//! A thing of three bytes on disk costs a hundred in memory, so limits on bytes alone bound nothing.

use holdfast::snapshot::bbolt::shape::Sizes;
use holdfast::snapshot::bbolt::write::Writer;

use crate::damage::Stored;
use crate::place::Place;

/// No command may hold more, whatever it is given.
const MEMORY_BYTES: u64 = 256 << 20;
/// Raw bytes of an object at most.
const OBJECT_BYTES: usize = 32 << 20;

/// An etcd file with one bucket of `count` entries; `entry` makes the value of a name.
fn file_of(bucket: &[u8], count: u32, value: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let sizes = Sizes::default();
    let mut file = vec![0; 2 * sizes.page];
    let mut sink = |chunk: &[u8]| {
        file.extend_from_slice(chunk);
        Ok(())
    };
    let mut writer = Writer::start(sizes, &mut sink).unwrap();
    for n in 0..count {
        let name = n.to_be_bytes();
        writer.put(&name, &value(&name), &mut sink).unwrap();
    }
    writer.end_bucket(bucket, 0, &mut sink).unwrap();
    let head = writer.finish(&mut sink).unwrap();
    file[..head.bytes.len()].copy_from_slice(&head.bytes);
    file
}

#[test]
fn a_file_of_a_million_tiny_entries_is_refused_within_the_memory_of_any_command() {
    let place = Place::new();
    let user = |name: &[u8]| [&[0x0a, 4][..], name].concat();
    for (name, file) in [
        // Both within the limit on bytes.
        ("unknown.db", file_of(b"x", 1_500_000, |_| vec![])),
        ("users.db", file_of(b"authUsers", 1_200_000, user)),
    ] {
        let file = place.write(name, file);
        let url = place.url();
        for command in [
            &["snapshot", "status", &file][..],
            &["hashkv", &file],
            &["keys", "ls", "--file", &file],
            &["diff", &file, &file],
            &["restore", "--file", &file, "--etcd-snapshot", "out/r.db", "--yes"],
            &["import", &file, "--repository", &url, "--cluster", "prod"],
        ] {
            let outcome = place.run(command).run().exits(3);
            assert!(outcome.stderr.contains("more than 100000 entries"), "{outcome}");
            assert!(outcome.stderr.contains("\nhint: "), "{outcome}");
            // Far below what any command may take: nothing was gathered before it was refused.
            assert!(outcome.peak_rss_bytes < MEMORY_BYTES / 2, "{} bytes for {outcome}", outcome.peak_rss_bytes);
            place.assert_nothing_left();
        }
    }
}

/// As many copies of a record as an object holds, each with a number of its own in the place of `****`.
fn object_of(record: &[u8]) -> Vec<u8> {
    let mut raw = Vec::with_capacity(OBJECT_BYTES);
    let at = record.windows(4).position(|window| window == b"****");
    for n in 0..u32::try_from(OBJECT_BYTES / record.len()).unwrap() {
        let start = raw.len();
        raw.extend_from_slice(record);
        if let Some(at) = at {
            raw[start + at..start + at + 4].copy_from_slice(&n.to_be_bytes());
        }
    }
    raw
}

#[test]
fn an_object_of_millions_of_tiny_records_is_refused_within_the_memory_of_any_command() {
    let stored = Stored::new();
    let commands: &[&[&str]] = &[
        &["verify", "latest", "--level", "3"],
        &["restore", "--etcd-snapshot", "out/r.db", "--yes"],
        &["export", "latest", "out/e.db"],
    ];
    for record in [
        // Versions of the cluster, members without a word, buckets by name alone, entries of a bucket, users.
        &b"\x02\x22\x00"[..],
        b"\x02\x2a\x00",
        b"\x08\x12\x06\x0a\x04****",
        b"\x0b\x12\x09\x0a\x01x\x12\x04****",
        b"\x0a\x4a\x08\x0a\x06\x0a\x04****",
        // Leases: not gathered, but a million records of an object are.
        b"\x0a\x6a\x08\x0a\x06\x08\x01\x10\x02\x18\x03",
    ] {
        let raw = object_of(record);
        // `judge` holds each command to the memory it may take.
        stored.damaged(|| stored.replace_object(0, &raw, raw.len() as u64), 3, commands, &[]);
    }
}
