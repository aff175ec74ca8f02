//! What one user may do, with the ranges of all its roles merged.

use crate::api::authpb::Permission;
use crate::api::authpb::permission::Type;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To see keys.
    Read,
    /// To change keys.
    Write,
}

/// Where a range ends: before a key, or nowhere. Keys are ordered as bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Before(Vec<u8>),
    Open,
}

impl End {
    /// What the two fields of a request or of a permission mean.
    fn of(key: &[u8], range_end: &[u8]) -> End {
        match range_end {
            // The next key in the order of bytes.
            [] => End::Before([key, &[0]].concat()),
            [0] => End::Open,
            end => End::Before(end.to_vec()),
        }
    }
}

/// Ranges in order, none of which touches the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ranges(Vec<(Vec<u8>, End)>);

impl Ranges {
    fn merged(mut ranges: Vec<(Vec<u8>, End)>) -> Self {
        ranges.retain(|(key, end)| *end > End::Before(key.clone()));
        ranges.sort_unstable();
        let mut merged: Vec<(Vec<u8>, End)> = vec![];
        for (key, end) in ranges {
            match merged.last_mut() {
                Some((_, last)) if *last >= End::Before(key.clone()) => *last = end.max(last.clone()),
                _ => merged.push((key, end)),
            }
        }
        Ranges(merged)
    }

    fn contain(&self, key: &[u8], range_end: &[u8]) -> bool {
        let after = self.0.partition_point(|(first, _)| first.as_slice() <= key);
        let Some((_, end)) = after.checked_sub(1).and_then(|at| self.0.get(at)) else { return false };
        match (range_end, end) {
            (_, End::Open) => true,
            ([0], End::Before(_)) => false,
            ([], End::Before(end)) => key < end.as_slice(),
            // Also of a range that holds nothing, because it ends before it begins.
            (range_end, End::Before(end)) => key < end.as_slice() && range_end <= end.as_slice(),
        }
    }
}

/// What a user may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    read: Ranges,
    write: Ranges,
}

impl Grant {
    /// The union of permissions.
    pub fn of<'a>(permissions: impl Iterator<Item = &'a Permission>) -> Self {
        let (mut read, mut write) = (vec![], vec![]);
        for permission in permissions {
            let range = || (permission.key.to_vec(), End::of(&permission.key, &permission.range_end));
            // A kind of a later version grants nothing: it is not known what it means.
            let kind = Type::try_from(permission.perm_type);
            if matches!(kind, Ok(Type::Read | Type::Readwrite)) {
                read.push(range());
            }
            if matches!(kind, Ok(Type::Write | Type::Readwrite)) {
                write.push(range());
            }
        }
        Grant { read: Ranges::merged(read), write: Ranges::merged(write) }
    }

    /// Whether all keys of a range may be accessed so. The range is given as in a request: no end is the key alone, a zero
    /// byte as the end is no end at all.
    pub fn allows(&self, access: Access, key: &[u8], range_end: &[u8]) -> bool {
        match access {
            Access::Read => self.read.contain(key, range_end),
            Access::Write => self.write.contain(key, range_end),
        }
    }
}

/// Whether a permission is for a range that can be meant: it begins before it ends.
pub fn is_range(key: &[u8], range_end: &[u8]) -> bool {
    !key.is_empty() && (range_end.is_empty() || range_end == [0] || key < range_end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Seeded;

    fn permission(kind: Type, key: &[u8], range_end: &[u8]) -> Permission {
        Permission { perm_type: kind as i32, key: key.to_vec().into(), range_end: range_end.to_vec().into() }
    }

    #[test]
    fn a_range_must_lie_within_the_union_as_a_whole() {
        let permissions = [
            permission(Type::Readwrite, b"a", b"c"),
            permission(Type::Read, b"c", b"e"),
            permission(Type::Read, b"k", b""),
            permission(Type::Write, b"x", b"\0"),
            permission(Type::Read, b"z", b"y"),
        ];
        let grant = Grant::of(permissions.iter());
        let reads = |key: &[u8], end: &[u8]| grant.allows(Access::Read, key, end);
        let writes = |key: &[u8], end: &[u8]| grant.allows(Access::Write, key, end);
        assert!(reads(b"a", b"e") && reads(b"b", b"d") && reads(b"d\xff", b"") && reads(b"k", b""));
        assert!(!reads(b"a", b"e\0") && !reads(b"e", b"") && !reads(b"k\0", b"") && !reads(b"k", b"l"));
        assert!(reads(b"k", b"k\0"), "the key alone, said as a range");
        assert!(!reads(b"z", b"") && !reads(b"y", b"") && !reads(b"a", b"\0") && !reads(b"\0", b"\0"));
        assert!(writes(b"a", b"c") && !writes(b"a", b"d") && writes(b"x", b"\0") && writes(b"zz", b"\0"));
        assert!(!writes(b"w", b"\0") && writes(b"y", b"z"));
        assert!(!reads(b"d", b"b") || reads(b"d", b""), "what holds nothing is as far as its key");
        assert!(!reads(b"z", b"b") && !writes(b"f", b"b"), "nor is what holds nothing, and begins elsewhere");
        let later = Permission { perm_type: 7, key: b"a".to_vec().into(), range_end: b"\0".to_vec().into() };
        assert_eq!(Grant::of([later].iter()), Grant::default(), "a kind that is not known grants nothing");
        assert_eq!(Grant::of([].iter()), Grant::default());
        assert!(!Grant::default().allows(Access::Read, b"", b""));
    }

    /// Against a look at every key there can be.
    #[test]
    fn the_union_is_that_of_single_keys() {
        let mut seeded = Seeded::new(5);
        let key = |n: u64| vec![b'a' + u8::try_from(n).unwrap()];
        let mut allowed = 0;
        for _ in 0..20_000 {
            let mut range = || (seeded.below(8), seeded.below(9));
            let ranges: Vec<_> = (0..4).map(|_| range()).collect();
            // An end of 8 stands for none, one of 0 for the key alone.
            let end = |n: u64| match n {
                0 => vec![],
                8 => vec![0],
                n => key(n),
            };
            let within = |at: u64, (from, to): (u64, u64)| at == from || at > from && to != 0 && (at < to || to == 8);
            let grant: Vec<_> =
                ranges.iter().map(|(from, to)| permission(Type::Read, &key(*from), &end(*to))).collect();
            let grant = Grant::of(grant.iter());
            let (from, to) = range();
            if to != 0 && to <= from {
                continue;
            }
            let is_real = |(from, to): (u64, u64)| to == 0 || to > from;
            // Between two letters there are keys that only a range has.
            let point = |at: u64| ranges.iter().any(|range| is_real(*range) && within(at, *range));
            let between = |at: u64| ranges.iter().any(|range| is_real(*range) && range.1 != 0 && within(at, *range));
            let last = if to == 8 { 8 } else { to };
            let expected = if to == 0 {
                point(from)
            } else {
                (from..last).all(|at| point(at) && between(at)) && (to != 8 || ranges.iter().any(|range| range.1 == 8))
            };
            assert_eq!(grant.allows(Access::Read, &key(from), &end(to)), expected, "{ranges:?} {from} {to}");
            allowed += u32::from(expected);
        }
        assert!(allowed > 1000, "{allowed}");
    }
}
