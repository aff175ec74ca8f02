//! The record codec written by hand, against the code generated from the schema: each reads what the other writes, for
//! every kind of record, with seeded random values among which empty and extreme ones are frequent.

use holdfast::api::records::record::Fact;
use holdfast::api::{authpb, etcdserverpb, leasepb, mvccpb, records};
use holdfast::base::id::EtcdId;
use holdfast::base::rng::Seeded;
use holdfast::snapshot::decode::Records;
use holdfast::snapshot::encode::Encoder;
use holdfast::snapshot::record::{Compacted, Descriptor, End, Extra, FORMAT, KeptRun, KeyValue, Record, Rev, Revision};
use prost::Message;

/// Rounds of one record of each kind.
const ROUNDS: u64 = 300;
const KINDS: u32 = 19;
/// A value as large as etcd takes by default, for the largest records.
const LARGE_BYTES: usize = 1_500_000;

/// Random values in which the edges are frequent.
struct Values(Seeded);

impl Values {
    fn unsigned(&mut self) -> u64 {
        match self.0.below(6) {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << self.0.below(64),
            3 => self.0.below(300),
            _ => self.0.bits(),
        }
    }

    fn signed(&mut self) -> i64 {
        match self.0.below(4) {
            0 => i64::MIN,
            1 => i64::MAX,
            _ => self.unsigned().cast_signed(),
        }
    }

    fn small(&mut self) -> u32 {
        u32::try_from(self.unsigned() & u64::from(u32::MAX)).unwrap()
    }

    fn flag(&mut self) -> bool {
        self.0.below(2) == 1
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = match self.0.below(500) {
            0 => LARGE_BYTES as u64,
            1..100 => 0,
            // Around the lengths at which a length takes another byte.
            100..200 => 126 + self.0.below(4),
            200..204 => 16_382 + self.0.below(4),
            _ => self.0.below(40),
        };
        (0..length).map(|_| u8::try_from(self.0.below(256)).unwrap()).collect()
    }

    fn some_bytes(&mut self) -> Vec<u8> {
        let mut bytes = self.bytes();
        bytes.push(7);
        bytes
    }

    /// What names a branch of history, or nothing.
    fn digest(&mut self) -> Vec<u8> {
        let first = u8::try_from(self.0.below(256)).unwrap();
        if self.flag() { (0..32).map(|n| first.wrapping_add(n)).collect() } else { vec![] }
    }

    fn text(&mut self) -> String {
        let letter = |byte: u8| char::from_u32(u32::from(byte) * 31 + 1).unwrap_or('x');
        self.bytes().into_iter().take(300).map(letter).collect()
    }

    fn key_value(&mut self) -> mvccpb::KeyValue {
        mvccpb::KeyValue {
            key: self.bytes().into(),
            create_revision: self.signed(),
            mod_revision: self.signed(),
            version: self.signed(),
            value: self.bytes().into(),
            lease: self.signed(),
        }
    }

    fn user(&mut self) -> authpb::User {
        authpb::User {
            name: self.bytes().into(),
            password: self.bytes().into(),
            roles: (0..self.0.below(3)).map(|_| self.text()).collect(),
            options: self.flag().then_some(authpb::UserAddOptions { no_password: self.flag() }),
        }
    }

    fn role(&mut self) -> authpb::Role {
        let mut permission = |kind: u64| authpb::Permission {
            perm_type: i32::try_from(kind).unwrap(),
            key: self.bytes().into(),
            range_end: self.bytes().into(),
        };
        let key_permission = (0..3).map(&mut permission).collect();
        authpb::Role { name: self.bytes().into(), key_permission }
    }

    fn fact(&mut self, kind: u32) -> Fact {
        let base_revision = if self.flag() { 0 } else { i64::from(self.small()) };
        match kind {
            1 => Fact::Descriptor(records::Descriptor {
                format: FORMAT,
                base_revision,
                kept_listed: self.flag(),
                kind: if base_revision == 0 { "full" } else { ["incremental", "live"][usize::from(self.flag())] }
                    .to_owned(),
                cluster_id: self.unsigned(),
                member_id: self.unsigned(),
                revision: self.signed(),
                compact_revision: self.signed(),
                raft_term: self.unsigned(),
                raft_index: self.unsigned(),
                storage_version: self.text(),
                page_size: self.small(),
                lineage: self.digest().into(),
                state_digest: self.digest().into(),
            }),
            2 => Fact::Extra(records::Extra {
                // An entry of no bucket is damage.
                bucket: self.some_bytes().into(),
                key: self.flag().then(|| self.bytes().into()),
                value: self.bytes().into(),
                sequence: self.unsigned(),
            }),
            3 => Fact::Compacted(records::Compacted { revision: self.signed(), finished: self.flag() }),
            4 => Fact::ClusterVersion(records::ClusterVersion { version: self.text() }),
            5 => Fact::Member(records::Member { id: self.unsigned(), json: self.bytes().into() }),
            6 => Fact::MemberGone(records::MemberGone { id: self.unsigned() }),
            7 => {
                let (member_id, alarm) = (self.unsigned(), i32::try_from(self.0.below(3)).unwrap());
                Fact::Alarm(records::Alarm { alarm: Some(etcdserverpb::AlarmMember { member_id, alarm }) })
            }
            8 => {
                let (enabled, revision) = (self.flag().then(|| self.flag()), self.flag().then(|| self.unsigned()));
                Fact::AuthConfig(records::AuthConfig { enabled, revision })
            }
            9 => Fact::User(records::User { user: Some(self.user()) }),
            10 => Fact::UserGone(records::UserGone { name: self.bytes().into() }),
            11 => Fact::Role(records::Role { role: Some(self.role()) }),
            12 => Fact::RoleGone(records::RoleGone { name: self.bytes().into() }),
            13 => {
                let (id, ttl, remaining_ttl) = (self.signed(), self.signed(), self.signed());
                Fact::Lease(records::Lease { lease: Some(leasepb::Lease { id, ttl, remaining_ttl }) })
            }
            14 => Fact::LeaseGone(records::LeaseGone { id: self.signed() }),
            15 => Fact::Moment(records::Moment { revision: self.signed(), unix_ms: self.signed() }),
            16 => Fact::Revision(records::Revision {
                // What is not above 0 is no revision.
                main: (self.signed() & i64::MAX).max(1),
                sub: self.signed() & i64::MAX,
                tombstone: self.flag(),
                kv: Some(self.key_value()),
            }),
            19 => {
                let (member_id, alarm) = (self.unsigned(), i32::try_from(self.0.below(3)).unwrap());
                Fact::AlarmGone(records::AlarmGone { alarm: Some(etcdserverpb::AlarmMember { member_id, alarm }) })
            }
            17 => Fact::End(records::End { records: self.unsigned(), crc32c: self.small() }),
            _ => Fact::Kept(records::Kept {
                main: (self.signed() & i64::MAX).max(1),
                sub: self.signed() & i64::MAX,
                steps: (0..self.0.below(4)).map(|_| self.unsigned()).collect(),
            }),
        }
    }
}

/// The fields of a record of ours as the generated message, one by one.
fn generated(record: &Record<'_>) -> Fact {
    let bytes = |bytes: &[u8]| bytes.to_vec().into();
    match *record {
        Record::Descriptor(d) => Fact::Descriptor(records::Descriptor {
            format: d.format,
            kind: if d.is_live { "live" } else { ["incremental", "full"][usize::from(d.base_revision == 0)] }
                .to_owned(),
            base_revision: d.base_revision,
            kept_listed: d.kept_listed,
            cluster_id: d.cluster_id.0,
            member_id: d.member_id.0,
            revision: d.revision,
            compact_revision: d.compact_revision,
            raft_term: d.raft_term,
            raft_index: d.raft_index,
            storage_version: d.storage_version.to_owned(),
            page_size: d.page_size,
            lineage: d.lineage.map(|lineage| bytes(&lineage.0)).unwrap_or_default(),
            state_digest: d.state_digest.map(|digest| bytes(&digest.to_bytes())).unwrap_or_default(),
        }),
        Record::Extra(Extra { bucket, key, value, sequence }) => {
            let (bucket, key, value) = (bytes(bucket), key.map(bytes), bytes(value));
            Fact::Extra(records::Extra { bucket, key, value, sequence })
        }
        Record::Compacted(Compacted { revision, finished }) => {
            Fact::Compacted(records::Compacted { revision, finished })
        }
        Record::ClusterVersion(version) => {
            Fact::ClusterVersion(records::ClusterVersion { version: version.to_owned() })
        }
        Record::Member { id, json } => Fact::Member(records::Member { id: id.0, json: bytes(json) }),
        Record::MemberGone(id) => Fact::MemberGone(records::MemberGone { id: id.0 }),
        Record::Alarm { stored } => Fact::Alarm(records::Alarm { alarm: Some(message(stored)) }),
        Record::AlarmGone { stored } => Fact::AlarmGone(records::AlarmGone { alarm: Some(message(stored)) }),
        Record::AuthConfig { enabled, revision } => Fact::AuthConfig(records::AuthConfig { enabled, revision }),
        Record::User { stored } => Fact::User(records::User { user: Some(message(stored)) }),
        Record::UserGone(name) => Fact::UserGone(records::UserGone { name: bytes(name) }),
        Record::Role { stored } => Fact::Role(records::Role { role: Some(message(stored)) }),
        Record::RoleGone(name) => Fact::RoleGone(records::RoleGone { name: bytes(name) }),
        Record::Lease { stored } => Fact::Lease(records::Lease { lease: Some(message(stored)) }),
        Record::LeaseGone(id) => Fact::LeaseGone(records::LeaseGone { id }),
        Record::Moment { revision, unix_ms } => Fact::Moment(records::Moment { revision, unix_ms }),
        Record::Revision(Revision { rev, tombstone, stored }) => {
            let read = KeyValue::parse(stored).unwrap();
            let kv: mvccpb::KeyValue = message(stored);
            let theirs = (&kv.key[..], kv.create_revision, kv.mod_revision, kv.version, &kv.value[..], kv.lease);
            let ours = (read.key, read.create_revision, read.mod_revision, read.version, read.value, read.lease);
            assert!(ours == theirs, "a key value reads differently at {rev}");
            Fact::Revision(records::Revision { main: rev.main, sub: rev.sub, tombstone, kv: Some(kv) })
        }
        Record::Kept(KeptRun { first, mut steps }) => {
            let mut numbers = vec![];
            while !steps.is_empty() {
                numbers.push(prost::encoding::decode_varint(&mut steps).unwrap());
            }
            Fact::Kept(records::Kept { main: first.main, sub: first.sub, steps: numbers })
        }
        Record::End(End { records, crc32c }) => Fact::End(records::End { records, crc32c }),
    }
}

fn message<M: Message + Default>(stored: &[u8]) -> M {
    M::decode(stored).unwrap()
}

/// The bytes of a record between its length and the next record.
fn body(delimited: &[u8]) -> (&[u8], &[u8]) {
    let mut rest = delimited;
    let length = usize::try_from(prost::encoding::decode_varint(&mut rest).unwrap()).unwrap();
    rest.split_at(length)
}

#[test]
fn our_decoder_reads_what_the_schema_writes() {
    let mut values = Values(Seeded::new(2026));
    for round in 0..ROUNDS {
        for kind in 1..=KINDS {
            let fact = values.fact(kind);
            let bytes = records::Record { fact: Some(fact.clone()) }.encode_length_delimited_to_vec();
            let read: Vec<_> = Records::of(&bytes).map(Result::unwrap).collect();
            assert_eq!(read.len(), 1);
            assert_eq!(read[0].number(), kind);
            assert!(generated(&read[0]) == fact, "kind {kind} in round {round}");
        }
    }
}

#[test]
fn the_schema_reads_what_our_encoder_writes() {
    let mut values = Values(Seeded::new(2027));
    for round in 0..ROUNDS {
        // Ours are made of what the generated code encoded, so that stored messages are real ones.
        let facts: Vec<_> = (1..=7).chain([19]).chain(8..=15).chain([18, 16]).map(|kind| values.fact(kind)).collect();
        let source: Vec<_> = facts
            .iter()
            .map(|fact| records::Record { fact: Some(fact.clone()) }.encode_length_delimited_to_vec())
            .collect();
        let mut encoder = Encoder::new();
        let mut blocks = vec![];
        for bytes in &source {
            let record = Records::of(bytes).next().unwrap().unwrap();
            blocks.extend(encoder.put(&record));
        }
        let (last, end) = encoder.end();
        blocks.extend(last);
        let stream: Vec<u8> = blocks.iter().flat_map(|block| block.bytes.iter().copied()).collect();
        assert_eq!(blocks.iter().map(|block| block.records).sum::<u64>(), u64::from(KINDS));

        let (mut rest, mut found) = (&stream[..], vec![]);
        while !rest.is_empty() {
            let (record, behind) = body(rest);
            found.push(records::Record::decode(record).unwrap().fact.unwrap());
            rest = behind;
        }
        let last = Fact::End(records::End { records: end.records, crc32c: end.crc32c });
        assert_eq!(found.pop(), Some(last));
        assert!(found == facts, "round {round}");
        // The generated code writes fields in the order of their numbers, and so do we: not one byte differs.
        assert!(stream.starts_with(&source.concat()), "round {round}");
    }
}

#[test]
fn empty_records_of_every_kind_are_the_same_to_both() {
    let ids = (EtcdId(0), EtcdId(0));
    let empty = [
        Record::Descriptor(Descriptor { format: FORMAT, cluster_id: ids.0, member_id: ids.1, ..Descriptor::default() }),
        Record::Extra(Extra { bucket: b"b", key: None, value: b"", sequence: 0 }),
        Record::Extra(Extra { bucket: b"b", key: Some(b""), value: b"", sequence: 0 }),
        Record::Compacted(Compacted { revision: 0, finished: false }),
        Record::ClusterVersion(""),
        Record::Member { id: EtcdId(0), json: b"" },
        Record::MemberGone(EtcdId(0)),
        Record::Alarm { stored: b"" },
        Record::AlarmGone { stored: b"" },
        Record::AuthConfig { enabled: None, revision: None },
        Record::AuthConfig { enabled: Some(false), revision: Some(0) },
        Record::User { stored: b"" },
        Record::UserGone(b""),
        Record::Role { stored: b"" },
        Record::RoleGone(b""),
        Record::Lease { stored: b"" },
        Record::LeaseGone(0),
        Record::Moment { revision: 0, unix_ms: 0 },
        Record::Revision(Revision { rev: Rev { main: 1, sub: 0 }, tombstone: false, stored: b"" }),
    ];
    let mut encoder = Encoder::new();
    assert!(empty.iter().all(|record| encoder.put(record).is_none()));
    let stream = encoder.end().0.remove(0).bytes;
    let mut rest = &stream[..];
    for (record, read) in empty.iter().zip(Records::of(&stream)) {
        assert_eq!(read.unwrap(), *record);
        let (bytes, behind) = body(rest);
        assert_eq!(records::Record::decode(bytes).unwrap().fact, Some(generated(record)), "{record:?}");
        rest = behind;
    }
}
