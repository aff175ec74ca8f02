//! HashKV of a file, folded to compactions that came after it, against what a live etcd answers under them: the rule by
//! which a backup is compared with a cluster that compacts meanwhile.

use holdfast::base::rng::Seeded;
use holdfast::snapshot::bbolt::read::Db;
use holdfast::snapshot::bbolt::records::Source;
use holdfast::snapshot::hash::Scope;
use holdfast::snapshot::proof::Prover;
use std::fs;

use crate::look::Look;
use crate::site::Site;
use crate::support::etcd::Etcd;
use crate::support::load::{self, LoadOptions};

const WRITES: u64 = 400;
/// A compaction moves on by less than this much.
const STEP: u64 = 40;
/// How many revisions are asked for under each compaction.
const ASKED: u64 = 6;

fn ours(file: &[u8], scope: Scope) -> (u32, bool) {
    let db = Db::open(file).unwrap();
    let source = Source::open(&db).unwrap();
    let mut prover = Prover::new(scope, 0);
    let descriptor = source.descriptor(Default::default(), Default::default());
    source.newest_first(&descriptor, &mut |batch| prover.batch(batch)).unwrap();
    let proof = prover.finish();
    (proof.hash_kv, proof.any_alive)
}

#[test]
fn a_file_hashes_as_the_cluster_does_under_every_later_compaction() {
    let etcd = Etcd::start();
    // Few keys, so that deletions, rebirths and transactions of the same key meet each compaction.
    let options = LoadOptions { seed: 3, keys: 12, compactions: false, auth: false, ..LoadOptions::default() };
    load::write(&etcd, options, WRITES);
    let (site, look) = (Site::of(&etcd), Look::at(&etcd, 0));
    let path = site.path("snapshot.db");
    etcd.etcdctl(&["snapshot", "save", path.to_str().unwrap()]).success();
    let file = fs::read(path).unwrap();
    let newest = look.position().revision;

    let (mut rng, mut compacted, mut compared) = (Seeded::new(9), 0_i64, 0);
    while compacted < newest {
        for n in 0..ASKED {
            // etcd does not hash up to the revision it is compacted to.
            let reach = (newest - compacted).cast_unsigned();
            let revision = if n == 0 { newest } else { compacted + 1 + rng.below(reach).cast_signed() };
            let reply = look.hash_kv(revision);
            assert_eq!(reply.compact.max(0), compacted);
            let (hash, any_alive) = ours(&file, Scope { revision, compact_revision: compacted });
            assert!(any_alive || revision < 10, "every key is dead at {revision}");
            assert_eq!(hash, reply.hash, "revision {revision} under compaction {compacted}");
            compared += 1;
        }
        compacted = (compacted + 1 + rng.below(STEP).cast_signed()).min(newest);
        etcd.etcdctl(&["compact", "--physical", &compacted.to_string()]).success();
    }
    // Only when it is the newest, and not named.
    let (hash, _) = ours(&file, Scope { revision: newest, compact_revision: newest });
    assert_eq!(look.hash_kv(0).hash, hash);
    assert!(compared > 60, "{compared} hashes were compared");
}

#[test]
fn a_cluster_compacted_to_its_newest_revision_is_compared() {
    let etcd = Etcd::start();
    let options = LoadOptions { seed: 6, keys: 12, compactions: false, auth: false, ..LoadOptions::default() };
    load::write(&etcd, options, 50);
    let (site, look) = (Site::of(&etcd), Look::at(&etcd, 0));
    let newest = look.position().revision;
    etcd.etcdctl(&["compact", "--physical", &newest.to_string()]).success();
    let before = look.settled();
    let backup = site.backup_any(&[0, 5]);
    assert_eq!(look.position(), before);
    assert_eq!(backup.verdict(), "equal", "{}", backup.reason());
    assert_eq!(backup.manifest["descriptor"]["compact_revision"], newest);
    assert_eq!(backup.manifest["proofs"]["hash_at_source"]["hash"], look.hash_kv(0).hash);
    assert!(backup.warnings.is_empty());
}
