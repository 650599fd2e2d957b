//! What the daemon does when a client asks.
//!
//! Invariant: a change is in the folder of the state before it is answered with success.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use ccbt_protocol::ids::InfoHash;
use ccbt_protocol::metainfo::Metainfo;
use ccbt_shards::binding::Binding;
use tokio::sync::oneshot;

use super::api::{self, ApiError, Change, Event, GoalValue, Places, Removed};
use super::core::{Answer, Core};
use super::queue::Look;
use super::state::{Counters, Own, Record};
use super::torrent::{Leaving, Rules, Torrent};
use crate::checkpoints::{Checkpoint, now};
use crate::config::Effect;
use crate::session::{AddOptions, RemoveOptions, TorrentSource};
use crate::{Magnet, MoveOptions, Priority};

type Reply = oneshot::Sender<Result<Answer, ApiError>>;

/// A torrent that is about to run.
pub(super) struct Prepared {
    pub metainfo: Arc<Metainfo>,
    pub record: Record,
    pub counters: Counters,
    pub checkpoint: Option<Box<Checkpoint>>,
    pub options: AddOptions,
    pub rules: Rules,
}

/// Web seeds that come with one torrent, and bytes of a URL.
const WEB_SEEDS_MAX: usize = 64;
const WEB_SEED_LEN_MAX: usize = 2048;

fn refused(code: &str, message: impl Into<String>) -> ApiError {
    ApiError::new(400, code, message)
}

/// Refuses web seeds that are none, and more than [`WEB_SEEDS_MAX`].
pub(super) fn check_web_seeds(urls: &[String]) -> Result<(), ApiError> {
    let is_good = |url: &String| {
        let has_scheme = url.starts_with("http://") || url.starts_with("https://");
        has_scheme && url.len() <= WEB_SEED_LEN_MAX && !url.contains(char::is_control)
    };
    if urls.len() > WEB_SEEDS_MAX || !urls.iter().all(is_good) {
        let what = format!("web_seeds: at most {WEB_SEEDS_MAX} URLs of http or https");
        return Err(refused("bad_value", what));
    }
    Ok(())
}

fn unwritable(error: &io::Error) -> ApiError {
    ApiError::new(500, "state", format!("the daemon's state cannot be written: {error}; nothing was done"))
}

impl Core {
    /// Adds the torrent file `bytes`.
    pub fn add(&mut self, bytes: &[u8], how: &api::Add) -> Result<InfoHash, ApiError> {
        if bytes.is_empty() {
            return Err(refused(
                "bad_torrent",
                "give a torrent file in `torrent`, or a link in `magnet`".to_owned(),
            ));
        }
        let metainfo = TorrentSource::Bytes(bytes.to_vec())
            .load()
            .map_err(|error| refused("bad_torrent", error.to_string()))?;
        self.add_found(metainfo, bytes, how, None)
    }

    /// Adds a torrent; `bytes` is its file, and `link` the magnet link that led to it.
    pub fn add_found(
        &mut self,
        metainfo: Arc<Metainfo>,
        bytes: &[u8],
        how: &api::Add,
        link: Option<&Magnet>,
    ) -> Result<InfoHash, ApiError> {
        let hash = metainfo.info_hash;
        if let Some(torrent) = self.torrents.get(&hash) {
            let (code, what) = match torrent.leaving {
                Some(_) => ("removing", "is being removed; try again"),
                None => ("duplicate", "is here already"),
            };
            return Err(ApiError::new(409, code, format!("the torrent {hash} {what}")));
        }
        check_web_seeds(&how.web_seeds)?;
        let effect = self.config.effect(Some((&hash, &metainfo.name)));
        let output = match &how.output {
            Some(dir) => self.may_use(dir, "output").map(|()| dir.clone())?,
            None => {
                let dir = std::path::absolute(&effect.torrent.output)
                    .map_err(|error| refused("bad_folder", error.to_string()))?;
                self.within_sandbox(&dir).map(|()| dir)?
            }
        };
        let checkpoint = self.checkpoint(&metainfo);
        fs::create_dir_all(&output).map_err(|error| {
            refused("bad_folder", format!("the folder {} cannot be made: {error}", output.display()))
        })?;
        let mut record = Record::new(hash, &metainfo.name, output, now());
        record.paused = how.paused;
        apply(&mut record, &how.change)?;
        (record.files, record.file_priorities) = (how.files.clone(), how.file_priorities.clone());
        (record.bind_to, record.web_seeds) = (how.bind_to.clone(), how.web_seeds.clone());
        let file_priorities = wanted_files(&record, &metainfo, &effect)?;
        record.completion_handled = checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.is_complete());
        self.state.add(hash, &record, bytes).map_err(|error| unwritable(&error))?;
        let was_link = self.forget_magnet(hash);
        let counters = checkpoint.as_ref().map_or_else(Counters::default, |checkpoint| Counters {
            downloaded: checkpoint.totals.downloaded,
            uploaded: checkpoint.totals.uploaded,
            seeded_seconds: 0,
        });
        let mut options = effect.torrent.clone();
        options.peers.extend(&how.peers);
        options.file_priorities = file_priorities;
        bind(&mut options.bind_to, record.bind_to.as_ref());
        options.web_seeds.extend(record.web_seeds.iter().cloned());
        if let Some(link) = link {
            options.magnet = Some(link.to_string());
            if how.files.is_empty() && how.file_priorities.is_empty() {
                options.file_priorities = link.priorities(&metainfo).or(options.file_priorities.take());
            }
        }
        let rules = Rules::of(&effect);
        self.launch(vec![Prepared { metainfo, record, counters, checkpoint, options, rules }]);
        if how.top {
            self.queue.step(hash, super::Step::Top);
        }
        (self.order_changed, self.undecided) = (true, true);
        let (position, runs) = self.place(hash);
        let row = Box::new(self.torrents[&hash].row(position, runs));
        // A link was told as added when it came.
        self.subscribers.tell(&if was_link { Event::Status(row) } else { Event::Added(row) });
        Ok(hash)
    }

    /// The checkpoint of a torrent, if there is one that fits.
    pub fn checkpoint(&self, metainfo: &Metainfo) -> Option<Box<Checkpoint>> {
        let loaded = self.store.as_ref()?.load(metainfo.info_hash).ok()?;
        Some(loaded.checkpoint).filter(|checkpoint| checkpoint.fits(metainfo).is_ok()).map(Box::new)
    }

    /// Puts torrents behind the others and gives them to the session, at rest if they have to wait.
    pub fn launch(&mut self, all: Vec<Prepared>) {
        let look = |prepared: &Prepared| Look {
            wanted: !prepared.record.paused,
            forced: prepared.record.forced,
            complete: is_complete(prepared),
            busy: true,
            rate: 0,
        };
        let new: std::collections::HashMap<InfoHash, Look> =
            all.iter().map(|prepared| (prepared.metainfo.info_hash, look(prepared))).collect();
        all.iter().for_each(|prepared| self.queue.push(prepared.metainfo.info_hash));
        let limits = self.reloader.daemon().queue;
        let torrents = &self.torrents;
        let look = |hash| torrents.get(&hash).map_or_else(|| new[&hash], Torrent::look);
        let decisions = self.queue.decide(&limits, Instant::now(), look);
        for decision in decisions {
            if let Some(torrent) = self.torrents.get(&decision.key) {
                let handle = &torrent.handle;
                // A session that is gone is noticed by its end.
                let _ = if decision.runs { handle.resume() } else { handle.pause() };
            }
        }
        for prepared in all {
            self.give(prepared);
        }
    }

    fn give(&mut self, prepared: Prepared) {
        let complete = is_complete(&prepared);
        let Prepared { metainfo, record, counters, checkpoint, mut options, rules } = prepared;
        let hash = metainfo.info_hash;
        options.output.clone_from(&record.output);
        options.paused = !self.queue.runs(hash);
        options.limits = Some(rules.limits(&record.limits));
        options.source = Some(self.state.torrent_path(hash));
        let bytes_known = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.bytes_done());
        options.resume = checkpoint;
        match self.session.add_torrent(metainfo, options) {
            Ok(handle) => {
                self.keys.insert(handle.key(), hash);
                let torrent = Torrent {
                    handle,
                    record,
                    rules,
                    before: counters,
                    seeded: std::time::Duration::ZERO,
                    complete,
                    bytes_known,
                    moved: 0,
                    trouble: None,
                    move_done: None,
                    leaving: None,
                    finishing: false,
                    news: true,
                };
                self.torrents.insert(hash, torrent);
            }
            // It is in no session twice, so the session has ended.
            Err(error) => {
                tracing::error!("{hash} cannot run: {error}");
                self.queue.remove(hash);
            }
        }
    }

    /// Keeps a torrent's record after `change`; undone when it cannot be written.
    fn update(&mut self, hash: InfoHash, change: impl FnOnce(&mut Record)) -> Result<(), ApiError> {
        let torrent = self.torrents.get_mut(&hash).expect("it was found");
        let mut record = torrent.record.clone();
        change(&mut record);
        if record != torrent.record {
            self.state.save(hash, &record).map_err(|error| unwritable(&error))?;
            torrent.record = record;
            torrent.news = true;
        }
        self.undecided = true;
        Ok(())
    }

    /// As [`Self::update`], where nobody waits for it.
    pub fn note(&mut self, hash: InfoHash, change: impl FnOnce(&mut Record)) {
        let torrent = self.torrents.get_mut(&hash).expect("it was found");
        change(&mut torrent.record);
        torrent.news = true;
        if torrent.leaving.is_some() {
            // Its record has gone before it, and would bring it back.
            return;
        }
        let result = self.state.save(hash, &torrent.record);
        self.undecided = true;
        self.told_once(result);
    }

    pub fn pause(&mut self, id: &str) -> Result<Answer, ApiError> {
        let hash = self.find_staying(id)?;
        self.update(hash, |record| record.paused = true)?;
        self.decide(Instant::now());
        Ok(self.answer(hash))
    }

    /// Goes on after a pause, a failure or a goal that was reached.
    pub fn resume(&mut self, id: &str) -> Result<Answer, ApiError> {
        let hash = self.find_staying(id)?;
        self.update(hash, |record| {
            record.paused = false;
            record.goal_ignored |= record.goal_reached;
        })?;
        let torrent = self.torrents.get_mut(&hash).expect("it was found");
        let had_trouble = torrent.trouble.take().is_some();
        let ran = self.queue.runs(hash);
        self.decide(Instant::now());
        if had_trouble && ran {
            let _ = self.torrents[&hash].handle.resume();
        }
        Ok(self.answer(hash))
    }

    pub fn recheck(&mut self, id: &str) -> Result<Answer, ApiError> {
        let hash = self.find_staying(id)?;
        let torrent = self.torrents.get_mut(&hash).expect("it was found");
        torrent.trouble = None;
        torrent.handle.recheck().map_err(|error| ApiError::new(409, "gone", error.to_string()))?;
        self.undecided = true;
        Ok(self.answer(hash))
    }

    pub fn move_files(&mut self, id: &str, how: api::Move) -> Result<Answer, ApiError> {
        let hash = self.find_staying(id)?;
        self.may_use(&how.to, "to")?;
        if self.torrents[&hash].record.move_to.is_some() {
            return Err(ApiError::new(409, "moving", "its files are being moved already"));
        }
        self.begin_move(hash, how.to, how.overwrite)?;
        Ok(self.answer(hash))
    }

    /// Begins a move, which a restart completes.
    pub fn begin_move(&mut self, hash: InfoHash, to: PathBuf, overwrite: bool) -> Result<(), ApiError> {
        self.update(hash, |record| record.move_to = Some(to.clone()))?;
        let torrent = self.torrents.get_mut(&hash).expect("it was found");
        torrent.move_done = Some(0);
        let options = MoveOptions { overwrite };
        torrent
            .handle
            .move_storage(to, options)
            .map_err(|error| ApiError::new(409, "gone", error.to_string()))
    }

    pub fn step(&mut self, id: &str, step: api::QueueStep) -> Result<Answer, ApiError> {
        let hash = self.find_staying(id)?;
        self.order_changed |= self.queue.step(hash, step.step);
        self.decide(Instant::now());
        // The order is answered for, so it is kept at once.
        self.save_board(Instant::now());
        Ok(self.answer(hash))
    }

    pub fn change(&mut self, id: &str, change: &Change) -> Result<Answer, ApiError> {
        let hash = self.find_staying(id)?;
        let mut record = self.torrents[&hash].record.clone();
        apply(&mut record, change)?;
        self.update(hash, |old| *old = record)?;
        let torrent = &self.torrents[&hash];
        let _ = torrent.handle.set_limits(torrent.rules.limits(&torrent.record.limits));
        self.decide(Instant::now());
        Ok(self.answer(hash))
    }

    pub fn add_peers(&mut self, id: &str, peers: api::Peers) -> Result<Answer, ApiError> {
        let hash = self.find_staying(id)?;
        if let Some(peer) = peers.peers.iter().find(|peer| peer.port() == 0 || peer.ip().is_unspecified()) {
            return Err(refused("bad_peer", format!("nobody can be reached at {peer}")));
        }
        self.session.add_peers(&self.torrents[&hash].handle, peers.peers);
        Ok(self.answer(hash))
    }

    pub fn change_limits(&mut self, change: api::LimitChange) -> Answer {
        let (down, up) = self.own_limits;
        self.own_limits = (change.down_limit.unwrap_or(down), change.up_limit.unwrap_or(up));
        self.apply_limits();
        self.save_board(Instant::now());
        let limits = self.reloader.limits();
        Answer::Limits { down: limits.down, up: limits.up }
    }

    /// Removes a torrent; `reply` hears of it when its files are closed, or gone.
    pub fn remove(&mut self, id: &str, how: api::Remove, reply: Reply) {
        match self.find_staying(id) {
            Ok(hash) => self.begin_removal(hash, how.delete_data, Some(reply)),
            // Whoever asked may be gone.
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    /// Takes a torrent out; its record goes first, so that it does not come back half.
    pub fn begin_removal(&mut self, hash: InfoHash, delete_data: bool, reply: Option<Reply>) {
        if let Err(error) = self.state.remove(hash) {
            match reply {
                Some(reply) => drop(reply.send(Err(unwritable(&error)))),
                None => tracing::error!("{hash} cannot be removed: {error}"),
            }
            return;
        }
        let torrent = self.torrents.get_mut(&hash).expect("it was found");
        let removed = Removed { info_hash: hash.to_string(), ..Removed::default() };
        torrent.leaving = Some(Leaving { reply, removed });
        self.queue.remove(hash);
        (self.order_changed, self.undecided) = (true, true);
        self.session.remove(&torrent.handle, RemoveOptions { delete_data });
    }
}

/// How much each file is wanted: as was asked for, else as configured; `None`: as a checkpoint says.
pub(super) fn wanted_files(
    record: &Record,
    metainfo: &Metainfo,
    effect: &Effect,
) -> Result<Option<Vec<Priority>>, ApiError> {
    let choice =
        record.choice().map_err(|problem| refused("bad_value", format!("file_priorities {problem}")))?;
    let own = choice.priorities_in(metainfo).map_err(|error| refused("no_such_file", error.to_string()))?;
    Ok(own.or_else(|| effect.files.priorities_if_fitting(metainfo)))
}

/// Binds to what was asked for, if anything was.
pub(super) fn bind(configured: &mut Option<Binding>, asked: Option<&Places>) {
    if let Some(Places(places)) = asked {
        *configured = Some(places.clone());
    }
}

fn is_complete(prepared: &Prepared) -> bool {
    prepared.checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.is_complete())
}

/// Puts what a client wants into a record.
fn apply(record: &mut Record, change: &Change) -> Result<(), ApiError> {
    let limits = &mut record.limits;
    for (field, own) in [
        (change.down_limit, &mut limits.down),
        (change.up_limit, &mut limits.up),
        (change.peer_down_limit, &mut limits.peer_down),
        (change.peer_up_limit, &mut limits.peer_up),
    ] {
        *own = field.unwrap_or(*own);
    }
    if let Some(ratio) = change.seed_ratio {
        record.seed_ratio = ratio.map(|GoalValue(goal)| goal.map_or(Own::Off, Own::Value));
    }
    if let Some(seconds) = change.seed_seconds {
        let whole = |goal: f64| match goal.fract() == 0.0 && goal < 1e12 {
            true => Ok(Own::Value(goal as u64)),
            false => Err(refused("bad_value", "seed_seconds must be a whole number of seconds")),
        };
        record.seed_seconds = seconds.map(|GoalValue(goal)| goal.map_or(Ok(Own::Off), whole)).transpose()?;
    }
    if change.seed_ratio.is_some() || change.seed_seconds.is_some() {
        (record.goal_reached, record.goal_ignored) = (false, false);
    }
    record.seed_action = change.seed_action.unwrap_or(record.seed_action);
    record.forced = change.forced.unwrap_or(record.forced);
    Ok(())
}
