//! The index of keys: made anew whenever a member starts, from the rows that the state keeps for it.
//!
//! Those have all that is needed of a revision and not its message, so a start reads a few percent of the file. One thread
//! reads, checks and builds: most of the time is the building.

use crate::base::error::{Error, HINT_MEMBER_DAMAGED, Result};
use crate::base::revision::Rev;
use crate::store::backend::{Backend, Listed};
use crate::store::mvcc::history::Version;
use crate::store::mvcc::index::Index;

/// The index of everything that is stored, and the last revision of it. `sees` is shown each revision, in order, and the
/// index that has it already.
pub(super) fn load(backend: &Backend, mut sees: impl FnMut(&Index, &Listed<'_>)) -> Result<(Index, Option<Rev>)> {
    let (mut index, mut last) = (Index::default(), None);
    backend.list(&mut |listed| {
        index.load(listed.brief.key, version(&listed)?, listed.brief.created, listed.brief.number);
        last = Some(listed.rev);
        sees(&index, &listed);
        Ok(())
    })?;
    Ok((index, last))
}

/// The version of a key that a revision made. What no request can have brought was not written by a member.
fn version(listed: &Listed<'_>) -> Result<Version> {
    let Rev { main, sub } = listed.rev;
    let has_place = (0..i64::MAX).contains(&main) && i32::try_from(sub).is_ok_and(|sub| sub >= 0);
    match i32::try_from(listed.message_bytes).and_then(usize::try_from) {
        Ok(bytes) if has_place => Ok(Version::new(listed.rev, listed.tombstone, bytes)),
        _ => Err(Error::damaged(format!("revision {} of the state cannot be", listed.rev)).hint(HINT_MEMBER_DAMAGED)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Kind;
    use crate::store::backend::{Brief, CACHE_BYTES, Revision, Stored};
    use crate::store::mvcc::index::Keys;

    const MESSAGE: &[u8] = b"nobody reads this";

    fn backend(revisions: impl IntoIterator<Item = (Rev, String, i64)>) -> (tempfile::TempDir, Backend) {
        let dir = tempfile::tempdir().unwrap();
        let backend = Backend::create(&dir.path().join("db"), CACHE_BYTES).unwrap();
        let revisions: Vec<_> = revisions.into_iter().collect();
        let mut rows = revisions.iter().map(|(rev, key, lease)| Revision {
            stored: Stored { rev: *rev, tombstone: false, message: MESSAGE },
            brief: Brief { key: key.as_bytes(), created: rev.main.wrapping_sub(1), number: rev.sub + 2, lease: *lease },
        });
        backend.write(&mut rows, &[], &[]).unwrap();
        (dir, backend)
    }

    /// Holes in history, transactions of many steps, keys that come again: everything is seen once, in order, and in an
    /// index that has it already. Messages are not read.
    #[test]
    fn the_index_is_that_of_history_in_its_order() {
        let (_dir, empty) = backend([]);
        assert!(load(&empty, |_, _| panic!("nothing is stored")).unwrap().1.is_none());
        let mains = (2..40).chain(5_000..9_000).chain(900_000_000_000..900_000_000_003);
        let revs: Vec<_> = mains.flat_map(|main| (0..=main % 3).map(move |sub| Rev { main, sub })).collect();
        let key = |rev: &Rev| format!("key-{}", (rev.main + rev.sub) % 7);
        let (_dir, backend) = backend(revs.iter().map(|rev| (*rev, key(rev), rev.main)));
        let mut seen = vec![];
        let (index, last) = load(&backend, |index, listed| {
            let newest = index.get(listed.brief.key).unwrap().newest();
            assert_eq!((newest.rev(), newest.message_bytes()), (listed.rev, MESSAGE.len()));
            assert_eq!(&**index.key(listed.brief.key).unwrap(), listed.brief.key);
            seen.push((listed.rev, listed.brief.lease));
        })
        .unwrap();
        assert!(seen.iter().copied().eq(revs.iter().map(|rev| (*rev, rev.main))));
        let end = *revs.last().unwrap();
        assert_eq!((index.len(), last), (7, Some(end)));
        let versions: usize = index.range(Keys::of(&[], &[0])).map(|(_, history)| history.versions().len()).sum();
        assert_eq!(versions, revs.len());
        let newest = index.get(key(&end).as_bytes()).unwrap();
        assert_eq!(newest.alive(), Some((end.main - 1, end.main, end.sub + 2)));
    }

    #[test]
    fn revisions_that_cannot_be_are_refused() {
        let rev = |main, sub| Rev { main, sub };
        for rev in [rev(-1, 0), rev(i64::MIN, 0), rev(i64::MAX, 0), rev(2, -1), rev(2, 1 << 31)] {
            let (_dir, backend) = backend([(rev, "key".into(), 0)]);
            let error = load(&backend, |_, _| {}).unwrap_err();
            assert!(error.kind() == Kind::Damaged && error.hint_text() == Some(HINT_MEMBER_DAMAGED), "{error}");
            assert!(error.to_string().contains(&format!("revision {rev} ")) && error.to_string().contains("cannot be"));
        }
    }
}
