//! The vocabulary: one record is one fact of cluster state, borrowed from the bytes it was read from.
//!
//! `stored` fields hold a message byte for byte as etcd stores it. They are protobuf messages in the schema
//! (proto/holdfast/v1/records.proto) and opaque here, so that nothing an etcd version adds is lost on the way through.

use crate::base::digest::Sha256;
use crate::base::error::{Error, Result};
use crate::base::id::EtcdId;
pub use crate::base::revision::Rev;
use crate::snapshot::hash::StateDigest;
use crate::snapshot::wire;
use crate::snapshot::wire::Fields;

/// Version of the vocabulary that this program writes.
pub const FORMAT: u32 = 1;

/// The longest record that is read or written, in bytes. etcd's default limit for a request is 1.5 MiB.
pub const RECORD_BYTES_MAX: usize = 64 << 20;

/// The longest message as etcd stores it that fits in a record: room is left for the record's own fields.
pub const STORED_BYTES_MAX: usize = RECORD_BYTES_MAX - 128;

/// One fact of cluster state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// What the stream is a picture of. Always first.
    Descriptor(Descriptor<'a>),
    /// A bucket entry of an etcd file that Holdfast does not interpret, or the existence of a bucket.
    Extra(Extra<'a>),
    /// A compaction, scheduled or finished.
    Compacted(Compacted),
    /// The version the whole cluster has agreed on, for example `3.5.0`.
    ClusterVersion(&'a str),
    /// A member, as the JSON text that etcd stores.
    Member {
        /// The member's id.
        id: EtcdId,
        /// The JSON text.
        json: &'a [u8],
    },
    /// A member id that was removed and may not return.
    MemberGone(EtcdId),
    /// An alarm: `etcdserverpb.AlarmMember`.
    Alarm {
        /// The message's bytes.
        stored: &'a [u8],
    },
    /// An alarm that is over: `etcdserverpb.AlarmMember`.
    AlarmGone {
        /// The message's bytes.
        stored: &'a [u8],
    },
    /// Whether authentication is on, and the revision of its rules. `None`: etcd stored no such entry.
    AuthConfig {
        /// Whether authentication is on.
        enabled: Option<bool>,
        /// The revision of the rules.
        revision: Option<u64>,
    },
    /// A user: `authpb.User`.
    User {
        /// The message's bytes.
        stored: &'a [u8],
    },
    /// A user that was deleted.
    UserGone(&'a [u8]),
    /// A role: `authpb.Role`.
    Role {
        /// The message's bytes.
        stored: &'a [u8],
    },
    /// A role that was deleted.
    RoleGone(&'a [u8]),
    /// A lease: `leasepb.Lease`.
    Lease {
        /// The message's bytes.
        stored: &'a [u8],
    },
    /// A lease that was revoked or expired.
    LeaseGone(i64),
    /// When a revision was seen.
    Moment {
        /// The revision.
        revision: i64,
        /// Milliseconds since 1970 UTC.
        unix_ms: i64,
    },
    /// A key value at a revision, or the tombstone that ended it.
    Revision(Revision<'a>),
    /// Older revisions that are still there; only in an incremental stream.
    Kept(KeptRun<'a>),
    /// The last record; a stream without it is cut short.
    End(End),
}

impl Record<'_> {
    /// The record's field number in the schema.
    pub fn number(&self) -> u32 {
        match self {
            Record::Descriptor(_) => 1,
            Record::Extra(_) => 2,
            Record::Compacted(_) => 3,
            Record::ClusterVersion(_) => 4,
            Record::Member { .. } => 5,
            Record::MemberGone(_) => 6,
            Record::Alarm { .. } => 7,
            Record::AuthConfig { .. } => 8,
            Record::User { .. } => 9,
            Record::UserGone(_) => 10,
            Record::Role { .. } => 11,
            Record::RoleGone(_) => 12,
            Record::Lease { .. } => 13,
            Record::LeaseGone(_) => 14,
            Record::Moment { .. } => 15,
            Record::Revision(_) => 16,
            Record::End(_) => 17,
            Record::Kept(_) => 18,
            Record::AlarmGone { .. } => 19,
        }
    }

    /// The place of the record's kind in a stream: the order of the numbers, but for `Kept`, which stands right before
    /// the revisions, and for `AlarmGone`, which stands right behind the alarms.
    pub fn rank(&self) -> u32 {
        match self.number() {
            18 => 2 * 16 - 1,
            19 => 2 * 7 + 1,
            number => 2 * number,
        }
    }
}

/// What a stream is a picture of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor<'a> {
    /// Version of the vocabulary.
    pub format: u32,
    /// The cluster the records come from.
    pub cluster_id: EtcdId,
    /// The member the records come from.
    pub member_id: EtcdId,
    /// The greater of the last revision's main number and the compaction's; 1 for a store never written to.
    pub revision: i64,
    /// The compaction that shaped the state; 0 when there was none.
    pub compact_revision: i64,
    /// The raft term of the last applied entry; 0 when the file does not say.
    pub raft_term: u64,
    /// The raft index of the last applied entry; 0 when the file does not say.
    pub raft_index: u64,
    /// etcd's storage version, for example `3.6.0`; empty before 3.6.
    pub storage_version: &'a str,
    /// Page size of the file the records came from, in bytes; 0 when they came from no file.
    pub page_size: u32,
    /// The revision that an incremental stream follows; 0 in a full one.
    pub base_revision: i64,
    /// Whether an incremental stream lists the older revisions that are still there; otherwise all are.
    pub kept_listed: bool,
    /// Whether the stream is a step of one that goes on: only what became different since the base revision.
    pub is_live: bool,
    /// The branch of history that a Holdfast member was born on; none of an etcd.
    pub lineage: Option<Sha256>,
    /// The state digest of the moment as a Holdfast member keeps it; none of an etcd.
    pub state_digest: Option<StateDigest>,
}

/// A compaction: history before `revision` may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// The revision compacted to; it is itself still readable.
    pub revision: i64,
    /// False: scheduled. True: the removal has finished.
    pub finished: bool,
}

/// A bucket entry that Holdfast does not interpret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extra<'a> {
    /// The bucket's name.
    pub bucket: &'a [u8],
    /// The entry's key. `None`: the record only says that the bucket exists.
    pub key: Option<&'a [u8]>,
    /// The entry's value.
    pub value: &'a [u8],
    /// The bucket's sequence number, with the record that says that the bucket exists.
    pub sequence: u64,
}

/// A key value at a revision, or the tombstone that ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revision<'a> {
    /// When.
    pub rev: Rev,
    /// Whether the key was deleted.
    pub tombstone: bool,
    /// `mvccpb.KeyValue`, byte for byte; a tombstone holds the key only.
    pub stored: &'a [u8],
}

/// Older revisions that are still there, in ascending order. `kept` reads and writes the steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptRun<'a> {
    /// The first of them.
    pub first: Rev,
    /// The way from each to the next, as packed varints.
    pub steps: &'a [u8],
}

/// The last record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Records before this one.
    pub records: u64,
    /// CRC-32C over the bytes of all records before this one, lengths included.
    pub crc32c: u32,
}

/// A `mvccpb.KeyValue` read in place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyValue<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The revision the key came to life at.
    pub create_revision: i64,
    /// The revision of this version.
    pub mod_revision: i64,
    /// Changes since the key came to life, from 1.
    pub version: i64,
    /// The value.
    pub value: &'a [u8],
    /// The lease that owns the key; 0 for none.
    pub lease: i64,
}

impl<'a> KeyValue<'a> {
    /// The message as etcd stores it: fields in order, those of no value left out.
    pub fn to_stored(self) -> Vec<u8> {
        let mut stored = vec![];
        wire::put_bytes(&mut stored, 1, self.key);
        wire::put_number(&mut stored, 2, self.create_revision.cast_unsigned());
        wire::put_number(&mut stored, 3, self.mod_revision.cast_unsigned());
        wire::put_number(&mut stored, 4, self.version.cast_unsigned());
        wire::put_bytes(&mut stored, 5, self.value);
        wire::put_number(&mut stored, 6, self.lease.cast_unsigned());
        stored
    }

    /// Reads the message in `stored`.
    pub fn parse(stored: &'a [u8]) -> Result<Self> {
        let mut kv = KeyValue::default();
        for field in Fields::of(stored) {
            match field.map_err(|error| error.during("a key value cannot be read"))? {
                (1, field) => kv.key = field.bytes()?,
                (2, field) => kv.create_revision = field.signed()?,
                (3, field) => kv.mod_revision = field.signed()?,
                (4, field) => kv.version = field.signed()?,
                (5, field) => kv.value = field.bytes()?,
                (6, field) => kv.lease = field.signed()?,
                _ => {}
            }
        }
        Ok(kv)
    }
}

/// The key alone of a stored `mvccpb.KeyValue`, without reading the rest when the key comes first, as Go writes it.
pub fn key_of(stored: &[u8]) -> Result<&[u8]> {
    match Fields::of(stored).next() {
        Some(Ok((1, field))) => field.bytes(),
        _ => Ok(KeyValue::parse(stored)?.key),
    }
}

/// A lease's id and granted time to live in seconds, from a stored `leasepb.Lease`.
pub fn lease_of(stored: &[u8]) -> Result<(i64, i64)> {
    let (mut id, mut ttl_s) = (0, 0);
    for field in Fields::of(stored) {
        match field.map_err(|error| error.during("a lease cannot be read"))? {
            (1, field) => id = field.signed()?,
            (2, field) => ttl_s = field.signed()?,
            _ => {}
        }
    }
    Ok((id, ttl_s))
}

/// The seconds that a stored `leasepb.Lease` runs on for when its cluster starts anew: what was left of it where its leader
/// noted that, or all that was granted.
pub fn lease_runs_s(stored: &[u8]) -> Result<i64> {
    let (mut granted_s, mut left_s) = (0, 0);
    for field in Fields::of(stored) {
        match field.map_err(|error| error.during("a lease cannot be read"))? {
            (2, field) => granted_s = field.signed()?,
            (3, field) => left_s = field.signed()?,
            _ => {}
        }
    }
    Ok(if left_s > 0 { left_s } else { granted_s })
}

/// The name in a stored `authpb.User` or `authpb.Role` (field 1 of both).
pub fn name_of(stored: &[u8]) -> Result<&[u8]> {
    let mut name = &[][..];
    for field in Fields::of(stored) {
        if let (1, field) = field.map_err(|error| error.during("a user or role cannot be read"))? {
            name = field.bytes()?;
        }
    }
    Ok(name)
}

/// Checks that `stored` can be walked as a protobuf message.
pub(crate) fn check_message(stored: &[u8]) -> Result<()> {
    Fields::of(stored).try_for_each(|field| field.map(drop))
}

/// The error for a stored message that is not what its bucket promises.
pub(crate) fn foreign(what: &str) -> Error {
    Error::damaged(format!("{what} is not one that etcd writes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_value_is_read_in_place() {
        // As Go's protobuf writes key "foo", created 2, modified 3, version 2, value "bar", lease -1.
        let mut stored = b"\x0a\x03foo\x10\x02\x18\x03\x20\x02\x2a\x03bar\x30".to_vec();
        stored.extend([0xff; 9]);
        stored.push(1);
        let kv = KeyValue::parse(&stored).unwrap();
        assert_eq!((kv.key, kv.value), (&b"foo"[..], &b"bar"[..]));
        assert_eq!((kv.create_revision, kv.mod_revision, kv.version, kv.lease), (2, 3, 2, -1));
        assert_eq!(key_of(&stored).unwrap(), b"foo");
        assert_eq!(KeyValue::parse(b"").unwrap(), KeyValue::default());
        assert_eq!(key_of(b"").unwrap(), b"");
        for cut in 1..stored.len() {
            let _ = KeyValue::parse(&stored[..cut]);
            let _ = key_of(&stored[..cut]);
        }
        assert!(KeyValue::parse(b"\x0a\x09foo").is_err());
    }

    #[test]
    fn leases_and_names_are_read_in_place() {
        assert_eq!(lease_of(b"\x08\x07\x10\x3c").unwrap(), (7, 60));
        assert_eq!(name_of(b"\x0a\x04root\x12\x00").unwrap(), b"root");
        assert!(name_of(b"\x08\x01").is_err());
    }
}
