//! The protobuf wire format over borrowed slices: tags, varints and length-delimited fields, read without copying.
//!
//! Records must keep etcd's stored bytes exactly, unknown fields included, and are read by the million; so they are
//! walked in place instead of being decoded into messages. The rules are those of the protobuf encoding guide: a varint
//! has at most 10 bytes, a tag is (field number << 3) | wire type, groups are not used by etcd and are refused.

use crate::base::error::{Error, Result};

/// Wire type of a varint.
pub(crate) const VARINT: u8 = 0;
/// Wire type of a 64-bit number.
const FIXED64: u8 = 1;
/// Wire type of bytes, strings and messages.
pub(crate) const BYTES: u8 = 2;
/// Wire type of a 32-bit number.
pub(crate) const FIXED32: u8 = 5;

/// The longest encoding of a 64-bit varint.
pub(crate) const VARINT_BYTES_MAX: usize = 10;

/// One field of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field<'a> {
    /// A number, a bool or an enum.
    Varint(u64),
    /// Bytes, a string or a message.
    Bytes(&'a [u8]),
    /// A `fixed32`.
    Fixed32(u32),
    /// A `fixed64`.
    Fixed64(u64),
}

impl<'a> Field<'a> {
    /// The value of a varint field; other wire types are damage.
    pub(crate) fn number(self) -> Result<u64> {
        match self {
            Field::Varint(n) => Ok(n),
            _ => Err(Error::damaged("a number is stored as something else")),
        }
    }

    /// The value of a signed 64-bit field (two's complement, as `int64` is encoded).
    pub(crate) fn signed(self) -> Result<i64> {
        Ok(self.number()?.cast_signed())
    }

    /// The bytes of a length-delimited field.
    pub(crate) fn bytes(self) -> Result<&'a [u8]> {
        match self {
            Field::Bytes(bytes) => Ok(bytes),
            _ => Err(Error::damaged("bytes are stored as something else")),
        }
    }
}

/// Walks the fields of one message.
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// The fields of the message in `bytes`.
    pub(crate) fn of(bytes: &'a [u8]) -> Self {
        Fields { rest: bytes }
    }

    fn field(&mut self) -> Result<(u32, Field<'a>)> {
        let tag = take_varint(&mut self.rest)?;
        let number = u32::try_from(tag >> 3).ok().filter(|n| (1..1 << 29).contains(n));
        let number = number.ok_or_else(|| Error::damaged("a field number is out of range"))?;
        let wire_type = u8::try_from(tag & 7).expect("three bits fit in a byte");
        let field = match wire_type {
            VARINT => Field::Varint(take_varint(&mut self.rest)?),
            BYTES => {
                let len = take_varint(&mut self.rest)?;
                Field::Bytes(take(&mut self.rest, len)?)
            }
            FIXED32 => Field::Fixed32(u32::from_le_bytes(take(&mut self.rest, 4)?.try_into().expect("4 bytes"))),
            FIXED64 => Field::Fixed64(u64::from_le_bytes(take(&mut self.rest, 8)?.try_into().expect("8 bytes"))),
            other => return Err(Error::damaged(format!("wire type {other} is not used by etcd"))),
        };
        Ok((number, field))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Field<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

fn take<'a>(rest: &mut &'a [u8], len: u64) -> Result<&'a [u8]> {
    let split = usize::try_from(len).ok().and_then(|len| rest.split_at_checked(len));
    let (taken, after) = split.ok_or_else(|| Error::damaged("a field is longer than the message that holds it"))?;
    *rest = after;
    Ok(taken)
}

/// Reads a varint off the front of `rest`.
pub(crate) fn take_varint(rest: &mut &[u8]) -> Result<u64> {
    // One byte is by far the most common case.
    if let [first @ 0..=0x7f, after @ ..] = *rest {
        *rest = after;
        return Ok(u64::from(*first));
    }
    let mut value = 0;
    for (i, byte) in rest.iter().take(VARINT_BYTES_MAX).enumerate() {
        // The tenth byte carries bit 63 only.
        if i == VARINT_BYTES_MAX - 1 && *byte > 1 {
            return Err(Error::damaged("a varint does not fit in 64 bits"));
        }
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            *rest = &rest[i + 1..];
            return Ok(value);
        }
    }
    Err(Error::damaged("a varint is cut short"))
}

/// The number of bytes `put_varint` appends.
pub(crate) fn varint_len(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros();
    usize::try_from(bits.div_ceil(7)).expect("at most 10")
}

/// Appends a varint.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).expect("seven bits") | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).expect("seven bits"));
}

/// Appends a varint field unless it has proto3's default value.
pub(crate) fn put_number(out: &mut Vec<u8>, number: u32, value: u64) {
    if value != 0 {
        put_varint(out, u64::from(number) << 3 | u64::from(VARINT));
        put_varint(out, value);
    }
}

/// Appends a length-delimited field unless it is empty.
pub(crate) fn put_bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    if !value.is_empty() {
        put_message(out, number, value);
    }
}

/// Appends a length-delimited field, empty or not: a message that is present.
pub(crate) fn put_message(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    put_varint(out, u64::from(number) << 3 | u64::from(BYTES));
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_round_trip_and_count_their_bytes() {
        for shift in 0..64 {
            for value in [1_u64 << shift, (1_u64 << shift).wrapping_sub(1), u64::MAX >> shift] {
                let mut out = vec![];
                put_varint(&mut out, value);
                assert_eq!(out.len(), varint_len(value));
                let mut rest = &out[..];
                assert_eq!(take_varint(&mut rest).unwrap(), value);
                assert!(rest.is_empty());
                for cut in 0..out.len() {
                    assert!(take_varint(&mut &out[..cut]).is_err());
                }
            }
        }
    }

    #[test]
    fn overlong_numbers_and_lengths_are_damage() {
        assert!(take_varint(&mut &[0xff; 11][..]).is_err());
        assert!(take_varint(&mut &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02][..]).is_err());
        for message in [&[0x0a, 0x05, 1][..], &[0x00, 0x00], &[0x0b], &[0x0d, 1, 2], &[0x09, 1]] {
            assert!(Fields::of(message).any(|field| field.is_err()), "{message:?}");
        }
    }

    #[test]
    fn every_wire_type_is_walked() {
        let mut message = vec![];
        put_number(&mut message, 1, u64::MAX);
        put_bytes(&mut message, 2, b"key");
        message.extend([0x1d, 1, 0, 0, 0, 0x21, 2, 0, 0, 0, 0, 0, 0, 0]);
        put_number(&mut message, 5, 0);
        let fields: Vec<_> = Fields::of(&message).map(Result::unwrap).collect();
        let expected =
            [(1, Field::Varint(u64::MAX)), (2, Field::Bytes(b"key")), (3, Field::Fixed32(1)), (4, Field::Fixed64(2))];
        assert_eq!(fields, expected);
        assert_eq!(fields[0].1.signed().unwrap(), -1);
        assert!(fields[0].1.bytes().is_err() && fields[1].1.number().is_err());
    }
}
