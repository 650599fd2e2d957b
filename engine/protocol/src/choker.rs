//! Who is unchoked: tit-for-tat and its seeding variant.

use std::time::{Duration, Instant};

use rand::Rng;

use crate::picker::PeerKey;

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
    fn default() -> Self {
        Self { slots: 8, optimistic: 1, optimistic_interval: Duration::from_secs(30) }
    }
}

/// A connection as the choker sees it. Rates in bytes per second over the last 20 s.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Candidate {
    pub key: PeerKey,
    pub interested: bool,
    pub unchoked: bool,
    pub down_rate: u64,
    pub up_rate: u64,
    pub uploaded: u64,
    pub snubbed: bool,
    pub upload_only: bool,
    pub connected_at: Instant,
}

/// Whether to serve a connection from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Decision {
    pub key: PeerKey,
    pub unchoke: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Choker {
    decisions: Vec<Decision>,
}

#[allow(unused_variables, missing_docs)]
impl Choker {
    pub fn new(config: ChokerConfig) -> Self { todo!() }
    pub fn run(&mut self, now: Instant, candidates: &[Candidate], seeding: bool, rng: &mut impl Rng) -> &[Decision] { todo!() }
}
