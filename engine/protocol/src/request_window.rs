//! How many requests to keep outstanding at a peer.

use std::time::{Duration, Instant};

/// Bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct WindowConfig {
    pub floor: usize,
    pub ceiling: usize,
    pub request_timeout_min: Duration,
    pub request_timeout_max: Duration,
}

impl Default for WindowConfig {
    fn default() -> Self {
        Self { floor: 16, ceiling: 4096, request_timeout_min: Duration::from_secs(10), request_timeout_max: Duration::from_secs(60) }
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct RequestWindow {}

#[allow(unused_variables, missing_docs)]
impl RequestWindow {
    pub fn new(config: WindowConfig) -> Self { todo!() }
    pub fn size(&self) -> usize { todo!() }
    pub fn set_peer_limit(&mut self, reqq: usize) { todo!() }
    pub fn on_block(&mut self, now: Instant, len: u32, round_trip: Duration) { todo!() }
    pub fn on_snub(&mut self) { todo!() }
    pub fn request_timeout(&self) -> Duration { todo!() }
}
