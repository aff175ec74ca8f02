//! What is known before a restore: about the source, the members, the target and the history around it.

use futures::stream::{self, StreamExt};
use serde::Serialize;
use std::path::{Path, PathBuf};

use crate::base::clock::Time;
use crate::base::digest::Sha256;
use crate::base::error::{Error, IoContext, Kind, Result};
use crate::base::file::free_bytes;
use crate::base::id::EtcdId;
use crate::snapshot::bbolt::records::Source;
use crate::snapshot::bbolt::side::SIDE_ENTRIES_MAX;
use crate::snapshot::decode::Records;
use crate::snapshot::record::Record;
use crate::store::offline::install::vacant;
use crate::vault::admit::{Admitted, PASSED_OVER_MAX};
use crate::vault::catalog::{Catalog, is_damage};
use crate::vault::get::{Direction, Reader};
use crate::vault::layout::PointName;
use crate::vault::manifest::{Comparison, Manifest};
use crate::vault::repository::{LOADS_MAX, Repository};
use crate::vault::sign::Standing;

/// Points whose manifests are read to learn how fast history went; with their chains that is some days of hourly ones.
const RECENT_POINTS_MAX: usize = 12;

/// Everything a plan is made from.
#[derive(Clone, Debug)]
pub struct Facts {
    /// What is restored.
    pub source: SourceFacts,
    /// The members the cluster had.
    pub members: Vec<Member>,
    /// Where it goes.
    pub target: TargetFacts,
    /// What the repository knows of the cluster's history after the source.
    pub history: Option<History>,
    /// When the plan is made.
    pub now: Time,
}

/// A restore point or a file.
#[derive(Clone, Debug)]
pub struct SourceFacts {
    /// How people call it.
    pub name: String,
    /// Cluster it was taken from; 0 when unknown.
    pub cluster_id: EtcdId,
    /// The branch of history that the member it was taken from was born on, when that is known.
    pub member_lineage: Option<Sha256>,
    /// Its revision.
    pub revision: i64,
    /// Its compaction; 0 for none.
    pub compact_revision: i64,
    /// The moment up to which it certainly holds everything: when the backup began. Not known of a file.
    pub time: Option<Time>,
    /// etcd's storage version; empty before 3.6.
    pub storage_version: String,
    /// Keys alive, when known before reading everything.
    pub live_keys: Option<u64>,
    /// Bytes to be read.
    pub stored_bytes: u64,
    /// Bytes of records, about the size of the result.
    pub raw_bytes: u64,
    /// Whether authentication is on.
    pub auth_enabled: bool,
    /// Alarms that come back with it.
    pub alarms: u64,
    /// What is known of its soundness.
    pub trust: Trust,
}

/// What is known of a source's soundness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// A restore point.
    Point {
        /// How it compared with the live cluster.
        comparison: Comparison,
        /// The newest verification: level and whether it passed.
        verified: Option<(u8, bool)>,
        /// Whether a collector is about to delete it.
        condemned: bool,
        /// What speaks against who made it, and was allowed.
        doubt: Option<String>,
    },
    /// A file with its SHA-256 behind it, which is right.
    Sealed,
    /// A file without.
    Bare,
}

/// A member as the old cluster knew it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Where its peers reach it.
    pub peer_urls: Vec<String>,
}

/// The file to be written.
#[derive(Clone, Debug)]
pub struct TargetFacts {
    /// Its path.
    pub path: PathBuf,
    /// Whether something is there.
    pub exists: bool,
    /// Bytes free in its folder.
    pub free_bytes: u64,
}

/// What came after the source, as far as the repository knows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct History {
    /// The highest revision ever seen on the source's branch.
    pub high_water: i64,
    /// The highest rate of changes between two of the newest points, per second.
    pub rate_per_s: f64,
    /// Seconds since the last point was begun.
    pub since_last_s: f64,
}

/// Looks at the target's folder.
pub fn target(path: &Path) -> Result<TargetFacts> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !folder.is_dir() {
        return Err(Error::new(Kind::Usage, format!("the folder {} does not exist", folder.display()))
            .hint("create it first, or choose another place for the file"));
    }
    let exists = match std::fs::symlink_metadata(path) {
        Ok(_) => true,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(error) => return Err(Error::io(format!("look at {}", path.display()), error)),
    };
    Ok(TargetFacts { path: path.to_owned(), exists, free_bytes: free_bytes(folder)? })
}

/// Looks at the place of a new member's directory, which must be free.
pub fn directory(data_dir: &Path, wal_dir: Option<&Path>) -> Result<TargetFacts> {
    vacant(data_dir, wal_dir).map_err(|error| error.or_hint("give the path of a directory, there or not yet"))?;
    let there = data_dir.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("/"));
    Ok(TargetFacts { path: data_dir.to_owned(), exists: false, free_bytes: free_bytes(there)? })
}

/// The absolute path of a file that need not exist.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).during(|| format!("resolve {}", path.display()))
}

/// The members among `records`.
pub fn members_of<'a>(records: impl Iterator<Item = &'a Record<'a>>) -> Vec<Member> {
    #[derive(serde::Deserialize)]
    struct Stored {
        #[serde(default)]
        name: String,
        #[serde(default, rename = "peerURLs")]
        peer_urls: Vec<String>,
    }
    let json = records.filter_map(|record| if let Record::Member { json, .. } = record { Some(json) } else { None });
    let stored = json.filter_map(|json| serde_json::from_slice::<Stored>(json).ok());
    let mut members: Vec<_> = stored.map(|m| Member { name: m.name, peer_urls: m.peer_urls }).collect();
    members.sort_by(|a, b| a.name.cmp(&b.name));
    members
}

/// What a first object says beside the manifest.
#[derive(Clone, Debug, Default)]
pub struct Side {
    /// Its members.
    pub members: Vec<Member>,
    /// Whether authentication is on.
    pub auth_enabled: bool,
}

impl Side {
    /// Reads the records that come before history.
    pub fn of(records: &[Record<'_>]) -> Self {
        let auth_enabled = records.iter().any(|r| matches!(r, Record::AuthConfig { enabled: Some(true), .. }));
        Side { members: members_of(records.iter()), auth_enabled }
    }

    /// Of a restore point: the first object of its own stream holds them.
    pub async fn of_point(
        repository: &Repository,
        manifest: &Manifest,
        stop: &crate::base::stop::Stop,
    ) -> Result<Self> {
        let own = manifest.own_objects();
        let first = &own[..own.len().min(1)];
        let mut reader = Reader::start(repository, first, Direction::Forward, stop);
        let Some(object) = reader.next().await? else { return Ok(Side::default()) };
        let mut told = vec![];
        for record in Records::of(&object.bytes) {
            match record? {
                Record::Revision(_) => break,
                record @ (Record::Member { .. } | Record::AuthConfig { .. }) => told.push(record),
                _ => {}
            }
            if told.len() > SIDE_ENTRIES_MAX {
                return Err(Error::damaged(format!("the point has more than {SIDE_ENTRIES_MAX} members")));
            }
        }
        Ok(Side::of(&told))
    }
}

/// Facts about a restore point.
pub fn of_point(admitted: &Admitted, side: &Side, verified: Option<(u8, bool)>, condemned: bool) -> SourceFacts {
    let (manifest, doubt) = (&admitted.manifest, admitted.doubt.clone());
    let descriptor = &manifest.descriptor;
    SourceFacts {
        name: format!("point {} of cluster {}", manifest.attempt, manifest.cluster),
        cluster_id: descriptor.cluster_id,
        member_lineage: descriptor.member_lineage,
        revision: descriptor.revision,
        compact_revision: descriptor.compact_revision,
        time: Some(manifest.started),
        storage_version: descriptor.storage_version.clone(),
        live_keys: Some(manifest.counts.live_keys),
        stored_bytes: manifest.counts.stored_bytes,
        raw_bytes: manifest.counts.raw_bytes,
        auth_enabled: side.auth_enabled,
        alarms: manifest.counts.alarms,
        trust: Trust::Point { comparison: manifest.comparison(), verified, condemned, doubt },
    }
}

/// Facts about a snapshot file.
pub fn of_file<P: crate::snapshot::bbolt::Pages>(
    name: &str,
    source: &Source<'_, P>,
    bytes: u64,
    trust: Trust,
) -> (SourceFacts, Side) {
    let facts = source.facts();
    let records = source.side_records();
    let side = Side::of(&records);
    let alarms = records.iter().filter(|record| matches!(record, Record::Alarm { .. })).count() as u64;
    let source = SourceFacts {
        name: format!("file {name}"),
        cluster_id: EtcdId(0),
        member_lineage: None,
        revision: facts.revision,
        compact_revision: facts.compact_revision,
        time: None,
        storage_version: facts.storage_version.clone(),
        live_keys: None,
        stored_bytes: bytes,
        raw_bytes: bytes,
        auth_enabled: side.auth_enabled,
        alarms,
        trust,
    };
    (source, side)
}

/// What the points of a branch tell about its history: names, how far it came; the newest manifests and the segments of
/// their chains, how fast. Damaged ones tell nothing.
pub async fn history(
    repository: &Repository,
    catalog: &Catalog,
    manifest: &Manifest,
    now: Time,
) -> Result<Option<History>> {
    let mut names: Vec<&PointName> =
        catalog.points.iter().map(|point| &point.name).filter(|name| name.lineage == manifest.lineage).collect();
    names.sort_by_key(|name| std::cmp::Reverse((name.revision, name.attempt)));
    if names.is_empty() {
        return Ok(None);
    }
    // Where somebody has to sign, a name tells nothing by itself.
    let named = repository.signers().believes(Standing::Unsigned);
    let mut high_water = if named { names[0].revision } else { manifest.descriptor.revision };
    let loads = names.into_iter().take(PASSED_OVER_MAX).map(|name| repository.manifest(name));
    let mut loaded = stream::iter(loads).buffered(LOADS_MAX);
    let (mut moments, mut believed) = (moments_of(manifest), 0);
    while let Some(recent) = loaded.next().await {
        match recent {
            Ok(recent) => {
                high_water = high_water.max(recent.descriptor.revision);
                moments.extend(moments_of(&recent));
                believed += 1;
            }
            Err(error) if is_damage(&error) => {}
            Err(error) => return Err(error),
        }
        if believed == RECENT_POINTS_MAX {
            break;
        }
    }
    moments.sort_unstable();
    let seconds = |from: Time, to: Time| to.signed_duration_since(from).as_seconds_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate is an estimate")]
    let rate = |pair: &[(Time, i64)]| (pair[1].1 - pair[0].1) as f64 / seconds(pair[0].0, pair[1].0).max(1.0);
    let rate_per_s = moments.windows(2).map(rate).fold(0.0, f64::max);
    let since_last_s = moments.last().map_or(0.0, |last| seconds(last.0, now).max(0.0));
    Ok(Some(History { high_water, rate_per_s, since_last_s }))
}

/// When the history of a point reached which revisions.
fn moments_of(manifest: &Manifest) -> Vec<(Time, i64)> {
    manifest.segments.iter().map(|segment| (segment.started, segment.revision)).collect()
}
