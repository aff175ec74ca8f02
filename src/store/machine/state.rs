//! The store after a batch: what readers, watchers and snapshots share.

use std::collections::BTreeSet;

use crate::api::Message;
use crate::api::etcdserverpb::alarm_request::AlarmAction;
use crate::api::etcdserverpb::{AlarmMember, AlarmRequest, AlarmType};
use crate::base::error::{Error, HINT_MEMBER_DAMAGED, Result};
use crate::store::auth::rules::Rules;
use crate::store::backend::{SideChange, Space};
use crate::store::lease::lessor::Lessor;
use crate::store::machine::digest::Digest;
use crate::store::machine::flush::Position;
use crate::store::mvcc::view::View;

/// The store at a moment.
#[derive(Clone, Debug)]
pub struct State {
    /// Its keys.
    pub view: View,
    /// Its leases.
    pub lessor: Lessor,
    /// Its alarms.
    pub alarms: Alarms,
    /// Its users and roles.
    pub rules: Rules,
    /// Up to where in the log it is applied.
    pub position: Position,
    /// The digest of all its facts.
    pub digest: Digest,
}

/// Alarms that a state has at most: some for each member. They are copied with every batch.
const ALARMS_MAX: usize = 1000;

/// The alarms that are active: of which member, and which.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alarms {
    active: BTreeSet<(i32, u64)>,
}

impl Alarms {
    /// The alarms that are stored.
    pub fn load(entries: Vec<(Vec<u8>, Vec<u8>)>) -> Result<Self> {
        let mut alarms = Alarms::default();
        for (key, _) in entries {
            let stored = AlarmMember::decode(key.as_slice());
            let stored = stored.map_err(|error| {
                Error::damaged("a stored alarm cannot be read").source(error).hint(HINT_MEMBER_DAMAGED)
            })?;
            alarms.active.insert((stored.alarm, stored.member_id));
        }
        Ok(alarms)
    }

    /// Whether some member has this alarm.
    pub fn is_active(&self, alarm: AlarmType) -> bool {
        self.active.iter().any(|(active, _)| *active == alarm as i32)
    }

    /// The alarms of a kind; `NONE` stands for all.
    pub fn all(&self, alarm: i32) -> Vec<AlarmMember> {
        let wanted = self.active.iter().filter(|(active, _)| alarm == AlarmType::None as i32 || alarm == *active);
        wanted.map(|(alarm, member_id)| AlarmMember { member_id: *member_id, alarm: *alarm }).collect()
    }

    /// Those that are not among others.
    pub fn without<'a>(&'a self, others: &'a Alarms) -> impl Iterator<Item = AlarmMember> + 'a {
        self.active
            .difference(&others.active)
            .map(|(alarm, member_id)| AlarmMember { member_id: *member_id, alarm: *alarm })
    }

    /// Whether there may be such an alarm: of a kind that is known, and there is room.
    fn takes(&self, entry: (i32, u64)) -> bool {
        let is_known = matches!(AlarmType::try_from(entry.0), Ok(AlarmType::Nospace | AlarmType::Corrupt));
        is_known && (self.active.len() < ALARMS_MAX || self.active.contains(&entry))
    }

    /// Carries a request out: the alarms that it is about, and what to store. None when there cannot be such an alarm.
    pub(super) fn apply(&mut self, request: &AlarmRequest) -> (Vec<AlarmMember>, Option<SideChange>) {
        let alarm = AlarmMember { member_id: request.member_id, alarm: request.alarm };
        let entry = (request.alarm, request.member_id);
        match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Get) => (self.all(request.alarm), None),
            Ok(AlarmAction::Activate) if self.takes(entry) => {
                let change = self.active.insert(entry).then(|| stored(alarm, Some(vec![])));
                (vec![alarm], change)
            }
            Ok(AlarmAction::Deactivate) if self.active.remove(&entry) => (vec![alarm], Some(stored(alarm, None))),
            _ => (vec![], None),
        }
    }
}

fn stored(alarm: AlarmMember, value: Option<Vec<u8>>) -> SideChange {
    SideChange { space: Space::Alarm, key: alarm.encode_to_vec(), value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_are_of_known_kinds_and_have_an_end() {
        let mut alarms = Alarms::default();
        let mut ask = |action: AlarmAction, alarm, member_id| {
            let (told, stored) = alarms.apply(&AlarmRequest { action: action as i32, member_id, alarm });
            (told.len(), stored.is_some())
        };
        for unknown in [0, 3, -1] {
            assert_eq!(ask(AlarmAction::Activate, unknown, 1), (0, false));
        }
        let many = u64::try_from(ALARMS_MAX).unwrap();
        assert!((0..many).all(|member| ask(AlarmAction::Activate, 1, member) == (1, true)));
        assert_eq!(ask(AlarmAction::Activate, 2, 1), (0, false), "there is no room");
        assert_eq!(ask(AlarmAction::Activate, 1, 7), (1, false), "it is active already");
        assert_eq!(ask(AlarmAction::Deactivate, 1, 7), (1, true));
        assert_eq!(ask(AlarmAction::Activate, 2, 1), (1, true));
        assert_eq!(ask(AlarmAction::Get, 0, 0), (ALARMS_MAX, false));
    }
}
