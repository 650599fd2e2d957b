//! One node against datagrams written by hand. Whole networks are in `tests/dht.rs`.

use super::*;
use crate::dht::krpc::{Answer, Item, Want, code};
use crate::ids::InfoHash;
use rand::SeedableRng;
use rand::rngs::SmallRng;

struct Rig {
    dht: Dht,
    now: Instant,
    rng: SmallRng,
}

const HASH: InfoHash = InfoHash([0xab; 20]);

fn addr(n: u8) -> SocketAddr {
    SocketAddr::from(([8, 8, n, 8], 6881))
}

fn asker(n: u8) -> Contact {
    Contact { id: NodeId::for_ip(addr(n).ip(), &mut SmallRng::seed_from_u64(n.into())), addr: addr(n) }
}

impl Rig {
    fn new(change: impl FnOnce(&mut DhtConfig)) -> Self {
        let (mut rng, now) = (SmallRng::seed_from_u64(7), Instant::now());
        let mut config = DhtConfig { families: [true, true], read_only: false, saved: Saved::default() };
        change(&mut config);
        Self { dht: Dht::new(now, &config, &mut rng), now, rng }
    }

    fn sent(&mut self) -> Vec<(SocketAddr, Message)> {
        let all = std::iter::from_fn(|| self.dht.poll_transmit());
        all.map(|transmit| (transmit.to, Message::decode(&transmit.bytes).expect("we write well"))).collect()
    }

    fn give(&mut self, from: SocketAddr, message: &Message) -> Vec<(SocketAddr, Message)> {
        self.dht.handle(self.now, from, &message.encode(), &mut self.rng);
        self.sent()
    }

    /// What a node answers to a query.
    fn ask_as(&mut self, contact: Contact, read_only: bool, query: Query) -> Option<Body> {
        let body = Body::Query { id: contact.id, read_only, query };
        let sent = self.give(contact.addr, &Message { transaction: b"xy".to_vec(), body });
        let mut answers =
            sent.into_iter().filter(|(to, message)| *to == contact.addr && message.transaction == b"xy");
        answers.next().map(|(_, message)| message.body)
    }

    fn ask(&mut self, n: u8, query: Query) -> Result<Answer, i64> {
        match self.ask_as(asker(n), false, query).expect("an answer") {
            Body::Answer { answer, ip, .. } => {
                assert_eq!(ip, Some(addr(n)), "BEP 42");
                Ok(*answer)
            }
            Body::Error { code, .. } => Err(code),
            query => panic!("{query:?}"),
        }
    }

    fn pass(&mut self, time: Duration) -> Vec<(SocketAddr, Message)> {
        self.now += time;
        self.dht.tick(self.now, &mut self.rng);
        self.sent()
    }

    /// Answers a query of the node's as `contact`.
    fn answer(&mut self, contact: Contact, query: &Message, answer: Answer) -> Vec<(SocketAddr, Message)> {
        let body = Body::Answer { id: contact.id, ip: None, answer: Box::new(answer) };
        self.give(contact.addr, &Message { transaction: query.transaction.clone(), body })
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.dht.poll_event()).collect()
    }
}

fn get_peers(scrape: bool) -> Query {
    Query::GetPeers { info_hash: HASH, want: Want::default(), no_seeds: false, scrape }
}

fn announce(token: &[u8], seed: bool) -> Query {
    Query::AnnouncePeer { info_hash: HASH, port: Some(99), seed, token: token.to_vec() }
}

#[test]
fn peers_are_stored_for_a_token_only_and_told_to_others() {
    let mut rig = Rig::new(|_| {});
    let token = rig.ask(1, get_peers(false)).expect("answered").token.expect("a token");
    assert_eq!(rig.ask(1, announce(b"12345678", false)), Err(code::PROTOCOL));
    assert_eq!(rig.ask(2, announce(&token, false)), Err(code::PROTOCOL), "another address");
    assert!(rig.ask(1, announce(&token, false)).is_ok());
    let token = rig.ask(2, get_peers(false)).expect("answered").token.expect("a token");
    assert!(rig.ask(2, announce(&token, true)).is_ok());
    let mut values = rig.ask(3, get_peers(false)).expect("answered").values;
    values.sort();
    let stored = |n: u8| SocketAddr::new(addr(n).ip(), 99);
    assert_eq!(values, [stored(1), stored(2)]);
    let no_seeds = Query::GetPeers { info_hash: HASH, want: Want::default(), no_seeds: true, scrape: false };
    assert_eq!(rig.ask(3, no_seeds).expect("answered").values, [stored(1)]);
    let scraped = rig.ask(3, get_peers(true)).expect("answered");
    let blooms = scraped.blooms.expect("blooms");
    assert!(scraped.values.is_empty() && blooms.0.estimate() > 0.9 && blooms.1.estimate() > 0.9);
    let sample = Query::SampleInfohashes { target: NodeId([0; 20]), want: Want::default() };
    let samples = rig.ask(3, sample).expect("answered").samples.expect("samples");
    assert_eq!((samples.hashes, samples.total), (vec![HASH], 1));
    let implied = Query::AnnouncePeer { info_hash: HASH, port: None, seed: false, token };
    assert!(rig.ask(2, implied).is_ok());
    assert!(rig.ask(3, get_peers(false)).expect("answered").values.contains(&addr(2)));
}

#[test]
fn values_are_stored_for_a_token_and_newer_ones_only() {
    let mut rig = Rig::new(|_| {});
    let item = |seq| Box::new(Item::mutable(&[3; 32], b"salt", seq, b"1:x".to_vec()).expect("short"));
    let target = item(1).target();
    let get = |seq| Query::Get { target, seq, want: Want::default() };
    let token = rig.ask(1, get(None)).expect("answered").token.expect("a token");
    let put = |item, token: &[u8]| Query::Put { item, cas: None, token: token.to_vec() };
    assert_eq!(rig.ask(1, put(item(2), b"")), Err(code::PROTOCOL));
    assert!(rig.ask(1, put(item(2), &token)).is_ok());
    assert_eq!(rig.ask(1, put(item(1), &token)), Err(code::SEQ_TOO_LOW));
    let mut forged = item(5);
    forged.value = b"1:y".to_vec();
    assert_eq!(rig.ask(1, put(forged, &token)), Err(code::BAD_SIGNATURE));
    let told = *rig.ask(2, get(None)).expect("answered").item.expect("stored");
    assert_eq!((told.value, told.signed.expect("signed").seq), (b"1:x".to_vec(), 2));
    let told = rig.ask(2, get(Some(2))).expect("answered");
    assert!(told.item.is_none() && told.seq == Some(2), "nothing newer");
}

#[test]
fn who_asks_is_checked_before_it_is_in_the_table_and_readers_are_not_at_all() {
    let mut rig = Rig::new(|_| {});
    let ping = rig.ask_as(asker(1), false, Query::Ping);
    assert!(matches!(ping, Some(Body::Answer { .. })));
    rig.ask_as(asker(2), true, Query::Ping);
    assert_eq!(rig.dht.stats().nodes, [0, 0]);
    let sent = rig.pass(Duration::ZERO);
    let pings: Vec<_> = sent.iter().filter(|(_, message)| is_query(message, &Query::Ping)).collect();
    assert_eq!(pings.len(), 1, "BEP 43: {sent:?}");
    assert_eq!(pings[0].0, addr(1));
    let (to, query) = pings[0].clone();
    // In another one's name, or with another transaction: nothing.
    rig.answer(Contact { addr: addr(9), ..asker(1) }, &query, Answer::default());
    rig.answer(asker(1), &Message { transaction: vec![1, 2, 3, 4], ..query.clone() }, Answer::default());
    assert_eq!((rig.dht.stats().nodes, rig.dht.stats().refused), ([0, 0], 2));
    assert_eq!(to, addr(1));
    rig.answer(asker(1), &query, Answer::default());
    assert_eq!(rig.dht.stats().nodes, [1, 0]);
    rig.answer(asker(1), &query, Answer::default());
    assert_eq!(rig.dht.stats().refused, 3, "each query has one answer");
}

fn is_query(message: &Message, wanted: &Query) -> bool {
    matches!(&message.body, Body::Query { query, .. } if query == wanted)
}

#[test]
fn a_reader_answers_nobody_and_says_so() {
    let mut rig = Rig::new(|config| config.read_only = true);
    assert_eq!(rig.ask_as(asker(1), false, Query::Ping), None);
    rig.dht.enter_by(rig.now, [addr(2)]);
    let sent = rig.pass(Duration::ZERO);
    assert!(matches!(sent[..], [(_, Message { body: Body::Query { read_only: true, .. }, .. })]), "{sent:?}");
}

#[test]
fn queries_and_bytes_of_one_source_are_limited() {
    let mut rig = Rig::new(|_| {});
    let want = Want::default();
    let ping = |target| Query::FindNode { target: NodeId([target; 20]), want };
    let answered = (0..=255).filter(|n| rig.ask_as(asker(1), true, ping(*n)).is_some()).count();
    assert!((10..100).contains(&answered), "{answered}");
    assert!(rig.ask_as(asker(2), true, ping(1)).is_some(), "others are");
}

#[test]
fn a_spoofed_source_is_sent_little_more_than_it_seems_to_send() {
    let mut rig = Rig::new(|_| {});
    for n in 0..200 {
        // Full answers: fifty peers.
        let token = rig.dht.tokens.make(addr(n).ip(), &HASH.into());
        rig.ask_as(asker(n), true, announce(&token, false));
    }
    rig.pass(Duration::from_secs(120));
    let victim = Contact { id: NodeId([1; 20]), addr: "203.0.113.9:53".parse().expect("an address") };
    let body = Body::Query { id: victim.id, read_only: false, query: get_peers(false) };
    let query = Message { transaction: b"xy".to_vec(), body }.encode();
    let (mut sent, mut received) = (0, 0);
    for _ in 0..600 {
        rig.now += Duration::from_millis(100);
        sent += query.len();
        rig.dht.handle(rig.now, victim.addr, &query, &mut rig.rng);
        received +=
            std::iter::from_fn(|| rig.dht.poll_transmit()).map(|sent| sent.bytes.len()).sum::<usize>();
    }
    assert!(received <= 5 * sent + 256 * 60, "{received} for {sent}");
    assert!(received > sent, "an honest one is answered");
}

#[test]
fn both_families_are_told_of_when_asked_for() {
    let mut rig = Rig::new(|_| {});
    let six = Contact { id: NodeId([9; 20]), addr: "[2001:db8::1]:7".parse().expect("an address") };
    rig.dht.sides[0].as_mut().expect("v4").table.answered(rig.now, asker(1));
    rig.dht.sides[1].as_mut().expect("v6").table.answered(rig.now, six);
    let find = |v4, v6| Query::FindNode { target: NodeId([1; 20]), want: Want { v4, v6 } };
    assert_eq!(rig.ask(2, find(false, false)).expect("answered").nodes, [asker(1)]);
    assert_eq!(rig.ask(2, find(false, true)).expect("answered").nodes, [six]);
    assert_eq!(rig.ask(2, find(true, true)).expect("answered").nodes, [asker(1), six]);
    assert!(rig.ask(1, find(true, false)).expect("answered").nodes.is_empty(), "nobody is told of itself");
}

#[test]
fn what_several_nodes_say_of_our_address_makes_our_name() {
    let mut rig = Rig::new(|_| {});
    let ours: IpAddr = "198.51.100.7".parse().expect("an address");
    // A tracker's word counts until nodes have agreed.
    let told: IpAddr = "203.0.113.9".parse().expect("an address");
    rig.dht.hint_external(rig.now, told, &mut rig.rng);
    assert_eq!(rig.events(), [Event::External(told)]);
    for n in 1..=20 {
        rig.dht.add_node(rig.now, addr(n), &mut rig.rng);
        for (to, query) in rig.sent().into_iter().filter(|(to, _)| *to == addr(n)) {
            let ip = Some(SocketAddr::new(ours, 5));
            let body = Body::Answer { id: asker(n).id, ip, answer: Box::default() };
            rig.give(to, &Message { transaction: query.transaction, body });
        }
    }
    assert!(rig.dht.id(0).expect("a name").fits(ours));
    assert_eq!(rig.events(), [Event::External(ours)]);
    assert!(rig.dht.stats().nodes[0] >= 8);
    rig.dht.hint_external(rig.now, told, &mut rig.rng);
    assert!(rig.events().is_empty() && rig.dht.id(0).expect("a name").fits(ours));
}

#[test]
fn searches_and_queries_are_bounded_and_all_come_to_an_end() {
    let mut rig = Rig::new(|_| {});
    for n in 0..60 {
        rig.dht.sides[0].as_mut().expect("v4").table.answered(rig.now, asker(n));
    }
    let mut started = 0;
    for n in 0..=255 {
        let goal = Goal::Peers { info_hash: InfoHash([n; 20]), announce: None };
        started += usize::from(rig.dht.start(rig.now, goal, &mut rig.rng).is_some());
    }
    assert_eq!(started, SEARCHES_MAX);
    let mut sent = rig.sent().len();
    assert!(sent <= QUERIES as usize, "{sent}");
    let begin = rig.now;
    while rig.dht.stats().searches > 0 {
        let wait =
            rig.dht.next_wakeup(rig.now).saturating_duration_since(rig.now).max(Duration::from_millis(1));
        sent += rig.pass(wait).len();
        let seconds = rig.now.duration_since(begin).as_secs();
        assert!(sent as u64 <= QUERIES + QUERIES * (seconds + 1), "{sent} in {seconds} s");
        assert!(rig.dht.asked.len() <= ASKED_MAX && seconds < 120);
    }
    let done =
        rig.events().into_iter().filter(|event| matches!(event, Event::Done { nodes: 0, stored: 0, .. }));
    assert_eq!(done.count(), SEARCHES_MAX);
    rig.pass(2 * LOST);
    assert!(rig.dht.asked.values().all(|asked| asked.why != Why::Lookup(0)));
}
