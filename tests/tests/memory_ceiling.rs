//! The memory ceiling under hostile conditions: large pieces, two hundred connections, a slow disk, much more data than
//! memory; for download, seed, verify and create. The kernel keeps the limit where there are control groups.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use ccbt_tests::PATIENCE;
use ccbt_tests::binary::ccbt_fast;
use ccbt_tests::ccbt::{Ccbt, CcbtCommand};
use ccbt_tests::cgroup::Cgroup;
use ccbt_tests::confine::Confinement;
use ccbt_tests::lab::{Lab, Published};
use ccbt_tests::loopfs::{FsKind, FsSpec, LoopFs};
use ccbt_tests::payload::Payload;
use ccbt_tests::process::{run, wait_until};
use ccbt_tests::raw_peer::{RawPeer, id};
use ccbt_tests::raw_seeder::{Manner, RawSeeder};
use ccbt_tests::torrent::TorrentSpec;

const MIB: usize = 1 << 20;
const PIECE: usize = 16 * MIB;
/// What `--memory` says.
const CEILING_MIB: u64 = 64;
/// Program text, stacks, rings, two hundred peers and whatever else is no piece data.
const BESIDES_MIB: u64 = 64;
const BOUND: u64 = (CEILING_MIB + BESIDES_MIB) << 20;
/// More than four times the ceiling, and no multiple of anything.
const LEN: usize = 272 * MIB + 12_345;
const CONNECTIONS: u8 = 200;
/// Slower than loopback by far.
const WRITES_BYTES_PER_S: u64 = 24 << 20;
/// Reads for peers fetch whole extents, of which the crowd wants a part.
const READS_BYTES_PER_S: u64 = 128 << 20;

/// A slow disk and a bounded group of processes, where the machine has them.
struct Place {
    lab: Lab,
    mounted: Option<LoopFs>,
    group: Option<Cgroup>,
    is_slow: bool,
}

impl Place {
    fn open() -> Self {
        let lab = Lab::open();
        let mounted = LoopFs::mount(&lab, FsSpec::new(FsKind::Ext4, 4096).size(400 << 20));
        let group = Cgroup::open();
        let is_slow = match (&mounted, &group) {
            (Some(mounted), Some(group)) => {
                group.limit_device(&mounted.device_number(), READS_BYTES_PER_S, WRITES_BYTES_PER_S)
            }
            _ => false,
        };
        eprintln!("the disk is {}", if is_slow { "slow" } else { "as fast as it is" });
        Self { lab, mounted, group, is_slow }
    }

    fn dir(&self, name: &str) -> std::path::PathBuf {
        self.mounted.as_ref().map_or_else(|| self.lab.dir(name), |mounted| mounted.dir(name))
    }

    fn limit(&self) {
        if let Some(group) = &self.group {
            group.limit_memory(BOUND);
        }
    }

    fn command(&self, subcommand: &str, torrent: &Path, output: &Path, memory_mib: u64) -> CcbtCommand {
        let command = match (&self.group, subcommand) {
            (Some(group), "seed") => CcbtCommand::confined_seed(Confinement::Cgroup(group), torrent, output),
            (Some(group), _) => CcbtCommand::confined_download(Confinement::Cgroup(group), torrent, output),
            (None, "seed") => CcbtCommand::seed(torrent, output),
            (None, _) => CcbtCommand::download(torrent, output),
        };
        command.option("--memory", memory_mib.to_string()).option("--max-peers", "250")
    }

    /// A command that ends by itself, where more than the bound is not to be had.
    fn bounded(&self) -> Command {
        match &self.group {
            Some(group) => Confinement::Cgroup(group).command(ccbt_fast()),
            None => Confinement::Data(BOUND).command(ccbt_fast()),
        }
    }
}

fn crowd(made: &Published, octet: u8) -> Vec<RawSeeder> {
    (1..=CONNECTIONS)
        .map(|n| RawSeeder::start(Ipv4Addr::new(127, 0, octet, n), made, Manner::default()))
        .collect()
}

fn start_download(
    place: &Place,
    made: &Published,
    copy: &Path,
    memory_mib: u64,
    octet: u8,
) -> (Ccbt, Vec<RawSeeder>) {
    let command = place.command("download", &made.torrent_path, copy, memory_mib);
    let mut ours = command.option("--seed-time", "30").start();
    ours.wait_ready();
    let crowd = crowd(made, octet);
    crowd.iter().for_each(|seeder| seeder.dial(ours.address()));
    (ours, crowd)
}

fn assert_bounded(what: &str, ours: &Ccbt) {
    let peak = ours.peak_memory_bytes().expect("it still runs");
    eprintln!("{what}: at most {} MiB resident", peak >> 20);
    assert!(peak <= BOUND, "{what}: {peak} bytes resident with --memory {CEILING_MIB}");
}

/// One of a crowd of leechers: asks for far more than it reads, when it reads at all.
fn leech(address: SocketAddr, n: u8, info_hash: [u8; 20], over: &AtomicBool) {
    let ip = Ipv4Addr::new(127, 0, 25, n);
    let Ok(mut peer) = RawPeer::try_connect_from(ip, address) else { panic!("{ip} is not let in") };
    peer.handshake(info_hash);
    peer.send(id::INTERESTED, &[]);
    let mut next = u32::from(n);
    while !over.load(Ordering::Acquire) {
        if peer.has_data() && !n.is_multiple_of(2) {
            let Some(message) = peer.recv() else { return };
            if message.id != id::PIECE && message.id != id::UNCHOKE {
                continue;
            }
        } else {
            thread::sleep(ccbt_tests::process::POLL);
        }
        // Four in a row, then far away.
        next = next.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let piece = (next >> 8) % u32::try_from(LEN / PIECE).expect("few pieces");
        for block in (0..4).map(|step| (next >> 16) % 1020 + step) {
            if !peer.send_words(id::REQUEST, &[piece, block * 16_384, 16_384], &[]) {
                return;
            }
        }
    }
}

fn seed_to_a_crowd(place: &Place, made: &Published, copy: &Path) {
    let mut ours = place.command("seed", &made.torrent_path, copy, CEILING_MIB).start();
    ours.wait_ready();
    let (address, info_hash) = (ours.address(), made.torrent.info_hash());
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for n in 1..=CONNECTIONS {
            let over = &over;
            scope.spawn(move || leech(address, n, info_hash, over));
        }
        let sent = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            ours.wait_progress("uploaded", CEILING_MIB << 20);
        }));
        over.store(true, Ordering::Release);
        sent.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    assert_bounded("seed", &ours);
    ours.stop();
}

fn must(what: &str, command: &mut Command) {
    let (code, stdout, stderr) = run(what, command, PATIENCE);
    assert_eq!(code, 0, "{what} needs no more than {BOUND} bytes: {stdout}{stderr}");
}

#[test]
fn everything_stays_below_the_ceiling() {
    let place = Place::open();
    let made = place.lab.announce(Payload::single("large", LEN), TorrentSpec::pieces_of(PIECE));
    let copy = place.dir("copy");
    place.limit();
    let (mut ours, crowd) = start_download(&place, &made, &copy, CEILING_MIB, 23);
    ours.wait_event("finished");
    assert_bounded("download", &ours);
    ours.stop();
    drop(crowd);
    made.payload.assert_equal_in(&copy);
    seed_to_a_crowd(&place, &made, &copy);
    let mut verify = place.bounded();
    must("verify", verify.arg("verify").arg(&made.torrent_path).arg("--output").arg(&copy));
    let mut create = place.bounded();
    create.arg("create").arg(copy.join("large")).args(["--piece-size", "16M", "--output"]);
    must("create", create.arg(place.lab.path().join("created.torrent")));
    if let Some(group) = &place.group {
        assert_eq!(group.kills(), 0, "the kernel had to kill nothing");
    }
}

/// The same download with a ceiling out of reach goes past the bound: what holds it back is the ceiling, not the test.
#[test]
fn without_the_ceiling_the_same_download_takes_more() {
    let place = Place::open();
    if !place.is_slow {
        return eprintln!("skipped: needs a disk that can be slowed down");
    }
    let made = place.lab.announce(Payload::single("large", LEN), TorrentSpec::pieces_of(PIECE));
    let (ours, _crowd) = start_download(&place, &made, &place.dir("copy"), 1024, 24);
    wait_until(PATIENCE, "more memory than the bound", || {
        (ours.peak_memory_bytes().expect("it seeds for half an hour") > BOUND).then_some(())
    });
}
