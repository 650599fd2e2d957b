//! Rate limits: who may move how many bytes now, and who is next.
//!
//! Role: before bytes of a connection move, its own limit, its torrent's and that of all torrents are asked, and each
//! that is set counts them. A receive takes its tokens when it starts, as long as it would be, and gives back what it
//! did not need when it ends; so it starts only when there is something to receive. What is counted are the bytes of
//! the TCP stream from the end of the handshake on, and with `count_overhead` the headers around them ([`Overhead`]).
//! Messages other than blocks are sent at once and counted afterwards.
//!
//! Owner: the shard; called by `transfer` and `uploads` before bytes move, and once a turn to let go on who waited.
//! Invariants: without any limit a receive or a batch costs one branch ([`Shard::is_limited`]) and no clock is read; a
//! connection that is held stands in one queue for each direction, and whoever comes to a limit where others wait
//! stands behind them.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};
use std::time::Instant;

use ccbt_protocol::ids::TorrentKey;
use ccbt_protocol::rate::{Overhead, Quota, SharedBucket, TokenBucket, TorrentLimits, Way, burst, quantum};

use crate::messages::{ToShard, TokenWord};
use crate::ring::SocketKey;
use crate::satellites::Part;
use crate::shard::Shard;

/// The shard that keeps the limits of all torrents.
const KEEPER: usize = 0;

/// One limit in one direction.
#[derive(Default)]
struct Gate {
    quota: Quota,
    /// The limit itself, on the shard that keeps it.
    bucket: Option<SharedBucket>,
    /// Connections that wait, with what they need at once.
    waiting: VecDeque<(SocketKey, u64)>,
}

impl Gate {
    fn set_rate(&mut self, now: Instant, rate: u64, keeps: bool) {
        self.quota.set_rate(rate);
        match &mut self.bucket {
            _ if rate == 0 || !keeps => self.bucket = None,
            Some(bucket) => bucket.set_rate(now, rate),
            None => self.bucket = Some(SharedBucket::new(now, rate)),
        }
    }
}

/// The limits of one torrent on one shard.
pub(crate) struct TorrentGates {
    rates: TorrentLimits,
    gates: [Gate; 2],
    /// Listed in [`ShardLimits::busy`].
    busy: bool,
}

/// What a shard knows about limits, but for those of torrents and connections.
#[derive(Default)]
pub(crate) struct ShardLimits {
    gates: [Gate; 2],
    /// Torrents with limits of their own where something waits or was spent.
    busy: Vec<usize>,
    /// Connections that wait for limits of their own.
    timed: BinaryHeap<Reverse<Timed>>,
    /// When the next one may go on if nothing arrives before.
    pub due: Option<Instant>,
    webs: web::Waiting,
    /// Reused.
    grants: Vec<(usize, u64)>,
}

/// What a connection knows about limits.
#[derive(Default)]
pub(crate) struct ConnLimits {
    /// It stands in a queue.
    held: [bool; 2],
    /// The limit that has just let it go on, as a torrent or all of them: it does not queue there again.
    turn: [Option<Scope>; 2],
    /// Tokens of the receive in flight.
    reserved: u64,
    own: Option<Box<[TokenBucket; 2]>>,
}

impl ConnLimits {
    /// The tokens of the receive that has ended.
    pub fn take_reserved(&mut self) -> u64 {
        std::mem::take(&mut self.reserved)
    }

    /// Its own limit in one direction, which is `rate` now.
    fn bucket(&mut self, now: Instant, way: Way, rate: u64) -> Option<&mut TokenBucket> {
        if rate == 0 && self.own.is_none() {
            return None;
        }
        let unlimited = || Box::new([TokenBucket::new(now, 0, 0), TokenBucket::new(now, 0, 0)]);
        let bucket = &mut self.own.get_or_insert_with(unlimited)[way as usize];
        if bucket.rate() != rate {
            bucket.set_rate(now, rate, burst(rate));
        }
        (rate > 0).then_some(bucket)
    }
}

/// Whom a limit is for: the torrent with this place in the slab, or all of them.
type Scope = Option<usize>;

/// A connection that its own limit lets go on at a time.
struct Timed {
    at: Instant,
    key: SocketKey,
    way: Way,
}

impl Ord for Timed {
    fn cmp(&self, other: &Self) -> Ordering {
        self.at.cmp(&other.at)
    }
}

impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Eq for Timed {}

impl PartialEq for Timed {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Shard {
    /// A limit has changed: whoever waits because of it looks again.
    fn let_all_go(&mut self, scope: Scope) {
        for way in Way::ALL {
            if let Some(gate) = self.gate(scope, way) {
                gate.waiting.clear();
            }
        }
        let concerned = self.conns.iter_mut().flatten();
        let concerned = concerned.filter(|conn| scope.is_none() || conn.home == scope);
        let mut keys = Vec::new();
        for conn in concerned {
            if std::mem::take(&mut conn.limits.held) != [false; 2] {
                keys.push(conn.socket);
            }
        }
        keys.into_iter().for_each(|key| self.queue(key));
    }

    fn gate(&mut self, scope: Scope, way: Way) -> Option<&mut Gate> {
        let gates = match scope {
            None => &mut self.limits.gates,
            Some(index) => &mut self.homes.get_mut(index)?.limits.as_mut()?.gates,
        };
        Some(&mut gates[way as usize])
    }

    fn mark_busy(&mut self, index: usize) {
        if let Some(limits) = &mut self.homes[index].limits
            && !std::mem::replace(&mut limits.busy, true)
        {
            self.limits.busy.push(index);
        }
    }

    // ---- before and after bytes move

    /// Whether any limit applies to connections of this torrent.
    #[inline]
    pub(crate) fn is_limited(&self, index: usize, way: Way) -> bool {
        let of_torrent = |limits: &TorrentGates| limits.rates.all(way) > 0 || limits.rates.each(way) > 0;
        !self.limits.gates[way as usize].quota.is_unlimited()
            || self.homes[index].limits.as_deref().is_some_and(of_torrent)
    }

    /// Whether the connection waits for a limit.
    pub(crate) fn is_held(&self, key: SocketKey, way: Way) -> bool {
        self.conns[key.index()].as_ref().is_some_and(|conn| conn.limits.held[way as usize])
    }

    /// Tokens that a connection may spend now: `least` or more, and as many as are worth a call where that is 0. When
    /// it may not, it is held and put on the work list when it may: the answer is 0.
    pub(crate) fn admit(&mut self, key: SocketKey, index: usize, way: Way, least: u64) -> u64 {
        let (now, at) = (self.now, way as usize);
        let conn = self.conns[key.index()].as_mut().expect("called for a connection that lives");
        let turn = conn.limits.turn[at].take();
        let torrent = self.homes[index].limits.as_deref_mut();
        let each = torrent.as_ref().map_or(0, |limits| limits.rates.each(way));
        let own = conn.limits.bucket(now, way, each);
        let gates = [
            (Some(index), torrent.map(|limits| &mut limits.gates[at])),
            (None, Some(&mut self.limits.gates[at])),
        ];
        let rate = |gate: &Option<&mut Gate>| gate.as_ref().map_or(0, |gate| gate.quota.rate());
        let rates = [each, rate(&gates[0].1), rate(&gates[1].1)];
        let slowest = rates.into_iter().filter(|rate| *rate > 0).min().unwrap_or(u64::MAX);
        let need = if least == 0 { quantum(slowest) } else { least };
        let mut most = need.max(quantum(slowest));
        if let Some(bucket) = own {
            let wait = bucket.wait_for(now, need);
            if !wait.is_zero() {
                conn.limits.held[at] = true;
                self.limits.timed.push(Reverse(Timed { at: now + wait, key, way }));
                return 0;
            }
            most = most.min(bucket.available(now).max(need));
        }
        for (scope, gate) in gates {
            let Some(gate) = gate.filter(|gate| !gate.quota.is_unlimited()) else { continue };
            let first = turn == Some(scope);
            if gate.quota.available() >= need && (first || gate.waiting.is_empty()) {
                most = most.min(gate.quota.available());
                continue;
            }
            conn.limits.held[at] = true;
            match first {
                true => gate.waiting.push_front((key, need)),
                false => gate.waiting.push_back((key, need)),
            }
            most = 0;
            break;
        }
        if most == 0 {
            self.mark_busy(index);
        }
        most
    }

    /// Counts `bytes` of the stream that a connection moves without having taken tokens before.
    pub(crate) fn count(&mut self, key: SocketKey, index: usize, way: Way, bytes: u64) {
        let overhead = self.overhead(key);
        self.spend(key, index, way, overhead.cost(bytes));
        if overhead != Overhead::None {
            self.spend(key, index, way.back(), overhead.acknowledgements(bytes));
        }
    }

    /// What sending or receiving `bytes` costs.
    pub(crate) fn cost(&self, key: SocketKey, bytes: u64) -> u64 {
        self.overhead(key).cost(bytes)
    }

    fn overhead(&self, key: SocketKey) -> Overhead {
        match self.conns[key.index()].as_ref() {
            Some(conn) if self.config.count_overhead && conn.addr.is_ipv6() => Overhead::V6,
            Some(_) if self.config.count_overhead => Overhead::V4,
            _ => Overhead::None,
        }
    }

    fn spend(&mut self, key: SocketKey, index: usize, way: Way, tokens: u64) {
        self.limits.gates[way as usize].quota.consume(tokens);
        if let Some(limits) = &mut self.homes[index].limits {
            limits.gates[way as usize].quota.consume(tokens);
            self.mark_busy(index);
        }
        if let Some(own) = self.conn(key).and_then(|conn| conn.limits.own.as_mut()) {
            own[way as usize].consume(tokens);
        }
    }

    pub(crate) fn give_back(&mut self, key: SocketKey, index: usize, way: Way, tokens: u64) {
        self.limits.gates[way as usize].quota.give(tokens);
        if let Some(limits) = &mut self.homes[index].limits {
            limits.gates[way as usize].quota.give(tokens);
        }
        if let Some(own) = self.conn(key).and_then(|conn| conn.limits.own.as_mut()) {
            own[way as usize].give_back(tokens);
        }
    }

    /// Bytes that the next receive of a connection may take, which then must start; 0: it has to wait, for bytes or for
    /// tokens, and is put on the work list afterwards.
    pub(crate) fn reserve_receive(&mut self, key: SocketKey, index: usize) -> usize {
        if self.is_held(key, Way::Down) {
            return 0;
        }
        if !self.ring.has_bytes(key) {
            self.ring.watch(key);
            return 0;
        }
        let tokens = self.admit(key, index, Way::Down, 0);
        if tokens > 0 {
            self.spend(key, index, Way::Down, tokens);
            self.conn(key).expect("it was admitted").limits.reserved = tokens;
        }
        self.overhead(key).affordable(tokens) as usize
    }

    /// A receive that had taken `reserved` tokens has brought `bytes`. One that began before there was a limit has
    /// taken none, and is not counted.
    pub(crate) fn settle_receive(&mut self, key: SocketKey, index: usize, reserved: u64, bytes: u64) {
        let overhead = self.overhead(key);
        if reserved > 0 {
            self.give_back(key, index, Way::Down, reserved.saturating_sub(overhead.cost(bytes)));
        }
        if overhead != Overhead::None {
            self.spend(key, index, Way::Up, overhead.acknowledgements(bytes));
        }
    }

    // ---- once a turn

    /// Asks for tokens, deals them out, and lets connections go on that waited for some.
    pub(crate) fn release_throttled(&mut self) {
        self.limits.due = None;
        self.let_webs_go();
        for way in Way::ALL {
            self.turn_gate(None, way);
        }
        for index in std::mem::take(&mut self.limits.busy) {
            let mut busy = false;
            for way in Way::ALL {
                busy |= self.turn_gate(Some(index), way);
            }
            if let Some(limits) = self.homes.get_mut(index).and_then(|home| home.limits.as_mut()) {
                limits.busy = busy;
                if busy {
                    self.limits.busy.push(index);
                }
            }
        }
        while let Some(Reverse(timed)) = self.limits.timed.peek() {
            if timed.at > self.now {
                let at = timed.at;
                self.limits.due = Some(self.limits.due.map_or(at, |due| due.min(at)));
                return;
            }
            let Reverse(Timed { key, way, .. }) = self.limits.timed.pop().expect("just seen");
            if let Some(conn) = self.conn(key) {
                conn.limits.held[way as usize] = false;
                self.queue(key);
            }
        }
    }

    /// Returns whether somebody waits for tokens of this limit, here or on another shard.
    fn turn_gate(&mut self, scope: Scope, way: Way) -> bool {
        let (now, own) = (self.now, self.config.index);
        if self.gate(scope, way).is_none_or(|gate| gate.quota.is_unlimited()) {
            return false;
        }
        let mut grants = std::mem::take(&mut self.limits.grants);
        loop {
            let gate = self.gate(scope, way).expect("looked at");
            let need = gate.waiting.front().map_or(0, |(_, need)| *need);
            let ask = gate.quota.ask(need);
            let Some(bucket) = &mut gate.bucket else {
                if let Some(bytes) = ask {
                    self.send_word(scope, way, self.keeper(scope), TokenWord::Ask { shard: own, bytes });
                }
                break;
            };
            if let Some(bytes) = ask {
                bucket.ask(own, bytes);
            }
            bucket.deal(now, &mut grants);
            if grants.is_empty() {
                if let Some(wait) = bucket.wait(now) {
                    self.limits.due = Some(self.limits.due.map_or(now + wait, |due| due.min(now + wait)));
                }
                break;
            }
            for (shard, bytes) in grants.drain(..) {
                match self.gate(scope, way) {
                    Some(gate) if shard == own => gate.quota.answered(bytes),
                    _ => self.send_word(scope, way, shard, TokenWord::Grant { bytes }),
                }
            }
        }
        self.limits.grants = grants;
        self.let_first_go(scope, way)
    }

    /// Lets connections go on in the order in which they came, as far as there are tokens.
    fn let_first_go(&mut self, scope: Scope, way: Way) -> bool {
        let Some(gate) = self.gate(scope, way) else { return false };
        let mut left = gate.quota.available();
        while let Some((key, need)) = self.gate(scope, way).and_then(|gate| gate.waiting.front().copied()) {
            if need > left {
                return true;
            }
            self.gate(scope, way).expect("looked at").waiting.pop_front();
            // One that has gone, or was let go because a limit has changed, needs no tokens.
            if let Some(conn) = self.conn(key)
                && std::mem::take(&mut conn.limits.held[way as usize])
            {
                conn.limits.turn[way as usize] = Some(scope);
                left -= need;
                self.queue(key);
            }
        }
        let bucket = self.gate(scope, way).and_then(|gate| gate.bucket.as_ref());
        bucket.is_some_and(SharedBucket::is_asked)
    }

    // ---- between shards

    fn keeper(&self, scope: Scope) -> usize {
        match scope.map(|index| &self.homes[index].part) {
            None => KEEPER,
            Some(Part::Home { .. }) => self.config.index,
            Some(Part::Satellite { home, .. }) => *home,
        }
    }

    fn send_word(&mut self, scope: Scope, way: Way, shard: usize, word: TokenWord) {
        let torrent = scope.map(|index| self.homes[index].key);
        self.post(shard, ToShard::Tokens { torrent, way, word });
    }

    /// Another shard asks for tokens of a limit that is kept here, or has sent some.
    pub(crate) fn on_tokens(&mut self, torrent: Option<TorrentKey>, way: Way, word: &TokenWord) {
        let scope = match torrent {
            None => None,
            Some(key) => match self.by_key.get(&key) {
                Some(&index) => Some(index),
                None => return,
            },
        };
        // A limit that was lifted meanwhile needs no tokens.
        let Some(gate) = self.gate(scope, way) else { return };
        match *word {
            TokenWord::Ask { shard, bytes } => {
                if let Some(bucket) = &mut gate.bucket {
                    bucket.ask(shard, bytes);
                }
            }
            TokenWord::Grant { bytes } => gate.quota.answered(bytes),
        }
        if let Some(index) = scope {
            self.mark_busy(index);
        }
    }

    /// A satellite that ends does not ask any more.
    pub(crate) fn forget_asking(&mut self, index: usize, shard: usize) {
        for way in Way::ALL {
            if let Some(bucket) = self.gate(Some(index), way).and_then(|gate| gate.bucket.as_mut()) {
                bucket.forget(shard);
            }
        }
    }

    /// Nothing of a torrent waits any more: its place goes to another one.
    pub(crate) fn forget_limits(&mut self, index: usize) {
        self.limits.busy.retain(|busy| *busy != index);
        self.limits.webs.forget(index);
    }
}

mod rates;
mod web;

#[cfg(test)]
mod tests;
