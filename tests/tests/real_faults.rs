//! Disks that really fail: full, over quota, read-only, broken, limited, not ours; under one of two torrents.
//!
//! The sick torrent stops and says why, the other one goes on in the same process, and once the cause is gone the sick one
//! ends with the right bytes. Needs root and loop devices; where they are missing each test prints why and ends.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use ccbt_fast::layout::Overrides;
use ccbt_fast::{AddOptions, Events, Preallocate, Received, Session, SessionEvent, Settings};
use ccbt_fast::{TorrentEvent, TorrentHandle};
use ccbt_tests::binary::ccbt_fast;
use ccbt_tests::ccbt::{CcbtCommand, test_shards, verified};
use ccbt_tests::confine::Confinement;
use ccbt_tests::lab::{Lab, Published};
use ccbt_tests::libtorrent::LibtorrentPeer;
use ccbt_tests::loopfs::{FsKind, FsSpec, LoopFs};
use ccbt_tests::payload::Payload;
use ccbt_tests::ports::free_port;
use ccbt_tests::process::{run, wait_until};
use ccbt_tests::raw_peer::{RawPeer, id};
use ccbt_tests::raw_seeder::{Manner, RawSeeder};
use ccbt_tests::torrent::TorrentSpec;
use ccbt_tests::{PATIENCE, SOON};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const PIECE: usize = 128 * KIB;

/// A torrent that nobody downloads yet, and who has its bytes.
struct Source {
    made: Published,
    seeder: RawSeeder,
}

impl Source {
    fn new(lab: &Lab, name: &str, len: usize, ip: Ipv4Addr) -> Self {
        let mut made = lab.announce(Payload::straddling(name, len), TorrentSpec::pieces_of(PIECE));
        let path = lab.path().join(format!("{name}.torrent"));
        fs::rename(&made.torrent_path, &path).expect("the lab is writable");
        made.torrent_path = path;
        // Slow enough that a test can step in between.
        let seeder = RawSeeder::start(ip, &made, Manner::slow(Duration::from_micros(500)));
        Self { made, seeder }
    }
}

/// Two torrents in one process: `sick` on the file system that fails, `well` beside it.
struct Pair {
    session: Session,
    events: Events,
    sick: TorrentHandle,
    well: TorrentHandle,
}

/// Everything of a test but the session, which may be started again.
struct Ward {
    sick: Source,
    well: Source,
    output: PathBuf,
    elsewhere: PathBuf,
    preallocate: Preallocate,
}

impl Ward {
    fn new(lab: &Lab, output: PathBuf, preallocate: Preallocate, octet: u8) -> Self {
        Self {
            sick: Source::new(lab, "sick", 24 * MIB, Ipv4Addr::new(127, 0, 21, octet)),
            well: Source::new(lab, "well", 2 * MIB, Ipv4Addr::new(127, 0, 22, octet)),
            output,
            elsewhere: lab.dir("elsewhere"),
            preallocate,
        }
    }

    fn start(&self) -> Pair {
        let bind = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let layout = Overrides { shards: test_shards(), ..Overrides::default() };
        let port = Some(free_port());
        let settings = Settings {
            bind: bind.map(Into::into),
            port,
            layout,
            memory_bytes: 64 * MIB,
            ..Settings::default()
        };
        let session = Session::start(&settings).expect("io_uring works here: all other tests need it");
        let events = session.events();
        let add = |source: &Source, output: &Path, peers| {
            let preallocate = self.preallocate;
            let options = AddOptions { peers, use_trackers: false, preallocate, ..AddOptions::new(output) };
            session.add_torrent(source.made.torrent_path.as_path(), options).expect("a good torrent")
        };
        let sick = add(&self.sick, &self.output, vec![self.sick.seeder.address()]);
        // Its peer is named later: it has everything before it.
        let well = add(&self.well, &self.elsewhere, Vec::new());
        Pair { session, events, sick, well }
    }

    /// The other torrent fetches everything now, while the sick one is stopped.
    fn well_goes_on(&self, pair: &Pair) {
        pair.session.add_peers(&pair.well, vec![self.well.seeder.address()]);
        pair.well.wait_finished(Some(PATIENCE)).expect("the other torrent goes on");
        self.well.made.payload.assert_equal_in(&self.elsewhere);
        let ended = pair.sick.wait_finished(Some(Duration::from_millis(1)));
        assert!(ended.is_err(), "the sick one cannot have ended");
    }

    /// What is on disk is at least what was told.
    fn nothing_false_is_claimed(&self, claimed: u64) {
        let report = verified(&self.sick.made.torrent_path, &self.output);
        let found = report["pieces_ok"].as_u64().expect("a count");
        assert!(found >= claimed, "{claimed} pieces were claimed, {found} are there");
    }

    fn is_whole(&self) {
        self.sick.made.payload.assert_equal_in(&self.output);
        let report = verified(&self.sick.made.torrent_path, &self.output);
        assert_eq!(report["complete"], true, "{report}");
    }
}

impl Pair {
    /// Waits until the sick torrent stops: what it says, and whether it tries again by itself.
    fn wait_failed(&self) -> (String, bool) {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            match self.events.recv_timeout(Duration::from_millis(100)) {
                Received::Event(SessionEvent::Torrent(key, TorrentEvent::Failed { message, retry })) => {
                    assert_eq!(key, self.sick.key(), "only the sick one stops: {message}");
                    return (message, retry);
                }
                Received::Event(SessionEvent::Torrent(key, event @ TorrentEvent::Finished)) => {
                    panic!("{key:?} {event:?} before it failed");
                }
                Received::Event(_) | Received::TimedOut => {}
                Received::Ended => panic!("the engine ended"),
            }
        }
        panic!("no failure within {PATIENCE:?}");
    }

    fn claimed(&self) -> u64 {
        self.sick.status().map_or(0, |status| u64::from(status.pieces_done))
    }

    fn stop(self) {
        self.session.shutdown(SOON).expect("it stops in time, sick disk or not");
    }
}

fn assert_names(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "{word:?} is named: {message}");
    }
}

/// The whole course for a cause that can be taken away under the running process.
fn stops_and_recovers(ward: &Ward, words: &[&str], cure: impl FnOnce()) {
    let pair = ward.start();
    let (message, retry) = pair.wait_failed();
    assert_names(&message, words);
    assert!(retry, "it will try again by itself: {message}");
    ward.well_goes_on(&pair);
    cure();
    pair.sick.wait_finished(Some(PATIENCE)).expect("it goes on by itself");
    pair.stop();
    ward.is_whole();
}

/// The same with a restart between the cure and the end; `cure` runs when no file is open any more. `disturb` makes the
/// cause appear, if it is not there yet, and tells how many pieces are on disk for good by then.
fn stops_and_is_restarted(
    ward: &Ward,
    words: &[&str],
    disturb: impl FnOnce(&Pair) -> Option<u64>,
    cure: impl FnOnce(),
) {
    let pair = ward.start();
    let durable = disturb(&pair);
    let (message, _) = pair.wait_failed();
    assert_names(&message, words);
    ward.well_goes_on(&pair);
    let claimed = durable.unwrap_or_else(|| pair.claimed());
    assert!(claimed > 0, "something was there before it failed");
    pair.stop();
    cure();
    ward.nothing_false_is_claimed(claimed);
    let again = ward.start();
    again.sick.wait_finished(Some(PATIENCE)).expect("it goes on after a restart");
    again.stop();
    ward.is_whole();
}

/// A file system with 10 MiB left, and the ballast that takes the rest.
fn nearly_full(lab: &Lab, kind: FsKind) -> Option<(LoopFs, PathBuf)> {
    let mounted = LoopFs::mount(lab, FsSpec::new(kind, 4096).size(96 << 20))?;
    let ballast = mounted.fill(10 << 20);
    Some((mounted, ballast))
}

fn full_disk(kind: FsKind, preallocate: Preallocate, octet: u8) {
    let lab = Lab::open();
    let Some((mounted, ballast)) = nearly_full(&lab, kind) else { return };
    let ward = Ward::new(&lab, mounted.dir("copy"), preallocate, octet);
    stops_and_recovers(&ward, &["space", "ballast.bin"], || fs::remove_file(&ballast).expect("it is there"));
}

#[test]
fn a_full_ext4_stops_a_sparse_download() {
    full_disk(FsKind::Ext4, Preallocate::Sparse, 1);
}

#[test]
fn a_full_ext4_refuses_to_reserve() {
    full_disk(FsKind::Ext4, Preallocate::Full, 2);
}

#[test]
fn a_full_tmpfs_stops_a_sparse_download() {
    full_disk(FsKind::Tmpfs, Preallocate::Sparse, 3);
}

#[test]
fn a_full_tmpfs_refuses_to_reserve() {
    full_disk(FsKind::Tmpfs, Preallocate::Full, 4);
}

#[test]
fn a_full_ext4_and_a_restart() {
    let lab = Lab::open();
    let Some((mounted, ballast)) = nearly_full(&lab, FsKind::Ext4) else { return };
    let ward = Ward::new(&lab, mounted.dir("copy"), Preallocate::None, 5);
    let cure = || fs::remove_file(&ballast).expect("it is there");
    stops_and_is_restarted(&ward, &["space"], |_| None, cure);
}

/// Runs `btrfs ARGS…`; the reason when the kernel or the program does not do it.
fn btrfs(args: &[&str], path: &Path) -> Result<(), String> {
    let (code, _, stderr) = run("btrfs", Command::new("btrfs").args(args).arg(path), SOON);
    if code == 0 { Ok(()) } else { Err(stderr) }
}

#[test]
fn a_used_up_quota() {
    let lab = Lab::open();
    let Some(mounted) = LoopFs::mount(&lab, FsSpec::new(FsKind::Btrfs, 512)) else { return };
    let output = mounted.path().join("copy");
    let set = btrfs(&["quota", "enable"], mounted.path())
        .and_then(|()| btrfs(&["subvolume", "create"], &output))
        .and_then(|()| btrfs(&["qgroup", "limit", "10M"], &output));
    if let Err(reason) = set {
        return eprintln!("skipped: no quota on btrfs here: {reason}");
    }
    let ward = Ward::new(&lab, output.clone(), Preallocate::Sparse, 6);
    stops_and_recovers(&ward, &["quota"], || {
        btrfs(&["qgroup", "limit", "none"], &output).expect("a limit can be lifted");
    });
}

/// ext4 without a journal, whose loss would make it read-only, with its metadata in front.
fn plain_ext4() -> FsSpec {
    FsSpec::new(FsKind::Ext4, 4096).size(64 << 20).mkfs(&["-O", "^has_journal,^resize_inode"])
}

#[test]
fn a_device_that_reports_io_errors() {
    let lab = Lab::open();
    let Some(mounted) = LoopFs::mount(&lab, plain_ext4()) else { return };
    let ward = Ward::new(&lab, mounted.dir("copy"), Preallocate::None, 7);
    // What lies behind 12 MiB cannot be written; nothing lies there yet.
    mounted.set_device_len(Some(12 << 20));
    stops_and_recovers(&ward, &["device"], || mounted.set_device_len(None));
}

/// Reads beyond the cut fail; whoever asks gets nothing wrong, what can be read is served, and others hear that a piece is
/// gone (BEP 54).
#[test]
fn a_seed_on_a_device_that_reports_io_errors() {
    let lab = Lab::open();
    let Some(mounted) = LoopFs::mount(&lab, plain_ext4()) else { return };
    let made = lab.announce(Payload::single("sick", 200 * PIECE), TorrentSpec::pieces_of(PIECE));
    let data = mounted.dir("data");
    made.payload.write_to(&data);
    mounted.sync();
    let mut ours = CcbtCommand::seed(&made.torrent_path, &data).start();
    ours.wait_ready();
    // Asks for what can be read, and not for long: after some failures a seed gives up.
    let mut libtorrent = LibtorrentPeer::start(&made.torrent_path, &lab.dir("theirs"));
    libtorrent.sequential();
    libtorrent.limit(32 << 10);
    libtorrent.connect(ours.address());
    ours.wait_progress("uploaded", 1);
    assert_eq!(libtorrent.pieces_of_peers(), [Vec::from_iter(0..200)]);
    mounted.set_device_len(Some(12 << 20));
    let whole = made.payload.concatenated();
    let right = |piece: usize, block: &[u8]| block == &whole[piece * PIECE..][..16_384];
    let connect = || {
        let mut peer = RawPeer::connect(ours.address());
        peer.handshake(made.torrent.info_hash());
        peer.become_unchoked().then_some(peer)
    };
    let mut peer = connect().expect("a seed unchokes who is interested");
    peer.send_words(id::REQUEST, &[199, 0, 16_384], &[]);
    peer.send_words(id::REQUEST, &[0, 0, 16_384], &[]);
    while let Some(message) = peer.wait_message(id::PIECE) {
        let piece = usize::try_from(message.word(0).expect("a PIECE names one")).expect("u32 fits");
        assert!(right(piece, &message.payload[8..]), "piece {piece} is as the torrent says");
        if piece == 0 {
            break;
        }
    }
    assert!(wait_until(SOON, "word of it", || ours.said(|line| line.contains("199")).then_some(true)));
    wait_until(SOON, "word of it to libtorrent", || {
        (libtorrent.pieces_of_peers() == [Vec::from_iter(0..199)]).then_some(())
    });
    let mut peer = connect().expect("the seed goes on");
    let block = peer.fetch(1, 0, 16_384).expect("what can be read is served");
    assert!(right(1, &block), "as the torrent says");
    ours.stop();
}

#[test]
fn a_device_that_cannot_grow() {
    let lab = Lab::open();
    let Some(backing) = LoopFs::mount(&lab, FsSpec::new(FsKind::Tmpfs, 0).size(12 << 20)) else { return };
    let Some(mounted) = LoopFs::mount_over(&lab, plain_ext4(), backing.path()) else { return };
    // A loop device takes a write that its file took in part for a success: so each write is one page.
    mounted.set_request_bytes_max(4096);
    let ward = Ward::new(&lab, mounted.dir("copy"), Preallocate::Sparse, 8);
    stops_and_recovers(&ward, &["cannot"], || backing.resize(200 << 20));
}

#[test]
fn a_file_system_that_turns_read_only() {
    let lab = Lab::open();
    let spec = FsSpec::new(FsKind::Ext4, 512).option("errors=remount-ro");
    let Some(mounted) = LoopFs::mount(&lab, spec) else { return };
    let ward = Ward::new(&lab, mounted.dir("copy"), Preallocate::Sparse, 9);
    let mounted = std::cell::RefCell::new(mounted);
    let disturb = |pair: &Pair| {
        let under_way = || (pair.claimed() >= 20).then_some(());
        wait_until(PATIENCE, "pieces before the disk breaks", under_way);
        // What was written before this survives the loss of the journal, as after a power cut.
        let durable = pair.claimed();
        mounted.borrow().sync();
        mounted.borrow().break_ext4();
        Some(durable)
    };
    stops_and_is_restarted(&ward, &["read-only"], disturb, || mounted.borrow_mut().remount_afresh());
}

// ---- limits and permissions, as the command line meets them

#[test]
fn a_file_size_limit() {
    let lab = Lab::open_on_disk();
    let source = Source::new(&lab, "sick", 8 * MIB, Ipv4Addr::new(127, 0, 21, 20));
    let copy = lab.dir("copy");
    for preallocate in ["none", "sparse"] {
        let copy = copy.join(preallocate);
        let start = |limit| {
            let confinement = Confinement::FileSize(limit);
            CcbtCommand::confined_download(confinement, &source.made.torrent_path, &copy)
                .peer(source.seeder.address())
                .option("--preallocate", preallocate)
                .start()
        };
        let mut ours = start(4 << 20);
        let error = ours.wait_event("error");
        let message = error["message"].as_str().expect("text");
        assert!(message.contains("ulimit -f") && message.contains("ballast.bin"), "{message}");
        if error["retry"] == true {
            let pid = Pid::from_raw(i32::try_from(ours.pid()).expect("a pid")).expect("not 0");
            let unlimited = Rlimit { current: None, maximum: None };
            prlimit(Some(pid), Resource::Fsize, unlimited).expect("our own child's limit can be raised");
            ours.wait_done();
        } else {
            let status = ours.wait_exit(SOON);
            assert_eq!(status.code(), Some(1), "it fails, and tells so");
            start(1 << 30).wait_done();
        }
        source.made.payload.assert_equal_in(&copy);
    }
}

/// A user without any rights.
const NOBODY: u32 = 65_534;

/// Whether the program can be run as [`NOBODY`] here: as root, and from a folder others may enter.
fn can_be_nobody() -> bool {
    if !rustix::process::getuid().is_root() {
        eprintln!("skipped: running as another user needs root");
        return false;
    }
    let (code, _, stderr) =
        run("nobody", Confinement::User(NOBODY).command(ccbt_fast()).arg("--version"), SOON);
    if code != 0 {
        eprintln!("skipped: user {NOBODY} cannot run {}: {}", ccbt_fast().display(), stderr.trim());
    }
    code == 0
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("root may");
}

#[test]
fn a_folder_that_is_not_writable() {
    let lab = Lab::open();
    if !can_be_nobody() {
        return;
    }
    chmod(lab.path(), 0o755);
    let source = Source::new(&lab, "sick", 2 * MIB, Ipv4Addr::new(127, 0, 21, 21));
    let copy = lab.dir("copy");
    let start = || {
        let confinement = Confinement::User(NOBODY);
        CcbtCommand::confined_download(confinement, &source.made.torrent_path, &copy)
            .peer(source.seeder.address())
            .start()
    };
    let refused = |path: &str| {
        let mut ours = start();
        let code = ours.wait_end_or_error();
        assert!(matches!(code, None | Some(1 | 2)), "a failure, not {code:?}");
        let words = ours.words();
        assert!(words.contains("ermission denied") && words.contains(path), "{words}");
        assert!(ours.events("finished").is_empty(), "it is not finished");
    };
    refused("copy");
    chown(&copy, Some(NOBODY), Some(NOBODY)).expect("root may");
    let mut ours = start();
    wait_until(PATIENCE, "some blocks", || (source.seeder.blocks() >= 32).then_some(()));
    ours.stop();
    let ballast = copy.join("sick/bulk/ballast.bin");
    chown(&ballast, Some(0), Some(0)).expect("root may");
    chmod(&ballast, 0o644);
    refused("ballast.bin");
    chown(&ballast, Some(NOBODY), Some(NOBODY)).expect("root may");
    start().wait_done();
    source.made.payload.assert_equal_in(&copy);
}
