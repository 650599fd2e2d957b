//! `ccbt-bench filter`: what a large IP filter costs.
//!
//! Role: makes a list in PeerGuardian's text form, reads it as the daemon does, and looks addresses up. Invariant: these
//! are addresses at random, and the ends of ranges, in an order that is no order of memory.

use std::fmt::Write as _;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Instant;

use ccbt_protocol::ipfilter::{Builder, read};
use clap::Args;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;

use crate::error::BenchError;

/// Options of `ccbt-bench filter`.
#[derive(Debug, Clone, Args)]
pub struct FilterArgs {
    /// Ranges in the list
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=4_000_000))]
    ranges: u32,
    /// Addresses that are looked up
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    lookups: u32,
    /// Also write everything to this file as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, Clone, Serialize)]
struct Figures {
    ranges: usize,
    list_bytes: usize,
    read_seconds: f64,
    memory_bytes: usize,
    ns_per_random_lookup: f64,
    random_blocked_percent: f64,
    ns_per_lookup_of_an_end: f64,
}

/// Ranges of 1 to 2000 addresses with gaps between, over all of IPv4.
fn list(ranges: u32, rng: &mut SmallRng) -> (String, Vec<u32>) {
    let step = u32::MAX / ranges;
    let mut ends = Vec::with_capacity(ranges as usize);
    let mut text = String::new();
    for nth in 0..ranges {
        let first = nth * step + rng.random_range(0..step / 4 + 1);
        let last = first + rng.random_range(0..(step / 2 + 1).min(2000));
        let (from, to) = (Ipv4Addr::from(first), Ipv4Addr::from(last));
        writeln!(text, "Some organisation, number {nth}:{from}-{to}").expect("it is memory");
        ends.push(if nth % 2 == 0 { first } else { last });
    }
    (text, ends)
}

fn ns_per_lookup(filter: &ccbt_protocol::ipfilter::IpFilter, asked: &[u32]) -> (f64, usize) {
    let started = Instant::now();
    let blocked = asked.iter().filter(|ip| filter.blocks(black_box(IpAddr::V4((**ip).into())))).count();
    (started.elapsed().as_nanos() as f64 / asked.len() as f64, blocked)
}

/// Runs the command.
pub fn run(args: &FilterArgs) -> Result<bool, BenchError> {
    let figures = measure(args.ranges, args.lookups as usize);
    println!(
        "{} ranges: list of {:.0} MB read in {:.2} s, {:.1} MB in memory; look-up {:.0} ns at random ({:.0} % blocked), \
         {:.0} ns for ends of ranges",
        figures.ranges,
        figures.list_bytes as f64 / 1e6,
        figures.read_seconds,
        figures.memory_bytes as f64 / 1e6,
        figures.ns_per_random_lookup,
        figures.random_blocked_percent,
        figures.ns_per_lookup_of_an_end
    );
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&figures).expect("numbers are JSON");
        std::fs::write(path, text + "\n").map_err(BenchError::file("write", path))?;
    }
    Ok(true)
}

fn measure(ranges: u32, lookups: usize) -> Figures {
    let mut rng = SmallRng::seed_from_u64(1);
    let (text, mut ends) = list(ranges, &mut rng);
    let started = Instant::now();
    let mut builder = Builder::default();
    read(&mut text.as_bytes(), &mut builder).expect("it is memory");
    let filter = builder.build();
    let read_seconds = started.elapsed().as_secs_f64();
    let random: Vec<u32> = (0..lookups).map(|_| rng.random()).collect();
    for at in (1..ends.len()).rev() {
        ends.swap(at, rng.random_range(0..=at));
    }
    let (ns_per_random_lookup, blocked) = ns_per_lookup(&filter, &random);
    let (ns_per_lookup_of_an_end, all) = ns_per_lookup(&filter, &ends);
    assert_eq!(all, ends.len(), "ends are in their ranges");
    Figures {
        ranges: filter.len(),
        list_bytes: text.len(),
        read_seconds,
        memory_bytes: filter.memory_bytes(),
        ns_per_random_lookup,
        random_blocked_percent: 100.0 * blocked as f64 / lookups as f64,
        ns_per_lookup_of_an_end,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_ranges_take_less_than_20_mb() {
        let figures = measure(1_000_000, 1000);
        assert!((900_000..=1_000_000).contains(&figures.ranges), "{figures:?}");
        assert!(figures.memory_bytes < 20_000_000, "{figures:?}");
    }
}
