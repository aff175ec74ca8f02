//! One event as the wire has it: `mvccpb.Event` in the field of a response, made around messages that are ready.
//!
//! A put is the message as it is stored, byte for byte. A deletion is the key and its revision alone.

use bytes::{BufMut, Bytes};

use crate::base::error::{Error, HINT_MEMBER_DAMAGED, Result};
use crate::base::revision::Rev;
use crate::store::mvcc::recent::Change;

/// Field 11 of `WatchResponse`, bytes.
const EVENTS: u8 = 11 << 3 | 2;
/// Field 1 of `Event`, a number; and the number of a deletion. A put is what is not said.
const DELETE: [u8; 2] = [1 << 3, 1];
/// Fields 2 and 3 of `Event`, bytes.
const KV: u8 = 2 << 3 | 2;
const PREV_KV: u8 = 3 << 3 | 2;
/// Fields of `KeyValue`: 1, bytes; 3, a number.
const KEY: u8 = 1 << 3 | 2;
const MOD_REVISION: u8 = 3 << 3;

/// The key in a stored message, which begins with it. A message of no bytes has a key of none: it is what etcdutl marks a
/// restored state with.
pub fn key(message: &[u8]) -> Option<&[u8]> {
    if message.is_empty() {
        return Some(message);
    }
    let (&KEY, mut rest) = message.split_first()? else { return None };
    let mut length = 0_usize;
    for shift in (0..32).step_by(7) {
        let (&byte, after) = rest.split_first()?;
        rest = after;
        length |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return rest.get(..length);
        }
    }
    None
}

/// The key of a change; damage when its message has none.
pub fn key_of(change: &Change) -> Result<&[u8]> {
    key(&change.message).ok_or_else(|| no_key(change.rev))
}

/// What is wrong with a revision whose message has no key.
pub fn no_key(rev: Rev) -> Error {
    Error::damaged(format!("revision {rev} of the state has no key")).hint(HINT_MEMBER_DAMAGED)
}

/// Bytes of an event in a response.
pub fn bytes(change: &Change, before: Option<&Bytes>) -> usize {
    let body = body_bytes(change, before);
    1 + varint_bytes(body) + body
}

/// Writes an event as a response holds it.
pub fn encode(change: &Change, before: Option<&Bytes>, to: &mut impl BufMut) {
    to.put_u8(EVENTS);
    varint(body_bytes(change, before), to);
    if change.tombstone {
        to.put_slice(&DELETE);
    }
    to.put_u8(KV);
    varint(kv_bytes(change), to);
    to.put_slice(&change.message);
    if change.tombstone {
        to.put_u8(MOD_REVISION);
        varint(main(change), to);
    }
    if let Some(before) = before {
        to.put_u8(PREV_KV);
        varint(before.len(), to);
        to.put_slice(before);
    }
}

fn body_bytes(change: &Change, before: Option<&Bytes>) -> usize {
    let kind = if change.tombstone { DELETE.len() } else { 0 };
    let field = |bytes: usize| 1 + varint_bytes(bytes) + bytes;
    kind + field(kv_bytes(change)) + before.map_or(0, |before| field(before.len()))
}

fn kv_bytes(change: &Change) -> usize {
    let revision = if change.tombstone { 1 + varint_bytes(main(change)) } else { 0 };
    change.message.len() + revision
}

fn main(change: &Change) -> usize {
    usize::try_from(change.rev.main).expect("a change has a positive revision")
}

fn varint_bytes(n: usize) -> usize {
    (n.max(1).ilog2() as usize) / 7 + 1
}

fn varint(mut n: usize, to: &mut impl BufMut) {
    while n >= 0x80 {
        to.put_u8(n.to_le_bytes()[0] | 0x80);
        n >>= 7;
    }
    to.put_u8(n.to_le_bytes()[0]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Message;
    use crate::api::etcdserverpb::WatchResponse;
    use crate::api::mvccpb::event::EventType;
    use crate::api::mvccpb::{Event, KeyValue};
    use crate::base::rng::Seeded;

    #[test]
    fn events_are_what_the_generated_code_writes() {
        let mut rng = Seeded::new(7);
        for _ in 0..3000 {
            let below = |rng: &mut Seeded, bits: u64| {
                let bits = rng.below(bits + 1);
                i64::try_from(rng.below(1 << bits)).unwrap()
            };
            let bytes = |rng: &mut Seeded| Bytes::from(vec![b'x'; usize::try_from(below(rng, 15)).unwrap()]);
            let (main, tombstone) = (1 + below(&mut rng, 62), rng.below(3) == 0);
            let key = Bytes::from([b"k", &*bytes(&mut rng)].concat());
            let kv = |rng: &mut Seeded, mod_revision| KeyValue {
                key: key.clone(),
                create_revision: below(rng, 62),
                mod_revision,
                version: below(rng, 20),
                value: bytes(rng),
                lease: below(rng, 62),
            };
            let prev_kv = (rng.below(2) == 0).then(|| kv(&mut rng, main - 1));
            let (stored, kv, kind) = if tombstone {
                let stored = KeyValue { key: key.clone(), ..KeyValue::default() };
                (stored.clone(), KeyValue { mod_revision: main, ..stored }, EventType::Delete)
            } else {
                let kv = kv(&mut rng, main);
                (kv.clone(), kv, EventType::Put)
            };
            let change = Change { rev: Rev::of(main), tombstone, message: stored.encode_to_vec().into() };
            assert_eq!(key_of(&change).unwrap(), key);
            let before = prev_kv.as_ref().map(|kv| Bytes::from(kv.encode_to_vec()));
            let mut made = vec![];
            encode(&change, before.as_ref(), &mut made);
            let event = Event { r#type: kind as i32, kv: Some(kv), prev_kv };
            let expected = WatchResponse { events: vec![event], ..WatchResponse::default() }.encode_to_vec();
            assert!(made == expected, "{change:?}");
            assert_eq!(super::bytes(&change, before.as_ref()), made.len());
        }
    }

    #[test]
    fn what_has_no_key_is_damage() {
        for message in [
            &[KEY][..],
            &[KEY, 2, b'a'],
            &[MOD_REVISION, 1],
            &[KEY, 0x80, 0x80],
            &[KEY, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        ] {
            assert_eq!(key(message), None, "{message:?}");
            let change = Change { rev: Rev::of(7), tombstone: false, message: Bytes::copy_from_slice(message) };
            let error = key_of(&change).unwrap_err();
            assert!(error.to_string().contains("revision 7/0") && error.hint_text().is_some(), "{error}");
        }
        assert_eq!(key(&[KEY, 1, b'a', 0x10]), Some(&b"a"[..]));
        assert_eq!(key(&[]), Some(&[][..]), "etcdutl's mark");
    }
}
