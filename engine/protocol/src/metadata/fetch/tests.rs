use super::*;
use crate::metadata::PIECE_LEN;
use proptest::prelude::*;
use sha1::{Digest, Sha1};

/// How a peer answers a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Honest,
    /// Sends bytes that are not the metadata's.
    Liar,
    /// As the liar, for pieces of odd index only.
    HalfLiar,
    Silent,
    Rejects,
    /// Answers every second request.
    Flaky,
    /// Honest, but names another size and sends bytes for that.
    OtherSize(u32),
}

struct Swarm {
    info: Vec<u8>,
    fetch: Fetch,
    kinds: Vec<(Kind, bool)>,
    now: Instant,
    asked: usize,
    liars: Vec<IpAddr>,
    done: Option<Vec<u8>>,
}

fn ip(peer: usize) -> IpAddr {
    [10, 0, (peer >> 8) as u8, peer as u8].into()
}

fn info(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 251) as u8).collect()
}

impl Swarm {
    fn new(len: usize, kinds: &[Kind]) -> Self {
        let info = info(len);
        let fetch = Fetch::new(InfoHash(Sha1::digest(&info).into()));
        let now = Instant::now();
        let mut swarm = Self { info, fetch, kinds: Vec::new(), now, asked: 0, liars: Vec::new(), done: None };
        kinds.iter().for_each(|kind| swarm.join(*kind));
        swarm
    }

    fn size_of(&self, kind: Kind) -> u32 {
        if let Kind::OtherSize(size) = kind { size } else { self.info.len() as u32 }
    }

    fn join(&mut self, kind: Kind) {
        let peer = self.kinds.len();
        self.kinds.push((kind, true));
        let added = self.fetch.add_peer(self.now, PeerKey(peer as u32), ip(peer), self.size_of(kind));
        added.expect("a sensible size from a stranger");
    }

    fn leave(&mut self, peer: usize) {
        if std::mem::replace(&mut self.kinds[peer].1, false) {
            self.fetch.remove_peer(self.now, PeerKey(peer as u32));
        }
    }

    fn answer(&mut self, key: PeerKey, piece: u32) {
        let (kind, _) = self.kinds[key.0 as usize];
        self.asked += 1;
        let size = self.size_of(kind);
        let start = (piece * PIECE_LEN) as usize;
        let mut bytes: Vec<u8> = (start..start + piece_len(size, piece) as usize)
            .map(|at| self.info.get(at).copied().unwrap_or(1))
            .collect();
        let is_odd = piece % 2 == 1;
        match kind {
            Kind::Silent => return,
            Kind::Flaky if self.asked.is_multiple_of(2) => return,
            Kind::Rejects => return self.fetch.on_reject(self.now, key, piece),
            Kind::Liar => bytes[0] ^= key.0 as u8 | 0x80,
            Kind::HalfLiar if is_odd => bytes[0] ^= 1,
            _ => {}
        }
        let result = self.fetch.on_data(self.now, key, piece, Some(size), &bytes);
        assert_eq!(result, Ok(()), "{kind:?}");
    }

    fn take_events(&mut self) {
        while let Some(event) = self.fetch.poll_event() {
            match event {
                FetchEvent::Complete(bytes) => self.done = Some(bytes),
                FetchEvent::Liar(liar) => {
                    self.liars.push(liar);
                    (0..self.kinds.len()).filter(|peer| ip(*peer) == liar).for_each(|peer| self.leave(peer));
                }
                FetchEvent::Useless(key) => self.leave(key.0 as usize),
            }
        }
    }

    /// Everything that goes on at this moment: all requests are on the way before the first one is answered.
    fn turn(&mut self) {
        loop {
            self.take_events();
            let fetch = &mut self.fetch;
            let requests: Vec<_> = std::iter::from_fn(|| fetch.poll_request(self.now)).collect();
            if requests.is_empty() {
                return;
            }
            for (key, piece) in requests {
                if self.kinds[key.0 as usize].1 {
                    self.answer(key, piece);
                }
                self.take_events();
            }
            assert!(self.fetch.memory() <= MAX_SIZES * MAX_METADATA_LEN as usize);
        }
    }

    fn run(&mut self, seconds: u32) -> bool {
        for _ in 0..seconds {
            self.turn();
            if let Some(done) = &self.done {
                assert!(*done == self.info, "what is told is the metadata");
                return true;
            }
            self.now += Duration::from_secs(1);
            self.fetch.tick(self.now);
        }
        false
    }
}

#[test]
fn many_peers_share_the_work() {
    let mut swarm = Swarm::new(1_500_000, &[Kind::Honest; 5]);
    let mut of = [0; 5];
    let mut on_the_way = Vec::new();
    while let Some((key, piece)) = swarm.fetch.poll_request(swarm.now) {
        of[key.0 as usize] += 1;
        on_the_way.push((key, piece));
    }
    assert_eq!(of, [WINDOW; 5], "each is asked for some");
    on_the_way.into_iter().for_each(|(key, piece)| swarm.answer(key, piece));
    assert!(swarm.run(1));
    assert_eq!(swarm.asked, 1_500_000usize.div_ceil(16384), "each piece once");
}

#[test]
fn silent_and_rejecting_peers_are_replaced() {
    for kind in [Kind::Silent, Kind::Rejects] {
        let mut swarm = Swarm::new(100_000, &[kind, kind, kind]);
        assert!(!swarm.run(3));
        swarm.join(Kind::Honest);
        assert!(swarm.run(30), "{kind:?}");
        let mut alone = Swarm::new(100_000, &[kind]);
        assert!(!alone.run(60) && !alone.kinds[0].1, "given up: {kind:?}");
    }
}

#[test]
fn one_liar_is_known_at_once_and_others_by_fetching_again() {
    let mut swarm = Swarm::new(40_000, &[Kind::Liar]);
    assert!(!swarm.run(2));
    assert_eq!(swarm.liars, [ip(0)]);
    assert_eq!(swarm.fetch.add_peer(swarm.now, PeerKey(9), ip(0), 40_000), Err(FetchFault::Liar));
    swarm.join(Kind::Honest);
    assert!(swarm.run(2));

    let mut swarm = Swarm::new(400_000, &[Kind::Honest, Kind::HalfLiar, Kind::Honest, Kind::Liar]);
    assert!(swarm.run(60));
    swarm.liars.sort_unstable();
    assert_eq!(swarm.liars, [ip(1), ip(3)], "and no honest one");
}

#[test]
fn false_sizes_neither_stop_nor_delay_the_true_one() {
    let others = [Kind::OtherSize(50), Kind::OtherSize(MAX_METADATA_LEN), Kind::Honest];
    assert!(Swarm::new(100_000, &others).run(2));
    // More of them than are fetched at a time, and they never answer.
    let mut swarm = Swarm::new(100_000, &[]);
    for size in 1..40 {
        swarm.kinds.push((Kind::Silent, true));
        let key = PeerKey(swarm.kinds.len() as u32 - 1);
        swarm.fetch.add_peer(swarm.now, key, ip(key.0 as usize), size * 1000).unwrap();
        assert!(swarm.fetch.attempts.len() <= MAX_SIZES, "each is memory");
    }
    swarm.join(Kind::Honest);
    swarm.join(Kind::Honest);
    assert!(swarm.run(120));
}

#[test]
fn what_cannot_be_is_refused() {
    let mut swarm = Swarm::new(40_000, &[Kind::Silent]);
    let (now, key) = (swarm.now, PeerKey(0));
    for size in [0, MAX_METADATA_LEN + 1, u32::MAX] {
        assert_eq!(swarm.fetch.add_peer(now, PeerKey(7), ip(7), size), Err(FetchFault::Size(size)));
    }
    swarm.turn();
    let data =
        |swarm: &mut Swarm, piece, size, bytes: &[u8]| swarm.fetch.on_data(now, key, piece, size, bytes);
    let whole = [0; PIECE_LEN as usize];
    assert_eq!(data(&mut swarm, 0, Some(40_001), &whole), Err(FetchFault::Length(0)));
    assert_eq!(data(&mut swarm, 0, None, &whole[1..]), Err(FetchFault::Length(0)));
    assert_eq!(data(&mut swarm, 3, None, &[]), Err(FetchFault::Length(3)), "past the end");
    assert_eq!(data(&mut swarm, 0, None, &whole), Ok(()), "the total size may be missing");
    let unasked = (0..=MAX_UNASKED).map(|_| data(&mut swarm, 0, None, &whole)).collect::<Vec<_>>();
    assert!(unasked[..MAX_UNASKED as usize].iter().all(Result::is_ok));
    assert_eq!(unasked.last(), Some(&Err(FetchFault::Unasked)), "endless metadata");
    assert_eq!(swarm.fetch.on_data(now, PeerKey(5), 0, None, &whole), Err(FetchFault::Unasked));
}

#[test]
fn late_answers_count_and_a_flapping_peer_costs_nothing() {
    let mut swarm = Swarm::new(20_000, &[Kind::Silent]);
    swarm.turn();
    swarm.now += TIMEOUT;
    swarm.fetch.tick(swarm.now);
    swarm.kinds[0].0 = Kind::Honest;
    swarm.answer(PeerKey(0), 0);
    assert_eq!(swarm.fetch.progress().received, PIECE_LEN);
    for _ in 0..1000 {
        swarm.leave(0);
        swarm.kinds.clear();
        swarm.join(Kind::Silent);
        swarm.turn();
    }
    swarm.join(Kind::Honest);
    assert!(swarm.run(3));
}

fn any_kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        2 => Just(Kind::Honest),
        1 => Just(Kind::Liar),
        1 => Just(Kind::HalfLiar),
        1 => Just(Kind::Silent),
        1 => Just(Kind::Rejects),
        2 => Just(Kind::Flaky),
        1 => (1u32..500_000).prop_map(Kind::OtherSize),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whoever else is there and comes and goes: it is found as soon as an honest peer stays, and only liars are named.
    #[test]
    fn the_truth_prevails(
        len in 1usize..300_000,
        kinds in prop::collection::vec(any_kind(), 0..9),
        churn in prop::collection::vec((0usize..9, any_kind()), 0..9),
    ) {
        let mut swarm = Swarm::new(len, &kinds);
        for (leaver, kind) in churn {
            if swarm.run(3) {
                break;
            }
            if leaver < swarm.kinds.len() {
                swarm.leave(leaver);
            }
            swarm.join(kind);
        }
        if swarm.done.is_none() {
            swarm.join(Kind::Honest);
            prop_assert!(swarm.run(900), "an honest peer is there");
        }
        for liar in &swarm.liars {
            let peer = (0..swarm.kinds.len()).find(|peer| ip(*peer) == *liar).expect("a peer");
            let kind = swarm.kinds[peer].0;
            let lies = matches!(kind, Kind::Liar | Kind::HalfLiar | Kind::OtherSize(_));
            prop_assert!(lies, "{:?} is called a liar", kind);
        }
    }
}
