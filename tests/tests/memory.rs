//! The memory ceiling: what is resident at the worst moment, against `--memory`, and what a file costs besides.

use std::net::Ipv4Addr;

use ccbt_tests::ccbt::CcbtCommand;
use ccbt_tests::lab::Lab;
use ccbt_tests::payload::Payload;
use ccbt_tests::raw_seeder::{Manner, RawSeeder};
use ccbt_tests::torrent::TorrentSpec;

const MIB: usize = 1 << 20;
/// Program text, stacks, rings, peers and whatever else is no piece data.
const BESIDES_MIB: u64 = 64;

/// Downloads `len` bytes over four seeders and returns the most memory that was resident, in bytes.
fn peak(len: usize, piece_len: usize, memory_mib: u64, third_octet: u8) -> u64 {
    let lab = Lab::open_on_disk();
    let made = lab.announce(Payload::single("large", len), TorrentSpec::pieces_of(piece_len));
    let seeders = [1, 2, 3, 4]
        .map(|n| RawSeeder::start(Ipv4Addr::new(127, 0, third_octet, n), &made, Manner::default()));
    let copy = lab.dir("copy");
    let mut command = CcbtCommand::download(&made.torrent_path, &copy)
        .option("--memory", memory_mib.to_string())
        .option("--seed-time", "30");
    for seeder in &seeders {
        command = command.peer(seeder.address());
    }
    let mut ours = command.start();
    ours.wait_event("finished");
    let peak = ours.peak_memory_bytes().expect("it seeds for half an hour");
    ours.stop();
    made.payload.assert_equal_in(&copy);
    peak
}

#[test]
fn half_a_gigabyte_goes_through_64_mib() {
    let peak = peak(512 * MIB, 4 * MIB, 64, 9);
    eprintln!("peak: {} MiB", peak >> 20);
    assert!(peak <= (64 + BESIDES_MIB) << 20, "{peak} bytes resident with --memory 64");
}

#[test]
fn pieces_of_16_mib_fit_a_ceiling_of_32() {
    let peak = peak(160 * MIB + 1, 16 * MIB, 32, 10);
    eprintln!("peak: {} MiB", peak >> 20);
    assert!(peak <= (32 + BESIDES_MIB) << 20, "{peak} bytes resident with --memory 32");
}

/// Downloads `count` files of seven bytes and returns the most memory that was resident, in bytes.
fn peak_of_files(count: usize, last_octet: u8) -> u64 {
    let names: Vec<String> = (0..count).map(|n| format!("d{:03}/f{n:07}", n / 1000)).collect();
    let files: Vec<(&str, usize)> = names.iter().map(|name| (name.as_str(), 7)).collect();
    let lab = Lab::open();
    let made = lab.announce(Payload::tree("many", &files), TorrentSpec::pieces_of(256 << 10));
    let seeder = RawSeeder::start(Ipv4Addr::new(127, 0, 11, last_octet), &made, Manner::default());
    let copy = lab.dir("copy");
    let command = CcbtCommand::download(&made.torrent_path, &copy).option("--memory", "16");
    let mut ours = command.option("--seed-time", "30").peer(seeder.address()).start();
    ours.wait_event("finished");
    let peak = ours.peak_memory_bytes().expect("it seeds for half an hour");
    ours.stop();
    made.payload.assert_equal_in(&copy);
    peak
}

/// Bytes that each file costs above what a torrent of few costs.
fn assert_cost_of_files(count: usize, last_octet: u8) {
    const BYTES_MAX: u64 = 1000;
    let (few, many) = (peak_of_files(100, last_octet), peak_of_files(count, last_octet + 1));
    let each = many.saturating_sub(few) / count as u64;
    eprintln!("{count} files: {} MiB, {each} bytes each", many >> 20);
    assert!(each <= BYTES_MAX, "{each} bytes for each of {count} files");
}

#[test]
fn a_hundred_thousand_files_cost_little_memory() {
    assert_cost_of_files(100_000, 1);
}

/// `cargo test --workspace --release --test memory -- --ignored`
#[test]
#[ignore = "takes minutes, and two million inodes"]
fn a_million_files_cost_little_memory() {
    assert_cost_of_files(1_000_000, 3);
}
