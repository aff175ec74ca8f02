//! Pruning: what retention does not keep is deleted, in two runs with a grace between them.
//!
//! ```text
//! claim the next epoch        create-only; from here on every older collector stops
//! look                        condemned lists, manifests, verdicts, holds, data          survey.rs
//! plan                        retention says which points stay                           policy::retention
//! intend                      pure: what this run deletes and what it condemns           intent.rs
//!    delete what an earlier run condemned at least the grace ago, if the plan still says so and nobody needs it:
//!       manifests, then objects, then verdicts and holds of points that are gone, then the list
//!    condemn what the plan says now: publish the lists that the next runs act upon
//! ```
//!
//! A backup may use an object that a collector is about to delete. The collector publishes its list, and looks at the
//! manifests again before it deletes; the backup publishes its manifest, and looks at the lists afterwards. Whoever comes
//! second sees the other: the collector lets the object be, or the backup withdraws its point and fails. The list goes
//! last, so a backup that is too late to see it finds its objects gone, in the look that every backup takes at its point.
//! Deletions of a run that was overtaken may come late; so lists outlive a run that did not end, by an hour and a run.
//!
//! Invariants:
//! - **No listed object is ever missing**: an object is deleted when no manifest but those deleted before it lists it.
//! - What cannot be read is kept, and so is every object that it may need. What is condemned but cannot be read, or may
//!   be claimed by a newer collector, stops the run.
//! - No rules, no points, or a listing that fails: nothing is deleted.
//! - Ages are told by the store's clock: the moment is that of the claim, ages are those of the objects in the store.
//! - Killed at any step, a run has deleted nothing that anybody needs, and the next run goes on.

mod intent;
mod survey;
#[cfg(test)]
mod tests;
mod undelete;

use futures::stream::{self, StreamExt, TryStreamExt};
use std::time::Duration;

use crate::base::clock::Time;
use crate::base::error::Result;
use crate::base::steps::Steps;
use crate::policy::retention::{Circumstances, Plan, Retention, plan};
use crate::policy::schedule::Schedule;
use crate::vault::condemned::{self, CondemnedList, PATHS_MAX};
use crate::vault::epoch::Epoch;
use crate::vault::hold;
use crate::vault::layout::{Location, folder};
use crate::vault::prune::intent::{Intent, Spare, intend};
use crate::vault::prune::survey::{Survey, newcomers, survey};
use crate::vault::repository::Repository;

pub use crate::vault::prune::survey::Surveyed;
pub use crate::vault::prune::undelete::{Undeleted, undelete};

/// How long what is condemned can be taken back.
pub const GRACE_DEFAULT: Duration = Duration::from_hours(24);
/// Data that no manifest lists is what a killed backup left, or what a running one has not published yet: this old, it is
/// the former.
pub const ORPHAN_AGE_DEFAULT: Duration = Duration::from_hours(7 * 24);
/// How long deletions of a run may be under way after it was overtaken: a request is tried again for at most this long.
const STRAGGLER_MAX: Duration = Duration::from_hours(1);
/// Objects that are deleted between two looks whether the epoch is still ours.
const CHUNK: usize = 100;
/// Objects that are deleted at the same time.
const DELETES_MAX: usize = 8;

/// How to prune.
#[derive(Debug)]
pub struct Pruning<'a> {
    /// What is to be kept.
    pub retention: &'a Retention,
    /// When points are made: tells until when a point is kept, and when the newest one is stale.
    pub schedule: &'a Schedule,
    /// How long what is condemned can be taken back.
    pub grace: Duration,
    /// From this age on, data that no manifest lists is a leftover.
    pub orphan_age: Duration,
    /// Paths in one condemned list.
    pub paths_max: usize,
    /// Hears of every durable step.
    pub steps: Steps,
}

impl<'a> Pruning<'a> {
    /// With the usual limits.
    pub fn new(retention: &'a Retention, schedule: &'a Schedule) -> Self {
        let (grace, orphan_age, paths_max) = (GRACE_DEFAULT, ORPHAN_AGE_DEFAULT, PATHS_MAX);
        Pruning { retention, schedule, grace, orphan_age, paths_max, steps: Steps::unheard() }
    }
}

/// Points and objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Points, by their places among all.
    pub points: Vec<usize>,
    /// How many objects.
    pub objects: u64,
    /// Their stored bytes.
    pub bytes: u64,
}

/// What was done, or would be.
#[derive(Debug)]
pub struct Pruned {
    /// The collector's epoch; none when nothing was to be done but to look.
    pub epoch: Option<u32>,
    /// The moment, by the store's clock (by the host's, where nothing was done but to look).
    pub now: Time,
    /// All points that were there.
    pub points: Vec<Surveyed>,
    /// What retention says of them.
    pub plan: Plan,
    /// What was deleted.
    pub deleted: Share,
    /// Condemned lists that are done with.
    pub lists: u64,
    /// What was condemned.
    pub condemned: Share,
    /// What was condemned before, and its grace is not over.
    pub waiting: Share,
    /// When the first of that can go.
    pub waiting_until: Option<Time>,
    /// Points whose grace is over and which are kept after all.
    pub spared: Vec<usize>,
    /// What somebody should look at.
    pub warnings: Vec<String>,
}

/// Says what a run would do now, and does nothing.
pub async fn preview(repository: &Repository, cluster: &str, pruning: &Pruning<'_>) -> Result<Pruned> {
    let now = repository.clock().now();
    if !pruning.retention.removes() {
        return Ok(idle(now));
    }
    let look = look(repository, cluster, pruning, now).await?;
    Ok(look.report(None))
}

/// Prunes the points of a cluster.
pub async fn prune(repository: &Repository, cluster: &str, pruning: &Pruning<'_>) -> Result<Pruned> {
    if !pruning.retention.removes() {
        return Ok(idle(repository.clock().now()));
    }
    // What would stop the run stops it before it claims anything.
    condemned::lists(repository, cluster).await?;
    let steps = &pruning.steps;
    let epoch = steps.step("claim the epoch", Epoch::claim(repository, cluster, "prune")).await?;
    let mut look = look(repository, cluster, pruning, epoch.now).await?;
    epoch.check(repository).await?;
    if epoch.has_stragglers(repository, pruning.grace.min(STRAGGLER_MAX)).await? {
        // Their lists stay for one run more: whoever publishes meanwhile must see what may still be deleted.
        look.intent.ripe.clear();
    }
    let run = Run { repository, cluster, epoch: &epoch, pruning };
    run.delete_points(&mut look).await?;
    run.delete_objects(&mut look).await?;
    run.finish_lists(&look).await?;
    run.condemn(&look).await?;
    steps.step("forget older epochs", epoch.forget_older(repository)).await?;
    Ok(look.report(Some(epoch.number)))
}

/// Nothing says what to keep.
fn idle(now: Time) -> Pruned {
    let held_back = Some("the policy's [retention] has no rule that says what to keep".to_owned());
    Pruned {
        epoch: None,
        now,
        points: vec![],
        plan: Plan { decisions: vec![], held_back, alarms: vec![] },
        deleted: Share::default(),
        lists: 0,
        condemned: Share::default(),
        waiting: Share::default(),
        waiting_until: None,
        spared: vec![],
        warnings: vec![],
    }
}

/// What a run knows and intends.
struct Look {
    now: Time,
    survey: Survey,
    plan: Plan,
    intent: Intent,
}

async fn look(repository: &Repository, cluster: &str, pruning: &Pruning<'_>, now: Time) -> Result<Look> {
    let lists = condemned::lists(repository, cluster).await?;
    let survey = survey(repository, cluster).await?;
    let facts: Vec<_> = survey.points.iter().map(|point| point.fact.clone()).collect();
    let schedule = pruning.schedule;
    let stale_after = schedule.stale_after(now);
    let at = Circumstances { now, zone: schedule.zone, schedule: Some(schedule), stale_after, force: false };
    let plan = plan(pruning.retention, &facts, &at);
    let spare = spare(repository, cluster, &survey, &plan).await?;
    let intent = intend(&survey, &plan, &lists, &spare, now, pruning);
    Ok(Look { now, survey, plan, intent })
}

/// The data objects that no point needs which the plan keeps.
async fn spare(repository: &Repository, cluster: &str, survey: &Survey, plan: &Plan) -> Result<Vec<Spare>> {
    let mut needed = vec![false; survey.numbers.len()];
    for decision in plan.decisions.iter().filter(|decision| decision.keep) {
        survey.points[decision.point].objects.iter().for_each(|number| needed[*number as usize] = true);
    }
    let mut spare = vec![];
    let mut listed = repository.list(&folder::data(cluster));
    while let Some(object) = listed.try_next().await? {
        // What has another name is nobody's to delete; a writer's staging file is one.
        let Ok(Location::Data(_)) = Location::parse(&object.path) else { continue };
        let number = survey.numbers.get(&object.path).copied();
        if number.is_none_or(|number| !needed[number as usize]) {
            spare.push(Spare { path: object.path, bytes: object.bytes, modified: object.modified, number });
        }
    }
    Ok(spare)
}

impl Look {
    fn report(self, epoch: Option<u32>) -> Pruned {
        let Look { now, survey, plan, intent } = self;
        let mut warnings = survey.warnings;
        if !survey.blind.is_empty() {
            warnings.extend(survey.blind);
            warnings.push("no object is deleted while there is a point whose manifest is not known".to_owned());
        }
        let share = |points: &[usize], objects: &[Spare]| Share {
            points: points.to_vec(),
            objects: objects.len() as u64,
            bytes: objects.iter().map(|object| object.bytes).sum(),
        };
        Pruned {
            epoch,
            now,
            points: survey.points,
            plan,
            deleted: share(&intent.delete_points, &intent.delete_objects),
            lists: intent.ripe.len() as u64,
            condemned: share(&intent.condemn_points, &intent.condemn_objects),
            waiting: share(&intent.waiting_points, &intent.waiting_objects),
            waiting_until: intent.waiting_until,
            spared: intent.spared,
            warnings,
        }
    }
}

/// A run that may delete.
struct Run<'a> {
    repository: &'a Repository,
    cluster: &'a str,
    epoch: &'a Epoch,
    pruning: &'a Pruning<'a>,
}

impl Run<'_> {
    /// Manifests go first: what nobody can see, nobody restores from.
    async fn delete_points(&self, look: &mut Look) -> Result<()> {
        if look.intent.delete_points.is_empty() {
            return Ok(());
        }
        let mut held = vec![];
        for place in &look.intent.delete_points {
            let name = &look.survey.points[*place].name;
            self.epoch.check(self.repository).await?;
            // Somebody may have said `hold` since; a thousand deletions take their time.
            if hold::is_held(self.repository, name, look.now).await? {
                held.push(*place);
                continue;
            }
            let at = Location::Point(name.clone());
            self.pruning.steps.step("delete a manifest", self.repository.delete_if_there(&at)).await?;
        }
        look.intent.spare_points(&look.survey, &held);
        Ok(())
    }

    /// Then what only they listed.
    async fn delete_objects(&self, look: &mut Look) -> Result<()> {
        if look.intent.delete_objects.is_empty() && look.intent.condemn_objects.is_empty() {
            return Ok(());
        }
        // A backup may have published since: what it lists stays.
        let needed = newcomers(self.repository, self.cluster, &mut look.survey, &look.intent.delete_points).await?;
        look.intent.spare_objects(&needed, !look.survey.blind.is_empty());
        for chunk in look.intent.delete_objects.chunks(CHUNK) {
            self.epoch.check(self.repository).await?;
            let deletes = chunk.iter().map(|object| async move {
                let at = Location::parse(&object.path)?;
                self.pruning.steps.step("delete an object", self.repository.delete_if_there(&at)).await
            });
            stream::iter(deletes).buffer_unordered(DELETES_MAX).try_collect::<Vec<()>>().await?;
        }
        Ok(())
    }

    /// Then what was said about points that are gone, and last the lists.
    async fn finish_lists(&self, look: &Look) -> Result<()> {
        let (repository, cluster, steps) = (self.repository, self.cluster, &self.pruning.steps);
        for stem in &look.intent.gone {
            for folder in [folder::verdicts_on(cluster, stem), folder::holds_on(cluster, stem)] {
                let said: Vec<_> = repository.list(&folder).try_collect().await?;
                for object in said {
                    // A stray stays for somebody to look at.
                    let Ok(at) = Location::parse(&object.path) else { continue };
                    steps.step("delete what was said", repository.delete_if_there(&at)).await?;
                }
            }
        }
        for at in &look.intent.ripe {
            self.epoch.check(repository).await?;
            steps.step("delete a condemned list", repository.delete_if_there(at)).await?;
        }
        Ok(())
    }

    /// Says what a later run is to delete.
    async fn condemn(&self, look: &Look) -> Result<()> {
        let points = look.intent.condemn_points.iter();
        let points = points.map(|place| Location::Point(look.survey.points[*place].name.clone()).to_string());
        let objects = look.intent.condemn_objects.iter().map(|object| object.path.clone());
        let paths: Vec<(bool, String)> =
            points.map(|path| (true, path)).chain(objects.map(|path| (false, path))).collect();
        for (n, chunk) in (1..).zip(paths.chunks(self.pruning.paths_max)) {
            self.epoch.check(self.repository).await?;
            let of = |point: bool| chunk.iter().filter(|(is, _)| *is == point).map(|(_, path)| path.clone()).collect();
            let (epoch, created) = (self.epoch.number, self.repository.clock().now());
            let list = CondemnedList { epoch, n, created, objects: of(false), points: of(true) };
            self.pruning.steps.step("condemn", list.create(self.repository, self.cluster)).await?;
        }
        Ok(())
    }
}
