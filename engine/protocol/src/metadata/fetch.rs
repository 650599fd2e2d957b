//! Fetching metadata from several peers at once, some of which lie.
//!
//! Role: which piece to ask whom for, what became of it, and who is to blame. Owner: [`crate::fetching`], which carries
//! the messages. Call order: [`Fetch::add_peer`] when a peer has said how long the metadata is, [`Fetch::on_data`] and
//! [`Fetch::on_reject`] for what it answers, [`Fetch::remove_peer`] when it goes, [`Fetch::tick`] about once a second;
//! after each of them [`Fetch::poll_request`] and [`Fetch::poll_event`] until `None`.
//!
//! Peers that name different sizes are fetched from separately, up to [`MAX_SIZES`] sizes at a time; a size that gets
//! nowhere makes way for one that waits. A whole that is not the metadata was one peer's lie if one peer gave it. Otherwise
//! it is fetched again from a single peer at a time, and whoever gave a piece that differs from the good one is named.
//!
//! Invariant: memory is what was received, [`MAX_SIZES`] × [`MAX_METADATA_LEN`] at most.

mod attempt;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{MAX_METADATA_LEN, piece_len};
use crate::ids::InfoHash;
use crate::picker::PeerKey;
use attempt::Attempt;

/// Sizes that are fetched at the same time, where peers disagree.
pub const MAX_SIZES: usize = 3;
/// A peer that takes longer for a piece is not waited for.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A piece that somebody owes for so long is asked of others too when nothing else is left to ask for.
const HURRY: Duration = Duration::from_secs(2);
/// Peers asked for the same piece at most.
const MAX_ASKED: u8 = 3;
/// Time-outs and rejects in a row after which a peer is given up.
const MAX_BAD: u32 = 3;
/// How long a peer that rejects is not asked.
const REST: Duration = Duration::from_secs(5);
/// Requests on the way to one peer at first, and at most.
const WINDOW: usize = 2;
const MAX_WINDOW: usize = 8;
/// A size that got nowhere for so long makes way for another one.
const STALL: Duration = Duration::from_secs(20);
/// So does one that takes longer than this, while as many peers say something else; doubled each time.
const SLICE: Duration = Duration::from_secs(60);
/// Pieces that nobody asked for, put up with from one peer.
const MAX_UNASKED: u32 = 16;
/// Pieces given up that may still come, remembered of one peer.
const MAX_LATE: usize = 64;
/// Liars remembered.
const MAX_LIARS: usize = 1024;

/// What [`Fetch`] wants told or done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchEvent {
    /// The `info` dictionary; its SHA-1 is the info-hash.
    Complete(Vec<u8>),
    /// This address gave false bytes: avoid it, and end its connections.
    Liar(IpAddr),
    /// This peer gives nothing: end its connection.
    Useless(PeerKey),
}

/// Why a peer's connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchFault {
    /// No metadata can be this long.
    #[error("the peer says that the metadata has {0} bytes; up to {MAX_METADATA_LEN} are fetched")]
    Size(u32),
    /// It has lied before.
    #[error("the peer gave false metadata before")]
    Liar,
    /// A piece of another length or of another size than it said.
    #[error("the peer's piece {0} of the metadata is not as long as it must be")]
    Length(u32),
    /// Pieces that nobody asked for.
    #[error("the peer sends metadata that nobody asked for")]
    Unasked,
}

/// How far a fetch is. Units: bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FetchProgress {
    /// Received.
    pub received: u32,
    /// Of the whole; 0 until somebody says.
    pub total: u32,
    /// Peers that have it.
    pub peers: usize,
}

/// What went wrong with a fetch (counts).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FetchTrouble {
    /// Requests that were rejected.
    pub rejects: u64,
    /// Requests that were given up because nothing came.
    pub timeouts: u64,
    /// Wholes that are not the metadata: their SHA-1 is another.
    pub mismatches: u64,
    /// Addresses that gave false bytes.
    pub liars: usize,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    piece: u32,
    at: Instant,
}

#[derive(Debug)]
struct Source {
    ip: IpAddr,
    size: u32,
    asked: Vec<Asked>,
    /// Pieces it was asked for and that were given up; they may still come.
    late: Vec<u32>,
    good: u32,
    /// Time-outs and rejects since the last piece.
    bad: u32,
    rests_until: Option<Instant>,
    unasked: u32,
}

impl Source {
    fn window(&self, now: Instant) -> usize {
        match (self.rests_until, self.bad) {
            (Some(until), _) if now < until => 0,
            (_, 0) => (WINDOW + self.good as usize).min(MAX_WINDOW),
            _ => 1,
        }
    }

    fn forget_late(&mut self) {
        self.late.drain(..self.late.len().saturating_sub(MAX_LATE));
    }

    /// Reliability: the lowest is asked first.
    fn rank(&self) -> (u32, std::cmp::Reverse<u32>) {
        (self.bad, std::cmp::Reverse(self.good))
    }
}

/// See the module.
#[derive(Debug)]
pub struct Fetch {
    info_hash: InfoHash,
    peers: BTreeMap<PeerKey, Source>,
    attempts: Vec<Attempt>,
    liars: HashSet<IpAddr>,
    events: VecDeque<FetchEvent>,
    /// How long an attempt may take while others wait.
    slice: Duration,
    done: bool,
    trouble: FetchTrouble,
}

impl Fetch {
    /// Of a torrent of which nothing is known but its name.
    pub fn new(info_hash: InfoHash) -> Self {
        Self {
            info_hash,
            peers: BTreeMap::new(),
            attempts: Vec::new(),
            liars: HashSet::new(),
            events: VecDeque::new(),
            slice: SLICE,
            done: false,
            trouble: FetchTrouble::default(),
        }
    }

    /// A peer at `ip` has the metadata, and says that it has `size` bytes. A peer that says so again with another size is
    /// first removed.
    pub fn add_peer(&mut self, now: Instant, key: PeerKey, ip: IpAddr, size: u32) -> Result<(), FetchFault> {
        if size == 0 || size > MAX_METADATA_LEN {
            return Err(FetchFault::Size(size));
        }
        if self.liars.contains(&ip) {
            return Err(FetchFault::Liar);
        }
        if self.peers.get(&key).is_some_and(|source| source.size == size) {
            return Ok(());
        }
        self.remove_peer(now, key);
        let source = Source {
            ip,
            size,
            asked: Vec::new(),
            late: Vec::new(),
            good: 0,
            bad: 0,
            rests_until: None,
            unasked: 0,
        };
        self.peers.insert(key, source);
        self.choose_sizes(now);
        Ok(())
    }

    /// A peer is gone; one that never had the metadata may be named, too.
    pub fn remove_peer(&mut self, now: Instant, key: PeerKey) {
        let Some(source) = self.peers.remove(&key) else { return };
        if let Some(attempt) = self.attempts.iter_mut().find(|attempt| attempt.size == source.size) {
            source.asked.iter().for_each(|asked| attempt.given_up(asked.piece));
            attempt.leave(key);
        }
        let peers = &self.peers;
        self.attempts.retain(|attempt| peers.values().any(|peer| peer.size == attempt.size));
        self.choose_sizes(now);
    }

    /// A piece came.
    pub fn on_data(
        &mut self,
        now: Instant,
        key: PeerKey,
        piece: u32,
        total_size: Option<u32>,
        bytes: &[u8],
    ) -> Result<(), FetchFault> {
        let Some(source) = self.peers.get_mut(&key) else { return Err(FetchFault::Unasked) };
        let wanted = piece_len(source.size, piece);
        if wanted == 0 || bytes.len() != wanted as usize || total_size.is_some_and(|size| size != source.size)
        {
            return Err(FetchFault::Length(piece));
        }
        let is_asked = take(&mut source.asked, |asked| asked.piece == piece).is_some();
        if !is_asked && take(&mut source.late, |late| *late == piece).is_none() {
            source.unasked += 1;
            return if source.unasked > MAX_UNASKED { Err(FetchFault::Unasked) } else { Ok(()) };
        }
        (source.good, source.bad, source.rests_until) = (source.good.saturating_add(1), 0, None);
        let (size, ip) = (source.size, source.ip);
        let Some(at) = self.attempts.iter().position(|attempt| attempt.size == size) else { return Ok(()) };
        let attempt = &mut self.attempts[at];
        if is_asked {
            attempt.given_up(piece);
        }
        if attempt.solo.is_some_and(|solo| solo != key) {
            return Ok(());
        }
        attempt.put(now, piece, bytes, ip);
        if attempt.is_complete() {
            self.judge(now, at);
        }
        Ok(())
    }

    /// A piece will not come.
    pub fn on_reject(&mut self, now: Instant, key: PeerKey, piece: u32) {
        let Some(source) = self.peers.get_mut(&key) else { return };
        if take(&mut source.asked, |asked| asked.piece == piece).is_none() {
            return;
        }
        self.trouble.rejects += 1;
        source.bad += 1;
        source.rests_until = Some(now + REST);
        let (size, is_useless) = (source.size, source.bad >= MAX_BAD);
        if let Some(attempt) = self.attempts.iter_mut().find(|attempt| attempt.size == size) {
            attempt.given_up(piece);
        }
        if is_useless {
            self.give_up(now, key);
        }
    }

    /// Time passes.
    pub fn tick(&mut self, now: Instant) {
        let mut useless = Vec::new();
        for (key, source) in &mut self.peers {
            let attempt = self.attempts.iter_mut().find(|attempt| attempt.size == source.size);
            let late = |asked: &Asked| now.saturating_duration_since(asked.at) >= TIMEOUT;
            let Some(attempt) = attempt.filter(|_| source.asked.iter().any(late)) else { continue };
            // One that is slow is slow with all it was asked for.
            source.bad += 1;
            for asked in source.asked.extract_if(.., |asked| late(asked)) {
                self.trouble.timeouts += 1;
                attempt.given_up(asked.piece);
                source.late.push(asked.piece);
            }
            source.forget_late();
            if source.bad >= MAX_BAD {
                useless.push(*key);
            } else {
                attempt.leave(*key);
            }
        }
        useless.into_iter().for_each(|key| self.give_up(now, key));
        self.choose_sizes(now);
    }

    fn give_up(&mut self, now: Instant, key: PeerKey) {
        self.remove_peer(now, key);
        self.events.push_back(FetchEvent::Useless(key));
    }

    /// The next request to send: a piece, and whom to ask. It counts as sent.
    pub fn poll_request(&mut self, now: Instant) -> Option<(PeerKey, u32)> {
        if self.done {
            return None;
        }
        for attempt in &mut self.attempts {
            let mut sources: Vec<(&PeerKey, &mut Source)> =
                self.peers.iter_mut().filter(|(_, source)| source.size == attempt.size).collect();
            sources.sort_by_key(|(_, source)| source.rank());
            attempt.choose_solo(now, sources.iter().map(|(key, _)| **key));
            for (key, source) in sources {
                if attempt.solo.is_some_and(|solo| solo != *key) || source.asked.len() >= source.window(now) {
                    continue;
                }
                let asked = &source.asked;
                let is_asked = |piece| asked.iter().any(|asked| asked.piece == piece);
                if let Some(piece) = attempt.choose(now, is_asked) {
                    source.asked.push(Asked { piece, at: now });
                    return Some((*key, piece));
                }
            }
        }
        None
    }

    /// The next thing to do; `None` when all is told.
    pub fn poll_event(&mut self) -> Option<FetchEvent> {
        self.events.pop_front()
    }

    /// How far the attempt is that is farthest.
    pub fn progress(&self) -> FetchProgress {
        let farthest = self.attempts.iter().max_by_key(|attempt| attempt.received);
        FetchProgress {
            received: farthest.map_or(0, |attempt| attempt.received),
            total: farthest.map_or(0, |attempt| attempt.size),
            peers: self.peers.len(),
        }
    }

    /// What went wrong so far.
    pub fn trouble(&self) -> FetchTrouble {
        FetchTrouble { liars: self.liars.len(), ..self.trouble }
    }

    /// Bytes held.
    pub fn memory(&self) -> usize {
        self.attempts.iter().map(|attempt| attempt.received as usize).sum()
    }

    // ---- sizes

    /// Addresses that name `size`: connections are cheap, addresses less so.
    fn support(&self, size: u32) -> usize {
        let ips: HashSet<IpAddr> =
            self.peers.values().filter(|source| source.size == size).map(|source| source.ip).collect();
        ips.len()
    }

    /// Begins with sizes that wait, the one that most peers name first, as far as there is room or room can be made.
    fn choose_sizes(&mut self, now: Instant) {
        if self.done {
            return;
        }
        let is_active = |attempts: &[Attempt], size| attempts.iter().any(|attempt| attempt.size == size);
        let mut waiting: Vec<u32> = self.peers.values().map(|source| source.size).collect();
        waiting.retain(|size| !is_active(&self.attempts, *size));
        waiting.sort_unstable();
        waiting.dedup();
        waiting.sort_by_key(|size| std::cmp::Reverse(self.support(*size)));
        for size in waiting {
            if self.attempts.len() == MAX_SIZES {
                let support = self.support(size);
                let makes_way = |attempt: &Attempt| {
                    let old = now.saturating_duration_since(attempt.started) >= self.slice;
                    let stalled = now.saturating_duration_since(attempt.progress) >= STALL;
                    stalled || old && self.support(attempt.size) <= support
                };
                let Some(at) = self.attempts.iter().position(makes_way) else { return };
                let gone = self.attempts.remove(at);
                self.slice *= 2;
                let forget = |source: &&mut Source| source.size == gone.size;
                self.peers.values_mut().filter(forget).for_each(|source| {
                    let asked = std::mem::take(&mut source.asked);
                    source.late.extend(asked.iter().map(|asked| asked.piece));
                    source.forget_late();
                });
            }
            self.attempts.push(Attempt::new(now, size));
        }
    }

    // ---- the whole

    /// All pieces are there: they are the metadata, or somebody lied.
    fn judge(&mut self, now: Instant, at: usize) {
        let attempt = &mut self.attempts[at];
        match attempt.finish(self.info_hash) {
            Ok(bytes) => {
                let liars = attempt.differing(&bytes);
                liars.into_iter().for_each(|ip| self.blame(ip));
                self.done = true;
                self.attempts.clear();
                self.events.push_back(FetchEvent::Complete(bytes));
            }
            Err(givers) if givers.len() == 1 => {
                self.trouble.mismatches += 1;
                let ip = givers[0];
                self.blame(ip);
                let theirs: Vec<PeerKey> =
                    self.peers.iter().filter(|(_, source)| source.ip == ip).map(|(key, _)| *key).collect();
                theirs.into_iter().for_each(|key| self.remove_peer(now, key));
            }
            Err(_) => self.trouble.mismatches += 1,
        }
    }

    fn blame(&mut self, ip: IpAddr) {
        if self.liars.len() < MAX_LIARS {
            self.liars.insert(ip);
        }
        self.events.push_back(FetchEvent::Liar(ip));
    }
}

fn take<T>(list: &mut Vec<T>, is_it: impl Fn(&T) -> bool) -> Option<T> {
    list.iter().position(is_it).map(|at| list.swap_remove(at))
}

#[cfg(test)]
mod tests;
