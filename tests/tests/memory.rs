//! The memory ceiling: what is resident at the worst moment, against `--memory`.

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
