//! Leases in time: when they end, who keeps them, and what is proposed about them. Only the leader does any of it.

use std::collections::{HashMap, HashSet};

use tokio::sync::oneshot;

use crate::api::etcdserverpb::LeaseRevokeRequest;
use crate::api::holdfast::v1::LeaseCheckpoints;
use crate::api::holdfast::v1::lease_checkpoints::Checkpoint;
use crate::store::backend::{SideChange, Space};
use crate::store::lease::clock::{Deadlines, Millis};
use crate::store::lease::lessor::{Lease, Lessor};
use crate::store::machine::command::Operation;
use crate::store::options::Tuning;

/// Leases with more left than this are worth a note of what is left, in milliseconds.
const LONG_MS: Millis = 300_000;
/// Leases of which one command notes what is left; etcd's figure.
const CHECKPOINTS_MAX: usize = 1000;

/// The leader's view of leases.
#[derive(Debug)]
pub(super) struct Leases {
    deadlines: Deadlines,
    leads: bool,
    scan_ms: Millis,
    checkpoint_ms: Millis,
    revokes_max: usize,
    next_scan: Millis,
    next_checkpoint: Millis,
    /// Ended, and to be revoked by the command of this id.
    revoking: HashMap<u64, i64>,
    ending: HashSet<i64>,
    /// Who keeps a lease that has ended already: told so when it is gone.
    late: Vec<(i64, oneshot::Sender<i64>)>,
    /// Commands on their way that note what is left.
    noting: HashSet<u64>,
    /// Who keeps a lease of which less was noted, and its time: told when the command of this id has put that right. A new
    /// leader would begin with what was noted.
    resetting: HashMap<u64, (i64, oneshot::Sender<i64>)>,
}

impl Leases {
    pub(super) fn new(tuning: &Tuning) -> Self {
        let millis = |time: std::time::Duration| Millis::try_from(time.as_millis()).unwrap_or(Millis::MAX);
        Leases {
            deadlines: Deadlines::default(),
            leads: false,
            scan_ms: millis(tuning.lease_scan),
            checkpoint_ms: millis(tuning.lease_checkpoint),
            revokes_max: tuning.lease_revokes_max,
            next_scan: 0,
            next_checkpoint: 0,
            revoking: HashMap::new(),
            ending: HashSet::new(),
            late: vec![],
            noting: HashSet::new(),
            resetting: HashMap::new(),
        }
    }

    /// This member leads from now on, or does not any more. A new leader starts every lease with what is known to be left.
    pub(super) fn lead(&mut self, leads: bool, lessor: &Lessor, now: Millis) {
        self.leads = leads;
        self.deadlines.clear();
        self.revoking.clear();
        self.ending.clear();
        self.late.clear();
        self.noting.clear();
        self.resetting.clear();
        if leads {
            lessor.all().for_each(|(id, lease)| self.deadlines.set(id, now, left_s(lease)));
            self.next_checkpoint = now + self.checkpoint_ms;
        }
    }

    /// Leases were granted, noted or revoked.
    pub(super) fn applied(&mut self, changes: &[SideChange], lessor: &Lessor, now: Millis) {
        for change in changes.iter().filter(|change| self.leads && change.space == Space::Lease) {
            let id = i64::from_be_bytes(change.key.as_slice().try_into().expect("leases are stored by their ids"));
            match lessor.get(id) {
                Some(lease) if self.deadlines.left(id, now).is_none() => self.deadlines.set(id, now, lease.ttl_s),
                Some(_) => {}
                None => {
                    self.deadlines.remove(id);
                    self.ending.remove(&id);
                    for (_, reply) in self.late.extract_if(.., |(late, _)| *late == id) {
                        // Whoever asked may have gone.
                        let _ = reply.send(0);
                    }
                }
            }
        }
    }

    /// A command was answered: a lease that was to be revoked by it is gone, or is tried again; one that is kept has all its
    /// time, whoever leads.
    pub(super) fn answered(&mut self, command: u64) {
        if let Some(id) = self.revoking.remove(&command) {
            self.ending.remove(&id);
        }
        self.noting.remove(&command);
        if let Some((ttl_s, reply)) = self.resetting.remove(&command) {
            // Whoever asked may have gone.
            let _ = reply.send(ttl_s);
        }
    }

    /// Somebody keeps a lease. What to propose, with the id `next`: a note that nothing of it is used up any more, if the
    /// last one says less, or one that is on its way may.
    pub(super) fn keep_alive(
        &mut self,
        lessor: &Lessor,
        id: i64,
        came: Millis,
        next: u64,
        reply: oneshot::Sender<i64>,
    ) -> Option<Operation> {
        let lease = lessor.get(id).filter(|_| self.leads);
        let Some(lease) = lease else {
            // Whoever asked may have gone.
            let _ = reply.send(0);
            return None;
        };
        if self.deadlines.left(id, came) == Some(0) || self.ending.contains(&id) {
            self.late.push((id, reply));
            return None;
        }
        self.deadlines.set(id, came, lease.ttl_s);
        if lease.remaining_s == 0 && self.noting.is_empty() {
            // Whoever asked may have gone.
            let _ = reply.send(lease.ttl_s);
            return None;
        }
        self.resetting.insert(next, (lease.ttl_s, reply));
        let checkpoints = vec![Checkpoint { id, remaining: 0 }];
        Some(Operation::LeaseCheckpoints(LeaseCheckpoints { checkpoints }))
    }

    /// Every lease, the one that ends first at the front, and the milliseconds left of it.
    pub(super) fn all(&self, now: Millis) -> Vec<(i64, Millis)> {
        self.deadlines.in_order().map(|(id, deadline)| (id, deadline.saturating_sub(now))).collect()
    }

    /// The milliseconds left of a lease.
    pub(super) fn left(&self, id: i64, now: Millis) -> Option<Millis> {
        self.deadlines.left(id, now)
    }

    /// What is to be proposed now. The first command will have the id `next`, and so on.
    pub(super) fn tick(&mut self, lessor: &Lessor, now: Millis, next: u64) -> Vec<Operation> {
        let mut operations = vec![];
        if now >= self.next_scan {
            self.next_scan = now + self.scan_ms;
            self.late.retain(|(_, reply)| !reply.is_closed());
            let ended = self.deadlines.ended(now, self.revokes_max + self.ending.len());
            let fresh: Vec<i64> = ended.into_iter().filter(|id| !self.ending.contains(id)).collect();
            for id in fresh.into_iter().take(self.revokes_max) {
                self.revoking.insert(next.wrapping_add(operations.len() as u64), id);
                self.ending.insert(id);
                operations.push(Operation::LeaseRevoke(LeaseRevokeRequest { id }));
            }
        }
        if now >= self.next_checkpoint {
            self.next_checkpoint = now + self.checkpoint_ms;
            let long = self.deadlines.in_order().filter(|(_, deadline)| deadline.saturating_sub(now) > LONG_MS);
            let checkpoints: Vec<_> = long
                .filter(|(id, _)| lessor.get(*id).is_some())
                .map(|(id, deadline)| Checkpoint { id, remaining: seconds(deadline.saturating_sub(now)) })
                .collect();
            for part in checkpoints.chunks(CHECKPOINTS_MAX) {
                self.noting.insert(next.wrapping_add(operations.len() as u64));
                operations.push(Operation::LeaseCheckpoints(LeaseCheckpoints { checkpoints: part.to_vec() }));
            }
        }
        operations
    }
}

fn left_s(lease: &Lease) -> i64 {
    if lease.remaining_s > 0 { lease.remaining_s } else { lease.ttl_s }
}

fn seconds(millis: Millis) -> i64 {
    i64::try_from(millis.div_ceil(1000)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    struct World {
        leases: Leases,
        lessor: Lessor,
        next: u64,
    }

    impl World {
        fn new() -> World {
            let tuning = Tuning { lease_revokes_max: 2, lease_scan: Duration::from_millis(500), ..Tuning::default() };
            let mut leases = Leases::new(&tuning);
            leases.lead(true, &Lessor::default(), 0);
            World { leases, lessor: Lessor::default(), next: 7 }
        }

        fn grant(&mut self, id: i64, ttl_s: i64, now: Millis) {
            let change = self.lessor.grant(id, ttl_s);
            self.leases.applied(&[change], &self.lessor, now);
        }

        fn keep(&mut self, id: i64, now: Millis) -> (oneshot::Receiver<i64>, Option<Operation>) {
            let (reply, answer) = oneshot::channel();
            (answer, self.leases.keep_alive(&self.lessor, id, now, self.next, reply))
        }

        /// The leases that are to be revoked, with the ids of the commands.
        fn revokes(&mut self, now: Millis) -> Vec<(u64, i64)> {
            let operations = self.leases.tick(&self.lessor, now, self.next);
            let first = self.next;
            self.next += operations.len() as u64;
            let revoke = |(n, operation)| match operation {
                Operation::LeaseRevoke(request) => Some((first + n, request.id)),
                _ => None,
            };
            (0..).zip(operations).filter_map(revoke).collect()
        }
    }

    #[test]
    fn what_ends_is_revoked_once_and_at_a_rate() {
        let mut world = World::new();
        for id in [1, 2, 3] {
            world.grant(id, 2, 0);
        }
        assert_eq!(world.revokes(1999), []);
        assert_eq!(world.revokes(2499), [(7, 1), (8, 2)]);
        assert_eq!(world.revokes(2500), []);
        assert_eq!(world.revokes(3000), [(9, 3)]);
        // Somebody who keeps one now hears that it is over when it is.
        let (mut answer, proposal) = world.keep(1, 3000);
        assert!(proposal.is_none() && answer.try_recv().is_err());
        let change = world.lessor.revoke(1);
        world.leases.applied(&[change], &world.lessor, 3001);
        world.leases.answered(7);
        assert_eq!(answer.try_recv(), Ok(0));
        // One that was refused is tried again.
        world.leases.answered(8);
        assert_eq!(world.revokes(3500), [(10, 2)]);
        assert_eq!(world.keep(1, 3500).0.try_recv(), Ok(0));
    }

    /// A client that asks again and again for a lease that is about to go must not leave its questions here.
    #[test]
    fn who_waited_for_a_lease_to_end_and_went_is_forgotten() {
        let mut world = World::new();
        world.grant(1, 2, 0);
        assert_eq!(world.revokes(2000), [(7, 1)]);
        let mut stays = world.keep(1, 2001).0;
        for _ in 0..1000 {
            drop(world.keep(1, 2002));
        }
        assert_eq!(world.revokes(2499), []);
        assert_eq!(world.leases.late.len(), 1001);
        assert_eq!(world.revokes(2500), []);
        assert_eq!(world.leases.late.len(), 1);
        let change = world.lessor.revoke(1);
        world.leases.applied(&[change], &world.lessor, 2501);
        assert_eq!((stays.try_recv(), world.leases.late.len()), (Ok(0), 0));
    }

    /// What is noted of a lease while it is kept would be less than what was promised.
    #[test]
    fn a_lease_that_is_kept_while_notes_are_on_their_way_is_noted_once_more() {
        let mut world = World::new();
        world.grant(1, 1000, 0);
        assert_eq!(world.leases.tick(&world.lessor, 300_000, 7).len(), 1);
        world.next = 8;
        let (mut answer, proposal) = world.keep(1, 300_001);
        assert!(proposal.is_some() && answer.try_recv().is_err());
        world.leases.answered(7);
        assert!(answer.try_recv().is_err());
        world.leases.answered(8);
        assert_eq!(answer.try_recv(), Ok(1000));
        let (mut answer, proposal) = world.keep(1, 300_002);
        assert!(proposal.is_none() && answer.try_recv() == Ok(1000));
    }

    /// A command of all leases would not fit into an entry of the log some day.
    #[test]
    fn many_long_leases_are_noted_by_several_commands() {
        let mut world = World::new();
        (1..=2500).for_each(|id| world.grant(id, 1000, 0));
        let operations = world.leases.tick(&world.lessor, 300_000, 7);
        let noted = operations.iter().map(|operation| match operation {
            Operation::LeaseCheckpoints(noted) => noted.checkpoints.len(),
            other => panic!("{other:?}"),
        });
        assert_eq!(noted.collect::<Vec<_>>(), [1000, 1000, 500]);
    }

    #[test]
    fn long_leases_are_noted_and_a_new_leader_goes_on_from_there() {
        let mut world = World::new();
        world.grant(1, 1000, 0);
        world.grant(2, 400, 0);
        let operations = world.leases.tick(&world.lessor, 300_000, 7);
        let [Operation::LeaseCheckpoints(noted)] = &operations[..] else { panic!("{operations:?}") };
        assert_eq!(noted.checkpoints, [Checkpoint { id: 1, remaining: 700 }]);
        world.lessor.checkpoint(1, 700);
        world.leases.lead(true, &world.lessor, 310_000);
        assert_eq!(world.leases.all(310_000), [(2, 400_000), (1, 700_000)]);
        let (mut answer, proposal) = world.keep(1, 320_000);
        assert!(matches!(proposal, Some(Operation::LeaseCheckpoints(_))));
        // Told once everybody knows: the next leader would begin with 700.
        assert!(answer.try_recv().is_err());
        world.leases.answered(world.next);
        assert_eq!(answer.try_recv(), Ok(1000));
        assert_eq!(world.leases.left(1, 320_000), Some(1_000_000));
        assert_eq!(world.leases.left(3, 320_000), None);
        // Who does not lead knows nothing of time.
        world.leases.lead(false, &world.lessor, 320_000);
        assert_eq!(world.leases.all(320_000), []);
        assert_eq!(world.keep(1, 320_000).0.try_recv(), Ok(0));
    }
}
