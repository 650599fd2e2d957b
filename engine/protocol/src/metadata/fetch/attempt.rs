//! One size that some peers name, and what came of it so far.
//!
//! Owner: [`super::Fetch`]. Invariant: `asked[piece]` is the number of requests on the way for it.

use std::net::IpAddr;
use std::time::Instant;

use sha1::{Digest, Sha1};

use super::{HURRY, MAX_ASKED};
use crate::ids::InfoHash;
use crate::metadata::piece_count;
use crate::picker::PeerKey;

/// A piece and who gave it.
#[derive(Debug)]
struct Part {
    bytes: Box<[u8]>,
    giver: IpAddr,
}

#[derive(Clone, Copy, Debug)]
struct Ask {
    /// Requests on the way.
    peers: u8,
    /// When the last one was sent.
    at: Instant,
}

#[derive(Debug)]
pub(super) struct Attempt {
    pub size: u32,
    pub started: Instant,
    /// The last piece.
    pub progress: Instant,
    /// Bytes here.
    pub received: u32,
    /// The only one that is asked, once a mixed whole was bad.
    pub solo: Option<PeerKey>,
    parts: Vec<Option<Part>>,
    asks: Vec<Ask>,
    missing: usize,
    /// No piece before this one is missing and unasked.
    first: usize,
    /// Of a mixed whole that was bad: each piece's SHA-1 and who gave it.
    suspects: Option<Vec<([u8; 20], IpAddr)>>,
}

impl Attempt {
    pub fn new(now: Instant, size: u32) -> Self {
        let pieces = piece_count(size) as usize;
        Self {
            size,
            started: now,
            progress: now,
            received: 0,
            solo: None,
            parts: (0..pieces).map(|_| None).collect(),
            asks: vec![Ask { peers: 0, at: now }; pieces],
            missing: pieces,
            first: 0,
            suspects: None,
        }
    }

    pub fn is_complete(&self) -> bool {
        self.missing == 0
    }

    /// A request for `piece` is not on the way any more.
    pub fn given_up(&mut self, piece: u32) {
        let at = piece as usize;
        if let Some(ask) = self.asks.get_mut(at) {
            ask.peers = ask.peers.saturating_sub(1);
            self.first = self.first.min(at);
        }
    }

    /// A peer is gone, or slow: if it is the only one asked, another one is, from the start.
    pub fn leave(&mut self, key: PeerKey) {
        if self.solo == Some(key) {
            self.solo = None;
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.parts.fill_with(|| None);
        (self.received, self.missing, self.first) = (0, self.parts.len(), 0);
    }

    /// After a bad whole: asks the best of `peers` alone.
    pub fn choose_solo(&mut self, now: Instant, mut peers: impl Iterator<Item = PeerKey>) {
        if self.suspects.is_some() && self.solo.is_none() {
            self.solo = peers.next();
            self.progress = now;
        }
    }

    /// The piece to ask a peer for that was not asked for those that `is_asked` tells.
    pub fn choose(&mut self, now: Instant, is_asked: impl Fn(u32) -> bool) -> Option<u32> {
        let is_new = |at: &usize| self.parts[*at].is_none() && self.asks[*at].peers == 0;
        let at = match (self.first..self.parts.len()).find(is_new) {
            Some(at) => {
                self.first = at;
                Some(at)
            }
            None => {
                self.first = self.parts.len();
                let slow = |at: &usize| {
                    let ask = self.asks[*at];
                    self.parts[*at].is_none()
                        && ask.peers < MAX_ASKED
                        && now.saturating_duration_since(ask.at) >= HURRY
                        && !is_asked(*at as u32)
                };
                (0..self.parts.len()).find(slow)
            }
        }?;
        self.asks[at] = Ask { peers: self.asks[at].peers + 1, at: now };
        Some(at as u32)
    }

    /// Takes a piece of the right length, if it is still missing.
    pub fn put(&mut self, now: Instant, piece: u32, bytes: &[u8], giver: IpAddr) {
        let part = &mut self.parts[piece as usize];
        if part.is_none() {
            *part = Some(Part { bytes: bytes.into(), giver });
            self.received += bytes.len() as u32;
            self.missing -= 1;
            self.progress = now;
        }
    }

    /// The whole if its SHA-1 is `info_hash`; otherwise who gave parts of it, and everything is missing again.
    pub fn finish(&mut self, info_hash: InfoHash) -> Result<Vec<u8>, Vec<IpAddr>> {
        let parts: Vec<Part> = self.parts.iter_mut().filter_map(Option::take).collect();
        let mut hasher = Sha1::new();
        parts.iter().for_each(|part| hasher.update(&part.bytes));
        if <[u8; 20]>::from(hasher.finalize()) == info_hash.0 {
            let mut whole = Vec::with_capacity(self.size as usize);
            parts.iter().for_each(|part| whole.extend_from_slice(&part.bytes));
            return Ok(whole);
        }
        let mut givers: Vec<IpAddr> = parts.iter().map(|part| part.giver).collect();
        givers.sort_unstable();
        givers.dedup();
        if givers.len() > 1 {
            let seen = |part: &Part| (Sha1::digest(&part.bytes).into(), part.giver);
            self.suspects = Some(parts.iter().map(seen).collect());
        }
        self.forget();
        Err(givers)
    }

    /// Who gave other pieces than those of `whole` to the whole that was bad.
    pub fn differing(&self, whole: &[u8]) -> Vec<IpAddr> {
        let pieces = whole.chunks(crate::metadata::PIECE_LEN as usize);
        let pairs = self.suspects.iter().flatten().zip(pieces);
        let differs =
            |(seen, piece): &(&([u8; 20], IpAddr), &[u8])| seen.0 != <[u8; 20]>::from(Sha1::digest(piece));
        let mut liars: Vec<IpAddr> = pairs.filter(differs).map(|(seen, _)| seen.1).collect();
        liars.sort_unstable();
        liars.dedup();
        liars
    }
}
