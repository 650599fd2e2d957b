//! What the DHT and local discovery have found so far, for `--json`.
//!
//! Owner: the loop of a transfer. Invariant: nothing is said that was said last, and once a second at most.

use std::time::{Duration, Instant};

use ccbt_fast::Session;

use crate::console::Console;
use crate::lines::{Discovered, Line};

/// How often it is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Default)]
pub struct Finding {
    told: Discovered,
    looked: Option<Instant>,
}

impl Finding {
    /// Tells what has changed, if it is time.
    pub fn turn(&mut self, now: Instant, session: &Session, console: &mut Console) {
        if self.looked.is_some_and(|at| now.saturating_duration_since(at) < LOOK) {
            return;
        }
        self.looked = Some(now);
        self.end(session, console);
    }

    /// Tells what has changed.
    pub fn end(&mut self, session: &Session, console: &mut Console) {
        let Some(stats) = session.discovery_stats() else { return };
        let found = Discovered::from(stats);
        if found != self.told {
            self.told = found;
            console.line(&Line::Discovery(found));
        }
    }
}
