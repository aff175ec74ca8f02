//! Connections that were not let in, told without flooding the log.
//!
//! A client with the wrong certificate tries again for ever, and so does every scanner of ports. The first of each kind is
//! told at once with where it came from; after that, one a minute with how many there were.
//!
//! Invariant: the kinds that are remembered have a limit; beyond it all others are one kind.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::base::clock::Stopwatch;
use crate::store::server::peer::Peer;

/// How long a kind is not told again.
const QUIET: Duration = Duration::from_mins(1);
/// How many kinds are told apart.
const KINDS_MAX: usize = 64;
/// All others.
const OTHERS: &str = "";

/// What was told of each kind.
#[derive(Debug, Default)]
pub(super) struct Rejections {
    kinds: Mutex<BTreeMap<String, Kind>>,
}

#[derive(Debug)]
struct Kind {
    told: Stopwatch,
    untold: u64,
}

impl Rejections {
    /// Tells of a connection of this peer that was not let in, and why.
    pub(super) fn tell(&self, peer: &Peer, why: &str) {
        match self.note(why, QUIET) {
            // etcd's words, which operators look for.
            Some(0) => tracing::warn!(remote_addr = %peer, "rejected connection on client endpoint: {why}"),
            Some(untold) => {
                tracing::warn!(remote_addr = %peer, untold, "rejected connection on client endpoint: {why}");
            }
            None => tracing::debug!(remote_addr = %peer, "rejected connection on client endpoint: {why}"),
        }
    }

    /// How many of this kind were not told before, when this one is to be told.
    fn note(&self, why: &str, quiet: Duration) -> Option<u64> {
        // A time or a length in it makes no other kind.
        let kind: String = why.chars().filter(|c| !c.is_ascii_digit()).collect();
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = if kinds.len() < KINDS_MAX || kinds.contains_key(&kind) { kind } else { OTHERS.to_owned() };
        match kinds.get_mut(&kind) {
            Some(kind) if kind.told.elapsed() < quiet => {
                kind.untold += 1;
                None
            }
            Some(kind) => {
                kind.told = Stopwatch::start();
                Some(std::mem::take(&mut kind.untold))
            }
            None => {
                kinds.insert(kind, Kind { told: Stopwatch::start(), untold: 0 });
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_told_once_in_a_while_and_kinds_have_a_limit() {
        let rejections = Rejections::default();
        let long = Duration::from_hours(1);
        assert_eq!([rejections.note("a", long), rejections.note("b", long)], [Some(0); 2]);
        assert_eq!([rejections.note("a", long), rejections.note("a", long)], [None; 2]);
        assert_eq!([rejections.note("a", Duration::ZERO), rejections.note("a", Duration::ZERO)], [Some(2), Some(0)]);
        assert_eq!(
            [rejections.note("expired 17 s ago", long), rejections.note("expired 4 s ago", long)],
            [Some(0), None]
        );
        for n in 1..1000 {
            rejections.note(&"x".repeat(n), long);
        }
        assert_eq!(rejections.kinds.lock().unwrap().len(), KINDS_MAX + 1);
        assert_eq!(rejections.note("a", long), None, "what is known is still told apart");
    }
}
