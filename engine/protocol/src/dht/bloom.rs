//! Sets of addresses that can be counted and united (BEP 33).

use std::net::IpAddr;

use sha1::{Digest, Sha1};

/// Bytes of a filter.
const LEN: usize = 256;
/// Bits of a filter.
const BITS: u32 = 8 * LEN as u32;

/// A bloom filter of 2048 bits with two hash functions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bloom(pub [u8; LEN]);

impl Default for Bloom {
    /// The empty set.
    fn default() -> Self {
        Self([0; LEN])
    }
}

impl Bloom {
    /// Adds an address.
    pub fn insert(&mut self, ip: IpAddr) {
        let hash = match ip {
            IpAddr::V4(ip) => Sha1::digest(ip.octets()),
            IpAddr::V6(ip) => Sha1::digest(ip.octets()),
        };
        for pair in [[hash[0], hash[1]], [hash[2], hash[3]]] {
            let bit = u32::from(u16::from_le_bytes(pair)) % BITS;
            self.0[bit as usize / 8] |= 1 << (bit % 8);
        }
    }

    /// Adds all of `other`.
    pub fn unite(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(byte, theirs)| *byte |= theirs);
    }

    /// How many addresses there are, as estimated; at most about 7000.
    pub fn estimate(&self) -> f64 {
        let zeros = self.0.iter().map(|byte| byte.count_zeros()).sum::<u32>();
        let (zeros, bits) = (f64::from(zeros.clamp(1, BITS)), f64::from(BITS));
        (zeros / bits).ln() / (2.0 * (1.0 - 1.0 / bits).ln())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_vector_of_bep_33() {
        let mut bloom = Bloom::default();
        assert_eq!(bloom.estimate(), 0.0);
        (0..=255).for_each(|last| bloom.insert(IpAddr::from([192, 0, 2, last])));
        (0..=0x3e7).for_each(|last| bloom.insert(IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last])));
        assert!((bloom.estimate() - 1224.9308).abs() < 0.001, "{}", bloom.estimate());
        assert_eq!(bloom.0[..8], [0xf6, 0xc3, 0xf5, 0xea, 0xa0, 0x7f, 0xfd, 0x91]);
        assert_eq!(bloom.0[248..], [0xfe, 0xee, 0x76, 0xb6, 0xfd, 0x8f, 0x72, 0xef]);
    }

    #[test]
    fn a_union_counts_each_once_and_a_full_one_is_finite() {
        let (mut a, mut b) = (Bloom::default(), Bloom::default());
        (0..100).for_each(|last| a.insert(IpAddr::from([10, 0, 0, last])));
        (50..150).for_each(|last| b.insert(IpAddr::from([10, 0, 0, last])));
        a.unite(&b);
        assert!((a.estimate() - 150.0).abs() < 15.0, "{}", a.estimate());
        assert!(Bloom([0xff; LEN]).estimate().is_finite());
    }
}
