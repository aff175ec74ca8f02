//! Selection: what people type to mean a restore point.
//!
//! - `latest`: the highest revision of the current lineage; `latest~1`: the one before it, and so on.
//! - the first digits (at least 4) of its attempt, if no other point begins with them; or all 16
//! - `<revision>-<kind>-<attempt>`, as listed, with or without leading zeros; or `<lineage>/` before it
//!
//! A selector that fits nothing, or several, is answered with the points it may have meant.

use crate::base::error::{Error, Kind, Result};
use crate::vault::catalog::{Catalog, Point};

/// Digits of an attempt that are enough to try.
const PREFIX_DIGITS_MIN: usize = 4;
/// Points named in a message.
const SUGGESTIONS_MAX: usize = 5;
const LATEST: &str = "latest";

impl Catalog {
    /// The one point that `selector` means.
    pub fn select(&self, selector: &str) -> Result<&Point> {
        if let Some(rest) = selector.strip_prefix(LATEST) {
            let back = match rest.strip_prefix('~') {
                None if rest.is_empty() => Some(0),
                Some(digits) if digits.bytes().all(|c| c.is_ascii_digit()) => digits.parse().ok(),
                _ => None,
            };
            return match back {
                Some(back) => self.latest(selector, back),
                None => Err(self.none(selector, "say `latest` or, for example, `latest~2`")),
            };
        }
        let digits = selector.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c));
        let matches: Vec<&Point> = if digits {
            if selector.len() < PREFIX_DIGITS_MIN {
                let text = format!("{selector:?} is too short to name a point");
                return Err(Error::new(Kind::Usage, text)
                    .hint(format!("give at least {PREFIX_DIGITS_MIN} digits of its id, or `latest`")));
            }
            self.points.iter().filter(|p| p.name.attempt.to_string().starts_with(selector)).collect()
        } else {
            self.points.iter().filter(|p| is_named(p, selector)).collect()
        };
        match matches[..] {
            [point] => Ok(point),
            [] => Err(self.none(selector, "")),
            _ => Err(Error::new(Kind::Usage, format!("{selector:?} could be any of {} points", matches.len()))
                .hint(format!("give more digits: {}", suggestions(matches.iter().copied())))),
        }
    }

    fn latest(&self, selector: &str, back: usize) -> Result<&Point> {
        let Some(current) = self.current else {
            let text = format!("{selector} of cluster {} is unknown: its lineages cannot be told apart", self.cluster);
            return Err(
                Error::damaged(text).hint(format!("name a point by its id: {}", suggestions(self.points.iter().rev())))
            );
        };
        let mut newest_first = self.points.iter().rev().filter(|p| p.name.lineage == current);
        newest_first.nth(back).ok_or_else(|| {
            let count = self.points.iter().filter(|p| p.name.lineage == current).count();
            self.none(selector, &format!("the current lineage has {count} point(s)"))
        })
    }

    fn none(&self, selector: &str, why: &str) -> Error {
        let text = format!("no restore point {selector:?} of cluster {} in {}", self.cluster, self.url);
        let near = near(&self.points, selector);
        let there = format!("there are {}", suggestions(near.into_iter()));
        let hint = if why.is_empty() { there } else { format!("{why}; {there}") };
        Error::new(Kind::NotFound, text).hint(hint)
    }
}

fn is_named(point: &Point, selector: &str) -> bool {
    let stem = match selector.split_once('/') {
        Some((lineage, stem)) if lineage == point.name.lineage.to_string() => stem,
        Some(_) => return false,
        None => selector,
    };
    // Leading zeros are for sorting; people leave them out.
    !stem.is_empty() && stem.trim_start_matches('0') == point.name.stem().trim_start_matches('0')
}

/// The points whose ids resemble what was typed, the newest when none does.
fn near<'a>(points: &'a [Point], selector: &str) -> Vec<&'a Point> {
    let newest_first = points.iter().rev();
    let start = selector.get(..2).unwrap_or(selector);
    let alike: Vec<&Point> =
        newest_first.clone().filter(|p| p.name.attempt.to_string().starts_with(start)).take(SUGGESTIONS_MAX).collect();
    if alike.is_empty() { newest_first.take(SUGGESTIONS_MAX).collect() } else { alike }
}

fn suggestions<'a>(points: impl Iterator<Item = &'a Point>) -> String {
    let mut names: Vec<String> = points
        .take(SUGGESTIONS_MAX + 1)
        .map(|p| format!("{} (revision {})", p.name.attempt, p.name.revision))
        .collect();
    if names.len() > SUGGESTIONS_MAX {
        names.truncate(SUGGESTIONS_MAX);
        names.push("...".to_owned());
    }
    if names.is_empty() { "no points".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::condemned::Condemned;
    use crate::vault::layout::{Attempt, PointKind, PointName};
    use crate::vault::testing;

    fn catalog(attempts: &[(i64, &str)]) -> Catalog {
        let point = |(revision, attempt): &(i64, &str)| Point {
            name: PointName {
                cluster: "prod".into(),
                lineage: testing::lineage(),
                revision: *revision,
                kind: PointKind::Full,
                attempt: Attempt::parse(attempt).unwrap(),
            },
            manifest_bytes: 0,
            modified: testing::time(),
            condemned: false,
        };
        Catalog::of(attempts.iter().map(point).collect(), Some(testing::lineage()), Condemned::default())
    }

    #[test]
    fn people_name_points_in_many_ways() {
        let catalog = catalog(&[
            (10, "aaaa000000000001"),
            (20, "aaaa100000000002"),
            (30, "1234567890abcdef"),
            (30, "ffff000000000004"),
        ]);
        let full = format!("{}/{:020}-full-1234567890abcdef", testing::LINEAGE, 30);
        for (selector, attempt) in [
            ("latest", "ffff000000000004"),
            ("latest~0", "ffff000000000004"),
            ("latest~3", "aaaa000000000001"),
            ("1234", "1234567890abcdef"),
            ("aaaa1", "aaaa100000000002"),
            ("aaaa000000000001", "aaaa000000000001"),
            ("30-full-1234567890abcdef", "1234567890abcdef"),
            ("00000000000000000020-full-aaaa100000000002", "aaaa100000000002"),
            (&full, "1234567890abcdef"),
        ] {
            assert_eq!(catalog.select(selector).unwrap().name.attempt.to_string(), attempt, "{selector}");
        }
    }

    #[test]
    fn what_fits_nothing_or_several_is_answered_with_what_there_is() {
        let catalog = catalog(&[(10, "aaaa000000000001"), (20, "aaaa100000000002"), (30, "1234567890abcdef")]);
        for (selector, kind, hint) in [
            ("aaaa", Kind::Usage, "aaaa000000000001 (revision 10)"),
            ("aaa", Kind::Usage, "at least 4"),
            ("", Kind::Usage, "at least 4"),
            ("aabb", Kind::NotFound, "aaaa100000000002"),
            ("9999", Kind::NotFound, "1234567890abcdef (revision 30)"),
            ("latest~3", Kind::NotFound, "has 3 point(s)"),
            ("latest~", Kind::NotFound, "there are"),
            ("latest~x", Kind::NotFound, "latest~2"),
            ("latest~99999999999999999999", Kind::NotFound, "there are"),
            ("newest", Kind::NotFound, "there are"),
            ("../../x", Kind::NotFound, "there are"),
            ("0", Kind::Usage, "at least 4"),
            ("é-full", Kind::NotFound, "there are"),
        ] {
            let error = catalog.select(selector).unwrap_err();
            assert_eq!(error.kind(), kind, "{selector}: {error}");
            assert!(error.hint_text().unwrap().contains(hint), "{selector}: {:?}", error.hint_text());
        }
    }
}
