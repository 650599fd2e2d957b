//! How reliable a peer is, and how good a connection with it: the one definition of both.
//!
//! Role: two numbers from 0 to 100 out of what was counted anyway. Pure. [`crate::candidates`] dials the reliable first.
//! [`crate::torrent`] fetches pieces anew from them, asks the unreliable ([`UNRELIABLE`]) for little at a time and not
//! for what others wait for, and names whose connection is given up first when there is no room; statuses show both.
//! Whoever was found to have lied is banned ([`crate::blame`]) and has no score.
//!
//! * *Reliability* is about the peer, over all its connections: of what was expected of it, the part that it did. A block
//!   counts for it; a failure costs as many blocks as it cost us ([`Record`]). It begins at 50, since nothing is known, and
//!   old facts fade as new ones come in.
//! * *Quality* is about the connection: half of it what flows (10 for each doubling from 1 KiB/s to 1 MiB/s and on to
//!   100, whichever direction is faster), four tenths the reliability, one tenth the round trip.
//!
//! Invariants: both stay within 0..=100; more blocks, a higher rate and a shorter round trip never lower them, more
//! failures never raise them.

use std::time::Duration;

/// A less reliable peer is unreliable: of what it was asked for more than two thirds did not come.
pub const UNRELIABLE: u8 = 30;
/// What nobody knows anything of is worth, and how many blocks that opinion weighs.
const PRIOR_BLOCKS: u64 = 8;
/// Blocks that one failure of each kind costs.
const SNUB_COST: u64 = 16;
const TIMEOUT_COST: u64 = 1;
const REJECT_COST: u64 = 1;
const SUSPICION_COST: u64 = 32;
const CONNECT_FAILURE_COST: u64 = 4;
/// A record with more than so many blocks and costs is halved: the past fades.
const WEIGHT_MAX: u64 = 4096;
/// Rates at which quality begins to count and is full, as powers of two: 1 KiB/s and 1 MiB/s of payload.
const RATE_BITS: (u32, u32) = (10, 20);
/// Round trips of full and of no value.
const ROUND_TRIPS: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));

/// What a peer did of what was expected of it (counts).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Blocks that it sent when asked.
    pub blocks: u32,
    /// Times that it owed blocks for too long.
    pub snubs: u32,
    /// Requests that were given up then.
    pub timeouts: u32,
    /// Requests that it rejected although it served us (BEP 6).
    pub rejects: u32,
    /// Pieces that failed their hash to which it and others had sent blocks.
    pub suspicions: u32,
    /// Connections that did not come about, or over which nothing went.
    pub connect_failures: u32,
}

impl Record {
    fn costs(&self) -> u64 {
        let costs = [
            (self.snubs, SNUB_COST),
            (self.timeouts, TIMEOUT_COST),
            (self.rejects, REJECT_COST),
            (self.suspicions, SUSPICION_COST),
            (self.connect_failures, CONNECT_FAILURE_COST),
        ];
        costs.into_iter().map(|(count, cost)| u64::from(count) * cost).sum()
    }

    /// This and what came after it, faded to a bounded weight.
    #[must_use]
    pub fn and(self, later: Self) -> Self {
        let mut sum = Self {
            blocks: self.blocks.saturating_add(later.blocks),
            snubs: self.snubs.saturating_add(later.snubs),
            timeouts: self.timeouts.saturating_add(later.timeouts),
            rejects: self.rejects.saturating_add(later.rejects),
            suspicions: self.suspicions.saturating_add(later.suspicions),
            connect_failures: self.connect_failures.saturating_add(later.connect_failures),
        };
        while u64::from(sum.blocks) + sum.costs() > WEIGHT_MAX {
            for count in [
                &mut sum.blocks,
                &mut sum.snubs,
                &mut sum.timeouts,
                &mut sum.rejects,
                &mut sum.suspicions,
                &mut sum.connect_failures,
            ] {
                *count /= 2;
            }
        }
        sum
    }

    /// How reliable the peer is: 0..=100, 50 when nothing is known.
    pub fn reliability(&self) -> u8 {
        let good = u64::from(self.blocks) + PRIOR_BLOCKS;
        (100 * good / (good + PRIOR_BLOCKS + self.costs())) as u8
    }
}

/// What a connection does now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Payload bytes per second from the peer.
    pub down_rate: u64,
    /// Payload bytes per second to it.
    pub up_rate: u64,
    /// From a request to its block while no others wait, once measured.
    pub round_trip: Option<Duration>,
}

/// Both scores, each 0..=100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Score {
    /// See [`Record::reliability`].
    pub reliability: u8,
    /// How good the connection is.
    pub quality: u8,
}

impl Score {
    /// Of a peer with this record and connection.
    pub fn new(record: &Record, flow: &Flow) -> Self {
        let reliability = record.reliability();
        let rate = rate_value(flow.down_rate.max(flow.up_rate));
        let quality = rate / 2 + u32::from(reliability) * 2 / 5 + round_trip_value(flow.round_trip);
        Self { reliability, quality: quality as u8 }
    }
}

/// 0..=100.
fn rate_value(rate: u64) -> u32 {
    let (low, high) = RATE_BITS;
    let bits = (u64::BITS - rate.leading_zeros()).clamp(low, high + 1) - low;
    (bits * 10).min(100)
}

/// 0..=10; unknown is in the middle.
fn round_trip_value(round_trip: Option<Duration>) -> u32 {
    let (short, long) = ROUND_TRIPS;
    let Some(round_trip) = round_trip else { return 5 };
    let beyond = round_trip.clamp(short, long) - short;
    10 - (10 * beyond.as_millis() / (long - short).as_millis()) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(record: Record, flow: Flow) -> Score {
        Score::new(&record, &flow)
    }

    #[test]
    fn the_unknown_is_in_the_middle_and_facts_move_it() {
        assert_eq!(Record::default().reliability(), 50);
        assert_eq!(Record { blocks: 1000, ..Record::default() }.reliability(), 99);
        assert_eq!(Record { connect_failures: 1, ..Record::default() }.reliability(), 40);
        assert_eq!(Record { snubs: 3, timeouts: 40, ..Record::default() }.reliability(), 7);
        let mixed = Record { blocks: 200, suspicions: 1, ..Record::default() };
        assert_eq!(mixed.reliability(), 83, "one suspicion does not outweigh what is good");
    }

    #[test]
    fn quality_is_what_flows_then_trust_then_the_way() {
        let good = Record { blocks: 4000, ..Record::default() };
        let fast = Flow { down_rate: 2 << 20, up_rate: 0, round_trip: Some(Duration::from_millis(5)) };
        assert_eq!(of(good, fast), Score { reliability: 99, quality: 99 });
        assert_eq!(of(Record::default(), Flow::default()).quality, 25);
        let seeding = Flow { up_rate: 32 << 10, ..Flow::default() };
        assert_eq!(of(Record::default(), seeding).quality, 55, "serving counts as much as being served");
        let far = Flow { round_trip: Some(Duration::from_secs(9)), ..fast };
        assert_eq!(of(good, far).quality, 89);
    }

    #[test]
    fn the_past_fades() {
        let bad = Record { snubs: 50, timeouts: 3000, ..Record::default() };
        let better = (0..8).fold(bad, |sum, _| sum.and(Record { blocks: 2000, ..Record::default() }));
        assert!(better.reliability() > 95, "{better:?}");
    }

    prop_compose! {
        fn records()(counts in prop::array::uniform6(prop_oneof![0u32..50, any::<u32>()])) -> Record {
            let [blocks, snubs, timeouts, rejects, suspicions, connect_failures] = counts;
            Record { blocks, snubs, timeouts, rejects, suspicions, connect_failures }
        }
    }

    prop_compose! {
        fn flows()(down_rate: u64, up_rate in 0u64..1 << 22, millis in prop::option::of(0u64..5000)) -> Flow {
            Flow { down_rate, up_rate, round_trip: millis.map(Duration::from_millis) }
        }
    }

    proptest! {
        #[test]
        fn scores_are_bounded_and_monotone(record in records(), flow in flows(), more in 1u32..1000, which in 0usize..6) {
            let score = of(record, flow);
            prop_assert!(score.reliability <= 100 && score.quality <= 100);
            let mut other = record;
            let count = [
                &mut other.blocks, &mut other.snubs, &mut other.timeouts, &mut other.rejects, &mut other.suspicions,
                &mut other.connect_failures,
            ][which..].first_mut().map(|count| { **count = count.saturating_add(more); });
            prop_assert!(count.is_some());
            let changed = of(other, flow);
            if which == 0 {
                prop_assert!(changed.reliability >= score.reliability && changed.quality >= score.quality);
            } else {
                prop_assert!(changed.reliability <= score.reliability && changed.quality <= score.quality);
            }
            let faster = Flow { down_rate: flow.down_rate.saturating_add(u64::from(more)), ..flow };
            prop_assert!(of(record, faster).quality >= score.quality);
            let nearer = Flow { round_trip: flow.round_trip.map(|rtt| rtt / 2), ..flow };
            prop_assert!(of(record, nearer).quality >= score.quality);
        }

        #[test]
        fn sums_stay_small_and_keep_the_sign(one in records(), two in records()) {
            let sum = one.and(two);
            prop_assert!(u64::from(sum.blocks) + sum.costs() <= WEIGHT_MAX);
            // Halving rounds down, so a small lead may be lost, and a verdict never turns round.
            let (a, b, c) = (one.reliability(), two.reliability(), sum.reliability());
            if a > 90 && b > 90 { prop_assert!(c >= 50, "{} {} {}", a, b, c); }
            if a < 10 && b < 10 { prop_assert!(c <= 51, "{} {} {}", a, b, c); }
        }
    }
}
