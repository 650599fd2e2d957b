//! Who is connected to a torrent, and how much of that each peer was told.
//!
//! Owner: [`crate::torrent::Torrent`]. A log of comings and goings serves all peers: each only remembers how far it was
//! told, and one that was told nothing yet, or whose place in the log is gone, gets some of those that are there.
//!
//! Invariant: the log has [`MAX_LOG`] entries at most; `known` is what the log leads to.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use super::{Flags, INTERVAL, MAX_TOLD, PexMessage};

/// Comings and goings remembered.
const MAX_LOG: usize = 512;

/// See the module.
#[derive(Debug, Default)]
pub struct Book {
    known: BTreeMap<SocketAddr, Flags>,
    log: VecDeque<SocketAddr>,
    /// Changes before the first of the log.
    before: u64,
}

/// What one peer was told.
#[derive(Clone, Copy, Debug, Default)]
pub struct Told {
    /// Changes; `None`: nothing yet.
    upto: Option<u64>,
    at: Option<Instant>,
}

impl Told {
    /// When it may be told again.
    pub fn next(&self, now: Instant) -> Instant {
        self.at.map_or(now, |at| at + INTERVAL)
    }
}

impl Book {
    /// A peer that listens at `addr` is connected. Whether that is news.
    pub fn joined(&mut self, addr: SocketAddr, flags: Flags) -> bool {
        let is_new = self.known.insert(addr, flags).is_none();
        if is_new {
            self.note(addr);
        }
        is_new
    }

    /// It is not any more.
    pub fn left(&mut self, addr: SocketAddr) {
        if self.known.remove(&addr).is_some() {
            self.note(addr);
        }
    }

    fn note(&mut self, addr: SocketAddr) {
        if self.log.len() == MAX_LOG {
            self.log.pop_front();
            self.before += 1;
        }
        self.log.push_back(addr);
    }

    fn end(&self) -> u64 {
        self.before + self.log.len() as u64
    }

    /// Whether there is something that this peer was not told.
    pub fn has_news(&self, told: &Told) -> bool {
        match told.upto {
            None => !self.known.is_empty(),
            Some(upto) => upto < self.end(),
        }
    }

    /// What to tell the peer that listens at `own` now; `None`: nothing, or too early.
    pub fn message(&self, now: Instant, told: &mut Told, own: Option<SocketAddr>) -> Option<PexMessage> {
        if now < told.next(now) || !self.has_news(told) {
            return None;
        }
        let message = match told.upto {
            Some(upto) if upto >= self.before => self.changes(upto, told, own),
            _ => {
                told.upto = Some(self.end());
                let others = self.known.iter().filter(|(addr, _)| Some(**addr) != own);
                let added = others.take(MAX_TOLD).map(|(addr, flags)| (*addr, *flags)).collect();
                PexMessage { added, dropped: Vec::new() }
            }
        };
        if message.is_empty() {
            return None;
        }
        told.at = Some(now);
        Some(message)
    }

    /// What has changed since `upto`, as far as it fits: an address that came and went is told as gone.
    fn changes(&self, upto: u64, told: &mut Told, own: Option<SocketAddr>) -> PexMessage {
        let mut message = PexMessage::default();
        let mut at = upto;
        for addr in self.log.iter().skip((upto - self.before) as usize) {
            let flags = self.known.get(addr);
            let full = match flags {
                Some(_) => message.added.len() == MAX_TOLD,
                None => message.dropped.len() == MAX_TOLD,
            };
            if full {
                break;
            }
            at += 1;
            let is_told =
                message.dropped.contains(addr) || message.added.iter().any(|(told, _)| told == addr);
            if is_told || Some(*addr) == own {
                continue;
            }
            match flags {
                Some(flags) => message.added.push((*addr, *flags)),
                None => message.dropped.push(*addr),
            }
        }
        told.upto = Some(at);
        message
    }
}
