//! IP filters: ranges of addresses that we have nothing to do with.
//!
//! Role: [`IpFilter`] answers whether an address is in a list; [`Builder`] makes one of list files ([`read`]: eMule DAT,
//! PeerGuardian text and P2B, CIDR). Pure. Owner: whoever has the `Arc`; each shard and network thread has one. Called for
//! each address that comes, and never for a block.
//!
//! Invariants: ranges are sorted and neither overlap nor touch, so a look-up is one binary search, for IPv4 among those
//! that share the first 16 bits. An IPv4 address counts as such in every disguise (`::ffff:a.b.c.d`).

mod line;
mod read;

use std::net::IpAddr;
use std::sync::Arc;

pub use line::{Line, LineError, parse_line};
pub use read::{BadLine, Reading, read};

/// IPv4 ranges at most, before they are merged: 64 MiB while a filter is built.
pub const V4_RANGES_MAX: usize = 8 << 20;
/// IPv6 ranges at most, before they are merged: 32 MiB.
pub const V6_RANGES_MAX: usize = 1 << 20;

/// First and last address of a range of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// IPv4.
    V4(u32, u32),
    /// IPv6.
    V6(u128, u128),
}

impl Range {
    /// From `first` to `last`, both included; `None` if they are of two families, or in the wrong order.
    pub fn new(first: IpAddr, last: IpAddr) -> Option<Self> {
        match (first.to_canonical(), last.to_canonical()) {
            (IpAddr::V4(first), IpAddr::V4(last)) if first <= last => {
                Some(Self::V4(first.into(), last.into()))
            }
            (IpAddr::V6(first), IpAddr::V6(last)) if first <= last => {
                Some(Self::V6(first.into(), last.into()))
            }
            _ => None,
        }
    }

    /// The addresses that have the first `prefix` bits of `ip`; `None` if it has not as many.
    pub fn cidr(ip: IpAddr, prefix: u8) -> Option<Self> {
        match ip {
            IpAddr::V4(ip) if prefix <= 32 => {
                let rest = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
                let ip = u32::from(ip);
                Some(Self::V4(ip & !rest, ip | rest))
            }
            IpAddr::V6(ip) if prefix <= 128 => {
                let rest = u128::MAX.checked_shr(prefix.into()).unwrap_or(0);
                let ip = u128::from(ip);
                // What is in ::ffff:0:0/96 is IPv4.
                Self::new(IpAddr::V6((ip & !rest).into()), IpAddr::V6((ip | rest).into()))
            }
            _ => None,
        }
    }
}

/// A set of addresses. Units of memory: 8 bytes per IPv4 range, 32 per IPv6 range, and 256 KiB.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IpFilter {
    v4: Box<[[u32; 2]]>,
    /// For each value of the first 16 bits how many ranges begin below it; empty without ranges.
    index: Box<[u32]>,
    v6: Box<[[u128; 2]]>,
}

impl IpFilter {
    /// Whether `ip` is in one of the ranges.
    #[inline]
    pub fn blocks(&self, ip: IpAddr) -> bool {
        match ip.to_canonical() {
            IpAddr::V4(ip) => self.blocks_v4(ip.into()),
            IpAddr::V6(ip) => {
                let (ip, ranges) = (u128::from(ip), &self.v6);
                let behind = ranges.partition_point(|range| range[0] <= ip);
                behind > 0 && ranges[behind - 1][1] >= ip
            }
        }
    }

    fn blocks_v4(&self, ip: u32) -> bool {
        let at = (ip >> 16) as usize;
        let (Some(&first), Some(&end)) = (self.index.get(at), self.index.get(at + 1)) else { return false };
        let (first, end) = (first as usize, end as usize);
        // The last range that begins at or below it, which may begin with other bits.
        let behind = first + self.v4[first..end].partition_point(|range| range[0] <= ip);
        behind > 0 && self.v4[behind - 1][1] >= ip
    }

    /// Ranges of both families, once merged.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Whether it has no range.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory.
    pub fn memory_bytes(&self) -> usize {
        size_of_val(&*self.v4) + size_of_val(&*self.index) + size_of_val(&*self.v6)
    }
}

/// A filter that may not be there.
pub type Shared = Option<Arc<IpFilter>>;

/// Whether `filter` has `ip`.
#[inline]
pub fn is_blocked(filter: &Shared, ip: IpAddr) -> bool {
    filter.as_ref().is_some_and(|filter| filter.blocks(ip))
}

/// There are more ranges than [`V4_RANGES_MAX`] or [`V6_RANGES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it has more than {V4_RANGES_MAX} IPv4 or {V6_RANGES_MAX} IPv6 ranges; take a shorter list")]
pub struct TooMany;

/// Collects ranges.
#[derive(Debug, Default)]
pub struct Builder {
    v4: Vec<[u32; 2]>,
    v6: Vec<[u128; 2]>,
}

impl Builder {
    /// Adds a range.
    pub fn add(&mut self, range: Range) -> Result<(), TooMany> {
        match range {
            Range::V4(first, last) => push(&mut self.v4, [first, last], V4_RANGES_MAX),
            Range::V6(first, last) => push(&mut self.v6, [first, last], V6_RANGES_MAX),
        }
    }

    /// The filter of all of them.
    pub fn build(self) -> IpFilter {
        let v4 = merged(self.v4, |last| last.checked_add(1));
        let v6 = merged(self.v6, |last| last.checked_add(1));
        IpFilter { index: index_of(&v4), v4, v6 }
    }
}

fn push<T: Copy + Ord>(ranges: &mut Vec<[T; 2]>, range: [T; 2], max: usize) -> Result<(), TooMany> {
    // Lists are sorted mostly: what continues the last range costs nothing.
    if let Some(before) = ranges.last_mut()
        && before[0] <= range[0]
        && range[0] <= before[1]
    {
        before[1] = before[1].max(range[1]);
        return Ok(());
    }
    if ranges.len() >= max {
        return Err(TooMany);
    }
    ranges.push(range);
    Ok(())
}

/// Sorts, and joins what overlaps or touches, in place.
fn merged<T: Copy + Ord>(mut ranges: Vec<[T; 2]>, next: impl Fn(T) -> Option<T>) -> Box<[[T; 2]]> {
    ranges.sort_unstable();
    ranges.dedup_by(|range, before| {
        let touches = next(before[1]).is_none_or(|next| range[0] <= next);
        if touches {
            before[1] = before[1].max(range[1]);
        }
        touches
    });
    ranges.into_boxed_slice()
}

fn index_of(v4: &[[u32; 2]]) -> Box<[u32]> {
    if v4.is_empty() {
        return Box::default();
    }
    let mut index = vec![0_u32; (1 << 16) + 1];
    for range in v4 {
        index[(range[0] >> 16) as usize + 1] += 1;
    }
    for at in 1..index.len() {
        index[at] += index[at - 1];
    }
    index.into_boxed_slice()
}

#[cfg(test)]
mod tests;
