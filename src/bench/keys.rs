//! Keys of one length and values of one length, made cheaply: digits written by hand, slices of one random block.

use bytes::Bytes;

use crate::base::rng::Seeded;

/// Digits of a key's number. 2^64 has twenty, which nobody writes.
const DIGITS: usize = 12;
/// The name of a run: eight hexadecimal digits.
const RUN_BYTES: usize = 8;
/// The shortest key: the prefix, the run, a slash, the digits.
pub(super) const KEY_BYTES_MIN: usize = super::PREFIX.len() + RUN_BYTES + 1 + DIGITS;
/// How many values of a run differ: slices begin at so many places.
const VALUES: usize = 4096;

/// The keys of a run: `/holdfast-bench/1f0c22ab/000000000042`, filled up in front of the digits.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    head: Vec<u8>,
    prefix_bytes: usize,
}

impl Keys {
    /// Those of `bytes` bytes of the run called `run`.
    pub(super) fn new(run: u32, bytes: usize) -> Self {
        let prefix = format!("{}{run:08x}/", super::PREFIX);
        let prefix_bytes = prefix.len();
        let mut head = prefix.into_bytes();
        head.resize(bytes.max(KEY_BYTES_MIN) - DIGITS, b'k');
        Keys { head, prefix_bytes }
    }

    /// What all of them, and everything else of the run, begin with.
    pub(super) fn prefix(&self) -> &str {
        std::str::from_utf8(&self.head[..self.prefix_bytes]).expect("hexadecimal digits and slashes")
    }

    /// The key with this number.
    pub(super) fn key(&self, number: u64) -> Bytes {
        let mut key = Vec::with_capacity(self.head.len() + DIGITS);
        key.extend_from_slice(&self.head);
        key.resize(self.head.len() + DIGITS, b'0');
        write_digits(&mut key, number);
        Bytes::from(key)
    }

    /// An object of the Kubernetes-like mix.
    pub(super) fn object(&self, namespace: usize, number: u64) -> Bytes {
        let mut key = self.namespace(namespace);
        key.extend_from_slice(b"pod-000000000000");
        write_digits(&mut key, number);
        Bytes::from(key)
    }

    /// What all objects of a namespace begin with.
    fn namespace(&self, namespace: usize) -> Vec<u8> {
        format!("{}ns-{namespace:05}/", self.objects()).into_bytes()
    }

    /// What all objects begin with.
    pub(super) fn objects(&self) -> String {
        format!("{}registry/pods/", self.prefix())
    }
}

/// Writes `number` over the zeros at the end of `key`.
fn write_digits(key: &mut [u8], mut number: u64) {
    for digit in key.iter_mut().rev().take(DIGITS) {
        *digit = b'0' + u8::try_from(number % 10).expect("below ten");
        number /= 10;
    }
}

/// The first key behind all that begin with `prefix`, which ends in a slash.
pub(super) fn end_of(prefix: &str) -> Bytes {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().expect("a prefix is not empty") += 1;
    Bytes::from(end)
}

/// Values of one length that do not compress.
#[derive(Clone, Debug)]
pub(super) struct Values {
    block: Bytes,
    bytes: usize,
}

impl Values {
    /// Those of `bytes` bytes that `seed` stands for.
    pub(super) fn new(bytes: usize, seed: u64) -> Self {
        let mut rng = Seeded::new(seed);
        let words = (bytes + VALUES).div_ceil(8);
        let block: Vec<u8> = (0..words).flat_map(|_| rng.bits().to_le_bytes()).collect();
        Values { block: Bytes::from(block), bytes }
    }

    /// One of them. Nothing is copied.
    pub(super) fn any(&self, rng: &mut Seeded) -> Bytes {
        let start = usize::try_from(rng.below(VALUES as u64)).expect("a few thousand");
        self.block.slice(start..start + self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_their_length_and_their_order() {
        for bytes in [KEY_BYTES_MIN, 48, 500] {
            let keys = Keys::new(0x1f, bytes);
            assert_eq!(keys.prefix(), "/holdfast-bench/0000001f/");
            let some = [0, 1, 9, 10, 99_999, 999_999_999_999].map(|number| keys.key(number));
            assert!(some.iter().all(|key| key.len() == bytes && key.starts_with(keys.prefix().as_bytes())));
            assert!(some.is_sorted() && some[5].ends_with(b"999999999999"));
            assert!(*some[5] < *end_of(keys.prefix()));
        }
        let object = Keys::new(7, 48).object(3, 42);
        assert_eq!(object, "/holdfast-bench/00000007/registry/pods/ns-00003/pod-000000000042");
    }

    #[test]
    fn a_seed_repeats_its_values() {
        let (mut a, mut b) = (Seeded::new(1), Seeded::new(1));
        let (ours, theirs) = (Values::new(256, 9), Values::new(256, 9));
        let some: Vec<Bytes> = (0..100).map(|_| ours.any(&mut a)).collect();
        assert!(some.iter().all(|value| value.len() == 256 && *value == theirs.any(&mut b)));
        assert!(some.iter().any(|value| *value != some[0]));
        assert_eq!(Values::new(0, 9).any(&mut a).len(), 0);
    }
}
