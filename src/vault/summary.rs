//! What a list shows of its points, without reading ten thousand documents: names, a cache, and the newest few.
//!
//! Names tell lineage, revision, kind and id of every point. The rest stands in manifests and verdicts; of those that
//! were ever read, a **summary** of some 200 bytes is kept in a file of the user's cache directory. A list reads the
//! documents of the newest points that it does not know yet, `FRESH_MAX` at a time, and shows of others what names tell.
//!
//! Invariants:
//! - The cache is only ever a cache: sealed, bound to the repository's id; whatever is wrong with it, it is as if there
//!   were none.
//! - A summary counts for exactly the object it was made of: same name, same size, same time in the store.
//! - A summary says who signed, as it was verified once; whether he is trusted is decided each time.
//! - Nothing but a list looks here. What verifies, restores or deletes reads the documents themselves.
//! - Whether a point is condemned is told by the lists that name it. A collector condemns no object that a point needs which
//!   it does not condemn, so nobody reads all manifests for that, as long as anything is condemned: which is always.

use futures::stream::{self, StreamExt};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::base::clock::Time;
use crate::base::durable;
use crate::base::error::{Error, Result};
use crate::base::file::read_small;
use crate::base::stop::blocking;
use crate::vault::catalog::{Catalog, Point, is_damage};
use crate::vault::layout::{Location, PointName, folder};
use crate::vault::manifest::{Comparison, Manifest};
use crate::vault::repository::{Listed, Repository, stray};
use crate::vault::sealed::{self, Document};
use crate::vault::sign::{PublicKey, Signers, Standing};
use crate::vault::verdict::{Outcome, Rank, Verdict};

/// Points whose documents one list reads.
pub const FRESH_MAX: usize = 250;
/// Documents that a list reads at the same time: small ones, each worth little more than the way there.
const FRESH_LOADS_MAX: usize = 16;

/// What a manifest says that a list shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// When the point was begun.
    #[serde(with = "sealed::rfc3339")]
    pub started: Time,
    /// Keys alive.
    pub live_keys: u64,
    /// Bytes of its records.
    pub raw_bytes: u64,
    /// Bytes as stored.
    pub stored_bytes: u64,
    /// How it compared with the live cluster.
    pub compared: Comparison,
    /// Whose signature it bears. What that is worth is judged when it is shown: whom one trusts changes.
    signed: Signed,
}

/// A signer, or none; never left out, so that what an older version noted is read anew.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Signed {
    Nobody,
    By(String),
}

impl Summary {
    /// What its signature is worth.
    pub fn standing(&self, signers: &Signers) -> Standing {
        match &self.signed {
            Signed::Nobody => signers.standing(None),
            Signed::By(key) => signers.standing(PublicKey::parse(key)),
        }
    }

    fn of(manifest: &Manifest, standing: Standing) -> Self {
        Summary {
            started: manifest.started,
            live_keys: manifest.counts.live_keys,
            raw_bytes: manifest.counts.raw_bytes,
            stored_bytes: manifest.counts.stored_bytes,
            compared: manifest.comparison(),
            signed: standing.signer().map_or(Signed::Nobody, |key| Signed::By(key.to_string())),
        }
    }
}

/// What a verdict says that a list shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checked {
    /// How deep it looked.
    pub level: u8,
    /// What it found.
    pub result: Outcome,
    /// When.
    #[serde(with = "sealed::rfc3339")]
    pub time: Time,
}

impl Checked {
    fn of(verdict: &Verdict) -> Self {
        Checked { level: verdict.level, result: verdict.result, time: verdict.time }
    }
}

/// A summary and the object it was made of.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Known<T> {
    bytes: u64,
    modified_ms: i64,
    facts: T,
}

/// Everything that is known of a cluster's points, by name.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Summaries {
    repository: String,
    manifests: BTreeMap<String, Known<Summary>>,
    verdicts: BTreeMap<String, Known<Checked>>,
}

impl Document for Summaries {
    const NAME: &'static str = "summaries";
    const BYTES_MAX: u64 = 256 << 20;
}

/// Where summaries are kept between runs.
#[derive(Clone, Debug, Default)]
pub struct Cache {
    folder: Option<PathBuf>,
}

impl Cache {
    /// Below this folder; none keeps nothing.
    pub fn below(folder: Option<PathBuf>) -> Self {
        Cache { folder }
    }

    fn file(&self, repository: &Repository, cluster: &str) -> Option<PathBuf> {
        let id = &repository.config()?.repository;
        Some(self.folder.as_ref()?.join(id).join(format!("{cluster}.json")))
    }

    async fn read(&self, repository: &Repository, cluster: &str) -> Summaries {
        let id = repository.config().map(|config| config.repository.clone()).unwrap_or_default();
        let none = Summaries { repository: id.clone(), ..Summaries::default() };
        let Some(file) = self.file(repository, cluster) else { return none };
        let read = move || {
            let bytes = read_small(&file, Summaries::BYTES_MAX)?;
            sealed::open::<Summaries>(&file.display().to_string(), &bytes)
        };
        // Missing, damaged, another repository's: all the same.
        blocking(read).await.ok().filter(|read| read.repository == id).unwrap_or(none)
    }

    /// Keeps them; that it could not is no trouble of the list.
    async fn write(&self, repository: &Repository, cluster: &str, summaries: Summaries) {
        let Some(file) = self.file(repository, cluster) else { return };
        let write = move || durable::replace(&file, &sealed::seal(&summaries)?);
        if let Err(error) = blocking(write).await {
            tracing::info!(error = error.chain(), "summaries are not kept");
        }
    }
}

/// What a list shows of one point. None where nobody has read it yet.
#[derive(Debug, Default)]
pub struct Row {
    /// Of its manifest, or why that is not believed.
    pub summary: Option<Result<Summary>>,
    /// Of its newest verdict, or why that is not believed.
    pub checked: Option<Result<Checked>>,
    /// Whether nothing was left unread.
    pub complete: bool,
}

/// A document that a row needs.
enum Wanted {
    Known,
    Read,
    Later,
}

/// The rows of all points of a catalog, in its order; reads the documents of at most `fresh_max` that are not known.
pub async fn rows(repository: &Repository, catalog: &mut Catalog, cache: &Cache, fresh_max: usize) -> Result<Vec<Row>> {
    let mut known = cache.read(repository, &catalog.cluster).await;
    let newest = newest_verdicts(repository, catalog).await?;
    let mut left = fresh_max;
    let mut plans: Vec<(usize, Wanted)> = vec![];
    for (index, point) in catalog.points.iter().enumerate().rev() {
        let verdict = newest.get(&point.name.stem());
        let whole =
            known.manifests.get(&path_of(&point.name)).is_some_and(|k| k.is(point.manifest_bytes, point.modified))
                && verdict.is_none_or(|v| known.verdicts.get(&v.path).is_some_and(|k| k.is(v.bytes, v.modified)));
        let wanted = match (whole, left) {
            (true, _) => Wanted::Known,
            (false, 0) => Wanted::Later,
            (false, _) => Wanted::Read,
        };
        left -= usize::from(matches!(wanted, Wanted::Read));
        plans.push((index, wanted));
    }
    let mut rows: Vec<Row> = catalog.points.iter().map(|_| Row::default()).collect();
    let (points, mut fresh) = (&catalog.points, vec![]);
    for (index, wanted) in plans {
        let point = &points[index];
        let verdict = newest.get(&point.name.stem());
        let of_known = |known: &Summaries| Row {
            summary: known.manifests.get(&path_of(&point.name)).map(|k| Ok(k.facts.clone())),
            checked: verdict.and_then(|v| known.verdicts.get(&v.path)).map(|k| Ok(k.facts.clone())),
            complete: true,
        };
        match wanted {
            Wanted::Known => rows[index] = of_known(&known),
            Wanted::Read => fresh.push((index, point, verdict)),
            Wanted::Later => {}
        }
    }
    let reads = fresh.into_iter().map(|(index, point, verdict)| read(repository, index, point, verdict));
    let mut reads = stream::iter(reads).buffer_unordered(FRESH_LOADS_MAX);
    let mut learnt = false;
    while let Some(read) = reads.next().await {
        let (index, row, verdict) = read?;
        let point = &points[index];
        if let Some(Ok(summary)) = &row.summary {
            known.manifests.insert(path_of(&point.name), Known::of(point.manifest_bytes, point.modified, summary));
            learnt = true;
        }
        if let (Some(Ok(checked)), Some(listed)) = (&row.checked, verdict) {
            known.verdicts.insert(listed.path.clone(), Known::of(listed.bytes, listed.modified, checked));
            learnt = true;
        }
        rows[index] = row;
    }
    drop(reads);
    if learnt {
        forget_the_gone(&mut known, catalog, &newest);
        cache.write(repository, &catalog.cluster, known).await;
    }
    Ok(rows)
}

type Read<'a> = (usize, Row, Option<&'a Listed>);

async fn read<'a>(
    repository: &Repository,
    index: usize,
    point: &Point,
    verdict: Option<&'a Listed>,
) -> Result<Read<'a>> {
    let summary = match repository.stored_manifest(&point.name).await {
        Ok((manifest, standing)) => Ok(Summary::of(&manifest, standing)),
        Err(error) if is_damage(&error) => Err(error),
        Err(error) => return Err(error),
    };
    let checked = match verdict {
        None => None,
        Some(listed) => match repository.get_document::<Verdict>(&Location::parse(&listed.path)?).await {
            Ok(verdict) => Some(Ok(Checked::of(&verdict))),
            Err(error) if is_damage(&error) => Some(Err(error)),
            Err(error) => return Err(error),
        },
    };
    Ok((index, Row { summary: Some(summary), checked, complete: true }, verdict))
}

/// The newest verdict on each point, by its stem.
async fn newest_verdicts(repository: &Repository, catalog: &mut Catalog) -> Result<BTreeMap<String, Listed>> {
    let mut newest: BTreeMap<String, (Rank, Listed)> = BTreeMap::new();
    let mut listed = repository.list(&folder::verdicts(&catalog.cluster));
    while let Some(object) = listed.next().await {
        let object = object?;
        match Location::parse(&object.path) {
            Ok(Location::Verdict(_, stem, time, level)) => {
                let rank = Rank::new(time, level, object.modified);
                if newest.get(&stem).is_none_or(|(before, _)| *before < rank) {
                    newest.insert(stem, (rank, object));
                }
            }
            Ok(_) => {}
            Err(error) => catalog.damage.push(stray(error)),
        }
    }
    Ok(newest.into_iter().map(|(stem, (_, listed))| (stem, listed)).collect())
}

/// Keeps the cache as small as the repository.
fn forget_the_gone(known: &mut Summaries, catalog: &Catalog, newest: &BTreeMap<String, Listed>) {
    let points: std::collections::HashSet<String> = catalog.points.iter().map(|p| path_of(&p.name)).collect();
    let verdicts: std::collections::HashSet<&str> = newest.values().map(|listed| listed.path.as_str()).collect();
    known.manifests.retain(|path, _| points.contains(path));
    known.verdicts.retain(|path, _| verdicts.contains(path.as_str()));
}

fn path_of(name: &PointName) -> String {
    Location::Point(name.clone()).to_string()
}

impl<T: Clone> Known<T> {
    fn of(bytes: u64, modified: Time, facts: &T) -> Self {
        Known { bytes, modified_ms: modified.timestamp_millis(), facts: facts.clone() }
    }
}

impl<T> Known<T> {
    fn is(&self, bytes: u64, modified: Time) -> bool {
        self.bytes == bytes && self.modified_ms == modified.timestamp_millis()
    }
}

/// What is wrong with a row, in words.
pub fn damage_of(row: &Row) -> Option<String> {
    let wrong = |error: Option<&Error>| error.map(Error::chain);
    wrong(row.summary.as_ref().and_then(|summary| summary.as_ref().err()))
        .or_else(|| wrong(row.checked.as_ref().and_then(|checked| checked.as_ref().err())))
}
