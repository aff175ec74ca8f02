//! Randomness: the operating system's, for identifiers, and a small seeded generator for everything repeatable.

use crate::base::error::{Error, Kind, Result};

/// Fills `buffer` from the operating system's generator.
#[expect(clippy::disallowed_methods, reason = "this is the owner of randomness")]
pub fn fill(buffer: &mut [u8]) -> Result<()> {
    getrandom::fill(buffer).map_err(|error| {
        Error::new(Kind::Failed, "read random bytes from the operating system")
            .source(error)
            .hint("getrandom(2) must be allowed for this process")
    })
}

/// A repeatable generator (SplitMix64, Steele et al. 2014): sampling, jitter and tests; never for secrets.
#[derive(Clone, Debug)]
pub struct Seeded(u64);

impl Seeded {
    /// The generator that `seed` stands for.
    pub const fn new(seed: u64) -> Self {
        Seeded(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which must not be 0. The bias is below bound / 2^64.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "a number below 0 does not exist");
        let wide = u128::from(self.bits()) * u128::from(bound);
        u64::try_from(wide >> 64).expect("the high half of a 128-bit product fits in 64 bits")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_stays_below_the_bound() {
        let (mut a, mut b) = (Seeded::new(7), Seeded::new(7));
        for bound in 1..1000 {
            let x = a.below(bound);
            assert!(x < bound);
            assert_eq!(x, b.below(bound));
        }
    }
}
