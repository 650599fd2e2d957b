//! Seeders that lie, stall or ramble, towards a download: it stays alive, and an honest seeder completes it.
//!
//! Every odd seeder has an address of its own in 127.0.0.0/8, so that a ban hits it alone.

use std::net::Ipv4Addr;
use std::time::Duration;

use ccbt_tests::PATIENCE;
use ccbt_tests::ccbt::{Ccbt, CcbtCommand};
use ccbt_tests::lab::{Lab, Published};
use ccbt_tests::payload::Payload;
use ccbt_tests::process::wait_until;
use ccbt_tests::raw_peer::{RawPeer, full_bitfield, id};
use ccbt_tests::raw_seeder::{Manner, Quirk, RawSeeder};
use ccbt_tests::torrent::TorrentSpec;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

fn publish(lab: &Lab) -> Published {
    lab.announce(Payload::straddling("tree", 4 * MIB), TorrentSpec::pieces_of(64 * KIB))
}

fn seeder(last: u8, made: &Published, manner: Manner) -> RawSeeder {
    RawSeeder::start(Ipv4Addr::new(127, 0, 2, last), made, manner)
}

fn download(lab: &Lab, made: &Published, peers: &[&RawSeeder]) -> Ccbt {
    let mut command = CcbtCommand::download(&made.torrent_path, &lab.dir("copy"));
    for peer in peers {
        command = command.peer(peer.address());
    }
    let mut ours = command.start();
    ours.wait_listening();
    ours
}

fn complete(lab: &Lab, made: &Published, mut ours: Ccbt) {
    ours.wait_done();
    made.payload.assert_equal_in(&lab.dir("copy"));
}

/// The odd one alone is good enough.
fn completes_from(quirk: Quirk) {
    let lab = Lab::open();
    let made = publish(&lab);
    let odd = seeder(1, &made, Manner::of(quirk));
    let ours = download(&lab, &made, &[&odd]);
    complete(&lab, &made, ours);
}

/// The odd one is met first and gets `ready`; then an honest one dials in and the download completes.
fn completes_in_spite_of(quirk: Quirk, ready: impl Fn(&RawSeeder) -> bool) {
    let lab = Lab::open();
    let made = publish(&lab);
    let odd = seeder(2, &made, Manner::of(quirk));
    let ours = download(&lab, &made, &[&odd]);
    wait_until(PATIENCE, "part of the odd seeder", || ready(&odd).then_some(()));
    let honest = seeder(3, &made, Manner::default());
    honest.dial(ours.address());
    complete(&lab, &made, ours);
}

#[test]
fn blocks_that_come_twice() {
    completes_from(Quirk::Twice);
}

#[test]
fn blocks_that_come_in_another_order() {
    completes_from(Quirk::Backwards);
}

#[test]
fn haves_between_the_blocks() {
    completes_from(Quirk::Haves);
}

#[test]
fn streams_in_tiny_and_odd_fragments() {
    for step in [7, 1000, 16_385] {
        completes_from(Quirk::Fragments(step));
    }
}

#[test]
fn a_thousand_chokes_and_unchokes() {
    completes_from(Quirk::Flickers);
}

#[test]
fn requests_that_a_choke_threw_away_are_asked_again() {
    completes_from(Quirk::ChokesOnce);
}

#[test]
fn a_seeder_that_never_unchokes() {
    completes_in_spite_of(Quirk::Chokes, |odd| odd.connections() > 0);
}

#[test]
fn a_seeder_that_falls_silent() {
    completes_in_spite_of(Quirk::SilentAfter(10), |odd| odd.blocks() >= 10);
}

#[test]
fn a_seeder_that_never_answers_a_request() {
    completes_in_spite_of(Quirk::SilentAfter(0), |odd| odd.connections() > 0);
}

#[test]
fn a_seeder_that_falls_silent_within_a_block() {
    completes_in_spite_of(Quirk::SilentWithinBlock(5), |odd| odd.blocks() >= 5);
}

#[test]
fn a_seeder_that_hangs_up_within_a_block() {
    completes_in_spite_of(Quirk::HangsUpWithinBlock(5), |odd| odd.closed() >= 1);
}

#[test]
fn seeders_that_hang_up_at_many_places_of_a_block_leave_nothing_behind() {
    let lab = Lab::open();
    let made = publish(&lab);
    let ours = download(&lab, &made, &[]);
    for count in 0..24 {
        let odd = seeder(100 + count, &made, Manner::of(Quirk::HangsUpWithinBlock(usize::from(count))));
        odd.dial(ours.address());
        wait_until(PATIENCE, "hang-up", || (odd.closed() == 1).then_some(()));
    }
    let honest = seeder(3, &made, Manner::default());
    honest.dial(ours.address());
    complete(&lab, &made, ours);
}

#[test]
fn a_liar_alone_is_banned_and_an_honest_seeder_completes() {
    let lab = Lab::open();
    let made = publish(&lab);
    let liar = seeder(4, &made, Manner::of(Quirk::Lies));
    let mut ours = download(&lab, &made, &[&liar]);
    assert_eq!(ours.wait_event("banned")["ip"], "127.0.2.4");
    wait_until(PATIENCE, "end of the liar's connection", || (liar.closed() > 0).then_some(()));
    let (calls, closed) = (liar.connections(), liar.closed());
    liar.dial(ours.address());
    wait_until(PATIENCE, "refusal of the banned address", || (liar.closed() > closed).then_some(()));
    let sent = liar.blocks();
    let honest = seeder(5, &made, Manner::default());
    honest.dial(ours.address());
    complete(&lab, &made, ours);
    assert_eq!(liar.blocks(), sent, "nothing is asked of a banned address");
    assert_eq!(liar.connections(), calls + 1, "a banned address is not dialled");
}

#[test]
fn a_liar_among_honest_seeders_is_found_and_nobody_else_is_banned() {
    let lab = Lab::open();
    let made = publish(&lab);
    let pause = Duration::from_millis(1);
    let liar = seeder(6, &made, Manner::of(Quirk::Lies));
    let honest = [7, 8, 9].map(|last| seeder(last, &made, Manner::slow(pause)));
    let mut ours = download(&lab, &made, &[&liar, &honest[0], &honest[1], &honest[2]]);
    assert_eq!(ours.wait_event("banned")["ip"], "127.0.2.6");
    ours.wait_done();
    made.payload.assert_equal_in(&lab.dir("copy"));
    let banned: Vec<_> = ours.events("banned").iter().map(|event| event["ip"].to_string()).collect();
    assert!(banned.iter().all(|ip| ip.contains("127.0.2.6")), "the honest are not banned: {banned:?}");
}

#[test]
fn a_rare_lie_among_honest_seeders_never_reaches_the_disk() {
    let lab = Lab::open();
    let made = publish(&lab);
    let liar = seeder(10, &made, Manner::of(Quirk::LiesEvery(40)));
    let honest = [11, 12].map(|last| seeder(last, &made, Manner::default()));
    let mut ours = download(&lab, &made, &[&liar, &honest[0], &honest[1]]);
    ours.wait_done();
    made.payload.assert_equal_in(&lab.dir("copy"));
    let banned: Vec<_> = ours.events("banned").iter().map(|event| event["ip"].to_string()).collect();
    assert!(banned.iter().all(|ip| ip.contains("127.0.2.10")), "the honest are not banned: {banned:?}");
}

/// A raw connection that has told the download it has everything, and is asked for blocks.
fn meet(ours: &Ccbt, made: &Published, last: u8) -> RawPeer {
    let from = Ipv4Addr::new(127, 0, 2, last);
    let mut peer = RawPeer::try_connect_from(from, ours.address()).expect("the download listens");
    peer.handshake(made.torrent.info_hash());
    peer.send(id::BITFIELD, &full_bitfield(made.torrent.piece_count()));
    peer
}

#[test]
fn unrequested_blocks_are_thrown_away_and_the_sender_too_beyond_a_bound() {
    let lab = Lab::open();
    let made = publish(&lab);
    let mut ours = download(&lab, &made, &[]);
    let mut peer = meet(&ours, &made, 20);
    // Choked, it can ask for nothing: every block is unrequested, and wrong.
    for number in 0..2000 {
        if !peer.send_words(id::PIECE, &[number % 60, 0], &[0xee; 16_384]) {
            break;
        }
    }
    peer.wait_closed(PATIENCE);
    ours.assert_alive();
    let honest = seeder(21, &made, Manner::default());
    honest.dial(ours.address());
    complete(&lab, &made, ours);
}

#[test]
fn a_few_unrequested_blocks_are_counted_as_waste_and_forgiven() {
    let lab = Lab::open();
    let made = publish(&lab);
    let ours = download(&lab, &made, &[]);
    let mut peer = meet(&ours, &made, 22);
    for _ in 0..5 {
        assert!(peer.send_words(id::PIECE, &[3, 0], &[0xee; 16_384]));
    }
    peer.send(id::UNCHOKE, &[]);
    assert!(peer.wait_message(id::REQUEST).is_some(), "it is still asked for blocks");
    drop(peer);
    let honest = seeder(23, &made, Manner::default());
    honest.dial(ours.address());
    complete(&lab, &made, ours);
}

#[test]
fn blocks_of_the_wrong_length_or_place_are_not_taken_for_the_right_ones() {
    let lab = Lab::open();
    let made = publish(&lab);
    let ours = download(&lab, &made, &[]);
    for (last, skew) in [(24, [0, 0, 1]), (25, [0, 1, 0]), (26, [1, 0, 0]), (27, [0, 0, 16_384])] {
        let mut peer = meet(&ours, &made, last);
        peer.send(id::UNCHOKE, &[]);
        let request = peer.wait_message(id::REQUEST).expect("it asks");
        let asked = [0, 1, 2].map(|index| request.word(index).expect("a request has three words"));
        let len = usize::try_from(asked[2] - skew[2]).expect("u32 fits");
        peer.send_words(id::PIECE, &[asked[0] ^ skew[0], asked[1] + skew[1]], &vec![0xaa; len]);
    }
    let honest = seeder(28, &made, Manner::default());
    honest.dial(ours.address());
    complete(&lab, &made, ours);
}

#[test]
fn a_request_for_a_piece_we_do_not_have_ends_the_connection() {
    let lab = Lab::open();
    let made = publish(&lab);
    let ours = download(&lab, &made, &[]);
    let mut peer = meet(&ours, &made, 29);
    peer.send(id::INTERESTED, &[]);
    peer.send_words(id::REQUEST, &[0, 0, 16_384], &[]);
    peer.wait_closed(PATIENCE);
    let honest = seeder(30, &made, Manner::default());
    honest.dial(ours.address());
    complete(&lab, &made, ours);
}

#[test]
fn a_crowd_of_stalling_seeders_does_not_starve_the_honest_one() {
    let lab = Lab::open();
    let made = publish(&lab);
    let ours = download(&lab, &made, &[]);
    let crowd: Vec<RawSeeder> =
        (0..40).map(|n| seeder(200 + n, &made, Manner::of(Quirk::SilentAfter(usize::from(n % 4))))).collect();
    crowd.iter().for_each(|odd| odd.dial(ours.address()));
    wait_until(PATIENCE, "the crowd", || {
        (crowd.iter().map(RawSeeder::connections).sum::<usize>() >= crowd.len()).then_some(())
    });
    let honest = seeder(31, &made, Manner::default());
    honest.dial(ours.address());
    complete(&lab, &made, ours);
}
