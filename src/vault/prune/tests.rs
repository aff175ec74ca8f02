//! Prunes against a real directory: what goes and what stays, kills at every step, collectors and backups at once, and a
//! model that does all of it in seeded disorder.

use super::*;
use crate::base::digest::Sha256;
use crate::base::error::{Error, Kind};
use crate::base::rng::Seeded;
use crate::base::steps::Edge;
use crate::base::stop::Stop;
use crate::policy::retention::Hold;
use crate::vault::layout::{ObjectName, PointName};
use crate::vault::manifest::{Manifest, ObjectEntry, Tool};
use crate::vault::publish::{look as look_at, publish};
use crate::vault::repository::RepositoryOptions;
use crate::vault::scrub::missing;
use crate::vault::sign::Signers;
use crate::vault::testing;
use crate::vault::verdict::{Outcome, Verdict};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tempfile::TempDir;

const MINUTE: Duration = Duration::from_mins(1);
/// Bytes of each object here.
const BYTES: u64 = 100;

struct Yard {
    dir: TempDir,
    repository: Repository,
    schedule: Schedule,
    retention: Retention,
}

impl Yard {
    async fn keeping(last: u32) -> Yard {
        let (dir, repository) = testing::repository().await;
        // Ages count from here: the store's files are of today.
        let options = RepositoryOptions { url: repository.url().to_owned(), ..RepositoryOptions::default() };
        let repository = Repository::open(&options).await.unwrap();
        let retention = Retention { last, ..Retention::default() };
        Yard { dir, repository, schedule: Schedule::default(), retention }
    }

    /// Without any grace: what one run condemns, the next deletes.
    fn pruning(&self, steps: Steps) -> Pruning<'_> {
        Pruning { grace: Duration::ZERO, steps, ..Pruning::new(&self.retention, &self.schedule) }
    }

    async fn prune(&self) -> Result<Pruned> {
        prune(&self.repository, "prod", &self.pruning(Steps::unheard())).await
    }

    /// The store's present: that of its oldest file, which is a moment ago.
    async fn now(&self) -> Time {
        self.repository.head(&Location::Config(1)).await.unwrap().modified
    }

    /// Stores objects, one for each revision.
    async fn store(&self, revisions: &[i64]) -> Vec<ObjectEntry> {
        let mut entries = vec![];
        for revision in revisions {
            let content = format!("{revision:0100}");
            let digest = Sha256::of(content.as_bytes());
            let (cluster, lineage) = ("prod".to_owned(), testing::lineage());
            let name =
                ObjectName { cluster, lineage, first: *revision, last: *revision, level: 0, digest, encrypted: false };
            self.repository.put_data(&name, content.into()).await.unwrap();
            let entry = testing::entry("prod", *revision, *revision);
            let name = Location::Data(name).to_string();
            entries.push(ObjectEntry { name, sha256: digest, stored_bytes: BYTES, ..entry });
        }
        entries
    }

    /// A manifest over stored objects, of a point taken so many minutes ago.
    async fn manifest(&self, entries: &[ObjectEntry], minutes: u32) -> Manifest {
        Manifest { started: self.now().await - MINUTE * minutes, ..testing::manifest("prod", entries) }
    }

    /// A whole point.
    async fn point(&self, revisions: &[i64], minutes: u32) -> PointName {
        let entries = self.store(revisions).await;
        let manifest = self.manifest(&entries, minutes).await;
        publish(&self.repository, None, &manifest, &Steps::unheard()).await.unwrap().name
    }

    async fn verified(&self, name: &PointName, level: u8, result: Outcome, time: Time) {
        let (point, findings, tool) = (name.stem(), vec![], Tool::this());
        let mut verdict = Verdict { point, level, time, result, findings, tool };
        verdict.store(&self.repository, name).await.unwrap();
    }

    fn exists(&self, at: &Location) -> bool {
        self.dir.path().join(at.to_string()).exists()
    }

    fn has(&self, name: &PointName) -> bool {
        self.exists(&Location::Point(name.clone()))
    }

    /// Files below a folder of the cluster.
    fn files(&self, folder: &str) -> usize {
        fn count(path: &Path) -> usize {
            let Ok(entries) = std::fs::read_dir(path) else { return 0 };
            entries.map(|entry| entry.unwrap().path()).map(|path| if path.is_dir() { count(&path) } else { 1 }).sum()
        }
        count(&self.dir.path().join("clusters/prod").join(folder))
    }

    fn path(&self, name: &PointName) -> std::path::PathBuf {
        self.dir.path().join(Location::Point(name.clone()).to_string())
    }

    /// Every listed object is there.
    async fn assert_whole(&self, when: &str) {
        let mut strays = vec![];
        let points = crate::vault::catalog::list_points(&self.repository, "prod", &mut strays).await.unwrap();
        for point in points {
            let Ok(manifest) = self.repository.manifest(&point.name).await else { continue };
            let findings = missing(&self.repository, &manifest, &Stop::new()).await.unwrap();
            assert_eq!(findings, [], "{when}: point {} lost something", point.name.stem());
        }
    }
}

/// Ends a run at a step, as a kill would.
fn killing_at(number: u32, edge: Edge) -> Steps {
    Steps::heard_by(move |step| match (step.number, step.edge) == (number, edge) {
        true => Err(Error::new(Kind::Interrupted, "killed")),
        false => Ok(()),
    })
}

#[tokio::test]
async fn one_run_condemns_and_a_later_one_deletes() {
    let yard = Yard::keeping(2).await;
    let old = yard.point(&[1, 2, 5], 50).await;
    let mid = yard.point(&[1, 2, 3, 6], 40).await;
    let kept = [yard.point(&[1, 7], 30).await, yard.point(&[1, 3, 8], 20).await];
    for name in [&old, &kept[1]] {
        yard.verified(name, 1, Outcome::Ok, yard.now().await).await;
    }
    let first = yard.prune().await.unwrap();
    assert_eq!(first.epoch, Some(1));
    assert_eq!((first.deleted, first.lists), (Share::default(), 0));
    // 2, 5 and 6 are listed by nobody who stays.
    assert_eq!((first.condemned.points.len(), first.condemned.objects, first.condemned.bytes), (2, 3, 3 * BYTES));
    assert!(yard.has(&old) && yard.has(&mid) && yard.files("data") == 7);
    let looked = preview(&yard.repository, "prod", &yard.pruning(Steps::unheard())).await.unwrap();
    let second = yard.prune().await.unwrap();
    for run in [&looked, &second] {
        assert_eq!((run.deleted.points.len(), run.deleted.objects, run.deleted.bytes), (2, 3, 3 * BYTES));
        assert_eq!((run.lists, run.condemned.points.len(), run.condemned.objects), (1, 0, 0));
    }
    assert_eq!((looked.epoch, second.epoch), (None, Some(2)));
    assert!(!yard.has(&old) && !yard.has(&mid) && kept.iter().all(|name| yard.has(name)));
    assert_eq!(
        (yard.files("data"), yard.files("condemned"), yard.files("verdicts"), yard.files("epochs")),
        (4, 0, 1, 1)
    );
    yard.assert_whole("after two runs").await;
    // Nothing is left for a third.
    let third = yard.prune().await.unwrap();
    assert_eq!((third.deleted, third.condemned, third.lists), (Share::default(), Share::default(), 0));
}

#[tokio::test]
async fn nothing_goes_before_its_grace_is_over_by_the_stores_clock() {
    let yard = Yard::keeping(1).await;
    let old = yard.point(&[1, 2], 50).await;
    yard.point(&[1, 3], 10).await;
    let day = || Pruning { grace: GRACE_DEFAULT, ..yard.pruning(Steps::unheard()) };
    let first = prune(&yard.repository, "prod", &day()).await.unwrap();
    assert_eq!(first.condemned.points.len(), 1);
    let second = prune(&yard.repository, "prod", &day()).await.unwrap();
    assert_eq!((second.deleted, second.condemned), (Share::default(), Share::default()));
    assert_eq!((second.waiting.points.len(), second.waiting.objects), (1, 1));
    assert!(second.waiting_until.unwrap() > second.now + Duration::from_hours(23));
    // The list's own date plays no part; the store's does.
    let list = std::fs::read_dir(yard.dir.path().join("clusters/prod/condemned")).unwrap().next().unwrap().unwrap();
    let file = std::fs::File::options().append(true).open(list.path()).unwrap();
    file.set_modified(file.metadata().unwrap().modified().unwrap() - GRACE_DEFAULT).unwrap();
    let third = prune(&yard.repository, "prod", &day()).await.unwrap();
    assert_eq!((third.deleted.points.len(), third.deleted.objects, yard.has(&old)), (1, 1, false));
}

#[tokio::test]
async fn lists_outlive_a_run_that_may_still_be_deleting() {
    let yard = Yard::keeping(1).await;
    let old = yard.point(&[1, 2], 50).await;
    yard.point(&[1, 3], 10).await;
    let hour = |steps| Pruning { grace: Duration::from_hours(1), ..yard.pruning(steps) };
    prune(&yard.repository, "prod", &hour(Steps::unheard())).await.unwrap();
    let age = |folder: &str| {
        for file in std::fs::read_dir(yard.dir.path().join("clusters/prod").join(folder)).unwrap() {
            let file = std::fs::File::options().append(true).open(file.unwrap().path()).unwrap();
            let modified = file.metadata().unwrap().modified().unwrap();
            file.set_modified(modified - Duration::from_mins(61)).unwrap();
        }
    };
    age("condemned");
    // A run dies, or hangs, right before it deletes the manifest; the next one does all of its work but for the list.
    let killed = prune(&yard.repository, "prod", &hour(killing_at(2, Edge::Before))).await.unwrap_err();
    assert_eq!(killed.kind(), Kind::Interrupted);
    let next = prune(&yard.repository, "prod", &hour(Steps::unheard())).await.unwrap();
    assert_eq!((next.deleted.points.len(), next.deleted.objects, next.lists), (1, 1, 0));
    assert!(!yard.has(&old) && yard.files("condemned") == 1);
    let last = prune(&yard.repository, "prod", &hour(Steps::unheard())).await.unwrap();
    assert_eq!((last.lists, yard.files("condemned"), yard.files("epochs")), (1, 0, 1));
}

#[tokio::test]
async fn killed_before_or_after_any_step_the_next_runs_go_on() {
    for phase in 0..2 {
        let mut walked = 0;
        loop {
            let yard = Yard::keeping(1).await;
            let (old, older) = (yard.point(&[1, 2, 5], 50).await, yard.point(&[2, 6], 60).await);
            crate::vault::hold::say(&yard.repository, &older, None, None).await.unwrap();
            let kept = yard.point(&[1, 7], 10).await;
            for name in [&old, &kept] {
                yard.verified(name, 1, Outcome::Ok, yard.now().await).await;
            }
            if phase == 1 {
                yard.prune().await.unwrap();
            }
            let edge = if walked % 2 == 0 { Edge::Before } else { Edge::After };
            // One path to a list, so that condemning takes several steps.
            let pruning = Pruning { paths_max: 2, ..yard.pruning(killing_at(walked / 2 + 1, edge)) };
            let result = prune(&yard.repository, "prod", &pruning).await;
            let when = format!("phase {phase}, step {}, {edge:?}", walked / 2 + 1);
            yard.assert_whole(&when).await;
            let survived = result.is_ok();
            for _ in 0..3 {
                yard.prune().await.unwrap();
            }
            yard.assert_whole(&when).await;
            assert_eq!([&old, &older, &kept].map(|name| yard.has(name)), [false, false, true], "{when}");
            let left = ["data", "condemned", "verdicts", "holds", "epochs"].map(|folder| yard.files(folder));
            assert_eq!(left, [2, 0, 1, 0, 1], "{when}");
            if survived {
                break;
            }
            walked += 1;
        }
        // The claim and the old ones; three lists, or two manifests, three objects, what was said, the list.
        assert!(walked >= [10, 18][phase], "phase {phase}: {walked} edges");
    }
}

#[tokio::test]
async fn what_keeps_a_point_is_asked_again_before_it_goes() {
    let yard = Yard::keeping(1).await;
    let (held, freed) = (yard.point(&[1, 2], 50).await, yard.point(&[3, 4], 40).await);
    yard.point(&[5], 10).await;
    yard.prune().await.unwrap();
    crate::vault::hold::say(&yard.repository, &held, Some(&Hold { until: None }), None).await.unwrap();
    let run = yard.prune().await.unwrap();
    assert_eq!((run.spared.len(), run.deleted.points.len(), run.deleted.objects, run.lists), (1, 1, 2, 1));
    assert!(yard.has(&held) && !yard.has(&freed));
    yard.assert_whole("held").await;
    // Released, it goes the whole way again.
    crate::vault::hold::say(&yard.repository, &held, None, None).await.unwrap();
    assert_eq!(yard.prune().await.unwrap().condemned.points.len(), 1);
    assert_eq!(yard.prune().await.unwrap().deleted.points.len(), 1);
}

#[tokio::test]
async fn a_hold_said_while_a_run_is_about_to_delete_is_heard() {
    let yard = Yard::keeping(1).await;
    let old = yard.point(&[1, 2], 50).await;
    yard.point(&[5], 10).await;
    yard.prune().await.unwrap();
    let epoch = Epoch::claim(&yard.repository, "prod", "prune").await.unwrap();
    let pruning = yard.pruning(Steps::unheard());
    let mut look = look(&yard.repository, "prod", &pruning, epoch.now).await.unwrap();
    assert_eq!(look.intent.delete_points.len(), 1);
    crate::vault::hold::say(&yard.repository, &old, Some(&Hold { until: None }), None).await.unwrap();
    let run = Run { repository: &yard.repository, cluster: "prod", epoch: &epoch, pruning: &pruning };
    run.delete_points(&mut look).await.unwrap();
    run.delete_objects(&mut look).await.unwrap();
    run.finish_lists(&look).await.unwrap();
    assert!(yard.has(&old));
    yard.assert_whole("held meanwhile").await;
}

#[tokio::test]
async fn a_hold_said_while_other_points_are_deleted_is_heard_or_fails() {
    let yard = Yard::keeping(1).await;
    let (first, second) = (yard.point(&[1, 2], 50).await, yard.point(&[2, 3], 40).await);
    yard.point(&[5], 10).await;
    yard.prune().await.unwrap();
    // Somebody holds both at the moment at which the first manifest has just been deleted.
    let hold = Some(Hold { until: None });
    crate::vault::hold::say(&yard.repository, &second, hold.as_ref(), None).await.unwrap();
    let said = Location::Hold("prod".into(), second.stem(), 1).to_string();
    let (path, aside) = (yard.dir.path().join(&said), yard.dir.path().join("aside"));
    std::fs::copy(&path, &aside).unwrap();
    std::fs::remove_file(&path).unwrap();
    let steps = Steps::heard_by(move |step| {
        if step.name == "delete a manifest" && step.edge == Edge::After {
            std::fs::copy(&aside, &path).unwrap();
        }
        Ok(())
    });
    let run = prune(&yard.repository, "prod", &yard.pruning(steps)).await.unwrap();
    assert_eq!((run.deleted.points.len(), run.spared.len(), run.deleted.objects), (1, 1, 1));
    assert_eq!([&first, &second].map(|name| yard.has(name)), [false, true]);
    yard.assert_whole("held while others went").await;
    let error = crate::vault::hold::say(&yard.repository, &first, hold.as_ref(), None).await.unwrap_err();
    assert_eq!((error.kind(), error.hint_text().is_some()), (Kind::NotFound, true), "{error}");
}

#[tokio::test]
async fn the_newest_verified_point_and_what_cannot_be_read_stay() {
    let yard = Yard::keeping(1).await;
    let now = yard.now().await;
    let (deep, bad) = (yard.point(&[1, 2], 50).await, yard.point(&[3, 4], 40).await);
    let lost = yard.point(&[6, 7], 30).await;
    let newest = yard.point(&[5], 10).await;
    yard.verified(&deep, 3, Outcome::Ok, now - MINUTE * 9).await;
    // A shallow look later says no less.
    yard.verified(&deep, 1, Outcome::Ok, now - MINUTE).await;
    yard.verified(&bad, 2, Outcome::Failed, now - MINUTE).await;
    testing::damage(&yard.path(&lost));
    yard.store(&[100]).await;
    for _ in 0..3 {
        let pruning = Pruning { orphan_age: Duration::ZERO, ..yard.pruning(Steps::unheard()) };
        let run = prune(&yard.repository, "prod", &pruning).await.unwrap();
        // The point that is not understood may list anything.
        assert_eq!((run.deleted.objects, run.condemned.objects), (0, 0));
        assert!(run.warnings.iter().any(|text| text.contains(&lost.attempt.to_string())), "{:?}", run.warnings);
    }
    assert_eq!([&deep, &bad, &lost, &newest].map(|name| yard.has(name)), [true, false, true, true]);
    assert_eq!(yard.files("data"), 8);
    std::fs::remove_file(yard.path(&lost)).unwrap();
    for _ in 0..2 {
        let pruning = Pruning { orphan_age: Duration::ZERO, ..yard.pruning(Steps::unheard()) };
        prune(&yard.repository, "prod", &pruning).await.unwrap();
    }
    assert_eq!(yard.files("data"), 3);
}

#[tokio::test]
async fn leftovers_go_when_they_are_old_and_not_before() {
    let yard = Yard::keeping(1).await;
    yard.point(&[1], 10).await;
    let leftover = yard.store(&[2]).await;
    for _ in 0..2 {
        let run = yard.prune().await.unwrap();
        assert_eq!((run.condemned.objects, run.deleted.objects), (0, 0));
    }
    let file = std::fs::File::options().append(true).open(yard.dir.path().join(&leftover[0].name)).unwrap();
    file.set_modified(file.metadata().unwrap().modified().unwrap() - ORPHAN_AGE_DEFAULT).unwrap();
    assert_eq!(yard.prune().await.unwrap().condemned.objects, 1);
    let run = yard.prune().await.unwrap();
    assert_eq!((run.deleted.objects, run.deleted.bytes, yard.files("data")), (1, BYTES, 1));
}

#[tokio::test]
async fn nothing_is_touched_without_rules_without_points_or_while_backups_fail() {
    let yard = Yard::keeping(0).await;
    yard.point(&[1], 50).await;
    yard.point(&[2], 40).await;
    let run = yard.prune().await.unwrap();
    assert!(run.plan.held_back.is_some() && run.epoch.is_none() && yard.files("epochs") == 0);

    let yard = Yard::keeping(1).await;
    yard.store(&[1]).await;
    let error = yard.prune().await.unwrap_err();
    assert_eq!((error.kind(), yard.files("data")), (Kind::NotFound, 1));

    let yard = Yard::keeping(1).await;
    let points = [yard.point(&[1], 60 * 24 * 9).await, yard.point(&[2], 60 * 24 * 8).await];
    for _ in 0..3 {
        let run = yard.prune().await.unwrap();
        assert!(run.plan.held_back.unwrap().contains("backups must succeed"));
        assert_eq!((run.condemned, run.deleted), (Share::default(), Share::default()));
    }
    assert!(points.iter().all(|name| yard.has(name)));
    // A folder that leads in a circle stands for any listing that fails half-way.
    let yard = Yard::keeping(1).await;
    let points = [yard.point(&[1], 50).await, yard.point(&[2], 40).await];
    yard.prune().await.unwrap();
    for folder in ["points", "data", "verdicts", "holds"] {
        std::fs::create_dir_all(yard.dir.path().join("clusters/prod").join(folder)).unwrap();
        let circle = yard.dir.path().join("clusters/prod").join(folder).join("loop");
        std::os::unix::fs::symlink(yard.dir.path(), &circle).unwrap();
        assert_eq!(yard.prune().await.unwrap_err().kind(), Kind::Failed, "{folder}");
        std::fs::remove_file(circle).unwrap();
        assert!(points.iter().all(|name| yard.has(name)) && yard.files("data") == 2);
    }
}

#[tokio::test]
async fn lists_that_cannot_be_read_and_newer_collectors_stop_a_run() {
    let yard = Yard::keeping(1).await;
    let old = yard.point(&[1], 50).await;
    yard.point(&[2], 40).await;
    yard.prune().await.unwrap();
    let path = yard.dir.path().join("clusters/prod/condemned/00000001-00000001.json");
    let right = std::fs::read(&path).unwrap();
    testing::damage(&path);
    let error = yard.prune().await.unwrap_err();
    assert!(error.kind() == Kind::Damaged && error.hint_text().unwrap().contains("put back a copy"), "{error}");
    assert_eq!((yard.files("epochs"), yard.has(&old)), (1, true));
    testing::overwrite(&path, &right);
    // A collector that begins while another one deletes: the older one stops.
    let repository = yard.repository.clone();
    let claimed = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&claimed);
    let (dir, document) = (yard.dir.path().to_owned(), Location::Epoch("prod".into(), 3).to_string());
    let steps = Steps::heard_by(move |step| {
        if step.name == "claim the epoch" && step.edge == Edge::After {
            std::fs::copy(dir.join("clusters/prod/epochs/00000002.json"), dir.join(&document)).unwrap();
            seen.store(step.number, Ordering::Relaxed);
        }
        Ok(())
    });
    let error = prune(&repository, "prod", &yard.pruning(steps)).await.unwrap_err();
    assert_eq!((error.kind(), claimed.load(Ordering::Relaxed), yard.has(&old)), (Kind::Conflict, 1, true), "{error}");
}

#[tokio::test]
async fn a_backup_that_publishes_in_between_keeps_its_objects_or_withdraws() {
    // Published before the collector looks again: the object stays.
    let yard = Yard::keeping(1).await;
    yard.point(&[1, 2], 50).await;
    yard.point(&[3], 40).await;
    yard.prune().await.unwrap();
    let entries = yard.store(&[1, 4]).await;
    let manifest = yard.manifest(&entries, 5).await;
    let error = publish(&yard.repository, None, &manifest, &Steps::unheard()).await.unwrap_err();
    assert!(error.chain().contains("withdrawn") && error.chain().contains("condemned"), "{}", error.chain());
    assert!(!yard.has(&manifest.name()));
    // Too late to see the list: the objects are gone, and the point with them.
    let entries = yard.store(&[1, 4]).await;
    yard.prune().await.unwrap();
    let manifest = yard.manifest(&entries, 5).await;
    publish(&yard.repository, None, &manifest, &Steps::unheard()).await.unwrap();
    let error = look_at(&yard.repository, &manifest.name(), &Stop::new()).await.unwrap_err();
    assert!(error.hint_text().unwrap().contains("stored anew"), "{error}");
    assert!(!yard.has(&manifest.name()));
    // Whoever stores it anew has a whole point.
    yard.point(&[1, 4], 5).await;
    yard.assert_whole("stored anew").await;
}

#[tokio::test]
async fn a_point_that_is_copied_here_again_while_it_goes_keeps_its_objects() {
    let yard = Yard::keeping(1).await;
    let old = yard.point(&[1, 2], 50).await;
    yard.point(&[5], 10).await;
    yard.prune().await.unwrap();
    // A copy publishes the same manifest under the same name as soon as it is gone.
    let (path, aside) = (yard.path(&old), yard.dir.path().join("aside"));
    std::fs::copy(&path, &aside).unwrap();
    let steps = Steps::heard_by(move |step| {
        if step.name == "delete a manifest" && step.edge == Edge::After {
            std::fs::copy(&aside, &path).unwrap();
        }
        Ok(())
    });
    let run = prune(&yard.repository, "prod", &yard.pruning(steps)).await.unwrap();
    assert_eq!((run.deleted.objects, yard.has(&old), yard.files("data")), (0, true, 3));
    yard.assert_whole("copied again").await;
}

#[tokio::test]
async fn a_condemned_point_is_taken_back_while_it_is_whole() {
    let yard = Yard::keeping(1).await;
    let (wanted, other) = (yard.point(&[1, 2], 50).await, yard.point(&[1, 3], 40).await);
    yard.point(&[4], 10).await;
    let back = async |name: &PointName| undelete(&yard.repository, name, &Steps::unheard(), &Stop::new()).await;
    assert_eq!(back(&wanted).await.unwrap_err().kind(), Kind::NotFound);
    yard.prune().await.unwrap();
    assert_eq!(back(&wanted).await.unwrap(), Undeleted { objects: 2, lists: 1 });
    let condemned = condemned::read(&yard.repository, "prod").await.unwrap();
    assert_eq!((condemned.points.len(), condemned.objects.len()), (1, 1));
    let run = yard.prune().await.unwrap();
    assert_eq!((run.deleted.points.len(), run.deleted.objects), (1, 1));
    // By the same rules it is condemned anew, with a grace of its own.
    assert_eq!(run.condemned.points.len(), 1);
    assert!(yard.has(&wanted) && !yard.has(&other));
    yard.assert_whole("taken back").await;
    // Too late.
    let entries = yard.repository.manifest(&wanted).await.unwrap().objects;
    std::fs::remove_file(yard.dir.path().join(&entries[0].name)).unwrap();
    let error = back(&wanted).await.unwrap_err();
    assert!(error.kind() == Kind::Damaged && error.hint_text().unwrap().contains("grace"), "{error}");
}

#[tokio::test]
async fn an_undelete_killed_at_any_step_is_run_again_and_loses_nothing() {
    let mut walked = 0;
    loop {
        let yard = Yard::keeping(1).await;
        let (wanted, other) = (yard.point(&[1, 2, 3], 50).await, yard.point(&[1, 4], 40).await);
        yard.point(&[5], 10).await;
        // Several lists, so that what is wanted stands in more than one of them, beside what is not.
        let pruning = Pruning { paths_max: 2, ..yard.pruning(Steps::unheard()) };
        prune(&yard.repository, "prod", &pruning).await.unwrap();
        let edge = if walked % 2 == 0 { Edge::Before } else { Edge::After };
        let steps = killing_at(walked / 2 + 1, edge);
        let first = undelete(&yard.repository, &wanted, &steps, &Stop::new()).await;
        let when = format!("step {}, {edge:?}", walked / 2 + 1);
        yard.assert_whole(&when).await;
        if first.is_err() {
            // Whatever is left to do is done, or all was.
            let again = undelete(&yard.repository, &wanted, &Steps::unheard(), &Stop::new()).await;
            assert!(again.is_ok() || again.is_err_and(|error| error.kind() == Kind::NotFound), "{when}");
        }
        let condemned = condemned::read(&yard.repository, "prod").await.unwrap();
        let path = |name: &PointName| Location::Point(name.clone()).to_string();
        assert!(!condemned.points.contains(&path(&wanted)) && condemned.points.contains(&path(&other)), "{when}");
        let run = yard.prune().await.unwrap();
        assert_eq!((yard.has(&wanted), yard.has(&other), run.deleted.points.len()), (true, false, 1), "{when}");
        yard.assert_whole(&when).await;
        if first.is_ok() {
            break;
        }
        walked += 1;
    }
    // The claim, what is left of a list, and each of the old ones.
    assert!(walked >= 8, "{walked} edges");
}

#[tokio::test]
async fn two_collectors_at_once_delete_what_one_would() {
    for _ in 0..10 {
        let yard = Yard::keeping(1).await;
        yard.point(&[1, 2, 3], 50).await;
        yard.point(&[2, 4], 40).await;
        yard.point(&[1, 5], 10).await;
        yard.prune().await.unwrap();
        let both = tokio::join!(yard.prune(), yard.prune());
        for result in [both.0, both.1] {
            assert!(result.is_ok() || result.is_err_and(|error| error.kind() == Kind::Conflict));
        }
        yard.assert_whole("two at once").await;
        yard.prune().await.unwrap();
        assert_eq!((yard.files("points"), yard.files("data"), yard.files("condemned")), (1, 2, 0));
    }
}

/// One disorder: backups that take their time, collectors that are killed, people who hold, release and take back.
async fn disorder(seed: u64) -> [u32; 4] {
    let mut rng = Seeded::new(seed);
    let yard = Yard::keeping(2).await;
    let (mut minutes, mut counts) = (900, [0; 4]);
    let mut running: Vec<Vec<ObjectEntry>> = vec![];
    let mut points: Vec<PointName> = vec![yard.point(&[1, 2, 3], minutes).await];
    for turn in 0..40 {
        let when = format!("seed {seed}, turn {turn}");
        let any = |rng: &mut Seeded| points[usize::try_from(rng.below(points.len() as u64)).unwrap()].clone();
        match rng.below(8) {
            0 | 1 => {
                let revisions: Vec<i64> = (1..12).filter(|_| rng.below(3) == 0).chain([20 + turn]).collect();
                running.push(yard.store(&revisions).await);
            }
            2 | 3 if !running.is_empty() => {
                let entries = running.remove(0);
                minutes -= 5;
                let manifest = yard.manifest(&entries, minutes).await;
                let published = publish(&yard.repository, None, &manifest, &Steps::unheard()).await;
                let settled = match published {
                    Ok(_) => look_at(&yard.repository, &manifest.name(), &Stop::new()).await,
                    Err(error) => Err(error),
                };
                match settled {
                    Ok(_) => points.push(manifest.name()),
                    Err(_) => counts[0] += 1,
                }
            }
            4 | 5 => {
                let edge = if rng.below(2) == 0 { Edge::Before } else { Edge::After };
                let kill = u32::try_from(rng.below(20)).unwrap();
                let orphan_age = if rng.below(2) == 0 { Duration::ZERO } else { ORPHAN_AGE_DEFAULT };
                let pruning = Pruning { paths_max: 3, orphan_age, ..yard.pruning(killing_at(kill, edge)) };
                match prune(&yard.repository, "prod", &pruning).await {
                    Ok(run) => counts[1] += u32::try_from(run.deleted.objects).unwrap(),
                    Err(error) => {
                        assert_eq!(error.kind(), Kind::Interrupted, "{when}: {}", error.chain());
                        counts[2] += 1;
                    }
                }
            }
            6 => {
                let hold = (rng.below(3) == 0).then_some(Hold { until: None });
                let point = any(&mut rng);
                let said = crate::vault::hold::say(&yard.repository, &point, hold.as_ref(), None).await;
                assert!(said.is_ok() || !yard.has(&point), "{when}: a point that is there can be held");
            }
            _ => {
                let back = undelete(&yard.repository, &any(&mut rng), &Steps::unheard(), &Stop::new()).await;
                counts[3] += u32::from(back.is_ok());
            }
        }
        yard.assert_whole(&when).await;
        assert!(yard.has(points.last().unwrap()), "{when}: the newest point is gone");
    }
    counts
}

#[tokio::test]
async fn in_any_disorder_no_listed_object_is_missing() {
    let mut counts = [0; 4];
    for seed in 0..20 {
        let of_seed = disorder(seed).await;
        counts.iter_mut().zip(of_seed).for_each(|(sum, count)| *sum += count);
    }
    // Withdrawn points, deleted objects, killed runs, points taken back: all of it happened.
    assert!(counts.iter().all(|count| *count >= 5), "{counts:?}");
}

#[tokio::test]
async fn points_that_nobody_trusted_signed_push_none_out_and_go_only_when_they_are_allowed_to() {
    let mut yard = Yard::keeping(2).await;
    let plain = yard.repository.clone();
    let key = testing::signing_key(1);
    let as_whom = |allow| Signers::new(vec![key.public()], allow);
    let strict = testing::today(&plain, Some(key.clone()), as_whom(false)).await;
    let lenient = testing::today(&plain, Some(key.clone()), as_whom(true)).await;
    // Ours, older than three that somebody else put there.
    yard.repository = strict.clone();
    let ours = [yard.point(&[1], 90).await, yard.point(&[2], 80).await, yard.point(&[3], 70).await];
    yard.repository = plain.clone();
    let mut forged = vec![];
    for (revision, minutes) in [(11, 50), (12, 40), (13, 30)] {
        forged.push(yard.point(&[revision], minutes).await);
    }
    yard.repository = strict.clone();
    for _ in 0..2 {
        let pruned = yard.prune().await.unwrap();
        let alarms: Vec<_> = pruned.plan.alarms.iter().filter(|alarm| alarm.contains("--allow-unsigned")).collect();
        assert!(matches!(&alarms[..], [one] if one.starts_with("3 points")), "{alarms:?}");
    }
    assert_eq!(ours.each_ref().map(|name| yard.has(name)), [false, true, true], "two of ours, as the rule says");
    assert!(forged.iter().all(|name| yard.has(name)));
    assert_eq!(yard.files("data"), 5);
    // Somebody looked, and says that rules may judge them: as if they were sound, and in nobody's place.
    yard.repository = lenient;
    for _ in 0..2 {
        yard.prune().await.unwrap();
    }
    assert_eq!(ours.each_ref().map(|name| yard.has(name)), [false, true, true]);
    assert_eq!(forged.iter().map(|name| yard.has(name)).collect::<Vec<_>>(), [false, true, true]);
    yard.repository = strict;
    yard.assert_whole("after all").await;
    assert_eq!(yard.files("data"), 4);
}

#[tokio::test]
async fn what_a_point_lists_stays_whoever_signed_it_and_whenever_it_came() {
    let mut yard = Yard::keeping(1).await;
    let plain = yard.repository.clone();
    let key = testing::signing_key(1);
    let strict = testing::today(&plain, Some(key.clone()), Signers::new(vec![key.public()], false)).await;
    yard.repository = strict;
    let (old, newest) = (yard.point(&[1, 2], 60).await, yard.point(&[2, 3], 10).await);
    yard.prune().await.unwrap();
    // While the old one waits, somebody lists one of its objects.
    let entries = yard.store(&[1]).await;
    let manifest = yard.manifest(&entries, 50).await;
    plain.put_manifest(&manifest).await.unwrap();
    let foreign = manifest.name();
    yard.prune().await.unwrap();
    assert_eq!([&old, &newest, &foreign].map(|name| yard.has(name)), [false, true, true]);
    assert_eq!(yard.files("data"), 3);
}
