//! A scrub: everything that is stored is read once, and held against everything that is known of it.
//!
//! Whoever reads a value finds out whether it is damaged; what nobody reads could lie there damaged until the day it is
//! needed. A scrub reads all of it, as a state shows it: every revision with its row of the index, both under their checksums;
//! every version that the index in memory names, which must be there, and no other; the side tables; and the facts, whose
//! digest must be what the commands made it. So it finds bytes that changed on the disk, rows that are gone, and a memory that
//! is no longer what was written.
//!
//! The state is that of a moment, and stays as it is while it is read, however slowly that goes. What a compaction made
//! superfluous before that moment may be there or not.

use crate::api::Message;
use crate::api::mvccpb::KeyValue;
use crate::base::error::{Error, HINT_MEMBER_DAMAGED, Result};
use crate::base::revision::Rev;
use crate::snapshot::hash::key_value_fact;
use crate::store::backend::{Space, Stored};
use crate::store::machine::digest::of_sides;
use crate::store::machine::state::State;
use crate::store::mvcc::history::Version;
use crate::store::mvcc::index::Keys;
use crate::store::mvcc::view::View;

/// What was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Revisions.
    pub revisions: u64,
    /// Bytes of their messages.
    pub bytes: u64,
}

/// Reads everything that a state shows. `go_on` is told the bytes of each message that was read, and may take its time or end
/// it all. Damage is an error that says what is wrong.
pub fn scrub(state: &State, go_on: &mut dyn FnMut(u64) -> Result<()>) -> Result<Scrubbed> {
    let view = &state.view;
    let mut digest = of_sides(&state.lessor, &state.alarms, &state.rules);
    let (mut scrubbed, mut found) = (Scrubbed::default(), 0);
    view.scan(Rev::default(), Rev::of(i64::MAX), &mut |stored| {
        let bytes = stored.message.len() as u64;
        scrubbed.revisions += 1;
        scrubbed.bytes += bytes;
        match place_of(view, &stored)? {
            Place::Superfluous => {}
            Place::Earlier => found += 1,
            Place::Newest => {
                found += 1;
                if !stored.tombstone {
                    digest.add(&key_value_fact(stored.message));
                }
            }
        }
        go_on(bytes)
    })?;
    let expected = named(view, go_on)?;
    if found != expected {
        return Err(damaged(format!("{found} revisions are stored of {expected} that there are")));
    }
    for space in Space::ALL {
        view.side(space)?;
        go_on(0)?;
    }
    let expected = state.digest.get()?;
    if digest != expected {
        let revision = view.revision();
        return Err(damaged(format!(
            "at revision {revision} the state is {digest}, and its changes made it {expected}"
        )));
    }
    Ok(scrubbed)
}

/// What the index in memory says of a stored revision.
enum Place {
    Newest,
    Earlier,
    Superfluous,
}

fn place_of(view: &View, stored: &Stored<'_>) -> Result<Place> {
    let rev = stored.rev;
    let message = KeyValue::decode(stored.message)
        .map_err(|error| damaged(format!("revision {rev} cannot be read")).source(error))?;
    let (compact, history) = (view.compact_revision(), view.index().get(&message.key));
    let versions = history.map(|history| &history.versions()[history.superfluous(compact)..]).unwrap_or_default();
    let Ok(at) = versions.binary_search_by_key(&rev, Version::rev) else {
        // Deletion is behind what a compaction made superfluous, and has nothing else before it.
        let superfluous = rev.main <= compact;
        return if superfluous {
            Ok(Place::Superfluous)
        } else {
            Err(damaged(format!("revision {rev} is stored, and is of no key")))
        };
    };
    let version = &versions[at];
    if version.is_tombstone() != stored.tombstone || version.message_bytes() != stored.message.len() {
        return Err(damaged(format!("revision {rev} is not what the index says of it")));
    }
    Ok(if at + 1 == versions.len() { Place::Newest } else { Place::Earlier })
}

/// How many revisions the index in memory names.
fn named(view: &View, go_on: &mut dyn FnMut(u64) -> Result<()>) -> Result<u64> {
    let (compact, mut all) = (view.compact_revision(), 0);
    // With the key of no bytes, as everywhere where all keys are meant.
    for (n, (_, history)) in view.index().range(Keys::of(&[], &[0])).enumerate() {
        all += (history.versions().len() - history.superfluous(compact)) as u64;
        if n % 4096 == 0 {
            go_on(0)?;
        }
    }
    Ok(all)
}

fn damaged(what: String) -> Error {
    Error::damaged(what).hint(HINT_MEMBER_DAMAGED)
}
