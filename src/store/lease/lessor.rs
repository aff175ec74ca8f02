//! Which leases there are, for how long they were granted, and which keys they own.

use std::sync::Arc;

use imbl::ordmap::DiffItem;
use imbl::{OrdMap, OrdSet};

use crate::api::Message;
use crate::api::leasepb;
use crate::base::error::{Error, HINT_MEMBER_DAMAGED, Result};
use crate::store::backend::{SideChange, Space};

/// A key, as the index of keys shares it.
pub type Key = Arc<[u8]>;

/// A lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// For how long it was granted, in seconds.
    pub ttl_s: i64,
    /// What was left of it at its last checkpoint, in seconds; 0 when it was never checkpointed.
    pub remaining_s: i64,
    /// The keys that end with it.
    pub keys: OrdSet<Key>,
}

/// Every lease. A copy is free, and stays as it was.
#[derive(Clone, Debug, Default)]
pub struct Lessor {
    leases: OrdMap<i64, Lease>,
    owners: OrdMap<Key, i64>,
}

impl Lessor {
    /// The leases that are stored, without their keys: those are attached as the history is read.
    pub fn load(entries: Vec<(Vec<u8>, Vec<u8>)>) -> Result<Self> {
        let mut lessor = Lessor::default();
        for (key, value) in entries {
            let stored = leasepb::Lease::decode(value.as_slice());
            let stored = stored.map_err(|error| damaged("a stored lease cannot be read").source(error))?;
            if key != stored.id.to_be_bytes() {
                return Err(damaged(&format!("lease {:x} is stored under another id", stored.id)));
            }
            let lease = Lease { ttl_s: stored.ttl, remaining_s: stored.remaining_ttl, keys: OrdSet::new() };
            lessor.leases.insert(stored.id, lease);
        }
        Ok(lessor)
    }

    /// A lease.
    pub fn get(&self, id: i64) -> Option<&Lease> {
        self.leases.get(&id)
    }

    /// Every lease, in order of ids.
    pub fn all(&self) -> impl Iterator<Item = (i64, &Lease)> {
        self.leases.iter().map(|(id, lease)| (*id, lease))
    }

    /// What became different since an earlier moment: leases as they are, and none for those that are gone.
    pub fn since<'a>(&'a self, before: &'a Lessor) -> impl Iterator<Item = (i64, Option<&'a Lease>)> {
        before.leases.diff(&self.leases).filter_map(|item| match item {
            DiffItem::Add(id, lease) => Some((*id, Some(lease))),
            DiffItem::Remove(id, _) => Some((*id, None)),
            // That a key came or went is told by the key.
            DiffItem::Update { old, new } => {
                let times = |lease: &Lease| (lease.ttl_s, lease.remaining_s);
                (times(old.1) != times(new.1)).then_some((*new.0, Some(new.1)))
            }
        })
    }

    /// The lease that owns a key; 0 for none.
    pub fn owner(&self, key: &[u8]) -> i64 {
        self.owners.get(key).copied().unwrap_or_default()
    }

    /// Grants a lease; what to store. The id must be free.
    pub fn grant(&mut self, id: i64, ttl_s: i64) -> SideChange {
        let lease = Lease { ttl_s, ..Lease::default() };
        let change = kept(id, &lease);
        let before = self.leases.insert(id, lease);
        assert!(before.is_none(), "a lease is granted once");
        change
    }

    /// Ends a lease that has no keys any more, or is about to lose them; what to store.
    pub fn revoke(&mut self, id: i64) -> SideChange {
        let lease = self.leases.remove(&id).expect("only a lease that exists is revoked");
        for key in &lease.keys {
            self.owners.remove(key);
        }
        SideChange { space: Space::Lease, key: id.to_be_bytes().to_vec(), value: None }
    }

    /// Notes what is left of a lease; what to store, unless the lease is gone.
    pub fn checkpoint(&mut self, id: i64, remaining_s: i64) -> Option<SideChange> {
        let lease = self.leases.get_mut(&id)?;
        lease.remaining_s = remaining_s;
        Some(kept(id, lease))
    }

    /// Gives a key to a lease, or to none with 0; it leaves the one that owned it. The lease must exist.
    pub fn attach(&mut self, key: &Key, id: i64) {
        let before = match id {
            0 => self.owners.remove(&**key),
            id => self.owners.insert(Key::clone(key), id),
        };
        if before == Some(id) {
            return;
        }
        if let Some(lease) = before.and_then(|before| self.leases.get_mut(&before)) {
            lease.keys.remove(&**key);
        }
        if id != 0 {
            let lease = self.leases.get_mut(&id).expect("a key is given to a lease that exists");
            lease.keys.insert(Key::clone(key));
        }
    }

    /// A key ended.
    pub fn detach(&mut self, key: &[u8]) {
        if let Some(lease) = self.owners.remove(key).and_then(|id| self.leases.get_mut(&id)) {
            lease.keys.remove(key);
        }
    }
}

/// A lease as etcd stores it.
pub fn stored(id: i64, lease: &Lease) -> Vec<u8> {
    leasepb::Lease { id, ttl: lease.ttl_s, remaining_ttl: lease.remaining_s }.encode_to_vec()
}

fn kept(id: i64, lease: &Lease) -> SideChange {
    SideChange { space: Space::Lease, key: id.to_be_bytes().to_vec(), value: Some(stored(id, lease)) }
}

fn damaged(what: &str) -> Error {
    Error::damaged(format!("the state is damaged: {what}")).hint(HINT_MEMBER_DAMAGED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Seeded;
    use std::collections::BTreeMap;

    fn key(n: u64) -> Key {
        format!("key-{n}").into_bytes().into()
    }

    /// Ownership said twice, lease by lease and key by key, always agrees, and stays in copies as it was.
    #[test]
    fn every_key_has_one_owner_or_none() {
        let mut rng = Seeded::new(3);
        let mut lessor = Lessor::default();
        let mut owners = BTreeMap::<Key, i64>::new();
        let mut entries = BTreeMap::new();
        for _ in 0..3000 {
            let id = i64::try_from(rng.below(6)).unwrap() - 2;
            let key = key(rng.below(12));
            let copy = lessor.clone();
            let before: Vec<_> = copy.all().map(|(id, lease)| (id, lease.clone())).collect();
            let change = match rng.below(10) {
                0 if id != 0 && lessor.get(id).is_none() => Some(lessor.grant(id, 60)),
                1 if lessor.get(id).is_some() => {
                    owners.retain(|_, owner| *owner != id);
                    Some(lessor.revoke(id))
                }
                2 => lessor.checkpoint(id, 30),
                3 => {
                    owners.remove(&key);
                    lessor.detach(&key);
                    None
                }
                _ if id == 0 || lessor.get(id).is_some() => {
                    lessor.attach(&key, id);
                    if id == 0 {
                        owners.remove(&key)
                    } else {
                        owners.insert(key, id)
                    };
                    None
                }
                _ => None,
            };
            if let Some(SideChange { key, value, .. }) = change {
                match value {
                    Some(value) => drop(entries.insert(key, value)),
                    None => drop(entries.remove(&key)),
                }
            }
            assert_eq!(copy.all().map(|(id, lease)| (id, lease.clone())).collect::<Vec<_>>(), before);
            let by_lease = lessor.all().flat_map(|(id, lease)| lease.keys.iter().map(move |key| (key.clone(), id)));
            assert_eq!(by_lease.collect::<BTreeMap<_, _>>(), owners);
            assert!((0..12).all(|n| lessor.owner(&self::key(n)) == owners.get(&self::key(n)).copied().unwrap_or(0)));
        }
        let loaded = Lessor::load(entries.into_iter().collect()).unwrap();
        let shape = |lessor: &Lessor| lessor.all().map(|(id, l)| (id, l.ttl_s, l.remaining_s)).collect::<Vec<_>>();
        let mut expected = shape(&lessor);
        // Stored in the order of unsigned ids.
        expected.sort_by_key(|entry| entry.0);
        assert_eq!(shape(&loaded), expected);
        assert!(!expected.is_empty());
    }

    #[test]
    fn what_is_no_lease_is_damage() {
        let stored = leasepb::Lease { id: 7, ttl: 60, remaining_ttl: 0 }.encode_to_vec();
        assert!(Lessor::load(vec![(7_i64.to_be_bytes().to_vec(), stored.clone())]).is_ok());
        assert!(Lessor::load(vec![(8_i64.to_be_bytes().to_vec(), stored.clone())]).is_err());
        assert!(Lessor::load(vec![(7_i64.to_be_bytes().to_vec(), stored[1..].to_vec())]).is_err());
    }
}
