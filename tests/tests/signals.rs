//! Signals: an orderly stop, an immediate one, and one that comes at the worst moment.

use std::net::Ipv4Addr;
use std::time::Duration;

use ccbt_tests::SOON;
use ccbt_tests::ccbt::{Ccbt, CcbtCommand};
use ccbt_tests::lab::{Lab, Published};
use ccbt_tests::payload::Payload;
use ccbt_tests::raw_seeder::{Manner, RawSeeder};
use ccbt_tests::torrent::TorrentSpec;
use ccbt_tests::tracker::{Reply, Tracker};
use rustix::process::Signal;

const MIB: usize = 1 << 20;

/// 128 + SIGTERM.
const TERMINATED: i32 = 143;
/// 128 + SIGINT.
const INTERRUPTED: i32 = 130;

fn slow_seeder(last: u8, made: &Published) -> RawSeeder {
    RawSeeder::start(Ipv4Addr::new(127, 0, 11, last), made, Manner::slow(Duration::from_millis(2)))
}

fn download(lab: &Lab, made: &Published, seeder: &RawSeeder) -> Ccbt {
    CcbtCommand::download(&made.torrent_path, &lab.dir("copy")).peer(seeder.address()).start()
}

/// Stops a download in the middle with `signal`, and lets a second one complete it.
fn stops_in_the_middle(last: u8, signal: Signal, code: i32) {
    let lab = Lab::open();
    let made = lab.announce(Payload::straddling("tree", 8 * MIB), TorrentSpec::pieces_of(MIB / 8));
    let seeder = slow_seeder(last, &made);
    let mut ours = download(&lab, &made, &seeder);
    ours.wait_progress("bytes_done", 2 << 20);
    ours.signal(signal);
    ours.wait_event("stopped");
    assert_eq!(ours.wait_exit(SOON).code(), Some(code), "an unfinished download ends with 128 + the signal");
    assert!(ours.events("finished").is_empty(), "it was not finished");
    download(&lab, &made, &seeder).wait_done();
    made.payload.assert_equal_in(&lab.dir("copy"));
}

#[test]
fn sigterm_stops_a_download_in_order() {
    stops_in_the_middle(1, Signal::TERM, TERMINATED);
}

#[test]
fn sigint_stops_a_download_in_order() {
    stops_in_the_middle(2, Signal::INT, INTERRUPTED);
}

#[test]
fn a_seed_ends_with_0() {
    let lab = Lab::open();
    let made = lab.publish(Payload::single("file", MIB), TorrentSpec::pieces_of(MIB / 8));
    for signal in [Signal::TERM, Signal::INT] {
        let mut ours = CcbtCommand::seed(&made.torrent_path, &made.data).start();
        ours.wait_listening();
        ours.signal(signal);
        ours.wait_event("stopped");
        assert_eq!(ours.wait_exit(SOON).code(), Some(0), "{signal:?}");
    }
}

#[test]
fn a_finished_download_that_still_seeds_ends_with_0() {
    let lab = Lab::open();
    let made = lab.announce(Payload::single("file", MIB), TorrentSpec::pieces_of(MIB / 8));
    let seeder = slow_seeder(3, &made);
    let command = CcbtCommand::download(&made.torrent_path, &lab.dir("copy")).peer(seeder.address());
    let mut ours = command.option("--seed-time", "30").start();
    ours.wait_event("finished");
    ours.signal(Signal::TERM);
    assert_eq!(ours.wait_exit(SOON).code(), Some(0));
    made.payload.assert_equal_in(&lab.dir("copy"));
}

#[test]
fn a_second_signal_does_not_wait_for_a_silent_tracker() {
    let (lab, silent) = (Lab::open(), Tracker::with_reply(Reply::Silence));
    let spec = TorrentSpec::pieces_of(MIB / 8).announce(silent.url());
    let made = lab.publish(Payload::single("file", MIB), spec);
    let mut ours = CcbtCommand::seed(&made.torrent_path, &made.data).trackers().start();
    ours.wait_listening();
    silent.wait_announce(ours.address().port(), |announce| announce.event == "started");
    // Another one, since two of a kind that come together are one. An orderly end waits for the tracker, and is a 0.
    ours.signal(Signal::TERM);
    ours.signal(Signal::INT);
    let code = ours.wait_exit(SOON).code();
    assert!(matches!(code, Some(INTERRUPTED | TERMINATED)), "{code:?}");
    assert!(!ours.said(|line| line.contains("panicked")), "no panic on the way out");
}

#[test]
fn signals_around_the_last_block_lose_nothing() {
    let lab = Lab::open();
    let made = lab.announce(Payload::straddling("tree", 2 * MIB), TorrentSpec::pieces_of(MIB / 16));
    let total = made.payload.len() as u64;
    // From well before the end to (perhaps) after it.
    for (last, missing) in [(10, 400_000), (11, 200_000), (12, 100_000), (13, 1), (14, 0)] {
        let seeder = slow_seeder(last, &made);
        let copy = lab.dir(&format!("copy{last}"));
        let command = || CcbtCommand::download(&made.torrent_path, &copy).peer(seeder.address());
        let mut ours = command().start();
        // Reports come now and then: the end may have been reached by then, and the process be gone.
        ours.wait_json("progress near the end, or the end", |event| {
            let moves = event["state"] == "downloading";
            let near = moves && event["bytes_done"].as_u64().is_some_and(|done| done + missing >= total);
            (near || event["event"] == "finished").then_some(())
        });
        ours.signal(Signal::TERM);
        let code = ours.wait_exit(SOON).code();
        let finished = !ours.events("finished").is_empty();
        assert_eq!(code, Some(if finished { 0 } else { TERMINATED }), "finished: {finished}");
        if finished {
            made.payload.assert_equal_in(&copy);
        }
        command().start().wait_done();
        made.payload.assert_equal_in(&copy);
    }
}

#[test]
fn a_signal_while_checking_stops_at_once() {
    let lab = Lab::open();
    let made = lab.publish(Payload::single("file", 64 * MIB), TorrentSpec::pieces_of(MIB));
    let mut ours = CcbtCommand::download(&made.torrent_path, &made.data).start();
    ours.signal(Signal::TERM);
    // Before its handler is there, in the middle of the check, or after the end: no other ending is known.
    let status = ours.wait_exit(SOON);
    let by_signal = std::os::unix::process::ExitStatusExt::signal(&status) == Some(Signal::TERM.as_raw());
    assert!(by_signal || matches!(status.code(), Some(0 | TERMINATED)), "{status}");
    made.payload.assert_equal_in(&made.data);
}
