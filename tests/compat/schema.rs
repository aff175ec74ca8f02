//! The record codec is written by hand; the schema is what others read records with. Both must say the same.

use holdfast::api::records as schema;
use holdfast::api::records::record::Fact;
use holdfast::base::digest::Sha256;
use holdfast::base::id::EtcdId;
use holdfast::snapshot::decode::Records;
use holdfast::snapshot::encode::Encoder;
use holdfast::snapshot::hash::StateDigest;
use holdfast::snapshot::record::{Compacted, Descriptor, End, Extra, FORMAT, KeptRun, Record, Rev, Revision};
use prost::Message;

use crate::files::{encode, fixture};

/// What prost reads: the records of `bytes`, and the same written again by prost.
fn by_schema(mut bytes: &[u8]) -> (Vec<Fact>, Vec<u8>) {
    let (mut facts, mut again) = (vec![], vec![]);
    while !bytes.is_empty() {
        let record = schema::Record::decode_length_delimited(&mut bytes).unwrap();
        record.encode_length_delimited(&mut again).unwrap();
        facts.push(record.fact.expect("every record holds one fact"));
    }
    (facts, again)
}

/// One record of every kind, with values that show a mistaken field, sign or default.
fn every_kind() -> Vec<Record<'static>> {
    let (cluster_id, member_id) = (EtcdId(u64::MAX), EtcdId(1 << 63));
    let descriptor = Descriptor {
        format: FORMAT,
        cluster_id,
        member_id,
        revision: i64::MAX,
        compact_revision: 300,
        raft_term: 7,
        raft_index: 1 << 40,
        storage_version: "3.6.0",
        page_size: 4096,
        base_revision: 250,
        kept_listed: true,
        is_live: false,
        lineage: Some(Sha256::of(b"lineage")),
        state_digest: Some(StateDigest::default()),
    };
    let extra = |key, value| Record::Extra(Extra { bucket: b"future", key, value, sequence: 0 });
    let revision =
        |main, sub, tombstone, stored| Record::Revision(Revision { rev: Rev { main, sub }, tombstone, stored });
    vec![
        Record::Descriptor(descriptor),
        Record::Extra(Extra { bucket: b"future", key: None, value: b"", sequence: 9 }),
        extra(Some(b""), b"value of the empty key"),
        extra(Some(b"key"), b""),
        Record::Compacted(Compacted { revision: 299, finished: false }),
        Record::Compacted(Compacted { revision: 300, finished: true }),
        Record::ClusterVersion("3.5.0"),
        Record::Member { id: member_id, json: b"{\"name\":\"m1\"}" },
        Record::MemberGone(EtcdId(3)),
        Record::Alarm { stored: b"\x08\x01\x10\x01" },
        Record::AlarmGone { stored: b"\x08\x02\x10\x01" },
        Record::AuthConfig { enabled: Some(false), revision: Some(0) },
        Record::User { stored: b"\x0a\x03bob" },
        Record::UserGone(b"eve"),
        Record::Role { stored: b"\x0a\x04root" },
        Record::RoleGone(b"old"),
        Record::Lease { stored: b"\x08\x07\x10\x3c" },
        Record::LeaseGone(-1),
        Record::Moment { revision: 5, unix_ms: 1_778_000_000_000 },
        Record::Kept(KeptRun { first: Rev { main: 7, sub: 2 }, steps: b"\x04\x05\x06\x09" }),
        revision(301, 0, false, b"\x0a\x03foo\x10\xad\x02\x18\xad\x02\x20\x01\x2a\x03bar"),
        revision(302, 0, true, b"\x0a\x03foo"),
        revision(302, 127, false, b""),
        revision(1 << 62, 128, false, b"\x0a\x01k"),
    ]
}

#[test]
fn every_kind_is_read_alike_by_hand_and_by_schema() {
    let records = every_kind();
    let mut encoder = Encoder::new();
    for record in &records {
        assert_eq!(encoder.put(record), None, "all of them fit into one block");
    }
    let (blocks, end) = encoder.end();
    let [block] = &blocks[..] else { panic!("one block") };
    let read: Vec<_> = Records::of(&block.bytes).map(Result::unwrap).collect();
    assert_eq!(read.last(), Some(&Record::End(end)));
    assert_eq!(read[..read.len() - 1], records);
    let (facts, again) = by_schema(&block.bytes);
    assert_eq!(again, block.bytes, "prost writes the same bytes");
    assert_eq!(facts.len(), read.len());
    assert!(read.iter().is_sorted_by_key(Record::rank), "every kind has its place");
    let mut numbers: Vec<u32> = read.iter().map(Record::number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers, (1..=19).collect::<Vec<_>>(), "every kind is tried");
    for (fact, record) in facts.iter().zip(&read) {
        assert_eq!(number(fact), record.number());
    }
}

#[test]
fn what_the_schema_says_of_some_facts() {
    let records = every_kind();
    let mut encoder = Encoder::new();
    records.iter().for_each(|record| assert_eq!(encoder.put(record), None));
    let (blocks, End { records: before, crc32c }) = encoder.end();
    let (facts, _) = by_schema(&blocks[0].bytes);
    let Fact::Descriptor(descriptor) = &facts[0] else { panic!("{:?}", facts[0]) };
    assert_eq!((descriptor.format, descriptor.kind.as_str(), descriptor.cluster_id), (1, "incremental", u64::MAX));
    let Fact::Extra(bucket) = &facts[1] else { panic!("{:?}", facts[1]) };
    assert_eq!((bucket.key.as_deref(), bucket.sequence), (None, 9));
    let Fact::Extra(empty) = &facts[2] else { panic!("{:?}", facts[2]) };
    assert_eq!(empty.key.as_deref(), Some(&b""[..]));
    let Some(Fact::AuthConfig(auth)) = facts.iter().find(|fact| number(fact) == 8) else { panic!("no auth config") };
    assert_eq!((auth.enabled, auth.revision), (Some(false), Some(0)));
    let Some(Fact::Revision(revision)) = facts.iter().find(|fact| number(fact) == 16) else { panic!("no revision") };
    let kv = revision.kv.as_ref().unwrap();
    assert_eq!((revision.main, kv.mod_revision, &kv.key[..], &kv.value[..]), (301, 301, &b"foo"[..], &b"bar"[..]));
    let Some(Fact::Kept(kept)) = facts.iter().find(|fact| number(fact) == 18) else { panic!("no kept revisions") };
    assert_eq!((kept.main, kept.sub, &kept.steps[..], descriptor.base_revision), (7, 2, &[4, 5, 6, 9][..], 250));
    let Some(Fact::End(end)) = facts.last() else { panic!("no end") };
    assert_eq!((end.records, end.crc32c), (before, crc32c));
}

#[test]
fn both_fixtures_are_read_alike_by_hand_and_by_schema() {
    for name in ["etcd-3.5-auth.db", "k8s-etcd-3.6.db"] {
        let mut kinds = vec![];
        for block in encode(&fixture(name)).unwrap() {
            let (facts, again) = by_schema(&block.bytes);
            assert!(again == block.bytes, "{name}: prost writes other bytes");
            assert_eq!(facts.len() as u64, block.records);
            kinds.extend(facts.iter().map(number));
        }
        assert!(kinds.is_sorted() && kinds[0] == 1 && kinds[kinds.len() - 1] == 17, "{name}");
    }
}

/// The field number of a fact in the schema.
fn number(fact: &Fact) -> u32 {
    let record = schema::Record { fact: Some(fact.clone()) }.encode_to_vec();
    let (tag, _) = record.split_at(2);
    // One byte below 16, two from there on.
    let tag = if tag[0] & 0x80 == 0 { u32::from(tag[0]) } else { u32::from(tag[0] & 0x7f) | u32::from(tag[1]) << 7 };
    tag >> 3
}

/// The smallest stream, as docs/formats/records.md spells it out.
#[test]
fn the_document_shows_the_bytes_of_the_smallest_stream() {
    let mut encoder = Encoder::new();
    let descriptor = Descriptor { format: FORMAT, revision: 1, page_size: 4096, ..Descriptor::default() };
    assert_eq!(encoder.put(&Record::Descriptor(descriptor)), None);
    let (blocks, end) = encoder.end();
    assert_eq!(end.records, 1);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
    let document = include_str!("../../docs/formats/records.md");
    let (first, second) = blocks[0].bytes.split_at(16);
    for line in [first, second] {
        assert!(document.contains(&hex(line)), "{}", hex(line));
    }
}
