//! Manifests: what a restore point is, what it is made of, and what proves it.
//!
//! A manifest lists every object of its whole chain in order of reading, so a point depends on no other point. It is
//! the only thing that makes data visible, and it never changes.
//!
//! `validate` treats a manifest as hostile even though its checksum matched: whoever can write to the bucket can compute
//! a checksum. After it, names lie under the point's own cluster, sums are what they claim to be, and no size exceeds
//! the limits that readers allocate by.

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::HashSet;
use std::fmt;

use crate::base::clock::Time;
use crate::base::digest::Sha256;
use crate::base::error::{Error, Kind, Result};
use crate::base::id::{self, EtcdId};
use crate::snapshot::hash::{Scope, StateDigest};
use crate::snapshot::proof::{self, Proof, SAMPLES_MAX, Sample};
use crate::snapshot::record;
use crate::snapshot::tail::Tail;
use crate::vault::chain::{self, Segment};
use crate::vault::encryption::RECIPIENTS_MAX;
use crate::vault::layout::{Attempt, Lineage, Location, PointKind, PointName};
use crate::vault::sealed::{self, Document};

/// Objects in a chain: 3 TiB of records at the usual size.
pub const OBJECTS_MAX: usize = 100_000;
/// Stored bytes of a data object that holds more than one record.
pub const OBJECT_STORED_BYTES_MAX: u64 = 16 << 20;
/// Raw bytes of a data object that holds more than one record.
pub const OBJECT_RAW_BYTES_MAX: u64 = 32 << 20;
/// Raw bytes of one record with its length: the largest object there can be.
pub const RECORD_BYTES_MAX: u64 = record::RECORD_BYTES_MAX as u64;
/// Stored bytes of the largest object: incompressible bytes grow by less than one part in 128, encrypted or not.
pub const RECORD_STORED_BYTES_MAX: u64 = RECORD_BYTES_MAX + (RECORD_BYTES_MAX >> 7);

/// A restore point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The cluster, as the operator calls it.
    pub cluster: String,
    /// The branch of the cluster's history.
    pub lineage: Lineage,
    /// Whether the point's own objects hold the whole state.
    pub kind: PointKind,
    /// Which attempt made it; tells a lost reply from a conflict, and names the point.
    pub attempt: Attempt,
    /// When the backup began; wall time, for people.
    #[serde(with = "sealed::rfc3339")]
    pub started: Time,
    /// When its data was complete.
    #[serde(with = "sealed::rfc3339")]
    pub finished: Time,
    /// What made it.
    pub tool: Tool,
    /// Where the records came from.
    pub source: Source,
    /// What can be restored from it.
    pub fidelity: Fidelity,
    /// What the records are a picture of.
    pub descriptor: Descriptor,
    /// How much it holds.
    pub counts: Counts,
    /// What proves that it equals the cluster.
    pub proofs: Proofs,
    /// The seed that chose `samples`, hexadecimal.
    pub sample_seed: EtcdId,
    /// Digests of some live facts, taken from the stream; a drill looks for them.
    pub samples: Vec<Sample>,
    /// Fingerprints of its newest revisions, by which the next increment knows its history.
    pub tail: Tail,
    /// The streams of the chain, in order of reading.
    pub segments: Vec<Segment>,
    /// For whom the data of the whole chain is encrypted, sorted; nobody: it is not.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "recipients")]
    pub recipients: Vec<String>,
    /// The objects of the whole chain, in order of reading.
    pub objects: Vec<ObjectEntry>,
}

/// So many recipients at most: of a list of millions of empty ones, each would take eight times its bytes.
fn recipients<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct Few;
    impl<'de> Visitor<'de> for Few {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {RECIPIENTS_MAX} recipients")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut names: A) -> Result<Vec<String>, A::Error> {
            let mut few = vec![];
            while let Some(name) = names.next_element()? {
                if few.len() == RECIPIENTS_MAX {
                    return Err(A::Error::invalid_length(RECIPIENTS_MAX + 1, &self));
                }
                few.push(name);
            }
            Ok(few)
        }
    }
    deserializer.deserialize_seq(Few)
}

impl Document for Manifest {
    const NAME: &'static str = "manifest";
    const BYTES_MAX: u64 = 64 << 20;
}

/// The program that wrote a document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tool {
    /// `holdfast`.
    pub name: String,
    /// Its version.
    pub version: String,
}

impl Tool {
    /// This program.
    pub fn this() -> Self {
        Tool { name: env!("CARGO_PKG_NAME").to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() }
    }
}

/// Where the records came from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// The member's address, or the file's name for an import.
    pub endpoint: String,
    /// The version the member reports; empty when unknown.
    pub version: String,
    /// The member's name, when it was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member_name: Option<String>,
    /// Why this member and not another.
    pub chosen_because: String,
}

/// What can be restored from a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fidelity {
    /// Everything: keys and history, leases, users, roles, alarms.
    Full,
    /// Keys and their history are of this revision; the rest is of the last full point.
    Keys,
}

/// What the records are a picture of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Descriptor {
    /// The cluster's own id.
    pub cluster_id: EtcdId,
    /// The member the records came from.
    pub member_id: EtcdId,
    /// The revision of the state.
    pub revision: i64,
    /// The compaction that shaped it; 0 when there was none.
    pub compact_revision: i64,
    /// Raft's term when it was taken.
    pub raft_term: u64,
    /// Raft's index when it was taken.
    pub raft_index: u64,
    /// etcd's storage version; empty before 3.6.
    pub storage_version: String,
    /// Page size of the file the records came from; 0 when they came from no file.
    pub page_size: u32,
    /// Size of that file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub db_bytes: Option<u64>,
    /// SHA-256 of that file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub db_sha256: Option<Sha256>,
    /// The branch of history that the member was born on, if it is a Holdfast member: not the repository's branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member_lineage: Option<Sha256>,
}

impl Descriptor {
    /// What a stream says it is a picture of, and length and digest of the etcd file it came from.
    pub fn of(descriptor: &record::Descriptor<'_>, db: Option<(u64, Sha256)>) -> Self {
        Descriptor {
            cluster_id: descriptor.cluster_id,
            member_id: descriptor.member_id,
            revision: descriptor.revision,
            compact_revision: descriptor.compact_revision,
            raft_term: descriptor.raft_term,
            raft_index: descriptor.raft_index,
            storage_version: descriptor.storage_version.to_owned(),
            page_size: descriptor.page_size,
            db_bytes: db.map(|db| db.0),
            db_sha256: db.map(|db| db.1),
            member_lineage: descriptor.lineage,
        }
    }
}

/// How much a point holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// Records in all objects of the chain, also those that are not part of the state any more.
    pub records: u64,
    /// Key values at a revision, tombstones included.
    pub revisions: u64,
    /// Tombstones.
    pub tombstones: u64,
    /// Keys that exist at the point's revision.
    pub live_keys: u64,
    /// Leases.
    pub leases: u64,
    /// Users.
    pub users: u64,
    /// Roles.
    pub roles: u64,
    /// Alarms.
    pub alarms: u64,
    /// Members.
    pub members: u64,
    /// Entries kept without being understood.
    pub extras: u64,
    /// Bytes of all records with their lengths.
    pub raw_bytes: u64,
    /// Bytes of all objects as stored.
    pub stored_bytes: u64,
}

impl Counts {
    /// What was counted in the records, and how much the objects hold.
    pub fn of(counts: &proof::Counts, objects: &[ObjectEntry]) -> Self {
        let sum = |field: fn(&ObjectEntry) -> u64| objects.iter().map(field).sum();
        Counts {
            records: sum(|entry| entry.records),
            revisions: counts.revisions,
            tombstones: counts.tombstones,
            live_keys: counts.live_keys,
            leases: counts.leases,
            users: counts.users,
            roles: counts.roles,
            alarms: counts.alarms,
            members: counts.members,
            extras: counts.extras,
            raw_bytes: sum(|entry| entry.raw_bytes),
            stored_bytes: sum(|entry| entry.stored_bytes),
        }
    }
}

/// What proves that a point equals the cluster it was taken from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proofs {
    /// The cluster's own hash against ours.
    pub hash_at_source: HashAtSource,
    /// etcd's HashKV over the records as they are.
    pub hash_kv: HashKv,
    /// The sum modulo 2^256 of the SHA-256 of every live fact.
    pub state_digest: StateDigest,
    /// How that compares with the digest that the member keeps itself; absent where it keeps none, as etcd.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest_at_source: Option<Comparison>,
}

impl Proofs {
    /// What `proof` proves, and how the cluster's own hash compares.
    pub fn of(proof: &Proof, hash_at_source: HashAtSource) -> Self {
        let Scope { revision, compact_revision } = proof.scope;
        let hash_kv = HashKv { hash: proof.hash_kv, revision, compact_revision };
        Proofs { hash_at_source, hash_kv, state_digest: proof.state_digest, digest_at_source: None }
    }
}

/// How the cluster's own hash compares with ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Comparison {
    /// The cluster answered and both are the same.
    Equal,
    /// The cluster answered and they differ: the point is kept, and marked.
    Differs,
    /// They could not be compared; `reason` says why.
    NotCompared,
}

/// The cluster's own hash against ours, folded to the compaction of its reply.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HashAtSource {
    /// The outcome.
    pub verdict: Comparison,
    /// Why it was not compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The cluster's hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<u32>,
    /// The revision the cluster hashed up to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
    /// The compaction in the cluster's reply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compact_revision: Option<i64>,
    /// Our hash under the same compaction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ours: Option<u32>,
}

/// etcd's HashKV with what it is a hash of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HashKv {
    /// CRC-32C, as etcd prints it.
    pub hash: u32,
    /// Up to this revision.
    pub revision: i64,
    /// Under this compaction.
    pub compact_revision: i64,
}

/// One data object of a chain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ObjectEntry {
    /// Path relative to the repository.
    pub name: String,
    /// How often its records were merged.
    pub level: u8,
    /// Lowest main revision in it.
    pub first: i64,
    /// Highest main revision in it.
    pub last: i64,
    /// Records in it.
    pub records: u64,
    /// Bytes of its records with their lengths.
    pub raw_bytes: u64,
    /// Bytes as stored.
    pub stored_bytes: u64,
    /// SHA-256 of the stored bytes.
    pub sha256: Sha256,
}

impl Manifest {
    /// The name the manifest is stored under.
    pub fn name(&self) -> PointName {
        PointName {
            cluster: self.cluster.clone(),
            lineage: self.lineage,
            revision: self.descriptor.revision,
            kind: self.kind,
            attempt: self.attempt,
        }
    }

    /// The objects of the point's own stream: all of a full point, the last increment of a chain.
    pub fn own_objects(&self) -> &[ObjectEntry] {
        let own = self.segments.last().map_or(0, |segment| segment.objects);
        &self.objects[self.objects.len().saturating_sub(own)..]
    }

    /// Whether the point's chain was proved equal to, or different from, the cluster.
    pub fn comparison(&self) -> Comparison {
        self.proofs.hash_at_source.verdict
    }

    /// Checks everything that does not need the objects themselves.
    pub fn validate(&self, name: &PointName) -> Result<()> {
        let path = Location::Point(name.clone());
        self.check(name).map_err(|error| {
            let text = format!("manifest {path} contradicts itself");
            Error::new(Kind::Damaged, text)
                .source(error)
                .hint("do not restore from it; `holdfast list` shows other points")
        })
    }

    fn check(&self, name: &PointName) -> Result<()> {
        id::check_name("cluster", &self.cluster)?;
        ensure(self.name() == *name, || "its content belongs to another name".to_owned())?;
        let d = &self.descriptor;
        ensure(self.recipients.len() <= RECIPIENTS_MAX, || format!("{} recipients", self.recipients.len()))?;
        ensure(d.revision >= 0 && (0..=d.revision).contains(&d.compact_revision), || {
            format!("revision {} with compaction {}", d.revision, d.compact_revision)
        })?;
        ensure(self.samples.len() <= SAMPLES_MAX, || format!("{} samples", self.samples.len()))?;
        ensure(self.samples.iter().all(|s| (0..=d.revision).contains(&s.mod_revision)), || {
            "a sample is newer than the point".to_owned()
        })?;
        self.proofs.check(d)?;
        self.check_objects()?;
        ensure((self.kind == PointKind::Full) == (self.segments.len() == 1), || {
            "its kind is not that of its chain".to_owned()
        })?;
        chain::fault(self).map_or(Ok(()), |fault| Err(Error::damaged(fault)))
    }

    fn check_objects(&self) -> Result<()> {
        let count = self.objects.len();
        ensure((1..=OBJECTS_MAX).contains(&count), || format!("{count} objects"))?;
        let mut names = HashSet::with_capacity(count);
        let (mut records, mut raw, mut stored) = (0_u64, 0_u64, 0_u64);
        let mut previous = 0;
        for entry in &self.objects {
            entry.check(&self.cluster)?;
            ensure(names.insert(entry.name.as_str()), || format!("{} is listed twice", entry.name))?;
            ensure(entry.first >= previous && entry.last <= self.descriptor.revision, || {
                format!("{} is out of order", entry.name)
            })?;
            previous = entry.first;
            ensure(entry.is_encrypted() != self.recipients.is_empty(), || {
                format!("{} is not encrypted as the point says", entry.name)
            })?;
            // The sizes of one object are limited and so is their number: these sums cannot overflow.
            records += entry.records;
            raw += entry.raw_bytes;
            stored += entry.stored_bytes;
        }
        let c = &self.counts;
        ensure((records, raw, stored) == (c.records, c.raw_bytes, c.stored_bytes), || {
            format!("its objects hold {records} records in {raw} bytes ({stored} stored), its counts say otherwise")
        })?;
        ensure(c.tombstones <= c.revisions && c.revisions <= c.records && c.live_keys <= c.revisions, || {
            "its counts cannot all be true".to_owned()
        })
    }
}

impl ObjectEntry {
    /// Whether the object is an age file.
    pub fn is_encrypted(&self) -> bool {
        Location::parse_data(&self.name).is_ok_and(|name| name.encrypted)
    }

    /// Whether sizes are within the limits; one record alone may be larger than what many share.
    pub fn fits(&self) -> bool {
        let (raw_max, stored_max) = match self.records {
            1 => (RECORD_BYTES_MAX, RECORD_STORED_BYTES_MAX),
            _ => (OBJECT_RAW_BYTES_MAX, OBJECT_STORED_BYTES_MAX),
        };
        // A record is at least its length, one byte.
        (1..=self.raw_bytes).contains(&self.records)
            && self.raw_bytes <= raw_max
            && (1..=stored_max).contains(&self.stored_bytes)
    }

    fn check(&self, cluster: &str) -> Result<()> {
        let name = Location::parse_data(&self.name)?;
        ensure(name.cluster == cluster, || format!("{} belongs to another cluster", self.name))?;
        let same = (name.first, name.last, name.level, name.digest) == (self.first, self.last, self.level, self.sha256);
        ensure(same, || format!("{} is described differently from its name", self.name))?;
        ensure((0..=self.last).contains(&self.first), || format!("{} ends before it begins", self.name))?;
        ensure(self.fits(), || {
            format!(
                "{} claims {} records, {} bytes raw, {} stored",
                self.name, self.records, self.raw_bytes, self.stored_bytes
            )
        })
    }
}

impl Proofs {
    fn check(&self, descriptor: &Descriptor) -> Result<()> {
        let h = &self.hash_at_source;
        let fits = match (h.verdict, h.hash, h.ours) {
            (Comparison::Equal, Some(theirs), Some(ours)) => theirs == ours && h.revision.is_some(),
            (Comparison::Differs, Some(theirs), Some(ours)) => theirs != ours && h.revision.is_some(),
            (Comparison::NotCompared, ..) => h.reason.is_some(),
            _ => false,
        };
        ensure(fits, || "its hash_at_source does not bear out its verdict".to_owned())?;
        // A point whose digests differ is not made.
        ensure(self.digest_at_source != Some(Comparison::Differs), || {
            "its state digest is not that of the member".to_owned()
        })?;
        let kv = &self.hash_kv;
        ensure(kv.revision == descriptor.revision && kv.compact_revision == descriptor.compact_revision, || {
            "its hash_kv is of another state than its descriptor".to_owned()
        })
    }
}

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::damaged(what())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::testing;

    #[test]
    fn a_manifest_reads_back_and_every_flipped_byte_shows() {
        let manifest = testing::manifest("prod", &[testing::entry("prod", 1, 5), testing::entry("prod", 5, 9)]);
        manifest.validate(&manifest.name()).unwrap();
        let bytes = sealed::seal(&manifest).unwrap();
        assert_eq!(sealed::open::<Manifest>("m", &bytes).unwrap(), manifest);
        let mut wrong = bytes.clone();
        for at in 0..bytes.len() {
            wrong[at] ^= 0x10;
            assert_eq!(sealed::open::<Manifest>("m", &wrong).unwrap_err().kind(), Kind::Damaged, "byte {at}");
            wrong[at] ^= 0x10;
            assert!(sealed::open::<Manifest>("m", &bytes[..at]).is_err(), "cut at {at}");
        }
    }

    /// Signed with openssl, by the commands of docs/formats/repository.md turned round.
    const SIGNED: &[u8] = include_bytes!("../../tests/fixtures/signed/manifest.json");

    #[test]
    fn a_signed_manifest_of_format_1_is_read_for_ever() {
        let (manifest, signer) = sealed::open_signed::<Manifest>("m", SIGNED).unwrap();
        manifest.validate(&manifest.name()).unwrap();
        assert_eq!((manifest.attempt.to_string().as_str(), manifest.descriptor.revision), ("00853cc280e83678", 71));
        assert_eq!(signer, Some(testing::signing_key(9).public()));
        assert_eq!(sealed::seal_signed(&manifest, &testing::signing_key(9)).unwrap(), SIGNED);
    }

    #[test]
    fn no_byte_of_a_signed_manifest_changes_under_a_new_checksum() {
        let from = SIGNED.iter().position(|byte| *byte == b',').unwrap();
        let mut refused = 0;
        for at in (from..SIGNED.len()).step_by(5) {
            let mut wrong = SIGNED.to_vec();
            wrong[at] ^= 1;
            let digits = wrong.iter().position(|byte| *byte == b':').unwrap() + 3;
            wrong[digits..digits + 64].fill(b'0');
            let checksum = Sha256::of(&wrong).to_string();
            wrong[digits..digits + 64].copy_from_slice(checksum.as_bytes());
            let error = sealed::open_signed::<Manifest>("m", &wrong).unwrap_err();
            assert_eq!(error.kind(), Kind::Damaged, "byte {at}");
            refused += u32::from(error.chain().contains("signature does not match"));
        }
        assert!(refused > 1_000, "{refused}");
    }

    #[test]
    fn what_contradicts_itself_is_refused_by_name() {
        type Change = fn(&mut Manifest);
        let changes: &[(&str, Change)] = &[
            ("another name", |m| m.cluster = "other".into()),
            ("cannot be used", |m| m.cluster = "..".into()),
            ("another name", |m| m.descriptor.revision += 1),
            ("compaction", |m| m.descriptor.compact_revision = 99),
            ("compaction", |m| m.descriptor.compact_revision = -1),
            ("0 objects", |m| m.objects.clear()),
            ("listed twice", |m| {
                let again = m.objects[0].clone();
                m.objects.insert(0, again);
            }),
            ("out of order", |m| m.objects.reverse()),
            ("its counts say", |m| m.counts.raw_bytes += 1),
            ("its counts say", |m| m.counts.records -= 1),
            ("its counts say", |m| {
                m.objects.pop();
            }),
            ("cannot all be true", |m| m.counts.tombstones = m.counts.revisions + 1),
            ("claims", |m| m.objects[0].raw_bytes = OBJECT_RAW_BYTES_MAX + 1),
            ("claims", |m| m.objects[0].stored_bytes = u64::MAX),
            ("claims", |m| m.objects[0].records = 0),
            ("described differently", |m| m.objects[0].first = 0),
            ("described differently", |m| m.objects[0].sha256 = Sha256::default()),
            ("not a name", |m| m.objects[0].name = "../../etc/passwd".into()),
            ("not the name of a data object", |m| m.objects[0].name = "config/00000001.json".into()),
            ("another cluster", |m| m.objects[0].name = m.objects[0].name.replace("/prod/", "/other/")),
            ("verdict", |m| m.proofs.hash_at_source.ours = Some(1)),
            ("verdict", |m| m.proofs.hash_at_source.verdict = Comparison::Differs),
            ("verdict", |m| m.proofs.hash_at_source.verdict = Comparison::NotCompared),
            ("hash_kv", |m| m.proofs.hash_kv.revision = 1),
            ("newer than the point", |m| m.samples[0].mod_revision = 1 << 60),
            ("samples", |m| m.samples = vec![m.samples[0]; SAMPLES_MAX + 1]),
        ];
        let right = testing::manifest("prod", &[testing::entry("prod", 1, 5), testing::entry("prod", 5, 9)]);
        for (expected, change) in changes {
            let mut wrong = right.clone();
            change(&mut wrong);
            let error = wrong.validate(&right.name()).unwrap_err();
            assert_eq!(error.kind(), Kind::Damaged, "{expected}");
            assert!(error.chain().contains(expected), "{expected}: {}", error.chain());
        }
    }

    #[test]
    fn one_record_alone_may_be_large() {
        let mut entry = testing::entry("prod", 1, 5);
        (entry.records, entry.raw_bytes, entry.stored_bytes) = (1, RECORD_BYTES_MAX, RECORD_BYTES_MAX + 1000);
        assert!(entry.fits());
        entry.records = 2;
        assert!(!entry.fits());
    }
}
