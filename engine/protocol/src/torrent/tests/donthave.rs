//! Pieces that are had no longer (BEP 54).

use super::*;
use crate::wire::extension::{ExtensionHandshake, LT_DONTHAVE, LT_DONTHAVE_NAME};

const THEIR_ID: u8 = 9;

fn hello(script: &mut Script) {
    let messages = vec![(LT_DONTHAVE_NAME.to_owned(), THEIR_ID)];
    let payload = ExtensionHandshake { messages, ..ExtensionHandshake::default() }.encode();
    script.says(Message::Extended { id: 0, payload: &payload }).unwrap();
}

/// Not everything: one that had is told besides that we want something again.
fn most() -> Bitfield {
    let mut have = Bitfield::full(8);
    have.remove(PieceIndex(0));
    have
}

fn dont_have(script: &mut Script, piece: u32) -> Result<(), PeerFault> {
    script.says(Message::Extended { id: LT_DONTHAVE, payload: &piece.to_be_bytes() })
}

#[test]
fn what_we_lose_is_told_to_those_who_understand() {
    for understands in [true, false] {
        let mut script = Script::new(FAST, most());
        if understands {
            hello(&mut script);
        }
        script.out();
        script.torrent.lost_piece(PieceIndex(3));
        // Found twice, told once.
        script.torrent.lost_piece(PieceIndex(3));
        let bytes = std::mem::take(script.torrent.out(script.now, script.key));
        let mut expected = Vec::new();
        if understands {
            Message::Extended { id: THEIR_ID, payload: &[0, 0, 0, 3] }.encode(&mut expected);
        }
        assert_eq!(bytes, expected);
        // What is asked for meanwhile is rejected, and costs the peer nothing worth mentioning.
        script.says(Message::Request(script.block(3, 0))).unwrap();
        assert_eq!(script.out(), ["Reject"]);
    }
}

#[test]
fn what_we_lose_before_a_peer_has_introduced_itself_is_told_then() {
    let mut script = Script::new(FAST, most());
    script.out();
    script.torrent.lost_piece(PieceIndex(3));
    script.torrent.lost_piece(PieceIndex(5));
    assert_eq!(script.out(), [""; 0]);
    hello(&mut script);
    let bytes = std::mem::take(script.torrent.out(script.now, script.key));
    let mut expected = Vec::new();
    for piece in [3, 5] {
        Message::Extended { id: THEIR_ID, payload: &[0, 0, 0, piece] }.encode(&mut expected);
    }
    assert_eq!(bytes, expected);
    // Once.
    hello(&mut script);
    assert_eq!(script.out(), [""; 0]);
}

#[test]
fn what_a_peer_loses_is_asked_of_others() {
    for was_seed in [true, false] {
        let mut script = Script::new(FAST, none(2));
        if was_seed {
            script.says(Message::HaveAll).unwrap();
        } else {
            script.says(Message::Have(PieceIndex(0))).unwrap();
        }
        script.says(Message::Unchoke).unwrap();
        assert!(script.out().contains(&"Request".to_owned()));
        assert_eq!(script.torrent.picker().copies(PieceIndex(0)), 1);
        let asked = script.block(0, 0);
        let is_asked = |script: &Script| script.torrent.picker().requesters(asked);
        assert_eq!(is_asked(&script), 1);
        dont_have(&mut script, 0).unwrap();
        assert_eq!(script.torrent.picker().copies(PieceIndex(0)), 0);
        assert_eq!(script.torrent.picker().copies(PieceIndex(1)), u32::from(was_seed));
        assert!(!script.torrent.peer(script.key).has(PieceIndex(0)));
        assert!(script.torrent.peer(script.key).outstanding(asked).is_none());
        // A block may be arriving: it counts until the receive is over.
        assert_eq!(is_asked(&script), 1);
        while let Some(event) = script.torrent.poll_event() {
            if let TorrentEvent::Retract { peer, block, release: true } = event {
                script.torrent.released(peer, block);
            }
        }
        assert_eq!(is_asked(&script), 0);
        script.torrent.picker().check_invariants();
        // It has it again.
        script.says(Message::Have(PieceIndex(0))).unwrap();
        assert!(script.out().contains(&"Request".to_owned()));
        script.torrent.gone(script.key);
        script.torrent.picker().check_invariants();
    }
}

#[test]
fn one_that_loses_what_we_got_meanwhile_hears_that_we_have_it() {
    let mut script = Script::new(FAST, Bitfield::full(8));
    script.says(Message::Have(PieceIndex(2))).unwrap();
    script.out();
    dont_have(&mut script, 2).unwrap();
    assert_eq!(script.out(), ["Have"]);
}

#[test]
fn one_that_lost_a_piece_after_it_had_finished_says_that_it_wants_it() {
    let mut script = Script::new(FAST, Bitfield::full(8));
    hello(&mut script);
    script.out();
    script.torrent.lost_piece(PieceIndex(3));
    let bytes = std::mem::take(script.torrent.out(script.now, script.key));
    let told = |what: &[u8]| bytes.windows(what.len()).any(|window| window == what);
    assert!(told(b"lt_donthave") && !told(b"upload_only"), "an extended handshake without BEP 21's mark");
}

#[test]
fn nonsense_is_an_offence_and_flapping_ends() {
    let mut script = Script::new(FAST, none(4));
    assert_eq!(dont_have(&mut script, 4), Err(PeerFault::NoSuchPiece(PieceIndex(4))));
    let mut script = Script::new(FAST, none(4));
    script.says(Message::Extended { id: LT_DONTHAVE, payload: &[0, 0, 1] }).unwrap();
    assert!((0..1000).any(|_| dont_have(&mut script, 1).is_err()), "what it never had");
    // Each time that a seed becomes none costs a look at every piece.
    let mut script = Script::new(FAST, none(4));
    script.says(Message::HaveAll).unwrap();
    let mut flap =
        || dont_have(&mut script, 1).is_err() || script.says(Message::Have(PieceIndex(1))).is_err();
    assert!((0..1000).any(|_| flap()));
}
