//! What the tests of this module share: a repository in a temporary directory, small manifests, and damage.

use std::fs;
use std::path::Path;
use tempfile::TempDir;

use crate::base::clock::{Clock, Time, parse_rfc3339};
use crate::base::digest::{Sha256, base64};
use crate::base::error::Error;
use crate::base::id::EtcdId;
use crate::base::steps::Steps;
use crate::base::stop::{Stop, blocking};
use crate::snapshot::encode::Block;
use crate::snapshot::hash::StateDigest;
use crate::snapshot::proof::Sample;
use crate::snapshot::tail::Tail;
use crate::vault::chain::Segment;
use crate::vault::get::{Direction, Reader};
use crate::vault::layout::{Attempt, Lineage, Location, ObjectName, PointKind};
use crate::vault::lineage::LineageDocument;
use crate::vault::manifest::{
    Comparison, Counts, Descriptor, Fidelity, HashAtSource, HashKv, Manifest, ObjectEntry, Proofs, Source, Tool,
};
use crate::vault::publish::publish;
use crate::vault::put::{Destination, Limits, Writer};
use crate::vault::repository::{Keys, Repository, RepositoryOptions};
use crate::vault::sign::{Signers, SigningKey};

pub(crate) const LINEAGE: &str = "00112233445566778899aabbccddeeff";

pub(crate) fn time() -> Time {
    parse_rfc3339("2026-05-15T02:00:00Z").unwrap()
}

pub(crate) fn lineage() -> Lineage {
    Lineage::parse(LINEAGE).unwrap()
}

pub(crate) async fn repository() -> (TempDir, Repository) {
    let dir = tempfile::tempdir().unwrap();
    let options = RepositoryOptions {
        url: format!("file://{}", dir.path().display()),
        clock: Clock::Fixed(time()),
        ..RepositoryOptions::default()
    };
    let repository = Repository::create_or_open(&options).await.unwrap();
    (dir, repository)
}

/// The private key of a seed, in the PEM that openssl writes.
pub(crate) fn key_pem(seed: &[u8]) -> String {
    // PKCS #8, version 1, as RFC 8410 has it for Ed25519.
    let prefix = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    let line = base64(&[&prefix[..], seed].concat());
    format!("-----BEGIN PRIVATE KEY-----\n{line}\n-----END PRIVATE KEY-----\n")
}

/// One key for each number.
pub(crate) fn signing_key(n: u8) -> SigningKey {
    SigningKey::parse("key", &key_pem(&[n; 32])).unwrap()
}

/// The repository at the same place, opened to write by somebody who signs with `signing` and believes `signers`.
pub(crate) async fn reopened(repository: &Repository, signing: Option<SigningKey>, signers: Signers) -> Repository {
    opened(repository, repository.clock(), Keys { signing, signers, ..Keys::default() }).await
}

/// The same, with the clock of today: what the store's own files are dated by.
pub(crate) async fn today(repository: &Repository, signing: Option<SigningKey>, signers: Signers) -> Repository {
    opened(repository, Clock::default(), Keys { signing, signers, ..Keys::default() }).await
}

async fn opened(repository: &Repository, clock: Clock, keys: Keys) -> Repository {
    let options = RepositoryOptions { url: repository.url().to_owned(), clock, keys, ..RepositoryOptions::default() };
    Repository::create_or_open(&options).await.unwrap()
}

/// An entry that describes no real object.
pub(crate) fn entry(cluster: &str, first: i64, last: i64) -> ObjectEntry {
    let sha256 = Sha256::of(format!("{first} {last}").as_bytes());
    let name = ObjectName {
        cluster: cluster.into(),
        lineage: lineage(),
        first,
        last,
        level: 0,
        digest: sha256,
        encrypted: false,
    };
    let name = Location::Data(name).to_string();
    ObjectEntry { name, level: 0, first, last, records: 10, raw_bytes: 1_000, stored_bytes: 200, sha256 }
}

/// A manifest over `objects` that validates.
pub(crate) fn manifest(cluster: &str, objects: &[ObjectEntry]) -> Manifest {
    let sum = |field: fn(&ObjectEntry) -> u64| objects.iter().map(field).sum::<u64>();
    let revision = objects.last().map_or(0, |entry| entry.last);
    let records = sum(|entry| entry.records);
    Manifest {
        cluster: cluster.into(),
        lineage: lineage(),
        kind: PointKind::Full,
        attempt: Attempt::random().unwrap(),
        started: time(),
        finished: time(),
        tool: Tool::this(),
        source: Source {
            endpoint: "http://127.0.0.1:2379".into(),
            version: "3.5.21".into(),
            member_name: None,
            chosen_because: "it is the only member".into(),
        },
        fidelity: Fidelity::Full,
        descriptor: Descriptor {
            cluster_id: EtcdId(1),
            member_id: EtcdId(2),
            revision,
            compact_revision: 0,
            raft_term: 2,
            raft_index: 100,
            storage_version: String::new(),
            page_size: 4096,
            db_bytes: Some(20_480),
            db_sha256: Some(Sha256::of(b"db")),
            member_lineage: None,
        },
        counts: Counts {
            records,
            revisions: records,
            live_keys: 3.min(records),
            raw_bytes: sum(|entry| entry.raw_bytes),
            stored_bytes: sum(|entry| entry.stored_bytes),
            ..Counts::default()
        },
        proofs: Proofs {
            hash_at_source: HashAtSource {
                verdict: Comparison::Equal,
                reason: None,
                hash: Some(7),
                revision: Some(revision),
                compact_revision: Some(0),
                ours: Some(7),
            },
            hash_kv: HashKv { hash: 7, revision, compact_revision: 0 },
            state_digest: StateDigest::default(),
            digest_at_source: None,
        },
        sample_seed: EtcdId(42),
        samples: vec![Sample { key_sha256: Sha256::of(b"k"), fact_sha256: Sha256::of(b"f"), mod_revision: 1 }],
        tail: Tail::default(),
        segments: vec![Segment {
            base_revision: 0,
            revision,
            started: time(),
            compact_revision: 0,
            objects: objects.len(),
            kept: None,
        }],
        recipients: vec![],
        objects: objects.to_vec(),
    }
}

/// Flips one bit in the middle of a file.
pub(crate) fn damage(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    overwrite(path, &bytes);
}

/// Replaces a file's content, as damage does and nothing else may.
pub(crate) fn overwrite(path: &Path, bytes: &[u8]) {
    use std::io::Write;
    fs::File::create(path).unwrap().write_all(bytes).unwrap();
}

/// Writes a whole point of `n` objects (two kinds of records: what is in them does not matter here) and publishes it.
pub(crate) async fn publish_point(
    repository: &Repository,
    cluster: &str,
    n: i64,
    steps: &Steps,
) -> Result<Manifest, Error> {
    let to = Destination { cluster: cluster.into(), lineage: lineage(), base_revision: 0 };
    let limits = Limits { object_raw_bytes_max: 4_000, object_stored_bytes_max: 8_000, ..Limits::default() };
    let mut writer = Writer::start(repository, to, limits, steps.clone(), &Stop::new())?;
    let written = blocking(move || {
        for revision in 1..=n {
            let bytes = format!("record of revision {revision}; ").repeat(120).into_bytes();
            writer.put(Block { bytes, records: 120, first: revision, last: revision })?;
        }
        writer.finish()
    })
    .await?;
    let manifest = Manifest { recipients: repository.recipients(), ..manifest(cluster, &written.objects) };
    let opened = LineageDocument {
        lineage: lineage(),
        parent: None,
        fork_revision: None,
        reason: "the first backup".into(),
        cluster_id: EtcdId(1),
        opened: time(),
    };
    publish(repository, Some(&opened), &manifest, steps).await?;
    Ok(manifest)
}

/// A published point of cluster `prod` with `n` objects.
pub(crate) async fn point(repository: &Repository, n: i64) -> Manifest {
    let manifest = publish_point(repository, "prod", n, &Steps::unheard()).await.unwrap();
    assert_eq!(manifest.objects.len(), usize::try_from(n).unwrap());
    manifest
}

/// Reads every object of a point.
pub(crate) async fn assert_readable(repository: &Repository, manifest: &Manifest) {
    let mut reader = Reader::start(repository, &manifest.objects, Direction::Forward, &Stop::new());
    let mut objects = 0;
    while reader.next().await.unwrap().is_some() {
        objects += 1;
    }
    assert_eq!(objects, manifest.objects.len());
}
