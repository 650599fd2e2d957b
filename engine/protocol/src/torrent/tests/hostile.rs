//! Peers that try to cost us memory, or keep what they took: rows of `docs/reliability.md`.

use super::*;
use crate::peer::MAX_UNREAD;
use crate::wire::{Receiver, Reserved, Sink};

/// What is repeated, by a peer that reads nothing of what it is sent.
fn unread(mut script: Script, mut round: impl FnMut(&mut Script, u32) -> Result<(), PeerFault>) -> PeerFault {
    let mut most = 0;
    let bound = MAX_UNREAD + 9 * 1000 + (64 << 10);
    for nth in 0..2_000_000 {
        let now = script.now;
        script.torrent.fill_requests(now, script.key, &mut AnyMemory, &mut script.rng);
        if let Err(fault) = round(&mut script, nth) {
            return fault;
        }
        most = most.max(script.torrent.peer(script.key).out.len());
        assert!(most <= bound, "{most} bytes wait for a peer that does not read");
    }
    panic!("it goes on for ever");
}

#[test]
fn whoever_makes_us_answer_and_does_not_read_is_closed() {
    let full = || Bitfield::full(1000);
    // Each request is taken back: a reject for each, and the queue is never full.
    let mut script = Script::new(FAST, full());
    script.says(Message::Interested).unwrap();
    script.torrent.tick(script.now, &mut script.rng.clone());
    let fault = unread(script, |script, nth| {
        let block = script.block(nth % 900, nth % 4);
        script.says(Message::Request(block))?;
        script.says(Message::Cancel(block))
    });
    assert_eq!(fault, PeerFault::Unread);
    // Without BEP 6 each choke drops our requests, and each unchoke brings them again.
    let mut script = Script::new(Reserved::NONE, none(1000));
    script.says(Message::Bitfield(full().as_wire())).unwrap();
    let fault = unread(script, |script, _| {
        script.says(Message::Unchoke)?;
        let now = script.now;
        script.torrent.fill_requests(now, script.key, &mut AnyMemory, &mut script.rng);
        script.says(Message::Choke)
    });
    assert_eq!(fault, PeerFault::Unread);
    // What we said of our own accord is not held against anybody.
    let mut script = Script::new(FAST, none(1000));
    let ours = MAX_UNREAD + 9 * 1000;
    script.torrent.out(script.now, script.key).resize(ours, 0);
    assert_eq!(script.says(Message::KeepAlive), Ok(()));
    script.torrent.out(script.now, script.key).resize(ours + 1, 0);
    assert_eq!(script.says(Message::KeepAlive), Err(PeerFault::Unread));
}

#[test]
fn hints_beyond_what_a_torrent_has_end_the_connection() {
    for message in [Message::Suggest(PieceIndex(3)), Message::AllowedFast(PieceIndex(3))] {
        let mut script = Script::new(FAST, none(12));
        let accepted = (0..100_000).take_while(|_| script.says(message).is_ok()).count();
        assert!((500..600).contains(&accepted), "{accepted} of {message:?}");
    }
    // One of each piece of a large torrent is what some clients suggest.
    let mut script = Script::new(FAST, none(5000));
    (0..5000).for_each(|piece| script.says(Message::Suggest(PieceIndex(piece))).unwrap());
    let peer = script.torrent.peer(script.key);
    assert!(peer.suggested.len() <= 64);
}

/// What was dropped by a choke may still come, and is forgiven; but not for ever.
#[test]
fn blocks_that_are_always_too_late_end_the_connection() {
    let mut script = Script::new(Reserved::NONE, none(100));
    script.says(Message::Bitfield(Bitfield::full(100).as_wire())).unwrap();
    let mut late = 0;
    let fault = loop {
        script.says(Message::Unchoke).unwrap();
        script.out();
        let asked: Vec<Block> = script.torrent.peer(script.key).expected().collect();
        assert!(!asked.is_empty());
        script.says(Message::Choke).unwrap();
        let mut place = |block| script.torrent.begin_block(script.key, block);
        if let Err(fault) = asked.into_iter().try_for_each(|block| place(block).map(|_| late += 1)) {
            break fault;
        }
        assert!(late < 10_000, "it wastes our bandwidth for ever");
    };
    assert_eq!(fault, PeerFault::TooMuchWaste);
    assert!(late > 1000, "{late} late blocks");
}

/// A byte a minute is silence: it neither keeps the connection nor what was asked for.
#[test]
fn a_block_that_comes_a_byte_a_minute_ends_the_connection() {
    let mut script = Script::new(FAST, none(2));
    script.says(Message::HaveAll).unwrap();
    script.says(Message::Unchoke).unwrap();
    script.out();
    let (key, block) = (script.key, script.block(0, 0));
    let mut bytes = Vec::new();
    Message::Piece { piece: block.piece, begin: 0, data: &[7; 16_384] }.encode(&mut bytes);
    let mut receiver = Receiver::new(256, 1 << 15);
    for (minute, byte) in bytes.chunks(1).enumerate() {
        let mut sink = ScriptSink { torrent: &mut script.torrent, now: script.now, key };
        receiver.feed(byte, &mut sink).unwrap();
        for _ in 0..60 {
            script.now += Duration::from_secs(1);
            let (now, mut rng) = (script.now, script.rng.clone());
            script.torrent.tick(now, &mut rng);
        }
        let closed = TorrentEvent::Close(key, PeerFault::Silent);
        if std::iter::from_fn(|| script.torrent.poll_event()).any(|event| event == closed) {
            return;
        }
        assert!(minute < 5, "it is not taken for silent");
    }
}

#[test]
fn messages_are_as_long_as_the_torrent_needs() {
    let small = Script::new(FAST, none(12)).torrent.message_len_max();
    assert_eq!(small, 32 << 10);
    assert!(small > crate::metadata::PIECE_LEN + 100);
    assert_eq!(Script::new(FAST, none(1_000_000)).torrent.message_len_max(), 125_001);
    // A connection learns it when its torrent is known.
    let mut receiver = Receiver::new(256, 1 << 20);
    receiver.set_max_message_len(small);
    let mut script = Script::new(FAST, none(12));
    let (now, key) = (script.now, script.key);
    let mut sink = ScriptSink { torrent: &mut script.torrent, now, key };
    let head = [&(small + 1).to_be_bytes()[..], &[20, 7]].concat();
    assert!(matches!(receiver.feed(&head, &mut sink), Err(PeerFault::Wire(_))));
}

// ---- a transfer that ends anywhere

struct ScriptSink<'a> {
    torrent: &'a mut Torrent,
    now: Instant,
    key: PeerKey,
}

impl Sink for ScriptSink<'_> {
    type Error = PeerFault;

    fn begin_block(&mut self, block: Block) -> Result<bool, PeerFault> {
        Ok(self.torrent.begin_block(self.key, block)? != BlockPlace::Discard)
    }

    fn write(&mut self, _: Block, _: u32, _: &[u8]) {}

    fn placed(&self, _: Block, _: u32, _: u32) -> &[u8] {
        unreachable!("nothing is received in place here")
    }

    fn end_block(&mut self, block: Block, accepted: bool) -> Result<(), PeerFault> {
        if accepted {
            self.torrent.end_block(self.now, self.key, block);
        }
        Ok(())
    }

    fn message(&mut self, message: Message<'_>) -> Result<(), PeerFault> {
        self.torrent.message(self.now, self.key, message)
    }
}

/// What a seed says first, and its transfer of the whole torrent with the places where a header or payload begins.
fn conversation(torrent: &Torrent) -> (Vec<u8>, Vec<u8>, Vec<usize>) {
    let (mut hello, mut bytes, mut seams) = (Vec::new(), Vec::new(), Vec::new());
    Message::HaveAll.encode(&mut hello);
    Message::AllowedFast(PieceIndex(1)).encode(&mut hello);
    Message::Unchoke.encode(&mut hello);
    for piece in torrent.geometry().pieces() {
        for nth in 0..torrent.geometry().block_count(piece) {
            let block = torrent.geometry().block(piece, nth);
            let data = vec![7; block.len as usize];
            seams.extend([bytes.len(), bytes.len() + 13]);
            Message::Piece { piece, begin: block.begin, data: &data }.encode(&mut bytes);
            Message::KeepAlive.encode(&mut bytes);
        }
    }
    (hello, bytes, seams)
}

/// A new peer says `hello` and, once it was asked, `bytes`.
fn transfer(script: &mut Script, last_id: u8, hello: &[u8], bytes: &[u8]) {
    let addr = "10.0.0.1:1".parse().unwrap();
    let info = PeerInfo { addr, id: PeerId([last_id; 20]), reserved: FAST, incoming: true };
    let now = script.now;
    let key = script.torrent.connected(now, info);
    script.key = key;
    let mut receiver = Receiver::new(256, 1 << 15);
    for part in std::iter::once(hello).chain(bytes.chunks(1021)) {
        let mut sink = ScriptSink { torrent: &mut script.torrent, now, key };
        receiver.feed(part, &mut sink).unwrap();
        script.torrent.fill_requests(now, key, &mut AnyMemory, &mut script.rng);
    }
}

#[test]
fn a_transfer_may_end_at_any_byte_and_nothing_of_it_stays() {
    let script = || {
        let mut script = Script::new(FAST, none(2));
        script.torrent.gone(script.key);
        script
    };
    let (hello, bytes, seams) = conversation(&script().torrent);
    let near = |at: usize| seams.iter().any(|seam| at.abs_diff(*seam) <= 16);
    let ends: Vec<usize> = (0..=bytes.len()).filter(|at| near(*at) || at % 4099 == 0).collect();
    assert!(ends.len() > 200);
    let cuts = (0..hello.len()).map(|at| (&hello[..at], &bytes[..0]));
    for (hello_part, part) in cuts.chain(ends.iter().map(|end| (&hello[..], &bytes[..*end]))) {
        let mut script = script();
        transfer(&mut script, 3, hello_part, part);
        let geometry = script.torrent.geometry();
        let asked = || {
            geometry
                .pieces()
                .flat_map(|piece| (0..geometry.block_count(piece)).map(move |nth| geometry.block(piece, nth)))
        };
        script.torrent.gone(script.key);
        script.torrent.picker().check_invariants();
        let what = format!("after {} bytes", hello_part.len() + part.len());
        assert!(
            asked().all(|block| script.torrent.picker().requesters(block) == 0),
            "asked of nobody, {what}"
        );
        assert!(geometry.pieces().all(|piece| script.torrent.picker().copies(piece) == 0), "{what}");
        assert_eq!(script.torrent.peer_count(), 0);
        // Another one goes on from there, and no block that came whole counts twice.
        transfer(&mut script, 4, &hello, &bytes);
        assert_eq!(script.torrent.stats().downloaded, geometry.total_len(), "{what}");
    }
}
