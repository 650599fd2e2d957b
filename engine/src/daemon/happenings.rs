//! What the daemon does when its session tells something, time passes, or files appear.

use std::path::Path;
use std::time::{Duration, Instant};

use ccbt_protocol::ids::{InfoHash, TorrentKey};

use super::api::Event;
use super::core::{Answer, Core, EngineGone};
use super::hooks::Job;
use super::settings::SeedAction;
use super::torrent::Trouble;
use crate::checkpoints::now;
use crate::session::SessionEvent;
use crate::{State, TorrentEvent};

impl Core {
    /// Something that the session tells.
    pub fn happened(&mut self, event: SessionEvent) -> Result<(), EngineGone> {
        match event {
            SessionEvent::EngineLost => return Err(EngineGone),
            SessionEvent::Missed(events) => tracing::debug!("{events} events of the session were missed"),
            SessionEvent::Status(status) => {
                if let Some(torrent) = self.keys.get(&status.key).and_then(|hash| self.torrents.get_mut(hash))
                {
                    torrent.news = true;
                    let complete = match status.state {
                        State::Seeding => true,
                        State::Downloading => false,
                        _ => torrent.complete,
                    };
                    self.undecided |= complete != torrent.complete;
                    torrent.complete = complete;
                    let moved = status.stats.downloaded + status.stats.uploaded;
                    self.counters_changed |= moved != std::mem::replace(&mut torrent.moved, moved);
                    let hash = torrent.info_hash();
                    self.finish(hash);
                }
            }
            SessionEvent::Torrent(key, event) => self.torrent_happened(key, event),
        }
        Ok(())
    }

    fn torrent_happened(&mut self, key: TorrentKey, event: TorrentEvent) {
        let Some(&hash) = self.keys.get(&key) else { return };
        if self.magnets.contains_key(&hash) {
            return self.magnet_happened(hash, event);
        }
        let Some(torrent) = self.torrents.get_mut(&hash) else { return };
        let info_hash = hash.to_string();
        torrent.news = true;
        match event {
            TorrentEvent::Note(text) => tracing::info!("{}: {text}", torrent.record.name),
            TorrentEvent::Checked { good, total } => {
                torrent.complete = good == total;
                self.undecided = true;
                self.subscribers.tell(&Event::Checked { info_hash, good, total });
            }
            TorrentEvent::Finished => {
                (torrent.complete, torrent.finishing) = (true, true);
                self.undecided = true;
                self.finish(hash);
            }
            TorrentEvent::Failed { message, retry } => {
                tracing::warn!("{}: {message}", torrent.record.name);
                torrent.trouble = Some(Trouble { message: message.clone(), passes: retry });
                self.undecided = true;
                self.subscribers.tell(&Event::Error { info_hash, message, retry });
            }
            TorrentEvent::Recovered => {
                torrent.trouble = None;
                self.undecided = true;
                self.subscribers.tell(&Event::Recovered { info_hash });
            }
            TorrentEvent::MoveProgress { done, .. } => torrent.move_done = Some(done),
            TorrentEvent::Moved { root, left } => {
                torrent.move_done = None;
                for left in left {
                    tracing::warn!("{}: still at its old place: {left}", torrent.record.name);
                }
                self.note(hash, |record| (record.output, record.move_to) = (root.clone(), None));
                let output = root.to_string_lossy().into_owned();
                self.subscribers.tell(&Event::Moved { info_hash, output });
                self.run_hook(hash);
            }
            TorrentEvent::MoveFailed { message } => {
                torrent.move_done = None;
                torrent.trouble = Some(Trouble { message: message.clone(), passes: true });
                tracing::warn!("{}: {message}", torrent.record.name);
                self.note(hash, |record| record.move_to = None);
                self.subscribers.tell(&Event::MoveFailed { info_hash, message });
                self.run_hook(hash);
            }
            TorrentEvent::Deleted { files, bytes, left } => {
                if let Some(leaving) = &mut torrent.leaving {
                    let removed = &mut leaving.removed;
                    (removed.files, removed.bytes, removed.left) = (files, bytes, left);
                }
            }
            TorrentEvent::Removed => self.removed(key, hash),
            TorrentEvent::Tracker { url, reason } => {
                tracing::debug!("{}: tracker {url}: {reason}", torrent.record.name);
            }
            TorrentEvent::WebSeed { url, reason } => {
                tracing::info!("{}: web seed {url}: {reason}", torrent.record.name);
            }
            TorrentEvent::PeerFault { addr, fault } => tracing::debug!("{addr} was disconnected: {fault}"),
            TorrentEvent::Banned(ip) => tracing::info!("{ip} sent corrupt data and is avoided"),
            _ => {}
        }
    }

    fn removed(&mut self, key: TorrentKey, hash: InfoHash) {
        self.keys.remove(&key);
        self.queue.remove(hash);
        let Some(torrent) = self.torrents.remove(&hash) else { return };
        self.subscribers.tell(&Event::Removed { info_hash: hash.to_string() });
        (self.order_changed, self.undecided) = (true, true);
        if let Some(leaving) = torrent.leaving
            && let Some(reply) = leaving.reply
        {
            // Whoever asked may be gone.
            let _ = reply.send(Ok(Answer::Removed(leaving.removed)));
        }
    }

    /// Does what follows a download: once, and not for what was complete when it was added. Waits for the status after the
    /// end, which tells whether anything was fetched.
    fn finish(&mut self, hash: InfoHash) {
        let torrent = self.torrents.get_mut(&hash).expect("it was there just now");
        let state = torrent.handle.status().map_or(State::Opening, |status| status.state);
        let is_early = matches!(state, State::Opening | State::Checking | State::Downloading);
        if !torrent.finishing || is_early {
            return;
        }
        torrent.finishing = false;
        if torrent.record.completion_handled || torrent.leaving.is_some() {
            return;
        }
        let was_fetched = torrent.counters().downloaded > 0;
        let move_to = torrent.rules.move_completed.clone().filter(|dir| *dir != torrent.record.output);
        self.note(hash, |record| {
            record.completion_handled = true;
            record.hook_due = was_fetched;
            record.completed_at = was_fetched.then(now);
        });
        if !was_fetched {
            return;
        }
        self.save_board(Instant::now());
        self.subscribers.tell(&Event::Finished { info_hash: hash.to_string() });
        tracing::info!("{} is complete", self.torrents[&hash].record.name);
        match move_to {
            Some(dir) if self.torrents[&hash].record.move_to.is_none() => {
                if let Err(error) = self.begin_move(hash, dir, false) {
                    tracing::warn!("{}: {error}", self.torrents[&hash].record.name);
                    self.run_hook(hash);
                }
            }
            _ => self.run_hook(hash),
        }
    }

    /// Runs the program for complete downloads if it is due.
    pub fn run_hook(&mut self, hash: InfoHash) {
        let torrent = &self.torrents[&hash];
        if !torrent.record.hook_due || torrent.record.move_to.is_some() {
            return;
        }
        let (name, info_hash) = (torrent.record.name.clone(), hash);
        let path = torrent.record.output.join(&name);
        self.note(hash, |record| record.hook_due = false);
        if let Some(argv) = self.reloader.daemon().on_complete.clone() {
            self.hooks.run(Job { argv, info_hash, name, path });
        }
    }

    /// Counts time of seeding, and does what a goal says that is reached.
    pub fn rule(&mut self, elapsed: Duration) {
        let finishing = self.torrents.iter().filter(|(_, torrent)| torrent.finishing);
        for hash in finishing.map(|(hash, _)| *hash).collect::<Vec<_>>() {
            self.finish(hash);
        }
        let mut reached = Vec::new();
        for (hash, torrent) in &mut self.torrents {
            let state = torrent.handle.status().map(|status| status.state);
            if torrent.record.paused || torrent.leaving.is_some() || state != Some(State::Seeding) {
                continue;
            }
            torrent.seeded += elapsed;
            self.times_changed = true;
            let record = &torrent.record;
            if !record.goal_ignored && record.move_to.is_none() && torrent.is_goal_reached() {
                reached.push((*hash, torrent.action()));
            }
        }
        for (hash, action) in reached {
            self.subscribers.tell(&Event::GoalReached { info_hash: hash.to_string(), action });
            tracing::info!("{} has reached its goal of seeding", self.torrents[&hash].record.name);
            match action {
                SeedAction::Pause => {
                    self.note(hash, |record| (record.paused, record.goal_reached) = (true, true));
                }
                SeedAction::Remove => self.begin_removal(hash, false, None),
            }
        }
    }

    /// Adds what lies in the watch folder.
    pub fn watch_folder(&mut self, now: Instant) {
        let Some(mut watch) = self.watch.take() else { return };
        for path in watch.due(now) {
            match self.add_file(&path) {
                Ok(hash) => {
                    tracing::info!("added {} from the watch folder", self.torrents[&hash].record.name);
                    watch.added(&path);
                }
                Err(error) if error.code == "duplicate" => watch.added(&path),
                Err(error) => {
                    if watch.refused(&path, now) {
                        tracing::warn!("{} in the watch folder is not added: {error}", path.display());
                    }
                }
            }
        }
        self.watch = Some(watch);
    }

    /// Adds a torrent file of this machine.
    pub fn add_file(&mut self, path: &Path) -> Result<InfoHash, super::api::ApiError> {
        let bytes = crate::session::read_torrent(path)
            .map_err(|error| super::api::ApiError::new(400, "unreadable", error.to_string()))?;
        self.add(&bytes, &super::api::Add::default())
    }
}
