//! The records of a restore point as one state: newest first for whoever asks which version of a key is its newest, or in
//! the fixed order for whoever builds a file.
//!
//! A chain is read in one pass backward. Forward takes more: the state begins with what the last segment says beside
//! its revisions, and which older revisions are still there must be known before the first of them is met; so the front
//! of the last segment (and of the one with the list) is read ahead, and its objects once more when their turn comes.

use crate::base::error::{Error, Result};
use crate::base::stop::{Stop, blocking};
use crate::snapshot::decode::{Records, batches};
use crate::snapshot::kept::Order;
use crate::snapshot::record::{Record, Rev};
use crate::vault::chain::{Chain, Merge};
use crate::vault::get::{Direction, RawObject, Reader};
use crate::vault::manifest::Manifest;
use crate::vault::repository::Repository;

/// Calls `sink` with the records that belong to the point's state in batches, newest batch first, each in ascending order.
pub async fn newest_first(
    repository: &Repository,
    manifest: &Manifest,
    stop: &Stop,
    mut sink: impl FnMut(&[Record<'_>]) -> Result<()> + Send + 'static,
) -> Result<()> {
    let mut reader = Reader::start(repository, &manifest.objects, Direction::Backward, stop);
    let chain = Chain::of(manifest);
    blocking(move || {
        let mut merge = Merge::new(chain.clone(), Order::Descending);
        let mut oldest = None;
        while let Some(object) = reader.next_blocking()? {
            let segment = chain.segment_of(object.index);
            for batch in batches(&object.bytes).map_err(|error| named(error, &object))?.into_iter().rev() {
                let mut take = || {
                    let records = read(batch)?;
                    check_order(&records, &mut oldest)?;
                    merge.learn(segment, &records)?;
                    merge.belonging(segment, records)
                };
                let records = take().map_err(|error| named(error, &object))?;
                sink(&records)?;
            }
        }
        merge.finish()
    })
    .await
}

/// Calls `sink` with the records of the point's state in the fixed order, a few at a time, and with the number of raw
/// bytes that were read for them. Blocks; belongs on a thread where the async runtime can be reached.
pub fn in_order(
    repository: &Repository,
    manifest: &Manifest,
    stop: &Stop,
    sink: &mut dyn FnMut(&[Record<'_>], u64) -> Result<()>,
) -> Result<()> {
    let chain = Chain::of(manifest);
    let mut merge = Merge::new(chain.clone(), Order::Ascending);
    let last = chain.last();
    let front = |segment: usize, each: &mut dyn FnMut(&[Record<'_>]) -> Result<()>| -> Result<()> {
        let objects = &manifest.objects[chain.objects_of(segment)];
        let mut reader = Reader::start(repository, objects, Direction::Forward, stop);
        while let Some(object) = reader.next_blocking()? {
            for batch in batches(&object.bytes).map_err(|error| named(error, &object))? {
                let records = read(batch).map_err(|error| named(error, &object))?;
                let end = records.iter().position(|record| matches!(record, Record::Revision(_) | Record::End(_)));
                each(&records[..end.unwrap_or(records.len())])?;
                if end.is_some() {
                    return Ok(());
                }
            }
        }
        Ok(())
    };
    if last > 0 {
        front(last, &mut |records| {
            merge.learn(last, records)?;
            let facts: Vec<_> = records.iter().filter(|record| !matches!(record, Record::Kept(_))).copied().collect();
            sink(&facts, 0)
        })?;
    }
    if let Some(lists) = chain.lists().filter(|lists| *lists < last) {
        front(lists, &mut |records| merge.learn(lists, records))?;
    }
    let mut reader = Reader::start(repository, &manifest.objects, Direction::Forward, stop);
    while let Some(object) = reader.next_blocking()? {
        let segment = chain.segment_of(object.index);
        for batch in batches(&object.bytes).map_err(|error| named(error, &object))? {
            let mut take = || {
                let mut records = merge.belonging(segment, read(batch)?)?;
                if last > 0 {
                    // What stands before the revisions was handed on already.
                    records.retain(|record| matches!(record, Record::Revision(_) | Record::End(_)));
                }
                sink(&records, batch.len() as u64)
            };
            take().map_err(|error| named(error, &object))?;
        }
    }
    merge.finish()
}

fn read(batch: &[u8]) -> Result<Vec<Record<'_>>> {
    Records::of(batch).collect()
}

fn named(error: Error, object: &RawObject) -> Error {
    error.during(format!("object {}", object.entry.name))
}

/// Whoever folds records relies on their order, and a repository is not to be trusted with it.
fn check_order(records: &[Record<'_>], oldest: &mut Option<Rev>) -> Result<()> {
    for record in records.iter().rev() {
        let Record::Revision(revision) = record else { continue };
        if oldest.is_some_and(|next| revision.rev >= next) {
            return Err(Error::damaged(format!("revision {} stands out of order", revision.rev))
                .hint("do not use this point; `holdfast verify --level 3` tells what is wrong with it"));
        }
        *oldest = Some(revision.rev);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Kind;
    use crate::snapshot::record::Revision;

    #[test]
    fn records_out_of_order_are_damage_within_and_across_objects() {
        let at = |main| Record::Revision(Revision { rev: Rev { main, sub: 0 }, tombstone: false, stored: b"" });
        let mut oldest = None;
        check_order(&[at(5), at(6)], &mut oldest).unwrap();
        check_order(&[at(3), at(4)], &mut oldest).unwrap();
        assert_eq!(check_order(&[at(3)], &mut oldest).unwrap_err().kind(), Kind::Damaged);
        assert_eq!(check_order(&[at(8), at(7)], &mut None).unwrap_err().kind(), Kind::Damaged);
    }
}
