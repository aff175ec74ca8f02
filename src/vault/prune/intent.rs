//! What a run deletes and what it condemns: a pure function of what was seen.
//!
//! - A point goes when a list whose grace is over names it **and** the plan of this moment removes it.
//! - An object goes when such a list names it and no point lists it but those that go.
//! - A point is condemned when the plan removes it and no list names it yet; an object, when no point that stays lists it
//!   and either one that goes does, or it has lain there without any for so long that nobody is about to.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use crate::base::clock::Time;
use crate::policy::retention::Plan;
use crate::vault::condemned::Listed;
use crate::vault::layout::Location;
use crate::vault::prune::Pruning;
use crate::vault::prune::survey::Survey;

/// A data object that no point needs which stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spare {
    pub(super) path: String,
    pub(super) bytes: u64,
    pub(super) modified: Time,
    /// Its number, when a point that goes lists it.
    pub(super) number: Option<u32>,
}

/// What a run will do.
#[derive(Debug, Default)]
pub(super) struct Intent {
    pub(super) delete_points: Vec<usize>,
    pub(super) delete_objects: Vec<Spare>,
    /// Lists whose grace is over.
    pub(super) ripe: Vec<Location>,
    /// Points of those lists that will be gone, by their stems.
    pub(super) gone: BTreeSet<String>,
    /// Points of those lists that stay after all.
    pub(super) spared: Vec<usize>,
    pub(super) condemn_points: Vec<usize>,
    pub(super) condemn_objects: Vec<Spare>,
    /// What lists name whose grace is not over.
    pub(super) waiting_points: Vec<usize>,
    pub(super) waiting_objects: Vec<Spare>,
    pub(super) waiting_until: Option<Time>,
}

/// What lists name.
#[derive(Default)]
struct Named<'a> {
    points: HashSet<&'a str>,
    objects: HashSet<&'a str>,
}

impl<'a> Named<'a> {
    fn of(lists: impl Iterator<Item = &'a Listed>) -> Self {
        let mut named = Named::default();
        for listed in lists {
            named.points.extend(listed.list.points.iter().map(String::as_str));
            named.objects.extend(listed.list.objects.iter().map(String::as_str));
        }
        named
    }
}

/// Whether something of the store is so old; what is dated in the future is not.
fn is_aged(modified: Time, age: Duration, now: Time) -> bool {
    (now - modified).to_std().is_ok_and(|since| since >= age)
}

pub(super) fn intend(
    survey: &Survey,
    plan: &Plan,
    lists: &[Listed],
    spare: &[Spare],
    now: Time,
    pruning: &Pruning<'_>,
) -> Intent {
    let (ripe, young): (Vec<&Listed>, Vec<&Listed>) =
        lists.iter().partition(|listed| is_aged(listed.published, pruning.grace, now));
    let mut intent = Intent { ripe: ripe.iter().map(|listed| listed.at.clone()).collect(), ..Intent::default() };
    intent.waiting_until = young.iter().map(|listed| listed.published + pruning.grace).min();
    let (ripe, young) = (Named::of(ripe.into_iter()), Named::of(young.into_iter()));

    let paths: Vec<String> =
        survey.points.iter().map(|point| Location::Point(point.name.clone()).to_string()).collect();
    let visible: HashMap<&str, usize> = paths.iter().enumerate().map(|(place, path)| (path.as_str(), place)).collect();
    let mut removed: Vec<usize> = plan.removed().collect();
    removed.sort_unstable();
    let goes: HashSet<usize> = removed.iter().copied().collect();
    for place in removed {
        let path = paths[place].as_str();
        let share = if ripe.points.contains(path) {
            &mut intent.delete_points
        } else if young.points.contains(path) {
            &mut intent.waiting_points
        } else {
            &mut intent.condemn_points
        };
        share.push(place);
    }
    for path in &ripe.points {
        match visible.get(path) {
            Some(place) if !goes.contains(place) => intent.spared.push(*place),
            // Deleted now, or by a run that was killed before it was done with what was said about it.
            _ => intent.gone.extend(stem_of(path)),
        }
    }
    intent.spared.sort_unstable();
    // A point whose manifest cannot be read may list anything.
    if survey.blind.is_empty() {
        intent.divide(survey, spare, &ripe, &young, now, pruning.orphan_age);
    }
    intent
}

fn stem_of(path: &str) -> Option<String> {
    match Location::parse(path) {
        Ok(Location::Point(name)) => Some(name.stem()),
        _ => None,
    }
}

impl Intent {
    fn divide(
        &mut self,
        survey: &Survey,
        spare: &[Spare],
        ripe: &Named<'_>,
        young: &Named<'_>,
        now: Time,
        orphan_age: Duration,
    ) {
        let listed = self.listed_after(survey);
        for object in spare {
            let path = object.path.as_str();
            let is_listed = object.number.is_some_and(|number| listed[number as usize]);
            let share = if ripe.objects.contains(path) && !is_listed {
                &mut self.delete_objects
            } else if young.objects.contains(path) {
                &mut self.waiting_objects
            } else if object.number.is_some() || is_aged(object.modified, orphan_age, now) {
                &mut self.condemn_objects
            } else {
                continue;
            };
            share.push(object.clone());
        }
    }

    /// Which objects are listed by points that are there after this run.
    fn listed_after(&self, survey: &Survey) -> Vec<bool> {
        let goes: HashSet<usize> = self.delete_points.iter().copied().collect();
        let mut listed = vec![false; survey.numbers.len()];
        let stays = survey.points.iter().enumerate().filter(|(place, _)| !goes.contains(place));
        for (_, point) in stays {
            point.objects.iter().for_each(|number| listed[*number as usize] = true);
        }
        listed
    }

    /// Lets points stay that were to go now, and every object that they list.
    pub(super) fn spare_points(&mut self, survey: &Survey, held: &[usize]) {
        if held.is_empty() {
            return;
        }
        self.delete_points.retain(|place| !held.contains(place));
        for place in held {
            self.gone.remove(&survey.points[*place].name.stem());
        }
        self.spared.extend(held);
        let listed = self.listed_after(survey);
        let keep = |object: &Spare| object.number.is_none_or(|number| !listed[number as usize]);
        self.delete_objects.retain(keep);
        // Those of a held point are no leftovers either; what else was to be condemned is again, by the next run.
        let of_held: HashSet<u32> = held.iter().flat_map(|place| survey.points[*place].objects.clone()).collect();
        self.condemn_objects.retain(|object| object.number.is_none_or(|number| !of_held.contains(&number)));
    }

    /// Lets objects be that a new point lists; all of them, when one of the new points cannot be read.
    pub(super) fn spare_objects(&mut self, needed: &HashSet<String>, all: bool) {
        let keep = |object: &Spare| !all && !needed.contains(&object.path);
        self.delete_objects.retain(keep);
        self.condemn_objects.retain(keep);
    }
}
