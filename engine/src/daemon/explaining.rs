//! Why a torrent of the daemon does what it does: what the session knows, and queue, pauses, goals and failures besides.
//!
//! Called by [`super::core`] for the first half, which waits for nothing, and by a task of the HTTP thread for the rest.

use super::api::{ApiError, Explanation};
use super::core::{Answer, Core};
use crate::explain::{Rest, explain};
use crate::session::Looking;

/// An answer that shards still have to complete.
#[derive(Debug)]
pub(super) struct Explaining {
    pub info_hash: String,
    pub name: String,
    pub looking: Looking,
    pub rest: Option<Rest>,
    pub error: Option<(String, bool)>,
}

impl Explaining {
    /// Waits for the shards.
    pub fn complete(self) -> Result<Explanation, ApiError> {
        let Self { info_hash, name, looking, rest, error } = self;
        let mut snapshot = looking.wait().map_err(|error| ApiError::new(409, "gone", error.to_string()))?;
        (snapshot.rest, snapshot.error) = (rest, error);
        Ok(Explanation { info_hash, name, findings: explain(&snapshot) })
    }
}

impl Core {
    pub fn explain(&self, id: &str) -> Result<Answer, ApiError> {
        if let Some(hash) = self.find_magnet(id) {
            let pending = &self.magnets[&hash];
            let looking = self.session.look_at_magnet(pending.handle());
            return Ok(Answer::Explain(Box::new(pending.explain(hash, looking))));
        }
        let hash = self.find_staying(id)?;
        let torrent = &self.torrents[&hash];
        let (position, runs) = self.place(hash);
        let record = &torrent.record;
        let rest = match (record.paused, record.goal_reached && !record.goal_ignored) {
            (true, true) => Some(Rest::GoalReached),
            (true, false) => Some(Rest::Paused),
            (false, _) if runs => None,
            (false, _) => {
                let running = self.torrents.keys().filter(|hash| self.queue.runs(**hash)).count();
                Some(Rest::Queued { position, running })
            }
        };
        let trouble = torrent.trouble.as_ref();
        Ok(Answer::Explain(Box::new(Explaining {
            info_hash: hash.to_string(),
            name: record.name.clone(),
            looking: self.session.look(&torrent.handle),
            // One that has failed is in no queue.
            rest: rest.filter(|rest| trouble.is_none() || !matches!(rest, Rest::Queued { .. })),
            error: trouble.map(|trouble| (trouble.message.clone(), trouble.passes)),
        })))
    }
}
