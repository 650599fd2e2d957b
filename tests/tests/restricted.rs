//! Machines that withhold something: io_uring forbidden or unknown, hardly any lockable memory, a port that is taken.

use std::net::{Ipv4Addr, TcpListener};

use ccbt_tests::PATIENCE;
use ccbt_tests::ccbt::{Ccbt, CcbtCommand};
use ccbt_tests::confine::Confinement;
use ccbt_tests::lab::Lab;
use ccbt_tests::payload::Payload;
use ccbt_tests::raw_seeder::{Manner, RawSeeder};
use ccbt_tests::torrent::TorrentSpec;

const MIB: usize = 1 << 20;
/// The machine lacks what the engine stands on.
const UNAVAILABLE: i32 = 3;
const EPERM: u8 = 1;
const ENOSYS: u8 = 38;

/// Ends with 3 and a message that contains one of `names`.
fn assert_unavailable(mut ours: Ccbt, names: &[&str]) {
    let status = ours.wait_exit(PATIENCE);
    let words = ours.words();
    assert_eq!(status.code(), Some(UNAVAILABLE), "{words}");
    assert!(words.contains("io_uring"), "it says what is missing: {words}");
    assert!(
        names.iter().any(|name| words.contains(name)),
        "it says what to change, one of {names:?}: {words}"
    );
    assert!(!words.contains("panicked"), "no panic: {words}");
}

#[test]
fn without_io_uring_it_says_what_to_change() {
    let lab = Lab::open();
    let made = lab.announce(Payload::single("file", MIB), TorrentSpec::pieces_of(MIB / 8));
    let copy = lab.dir("copy");
    let start = |errno| {
        let confinement = Confinement::NoIoUring(errno);
        CcbtCommand::confined_download(confinement, &made.torrent_path, &copy).start()
    };
    assert_unavailable(start(EPERM), &["kernel.io_uring_disabled", "seccomp"]);
    assert_unavailable(start(ENOSYS), &["kernel"]);
}

#[test]
fn with_little_lockable_memory_it_works_or_names_the_ulimit() {
    let lab = Lab::open();
    let made = lab.announce(Payload::straddling("tree", 2 * MIB), TorrentSpec::pieces_of(MIB / 8));
    let seeder = RawSeeder::start(Ipv4Addr::new(127, 0, 13, 1), &made, Manner::default());
    for bytes in [0, 64 << 10, 1 << 20] {
        let copy = lab.dir(&format!("copy{bytes}"));
        let confinement = Confinement::Memlock(bytes);
        let command = CcbtCommand::confined_download(confinement, &made.torrent_path, &copy);
        let mut ours = command.peer(seeder.address()).start();
        let status = ours.wait_exit(PATIENCE);
        let words = ours.words();
        match status.code() {
            Some(0) => made.payload.assert_equal_in(&copy),
            Some(UNAVAILABLE) => {
                let named = ["memlock", "ulimit", "RLIMIT_MEMLOCK"].iter().any(|name| words.contains(name));
                assert!(named, "it names the limit: {words}");
            }
            other => panic!("with {bytes} lockable bytes it ended with {other:?}: {words}"),
        }
        assert!(!words.contains("panicked"), "no panic: {words}");
    }
}

#[test]
fn with_few_file_descriptors_a_torrent_of_many_files_still_completes() {
    let lab = Lab::open();
    let names: Vec<String> = (0..200).map(|n| format!("d{}/f{n}", n % 9)).collect();
    let files: Vec<(&str, usize)> = names.iter().map(|name| (name.as_str(), 9_000)).collect();
    let made = lab.announce(Payload::tree("many", &files), TorrentSpec::pieces_of(MIB / 16));
    let seeder = RawSeeder::start(Ipv4Addr::new(127, 0, 13, 2), &made, Manner::default());
    let copy = lab.dir("copy");
    let confinement = Confinement::OpenFiles(128);
    let command = CcbtCommand::confined_download(confinement, &made.torrent_path, &copy);
    command.peer(seeder.address()).start().wait_done();
    made.payload.assert_equal_in(&copy);
}

#[test]
fn a_port_that_is_taken_is_a_clear_error() {
    let lab = Lab::open();
    let made = lab.publish(Payload::single("file", MIB), TorrentSpec::pieces_of(MIB / 8));
    let squatter = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    let port = squatter.local_addr().expect("a bound socket has an address").port();
    let mut ours = CcbtCommand::seed(&made.torrent_path, &made.data).listen_at(port).start();
    assert_eq!(ours.wait_exit(PATIENCE).code(), Some(1));
    let words = ours.words();
    assert!(words.contains(&port.to_string()), "the port is named: {words}");
    assert!(words.contains("use"), "the cause is named: {words}");
}
