//! Bytes to records: the mirror of `encode`, for bytes from outside.
//!
//! Unknown fields of known kinds are passed over, as protobuf readers do; an unknown kind is refused, because a restore
//! that leaves out a fact it does not understand is not a restore.

use crate::base::digest::Sha256;
use crate::base::error::{Error, Kind, Result};
use crate::base::id::EtcdId;
use crate::snapshot::encode::{FULL, INCREMENTAL, LIVE};
use crate::snapshot::hash::StateDigest;
use crate::snapshot::record::{
    Compacted, Descriptor, End, Extra, FORMAT, KeptRun, RECORD_BYTES_MAX, Record, Rev, Revision, check_message,
};
use crate::snapshot::wire::{self, Field, Fields};

/// Records in a batch at most.
pub const BATCH_RECORDS_MAX: usize = 16_384;
/// A batch ends when it holds this many bytes.
pub const BATCH_BYTES: usize = 1 << 20;

/// The records in a run of whole length-delimited records.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    /// The records in `bytes`.
    pub fn of(bytes: &'a [u8]) -> Self {
        Records { rest: bytes }
    }

    /// Bytes that were not read yet.
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    fn record(&mut self) -> Result<Record<'a>> {
        read_record(take_body(&mut self.rest)?)
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let record = self.record().map_err(|error| error.during("a record cannot be read"));
        if record.is_err() {
            self.rest = &[];
        }
        Some(record)
    }
}

/// Splits whole length-delimited records into batches that can be decoded one at a time: a record of three bytes takes a
/// hundred in memory, and whoever needs the newest record first would otherwise hold all of an object's at once.
pub fn batches(bytes: &[u8]) -> Result<Vec<&[u8]>> {
    let (mut batches, mut rest) = (vec![], bytes);
    while !rest.is_empty() {
        let start = rest;
        let mut records = 0;
        while !rest.is_empty() && records < BATCH_RECORDS_MAX && start.len() - rest.len() < BATCH_BYTES {
            take_body(&mut rest)?;
            records += 1;
        }
        batches.push(&start[..start.len() - rest.len()]);
    }
    Ok(batches)
}

/// Takes the next record off `rest`, without its length.
fn take_body<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8]> {
    let len = wire::take_varint(rest)?;
    let len = usize::try_from(len).ok().filter(|len| *len <= RECORD_BYTES_MAX);
    let split = len.and_then(|len| rest.split_at_checked(len));
    let (body, after) = split.ok_or_else(|| Error::damaged("a record is longer than what holds it"))?;
    *rest = after;
    Ok(body)
}

/// Reads one record without its length.
fn read_record(body: &[u8]) -> Result<Record<'_>> {
    let mut fields = Fields::of(body);
    let (number, field) = fields.next().ok_or_else(|| Error::damaged("a record is empty"))??;
    if fields.next().is_some() {
        return Err(Error::damaged("a record holds more than one fact"));
    }
    let fact = field.bytes()?;
    let first = || single(fact, 1);
    match number {
        1 => read_descriptor(fact).map(Record::Descriptor),
        2 => read_extra(fact).map(Record::Extra),
        3 => {
            let [revision, finished] = numbers(fact)?;
            Ok(Record::Compacted(Compacted { revision: revision.cast_signed(), finished: finished != 0 }))
        }
        4 => Ok(Record::ClusterVersion(text(bytes_or_empty(first()?)?)?)),
        5 => read_member(fact),
        6 => Ok(Record::MemberGone(EtcdId(numbers::<1>(fact)?[0]))),
        7 => Ok(Record::Alarm { stored: message(first()?)? }),
        8 => read_auth_config(fact),
        9 => Ok(Record::User { stored: message(first()?)? }),
        10 => Ok(Record::UserGone(bytes_or_empty(first()?)?)),
        11 => Ok(Record::Role { stored: message(first()?)? }),
        12 => Ok(Record::RoleGone(bytes_or_empty(first()?)?)),
        13 => Ok(Record::Lease { stored: message(first()?)? }),
        14 => Ok(Record::LeaseGone(numbers::<1>(fact)?[0].cast_signed())),
        15 => {
            let [revision, unix_ms] = numbers(fact)?.map(u64::cast_signed);
            Ok(Record::Moment { revision, unix_ms })
        }
        16 => read_revision(fact).map(Record::Revision),
        17 => read_end(fact).map(Record::End),
        18 => read_kept(fact).map(Record::Kept),
        19 => Ok(Record::AlarmGone { stored: message(first()?)? }),
        other => Err(Error::new(Kind::Usage, format!("records of kind {other} are not known to this version"))
            .hint("the data was written by a newer version of holdfast: use that version to read it")),
    }
}

/// The last field `number` of a message, the one that counts.
fn single(fact: &[u8], number: u32) -> Result<Option<Field<'_>>> {
    let mut found = None;
    for field in Fields::of(fact) {
        let (n, field) = field?;
        if n == number {
            found = Some(field);
        }
    }
    Ok(found)
}

/// Varint fields 1 to N; a field that is not there is 0.
fn numbers<const N: usize>(fact: &[u8]) -> Result<[u64; N]> {
    let mut values = [0; N];
    for field in Fields::of(fact) {
        let (number, field) = field?;
        let place = usize::try_from(number).ok().and_then(|n| n.checked_sub(1));
        if let Some(value) = place.and_then(|place| values.get_mut(place)) {
            *value = field.number()?;
        }
    }
    Ok(values)
}

fn bytes_or_empty(field: Option<Field<'_>>) -> Result<&[u8]> {
    field.map_or(Ok(&[]), Field::bytes)
}

/// A nested message, which must be there and walkable.
fn message(field: Option<Field<'_>>) -> Result<&[u8]> {
    let stored = field.ok_or_else(|| Error::damaged("a record lacks the message it is about"))?.bytes()?;
    check_message(stored)?;
    Ok(stored)
}

fn text(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|error| Error::damaged("a version is not text").source(error))
}

fn read_descriptor(fact: &[u8]) -> Result<Descriptor<'_>> {
    let mut descriptor = Descriptor::default();
    let mut kind = &[][..];
    for field in Fields::of(fact) {
        match field? {
            (1, field) => descriptor.format = narrow(field.number()?)?,
            (2, field) => kind = field.bytes()?,
            (3, field) => descriptor.cluster_id = EtcdId(field.number()?),
            (4, field) => descriptor.member_id = EtcdId(field.number()?),
            (5, field) => descriptor.revision = field.signed()?,
            (6, field) => descriptor.compact_revision = field.signed()?,
            (7, field) => descriptor.raft_term = field.number()?,
            (8, field) => descriptor.raft_index = field.number()?,
            (9, field) => descriptor.storage_version = text(field.bytes()?)?,
            (10, field) => descriptor.page_size = narrow(field.number()?)?,
            (11, field) => descriptor.base_revision = field.signed()?,
            (12, field) => descriptor.kept_listed = field.number()? != 0,
            (13, field) => descriptor.lineage = Some(Sha256(digest(field)?)),
            (14, field) => descriptor.state_digest = Some(StateDigest::from_bytes(digest(field)?)),
            _ => {}
        }
    }
    descriptor.is_live = kind == LIVE;
    let follows = descriptor.base_revision > 0;
    if kind == FULL && follows || (kind == INCREMENTAL || kind == LIVE) && !follows {
        return Err(Error::damaged(format!(
            "a stream that follows revision {} contradicts its kind",
            descriptor.base_revision
        )));
    }
    if descriptor.format != FORMAT || ![FULL, INCREMENTAL, LIVE].contains(&kind) {
        let kind = String::from_utf8_lossy(kind);
        return Err(Error::new(Kind::Usage, format!("a {kind:?} stream of format {} is not known", descriptor.format))
            .hint("the data was written by a newer version of holdfast: use that version to read it"));
    }
    Ok(descriptor)
}

fn digest(field: Field<'_>) -> Result<[u8; 32]> {
    field.bytes()?.try_into().map_err(|error| Error::damaged("a digest has another length").source(error))
}

fn narrow(value: u64) -> Result<u32> {
    u32::try_from(value).map_err(|error| Error::damaged("a number is out of range").source(error))
}

fn read_extra(fact: &[u8]) -> Result<Extra<'_>> {
    let mut extra = Extra { bucket: &[], key: None, value: &[], sequence: 0 };
    for field in Fields::of(fact) {
        match field? {
            (1, field) => extra.bucket = field.bytes()?,
            (2, field) => extra.key = Some(field.bytes()?),
            (3, field) => extra.value = field.bytes()?,
            (4, field) => extra.sequence = field.number()?,
            _ => {}
        }
    }
    if extra.bucket.is_empty() {
        return Err(Error::damaged("an entry names no bucket"));
    }
    Ok(extra)
}

fn read_member(fact: &[u8]) -> Result<Record<'_>> {
    let (mut id, mut json) = (EtcdId(0), &[][..]);
    for field in Fields::of(fact) {
        match field? {
            (1, field) => id = EtcdId(field.number()?),
            (2, field) => json = field.bytes()?,
            _ => {}
        }
    }
    Ok(Record::Member { id, json })
}

fn read_auth_config(fact: &[u8]) -> Result<Record<'_>> {
    let enabled = single(fact, 1)?.map(Field::number).transpose()?.map(|n| n != 0);
    let revision = single(fact, 2)?.map(Field::number).transpose()?;
    Ok(Record::AuthConfig { enabled, revision })
}

fn read_revision(fact: &[u8]) -> Result<Revision<'_>> {
    let mut revision = Revision { rev: Rev::default(), tombstone: false, stored: &[] };
    for field in Fields::of(fact) {
        match field? {
            (1, field) => revision.rev.main = field.signed()?,
            (2, field) => revision.rev.sub = field.signed()?,
            (3, field) => revision.tombstone = field.number()? != 0,
            (4, field) => revision.stored = field.bytes()?,
            _ => {}
        }
    }
    if revision.rev.main <= 0 || revision.rev.sub < 0 {
        return Err(Error::damaged(format!("{} is not a revision", revision.rev)));
    }
    Ok(revision)
}

fn read_kept(fact: &[u8]) -> Result<KeptRun<'_>> {
    let mut run = KeptRun { first: Rev::default(), steps: &[] };
    for field in Fields::of(fact) {
        match field? {
            (1, field) => run.first.main = field.signed()?,
            (2, field) => run.first.sub = field.signed()?,
            (3, field) => run.steps = field.bytes()?,
            _ => {}
        }
    }
    if run.first.main <= 0 || run.first.sub < 0 {
        return Err(Error::damaged(format!("{} is not a revision", run.first)));
    }
    Ok(run)
}

fn read_end(fact: &[u8]) -> Result<End> {
    let mut end = End { records: 0, crc32c: 0 };
    for field in Fields::of(fact) {
        match field? {
            (1, field) => end.records = field.number()?,
            (2, Field::Fixed32(crc32c)) => end.crc32c = crc32c,
            (2, _) => return Err(Error::damaged("the checksum of a stream is stored as something else")),
            _ => {}
        }
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_hold_whole_records_few_enough_to_be_decoded_at_once() {
        let tiny = b"\x02\x22\x00".repeat(2 * BATCH_RECORDS_MAX + 5);
        let counts: Vec<_> = batches(&tiny).unwrap().iter().map(|batch| Records::of(batch).count()).collect();
        assert_eq!(counts, [BATCH_RECORDS_MAX, BATCH_RECORDS_MAX, 5]);
        // A user of 300,000 bytes each: four fill a batch.
        let mut large = vec![];
        let mut stored = vec![0x0a];
        wire::put_varint(&mut stored, 300_000);
        stored.extend([b'u'; 300_000]);
        for _ in 0..9 {
            let mut fact = vec![0x0a];
            wire::put_varint(&mut fact, stored.len() as u64);
            fact.extend_from_slice(&stored);
            let mut body = vec![0x4a];
            wire::put_varint(&mut body, fact.len() as u64);
            body.extend_from_slice(&fact);
            wire::put_varint(&mut large, body.len() as u64);
            large.extend_from_slice(&body);
        }
        let batched = batches(&large).unwrap();
        assert_eq!(batched.iter().map(|batch| Records::of(batch).count()).collect::<Vec<_>>(), [4, 4, 1]);
        assert!(batched.concat() == large, "nothing is lost between batches");
        assert_eq!(batches(b"").unwrap(), [b""; 0]);
        batches(&tiny[..tiny.len() - 1]).unwrap_err();
    }
}
