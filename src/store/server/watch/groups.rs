//! Watchers by what they want, so that a change finds those who want it.
//!
//! Who watches one key is found by that key, however many there are; ranges are tried one after the other, each once for
//! all who want the same.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::store::mvcc::watch::Spec;

/// Those who want the same.
#[derive(Clone, Debug)]
pub(super) struct Group {
    /// What.
    pub(super) spec: Spec,
    /// Who; nobody in a place that is free.
    pub(super) members: Vec<i64>,
}

/// Groups, each at a place that stays its own.
#[derive(Debug, Default)]
pub(super) struct Groups {
    places: Vec<Group>,
    free: Vec<usize>,
    by_spec: BTreeMap<Spec, usize>,
    by_key: BTreeMap<Bytes, Vec<usize>>,
    ranges: Vec<usize>,
}

impl Groups {
    /// Whether there is nobody.
    pub(super) fn is_empty(&self) -> bool {
        self.by_spec.is_empty()
    }

    /// The group at a place.
    pub(super) fn get(&self, place: usize) -> &Group {
        &self.places[place]
    }

    /// Adds somebody who wants this.
    pub(super) fn add(&mut self, spec: &Spec, id: i64) {
        if let Some(place) = self.by_spec.get(spec) {
            self.places[*place].members.push(id);
            return;
        }
        let group = Group { spec: spec.clone(), members: vec![id] };
        let place = self.free.pop().unwrap_or(self.places.len());
        match self.places.get_mut(place) {
            Some(free) => *free = group,
            None => self.places.push(group),
        }
        self.by_spec.insert(spec.clone(), place);
        match spec.one() {
            Some(key) => self.by_key.entry(key.clone()).or_default().push(place),
            None => self.ranges.push(place),
        }
    }

    /// Takes somebody out who wanted this.
    pub(super) fn remove(&mut self, spec: &Spec, id: i64) {
        let Some(place) = self.by_spec.get(spec).copied() else { return };
        let members = &mut self.places[place].members;
        members.retain(|member| *member != id);
        if !members.is_empty() {
            return;
        }
        self.by_spec.remove(spec);
        self.free.push(place);
        match spec.one() {
            Some(key) => {
                let places = self.by_key.get_mut(key).expect("who watches a key is found by it");
                places.retain(|other| *other != place);
                if places.is_empty() {
                    self.by_key.remove(key);
                }
            }
            None => self.ranges.retain(|other| *other != place),
        }
    }

    /// Takes everybody out.
    pub(super) fn take_all(&mut self) -> Vec<Group> {
        let all = std::mem::take(self);
        all.places.into_iter().filter(|group| !group.members.is_empty()).collect()
    }

    /// Calls `sink` with each group that wants a change of `key`.
    pub(super) fn wanting(&self, key: &[u8], tombstone: bool, mut sink: impl FnMut(usize, &Spec)) {
        let one = self.by_key.get(key).map_or(&[][..], Vec::as_slice).iter();
        let ranges = self.ranges.iter().filter(|place| self.places[**place].spec.keys().contains(key));
        for place in one.chain(ranges) {
            let spec = &self.places[*place].spec;
            if spec.takes(tombstone) {
                sink(*place, spec);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanting(groups: &Groups, key: &str, tombstone: bool) -> Vec<i64> {
        let mut ids = vec![];
        groups.wanting(key.as_bytes(), tombstone, |place, _| ids.extend(&groups.get(place).members));
        ids.sort_unstable();
        ids
    }

    #[test]
    fn a_change_finds_those_who_want_it() {
        let mut groups = Groups::default();
        let one = Spec::of(b"a/1", b"");
        let range = Spec::of(b"a/", b"a0");
        let all = Spec::of(b"", b"\0");
        for (id, spec) in [
            (1, one.clone()),
            (2, one.clone()),
            (3, one.clone().without_puts()),
            (4, range.clone()),
            (5, range.clone().without_deletes()),
            (6, all.clone()),
        ] {
            groups.add(&spec, id);
        }
        assert_eq!(wanting(&groups, "a/1", false), [1, 2, 4, 5, 6]);
        assert_eq!(wanting(&groups, "a/1", true), [1, 2, 3, 4, 6]);
        assert_eq!(wanting(&groups, "a/2", false), [4, 5, 6]);
        assert_eq!(wanting(&groups, "b", false), [6]);
        groups.remove(&one, 1);
        groups.remove(&range, 4);
        groups.remove(&one.clone().without_puts(), 3);
        assert_eq!(wanting(&groups, "a/1", true), [2, 6]);
        // A free place is used again.
        groups.add(&Spec::of(b"c", b""), 7);
        assert_eq!((wanting(&groups, "c", false), groups.places.len()), (vec![6, 7], 5));
        let mut members: Vec<i64> = groups.take_all().into_iter().flat_map(|group| group.members).collect();
        members.sort_unstable();
        assert_eq!((members, groups.is_empty()), (vec![2, 5, 6, 7], true));
    }
}
