//! What must hold for a magnet whatever its peers say and in whatever order they come and go: metadata that is told has the
//! right hash, requests go to peers that are there, and memory is bounded. Run by the fuzz target and over the corpus.
//!
//! Input: operations of two bytes, what and who, some with more bytes behind them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ccbt_protocol::fetching::{Fetching, FetchingEvent};
use ccbt_protocol::ids::{InfoHash, PeerId};
use ccbt_protocol::metadata::{MetadataMessage, NAME, PIECE_LEN};
use ccbt_protocol::peer::PeerInfo;
use ccbt_protocol::picker::PeerKey;
use ccbt_protocol::wire::extension::{ExtensionHandshake, UT_METADATA, UT_PEX};
use ccbt_protocol::wire::handshake::Reserved;
use ccbt_protocol::wire::message::Message;

/// Bytes of the true metadata: three pieces.
const LEN: usize = 2 * PIECE_LEN as usize + 100;
/// SHA-1 of [`metadata`], so that targets need no hash of their own.
const HASH: &str = "0b917014ed3f2ff5593b1bdbc8006b8671b63e4f";
const PEERS: u8 = 8;

fn metadata() -> Vec<u8> {
    (0..LEN).map(|at| (at % 251) as u8).collect()
}

struct World {
    now: Instant,
    fetching: Fetching,
    /// Place to connection.
    peers: BTreeMap<u8, PeerKey>,
    done: bool,
}

/// Panics when an invariant breaks.
pub fn run(data: &[u8]) {
    let info_hash: InfoHash = HASH.parse().expect("an info-hash");
    let mut world = World {
        now: Instant::now(),
        fetching: Fetching::new(info_hash, PeerId([9; 20]), 6881, data.len().is_multiple_of(2)),
        peers: BTreeMap::new(),
        done: false,
    };
    let mut rest = data;
    while let [what, who, tail @ ..] = rest {
        rest = tail;
        world.step(*what, who % PEERS, &mut rest);
        world.settle();
    }
}

impl World {
    fn step(&mut self, what: u8, who: u8, rest: &mut &[u8]) {
        let mut take = |len: usize| {
            let (taken, left) = rest.split_at(len.min(rest.len()));
            *rest = left;
            taken
        };
        let Some(&key) = self.peers.get(&who) else {
            return self.join(who, what);
        };
        match what % 9 {
            0 => self.leave(who),
            1 => {
                self.now += Duration::from_secs(u64::from(who) * 3);
                self.fetching.tick(self.now);
            }
            2 => {
                let size = match take(1) {
                    [0] => u32::MAX,
                    [size] if size % 2 == 0 => u32::from(*size) * 1000,
                    _ => LEN as u32,
                };
                let hello = ExtensionHandshake {
                    metadata_size: Some(size),
                    messages: vec![(NAME.to_owned(), 5)],
                    ..ExtensionHandshake::default()
                };
                self.say(who, key, Message::Extended { id: 0, payload: &hello.encode() });
            }
            // Pieces of the true metadata, and others.
            3..=5 => {
                let piece = u32::from(what >> 4) % 4;
                let all = metadata();
                let start = (piece as usize * PIECE_LEN as usize).min(LEN);
                let mut bytes = all[start..LEN.min(start + PIECE_LEN as usize)].to_vec();
                if let (5, Some(first)) = (what % 9, bytes.first_mut()) {
                    *first ^= 1 + who;
                }
                let data = MetadataMessage::Data { piece, total_size: Some(LEN as u32), bytes: &bytes };
                self.say(who, key, Message::Extended { id: UT_METADATA, payload: &data.encode() });
            }
            6 => {
                let reject = MetadataMessage::Reject(u32::from(what >> 4)).encode();
                self.say(who, key, Message::Extended { id: UT_METADATA, payload: &reject });
            }
            7 => {
                let payload = take(usize::from(what)).to_vec();
                let id = [0, UT_METADATA, UT_PEX, 77][usize::from(what >> 6)];
                self.say(who, key, Message::Extended { id, payload: &payload });
            }
            _ => {
                let messages =
                    [Message::HaveAll, Message::Unchoke, Message::Bitfield(&[7; 300]), Message::Choke];
                self.say(who, key, messages[usize::from(what >> 6)]);
            }
        }
    }

    fn join(&mut self, who: u8, what: u8) {
        let id = PeerId([who; 20]);
        if self.fetching.has_id(id) {
            return;
        }
        let reserved = if what == 255 { Reserved::NONE } else { Reserved::NONE.with_fast().with_extension() };
        let addr = SocketAddr::new([10, 0, 0, who / 2].into(), 1000 + u16::from(who));
        let key = self.fetching.connected(self.now, PeerInfo { addr, id, reserved, incoming: what % 2 == 1 });
        self.peers.insert(who, key);
    }

    fn leave(&mut self, who: u8) {
        if let Some(key) = self.peers.remove(&who) {
            self.fetching.gone(self.now, key);
        }
    }

    fn say(&mut self, who: u8, key: PeerKey, message: Message<'_>) {
        if self.fetching.message(self.now, key, message).is_err() {
            self.leave(who);
        }
    }

    fn settle(&mut self) {
        while let Some(event) = self.fetching.poll_event() {
            match event {
                FetchingEvent::Complete(bytes) => {
                    assert!(!self.done && bytes == metadata(), "told once, and only the truth");
                    self.done = true;
                }
                FetchingEvent::Close(key, _) => {
                    let place = self.peers.iter().find(|(_, peer)| **peer == key).map(|(who, _)| *who);
                    place.into_iter().for_each(|who| self.leave(who));
                }
                FetchingEvent::Ban(ip) => {
                    let is_theirs = |who: &u8| ip == std::net::IpAddr::from([10, 0, 0, who / 2]);
                    let theirs: Vec<u8> = self.peers.keys().copied().filter(is_theirs).collect();
                    theirs.into_iter().for_each(|who| self.leave(who));
                }
                FetchingEvent::Peers(peers) => assert!(peers.len() <= 100),
                FetchingEvent::OwnAddress(..) => {}
            }
        }
        for key in self.fetching.take_dirty() {
            assert!(self.peers.values().any(|peer| *peer == key), "a peer that is gone is spoken to");
            assert!(self.fetching.out(self.now, key).len() < 64 * 1024);
        }
        let progress = self.fetching.progress();
        assert!(progress.received <= progress.total.max(1) && progress.peers <= self.peers.len());
    }
}
