//! Bucket entries of an etcd file, and the records they stand for: one table, read in both directions.
//!
//! | bucket | key | record |
//! |---|---|---|
//! | `key` | revision, 17 or 18 bytes | `Revision` |
//! | `lease` | id, 8 bytes big-endian | `Lease` |
//! | `auth` | `authEnabled`, `authRevision` | `AuthConfig` |
//! | `authUsers`, `authRoles` | name | `User`, `Role` |
//! | `members` | id, hexadecimal | `Member` |
//! | `members_removed` | id, hexadecimal | `MemberGone` |
//! | `alarm` | the alarm itself | `Alarm` |
//! | `cluster` | `clusterVersion` | `ClusterVersion` |
//! | `meta` | `scheduledCompactRev`, `finishedCompactRev` | `Compacted` |
//!
//! Every other entry, and every entry that is not exactly what etcd writes there, becomes an `Extra` and goes back where
//! it came from. `key` and `lease` are strict instead: they are the state itself, and an entry there that is not
//! etcd's is damage.
//!
//! Invariant: `entries(record_of(entry)) == entry`, for every entry that is not damage.

use crate::base::digest;
use crate::base::error::{Error, Kind, Result};
use crate::base::id::EtcdId;
use crate::snapshot::record::{
    Compacted, Extra, KeyValue, Record, Rev, Revision, STORED_BYTES_MAX, check_message, foreign, lease_of, name_of,
};

/// The bucket of history.
pub const KEY: &[u8] = b"key";
/// The bucket of leases.
pub const LEASE: &[u8] = b"lease";
/// The bucket of raft and compaction bookkeeping.
pub const META: &[u8] = b"meta";
/// The bucket of the authentication switch.
pub const AUTH: &[u8] = b"auth";
/// The bucket of users.
pub const AUTH_USERS: &[u8] = b"authUsers";
/// The bucket of roles.
pub const AUTH_ROLES: &[u8] = b"authRoles";
/// The bucket of members.
pub const MEMBERS: &[u8] = b"members";
/// The bucket of members that may not return.
pub const MEMBERS_REMOVED: &[u8] = b"members_removed";
/// The bucket of alarms.
pub const ALARM: &[u8] = b"alarm";
/// The bucket of what the cluster agreed on.
pub const CLUSTER: &[u8] = b"cluster";

/// Every bucket of etcd's.
pub const BUCKETS: [&[u8]; 10] =
    [ALARM, AUTH, AUTH_ROLES, AUTH_USERS, CLUSTER, KEY, LEASE, MEMBERS, MEMBERS_REMOVED, META];

/// Key in `meta`: the raft index of the last applied entry, u64 big-endian.
pub const CONSISTENT_INDEX: &[u8] = b"consistent_index";
/// Key in `meta`: the raft term of the last applied entry, u64 big-endian.
pub const TERM: &[u8] = b"term";
/// Key in `meta`: who votes, as JSON.
pub const CONF_STATE: &[u8] = b"confState";
/// Key in `meta`: the storage version, text; since etcd 3.6.
pub const STORAGE_VERSION: &[u8] = b"storageVersion";
/// Key in `meta`: the compaction that was begun, as a revision.
pub const SCHEDULED: &[u8] = b"scheduledCompactRev";
/// Key in `meta`: the compaction that was finished, as a revision.
pub const FINISHED: &[u8] = b"finishedCompactRev";
/// Key in `auth`: the switch.
pub const AUTH_ENABLED: &[u8] = b"authEnabled";
/// Key in `auth`: the revision of the rules.
pub const AUTH_REVISION: &[u8] = b"authRevision";
/// Key in `cluster`: the version that all members speak.
pub const CLUSTER_VERSION: &[u8] = b"clusterVersion";
const REMOVED: &[u8] = b"removed";

/// Bytes of a revision as a key: main, `_`, sub.
pub const REVISION_BYTES: usize = 17;
/// What a tombstone's key has behind the revision.
const TOMBSTONE: u8 = b't';

/// A revision as a key of the bucket `key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RevisionKey {
    bytes: [u8; REVISION_BYTES + 1],
    len: usize,
}

impl RevisionKey {
    /// The key of `rev`.
    pub fn new(rev: Rev, tombstone: bool) -> Self {
        let mut bytes = [TOMBSTONE; REVISION_BYTES + 1];
        bytes[..8].copy_from_slice(&rev.main.to_be_bytes());
        bytes[8] = b'_';
        bytes[9..17].copy_from_slice(&rev.sub.to_be_bytes());
        RevisionKey { bytes, len: REVISION_BYTES + usize::from(tombstone) }
    }

    /// The key's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Reads a revision off a 17-byte key or value of etcd's.
fn parse_rev(bytes: &[u8]) -> Option<Rev> {
    let (main, rest) = bytes.split_first_chunk::<8>()?;
    let (sub, rest) = rest.strip_prefix(b"_")?.split_first_chunk::<8>()?;
    let rev = Rev { main: i64::from_be_bytes(*main), sub: i64::from_be_bytes(*sub) };
    (rest.is_empty() && rev.main > 0 && rev.sub >= 0).then_some(rev)
}

/// An entry of the bucket `key`.
pub fn revision_of<'a>(key: &[u8], value: &'a [u8]) -> Result<Revision<'a>> {
    let (head, tombstone) = match key {
        [head @ .., TOMBSTONE] if head.len() == REVISION_BYTES => (head, true),
        head => (head, false),
    };
    let rev = parse_rev(head)
        .ok_or_else(|| Error::damaged(format!("the bucket of history holds an entry {:?}", digest::hex(key))))?;
    check_len(value).and_then(|()| KeyValue::parse(value)).map_err(|error| error.during(format!("revision {rev}")))?;
    Ok(Revision { rev, tombstone, stored: value })
}

/// An entry of the bucket `lease`.
pub fn lease_record_of<'a>(key: &[u8], value: &'a [u8]) -> Result<Record<'a>> {
    let id = key.try_into().map(i64::from_be_bytes).map_err(|_| foreign("a lease's key"))?;
    check_len(value)?;
    if lease_of(value)?.0 != id {
        return Err(Error::damaged(format!("lease {id:x} is stored under another id")));
    }
    Ok(Record::Lease { stored: value })
}

/// Refuses a value that no record can hold.
fn check_len(value: &[u8]) -> Result<()> {
    if value.len() <= STORED_BYTES_MAX {
        return Ok(());
    }
    let text = format!("a value of {} bytes is longer than the {STORED_BYTES_MAX} that can be stored", value.len());
    Err(Error::new(Kind::Failed, text).hint("etcd accepts 1.5 MiB by default; find out what wrote such a value"))
}

/// An entry of any bucket but `key`, `lease` and `auth`.
pub fn record_of<'a>(bucket: &'a [u8], key: &'a [u8], value: &'a [u8]) -> Record<'a> {
    let record = match bucket {
        META => compacted_of(key, value).map(Record::Compacted),
        CLUSTER if key == CLUSTER_VERSION => std::str::from_utf8(value).ok().map(Record::ClusterVersion),
        MEMBERS => hex_id(key).map(|id| Record::Member { id, json: value }),
        MEMBERS_REMOVED if value == REMOVED => hex_id(key).map(Record::MemberGone),
        ALARM if value.is_empty() && check_message(key).is_ok() => Some(Record::Alarm { stored: key }),
        AUTH_USERS if named(key, value) => Some(Record::User { stored: value }),
        AUTH_ROLES if named(key, value) => Some(Record::Role { stored: value }),
        _ => None,
    };
    record.unwrap_or(Record::Extra(Extra { bucket, key: Some(key), value, sequence: 0 }))
}

/// The two entries of `auth` that make one record, from all entries of the bucket; the rest are returned as they are.
pub fn auth_config_of<'a>(entries: &[(&'a [u8], &'a [u8])]) -> (Option<Record<'a>>, Vec<Record<'a>>) {
    let (mut enabled, mut revision, mut rest) = (None, None, vec![]);
    for (key, value) in entries {
        match (*key, *value) {
            (AUTH_ENABLED, [switch @ (0 | 1)]) => enabled = Some(*switch == 1),
            (AUTH_REVISION, number) if number.len() == 8 => {
                revision = Some(u64::from_be_bytes(number.try_into().expect("8 bytes")));
            }
            _ => rest.push(Record::Extra(Extra { bucket: AUTH, key: Some(key), value, sequence: 0 })),
        }
    }
    let found = enabled.is_some() || revision.is_some();
    (found.then_some(Record::AuthConfig { enabled, revision }), rest)
}

/// A bucket: its name, its sequence number, its entries.
pub type Bucket<'a> = (&'a [u8], u64, Vec<(&'a [u8], &'a [u8])>);

/// The records of buckets other than history and leases, and the existence of every bucket, in the fixed order.
pub fn side_records<'a>(buckets: impl Iterator<Item = Bucket<'a>>) -> Vec<Record<'a>> {
    let mut records = vec![];
    for (bucket, sequence, entries) in buckets {
        records.push(Record::Extra(Extra { bucket, key: None, value: &[], sequence }));
        if bucket == AUTH {
            let (config, rest) = auth_config_of(&entries);
            records.extend(rest);
            records.extend(config);
        } else {
            records.extend(entries.iter().map(|(key, value)| record_of(bucket, key, value)));
        }
    }
    records.sort_by(|a, b| fixed_order(a).cmp(&fixed_order(b)));
    records
}

/// Kind, then bucket and key where the kind has them; the existence of buckets before their entries.
fn fixed_order<'a>(record: &Record<'a>) -> (u32, &'a [u8], Option<&'a [u8]>) {
    match record {
        Record::Extra(extra) => (2, extra.bucket, extra.key),
        other => (other.number(), &[], None),
    }
}

fn compacted_of(key: &[u8], value: &[u8]) -> Option<Compacted> {
    let finished = match key {
        SCHEDULED => false,
        FINISHED => true,
        _ => return None,
    };
    let rev = parse_rev(value).filter(|rev| rev.sub == 0)?;
    Some(Compacted { revision: rev.main, finished })
}

/// The id in a key of `members`: lower-case hexadecimal that prints back to the same text.
fn hex_id(key: &[u8]) -> Option<EtcdId> {
    let text = std::str::from_utf8(key).ok()?;
    EtcdId::parse(text).ok().filter(|id| id.to_string() == text)
}

/// Whether `value` is a user or role whose own name is `key`.
fn named(key: &[u8], value: &[u8]) -> bool {
    name_of(value).is_ok_and(|name| name == key)
}

/// Takes an entry: bucket, key, value.
pub type Put<'a> = dyn FnMut(&[u8], &[u8], &[u8]) -> Result<()> + 'a;

/// Calls `put` with each entry (bucket, key, value) that `record` stands for. `Descriptor`, `Moment` and `End` stand
/// for none, nor does the existence of a bucket.
pub fn entries(record: &Record<'_>, put: &mut Put<'_>) -> Result<()> {
    match record {
        Record::Descriptor(_) | Record::Moment { .. } | Record::End(_) => Ok(()),
        Record::Extra(Extra { bucket, key, value, .. }) => key.map_or(Ok(()), |key| put(bucket, key, value)),
        Record::Compacted(Compacted { revision, finished }) => {
            let rev = RevisionKey::new(Rev { main: *revision, sub: 0 }, false);
            put(META, if *finished { FINISHED } else { SCHEDULED }, rev.as_bytes())
        }
        Record::ClusterVersion(version) => put(CLUSTER, CLUSTER_VERSION, version.as_bytes()),
        Record::Member { id, json } => put(MEMBERS, id.to_string().as_bytes(), json),
        Record::MemberGone(id) => put(MEMBERS_REMOVED, id.to_string().as_bytes(), REMOVED),
        Record::Alarm { stored } => put(ALARM, stored, &[]),
        Record::AuthConfig { enabled, revision } => {
            if let Some(enabled) = enabled {
                put(AUTH, AUTH_ENABLED, &[u8::from(*enabled)])?;
            }
            revision.map_or(Ok(()), |revision| put(AUTH, AUTH_REVISION, &revision.to_be_bytes()))
        }
        Record::User { stored } => put(AUTH_USERS, name_of(stored)?, stored),
        Record::Role { stored } => put(AUTH_ROLES, name_of(stored)?, stored),
        Record::Lease { stored } => put(LEASE, &lease_of(stored)?.0.to_be_bytes(), stored),
        Record::Revision(revision) => {
            put(KEY, RevisionKey::new(revision.rev, revision.tombstone).as_bytes(), revision.stored)
        }
        Record::AlarmGone { .. }
        | Record::UserGone(_)
        | Record::RoleGone(_)
        | Record::LeaseGone(_)
        | Record::Kept(_) => Err(Error::damaged("a record of a change cannot stand in a full snapshot")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(bucket: &[u8], key: &[u8], value: &[u8]) -> u32 {
        let record = record_of(bucket, key, value);
        let mut seen = vec![];
        entries(&record, &mut |bucket, key, value| {
            seen.push((bucket.to_vec(), key.to_vec(), value.to_vec()));
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, [(bucket.to_vec(), key.to_vec(), value.to_vec())]);
        record.number()
    }

    #[test]
    fn what_etcd_writes_becomes_its_record_and_goes_back() {
        let rev = RevisionKey::new(Rev { main: 900, sub: 0 }, false);
        assert_eq!(round_trip(META, SCHEDULED, rev.as_bytes()), 3);
        assert_eq!(round_trip(META, FINISHED, rev.as_bytes()), 3);
        assert_eq!(round_trip(CLUSTER, CLUSTER_VERSION, b"3.5.0"), 4);
        assert_eq!(round_trip(MEMBERS, b"8e9e05c52164694d", b"{}"), 5);
        assert_eq!(round_trip(MEMBERS_REMOVED, b"1f", b"removed"), 6);
        assert_eq!(round_trip(ALARM, b"\x08\x01\x10\x01", b""), 7);
        assert_eq!(round_trip(AUTH_USERS, b"bob", b"\x0a\x03bob"), 9);
        assert_eq!(round_trip(AUTH_ROLES, b"bob", b"\x0a\x03bob\x7a\x01x"), 11);
    }

    #[test]
    fn what_etcd_does_not_write_goes_back_as_it_is() {
        let mut odd = RevisionKey::new(Rev { main: 900, sub: 1 }, false).as_bytes().to_vec();
        assert_eq!(round_trip(META, SCHEDULED, &odd), 2);
        odd.push(0);
        assert_eq!(round_trip(META, FINISHED, &odd), 2);
        assert_eq!(round_trip(CLUSTER, CLUSTER_VERSION, b"\xff"), 2);
        assert_eq!(round_trip(MEMBERS, b"008e", b"{}"), 2);
        assert_eq!(round_trip(MEMBERS_REMOVED, b"1f", b"gone"), 2);
        assert_eq!(round_trip(ALARM, b"\x08\x01", b"x"), 2);
        assert_eq!(round_trip(AUTH_USERS, b"eve", b"\x0a\x03bob"), 2);
        assert_eq!(round_trip(b"future", b"", b""), 2);
    }

    #[test]
    fn the_authentication_switch_is_one_record() {
        let revision = 7_u64.to_be_bytes();
        let entries = [(AUTH_ENABLED, &[1][..]), (AUTH_REVISION, &revision[..]), (b"else", b"x")];
        let (record, rest) = auth_config_of(&entries);
        assert_eq!(record, Some(Record::AuthConfig { enabled: Some(true), revision: Some(7) }));
        assert_eq!(rest.len(), 1);
        assert_eq!(auth_config_of(&[(AUTH_ENABLED, &[2])]).0, None);
    }

    #[test]
    fn a_value_longer_than_a_record_is_an_error() {
        let key = RevisionKey::new(Rev { main: 5, sub: 0 }, false);
        // Key "k", then a value that fills the rest.
        let stored = |len: usize| {
            let mut stored = b"\x0a\x01k\x2a".to_vec();
            crate::snapshot::wire::put_varint(&mut stored, (len - 8) as u64);
            stored.resize(len, 0);
            stored
        };
        let longest = stored(STORED_BYTES_MAX);
        let revision = revision_of(key.as_bytes(), &longest).unwrap();
        let mut encoder = crate::snapshot::encode::Encoder::new();
        let format = crate::snapshot::record::FORMAT;
        encoder.put(&Record::Descriptor(crate::snapshot::record::Descriptor { format, ..Default::default() }));
        assert_eq!(encoder.put(&Record::Revision(revision)).unwrap().records, 1);
        let error = revision_of(key.as_bytes(), &stored(STORED_BYTES_MAX + 1)).unwrap_err();
        assert_eq!(error.kind(), Kind::Failed);
        assert!(lease_record_of(&[0; 8], &stored(STORED_BYTES_MAX + 1)).is_err());
    }

    #[test]
    fn history_and_leases_are_strict() {
        let key = RevisionKey::new(Rev { main: 5, sub: 2 }, true);
        let revision = revision_of(key.as_bytes(), b"\x0a\x01k").unwrap();
        assert_eq!((revision.rev, revision.tombstone), (Rev { main: 5, sub: 2 }, true));
        for wrong in [&b"short"[..], &[0; 17], &[0xff; 17], &[0; 19]] {
            assert!(revision_of(wrong, b"").is_err());
        }
        assert!(lease_record_of(&7_i64.to_be_bytes(), b"\x08\x07\x10\x3c").is_ok());
        assert!(lease_record_of(&8_i64.to_be_bytes(), b"\x08\x07\x10\x3c").is_err());
        assert!(lease_record_of(b"7", b"\x08\x07").is_err());
    }
}
