//! Networks of hundreds of DHT nodes: virtual clock, delay, loss, churn and liars, all from one seed.
//!
//! Fault model: every datagram takes 10 to 150 ms, so they overtake each other; one in twenty is lost. Nodes vanish without
//! a word and others come. Liars have names that do not fit their addresses, tell of nodes that are ever nearer and do not
//! exist, and answer to whoever asks them also in the names of others.

mod many;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ccbt_protocol::dht::krpc::{Answer, Body, Message, Query};
use ccbt_protocol::dht::{
    Announce, Contact, Dht, DhtConfig, Event, Goal, Item, NodeId, Saved, SearchId, items::mutable_target,
};
use ccbt_protocol::ids::InfoHash;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

const LOSS: f64 = 0.05;
const DELAY_MS: std::ops::Range<u64> = 10..150;

struct Node {
    /// `None`: a liar.
    dht: Option<Dht>,
    addrs: [Option<SocketAddr>; 2],
    alive: bool,
    wake: Option<Instant>,
    events: Vec<Event>,
    /// What a liar was told to store.
    trusted: usize,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Wake(usize),
    Datagram { from: SocketAddr, to: SocketAddr, bytes: Vec<u8> },
}

struct Net {
    nodes: Vec<Node>,
    at: HashMap<SocketAddr, usize>,
    queue: BinaryHeap<Reverse<(Instant, u64, What)>>,
    sequence: u64,
    now: Instant,
    rng: SmallRng,
    datagrams: u64,
}

fn v4(n: usize) -> SocketAddr {
    // Far apart, so that names that fit are far apart too.
    let n = (n as u32 + 1).wrapping_mul(0x9e37_79b1);
    let ip = [20 + (n >> 24) as u8 % 100, (n >> 16) as u8, (n >> 8) as u8, n as u8];
    SocketAddr::new(IpAddr::from(ip), 6881)
}

fn v6(n: usize) -> SocketAddr {
    let n = (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let ip = (0x2001_u128 << 112) | (u128::from(n) << 48) | 1;
    SocketAddr::new(IpAddr::V6(ip.into()), 6881)
}

impl Net {
    fn new(seed: u64) -> Self {
        Self {
            nodes: Vec::new(),
            at: HashMap::new(),
            queue: BinaryHeap::new(),
            sequence: 0,
            now: Instant::now(),
            rng: SmallRng::seed_from_u64(seed),
            datagrams: 0,
        }
    }

    /// A node that begins at two of those that are there.
    fn join(&mut self, families: [bool; 2], is_liar: bool) -> usize {
        let index = self.nodes.len();
        let addrs = [families[0].then(|| v4(index)), families[1].then(|| v6(index))];
        let id =
            |addr: Option<SocketAddr>, rng: &mut SmallRng| addr.map(|addr| NodeId::for_ip(addr.ip(), rng));
        let saved =
            Saved { ids: [id(addrs[0], &mut self.rng), id(addrs[1], &mut self.rng)], nodes: Vec::new() };
        let mut dht = Dht::new(self.now, &DhtConfig { families, read_only: false, saved }, &mut self.rng);
        for family in (0..2).filter(|family| families[*family]) {
            let there: Vec<SocketAddr> =
                self.nodes.iter().filter(|node| node.alive).filter_map(|node| node.addrs[family]).collect();
            if !there.is_empty() {
                let some = (0..2).map(|_| there[self.rng.random_range(0..there.len())]);
                dht.enter_by(self.now, some.collect::<Vec<_>>());
            }
        }
        for addr in addrs.iter().flatten() {
            assert!(self.at.insert(*addr, index).is_none(), "an address twice");
        }
        let dht = (!is_liar).then_some(dht);
        self.nodes.push(Node { dht, addrs, alive: true, wake: None, events: Vec::new(), trusted: 0 });
        self.after(index);
        index
    }

    fn push(&mut self, at: Instant, what: What) {
        self.sequence += 1;
        self.queue.push(Reverse((at, self.sequence, what)));
    }

    fn send(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        self.datagrams += 1;
        if !self.rng.random_bool(LOSS) {
            let delay = Duration::from_millis(self.rng.random_range(DELAY_MS));
            self.push(self.now + delay, What::Datagram { from, to, bytes });
        }
    }

    /// Sends what a node has to send, and has it woken in time.
    fn after(&mut self, index: usize) {
        let Some(dht) = &mut self.nodes[index].dht else { return };
        let mut out = Vec::new();
        while let Some(transmit) = dht.poll_transmit() {
            out.push(transmit);
        }
        let events: Vec<Event> = std::iter::from_fn(|| dht.poll_event()).collect();
        let wake = dht.next_wakeup(self.now);
        self.nodes[index].events.extend(events);
        for transmit in out {
            let from =
                self.nodes[index].addrs[usize::from(transmit.to.is_ipv6())].expect("it has that family");
            self.send(from, transmit.to, transmit.bytes);
        }
        if self.nodes[index].wake.is_none_or(|at| at > wake) {
            self.nodes[index].wake = Some(wake);
            self.push(wake, What::Wake(index));
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(Reverse((at, ..))) = self.queue.peek()
            && *at <= end
        {
            let Some(Reverse((at, _, what))) = self.queue.pop() else { break };
            self.now = at;
            match what {
                What::Wake(index) => {
                    let node = &mut self.nodes[index];
                    node.wake = None;
                    if let Some(dht) = node.dht.as_mut().filter(|_| node.alive) {
                        dht.tick(at, &mut self.rng);
                        self.after(index);
                    }
                }
                What::Datagram { from, to, bytes } => self.deliver(from, to, &bytes),
            }
        }
        self.now = end;
    }

    fn deliver(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let Some(&index) = self.at.get(&to) else { return };
        let node = &mut self.nodes[index];
        if !node.alive {
            return;
        }
        match &mut node.dht {
            Some(dht) => {
                dht.handle(self.now, from, bytes, &mut self.rng);
                self.after(index);
            }
            None => self.lie(index, from, to, bytes),
        }
    }

    /// A liar's answer.
    fn lie(&mut self, index: usize, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let Ok(Message { transaction, body: Body::Query { query, .. } }) = Message::decode(bytes) else {
            return;
        };
        let target = match query {
            Query::FindNode { target, .. } | Query::Get { target, .. } => target,
            Query::GetPeers { info_hash, .. } => info_hash.into(),
            Query::AnnouncePeer { .. } | Query::Put { .. } => {
                self.nodes[index].trusted += 1;
                return;
            }
            _ => NodeId::random(&mut self.rng),
        };
        let mut nodes = Vec::new();
        for _ in 0..8 {
            let (bits, rng) = (self.rng.random_range(30..150), &mut self.rng);
            let addr = match rng.random_bool(0.5) {
                true => SocketAddr::from((rng.random::<[u8; 4]>(), 9)),
                // Another liar, under a name that it will not know of.
                false => self.nodes[rng.random_range(0..self.nodes.len())].addrs[0].unwrap_or(to),
            };
            nodes.push(Contact { id: target.random_sharing(bits, rng), addr });
        }
        // A fresh name near the target each time: it can be nobody else's, and never fits.
        let id = target.random_sharing(self.rng.random_range(20..160), &mut self.rng);
        let answer = Answer { nodes, token: Some(vec![6; 8]), ..Answer::default() };
        let body =
            Body::Answer { id, ip: Some(SocketAddr::from(([6, 6, 6, 6], 6))), answer: Box::new(answer) };
        let lie = Message { transaction: transaction.clone(), body };
        self.send(to, from, lie.encode());
        // In the names of others: the right transaction from a wrong address, a wrong one from a right address.
        let victim = v4(self.rng.random_range(0..200));
        self.send(victim, from, lie.encode());
        let guess = self.rng.random::<u32>().to_be_bytes().to_vec();
        self.send(victim, from, Message { transaction: guess, ..lie }.encode());
    }

    fn start(&mut self, index: usize, goal: Goal) -> SearchId {
        let dht = self.nodes[index].dht.as_mut().expect("an honest one");
        let search = dht.start(self.now, goal, &mut self.rng).expect("there is room");
        self.after(index);
        search
    }

    /// How many nodes stored what a search was to store, once it is over.
    fn stored(&self, index: usize, id: SearchId) -> Option<usize> {
        self.nodes[index].events.iter().find_map(|event| match event {
            Event::Done { search, stored, .. } if *search == id => Some(*stored),
            _ => None,
        })
    }

    fn found(&self, index: usize, id: SearchId) -> Vec<SocketAddr> {
        let peers = self.nodes[index].events.iter().filter_map(|event| match event {
            Event::Peers(search, peers) if *search == id => Some(peers),
            _ => None,
        });
        peers.flatten().copied().collect()
    }

    fn honest(&self) -> Vec<usize> {
        let nodes = self.nodes.iter().enumerate();
        nodes.filter(|(_, node)| node.alive && node.dht.is_some()).map(|(index, _)| index).collect()
    }

    fn some_honest(&mut self) -> usize {
        let honest = self.honest();
        honest[self.rng.random_range(0..honest.len())]
    }

    /// One vanishes, one comes.
    fn churn(&mut self) {
        let gone = self.some_honest();
        self.nodes[gone].alive = false;
        self.join([true, false], false);
    }
}

fn hash(n: u8) -> InfoHash {
    InfoHash(std::array::from_fn(|at| n.wrapping_mul(31).wrapping_add(at as u8 * 7)))
}

fn peers(n: u8, port: u16) -> Goal {
    Goal::Peers { info_hash: hash(n), announce: Some(Announce { port: Some(port), seed: false }) }
}

fn seek(n: u8) -> Goal {
    Goal::Peers { info_hash: hash(n), announce: None }
}

/// Every fourth is a liar if there are liars.
fn grown(seed: u64, count: usize, liars: bool) -> Net {
    let mut net = Net::new(seed);
    for n in 0..count {
        net.join([true, false], liars && n % 4 == 3);
        net.run(Duration::from_millis(200));
    }
    net.run(Duration::from_secs(120));
    net
}

/// Announces of `torrents` torrents by one node each, and the share of look-ups by others that find them.
fn success(net: &mut Net, torrents: u8, mut meanwhile: impl FnMut(&mut Net)) -> f64 {
    let mut announcers = Vec::new();
    for n in 0..torrents {
        let index = net.some_honest();
        let search = net.start(index, peers(n, 1000 + u16::from(n)));
        announcers.push((index, search));
        meanwhile(net);
        net.run(Duration::from_secs(2));
    }
    net.run(Duration::from_secs(60));
    let mut seekers = Vec::new();
    for n in 0..torrents {
        for _ in 0..3 {
            let index = net.some_honest();
            seekers.push((n, index, net.start(index, seek(n))));
        }
        meanwhile(net);
        net.run(Duration::from_secs(2));
    }
    net.run(Duration::from_secs(60));
    for (index, search) in &announcers {
        assert!(!net.nodes[*index].alive || net.stored(*index, *search).is_some(), "a search without an end");
    }
    seekers.retain(|(_, index, _)| net.nodes[*index].alive);
    let is_found = |(n, index, search): &&(u8, usize, SearchId)| {
        let (announcer, _) = announcers[usize::from(*n)];
        let ip = net.nodes[announcer].addrs[0].expect("an address").ip();
        net.found(*index, *search).contains(&SocketAddr::new(ip, 1000 + u16::from(*n)))
    };
    seekers.iter().filter(is_found).count() as f64 / seekers.len() as f64
}

#[test]
fn announced_peers_are_found_and_stored_where_they_belong() {
    let mut net = grown(1, 220, false);
    let tables: usize =
        net.nodes.iter().map(|node| node.dht.as_ref().expect("honest").stats().nodes[0]).sum();
    assert!(tables > 220 * 20, "{tables} nodes in all tables");
    let found = success(&mut net, 20, |_| {});
    assert!(found > 0.99, "{found}");
    // The nodes that store a torrent are those nearest to it, of all there are.
    let (mut right, mut all) = (0, 0);
    for n in 0..20 {
        let target = NodeId::from(hash(n));
        let id = |index: &usize| net.nodes[*index].dht.as_ref().and_then(|dht| dht.id(0)).expect("a name");
        let mut order = net.honest();
        order.sort_by_key(|index| id(index).distance(&target));
        let holders: Vec<usize> = order[..8].to_vec();
        let search = seek(n);
        let index = net.some_honest();
        let search = net.start(index, search);
        net.run(Duration::from_secs(20));
        assert!(!net.found(index, search).is_empty());
        for holder in holders {
            let query = Query::GetPeers {
                info_hash: hash(n),
                want: Default::default(),
                no_seeds: false,
                scrape: false,
            };
            let body = Body::Query { id: NodeId([1; 20]), read_only: true, query };
            let bytes = Message { transaction: vec![1], body }.encode();
            let (now, dht) = (net.now, net.nodes[holder].dht.as_mut().expect("honest"));
            dht.handle(now, "203.0.113.1:9".parse().expect("an address"), &bytes, &mut net.rng);
            let stores = std::iter::from_fn(|| dht.poll_transmit()).any(|transmit| {
                let message = Message::decode(&transmit.bytes).expect("we write well");
                matches!(message.body, Body::Answer { answer, .. } if !answer.values.is_empty())
            });
            net.now += Duration::from_secs(10);
            (right, all) = (right + usize::from(stores), all + 1);
        }
    }
    assert!(right * 10 > all * 8, "{right} of {all}");
}

#[test]
fn churn_does_not_lose_what_was_announced() {
    let mut net = grown(2, 200, false);
    // Each torrent sees two nodes replaced, four in ten in the end, and some who look have only just come.
    let found = success(&mut net, 40, |net| net.churn());
    assert!(found > 0.9, "{found}");
    // An hour of rest with churn: tables are kept in order.
    for _ in 0..120 {
        net.churn();
        net.run(Duration::from_secs(30));
    }
    let found = success(&mut net, 10, |_| {});
    assert!(found > 0.95, "{found}");
}

#[test]
fn liars_do_not_break_it() {
    let mut net = grown(3, 240, true);
    let found = success(&mut net, 20, |_| {});
    assert!(found > 0.95, "{found}");
    let trusted: usize = net.nodes.iter().map(|node| node.trusted).sum();
    assert_eq!(trusted, 0, "nothing is stored where names do not fit (BEP 42)");
    for node in net.nodes.iter().filter_map(|node| node.dht.as_ref()) {
        assert!(
            node.id(0).is_some_and(|id| !id.fits("6.6.6.6".parse().expect("an address"))),
            "what liars say of us"
        );
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    let run = |seed| {
        let mut net = grown(seed, 60, true);
        let found = success(&mut net, 3, |_| {});
        (net.datagrams, net.sequence, found.to_bits())
    };
    assert_eq!(run(9), run(9));
    assert_ne!(run(9), run(10));
}

#[test]
fn families_help_each_other() {
    let mut net = Net::new(4);
    for n in 0..200 {
        net.join([[true, false], [true, true], [false, true], [true, true]][n % 4], false);
        net.run(Duration::from_millis(200));
    }
    net.run(Duration::from_secs(120));
    // One of both families announces in both, whoever has one of them finds it there.
    let both = net.start(1, peers(1, 77));
    net.run(Duration::from_secs(30));
    assert!(net.stored(1, both).is_some_and(|stored| stored > 8), "eight in each: {:?}", net.stored(1, both));
    for seeker in [40, 42, 41] {
        let search = net.start(seeker, seek(1));
        net.run(Duration::from_secs(30));
        let found = net.found(seeker, search);
        for family in 0..2 {
            let expected =
                net.nodes[1].addrs[family].map(|addr| SocketAddr::new(addr.ip(), 77)).expect("an address");
            let has = net.nodes[seeker].addrs[family].is_some();
            assert_eq!(found.contains(&expected), has, "{found:?}");
        }
    }
}

#[test]
fn values_scrapes_and_samples() {
    let mut net = grown(5, 200, true);
    let secret = [5; 32];
    let value = |seq: i64| Item::mutable(&secret, b"s", seq, format!("i{seq}e").into_bytes()).expect("short");
    let key = value(1).signed.expect("signed").key;
    let writer = net.some_honest();
    for seq in 1..=2 {
        let search = net.start(writer, Goal::Put { item: Box::new(value(seq)), cas: None });
        net.run(Duration::from_secs(30));
        assert!(net.stored(writer, search).is_some_and(|stored| stored >= 4));
    }
    let fixed = Item::immutable(b"5:fixed".to_vec()).expect("short");
    net.start(writer, Goal::Put { item: Box::new(fixed.clone()), cas: None });
    for _ in 0..60 {
        let index = net.some_honest();
        net.start(index, peers(7, 80));
        net.run(Duration::from_secs(1));
    }
    net.run(Duration::from_secs(60));
    let reader = net.some_honest();
    net.nodes[reader].events.clear();
    let target = mutable_target(&key, b"s");
    let mutable = net.start(reader, Goal::Get { target, salt: b"s".to_vec() });
    let immutable = net.start(reader, Goal::Get { target: fixed.target(), salt: Vec::new() });
    let nothing = net.start(reader, Goal::Get { target: NodeId([9; 20]), salt: Vec::new() });
    let scrape = net.start(reader, Goal::Scrape(hash(7)));
    let sample = net.start(reader, Goal::Sample(hash(7).into()));
    net.run(Duration::from_secs(60));
    let events = &net.nodes[reader].events;
    let item = |id: SearchId| {
        events.iter().find_map(|event| match event {
            Event::Found(search, item) if *search == id => Some(item.value.clone()),
            _ => None,
        })
    };
    assert_eq!(item(mutable), Some(b"i2e".to_vec()), "the newest");
    assert_eq!(item(immutable), Some(b"5:fixed".to_vec()));
    assert_eq!(item(nothing), None);
    let counted = events.iter().find_map(|event| match event {
        Event::Scraped(search, seeds, peers) if *search == scrape => Some((*seeds, *peers)),
        _ => None,
    });
    let (seeds, others) = counted.expect("scraped");
    // Sixty draws of 150 honest nodes are about fifty different ones.
    assert!(seeds < 1.0 && (30.0..65.0).contains(&others), "{seeds} {others}");
    let sampled = |event: &Event| match event {
        Event::Samples(search, _, samples) => *search == sample && samples.hashes.contains(&hash(7)),
        _ => false,
    };
    assert!(events.iter().any(sampled));
}
