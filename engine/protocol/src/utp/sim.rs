//! Two connections and a network between them, with a clock of its own and everything drawn from one seed.

use std::collections::{BTreeMap, VecDeque};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::*;

pub(super) const CONFIG: Config =
    Config { receive_window: 256 << 10, datagram_floor: 548, datagram_max: 1472 };

/// The fault model. Times in µs, sizes in bytes.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub delay: Micros,
    /// Up to so much more, at random: reordering.
    pub jitter: Micros,
    pub loss: f64,
    pub duplicates: f64,
    /// Larger datagrams with DF vanish.
    pub mtu: usize,
    /// Larger datagrams with DF are refused by the sending host.
    pub interface: usize,
    /// Bytes per second of the first end's way out, and of the queue before it; 0 = without limit.
    pub rate: u64,
    pub queue: u64,
    /// How often the socket takes nothing.
    pub full: f64,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            delay: 0,
            jitter: 0,
            loss: 0.0,
            duplicates: 0.0,
            mtu: usize::MAX,
            interface: usize::MAX,
            rate: 0,
            queue: 0,
            full: 0.0,
        }
    }
}

/// TCP Reno as a model: packets of 1500 bytes, slow start, halving on loss, no timeouts.
struct Reno {
    window: f64,
    threshold: f64,
    flying: u64,
    bytes: u64,
    /// No halving before this time.
    reacted: Micros,
    running: bool,
}

enum Item {
    Datagram(usize, Vec<u8>),
    RenoAck,
    RenoLoss,
}

pub(super) struct Net {
    pub now: Micros,
    pub link: Link,
    rng: SmallRng,
    items: BTreeMap<(Micros, u64), Item>,
    number: u64,
    /// When the link has sent all that is queued.
    free_at: Micros,
    pub queued_max: u64,
    pub sent: usize,
    pub lost: usize,
    pub lose_next: usize,
    pub count_data: usize,
    pub largest_call: usize,
    lose_range: Option<(u64, usize)>,
    reno: Option<Reno>,
    /// RESETs that were sent.
    pub resets: Vec<Vec<u8>>,
}

impl Net {
    /// Bytes that wait for the link.
    fn queued(&self) -> u64 {
        self.free_at.saturating_sub(self.now) * self.link.rate / SECOND
    }

    /// When a packet of `len` bytes from the first end has passed the link; `None`: the queue is full.
    fn pass(&mut self, len: usize) -> Option<Micros> {
        if self.link.rate == 0 {
            return Some(self.now);
        }
        if self.queued() + len as u64 > self.link.queue {
            return None;
        }
        self.free_at = self.free_at.max(self.now) + len as u64 * SECOND / self.link.rate;
        self.queued_max = self.queued_max.max(self.queued());
        Some(self.free_at)
    }

    fn push(&mut self, at: Micros, item: Item) {
        self.number += 1;
        self.items.insert((at, self.number), item);
    }

    /// The next `times` transmissions of the stream byte at `offset` are lost.
    pub fn lose_data_numbers(&mut self, offset: u64, times: usize) {
        self.lose_range = Some((offset, times));
    }

    fn send(&mut self, from: usize, datagram: Vec<u8>, may_fragment: bool, payload: &std::ops::Range<u64>) {
        self.sent += 1;
        self.count_data += usize::from(!payload.is_empty());
        if datagram[0] >> 4 == Kind::Reset as u8 {
            self.resets.push(datagram.clone());
        }
        let mut lost = self.rng.random_bool(self.link.loss)
            || (!may_fragment && datagram.len() > self.link.mtu)
            || std::mem::take(&mut self.lose_next) > 0;
        if let Some((offset, times)) = &mut self.lose_range
            && payload.contains(offset)
            && *times > 0
        {
            *times -= 1;
            lost = true;
        }
        let passed = if from == 0 { self.pass(datagram.len() + 28) } else { Some(self.now) };
        let Some(at) = passed.filter(|_| !lost) else {
            self.lost += 1;
            return;
        };
        let copies = 1 + usize::from(self.rng.random_bool(self.link.duplicates));
        for _ in 0..copies {
            let at = at + self.link.delay + self.rng.random_range(0..=self.link.jitter);
            self.push(at, Item::Datagram(1 - from, datagram.clone()));
        }
    }

    pub fn start_reno(&mut self) {
        let (window, threshold) = (10.0 * 1500.0, f64::MAX);
        self.reno = Some(Reno { window, threshold, flying: 0, bytes: 0, reacted: 0, running: true });
        self.pump_reno();
    }

    pub fn stop_reno(&mut self) {
        self.reno.as_mut().expect("started").running = false;
    }

    pub fn reno_bytes(&self) -> u64 {
        self.reno.as_ref().map_or(0, |reno| reno.bytes)
    }

    fn pump_reno(&mut self) {
        while self
            .reno
            .as_ref()
            .is_some_and(|reno| reno.running && reno.flying as f64 + 1500.0 <= reno.window)
        {
            let passed = self.pass(1500);
            self.reno.as_mut().expect("seen just now").flying += 1500;
            match passed {
                Some(at) => self.push(at + 2 * self.link.delay, Item::RenoAck),
                None => self.push(self.now + 2 * self.link.delay + self.queued(), Item::RenoLoss),
            }
        }
    }

    fn reno_hears(&mut self, lost: bool) {
        let Some(reno) = &mut self.reno else { return };
        reno.flying -= 1500;
        if lost {
            if self.now >= reno.reacted {
                reno.window = (reno.window / 2.0).max(3000.0);
                reno.threshold = reno.window;
                // A round trip, queue included.
                reno.reacted = self.now + 2 * self.link.delay + self.link.queue * SECOND / self.link.rate;
            }
        } else {
            reno.bytes += 1500;
            reno.window += if reno.window < reno.threshold { 1500.0 } else { 1500.0 * 1500.0 / reno.window };
        }
        self.pump_reno();
    }
}

/// Byte `at` of the stream that end `from` sends.
fn byte(from: usize, at: u64) -> u8 {
    (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8 ^ from as u8
}

pub(super) struct End {
    pub conn: Connection,
    /// Offset and drift of its clock.
    pub clock: (Micros, f64),
    /// Bytes left to write, and those written at a time.
    left: usize,
    pub received: u64,
    expected: u64,
    pub unread: usize,
    /// It does not consume.
    pub lazy: bool,
    /// It closes when it has written all.
    pub closes: bool,
    closed: bool,
    wakes: VecDeque<Micros>,
}

impl End {
    fn new(conn: Connection, clock: Micros, left: usize, expected: usize) -> Self {
        let expected = expected as u64;
        let (lazy, closes, closed) = (false, true, false);
        let (received, unread, clock) = (0, 0, (clock, 0.0));
        Self { conn, clock, left, received, expected, unread, lazy, closes, closed, wakes: VecDeque::new() }
    }

    fn time(&self, now: Micros) -> Micros {
        (self.clock.0 + now).wrapping_add_signed((now as f64 * self.clock.1) as i64)
    }

    fn real(&self, local: Micros) -> Micros {
        ((local - self.clock.0) as f64 / (1.0 + self.clock.1)).ceil() as Micros + 1
    }

    fn is_done(&self) -> bool {
        self.conn.has_ended() && self.conn.is_flushed() && self.left == 0
    }
}

/// Two ends; the first has dialled.
pub(super) struct Pair {
    pub net: Net,
    pub ends: Vec<End>,
    lens: [usize; 2],
    seq: u16,
}

impl Pair {
    /// Each end sends so many bytes and closes.
    pub fn new(seed: u64, link: Link, lens: [usize; 2]) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        // Numbers wrap within the transfer.
        let (id, seq) = (rng.random(), 0xffff - rng.random_range(0..40));
        let first =
            End::new(Connection::dial(CONFIG, id, seq), rng.random_range(0..1 << 40), lens[0], lens[1]);
        let seq = 0xffff - rng.random_range(0..40);
        let net = Net {
            now: 0,
            link,
            rng,
            items: BTreeMap::new(),
            number: 0,
            free_at: 0,
            queued_max: 0,
            sent: 0,
            lost: 0,
            lose_next: 0,
            count_data: 0,
            largest_call: 0,
            lose_range: None,
            reno: None,
            resets: Vec::new(),
        };
        let mut this = Self { net, ends: vec![first], lens, seq };
        this.pump(0);
        this
    }

    /// Runs until both streams have arrived and ended. Panics when that takes more than an hour, or an end fails.
    pub fn run(&mut self) {
        while self.ends.len() < 2 || !self.ends.iter().all(End::is_done) {
            assert!(self.net.now < 3600 * SECOND, "it never ends: {:?}", self.ends[0].conn);
            for end in &self.ends {
                assert_eq!(end.conn.failure(), None, "at {} µs", self.net.now);
            }
            assert!(self.step(Micros::MAX), "nothing is due any more");
        }
        for end in &self.ends {
            assert_eq!(end.received, end.expected);
        }
    }

    pub fn run_for(&mut self, time: Micros) {
        let until = self.net.now + time;
        while self.step(until) {}
        self.net.now = until;
    }

    fn step(&mut self, until: Micros) -> bool {
        let due = |end: &End| {
            let timer = end.conn.deadline().map(|at| end.real(at));
            timer.into_iter().chain(end.wakes.front().copied()).min()
        };
        let timers: Vec<Option<Micros>> = self.ends.iter().map(due).collect();
        let timer = timers.iter().flatten().min().copied();
        let item = self.net.items.first_key_value().map(|(key, _)| key.0);
        let Some(next) = timer.into_iter().chain(item).min().filter(|at| *at <= until) else { return false };
        self.net.now = self.net.now.max(next);
        if item == Some(next) {
            let (_, item) = self.net.items.pop_first().expect("seen just now");
            self.take(item);
        }
        for (at, timer) in timers.iter().enumerate() {
            if timer.is_some_and(|timer| timer <= self.net.now) {
                let end = &mut self.ends[at];
                end.wakes.retain(|wake| *wake > self.net.now);
                end.conn.handle_timeout(end.time(self.net.now));
                self.pump(at);
            }
        }
        true
    }

    fn take(&mut self, item: Item) {
        match item {
            Item::RenoAck => self.net.reno_hears(false),
            Item::RenoLoss => self.net.reno_hears(true),
            Item::Datagram(to, datagram) => {
                if to == self.ends.len() {
                    let clock = self.net.rng.random_range(0..1 << 40);
                    let syn = Packet::decode(&datagram).expect("our own");
                    let Some(conn) = Connection::accept(clock + self.net.now, CONFIG, &syn, self.seq) else {
                        return;
                    };
                    self.ends.push(End::new(conn, clock, self.lens[1], self.lens[0]));
                } else {
                    self.give(to, &datagram);
                }
                self.pump(to);
            }
        }
    }

    fn give(&mut self, to: usize, datagram: &[u8]) {
        let end = &mut self.ends[to];
        let now = end.time(self.net.now);
        let (received, unread) = (&mut end.received, &mut end.unread);
        end.conn.handle(now, datagram, usize::MAX, &mut |bytes| {
            for value in bytes {
                assert_eq!(*value, byte(1 - to, *received), "byte {received}");
                *received += 1;
            }
            *unread += bytes.len();
        });
        assert!(end.conn.early_bytes() + end.unread <= CONFIG.receive_window);
        assert!(end.received <= end.expected);
        self.consume(to);
    }

    pub fn consume(&mut self, at: usize) {
        let end = &mut self.ends[at];
        if !end.lazy {
            end.conn.consumed(std::mem::take(&mut end.unread));
        }
        self.pump(at);
    }

    /// Lets an end write and send all that it can.
    fn pump(&mut self, at: usize) {
        let end = &mut self.ends[at];
        let now = end.time(self.net.now);
        if end.conn.is_open() && end.left > 0 {
            let room = (512usize << 10).saturating_sub((end.conn.written() - end.conn.sent()) as usize);
            let len = end.left.min(room);
            end.left -= len;
            end.conn.write(len);
        }
        if end.closes && end.left == 0 && end.conn.is_open() && !end.closed {
            end.closed = true;
            end.conn.close();
        }
        let mut out = Transmit::default();
        while end.conn.poll_transmit(now, &mut out) {
            end.conn.check();
            if self.net.rng.random_bool(self.net.link.full) {
                end.conn.unsent(&out);
                end.wakes.push_back(self.net.now + MS);
                return;
            }
            if !out.may_fragment && out.segment_len() > self.net.link.interface {
                end.conn.too_large(now, &out);
                continue;
            }
            let mut head = 0;
            self.net.largest_call = self.net.largest_call.max(out.packets.len());
            for (nth, packet) in out.packets.iter().enumerate() {
                let mut datagram = out.heads[head..head + packet.head].to_vec();
                head += packet.head;
                let is_kept = packet.payload.is_empty() || packet.payload.start >= end.conn.acked();
                assert!(is_kept, "its bytes are gone");
                datagram.extend(packet.payload.clone().map(|offset| byte(at, offset)));
                let is_last = nth + 1 == out.packets.len();
                assert!(
                    datagram.len() == out.segment_len() || is_last && datagram.len() <= out.segment_len()
                );
                assert!(datagram.len() <= CONFIG.datagram_max);
                self.net.send(at, datagram, out.may_fragment, &packet.payload);
            }
            assert_eq!(head, out.heads.len());
            assert!(out.packets.len() <= PACKETS_MAX && out.len <= 65_000);
        }
    }
}
