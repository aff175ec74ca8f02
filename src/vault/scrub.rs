//! Verification: is what is stored still what was stored, and does it mean what the manifest says?
//!
//! Of a point that nobody trusted has signed, that is the finding, at every level.
//!
//! - **L1**: all objects exist and have the right size.
//! - **L2**: every byte is read; digests are equal, every frame opens to its declared size. On a host without identity,
//!   encrypted objects are not opened: their digests are equal.
//! - **L3**: the records decode and prove the manifest's counts and digests. What a record means is not the vault's to
//!   know: an `Examiner` is handed every raw object, newest first.
//!
//! Invariants:
//! - Every object is examined, however many are damaged before it, and every damaged one is named with its check.
//! - A verdict is about the data. When the store cannot be read (network, permission, a stop signal) there is an error
//!   and no verdict: "could not look" is neither "ok" nor "failed".
//! - A verifier writes its verdict and nothing else, and trusts no cache.
//! - A point that is deleted while it is verified is not damaged: it is not there.

use futures::stream::{self, StreamExt, TryStreamExt};

use crate::base::error::{Error, Kind, Result};
use crate::base::stop::{Stop, blocking};
use crate::vault::get::{Check, Direction, Fault, RawObject, Read, Reader};
use crate::vault::layout::{Location, PointName};
use crate::vault::manifest::{Manifest, ObjectEntry, Tool};
use crate::vault::repository::Repository;
use crate::vault::verdict::{FINDINGS_MAX, Finding, Level, Outcome, Verdict};

/// Objects whose existence is asked for at the same time.
const HEADS_MAX: usize = 4;

/// Proves records against a manifest (L3). Runs on a thread where it may block.
pub trait Examiner: Send {
    /// The records of one object; objects come newest first. An error of kind `Damaged` is a finding about this object
    /// and ends the proof; any other error ends the verification.
    fn object(&mut self, raw: &RawObject) -> Result<()>;

    /// Called after all objects were accepted: what the records as a whole fail to prove.
    fn finish(self: Box<Self>) -> Result<Vec<Finding>>;
}

/// Makes the prover for a manifest.
pub type MakeProver = dyn FnOnce(&Manifest) -> Box<dyn Examiner> + Send;

/// How to verify.
pub struct Verification {
    /// How deep to look.
    pub level: Level,
    /// Proves the records; needed for L3.
    pub prover: Option<Box<MakeProver>>,
    /// Ends the work.
    pub stop: Stop,
}

impl std::fmt::Debug for Verification {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verification").field("level", &self.level).finish_non_exhaustive()
    }
}

/// Verifies a point, stores the verdict and returns it. `seen` hears of each object that was examined.
pub async fn verify(
    repository: &Repository,
    name: &PointName,
    verification: Verification,
    mut seen: impl FnMut(&ObjectEntry) + Send,
) -> Result<Verdict> {
    let Verification { level, prover, stop } = verification;
    let at = Location::Point(name.clone()).to_string();
    let findings = match admitted(repository, name, &at).await {
        Ok(Err(fault)) => vec![Finding::of(at, fault)],
        Ok(Ok(manifest)) => match level {
            Level::Exists => examine_existence(repository, &manifest, &stop, &mut seen).await?,
            Level::Bytes => examine_bytes(repository, &manifest, None, &stop, &mut seen).await?,
            Level::Records => {
                let prover = prover.expect("level 3 comes with a prover")(&manifest);
                examine_bytes(repository, &manifest, Some(prover), &stop, &mut seen).await?
            }
        },
        Err(error) if error.kind() == Kind::Damaged => {
            vec![Finding::of(at, Fault::new(Check::Manifest, error.chain()))]
        }
        Err(error) => return Err(error),
    };
    if findings.iter().any(|finding| finding.check == Check::Exists) {
        // What a collector deletes goes after its manifest: what is gone of a point that is gone is no damage.
        repository.head(&Location::Point(name.clone())).await?;
    }
    let mut verdict = Verdict {
        point: name.stem(),
        level: level.number(),
        time: repository.clock().now(),
        result: if findings.is_empty() { Outcome::Ok } else { Outcome::Failed },
        findings,
        tool: Tool::this(),
    };
    verdict.findings.truncate(FINDINGS_MAX);
    verdict.store(repository, name).await?;
    Ok(verdict)
}

/// The manifest, when it is signed by somebody who may have.
async fn admitted(repository: &Repository, name: &PointName, at: &str) -> Result<Result<Manifest, Fault>> {
    let (manifest, standing) = repository.stored_manifest(name).await?;
    let checked = repository.signers().check(at, standing);
    Ok(checked.map(|()| manifest).map_err(|error| Fault::new(Check::Signature, error.as_warning())))
}

async fn examine_existence(
    repository: &Repository,
    manifest: &Manifest,
    stop: &Stop,
    seen: &mut (impl FnMut(&ObjectEntry) + Send),
) -> Result<Vec<Finding>> {
    let mut findings = vec![];
    let mut looks = stream::iter(manifest.objects.iter().map(|entry| look(repository, entry))).buffered(HEADS_MAX);
    for entry in &manifest.objects {
        let look = stop.or(looks.try_next()).await?.expect("one result for each object");
        findings.extend(look.map(|fault| Finding::of(&entry.name, fault)));
        seen(entry);
    }
    Ok(findings)
}

/// The objects of a point that are missing or have another size; no verdict is stored.
pub async fn missing(repository: &Repository, manifest: &Manifest, stop: &Stop) -> Result<Vec<Finding>> {
    examine_existence(repository, manifest, stop, &mut |_| ()).await
}

async fn look(repository: &Repository, entry: &ObjectEntry) -> Result<Option<Fault>> {
    let at = Location::Data(Location::parse_data(&entry.name)?);
    match repository.head(&at).await {
        Ok(there) if there.bytes == entry.stored_bytes => Ok(None),
        Ok(there) => {
            let detail = format!("{} bytes, the manifest says {}", there.bytes, entry.stored_bytes);
            Ok(Some(Fault::new(Check::Size, detail)))
        }
        Err(error) if error.kind() == Kind::NotFound => Ok(Some(Fault::new(Check::Exists, "it is missing"))),
        Err(error) => Err(error),
    }
}

async fn examine_bytes(
    repository: &Repository,
    manifest: &Manifest,
    mut prover: Option<Box<dyn Examiner>>,
    stop: &Stop,
    seen: &mut (impl FnMut(&ObjectEntry) + Send),
) -> Result<Vec<Finding>> {
    let mut findings = vec![];
    let mut reader = Reader::start(repository, &manifest.objects, Direction::Backward, stop);
    while let Some(read) = reader.next_read().await? {
        match read {
            Read::Faulty(entry, fault) => {
                // Without all records nothing can be proved about them; the bytes of the rest still can.
                prover = None;
                findings.push(Finding::of(&entry.name, fault));
                seen(&entry);
            }
            // Level 2 is about stored bytes. What is in them is proved on a host that can read.
            Read::Sealed(entry) => match prover {
                Some(_) => return Err(repository.unreadable(&entry.name)),
                None => seen(&entry),
            },
            Read::Whole(object) => {
                let entry = object.entry.clone();
                if let Some(proving) = prover.take() {
                    let (proving, result) = blocking(move || prove(proving, &object)).await;
                    match result {
                        Ok(()) => prover = Some(proving),
                        Err(error) => findings.push(Finding::of(&entry.name, records_fault(error)?)),
                    }
                }
                seen(&entry);
            }
        }
    }
    findings.reverse();
    if let Some(prover) = prover {
        match blocking(move || prover.finish()).await {
            Ok(found) => findings.extend(found),
            Err(error) => {
                let at = Location::Point(manifest.name()).to_string();
                findings.push(Finding::of(at, records_fault(error)?));
            }
        }
    }
    Ok(findings)
}

fn prove(mut prover: Box<dyn Examiner>, object: &RawObject) -> (Box<dyn Examiner>, Result<()>) {
    let result = prover.object(object);
    (prover, result)
}

fn records_fault(error: Error) -> Result<Fault> {
    if error.kind() == Kind::Damaged { Ok(Fault::new(Check::Records, error.chain())) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::sign::Signers;
    use crate::vault::testing;
    use std::sync::{Arc, Mutex};

    /// Wants objects newest first and complains about the one it is told to.
    struct Fussy {
        expected: usize,
        dislikes: Option<usize>,
        finished: Arc<Mutex<bool>>,
    }

    impl Examiner for Fussy {
        fn object(&mut self, raw: &RawObject) -> Result<()> {
            assert_eq!(raw.index + 1, self.expected);
            self.expected -= 1;
            match self.dislikes {
                Some(index) if index == raw.index => Err(Error::damaged("a record is not one")),
                _ => Ok(()),
            }
        }

        fn finish(self: Box<Self>) -> Result<Vec<Finding>> {
            *self.finished.lock().unwrap() = true;
            Ok(vec![])
        }
    }

    fn level(level: Level, dislikes: Option<usize>) -> (Verification, Arc<Mutex<bool>>) {
        let finished = Arc::new(Mutex::new(false));
        let shared = Arc::clone(&finished);
        let prover = move |manifest: &Manifest| -> Box<dyn Examiner> {
            Box::new(Fussy { expected: manifest.objects.len(), dislikes, finished: shared })
        };
        (Verification { level, prover: Some(Box::new(prover)), stop: Stop::new() }, finished)
    }

    async fn run(repository: &Repository, manifest: &Manifest, at: Level, dislikes: Option<usize>) -> (Verdict, bool) {
        let (verification, finished) = level(at, dislikes);
        let mut seen = 0;
        let verdict = verify(repository, &manifest.name(), verification, |_| seen += 1).await.unwrap();
        assert_eq!(seen, manifest.objects.len());
        let finished = *finished.lock().unwrap();
        (verdict, finished)
    }

    #[tokio::test]
    async fn a_whole_point_passes_each_level_and_the_newest_verdict_is_listed() {
        let (dir, repository) = testing::repository().await;
        let manifest = testing::point(&repository, 6).await;
        for at in [Level::Exists, Level::Bytes, Level::Records] {
            let (verdict, finished) = run(&repository, &manifest, at, None).await;
            assert_eq!((verdict.result, verdict.level, finished), (Outcome::Ok, at.number(), at == Level::Records));
            verdict.as_result().unwrap();
        }
        // The clock stands still: another verdict of the same level steps aside and is the newer one.
        testing::damage(&dir.path().join(&manifest.objects[3].name));
        let (again, _) = run(&repository, &manifest, Level::Bytes, None).await;
        assert_eq!(again.result, Outcome::Failed);
        assert_eq!(Verdict::newest(&repository, &manifest.name()).await.unwrap(), Some(again));
    }

    #[tokio::test]
    async fn every_damaged_object_is_named_with_its_check() {
        let (dir, repository) = testing::repository().await;
        let manifest = testing::point(&repository, 6).await;
        let name = |n: usize| manifest.objects[n].name.clone();
        let path = |n: usize| dir.path().join(name(n));
        std::fs::remove_file(path(1)).unwrap();
        testing::damage(&path(2));
        testing::overwrite(&path(4), b"short");
        let found = |verdict: &Verdict| -> Vec<(String, Check)> {
            verdict.findings.iter().map(|f| (f.object.clone(), f.check)).collect()
        };
        let (verdict, _) = run(&repository, &manifest, Level::Exists, None).await;
        assert_eq!(found(&verdict), [(name(1), Check::Exists), (name(4), Check::Size)]);
        for at in [Level::Bytes, Level::Records] {
            let (verdict, finished) = run(&repository, &manifest, at, None).await;
            assert_eq!(verdict.result, Outcome::Failed);
            assert_eq!(found(&verdict), [(name(1), Check::Exists), (name(2), Check::Sha256), (name(4), Check::Size)]);
            assert!(!finished, "nothing is proved over a hole");
            assert_eq!(verdict.as_result().unwrap_err().kind(), Kind::Damaged);
        }
    }

    #[tokio::test]
    async fn a_new_point_makes_a_damaged_older_one_whole_again() {
        let (dir, repository) = testing::repository().await;
        let older = testing::point(&repository, 6).await;
        let path = |n: usize| dir.path().join(&older.objects[n].name);
        testing::damage(&path(2));
        testing::overwrite(&path(4), b"short");
        std::fs::remove_file(path(1)).unwrap();
        let (verdict, _) = run(&repository, &older, Level::Bytes, None).await;
        assert_eq!(verdict.findings.len(), 3);
        let newer = testing::point(&repository, 6).await;
        assert_eq!(newer.objects, older.objects);
        for manifest in [&older, &newer] {
            let (verdict, finished) = run(&repository, manifest, Level::Records, None).await;
            assert_eq!((verdict.result, finished), (Outcome::Ok, true));
        }
    }

    #[tokio::test]
    async fn records_that_prove_nothing_and_manifests_that_lie_are_findings() {
        let (dir, repository) = testing::repository().await;
        let manifest = testing::point(&repository, 4).await;
        let (verdict, finished) = run(&repository, &manifest, Level::Records, Some(1)).await;
        assert_eq!((verdict.findings.len(), finished), (1, false));
        assert_eq!(verdict.findings[0].object, manifest.objects[1].name);
        assert_eq!(verdict.findings[0].check, Check::Records);

        let at = Location::Point(manifest.name()).to_string();
        testing::damage(&dir.path().join(&at));
        let verdict = verify(&repository, &manifest.name(), level(Level::Bytes, None).0, |_| ()).await.unwrap();
        assert_eq!((verdict.findings[0].object.as_str(), verdict.findings[0].check), (at.as_str(), Check::Manifest));
        std::fs::remove_file(dir.path().join(&at)).unwrap();
        let missing = verify(&repository, &manifest.name(), level(Level::Bytes, None).0, |_| ()).await;
        assert_eq!(missing.unwrap_err().kind(), Kind::NotFound);
    }

    #[tokio::test]
    async fn a_point_that_is_deleted_while_it_is_verified_is_not_damaged() {
        let (dir, repository) = testing::repository().await;
        let manifest = testing::point(&repository, 12).await;
        let gone = [Location::Point(manifest.name()).to_string(), manifest.objects[0].name.clone()];
        let mut deleted = false;
        // As soon as the newest object was looked at, a collector takes the manifest and the oldest, far ahead.
        let name = manifest.name();
        let verified = verify(&repository, &name, level(Level::Bytes, None).0, |_| {
            if !std::mem::replace(&mut deleted, true) {
                gone.iter().for_each(|path| std::fs::remove_file(dir.path().join(path)).unwrap());
            }
        });
        assert_eq!(verified.await.unwrap_err().kind(), Kind::NotFound);
        assert_eq!(Verdict::newest(&repository, &name).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_point_that_nobody_trusted_signed_is_a_finding_and_costs_no_look_at_its_objects() {
        let (_dir, repository) = testing::repository().await;
        let manifest = testing::point(&repository, 3).await;
        let signers = |allow| Signers::new(vec![testing::signing_key(1).public()], allow);
        let key = Some(testing::signing_key(1));
        let strict = testing::reopened(&repository, key.clone(), signers(false)).await;
        for depth in [Level::Exists, Level::Bytes] {
            let mut seen = 0;
            let verification = Verification { level: depth, prover: None, stop: Stop::new() };
            let verdict = verify(&strict, &manifest.name(), verification, |_| seen += 1).await.unwrap();
            assert_eq!((verdict.result, verdict.findings.len(), seen), (Outcome::Failed, 1, 0));
            let finding = &verdict.findings[0];
            assert_eq!((finding.check, finding.object.contains("/points/")), (Check::Signature, true));
        }
        let lenient = testing::reopened(&repository, key.clone(), signers(true)).await;
        let (verdict, _) = run(&lenient, &manifest, Level::Bytes, None).await;
        assert_eq!(verdict.result, Outcome::Ok);
        // What is signed here is believed here.
        let signed = testing::point(&strict, 3).await;
        let (verdict, _) = run(&strict, &signed, Level::Bytes, None).await;
        assert_eq!(verdict.result, Outcome::Ok);
    }

    #[tokio::test]
    async fn a_stop_signal_leaves_no_verdict() {
        let (_dir, repository) = testing::repository().await;
        let manifest = testing::point(&repository, 3).await;
        for at in [Level::Exists, Level::Bytes] {
            let (verification, _) = level(at, None);
            verification.stop.stop();
            let error = verify(&repository, &manifest.name(), verification, |_| ()).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Interrupted);
        }
        assert_eq!(Verdict::newest(&repository, &manifest.name()).await.unwrap(), None);
    }

    #[test]
    fn levels_have_numbers() {
        for level in [Level::Exists, Level::Bytes, Level::Records] {
            assert_eq!(Level::from_number(level.number()).unwrap(), level);
        }
        assert_eq!(Level::from_number(4).unwrap_err().kind(), Kind::Usage);
    }
}
