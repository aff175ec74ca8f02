//! Leases that ran out between the member's start and the moment when it was asked.
//!
//! A member begins to count as soon as it leads, before it answers anybody; on a slow disk a lease of a few seconds is gone
//! by then, and the keys with it. The keys are proved all the same: they were deleted above the point's revision, and what
//! is proved is the state at that revision. Of the lease itself nothing is left. So one that is missing counts as served
//! when it can have run out in the time that has passed, and as lost when it cannot.

use std::collections::HashSet;
use std::time::Duration;

use crate::base::digest::Sha256;
use crate::base::error::Result;
use crate::base::file::ReadAt;
use crate::snapshot::bbolt::read::Db;
use crate::snapshot::bbolt::records::Source;
use crate::snapshot::hash::side_fact;
use crate::snapshot::record::{Record, lease_of, lease_runs_s};

/// The facts of leases that are in `restored`, not in `served`, and may have run out within `passed`. Blocks.
pub(super) fn ran_out(restored: &ReadAt, served: &ReadAt, passed: Duration) -> Result<Vec<Sha256>> {
    let (mut there, mut gone) = (HashSet::new(), vec![]);
    each(served, &mut |stored| {
        there.insert(lease_of(stored)?.0);
        Ok(())
    })?;
    each(restored, &mut |stored| {
        let can_have = u64::try_from(lease_runs_s(stored)?).is_ok_and(|runs_s| runs_s <= passed.as_secs());
        if can_have && !there.contains(&lease_of(stored)?.0) {
            gone.extend(side_fact(&Record::Lease { stored })?);
        }
        Ok(())
    })?;
    Ok(gone)
}

fn each(file: &ReadAt, lease: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let db = Db::open(file.clone())?;
    Source::open(&db)?.leases(lease)
}
