//! What must hold for any datagrams: the codec's round trip, and a node that is sent them one after the other. Datagrams
//! are separated by a line feed; one that begins with `!` has its transaction id replaced by that of the node's last query,
//! so that it is taken for an answer. Run by the fuzz target and over the corpus by tests.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ccbt_protocol::dht::krpc::{Body, DATAGRAM_MAX, Message};
use ccbt_protocol::dht::{Dht, DhtConfig, Goal, NodeId, Saved};
use ccbt_protocol::ids::InfoHash;
use ccbt_protocol::lsd;
use rand::SeedableRng;
use rand::rngs::SmallRng;

/// Panics when an invariant breaks.
pub fn run(data: &[u8]) {
    if let Ok(message) = Message::decode(data) {
        assert_eq!(Message::decode(&message.encode()), Ok(message), "a message that is not what was written");
    }
    if let Some(saved) = Saved::decode(data) {
        assert_eq!(Saved::decode(&saved.encode()), Some(saved));
    }
    if let Some(announce) = lsd::Announce::parse(data) {
        assert_eq!(lsd::Announce::parse(&announce.write(false)), Some(announce));
    }
    live(data);
}

/// A node that is told all of this.
fn live(data: &[u8]) {
    let (mut rng, mut now) = (SmallRng::seed_from_u64(1), Instant::now());
    let config = DhtConfig { families: [true, true], read_only: false, saved: Saved::default() };
    let mut dht = Dht::new(now, &config, &mut rng);
    dht.enter_by(now, [SocketAddr::from(([8, 8, 8, 8], 1)), SocketAddr::from(([8, 8, 4, 4], 2))]);
    let goals = [
        Goal::Peers { info_hash: InfoHash([1; 20]), announce: None },
        Goal::Get { target: NodeId([2; 20]), salt: Vec::new() },
        Goal::Sample(NodeId([3; 20])),
    ];
    for goal in goals {
        dht.start(now, goal, &mut rng);
    }
    let mut asked: Vec<(SocketAddr, Vec<u8>)> = Vec::new();
    for (count, line) in data.split(|byte| *byte == b'\n').take(64).enumerate() {
        while let Some(transmit) = dht.poll_transmit() {
            assert!(transmit.bytes.len() <= DATAGRAM_MAX, "longer than we would read");
            let message = Message::decode(&transmit.bytes).expect("we write well");
            if matches!(message.body, Body::Query { .. }) {
                asked.push((transmit.to, message.transaction));
            }
        }
        match (line.strip_prefix(b"!"), asked.pop()) {
            (Some(line), Some((from, transaction))) => {
                if let Ok(mut message) = Message::decode(line) {
                    message.transaction = transaction;
                    dht.handle(now, from, &message.encode(), &mut rng);
                }
            }
            _ => dht.handle(now, SocketAddr::from(([9, 9, 9, count as u8], 7)), line, &mut rng),
        }
        while dht.poll_event().is_some() {}
        now += Duration::from_millis(700);
        dht.tick(now, &mut rng);
        assert!(dht.next_wakeup(now) >= now);
    }
    let saved = dht.save();
    assert_eq!(Saved::decode(&saved.encode()), Some(saved));
}
