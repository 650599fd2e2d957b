//! Who is unchoked: tit-for-tat and its seeding variant.
//!
//! Role: divides a number of upload slots among those who want something. Owner: one per torrent, run about every 10 s
//! and when somebody becomes interested. Invariant: no more than `slots` are unchoked, all of them interested; and as
//! long as slots are free, everybody interested is.
//!
//! While downloading (BEP 3): the peers that send to us fastest, and some drawn at random, the *optimistic* ones, so
//! that newcomers can show what they have (three times as likely in their first minutes). Optimistic unchokes last
//! [`ChokerConfig::optimistic_interval`]. A peer that snubs us only gets an optimistic place. Places that nobody earns
//! are optimistic, too.
//!
//! While seeding there is nothing to repay, so places go round: a peer keeps its place for a [`TURN`]; then whoever has
//! waited longest takes over, first from those that take our data slowest. At most a quarter of the places change hands
//! in one run, so fast peers are served for longer, and yet everybody has a turn.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rand::{Rng, RngExt};

use crate::picker::PeerKey;

/// A seed's unchoke lasts this long at least.
pub const TURN: Duration = Duration::from_secs(60);
/// Peers connected for less are more likely to be drawn, in multiples of the optimistic interval.
const NEW_FOR: u32 = 3;
/// How much more likely (BEP 3).
const NEW_WEIGHT: u32 = 3;

/// How many are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChokerConfig {
    /// Unchoked at once, the optimistic ones included.
    pub slots: usize,
    /// Of these, drawn regardless of their rate.
    pub optimistic: usize,
    /// How long an optimistic unchoke lasts.
    pub optimistic_interval: Duration,
}

impl Default for ChokerConfig {
    /// For a host with bandwidth to spare: 64 slots, so that choking begins only in swarms larger than that, where each
    /// peer would otherwise get too little to keep its TCP window open. 4 of them are optimistic, the share of BEP 3's
    /// 1 in 4 being needless with so many.
    fn default() -> Self {
        Self { slots: 64, optimistic: 4, optimistic_interval: Duration::from_secs(30) }
    }
}

/// A connection as the choker sees it. Rates in bytes per second over the last 20 s.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// The connection.
    pub key: PeerKey,
    /// Whether it wants something of ours.
    pub interested: bool,
    /// Whether it is served now.
    pub unchoked: bool,
    /// From it to us.
    pub down_rate: u64,
    /// From us to it.
    pub up_rate: u64,
    /// Bytes sent to it so far.
    pub uploaded: u64,
    /// Whether it stopped answering our requests.
    pub snubbed: bool,
    /// Whether it downloads nothing (BEP 21), seeds included.
    pub upload_only: bool,
    /// When its handshake ended.
    pub connected_at: Instant,
}

impl Candidate {
    /// Whether it can use an upload slot. Of a peer that downloads nothing, interest is a leftover.
    fn wants(&self) -> bool {
        self.interested && !self.upload_only
    }

    /// Its claim to a slot by what it sends; an eighth more for those who have one, so that equals do not alternate.
    fn claim(&self) -> u64 {
        if self.unchoked { self.down_rate.saturating_add(self.down_rate / 8) } else { self.down_rate }
    }
}

/// Whether to serve a connection from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The connection.
    pub key: PeerKey,
    /// Serve it, or no longer.
    pub unchoke: bool,
}

/// What is remembered of a peer between runs.
#[derive(Clone, Copy, Debug)]
struct Memory {
    /// The last run that saw it.
    run: u64,
    /// Since when it has had a slot, or none.
    since: Instant,
    /// Its slot is an optimistic one, drawn at that time.
    optimistic: Option<Instant>,
}

/// See the module.
#[derive(Debug)]
pub struct Choker {
    config: ChokerConfig,
    runs: u64,
    memory: HashMap<PeerKey, Memory>,
    /// Positions in the candidates of a run.
    chosen: Vec<usize>,
    waiting: Vec<usize>,
    decisions: Vec<Decision>,
}

impl Choker {
    /// A choker that knows nobody yet.
    pub fn new(config: ChokerConfig) -> Self {
        Self {
            config,
            runs: 0,
            memory: HashMap::new(),
            chosen: Vec::new(),
            waiting: Vec::new(),
            decisions: Vec::new(),
        }
    }

    /// Divides the slots anew among `candidates`, all connections of the torrent. Returns what changes, each connection
    /// at most once, those to be choked first.
    pub fn run(
        &mut self,
        now: Instant,
        candidates: &[Candidate],
        seeding: bool,
        rng: &mut impl Rng,
    ) -> &[Decision] {
        self.recall(now, candidates);
        if seeding {
            self.take_turns(now, candidates)
        } else {
            self.repay(now, candidates, rng)
        }
        debug_assert!(self.chosen.len() <= self.config.slots, "more chosen than there are slots");
        self.decide(now, candidates)
    }

    /// Brings `memory` in line with who is here.
    fn recall(&mut self, now: Instant, candidates: &[Candidate]) {
        self.runs += 1;
        for candidate in candidates {
            let since = if candidate.unchoked { now } else { candidate.connected_at };
            let new = Memory { run: 0, since, optimistic: None };
            self.memory.entry(candidate.key).or_insert(new).run = self.runs;
        }
        let run = self.runs;
        self.memory.retain(|_, memory| memory.run == run);
        self.chosen.clear();
        self.waiting.clear();
    }

    /// Tit-for-tat.
    fn repay(&mut self, now: Instant, candidates: &[Candidate], rng: &mut impl Rng) {
        let Self { config, memory, chosen, waiting, .. } = self;
        let earned = config.slots.saturating_sub(config.optimistic);
        waiting.extend((0..candidates.len()).filter(|at| candidates[*at].wants()));
        waiting.sort_by_key(|at| {
            let candidate = &candidates[*at];
            let earns = !candidate.snubbed && candidate.down_rate > 0;
            (!earns, std::cmp::Reverse(candidate.claim()), !candidate.unchoked, candidate.key)
        });
        let earning = |at: &usize| !candidates[*at].snubbed && candidates[*at].down_rate > 0;
        let count = waiting.iter().take(earned).take_while(|at| earning(at)).count();
        chosen.extend(waiting.drain(..count));
        for at in chosen.iter() {
            memory.get_mut(&candidates[*at].key).expect("recalled").optimistic = None;
        }
        // Optimistic ones stay for their time.
        let mut kept = Vec::new();
        let mut expired = Vec::new();
        waiting.retain(|at| {
            let candidate = &candidates[*at];
            let drawn = memory[&candidate.key].optimistic.filter(|_| candidate.unchoked);
            match drawn {
                Some(drawn) if now.saturating_duration_since(drawn) < config.optimistic_interval => {
                    kept.push((drawn, *at))
                }
                Some(_) => expired.push(*at),
                None => return true,
            }
            false
        });
        kept.sort_by_key(|(drawn, at)| (std::cmp::Reverse(*drawn), candidates[*at].key));
        let mut free = config.slots - chosen.len();
        for (_, at) in kept {
            if free > 0 {
                chosen.push(at);
                free -= 1;
            }
        }
        let new = NEW_FOR * config.optimistic_interval;
        let weight = |at: &usize| {
            let age = now.saturating_duration_since(candidates[*at].connected_at);
            if age < new { NEW_WEIGHT } else { 1 }
        };
        for group in [waiting, &mut expired] {
            while free > 0 && !group.is_empty() {
                let at = group.swap_remove(draw(group, weight, rng));
                memory.get_mut(&candidates[at].key).expect("recalled").optimistic = Some(now);
                chosen.push(at);
                free -= 1;
            }
        }
    }

    /// Round robin for seeds.
    fn take_turns(&mut self, now: Instant, candidates: &[Candidate]) {
        let Self { config, memory, chosen, waiting, .. } = self;
        let since = |at: &usize| memory[&candidates[*at].key].since;
        for (at, candidate) in candidates.iter().enumerate().filter(|(_, candidate)| candidate.wants()) {
            if candidate.unchoked { chosen.push(at) } else { waiting.push(at) }
        }
        waiting.sort_by_key(|at| (since(at), candidates[*at].key));
        // The last ones leave first: those whose turn is over, slowest last.
        let turn_over = |at: &usize| now.saturating_duration_since(since(at)) >= TURN;
        chosen.sort_by_key(|at| {
            (turn_over(at), std::cmp::Reverse(candidates[*at].up_rate), since(at), candidates[*at].key)
        });
        chosen.truncate(config.slots);
        let free = config.slots - chosen.len();
        let over = chosen.iter().filter(|at| turn_over(at)).count();
        let leaving = over.min(config.slots.div_ceil(4)).min(waiting.len().saturating_sub(free));
        chosen.truncate(chosen.len() - leaving);
        chosen.extend(waiting.drain(..waiting.len().min(free + leaving)));
    }

    /// Compares what was chosen with what is.
    fn decide(&mut self, now: Instant, candidates: &[Candidate]) -> &[Decision] {
        let Self { memory, chosen, decisions, .. } = self;
        chosen.sort_unstable();
        decisions.clear();
        for (at, candidate) in candidates.iter().enumerate() {
            let unchoke = chosen.binary_search(&at).is_ok();
            let memory = memory.get_mut(&candidate.key).expect("recalled");
            if !unchoke {
                memory.optimistic = None;
            }
            if unchoke != candidate.unchoked {
                memory.since = now;
                decisions.push(Decision { key: candidate.key, unchoke });
            }
        }
        decisions.sort_by_key(|decision| decision.unchoke);
        decisions
    }
}

/// A position in `group`, which is not empty, drawn with the given weights.
fn draw(group: &[usize], weight: impl Fn(&usize) -> u32, rng: &mut impl Rng) -> usize {
    let total: u32 = group.iter().map(&weight).sum();
    let mut ticket = rng.random_range(0..total);
    for (nth, at) in group.iter().enumerate() {
        match ticket.checked_sub(weight(at)) {
            Some(rest) => ticket = rest,
            None => return nth,
        }
    }
    unreachable!("the ticket is below the sum of weights")
}

#[cfg(test)]
mod tests;
