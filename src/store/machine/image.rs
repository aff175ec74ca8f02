//! A state as a genuine etcd file, made while it is streamed.
//!
//! The file begins with what is known last, where its root is and how long it is. So it is planned first, from the lengths of
//! the messages alone, which the index has; then it is written in the order of the file, and turns out to be what was
//! planned. Nothing of it is kept: in memory are a list of 16 bytes for each version, and one chunk.

use crate::base::error::Result;
use crate::base::revision::Rev;
use crate::snapshot::bbolt::build::Builder;
use crate::snapshot::bbolt::shape::Sizes;
use crate::snapshot::bbolt::write::{Head, Sink};
use crate::snapshot::record::{End, Record};
use crate::store::machine::records::Picture;

/// The last record: a file does not keep what it says.
const END: Record<'static> = Record::End(End { records: 0, crc32c: 0 });
const LAST: Rev = Rev { main: i64::MAX, sub: i64::MAX };

/// The file's first two pages and its length. `go_on` is asked now and then.
pub fn plan(picture: &Picture, sizes: Sizes, go_on: &mut dyn FnMut() -> Result<()>) -> Result<Head> {
    let mut plan = Builder::plan(sizes);
    let mut nowhere = |_: &[u8]| Ok(());
    for record in picture.side_records() {
        plan.put(&record, &mut nowhere)?;
    }
    picture.leases(&mut |lease| plan.put(lease, &mut |_| Ok(())))?;
    for entries in picture.entries().chunks(1 << 16) {
        go_on()?;
        for entry in entries {
            plan.put_length(entry.rev(), entry.is_tombstone(), entry.message_bytes())?;
        }
    }
    plan.put(&END, &mut nowhere)?;
    plan.finish(&mut nowhere)
}

/// Hands the file that was planned to `sink`, in order.
pub fn write(picture: &Picture, sizes: Sizes, planned: &Head, sink: &mut Sink<'_>) -> Result<()> {
    sink(&planned.bytes)?;
    let mut builder = Builder::start(sizes, sink)?;
    for record in picture.side_records() {
        builder.put(&record, sink)?;
    }
    picture.leases(&mut |lease| builder.put(lease, sink))?;
    picture.revisions(Rev::default(), LAST, &mut |_, revision| builder.put(&Record::Revision(*revision), sink))?;
    builder.put(&END, sink)?;
    let written = builder.finish(sink)?;
    assert_eq!(written, *planned, "the file is what was planned");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::etcdserverpb::{
        AlarmRequest, CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, PutRequest, alarm_request::AlarmAction,
    };
    use crate::api::holdfast::v1::Command;
    use crate::base::digest::Sha256;
    use crate::base::rng::Seeded;
    use crate::base::stop::Stop;
    use crate::snapshot::bbolt::read::Db;
    use crate::snapshot::bbolt::records::Source;
    use crate::snapshot::bbolt::status;
    use crate::snapshot::entry::RevisionKey;
    use crate::snapshot::hash::Scope;
    use crate::snapshot::proof::Prover;
    use crate::store::backend::{Backend, CACHE_BYTES};
    use crate::store::machine::Machine;
    use crate::store::machine::command::Operation;
    use crate::store::machine::flush::{Cut, Position, flush};
    use crate::store::machine::records::Origin;
    use std::sync::Arc;

    struct Member {
        backend: Arc<Backend>,
        machine: Machine,
        cuts: Vec<Cut>,
        _dir: tempfile::TempDir,
    }

    impl Member {
        fn new() -> Member {
            let dir = tempfile::tempdir().unwrap();
            let backend = Arc::new(Backend::create(&dir.path().join("db"), CACHE_BYTES).unwrap());
            let machine = Machine::open(&backend).unwrap();
            Member { backend, machine, cuts: vec![], _dir: dir }
        }

        fn apply(&mut self, operations: Vec<Operation>) {
            let commands = operations.into_iter().map(|operation| Command {
                id: 1,
                time_ms: 1,
                operation: Some(operation),
                ..Command::default()
            });
            let position = Position { index: self.machine.position().index + 1, term: 3 };
            self.cuts.push(self.machine.apply(position, commands.collect(), &mut |_, _| {}).unwrap().cut);
        }

        fn flush(&mut self) {
            flush(&self.backend, self.machine.recent(), &std::mem::take(&mut self.cuts)).unwrap();
        }

        fn picture(&self) -> Picture {
            let urls = |port: u16| vec![format!("http://127.0.0.1:{port}")];
            let (peer_urls, client_urls) = (urls(2380), urls(2379));
            let (name, lineage) = ("one".into(), Sha256::of(b"born"));
            let origin = Origin { cluster_id: 7, member_id: 0xfedc, lineage, name, peer_urls, client_urls };
            Picture::of(&self.machine.state(), &origin, &mut || Ok(())).unwrap()
        }
    }

    fn put(key: String, value_bytes: usize, lease: i64) -> Operation {
        let value = vec![b'v'; value_bytes].into();
        Operation::Put(PutRequest { key: key.into(), value, lease, ..PutRequest::default() })
    }

    fn file(picture: &Picture, sizes: Sizes) -> Vec<u8> {
        let head = plan(picture, sizes, &mut || Ok(())).unwrap();
        let mut bytes = vec![];
        write(picture, sizes, &head, &mut |chunk| {
            bytes.extend_from_slice(chunk);
            Ok(())
        })
        .unwrap();
        assert_eq!(bytes.len() as u64, head.file_bytes);
        bytes
    }

    /// Every record of the picture, as text: what the reader of files must find again.
    fn records(picture: &Picture) -> Vec<String> {
        let mut all: Vec<_> = picture.side_records().iter().map(|record| format!("{record:?}")).collect();
        let mut add = |record: &Record<'_>| {
            all.push(format!("{record:?}"));
            Ok(())
        };
        picture.leases(&mut add).unwrap();
        picture.revisions(Rev::default(), LAST, &mut |_, revision| add(&Record::Revision(*revision))).unwrap();
        all
    }

    /// What is read back is what was put in; what the existing builder makes of it is the same file; its HashKV is that of
    /// the state.
    fn check(picture: &Picture, sizes: Sizes) -> status::Status {
        let bytes = file(picture, sizes);
        let db = Db::open(&bytes[..]).unwrap();
        let source = Source::open(&db).unwrap();
        let descriptor = picture.descriptor();
        let (ids, page_size) = ((descriptor.cluster_id, descriptor.member_id), u32::try_from(sizes.page).unwrap());
        // A file tells nothing of who streamed it.
        let expected =
            crate::snapshot::record::Descriptor { page_size, lineage: None, state_digest: None, ..descriptor };
        assert_eq!(source.descriptor(ids.0, ids.1), expected);
        let scope = Scope { revision: descriptor.revision, compact_revision: descriptor.compact_revision };
        let mut builder = Builder::start(sizes, &mut |_| Ok(())).unwrap();
        let (mut again, mut found) = (vec![0; builder.head_bytes()], vec![]);
        let mut sink_start = vec![];
        builder = Builder::start(sizes, &mut |chunk| {
            sink_start.extend_from_slice(chunk);
            Ok(())
        })
        .unwrap();
        again.extend_from_slice(&sink_start);
        let mut batches = vec![];
        let mut prover = Prover::new(scope, 1);
        source
            .newest_first(&expected, &mut |batch| {
                batches.push(batch.iter().map(|record| format!("{record:?}")).collect::<Vec<_>>());
                prover.batch(batch)
            })
            .unwrap();
        let mut take = |record: &Record<'_>| {
            found.push(format!("{record:?}"));
            builder.put(record, &mut |chunk| {
                again.extend_from_slice(chunk);
                Ok(())
            })
        };
        source.side_records().iter().try_for_each(&mut take).unwrap();
        source.leases(&mut |stored| take(&Record::Lease { stored })).unwrap();
        source.revisions(0, i64::MAX, &mut |revision| take(&Record::Revision(*revision))).unwrap();
        take(&END).unwrap();
        let head = builder
            .finish(&mut |chunk| {
                again.extend_from_slice(chunk);
                Ok(())
            })
            .unwrap();
        again[..head.bytes.len()].copy_from_slice(&head.bytes);
        assert!(again == bytes, "the builder makes another file");
        found.pop();
        assert_eq!(found, records(picture));
        let proof = prover.finish();
        assert_eq!(proof.hash_kv, hash_kv(picture), "{scope:?}");
        assert_eq!(Some(proof.state_digest), descriptor.state_digest);
        status::status(&db, &Stop::new()).unwrap()
    }

    /// HashKV read off the picture's own marks.
    fn hash_kv(picture: &Picture) -> u32 {
        let compact_revision = picture.descriptor().compact_revision;
        let alive = picture.entries().iter().any(|entry| entry.is_newest() && !entry.is_tombstone());
        let mut crc = crc32c_of(0, b"key");
        let each = &mut |entry: &crate::store::mvcc::chronicle::Entry,
                         revision: &crate::snapshot::record::Revision<'_>| {
            let main = revision.rev.main;
            let covered = main > compact_revision || entry.is_newest() && !revision.tombstone || !alive;
            if covered && !(revision.tombstone && main == compact_revision) {
                crc = crc32c_of(crc, RevisionKey::new(revision.rev, revision.tombstone).as_bytes());
                crc = crc32c_of(crc, revision.stored);
            }
            Ok(())
        };
        picture.revisions(Rev::default(), LAST, each).unwrap();
        crc
    }

    fn crc32c_of(crc: u32, bytes: &[u8]) -> u32 {
        // Bit by bit: not the code that is tested.
        let step = |crc: u32| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
        !bytes.iter().fold(!crc, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
    }

    const SMALL: Sizes = Sizes { page: 1024, leaf: 1024 };

    #[test]
    fn random_states_are_the_files_that_the_builder_makes_of_them() {
        for seed in 0..12 {
            let mut rng = Seeded::new(seed);
            let mut member = Member::new();
            let mut small = |below: u64| usize::try_from(rng.below(below)).unwrap();
            for round in 0..small(60) {
                let operations = (0..=small(20)).map(|_| match small(12) {
                    0 => {
                        let (key, range_end) = (format!("key-{}", small(30)).into(), "key-2".into());
                        Operation::DeleteRange(DeleteRangeRequest { key, range_end, prev_kv: false })
                    }
                    1 => Operation::LeaseGrant(LeaseGrantRequest { ttl: 60, id: i64::try_from(small(9)).unwrap() - 4 }),
                    2 => {
                        let (action, member_id) = (AlarmAction::Activate as i32, small(3) as u64);
                        Operation::Alarm(AlarmRequest { action, member_id, alarm: 2 })
                    }
                    3 if round % 7 == 0 => {
                        let revision = i64::try_from(1 + small(200)).unwrap();
                        Operation::Compaction(CompactionRequest { revision, physical: false })
                    }
                    4 => put(format!("key-{}", small(30)), small(9000), 0),
                    5 => put(format!("key-{}", small(30)), small(9), 3),
                    _ => put(format!("key-{}", small(30)), small(200), 0),
                });
                let operations = operations.collect();
                member.apply(operations);
                if small(3) == 0 {
                    member.flush();
                }
            }
            let leaf = 1024 * (1 + small(40));
            check(&member.picture(), Sizes { page: 1024 << small(4), leaf: leaf.max(8192) });
            check(&member.picture(), SMALL);
        }
    }

    #[test]
    fn files_of_nothing_of_one_key_and_of_values_over_many_pages() {
        let mut member = Member::new();
        let empty = check(&member.picture(), Sizes::default());
        assert_eq!((empty.revision, empty.version.as_str()), (0, "3.6.0"));
        member.apply(vec![put("a".into(), 0, 0)]);
        assert_eq!(check(&member.picture(), Sizes::default()).revision, 2);
        for value_bytes in [1, 4000, 4096, 40_000, 3 << 20] {
            member.apply(vec![put("b".into(), value_bytes, 0)]);
        }
        let large = check(&member.picture(), Sizes::default());
        assert!(large.total_size > 3 << 20);
        assert_eq!(check(&member.picture(), SMALL).hash, large.hash);
        member.flush();
        assert_eq!(check(&member.picture(), SMALL).hash, check(&member.picture(), Sizes::default()).hash);
    }

    #[test]
    fn a_tree_of_many_levels_is_planned_as_it_is_written() {
        let mut member = Member::new();
        for batch in 0..200 {
            member.apply((0..1000).map(|n| put(format!("key-{batch:03}-{n:03}"), 20, 0)).collect());
            if batch % 30 == 0 {
                member.flush();
            }
        }
        let picture = member.picture();
        // A leaf has fewer than 20 entries here, a branch fewer than 40 children.
        let bytes = file(&picture, SMALL);
        let pages = bytes.len() / SMALL.page;
        assert!(pages > 200_000 / 20 && 200_000 / 20 > 40 * 40, "{pages} pages are three levels of branches");
        let db = Db::open(&bytes[..]).unwrap();
        let read = status::status(&db, &Stop::new()).unwrap();
        assert_eq!((read.revision, read.total_size), (200_001, bytes.len() as u64));
        assert_eq!(read.total_key - 200_000, check(&Member::new().picture(), SMALL).total_key);
    }
}
