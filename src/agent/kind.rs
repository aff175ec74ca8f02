//! Full or incremental: what a backup makes, and why.
//!
//! An increment is cheap to make and stands on a chain of points before it; every segment more is one more thing that must
//! be whole, and more to read in a restore. So a full one comes when it is due, when the chain got long or its increments
//! heavy, and whenever the chain cannot be relied on.

use crate::base::clock::Time;
use crate::base::units;
use crate::vault::chain::{SEGMENTS_MAX, Segment};
use crate::vault::layout::PointKind;
use crate::vault::manifest::Manifest;

/// Segments after which a full point is made: a week of hourly ones.
pub const SEGMENTS_WANTED_MAX: usize = 168;
/// Increments may take this share of their full point's stored bytes, in percent.
const INCREMENTS_PERCENT_MAX: u64 = 100;

/// Increments of this size that stand on a full one of that before the next full one is made, whatever is scheduled.
pub fn increments_max(full: u64, incremental: u64) -> u64 {
    let wanted = SEGMENTS_WANTED_MAX as u64 - 1;
    // One more is made while those that there are weigh no more than their share.
    (full.saturating_mul(INCREMENTS_PERCENT_MAX) / 100).checked_div(incremental).map_or(wanted, |n| wanted.min(n + 1))
}

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Whatever fits.
    Auto,
    /// A full point.
    Full,
    /// An increment, where one can be made.
    Incremental,
}

/// What there is to build on.
#[derive(Debug)]
pub enum Ground<'a> {
    /// No point before.
    None,
    /// Not the point before, for a reason that is nobody's fault.
    Unsuited(String),
    /// Not the point before: something is wrong with it.
    Broken(String),
    /// The point before.
    Fit(&'a Manifest),
}

/// What is made, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The kind.
    pub kind: PointKind,
    /// Why, for people.
    pub reason: String,
    /// Whether it is not what was asked for, or shows that something is wrong.
    pub notable: bool,
}

/// Chooses. `full_due`: whether a full point is due when the last one was begun at this time.
pub fn choose(wanted: Wanted, ground: &Ground<'_>, full_due: impl FnOnce(Time) -> bool) -> Choice {
    let full = |reason: String, notable| Choice { kind: PointKind::Full, reason, notable };
    let asked = wanted == Wanted::Incremental;
    let base = match ground {
        _ if wanted == Wanted::Full => return full("asked for".to_owned(), false),
        Ground::None => return full("there is no point before it".to_owned(), asked),
        Ground::Unsuited(reason) => return full(reason.clone(), asked),
        Ground::Broken(reason) => return full(reason.clone(), true),
        Ground::Fit(base) => *base,
    };
    if wanted == Wanted::Auto
        && let Some(reason) = due(base, full_due)
    {
        return full(reason, false);
    }
    if base.segments.len() >= SEGMENTS_MAX {
        return full(format!("a chain has at most {SEGMENTS_MAX} segments"), asked);
    }
    let reason = if asked { "asked for".to_owned() } else { format!("follows revision {}", base.descriptor.revision) };
    Choice { kind: PointKind::Incremental, reason, notable: false }
}

/// Why a full point is due.
fn due(base: &Manifest, full_due: impl FnOnce(Time) -> bool) -> Option<String> {
    let segments = &base.segments;
    let first: &Segment = segments.first()?;
    if full_due(first.started) {
        return Some("a full point is due".to_owned());
    }
    if segments.len() >= SEGMENTS_WANTED_MAX {
        return Some(format!("{} increments stand on the last full point", segments.len() - 1));
    }
    let stored =
        |entries: &[crate::vault::manifest::ObjectEntry]| entries.iter().map(|entry| entry.stored_bytes).sum::<u64>();
    let (full, increments) = base.objects.split_at(first.objects.min(base.objects.len()));
    let (full, increments) = (stored(full), stored(increments));
    (increments > full.saturating_mul(INCREMENTS_PERCENT_MAX) / 100)
        .then(|| format!("increments of {} stand on a full point of {}", units::bytes(increments), units::bytes(full)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::parse_rfc3339;
    use crate::vault::manifest::ObjectEntry;

    /// A chain of a full point of 1,000 bytes and increments of these sizes.
    fn chain(increments: &[u64]) -> Manifest {
        let mut manifest: Manifest =
            crate::vault::testing::manifest("prod", &[crate::vault::testing::entry("prod", 1, 9)]);
        let (segment, entry) = (manifest.segments[0].clone(), manifest.objects[0].clone());
        manifest.segments.extend(increments.iter().map(|_| segment.clone()));
        manifest.objects[0].stored_bytes = 1_000;
        manifest.objects.extend(increments.iter().map(|&stored_bytes| ObjectEntry { stored_bytes, ..entry.clone() }));
        manifest
    }

    fn kind(wanted: Wanted, ground: &Ground<'_>, due: bool) -> (PointKind, bool) {
        let choice = choose(wanted, ground, |_| due);
        assert!(!choice.reason.is_empty());
        (choice.kind, choice.notable)
    }

    #[test]
    fn an_increment_is_made_where_one_can_be_and_no_full_point_is_due() {
        use PointKind::{Full, Incremental};
        let light = chain(&[10, 20]);
        let fit = Ground::Fit(&light);
        assert_eq!(kind(Wanted::Auto, &fit, false), (Incremental, false));
        assert_eq!(kind(Wanted::Incremental, &fit, true), (Incremental, false));
        assert_eq!(kind(Wanted::Full, &fit, false), (Full, false));
        assert_eq!(kind(Wanted::Auto, &fit, true), (Full, false));
        assert_eq!(kind(Wanted::Auto, &Ground::None, false), (Full, false));
        assert_eq!(kind(Wanted::Incremental, &Ground::None, false), (Full, true));
        let broken = Ground::Broken("an object is missing".to_owned());
        for wanted in [Wanted::Auto, Wanted::Incremental] {
            assert_eq!(kind(wanted, &broken, false), (Full, true));
        }
        assert_eq!(kind(Wanted::Full, &broken, false), (Full, false));
        let unsuited = Ground::Unsuited("nothing is recognised".to_owned());
        assert_eq!(kind(Wanted::Auto, &unsuited, false), (Full, false));
        assert_eq!(kind(Wanted::Incremental, &unsuited, false), (Full, true));
        let (heavy, long) = (chain(&[600, 401]), chain(&[1; SEGMENTS_WANTED_MAX]));
        assert_eq!(kind(Wanted::Auto, &Ground::Fit(&heavy), false), (Full, false));
        assert_eq!(kind(Wanted::Auto, &Ground::Fit(&long), false), (Full, false));
        assert_eq!(kind(Wanted::Incremental, &Ground::Fit(&long), false), (Incremental, false));
        // Whoever asks for nothing but increments is not left without backups when a chain can grow no more.
        let longest = chain(&[1; SEGMENTS_MAX - 1]);
        assert_eq!(kind(Wanted::Incremental, &Ground::Fit(&longest), false), (Full, true));
    }

    #[test]
    fn a_row_is_as_long_as_the_chain_that_calls_for_no_full_point() {
        for increment in [0, 1, 7, 100, 333, 1_000, 4_000] {
            let row = usize::try_from(increments_max(1_000, increment)).unwrap();
            let kind_on = |n: usize| kind(Wanted::Auto, &Ground::Fit(&chain(&vec![increment; n])), false).0;
            assert!((0..row).all(|n| kind_on(n) == PointKind::Incremental), "{increment}: {row}");
            assert_eq!(kind_on(row), PointKind::Full, "{increment}: {row}");
        }
    }

    #[test]
    fn the_last_full_point_decides_when_one_is_due() {
        let (mut manifest, first) = (chain(&[1]), parse_rfc3339("2026-11-20T02:00:00Z").unwrap());
        manifest.segments[0].started = first;
        manifest.segments[1].started = parse_rfc3339("2026-11-21T02:00:00Z").unwrap();
        choose(Wanted::Auto, &Ground::Fit(&manifest), |last| {
            assert_eq!(last, first);
            true
        });
    }
}
