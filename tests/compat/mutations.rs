//! Hostile bytes: seeded mutations of the fixtures through every parser of etcd files and record streams.
//!
//! A mutated file gives an error or a result; never a panic, never more memory than the limits say. What can be read at
//! all goes through records and back unchanged, and the SHA-256 behind the file always tells.

use std::sync::atomic::{AtomicUsize, Ordering};

use holdfast::base::digest::Sha256;
use holdfast::base::rng::Seeded;
use holdfast::base::stop::Stop;
use holdfast::snapshot::bbolt::page::{META_BYTES, fnv64a};
use holdfast::snapshot::bbolt::read::{Db, split_trailer};
use holdfast::snapshot::bbolt::records::Source;
use holdfast::snapshot::bbolt::shape::Sizes;
use holdfast::snapshot::bbolt::status::status;
use holdfast::snapshot::decode::Records;
use holdfast::snapshot::hash::Scope;
use holdfast::snapshot::proof::Prover;
use holdfast::snapshot::record::Record;
use holdfast::snapshot::verify::Verifier;

use crate::files::{build, encode, entries, fixture};

/// Mutations of each fixture.
pub(crate) const MUTATIONS: u64 = 10_000;
const THREADS: u64 = 2;

/// A place to hit: metas and page headers far more often than their share of the bytes.
fn place(rng: &mut Seeded, len: u64, page: u64) -> usize {
    let at = match rng.below(4) {
        0 => rng.below(2) * page + rng.below(META_BYTES as u64),
        1 => rng.below((len / page).max(1)) * page + rng.below(16),
        2 => rng.below((len / page).max(1)) * page + rng.below(256),
        _ => rng.below(len),
    };
    usize::try_from(at % len).unwrap()
}

fn mutate(file: &mut Vec<u8>, rng: &mut Seeded, page: u64) {
    for _ in 0..=rng.below(3) {
        let len = file.len() as u64;
        let at = place(rng, len, page);
        match rng.below(8) {
            0 => file[at] ^= 1 << rng.below(8),
            1 => file[at] = u8::try_from(rng.below(256)).unwrap(),
            2 => file[at] = [0, 1, 0x7f, 0x80, 0xff][usize::try_from(rng.below(5)).unwrap()],
            3 => file.truncate(usize::try_from(1 + rng.below(len)).unwrap()),
            4 => {
                let end = (at + 8).min(file.len());
                file[at..end].fill(0xff);
            }
            5 => {
                // One page over another: wrong numbers, cycles, double references.
                let page = usize::try_from(page).unwrap();
                let pages = file.len() as u64 / page as u64;
                if pages > 1 {
                    let from = usize::try_from(rng.below(pages)).unwrap() * page;
                    let to = usize::try_from(rng.below(pages)).unwrap() * page;
                    file.copy_within(from..from + page, to);
                    // Every other time it even carries the right number.
                    if rng.below(2) == 0 {
                        file[to..to + 8].copy_from_slice(&((to / page) as u64).to_le_bytes());
                    }
                }
            }
            6 => {
                let other = place(rng, len, page);
                file.swap(at, other);
            }
            _ => {
                let byte = u8::try_from(rng.below(256)).unwrap();
                file.insert(at, byte);
            }
        }
    }
    // Seal the metas again, or nothing behind them would ever be reached.
    if rng.below(4) > 0 {
        let page = usize::try_from(page).unwrap();
        for start in [0, page] {
            if let Some(meta) = file.get_mut(start..start + META_BYTES) {
                let checksum = fnv64a(&meta[16..72]);
                meta[72..80].copy_from_slice(&checksum.to_le_bytes());
            }
        }
    }
}

/// Everything that reads an etcd file. Returns whether the file could be read as records.
fn read_everything(file: &[u8]) -> bool {
    let Ok(db) = Db::open(file) else { return false };
    let _ = status(&db, &Stop::new());
    let Ok(source) = Source::open(&db) else { return false };
    let facts = source.facts().clone();
    let descriptor = source.descriptor(Default::default(), Default::default());
    let mut prover = Prover::new(Scope { revision: facts.revision, compact_revision: facts.compact_revision }, 1);
    let proved = source.newest_first(&descriptor, &mut |batch| prover.batch(batch));
    let Ok(blocks) = encode(file) else { return false };
    proved.expect("what can be encoded can be proved");
    let copy = build(&blocks, Sizes::default()).expect("what was encoded can be built");
    assert!(entries(&copy).unwrap() == entries(file).unwrap(), "records lose nothing");
    true
}

/// Calls `work` with each seed.
pub(crate) fn in_threads(work: impl Fn(u64) + Sync) {
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let work = &work;
            scope.spawn(move || (thread..MUTATIONS).step_by(usize::try_from(THREADS).unwrap()).for_each(work));
        }
    });
}

fn mutate_file(name: &str) {
    let original = fixture(name);
    let readable = AtomicUsize::new(0);
    in_threads(|seed| {
        let mut rng = Seeded::new(seed);
        let mut file = original.clone();
        mutate(&mut file, &mut rng, 4096);
        if file == original {
            return;
        }
        let (len, trailer) = split_trailer(file.len() as u64);
        let len = usize::try_from(len).unwrap();
        assert!(!trailer || Sha256::of(&file[..len]).0 != file[len..], "seed {seed}: the SHA-256 does not tell");
        readable.fetch_add(usize::from(read_everything(&file)), Ordering::Relaxed);
    });
    // Mutations must reach the parsers' depths: some leave a readable file, most do not.
    let readable = readable.into_inner();
    assert!((100..9_900).contains(&readable), "{readable} of {MUTATIONS} could be read");
}

#[test]
fn kubernetes_file() {
    mutate_file("k8s-etcd-3.6.db");
}

#[test]
fn auth_file() {
    mutate_file("etcd-3.5-auth.db");
}

/// Decodes and verifies a stream the way a restore does.
fn verify(stream: &[u8], compact_revision: i64) -> bool {
    let records: Result<Vec<Record<'_>>, _> = Records::of(stream).collect();
    let Ok(records) = records else { return false };
    let mut verifier = Verifier::new(compact_revision, 0);
    // As `vault::prove` does: the check of the order comes before the proof, which relies on it.
    let ordered = verifier.batch(&records, stream);
    let in_order = |pair: &[Record<'_>]| match (pair[0], pair[1]) {
        (Record::Revision(a), Record::Revision(b)) => a.rev < b.rev,
        _ => true,
    };
    assert!(records.windows(2).all(in_order) || ordered.is_err(), "revisions out of order pass");
    if ordered.is_ok() {
        let _ = Prover::new(Scope { revision: 71, compact_revision }, 1).batch(&records);
    }
    ordered.is_ok() && verifier.finish().is_ok()
}

#[test]
fn record_streams() {
    let stream: Vec<u8> = encode(&fixture("etcd-3.5-auth.db")).unwrap().into_iter().flat_map(|b| b.bytes).collect();
    assert!(verify(&stream, 30));
    in_threads(|seed| {
        let mut rng = Seeded::new(seed);
        let mut mutated = stream.clone();
        mutate(&mut mutated, &mut rng, 512);
        assert!(mutated == stream || !verify(&mutated, 30), "seed {seed}: a damaged stream was accepted");
    });
}

#[test]
fn every_cut_of_a_stream_is_noticed() {
    let stream: Vec<u8> = encode(&fixture("etcd-3.5-auth.db")).unwrap().into_iter().flat_map(|b| b.bytes).collect();
    for cut in 0..stream.len() {
        assert!(!verify(&stream[..cut], 30), "cut at {cut}");
    }
}
