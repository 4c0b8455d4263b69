//! Seeds for everything random: each draw has its own generator, named by where it happens, so that results depend neither on
//! the number of threads nor on whether a run was interrupted.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// Mixes a seed with an index (SplitMix64, Steele et al. 2014), so that neighbours become unrelated.
pub fn mix(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A generator for the place `path` (stage, epoch, item …) under `seed`.
pub fn generator(seed: u64, path: &[u64]) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(path.iter().fold(seed, |seed, part| mix(seed, *part)))
}
