//! Torrents against each other over virtual wires ([`swarm`]), and one torrent against scripted peers.

mod donthave;
mod extensions;
mod holepunch;
mod hostile;
mod streams;
mod superseed;
pub(crate) mod swarm;

use std::time::{Duration, Instant};

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus as TestRng;

use super::*;
use crate::picker::{PartialPiece, Slots};
use swarm::{FAST, Manner, Swarm, config};

const MS: Duration = Duration::from_millis(1);

#[test]
fn a_download_completes_and_the_seeds_are_let_go() {
    for (seed, reserved) in [(1, FAST), (2, crate::wire::Reserved::NONE)] {
        let mut swarm = Swarm::new(seed, 20);
        let from = swarm.seed(Manner::Honest);
        let to = swarm.leech();
        let conn = swarm.connect(to, from, reserved);
        assert!(swarm.run(10 * MS, 2000, |swarm| !swarm.is_open(conn)));
        swarm.assert_complete(to);
        assert_eq!(swarm.faults[0].1, PeerFault::Done);
        let total = swarm.geometry.total_len();
        let (down, up) = (swarm.nodes[to].torrent.stats(), swarm.nodes[from].torrent.stats());
        assert_eq!((down.downloaded, down.wasted, up.uploaded), (total, 0, total));
    }
}

#[test]
fn leeches_trade_pieces() {
    let mut swarm = Swarm::new(3, 30);
    swarm.seed(Manner::Honest);
    for _ in 0..4 {
        swarm.leech();
    }
    swarm.uploads = 1;
    swarm.mesh(FAST);
    assert!(swarm.run(10 * MS, 5000, |swarm| swarm.nodes.iter().all(|node| node.torrent.is_finished())));
    (1..5).for_each(|node| swarm.assert_complete(node));
    let uploaded = swarm.nodes[0].torrent.stats().uploaded;
    assert!(uploaded < 3 * swarm.geometry.total_len(), "the seed sent everything itself: {uploaded}");
}

#[test]
fn endgame_asks_twice_and_cancels() {
    let mut swarm = Swarm::new(4, 3);
    let slow = swarm.seed(Manner::Snub);
    let fast = swarm.seed(Manner::Honest);
    let to = swarm.leech();
    let slow_conn = swarm.connect(to, slow, FAST);
    // The slow one takes all requests that its window has room for.
    swarm.run(10 * MS, 100, |_| false);
    swarm.connect(to, fast, FAST);
    assert!(swarm.run(10 * MS, 300, |swarm| swarm.nodes[to].finished), "the slow peer holds up the end");
    swarm.assert_complete(to);
    let [key, _] = if swarm.is_open(slow_conn) { swarm.keys(slow_conn) } else { return };
    assert_eq!(swarm.nodes[to].torrent.peer(key).outstanding.len(), 0);
}

#[test]
fn one_liar_among_five_is_banned_and_nobody_else() {
    for seed in 0..8 {
        let mut swarm = Swarm::new(seed, 60);
        let liar = seed as usize % 5;
        for node in 0..5 {
            swarm.seed(if node == liar { Manner::Liar } else { Manner::Honest });
        }
        let to = swarm.leech();
        // Enough that everybody is asked for something.
        swarm.nodes[to].memory_max = 64;
        (0..5).for_each(|node| _ = swarm.connect(to, node, FAST));
        assert!(swarm.run(10 * MS, 5000, |swarm| swarm.nodes[to].finished), "seed {seed}");
        swarm.assert_complete(to);
        let stats = swarm.nodes[to].torrent.stats();
        assert_eq!(swarm.nodes[to].bans, [Swarm::ip(liar)], "seed {seed}");
        assert!(stats.banned == 1 && (1..=16).contains(&stats.hash_failures), "{stats:?}");
    }
}

#[test]
fn liars_that_leave_are_banned_too() {
    let mut swarm = Swarm::new(11, 8);
    let (liar, honest) = (swarm.seed(Manner::Liar), swarm.seed(Manner::Honest));
    let to = swarm.leech();
    let conn = swarm.connect(to, liar, FAST);
    swarm.connect(to, honest, FAST);
    swarm.run(5 * MS, 500, |swarm| swarm.nodes[to].torrent.stats().downloaded > 100_000);
    swarm.disconnect(conn);
    assert!(swarm.run(10 * MS, 3000, |swarm| swarm.nodes[to].finished));
    swarm.assert_complete(to);
    assert_eq!(swarm.nodes[to].bans, [Swarm::ip(liar)]);
}

/// Blocks that an earlier run left were never verified: when they are wrong, nobody of now sent them.
#[test]
fn nobody_is_blamed_for_blocks_of_an_earlier_run() {
    for (seed, seeds, liar) in [(20, 1, None), (21, 3, None), (22, 3, Some(1))] {
        let mut swarm = Swarm::new(seed, 6);
        for node in 0..seeds {
            swarm.seed(if liar == Some(node) { Manner::Liar } else { Manner::Honest });
        }
        let to = swarm.leech();
        for (piece, good) in [(0, true), (2, false), (4, true)].map(|(piece, good)| (PieceIndex(piece), good))
        {
            let mut blocks = Bitfield::empty(swarm.geometry.block_count(piece));
            let mut memory = vec![0; swarm.geometry.piece_size(piece) as usize];
            for nth in [1, 3] {
                blocks.insert(PieceIndex(nth));
                let block = swarm.geometry.block(piece, nth);
                let start = swarm.geometry.piece_start(piece) + u64::from(block.begin);
                for at in 0..block.len {
                    memory[(block.begin + at) as usize] =
                        swarm::byte_at(start + u64::from(at)) ^ u8::from(!good);
                }
            }
            assert!(swarm.nodes[to].torrent.picker_mut().take_back(&PartialPiece { piece, blocks }));
            swarm.nodes[to].memory.insert(piece, memory);
        }
        (0..seeds).for_each(|node| _ = swarm.connect(to, node, FAST));
        assert!(swarm.run(10 * MS, 3000, |swarm| swarm.nodes[to].finished), "seed {seed}");
        swarm.assert_complete(to);
        let stats = swarm.nodes[to].torrent.stats();
        assert_eq!(swarm.nodes[to].bans, liar.map(Swarm::ip).into_iter().collect::<Vec<_>>(), "seed {seed}");
        if liar.is_none() {
            assert_eq!(stats.hash_failures, 1, "the bad one was noticed, once");
            // Of three pieces two blocks were here; one of the pieces was fetched again as a whole.
            let fetched = swarm.geometry.total_len() - 6 * 16_384 + 4 * 16_384;
            assert_eq!(stats.downloaded, fetched, "good blocks are not fetched");
        }
    }
}

#[test]
fn only_liars_are_all_banned() {
    let mut swarm = Swarm::new(12, 4);
    for _ in 0..3 {
        swarm.seed(Manner::Liar);
    }
    let to = swarm.leech();
    (0..3).for_each(|node| _ = swarm.connect(to, node, FAST));
    assert!(swarm.run(10 * MS, 5000, |swarm| swarm.nodes[to].bans.len() == 3));
    swarm.run(10 * MS, 10, |_| false);
    assert_eq!(swarm.nodes[to].torrent.peer_count(), 0);
    assert!(swarm.nodes[to].disk.is_empty());
}

#[test]
fn snubs_time_out_and_others_are_asked() {
    let mut swarm = Swarm::new(5, 6);
    let (snub, honest) = (swarm.seed(Manner::Snub), swarm.seed(Manner::Honest));
    let mut own = config();
    own.picker.endgame_duplicates = 1;
    let to = swarm.node(own, Manner::Honest, |_| false);
    let conn = swarm.connect(to, snub, FAST);
    swarm.run(10 * MS, 50, |_| false);
    let [key, _] = swarm.keys(conn);
    assert_eq!(swarm.nodes[to].torrent.peer(key).outstanding.len(), 16);
    swarm.connect(to, honest, FAST);
    assert!(
        swarm.run(100 * MS, 600, |swarm| swarm.nodes[to].finished),
        "snubbed blocks are asked of nobody else"
    );
    swarm.assert_complete(to);
}

/// What a limit of ours keeps in the socket is no silence of the peer: its requests stay, and so does it.
#[test]
fn a_peer_that_a_limit_holds_is_not_taken_for_silent() {
    let mut swarm = Swarm::new(8, 6);
    let slow = swarm.seed(Manner::Snub);
    let to = swarm.leech();
    let conn = swarm.connect(to, slow, FAST);
    swarm.run(10 * MS, 50, |_| false);
    let [key, _] = swarm.keys(conn);
    swarm.nodes[to].torrent.hold(key);
    assert!(!swarm.run(200 * MS, 1000, |swarm| swarm.nodes[to].torrent.peer_count() == 0));
    let peer = swarm.nodes[to].torrent.peer(key);
    assert!(!peer.snubbed && peer.outstanding.len() == 16, "it has waited for 200 s for us");
    let now = swarm.now;
    swarm.nodes[to].torrent.let_go(now, key);
    swarm.run(200 * MS, 40, |_| false);
    assert!(!swarm.nodes[to].torrent.peer(key).snubbed, "its time begins now");
    assert!(swarm.run(200 * MS, 100, |swarm| swarm.nodes[to].torrent.peer(key).snubbed));
}

#[test]
fn a_lone_snub_gets_one_request_and_recovers() {
    let mut swarm = Swarm::new(6, 6);
    let snub = swarm.seed(Manner::Snub);
    let to = swarm.leech();
    let conn = swarm.connect(to, snub, FAST);
    let [key, _] = swarm.keys(conn);
    assert!(swarm.run(200 * MS, 300, |swarm| swarm.nodes[to].torrent.peer(key).snubbed));
    swarm.run(200 * MS, 20, |_| false);
    assert_eq!(swarm.nodes[to].torrent.peer(key).outstanding.len(), 1);
    swarm.nodes[snub].manner = Manner::Honest;
    assert!(swarm.run(200 * MS, 500, |swarm| swarm.nodes[to].finished));
    swarm.assert_complete(to);
}

#[test]
fn a_peer_that_rejects_everything_is_no_busy_loop() {
    let mut swarm = Swarm::new(7, 6);
    let (refuses, honest) = (swarm.seed(Manner::Refuses), swarm.seed(Manner::Honest));
    let to = swarm.leech();
    let conn = swarm.connect(to, refuses, FAST);
    swarm.run(10 * MS, 200, |_| false);
    let [key, _] = swarm.keys(conn);
    let peer = swarm.nodes[to].torrent.peer(key);
    assert!(peer.window.size() == 1 && peer.rejects <= 16 + 200, "{} rejects", peer.rejects);
    swarm.connect(to, honest, FAST);
    assert!(swarm.run(10 * MS, 2000, |swarm| swarm.nodes[to].finished));
    swarm.assert_complete(to);
    // One with nothing better is closed at last.
    let lonely = swarm.leech();
    swarm.connect(lonely, refuses, FAST);
    assert!(swarm.run(MS, 40_000, |swarm| !swarm.faults_of(lonely).is_empty()));
    assert_eq!(swarm.faults_of(lonely), [PeerFault::TooMuchWaste]);
}

// ---- one torrent and a script

struct Script {
    now: Instant,
    torrent: Torrent,
    key: PeerKey,
    rng: TestRng,
}

struct AnyMemory;

impl Slots for AnyMemory {
    fn acquire(&mut self, _: PieceIndex, _: u32) -> bool {
        true
    }
}

impl Script {
    fn new(reserved: crate::wire::Reserved, have: Bitfield) -> Self {
        let now = Instant::now();
        let geometry = Geometry::new(u64::from(have.len()) * 65_536 - 1000, 65_536).unwrap();
        let mut torrent = Torrent::new(now, InfoHash([7; 20]), PeerId([1; 20]), geometry, config(), have);
        let addr = "10.0.0.1:1".parse().unwrap();
        let key = torrent.connected(now, PeerInfo { addr, id: PeerId([2; 20]), reserved, incoming: true });
        Self { now, torrent, key, rng: TestRng::seed_from_u64(1) }
    }

    fn says(&mut self, message: Message<'_>) -> Result<(), PeerFault> {
        self.torrent.message(self.now, self.key, message)
    }

    /// The messages that we would send now.
    fn out(&mut self) -> Vec<String> {
        self.torrent.fill_requests(self.now, self.key, &mut AnyMemory, &mut self.rng);
        let bytes = std::mem::take(self.torrent.out(self.now, self.key));
        let mut at = 0;
        let mut messages = Vec::new();
        while at < bytes.len() {
            let len = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
            let message = Message::decode(&bytes[at + 4..at + 4 + len]).unwrap();
            messages.push(format!("{message:?}").split(['(', ' ']).next().unwrap().to_owned());
            at += 4 + len;
        }
        messages
    }

    fn block(&self, piece: u32, nth: u32) -> Block {
        self.torrent.geometry().block(PieceIndex(piece), nth)
    }
}

fn none(pieces: u32) -> Bitfield {
    Bitfield::empty(pieces)
}

#[test]
fn bitfields_come_first_once_and_fit() {
    let full = Bitfield::full(12);
    let mut script = Script::new(FAST, none(12));
    assert_eq!(script.says(Message::KeepAlive), Ok(()));
    assert_eq!(script.says(Message::Extended { id: 0, payload: b"d1:v1:xe" }), Ok(()));
    assert_eq!(script.says(Message::Bitfield(full.as_wire())), Ok(()));
    assert!(script.torrent.peer(script.key).is_seed());
    // Nothing new is tolerated some times; taking back is not.
    assert_eq!(script.says(Message::Bitfield(full.as_wire())), Ok(()));
    assert_eq!(script.says(Message::Bitfield(none(12).as_wire())), Err(PeerFault::LateBitfield));
    let mut late = Script::new(FAST, none(12));
    // As aria2 does: hints first, then what it has, later a bitfield in place of many HAVEs.
    late.says(Message::AllowedFast(PieceIndex(0))).unwrap();
    late.says(Message::Interested).unwrap();
    late.says(Message::HaveNone).unwrap();
    late.says(Message::Have(PieceIndex(1))).unwrap();
    assert_eq!(late.says(Message::Bitfield(&[0xf0, 0])), Ok(()));
    assert!(late.torrent.peer(late.key).has(PieceIndex(3)));
    assert_eq!(late.torrent.picker().copies(PieceIndex(1)), 1, "counted once");
    assert_eq!(late.says(Message::Bitfield(&[0xe0, 0])), Err(PeerFault::LateBitfield));
    assert_eq!(late.says(Message::HaveNone), Err(PeerFault::LateBitfield));
    let mut wrong = Script::new(FAST, none(12));
    assert!(matches!(wrong.says(Message::Bitfield(&[0xff])), Err(PeerFault::Bitfield(_))));
    let mut spare = Script::new(FAST, none(12));
    assert!(matches!(spare.says(Message::Bitfield(&[0xff, 0xf1])), Err(PeerFault::Bitfield(_))));
}

#[test]
fn impossible_indexes_are_faults() {
    let outside = PieceIndex(12);
    let bad = Block { piece: outside, begin: 0, len: 16_384 };
    for message in [Message::Have(outside), Message::Suggest(outside), Message::AllowedFast(outside)] {
        assert_eq!(Script::new(FAST, none(12)).says(message), Err(PeerFault::NoSuchPiece(outside)));
    }
    let long = Block { piece: PieceIndex(0), begin: 65_000, len: 16_384 };
    let empty = Block { piece: PieceIndex(0), begin: 0, len: 0 };
    let huge = Block { piece: PieceIndex(0), begin: 0, len: u32::MAX };
    for block in [bad, long, empty, huge] {
        for message in [Message::Request(block), Message::Cancel(block), Message::Reject(block)] {
            let fault = Script::new(FAST, Bitfield::full(12)).says(message).unwrap_err();
            assert_eq!(fault, PeerFault::NoSuchBlock(block));
            assert!(fault.is_hostile());
        }
        let mut script = Script::new(FAST, none(12));
        assert_eq!(script.torrent.begin_block(script.key, block), Err(PeerFault::NoSuchBlock(block)));
    }
    let mut plain = Script::new(crate::wire::Reserved::NONE, none(12));
    let ours = plain.block(3, 0);
    assert_eq!(plain.says(Message::Request(ours)), Err(PeerFault::NotOurs(PieceIndex(3))));
    for message in [Message::HaveAll, Message::Reject(ours), Message::AllowedFast(PieceIndex(1))] {
        let mut plain = Script::new(crate::wire::Reserved::NONE, none(12));
        assert_eq!(plain.says(message), Err(PeerFault::FastNotNegotiated));
    }
}

#[test]
fn floods_end_the_connection() {
    let mut script = Script::new(FAST, Bitfield::full(12));
    script.says(Message::Interested).unwrap();
    script.torrent.tick(script.now, &mut script.rng.clone());
    let block = script.block(1, 0);
    let accepted = (0..100_000).take_while(|_| script.says(Message::Request(block)).is_ok()).count();
    assert!((2000..20_000).contains(&accepted), "{accepted} requests");
    assert_eq!(script.torrent.upcoming_uploads(script.key).count(), crate::peer::MAX_UPLOAD_QUEUE);
    // While choked, too, where everything is rejected.
    let mut choked = Script::new(FAST, Bitfield::full(1000));
    let denied =
        (0..1000).find(|piece| !choked.torrent.peer(choked.key).allowed_out.contains(&PieceIndex(*piece)));
    let block = choked.block(denied.unwrap(), 0);
    let accepted = (0..100_000).take_while(|_| choked.says(Message::Request(block)).is_ok()).count();
    assert!((1000..20_000).contains(&accepted), "{accepted} requests while choked");
    // Also one that reads all its rejects.
    for is_served in [true, false] {
        let mut reader = Script::new(FAST, Bitfield::full(1000));
        if is_served {
            reader.says(Message::Interested).unwrap();
            reader.torrent.tick(reader.now, &mut reader.rng.clone());
        }
        let fault = (0..100_000).find_map(|_| {
            reader.torrent.out(reader.now, reader.key).clear();
            reader.says(Message::Request(block)).err()
        });
        assert_eq!(fault, Some(PeerFault::RequestFlood), "served: {is_served}");
    }
    for message in [Message::Unknown { id: 99, len: 3 }, Message::Reject(block), Message::Have(PieceIndex(1))]
    {
        let mut script = Script::new(FAST, Bitfield::full(1000));
        let accepted = (0..100_000).take_while(|_| script.says(message).is_ok()).count();
        assert!((100..5000).contains(&accepted), "{accepted} of {message:?}");
    }
    let mut unasked = Script::new(FAST, none(12));
    let block = unasked.block(1, 0);
    let accepted =
        (0..100_000).take_while(|_| unasked.torrent.begin_block(unasked.key, block).is_ok()).count();
    assert!((100..5000).contains(&accepted), "{accepted} blocks nobody asked for");
}

#[test]
fn old_offences_are_forgotten_slowly() {
    let mut script = Script::new(FAST, none(12));
    for _ in 0..3000 {
        script.says(Message::Unknown { id: 99, len: 3 }).unwrap();
        script.now += Duration::from_secs(12);
        let (now, mut rng) = (script.now, script.rng.clone());
        script.torrent.tick(now, &mut rng);
    }
}

#[test]
fn allowed_fast_is_served_while_choked_and_not_for_ever() {
    let mut script = Script::new(FAST, Bitfield::full(1000));
    let allowed = script.torrent.peer(script.key).allowed_out.clone();
    assert_eq!(allowed.len(), 10);
    assert_eq!(script.out().iter().filter(|message| *message == "AllowedFast").count(), 10);
    let served = (0..1000)
        .filter(|n| {
            let block = script.block(allowed[n % 10].0, *n as u32 / 10 % 4);
            script.says(Message::Request(block)).unwrap();
            script.torrent.next_upload(script.key).is_some()
        })
        .count();
    assert_eq!(served, 2 * 10 * 4);
    // Hints are bounded.
    let mut hints = Script::new(FAST, none(1000));
    (0..1000).for_each(|piece| hints.says(Message::AllowedFast(PieceIndex(piece))).unwrap());
    (0..1000).for_each(|piece| hints.says(Message::Suggest(PieceIndex(piece))).unwrap());
    let peer = hints.torrent.peer(hints.key);
    assert!(peer.allowed_in.len() <= 64 && peer.suggested.len() <= 64);
}

#[test]
fn allowed_fast_is_used_while_choked_until_rejected() {
    let mut script = Script::new(FAST, none(12));
    script.says(Message::HaveAll).unwrap();
    script.says(Message::AllowedFast(PieceIndex(5))).unwrap();
    assert_eq!(script.out().iter().filter(|message| *message == "Request").count(), 4);
    for nth in 0..4 {
        let block = script.block(5, nth);
        assert_eq!(script.says(Message::Reject(block)), Ok(()));
    }
    assert!(script.out().is_empty(), "it is asked again");
}

#[test]
fn flapping_neither_stalls_nor_accumulates() {
    for reserved in [FAST, crate::wire::Reserved::NONE] {
        let mut script = Script::new(reserved, none(12));
        script.says(Message::Bitfield(Bitfield::full(12).as_wire())).unwrap();
        for _ in 0..1000 {
            script.says(Message::Unchoke).unwrap();
            script.out();
            script.says(Message::Choke).unwrap();
            script.torrent.picker().check_invariants();
        }
        script.says(Message::Unchoke).unwrap();
        script.out();
        assert_eq!(script.torrent.peer(script.key).outstanding.len(), 16);
        // Interest that comes and goes makes no more than one early round.
        script.says(Message::Interested).unwrap();
        assert!(script.torrent.wants_choke_round());
        script.torrent.choke_round(script.now, &mut script.rng.clone());
        for _ in 0..100 {
            script.says(Message::NotInterested).unwrap();
            script.says(Message::Interested).unwrap();
            assert!(!script.torrent.wants_choke_round());
        }
    }
}

/// Given up for a snub, the block is asked of another, beside its place, while the first one's receive may still write
/// there: whoever copies it to its place has to hear of that receive again.
#[test]
fn a_block_that_comes_before_its_release_names_the_receive_to_wait_for() {
    let mut script = Script::new(FAST, none(1));
    script.says(Message::HaveAll).unwrap();
    script.says(Message::Unchoke).unwrap();
    script.out();
    let (snub, block) = (script.key, script.block(0, 0));
    script.now += Duration::from_secs(70);
    let (now, mut rng) = (script.now, script.rng.clone());
    script.torrent.tick(now, &mut rng);
    let retracted = TorrentEvent::Retract { peer: snub, block, release: true };
    assert!(std::iter::from_fn(|| script.torrent.poll_event()).any(|event| event == retracted));
    assert_eq!(script.torrent.picker().requesters(block), 1);

    let addr = "10.0.0.2:1".parse().unwrap();
    let info = PeerInfo { addr, id: PeerId([3; 20]), reserved: FAST, incoming: false };
    script.key = script.torrent.connected(now, info);
    script.says(Message::HaveAll).unwrap();
    script.says(Message::Unchoke).unwrap();
    script.out();
    assert_eq!(script.torrent.begin_block(script.key, block), Ok(BlockPlace::Aside));
    assert!(script.torrent.end_block(now, script.key, block));
    let again = TorrentEvent::Retract { peer: snub, block, release: false };
    assert!(std::iter::from_fn(|| script.torrent.poll_event()).any(|event| event == again));
    // The late release and the late block change nothing.
    script.torrent.released(snub, block);
    assert_eq!(script.torrent.begin_block(snub, block), Ok(BlockPlace::Discard));
    script.torrent.picker().check_invariants();
}

#[test]
fn silence_ends_and_keep_alives_go_out() {
    let mut script = Script::new(FAST, none(12));
    script.out();
    for second in 0..152 {
        let now = script.now + Duration::from_secs(second);
        script.torrent.tick(now, &mut script.rng.clone());
    }
    assert_eq!(script.out(), ["KeepAlive"]);
    let closed = std::iter::from_fn(|| script.torrent.poll_event());
    assert!(closed.eq([TorrentEvent::Close(script.key, PeerFault::Silent)]));
}

#[test]
fn nothing_is_due_between_keep_alives_unless_somebody_wants_something() {
    let mut script = Script::new(FAST, none(12));
    script.out();
    let (now, mut rng) = (script.now, script.rng.clone());
    script.torrent.tick(now, &mut rng);
    assert_eq!(script.torrent.next_tick(now), Some(now + Duration::from_secs(100)));
    script.says(Message::Interested).unwrap();
    assert!(script.torrent.next_tick(now).is_some_and(|at| at <= now));
    script.torrent.tick(now, &mut rng);
    let round = Duration::from_secs(10);
    assert_eq!(script.torrent.next_tick(now), Some(now + round), "it is served until the next round");
    script.says(Message::NotInterested).unwrap();
    for nth in 1..=2 {
        script.torrent.tick(now + nth * round, &mut rng);
    }
    script.out();
    assert_eq!(script.torrent.next_tick(now), Some(now + Duration::from_secs(100)), "nobody wants anything");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever the order of bytes, connections that break at any point, chokes and misbehaviour of some: the pickers
    /// stay consistent, nobody honest is banned, and as long as an honest seed stays the download completes.
    #[test]
    fn any_interleaving_ends_well(
        seed: u64,
        manners in prop::collection::vec(prop_oneof![
            3 => Just(Manner::Honest), 1 => Just(Manner::Liar), 1 => Just(Manner::Snub), 1 => Just(Manner::Refuses),
        ], 0..4),
        leeches in 1usize..3,
        fast: bool,
        mtu in 1_000usize..60_000,
        breaks in 0u32..60,
        slots in 1usize..4,
        memory in 1usize..9,
    ) {
        let reserved = if fast { FAST } else { crate::wire::Reserved::NONE };
        let mut swarm = Swarm::new(seed, 7);
        swarm.mtu = mtu;
        let mut settings = config();
        settings.choker.slots = slots;
        settings.choker.optimistic = 1;
        settings.choker.optimistic_interval = Duration::from_secs(2);
        let honest = swarm.node(settings.clone(), Manner::Honest, |_| true);
        manners.iter().for_each(|manner| _ = swarm.node(settings.clone(), *manner, |_| true));
        let first = swarm.nodes.len();
        for _ in 0..leeches {
            let node = swarm.node(settings.clone(), Manner::Honest, |_| false);
            swarm.nodes[node].memory_max = memory;
        }
        let mut open: Vec<(usize, usize, usize)> = Vec::new();
        for a in first..swarm.nodes.len() {
            (0..a).for_each(|b| open.push((a, b, swarm.connect(a, b, reserved))));
        }
        for _ in 0..breaks {
            (0..swarm.roll(12)).for_each(|_| swarm.step(50 * MS));
            let at = swarm.roll(open.len() as u32) as usize;
            let (a, b, conn) = open[at];
            swarm.disconnect(conn);
            if !swarm.nodes[a].bans.contains(&Swarm::ip(b)) && swarm.nodes[a].torrent.peer_count() < 20 {
                open[at].2 = swarm.connect(a, b, reserved);
            }
        }
        for a in first..swarm.nodes.len() {
            let (.., conn) = *open.iter().find(|(x, y, _)| (*x, *y) == (a, honest)).unwrap();
            if !swarm.is_open(conn) && !swarm.nodes[a].torrent.is_finished() {
                swarm.connect(a, honest, reserved);
            }
        }
        let done = |swarm: &Swarm| swarm.nodes[first..].iter().all(|node| node.torrent.is_finished());
        prop_assert!(done(&swarm) || swarm.run(200 * MS, 6000, done), "the download stalls");
        for node in first..swarm.nodes.len() {
            swarm.assert_complete(node);
            for ip in &swarm.nodes[node].bans {
                let liar = (0..swarm.nodes.len()).find(|other| Swarm::ip(*other) == *ip).unwrap();
                prop_assert_eq!(swarm.nodes[liar].manner, Manner::Liar);
            }
        }
    }
}
