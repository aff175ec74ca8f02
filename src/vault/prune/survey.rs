//! What a collector must know before it decides: every point with what keeps it, and what each point needs.
//!
//! Manifests are read one after the other and not kept: of each stays its place in time and the numbers of its objects,
//! so that ten thousand points that share most of their objects fit into memory.
//!
//! Invariants:
//! - A listing that fails ends the run; one without any point is no reason to call all data unneeded, but an error.
//! - What cannot be read is needed: a point whose manifest is not understood is kept, and as long as there is one, no
//!   object is deleted, because it may be among those that it lists.

use futures::stream::{self, StreamExt, TryStreamExt};
use std::collections::{BTreeMap, HashMap, HashSet};

use crate::base::error::{Error, Result};
use crate::policy::retention;
use crate::vault::catalog::{self, is_damage};
use crate::vault::hold;
use crate::vault::layout::{Location, PointName, folder};
use crate::vault::lineage;
use crate::vault::manifest::{Comparison, Manifest};
use crate::vault::repository::{LOADS_MAX, Repository};
use crate::vault::sign::{Signers, Standing};
use crate::vault::verdict::{Outcome, Rank, Verdict};

/// A point as a collector sees it.
#[derive(Clone, Debug)]
pub struct Surveyed {
    /// Its name.
    pub name: PointName,
    /// What retention is told about it.
    pub fact: retention::Point,
    /// Stored bytes of its chain, which it may share with others; 0 when its manifest cannot be read.
    pub stored_bytes: u64,
    /// Its objects, by their numbers.
    pub(super) objects: Vec<u32>,
}

/// Everything about the points of a cluster.
#[derive(Debug, Default)]
pub(super) struct Survey {
    pub(super) points: Vec<Surveyed>,
    /// The number of each object that any point lists.
    pub(super) numbers: HashMap<String, u32>,
    /// Why no object may be deleted, when that is so.
    pub(super) blind: Vec<String>,
    pub(super) warnings: Vec<String>,
}

impl Survey {
    fn numbered(&mut self, manifest: &Manifest) -> Vec<u32> {
        let mut numbers = Vec::with_capacity(manifest.objects.len());
        for entry in &manifest.objects {
            let next = u32::try_from(self.numbers.len()).expect("four billion names do not fit into memory");
            let number = match self.numbers.get(&entry.name) {
                Some(number) => *number,
                None => *self.numbers.entry(entry.name.clone()).or_insert(next),
            };
            numbers.push(number);
        }
        numbers
    }

    fn unread(&mut self, name: &PointName, error: &Error) {
        self.blind.push(format!("the manifest of point {} cannot be read: {}", name.attempt, error.as_warning()));
    }
}

/// Reads all of it.
pub(super) async fn survey(repository: &Repository, cluster: &str) -> Result<Survey> {
    let mut strays = vec![];
    let mut listed = catalog::list_points(repository, cluster, &mut strays).await?;
    // Stores list in no particular order; what is said and done has one.
    listed.sort_by_key(|point| (point.name.lineage, point.name.revision, point.name.attempt));
    if listed.is_empty() {
        return Err(catalog::nothing(repository, cluster).await);
    }
    let mut survey = Survey::default();
    // What lies among manifests and has no name that this version knows may be a manifest of a later one.
    survey.blind.extend(strays.iter().map(Error::as_warning));
    let holds = hold::read(repository, cluster).await?;
    survey.warnings.extend(holds.damage.iter().map(Error::as_warning));
    let mut verdicts = verdicts(repository, cluster).await?;
    let imported = lineage::imported(cluster);
    let facts = listed.into_iter().map(|point| {
        let said = verdicts.remove(&point.name.stem()).unwrap_or_default();
        async move {
            let manifest = repository.stored_manifest(&point.name).await;
            let judged = judge(repository, &point.name, &said).await?;
            Ok::<_, Error>((point, manifest, judged))
        }
    });
    let mut facts = stream::iter(facts).buffered(LOADS_MAX);
    while let Some((point, manifest, judged)) = facts.try_next().await? {
        survey.warnings.extend(judged.doubts);
        let (stem, hold) = (point.name.stem(), holds.of(&point.name.stem()).cloned());
        let mut fact = retention::Point {
            id: point.name.attempt.to_string(),
            lineage: point.name.lineage.to_string(),
            revision: point.name.revision,
            taken: point.modified,
            readable: true,
            verified: judged.passed,
            failed: judged.failed,
            imported: point.name.lineage == imported,
            origin: retention::Origin::Believed,
            hold,
        };
        let (mut objects, mut stored_bytes) = (vec![], 0);
        match manifest {
            Ok((manifest, standing)) => {
                fact.origin = origin(repository.signers(), standing);
                fact.taken = manifest.started;
                // What is not the state of the cluster takes no place of what is.
                fact.failed |= manifest.comparison() == Comparison::Differs;
                (objects, stored_bytes) = (survey.numbered(&manifest), manifest.counts.stored_bytes);
            }
            Err(error) if is_damage(&error) => {
                fact.readable = false;
                survey.unread(&point.name, &error);
            }
            Err(error) => return Err(error.during(format!("read the manifest of {stem}"))),
        }
        survey.points.push(Surveyed { name: point.name, fact, stored_bytes, objects });
    }
    Ok(survey)
}

/// Whether a point counts. One that nobody trusted has signed does not, so that whoever can write to the repository cannot
/// push points out of their places by adding newer ones.
fn origin(signers: &Signers, standing: Standing) -> retention::Origin {
    match (signers.believes(standing), signers.admits(standing)) {
        (true, _) => retention::Origin::Believed,
        (false, true) => retention::Origin::Allowed,
        (false, false) => retention::Origin::Foreign,
    }
}

/// What was published since the survey: the objects of new points. Points that are gone are the collector's own deed; one
/// of those it has `deleted` that is there all the same was copied here once more, and is new.
pub(super) async fn newcomers(
    repository: &Repository,
    cluster: &str,
    survey: &mut Survey,
    deleted: &[usize],
) -> Result<HashSet<String>> {
    let (mut strays, mut needed) = (vec![], HashSet::new());
    let mut known: HashSet<PointName> = survey.points.iter().map(|point| point.name.clone()).collect();
    for place in deleted {
        known.remove(&survey.points[*place].name);
    }
    for point in catalog::list_points(repository, cluster, &mut strays).await? {
        if known.contains(&point.name) {
            continue;
        }
        match repository.stored_manifest(&point.name).await {
            // Whoever signed it: nothing is deleted that any manifest lists.
            Ok((manifest, _)) => needed.extend(manifest.objects.into_iter().map(|entry| entry.name)),
            Err(error) if is_damage(&error) => survey.unread(&point.name, &error),
            Err(error) => return Err(error),
        }
    }
    survey.blind.extend(strays.iter().map(Error::as_warning));
    Ok(needed)
}

/// When and how deep each point was verified, by its stem.
async fn verdicts(repository: &Repository, cluster: &str) -> Result<HashMap<String, Vec<Rank>>> {
    let mut verdicts: HashMap<String, Vec<Rank>> = HashMap::new();
    let mut listed = repository.list(&folder::verdicts(cluster));
    while let Some(object) = listed.try_next().await? {
        // A stray file is no verdict; `list` names it.
        if let Ok(Location::Verdict(_, stem, time, level)) = Location::parse(&object.path) {
            verdicts.entry(stem).or_default().push(Rank::new(time, level, object.modified));
        }
    }
    Ok(verdicts)
}

/// What verifications found.
#[derive(Default)]
struct Judged {
    /// The deepest level of which the newest verdict is good.
    passed: Option<u8>,
    /// Whether the newest verdict of all is bad.
    failed: bool,
    doubts: Vec<String>,
}

/// Reads the newest verdict of each level, from the deepest on, until one is good; and the newest of all.
async fn judge(repository: &Repository, name: &PointName, said: &[Rank]) -> Result<Judged> {
    let mut judged = Judged::default();
    let Some(newest) = said.iter().max() else { return Ok(judged) };
    let mut levels: BTreeMap<u8, Rank> = BTreeMap::new();
    for rank in said {
        let last = levels.entry(rank.level).or_insert(*rank);
        *last = (*rank).max(*last);
    }
    for (level, rank) in levels.into_iter().rev() {
        let wanted = judged.passed.is_none() || rank == *newest;
        if !wanted {
            continue;
        }
        let at = Location::Verdict(name.cluster.clone(), name.stem(), rank.time, level);
        match repository.get_document::<Verdict>(&at).await {
            Ok(verdict) if verdict.result == Outcome::Ok => judged.passed = judged.passed.max(Some(level)),
            Ok(_) => judged.failed |= rank == *newest,
            Err(error) if is_damage(&error) => judged.doubts.push(error.as_warning()),
            Err(error) => return Err(error),
        }
    }
    Ok(judged)
}
