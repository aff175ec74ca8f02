//! Copies: restore points in a second repository, so that the loss of the first one is not the loss of everything.
//!
//! A copy is made of the same bytes under the same names. Each object's digest is checked between the two repositories,
//! so damage does not travel, and a copy needs neither the keys of a cluster nor those of its data. The order is that of
//! a backup: objects, the lineage, and the manifest last. Whoever is interrupted runs it again: what is there already is
//! seen in one listing and not sent twice.
//!
//! Invariants:
//! - A point is there whole or not at all. One whose objects are missing or damaged, or that nobody trusted has signed, is
//!   not copied, and is named with what is wrong; the others are copied all the same.
//! - Nothing at the destination is replaced or deleted, but for a data object whose size is not that of its name's bytes,
//!   and a manifest of this copy whose objects a collector there has taken meanwhile.
//! - "Could not read" is an error and ends the copy; it is never taken for "is not there".
//!
//! Not known here: whether what is at the destination already still has its digest. That is for a verification there.

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use std::collections::{BTreeMap, HashMap, HashSet};

use crate::base::digest::Sha256;
use crate::base::error::{Error, Kind, Result};
use crate::base::progress::Progress;
use crate::base::stop::{Stop, blocking};
use crate::vault::catalog::{Catalog, Point};
use crate::vault::condemned::{self, Condemned};
use crate::vault::config::Encryption;
use crate::vault::layout::{Lineage, Location, PointName, folder};
use crate::vault::lineage::{self, Current, LineageDocument};
use crate::vault::manifest::{Manifest, ObjectEntry};
use crate::vault::pack::{Check, Fault};
use crate::vault::publish::withdraw;
use crate::vault::repository::{Repository, Stored};
use crate::vault::sealed::{self, Document};
use crate::vault::sign::Standing;
use crate::vault::verdict::Finding;

/// Objects on their way at the same time, each of at most 16 MiB (one huge record apart).
pub const COPIES_MAX: usize = 4;

/// What became of one point.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It is at the destination now.
    Copied,
    /// It was there before, manifest and objects.
    AlreadyThere,
    /// A collector is about to delete it, so it was left alone.
    Condemned,
    /// A collector at the destination is about to delete it there, or something that it needs, so it was left alone.
    CondemnedThere,
    /// It is not whole, or nobody trusted has signed it: what is wrong, object by object.
    Damaged(Vec<Finding>),
}

/// What a copy did.
#[derive(Debug, Default)]
pub struct Copied {
    /// Every point that was asked for, oldest first.
    pub points: Vec<(PointName, Outcome)>,
    /// Data objects that were sent.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Data objects of these points that were there already.
    pub objects_there: u64,
    /// Lineages that were registered.
    pub lineages: u64,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

/// A copy under way.
struct Copy<'a> {
    from: &'a Repository,
    to: &'a Repository,
    cluster: &'a str,
    stop: &'a Stop,
    progress: &'a Progress,
    /// What collectors at the destination had condemned at the beginning.
    doomed: Condemned,
    /// Data objects at the destination, with their sizes: those listed at the beginning, and those sent.
    there: HashMap<String, u64>,
    /// Whether data of the destination's own is encrypted, and how many of the copied points are not.
    sealed_there: bool,
    in_the_clear: u64,
    /// Objects that were counted.
    counted: HashSet<String>,
    /// Objects of the source that cannot be copied, and why.
    faulty: BTreeMap<String, Fault>,
    lineages: Vec<LineageDocument>,
    registered: HashSet<Lineage>,
    copied: Copied,
}

/// Copies `points` of the source's `catalog`, in its order, into `to`.
pub async fn copy(
    from: &Repository,
    to: &Repository,
    catalog: &Catalog,
    points: &[&Point],
    progress: &Progress,
    stop: &Stop,
) -> Result<Copied> {
    let cluster = catalog.cluster.as_str();
    let sealed_there = to.config().is_some_and(|config| config.encryption != Encryption::NONE);
    stop.or(to.adopt_encryption(from)).await?;
    // Before the data is listed: what a collector takes later is found missing at the end.
    let mut doomed = stop.or(condemned::read(to, cluster)).await?;
    let doubts = std::mem::take(&mut doomed.damage);
    let mut copy = Copy {
        from,
        to,
        cluster,
        stop,
        progress,
        doomed,
        sealed_there,
        there: stop.or(listed(to, cluster)).await?,
        in_the_clear: 0,
        counted: HashSet::new(),
        faulty: BTreeMap::new(),
        lineages: catalog.lineages.known.clone(),
        registered: HashSet::new(),
        copied: Copied::default(),
    };
    copy.copied.warnings.extend(catalog.damage().chain(&doubts).map(Error::as_warning));
    progress.stage("copying", 0);
    for point in points {
        let outcome = copy.point(point, catalog).await?;
        copy.copied.points.push((point.name.clone(), outcome));
    }
    copy.copied.warnings.extend(left_out(&copy.copied.points));
    stop.or(copy.look()).await?;
    stop.or(copy.strangers()).await?;
    Ok(copy.copied)
}

/// What is said when the newest point that could be copied was left alone. No retention removes that one, so either nobody
/// makes points any more, or somebody who can write there condemns what he wants to be kept from the second repository.
fn left_out(points: &[(PointName, Outcome)]) -> Option<String> {
    let (name, outcome) = points.iter().rfind(|(_, outcome)| !matches!(outcome, Outcome::Damaged(_)))?;
    (*outcome == Outcome::Condemned).then(|| {
        format!(
            "point {} was not copied, because a collector is said to delete it: no retention deletes the newest point, so \
             see who wrote the condemned lists, and take it back with `holdfast undelete`",
            name.attempt
        )
    })
}

/// The data objects of a cluster with their sizes.
async fn listed(repository: &Repository, cluster: &str) -> Result<HashMap<String, u64>> {
    let mut found = HashMap::new();
    let mut listed = repository.list(&folder::data(cluster));
    while let Some(object) = listed.try_next().await? {
        found.insert(object.path, object.bytes);
    }
    Ok(found)
}

impl Copy<'_> {
    async fn point(&mut self, point: &Point, catalog: &Catalog) -> Result<Outcome> {
        let at = Location::Point(point.name.clone());
        let (bytes, manifest) = match self.stop.or(self.manifest(&point.name)).await {
            Ok((bytes, manifest, standing)) => match self.from.signers().check(&at.to_string(), standing) {
                Ok(()) => (bytes, manifest),
                Err(error) => {
                    let fault = Fault::new(Check::Signature, error.as_warning());
                    return Ok(Outcome::Damaged(vec![Finding::of(at.to_string(), fault)]));
                }
            },
            Err(error) if matches!(error.kind(), Kind::Damaged | Kind::NotFound) => {
                let fault = Fault::new(Check::Manifest, error.chain());
                return Ok(Outcome::Damaged(vec![Finding::of(at.to_string(), fault)]));
            }
            Err(error) => return Err(error),
        };
        if catalog.condemns(&manifest) {
            return Ok(Outcome::Condemned);
        }
        if self.doomed.points.contains(&at.to_string()) {
            return Ok(Outcome::CondemnedThere);
        }
        if let Some(entry) = manifest.objects.iter().find(|entry| self.doomed.objects.contains(&entry.name)) {
            let text = format!(
                "point {} was not copied: a collector at the destination is about to delete {}; copy it again once \
                 `holdfast prune` has finished there",
                point.name.attempt, entry.name
            );
            self.copied.warnings.push(text);
            return Ok(Outcome::CondemnedThere);
        }
        self.objects(&manifest.objects).await?;
        let faults = manifest.objects.iter().filter_map(|entry| Some((&entry.name, self.faulty.get(&entry.name)?)));
        let findings: Vec<Finding> = faults.map(|(name, fault)| Finding::of(name, fault.clone())).collect();
        if !findings.is_empty() {
            return Ok(Outcome::Damaged(findings));
        }
        self.lineage(manifest.lineage).await?;
        match self.stop.or(self.to.put_new(&at, bytes)).await? {
            Stored::Created | Stored::Repaired => {
                self.in_the_clear += u64::from(self.sealed_there && manifest.recipients.is_empty());
                Ok(Outcome::Copied)
            }
            Stored::AlreadyThere => Ok(Outcome::AlreadyThere),
        }
    }

    /// A manifest as stored: a later version may have written more into it than this one knows, and a signature is for
    /// these bytes alone.
    async fn manifest(&self, name: &PointName) -> Result<(Bytes, Manifest, Standing)> {
        let at = Location::Point(name.clone());
        let mut reads = self.from.reads_max();
        loop {
            reads -= 1;
            let bytes = self.from.get(&at, Manifest::BYTES_MAX).await?;
            match sealed::open_signed::<Manifest>(&at.to_string(), &bytes) {
                Ok((manifest, signer)) => {
                    manifest.validate(name)?;
                    return Ok((bytes, manifest, self.from.signers().standing(signer)));
                }
                Err(error) if error.kind() == Kind::Damaged && reads > 0 => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends those objects that are not there. What is faulty is noted, and sent nowhere.
    async fn objects(&mut self, entries: &[ObjectEntry]) -> Result<()> {
        let is_there = |entry: &ObjectEntry| self.there.get(&entry.name) == Some(&entry.stored_bytes);
        let (there, missing): (Vec<&ObjectEntry>, Vec<&ObjectEntry>) = entries.iter().partition(|e| is_there(e));
        for entry in there {
            self.copied.objects_there += u64::from(self.counted.insert(entry.name.clone()));
        }
        let missing = missing.into_iter().filter(|entry| !self.faulty.contains_key(&entry.name));
        let (from, to) = (self.from, self.to);
        let send = |entry: ObjectEntry| async move {
            let sent = send(from, to, &entry).await?;
            Ok::<_, Error>((entry, sent))
        };
        let mut sent = stream::iter(missing.cloned().map(send).collect::<Vec<_>>()).buffered(COPIES_MAX);
        while let Some((entry, sent)) = self.stop.or(sent.try_next()).await? {
            match sent {
                Err(fault) => drop(self.faulty.insert(entry.name, fault)),
                Ok(stored) => {
                    self.progress.add(entry.stored_bytes);
                    self.counted.insert(entry.name.clone());
                    if stored == Stored::AlreadyThere {
                        self.copied.objects_there += 1;
                    } else {
                        self.copied.objects += 1;
                        self.copied.bytes += entry.stored_bytes;
                    }
                    if stored == Stored::Repaired {
                        let warning = format!("{} was damaged at the destination and is whole again", entry.name);
                        self.copied.warnings.push(warning);
                    }
                    self.there.insert(entry.name, entry.stored_bytes);
                }
            }
        }
        Ok(())
    }

    /// Registers a lineage and those that it continues.
    async fn lineage(&mut self, lineage: Lineage) -> Result<()> {
        let mut next = Some(lineage);
        while let Some(lineage) = next.filter(|lineage| self.registered.insert(*lineage)) {
            let Some(document) = self.lineages.iter().find(|document| document.lineage == lineage) else { break };
            if self.stop.or(lineage::register(self.to, self.cluster, document)).await? == Stored::Created {
                self.copied.lineages += 1;
            }
            next = document.parent;
        }
        Ok(())
    }

    /// Looks for a collector at the destination that decided before it could see what was copied: as after a backup, either
    /// its list is still there or what it took is missing. A point of this copy that it hit is withdrawn.
    async fn look(&mut self) -> Result<()> {
        let condemned = condemned::read(self.to, self.cluster).await?;
        let there = listed(self.to, self.cluster).await?;
        self.copied.warnings.extend(condemned.damage.iter().map(Error::as_warning));
        let lost = |name: &String| condemned.objects.contains(name) || !there.contains_key(name);
        let lost: HashSet<&String> = self.counted.iter().filter(|name| lost(name)).collect();
        let copied = self.copied.points.iter().filter(|(_, outcome)| *outcome == Outcome::Copied);
        let mut failed = None;
        for (name, _) in copied {
            let path = Location::Point(name.clone()).to_string();
            // Rare: manifests are read again only when something is lost.
            let hit = condemned.points.contains(&path)
                || !lost.is_empty()
                    && self.to.manifest(name).await?.objects.iter().any(|entry| lost.contains(&entry.name));
            if hit {
                let text = "a collector at the destination took, or is about to take, what it needs";
                let error = Error::new(Kind::Failed, text)
                    .hint("run the command again once `holdfast prune` has finished at the destination");
                failed = Some(withdraw(self.to, name, error).await);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Says what the operator of the destination may not expect there.
    async fn strangers(&mut self) -> Result<()> {
        if self.in_the_clear > 0 {
            let text = format!(
                "{} of the copied points are not encrypted, as they were at the source; the destination's own data is",
                self.in_the_clear
            );
            self.copied.warnings.push(text);
        }
        let lineages = lineage::list(self.to, self.cluster).await?;
        if let Current::Known(current) = lineages.current(|_| true)
            && !self.registered.is_empty()
            && !self.lineages.iter().any(|document| document.lineage == current.lineage)
        {
            let text = format!(
                "the destination has points of cluster {} that the source does not know, and its `latest` is one of \
                 those (lineage {}): keep clusters of one name in repositories of their own",
                self.cluster, current.lineage
            );
            self.copied.warnings.push(text);
        }
        Ok(())
    }
}

/// Reads an object, checks it and stores it: nothing unchecked leaves the source.
async fn send(from: &Repository, to: &Repository, entry: &ObjectEntry) -> Result<Result<Stored, Fault>> {
    let name = Location::parse_data(&entry.name)?;
    let at = Location::Data(name.clone());
    let mut reads = from.reads_max();
    loop {
        reads -= 1;
        let fault = match from.get(&at, entry.stored_bytes).await {
            Ok(bytes) if bytes.len() as u64 == entry.stored_bytes => {
                let hashed = bytes.clone();
                let found = blocking(move || Sha256::of(&hashed)).await;
                if found == entry.sha256 {
                    return to.put_data(&name, bytes).await.map(Ok);
                }
                Fault::new(Check::Sha256, format!("it hashes to {found}, its name says {}", entry.sha256))
            }
            Ok(bytes) => Fault::new(Check::Size, format!("{} bytes, not {}", bytes.len(), entry.stored_bytes)),
            Err(error) if error.kind() == Kind::NotFound => return Ok(Err(Fault::new(Check::Exists, "it is missing"))),
            Err(error) if error.kind() == Kind::Damaged => Fault::new(Check::Size, error.chain()),
            Err(error) => return Err(error),
        };
        if reads == 0 {
            return Ok(Err(fault));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::steps::Steps;
    use crate::vault::catalog::Catalog;
    use crate::vault::condemned::CondemnedList;
    use crate::vault::encryption::{Recipients, Wanted};
    use crate::vault::repository::{Keys, RepositoryOptions};
    use crate::vault::sign::Signers;
    use crate::vault::testing;
    use std::fs;

    async fn copy_all(from: &Repository, to: &Repository) -> Result<Copied> {
        let catalog = Catalog::load(from, "prod").await.unwrap();
        let points: Vec<&Point> = catalog.points.iter().collect();
        copy(from, to, &catalog, &points, &Progress::new(), &Stop::new()).await
    }

    #[tokio::test]
    async fn a_copy_is_the_same_bytes_and_costs_nothing_the_second_time() {
        let ((_one, from), (_two, to)) = (testing::repository().await, testing::repository().await);
        let first = testing::publish_point(&from, "prod", 4, &Steps::unheard()).await.unwrap();
        let done = copy_all(&from, &to).await.unwrap();
        assert_eq!(done.points, [(first.name(), Outcome::Copied)]);
        assert_eq!((done.objects, done.objects_there, done.lineages), (first.objects.len() as u64, 0, 1));
        assert_eq!(done.bytes, first.counts.stored_bytes);
        assert_eq!(to.manifest(&first.name()).await.unwrap(), first);
        testing::assert_readable(&to, &first).await;

        let again = copy_all(&from, &to).await.unwrap();
        assert_eq!(again.points, [(first.name(), Outcome::AlreadyThere)]);
        assert_eq!((again.objects, again.bytes, again.lineages), (0, 0, 0));
        assert_eq!(again.objects_there, first.objects.len() as u64);

        // A second point of the same state shares its objects: one manifest travels.
        let second = testing::publish_point(&from, "prod", 4, &Steps::unheard()).await.unwrap();
        let more = copy_all(&from, &to).await.unwrap();
        assert_eq!((more.objects, more.points.len()), (0, 2));
        testing::assert_readable(&to, &second).await;
    }

    #[tokio::test]
    async fn a_signature_travels_with_its_bytes_and_what_nobody_trusted_signed_stays_where_it_is() {
        let ((one, plain), (two, to)) = (testing::repository().await, testing::repository().await);
        let unsigned = testing::publish_point(&plain, "prod", 2, &Steps::unheard()).await.unwrap();
        let key = testing::signing_key(1);
        let signers = |allow| Signers::new(vec![key.public()], allow);
        let from = testing::reopened(&plain, Some(key.clone()), signers(false)).await;
        let signed = testing::publish_point(&from, "prod", 4, &Steps::unheard()).await.unwrap();
        // Whoever copies needs no key, and believes nobody for the destination's sake.
        let done = copy_all(&from, &to).await.unwrap();
        let Outcome::Damaged(findings) = &done.points[0].1 else { panic!("{done:?}") };
        assert_eq!((findings.len(), findings[0].check), (1, Check::Signature));
        assert_eq!(done.points[1], (signed.name(), Outcome::Copied));
        assert_eq!(done.objects, signed.objects.len() as u64);
        let at = |name: &PointName| Location::Point(name.clone()).to_string();
        let bytes = |dir: &tempfile::TempDir| fs::read(dir.path().join(at(&signed.name()))).unwrap();
        assert_eq!(bytes(&one), bytes(&two));
        assert!(!two.path().join(at(&unsigned.name())).exists());
        let lenient = testing::reopened(&plain, Some(key.clone()), signers(true)).await;
        let done = copy_all(&lenient, &to).await.unwrap();
        assert_eq!(done.points[0], (unsigned.name(), Outcome::Copied));
    }

    #[tokio::test]
    async fn a_point_with_a_faulty_object_stays_where_it_is_and_is_named() {
        let ((one, from), (two, to)) = (testing::repository().await, testing::repository().await);
        let whole = testing::publish_point(&from, "prod", 2, &Steps::unheard()).await.unwrap();
        let broken = testing::publish_point(&from, "prod", 5, &Steps::unheard()).await.unwrap();
        let shared = |entry: &&ObjectEntry| !whole.objects.iter().any(|other| other.name == entry.name);
        let own: Vec<&ObjectEntry> = broken.objects.iter().filter(shared).collect();
        assert!(own.len() >= 2, "{own:?}");
        let path = |n: usize| one.path().join(&own[n].name);
        testing::damage(&path(0));
        fs::remove_file(path(1)).unwrap();
        let done = copy_all(&from, &to).await.unwrap();
        assert_eq!(done.points[0], (whole.name(), Outcome::Copied));
        let Outcome::Damaged(findings) = &done.points[1].1 else { panic!("{done:?}") };
        let named: Vec<_> = findings.iter().map(|finding| (finding.object.as_str(), finding.check)).collect();
        assert_eq!(named, [(own[0].name.as_str(), Check::Sha256), (own[1].name.as_str(), Check::Exists)]);
        assert_eq!(to.manifest(&broken.name()).await.unwrap_err().kind(), Kind::NotFound);
        assert!(!two.path().join(&own[0].name).exists(), "what is damaged does not travel");
        testing::assert_readable(&to, &whole).await;
    }

    #[tokio::test]
    async fn what_is_about_to_be_deleted_is_left_and_a_collector_at_the_destination_is_heard() {
        let ((_one, from), (_two, to)) = (testing::repository().await, testing::repository().await);
        let point = testing::publish_point(&from, "prod", 2, &Steps::unheard()).await.unwrap();
        let objects = vec![point.objects[0].name.clone()];
        let list = CondemnedList { epoch: 1, n: 1, created: testing::time(), objects, points: vec![] };
        list.create(&to, "prod").await.unwrap();
        // What was condemned before is left, and said.
        let left = copy_all(&from, &to).await.unwrap();
        assert_eq!((&left.points[0].1, left.objects), (&Outcome::CondemnedThere, 0));
        assert!(left.warnings[0].contains("at the destination"), "{:?}", left.warnings);
        list.create(&from, "prod").await.unwrap();
        let (_three, empty) = testing::repository().await;
        let done = copy_all(&from, &empty).await.unwrap();
        assert_eq!((&done.points[0].1, done.objects), (&Outcome::Condemned, 0));
        // Nothing else is there to be copied, which no retention does; beside a newer point nothing is said.
        let named = done.warnings.iter().filter(|warning| warning.contains(&point.attempt.to_string()));
        assert_eq!((done.warnings.len(), named.count()), (1, 1), "{:?}", done.warnings);
        let newer = testing::manifest("prod", &[testing::entry("prod", 1, 9)]);
        let left = |outcome| {
            let points = [(point.name(), Outcome::Condemned), (newer.name(), outcome)];
            left_out(&points).map(|warning| warning.contains(&point.attempt.to_string()))
        };
        assert_eq!(left(Outcome::Copied), None);
        assert_eq!(left(Outcome::AlreadyThere), None);
        // A forged one behind it hides nothing.
        assert_eq!(left(Outcome::Damaged(vec![])), Some(true));
    }

    #[tokio::test]
    async fn a_point_that_the_destination_lets_go_fails_no_copy() {
        let ((_one, from), (_two, to)) = (testing::repository().await, testing::repository().await);
        let older = testing::publish_point(&from, "prod", 2, &Steps::unheard()).await.unwrap();
        copy_all(&from, &to).await.unwrap();
        let points = vec![Location::Point(older.name()).to_string()];
        let list = CondemnedList { epoch: 1, n: 1, created: testing::time(), objects: vec![], points };
        list.create(&to, "prod").await.unwrap();
        let newer = testing::publish_point(&from, "prod", 4, &Steps::unheard()).await.unwrap();
        let done = copy_all(&from, &to).await.unwrap();
        assert_eq!(done.points, [(older.name(), Outcome::CondemnedThere), (newer.name(), Outcome::Copied)]);
        assert_eq!(done.warnings, Vec::<String>::new());
        testing::assert_readable(&to, &newer).await;
    }

    #[tokio::test]
    async fn a_point_whose_objects_a_collector_took_meanwhile_is_withdrawn() {
        for taken in [true, false] {
            let ((_one, from), (two, to)) = (testing::repository().await, testing::repository().await);
            let older = testing::publish_point(&from, "prod", 2, &Steps::unheard()).await.unwrap();
            let newer = testing::publish_point(&from, "prod", 4, &Steps::unheard()).await.unwrap();
            let object = newer.objects[3].name.clone();
            assert!(older.objects.iter().all(|entry| entry.name != object));
            let catalog = Catalog::load(&from, "prod").await.unwrap();
            let points: Vec<&Point> = catalog.points.iter().collect();
            let (stop, progress) = (Stop::new(), Progress::new());
            let copying = copy(&from, &to, &catalog, &points, &progress, &stop);
            let (data, first) = (two.path().join(&object), two.path().join(Location::Point(older.name()).to_string()));
            let destination = to.clone();
            // The collector deletes as soon as the object is there, or condemns it while the second point is copied.
            let collecting = async {
                while !(if taken { &data } else { &first }).exists() {
                    tokio::task::yield_now().await;
                }
                if taken {
                    fs::remove_file(&data).unwrap();
                } else {
                    let objects = vec![object.clone()];
                    let list = CondemnedList { epoch: 1, n: 1, created: testing::time(), objects, points: vec![] };
                    list.create(&destination, "prod").await.unwrap();
                }
            };
            let (copied, ()) = tokio::join!(copying, collecting);
            let error = copied.unwrap_err();
            assert!(error.chain().contains("withdrawn") && error.hint_text().is_some(), "{}", error.chain());
            assert_eq!(to.manifest(&newer.name()).await.unwrap_err().kind(), Kind::NotFound);
            testing::assert_readable(&to, &older).await;
        }
    }

    #[tokio::test]
    async fn data_in_the_clear_beside_encrypted_is_told() {
        let (_one, from) = testing::repository().await;
        testing::publish_point(&from, "prod", 2, &Steps::unheard()).await.unwrap();
        let recipient = age::x25519::Identity::generate().to_public().to_string();
        let wanted = Some(Wanted::For(Recipients::parse([recipient.as_str()]).unwrap()));
        let dir = tempfile::tempdir().unwrap();
        let options = RepositoryOptions {
            url: format!("file://{}", dir.path().display()),
            keys: Keys { wanted, ..Keys::default() },
            ..RepositoryOptions::default()
        };
        let to = Repository::create_or_open(&options).await.unwrap();
        let done = copy_all(&from, &to).await.unwrap();
        assert!(matches!(&done.warnings[..], [one] if one.contains("not encrypted")), "{:?}", done.warnings);
        // Once: what was there before is nothing new.
        assert_eq!(copy_all(&from, &to).await.unwrap().warnings, Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_destination_with_another_cluster_of_that_name_is_told() {
        let ((_one, from), (_two, to)) = (testing::repository().await, testing::repository().await);
        testing::publish_point(&from, "prod", 2, &Steps::unheard()).await.unwrap();
        let stranger = LineageDocument {
            lineage: Lineage::parse(&"e".repeat(32)).unwrap(),
            parent: None,
            fork_revision: None,
            reason: "the first restore point".into(),
            cluster_id: crate::base::id::EtcdId(77),
            opened: testing::time() + std::time::Duration::from_secs(1),
        };
        lineage::register(&to, "prod", &stranger).await.unwrap();
        let done = copy_all(&from, &to).await.unwrap();
        assert!(matches!(&done.warnings[..], [one] if one.contains("`latest`")), "{:?}", done.warnings);
        // Its own history, however it is continued at the source, is no stranger.
        let (_three, empty) = testing::repository().await;
        assert_eq!(copy_all(&from, &empty).await.unwrap().warnings, Vec::<String>::new());
    }
}
