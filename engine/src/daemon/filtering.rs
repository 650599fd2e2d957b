//! The daemon's IP filter: read anew when files change, on SIGHUP, or when a client asks.
//!
//! Owner: [`super::core`]. Invariant: each client that asked is answered once, when the files were read.

use std::time::Instant;

use tokio::sync::oneshot;

use super::api::{self, ApiError};
use super::core::{Answer, Core};
use super::reload::Notice;
use crate::ipfilter::{FilterKeeper, FilterSettings};

/// Notices that nobody has taken, at most.
const NOTICES_MAX: usize = 64;

/// See the module.
pub(super) struct Filtering {
    pub keeper: FilterKeeper,
    /// What the configuration says now.
    pub settings: FilterSettings,
    /// What came of it, for [`Core::reload`].
    pub notices: Vec<Notice>,
    waiting: Vec<oneshot::Sender<Result<Answer, ApiError>>>,
}

impl Filtering {
    /// Of a session that has the filter already.
    pub fn new(settings: FilterSettings) -> Self {
        let keeper = FilterKeeper::new(settings.clone());
        Self { keeper, settings, notices: Vec::new(), waiting: Vec::new() }
    }
}

impl Core {
    /// Reads the files anew for a client.
    pub fn reload_filter(&mut self, reply: oneshot::Sender<Result<Answer, ApiError>>) {
        if self.filtering.keeper.reload() {
            self.filtering.waiting.push(reply);
        } else {
            let none = ApiError::new(409, "no_filter", "there is no IP filter: set security.ip_filter");
            // Whoever asked may be gone.
            let _ = reply.send(Err(none));
        }
    }

    /// Called all the time.
    pub fn keep_filter(&mut self, now: Instant) {
        let Filtering { keeper, settings, notices, waiting } = &mut self.filtering;
        let Some(outcome) = keeper.poll(now, settings, &self.session) else { return };
        let (notice, answer) = match outcome {
            Ok(Some(report)) => {
                let text = report.to_string();
                tracing::info!("{text}");
                let answer = api::IpFilter {
                    ranges: report.ranges,
                    memory_bytes: report.memory_bytes,
                    bad_lines: report.bad_lines,
                    first_bad: report.first_bad,
                };
                (Notice::Filter(text), Ok(answer))
            }
            Ok(None) => {
                let gone = ApiError::new(409, "no_filter", "there is no IP filter any more");
                (Notice::Filter(gone.message.clone()), Err(gone))
            }
            Err(error) => {
                let text = error.to_string();
                (Notice::Wrong(text.clone()), Err(ApiError::new(400, "bad_filter", text)))
            }
        };
        if notices.len() < NOTICES_MAX {
            notices.push(notice);
        }
        if keeper.is_due() {
            return;
        }
        for reply in waiting.drain(..) {
            // Whoever asked may be gone.
            let _ = reply.send(answer.clone().map(Answer::Filter));
        }
    }
}
