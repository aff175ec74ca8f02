//! The two real etcd files: every recorded fact of tests/fixtures/etcd, and the way through records and back.

use std::collections::BTreeMap;

use holdfast::base::digest::Sha256;
use holdfast::base::stop::Stop;
use holdfast::snapshot::bbolt::read::{Db, split_trailer};
use holdfast::snapshot::bbolt::records::Source;
use holdfast::snapshot::bbolt::shape::Sizes;
use holdfast::snapshot::bbolt::status::status;
use holdfast::snapshot::bbolt::write::Plan;
use holdfast::snapshot::decode::Records;
use holdfast::snapshot::hash::Scope;
use holdfast::snapshot::proof::{Proof, Prover};
use holdfast::snapshot::record::{KeyValue, Record};
use holdfast::snapshot::verify::Verifier;

use crate::files::{build, encode, entries, fixture};

/// What is known of a file, from the tools of the etcd that wrote it.
struct Known {
    name: &'static str,
    hash: u32,
    revision: i64,
    total_key: u64,
    total_size: u64,
    hash_kv: u32,
    compact_revision: i64,
    live_keys: u64,
}

const KNOWN: [Known; 2] = [
    Known {
        name: "k8s-etcd-3.6.db",
        hash: 1_133_217_871,
        revision: 1677,
        total_key: 1520,
        total_size: 1_441_792,
        hash_kv: 2_801_650_115,
        compact_revision: 900,
        live_keys: 700,
    },
    Known {
        name: "etcd-3.5-auth.db",
        hash: 117_753_579,
        revision: 71,
        total_key: 91,
        total_size: 40960,
        hash_kv: 840_799_827,
        compact_revision: 30,
        live_keys: 41,
    },
];

fn prove(file: &[u8]) -> Proof {
    let db = Db::open(file).unwrap();
    let source = Source::open(&db).unwrap();
    let facts = source.facts().clone();
    let mut prover = Prover::new(Scope { revision: facts.revision, compact_revision: facts.compact_revision }, 1);
    let descriptor = source.descriptor(Default::default(), Default::default());
    source.newest_first(&descriptor, &mut |batch| prover.batch(batch)).unwrap();
    prover.finish()
}

#[test]
fn hashes_and_counts_are_those_of_etcds_own_tools() {
    for known in KNOWN {
        let file = fixture(known.name);
        let (len, trailer) = split_trailer(file.len() as u64);
        let len = usize::try_from(len).unwrap();
        assert!(trailer);
        assert_eq!(Sha256::of(&file[..len]).0, file[len..], "{}", known.name);

        let db = Db::open(&file[..]).unwrap();
        let status = status(&db, &Stop::new()).unwrap();
        let found = (status.hash, status.revision, status.total_key, status.total_size);
        assert_eq!(found, (known.hash, known.revision, known.total_key, known.total_size), "{}", known.name);

        let proof = prove(&file);
        assert_eq!(proof.scope, Scope { revision: known.revision, compact_revision: known.compact_revision });
        assert_eq!(proof.hash_kv, known.hash_kv, "{}", known.name);
        assert_eq!(proof.counts.live_keys, known.live_keys, "{}", known.name);
        assert!(proof.any_alive);
    }
}

#[test]
fn live_keys_are_those_the_restored_etcd_listed() {
    let file = fixture("k8s-etcd-3.6.db");
    let listed = String::from_utf8(fixture("k8s-etcd-3.6.keys.tsv")).unwrap();
    let mut live: BTreeMap<Vec<u8>, String> = BTreeMap::new();
    for block in encode(&file).unwrap() {
        for record in Records::of(&block.bytes) {
            let Record::Revision(revision) = record.unwrap() else { continue };
            let kv = KeyValue::parse(revision.stored).unwrap();
            if revision.tombstone {
                live.remove(kv.key);
            } else {
                let KeyValue { mod_revision, create_revision, version, lease, value, .. } = kv;
                let digest = Sha256::of(value);
                let head = format!("{mod_revision}\t{create_revision}\t{version}\t{lease}");
                live.insert(kv.key.to_vec(), format!("{head}\t{}\t{digest}", value.len()));
            }
        }
    }
    let ours: Vec<_> = live.iter().map(|(key, facts)| format!("{facts}\t{}", String::from_utf8_lossy(key))).collect();
    let theirs: Vec<_> = listed.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit())).collect();
    assert_eq!(ours.len(), 700);
    assert_eq!(ours, theirs);
}

#[test]
fn the_way_through_records_and_back_loses_nothing() {
    for known in KNOWN {
        let file = fixture(known.name);
        let before = entries(&file).unwrap();
        let blocks = encode(&file).unwrap();
        let proof = prove(&file);
        for (page, leaf) in [(4096, 8 * 4096), (1024, 1024), (1024, 4096), (16384, 65536)] {
            let copy = build(&blocks, Sizes { page, leaf }).unwrap();
            assert!(entries(&copy).unwrap() == before, "{} at page {page}, leaf {leaf}", known.name);
            assert_eq!(prove(&copy), proof);
            assert_eq!(encode(&copy).unwrap().len(), blocks.len());
        }
    }
}

#[test]
fn a_plan_from_lengths_knows_the_head() {
    for known in KNOWN {
        let file = fixture(known.name);
        for (page, leaf) in [(4096, 8 * 4096), (1024, 1024)] {
            let sizes = Sizes { page, leaf };
            let copy = build(&encode(&file).unwrap(), sizes).unwrap();
            // In the order the builder writes: leases, history, then the small buckets by name.
            let all = entries(&copy).unwrap();
            let mut names: Vec<_> = all.iter().map(|entry| entry.0.clone()).collect();
            names.dedup();
            names.sort_by_key(|name| match &name[..] {
                b"lease" if all.iter().any(|e| e.0 == b"lease" && e.2.is_some()) => (0, vec![]),
                b"key" => (1, vec![]),
                _ => (2, name.clone()),
            });
            let mut plan = Plan::new(sizes);
            for name in names {
                for (_, _, key, value) in all.iter().filter(|entry| entry.0 == name) {
                    if let Some(key) = key {
                        plan.put(key, value.len());
                    }
                }
                plan.end_bucket(&name);
            }
            let head = plan.head();
            assert_eq!(head.file_bytes, copy.len() as u64);
            assert!(copy.starts_with(&head.bytes), "{} at page {page}", known.name);
        }
    }
}

#[test]
fn a_stream_is_verified_newest_batch_first() {
    for known in KNOWN {
        let blocks = encode(&fixture(known.name)).unwrap();
        let mut verifier = Verifier::new(known.compact_revision, 0);
        for block in blocks.iter().rev() {
            let records: Vec<_> = Records::of(&block.bytes).map(Result::unwrap).collect();
            verifier.batch(&records, &block.bytes).unwrap();
        }
        let summary = verifier.finish().unwrap();
        assert_eq!((summary.revision, summary.compact_revision), (known.revision, known.compact_revision));
    }
}

#[test]
fn a_revision_that_is_there_twice_is_damage() {
    use holdfast::snapshot::bbolt::write::Writer;
    use holdfast::snapshot::entry::{KEY, RevisionKey};
    use holdfast::snapshot::record::Rev;
    let sizes = Sizes::default();
    let mut file = vec![0; 2 * sizes.page];
    let mut sink = |chunk: &[u8]| {
        file.extend_from_slice(chunk);
        Ok(())
    };
    let mut writer = Writer::start(sizes, &mut sink).unwrap();
    for tombstone in [false, true] {
        let key = RevisionKey::new(Rev { main: 2, sub: 0 }, tombstone);
        writer.put(key.as_bytes(), b"\x0a\x01k", &mut sink).unwrap();
    }
    writer.end_bucket(KEY, 0, &mut sink).unwrap();
    let head = writer.finish(&mut sink).unwrap();
    file[..head.bytes.len()].copy_from_slice(&head.bytes);
    assert!(encode(&file).unwrap_err().chain().contains("revision 2/0 is there twice"));
}
