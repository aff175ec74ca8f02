//! How facts of an etcd file that the store does not interpret lie in its side tables.
//!
//! An entry of a bucket: length of the bucket's name (u16, big-endian), the name, the entry's key. The existence of a bucket
//! that etcd does not have itself is the same without a key, told apart by one byte between.

use crate::base::error::{Error, HINT_MEMBER_DAMAGED, Result};
use crate::store::backend::{SideChange, Space};

const EXISTS: u8 = 0;
const ENTRY: u8 = 1;

/// The change that keeps an entry, or the existence of its bucket when there is no key. Bucket names are short.
pub fn extra(bucket: &[u8], key: Option<&[u8]>, value: &[u8]) -> Result<SideChange> {
    let length = u16::try_from(bucket.len())
        .map_err(|_| Error::damaged(format!("a bucket's name of {} bytes cannot be kept", bucket.len())))?;
    let (form, key) = key.map_or((EXISTS, &[][..]), |key| (ENTRY, key));
    let key = [&length.to_be_bytes()[..], bucket, &[form], key].concat();
    Ok(SideChange { space: Space::Extra, key, value: Some(value.to_vec()) })
}

/// The bucket, and the key of an entry in it; none for its existence.
pub fn extra_of(key: &[u8]) -> Result<(&[u8], Option<&[u8]>)> {
    let parts = || {
        let (length, rest) = key.split_first_chunk::<2>()?;
        let (bucket, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        match rest.split_first()? {
            (&EXISTS, []) => Some((bucket, None)),
            (&ENTRY, key) => Some((bucket, Some(key))),
            _ => None,
        }
    };
    parts().ok_or_else(|| {
        Error::damaged("the state is damaged: an entry that is kept for others cannot be read")
            .hint(HINT_MEMBER_DAMAGED)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_others_come_back() {
        for (bucket, key) in
            [(&b"future"[..], Some(&b"key"[..])), (b"future", Some(b"")), (b"future", None), (b"", None)]
        {
            let change = extra(bucket, key, b"value").unwrap();
            assert_eq!(extra_of(&change.key).unwrap(), (bucket, key));
            for cut in 0..change.key.len() {
                let _ = extra_of(&change.key[..cut]);
            }
        }
        assert!(extra(&vec![0; 70_000], None, b"").is_err());
        assert!(extra_of(b"\0\x01a\x02").is_err());
        assert!(extra_of(b"").is_err());
    }
}
