//! The life of a torrent on its home shard: open, check what is there, run, close.
//!
//! Role: turns control messages and storage answers into calls of [`Torrent`]. Owner: the shard. Its pieces are in
//! [`crate::pieces`], the look at existing data in [`crate::checking`]. Invariant: a torrent stays in the slab until
//! every command and job of its own has been answered and every connection is gone.

use std::sync::Arc;

use ccbt_protocol::bitfield::Bitfield;
use ccbt_protocol::candidates::{Candidates, Source};
use ccbt_protocol::ids::PieceIndex;
use ccbt_protocol::picker::PickerConfig;
use ccbt_protocol::torrent::{Torrent, TorrentConfig};
use ccbt_storage::arena::PieceBuf;
use ccbt_storage::error::StorageError;
use ccbt_storage::layout::LayoutSpec;
use ccbt_storage::messages::{OpenMode, OpenReport, StorageCmd, StorageDone};

use crate::announce::{Announces, Identity};
use crate::discovering::Finding;
pub(crate) use crate::home::{Aside, Home, Phase};
use crate::messages::{AddTorrent, Event, FromShard};
use crate::playing::Playing;
use crate::shard::Shard;
pub(crate) use crate::slots::{LivePieces, SlotSource};
use crate::sync::SyncPolicy;
use crate::webseeds::Command;
use crate::websources::WebSources;

impl Shard {
    pub(crate) fn add_torrent(&mut self, add: AddTorrent, spread: bool) {
        assert!(!self.by_key.contains_key(&add.key), "a torrent key used twice");
        let spec = LayoutSpec::from_metainfo(add.root.clone(), &add.metainfo)
            .and_then(|spec| spec.with_renames(&add.renames));
        let spec = match spec {
            Ok(spec) => Arc::new(spec),
            Err(error) => {
                let failed = Event::Failed { message: error.to_string(), retry: false };
                return self.tell(FromShard::Event(add.key, failed));
            }
        };
        let (magnet, mut candidates, announces) = match self.take_fetcher(add.key, &add.trackers) {
            Some((at, candidates, announces)) => (Some(at), candidates, announces),
            None => (None, Candidates::new(self.config.listen_port), None),
        };
        if add.metainfo.private {
            candidates.set_private();
        }
        candidates.set_filter(self.filter.clone());
        for peer in &add.peers {
            candidates.add(*peer, Source::User);
        }
        let new_announces = || {
            let identity = Identity {
                torrent: add.key,
                info_hash: add.metainfo.info_hash,
                peer_id: self.config.peer_id,
                port: self.config.listen_port,
            };
            Announces::new(identity, &add.trackers, self.now, &mut self.rng).bound_to(add.bind.clone())
        };
        let mut announces = announces.or_else(|| (!add.trackers.is_empty()).then(new_announces));
        if let (true, Some(announces)) = (add.paused, &mut announces) {
            // Nobody knows us yet: this only keeps it quiet until it is resumed.
            announces.stop(self.now);
        }
        let finding = Finding::new(&add, self.config.bind.as_ref());
        let home = Home {
            // Nothing goes past a proxy.
            web: WebSources::new(&add.web_seeds).filter(|_| self.config.proxy.is_none()),
            candidates,
            announces,
            known: add.known,
            // A piece that peers hear of after its sync only would have to be told by its home.
            // What is urgent, and what is shown to whom, is known at home only.
            spread: spread
                && self.config.sync.policy != SyncPolicy::Piece
                && !add.streaming
                && !add.super_seeding,
            seed_only: add.seed_only,
            finding,
            bytes_wanted: add.selection.wanted_len(&add.metainfo),
            playing: add.streaming.then(|| Box::new(Playing::expecting(&add.metainfo, &add.selection))),
            super_seeding: add.super_seeding,
            pex: add.pex,
            bind: add.bind,
            selection: add.selection,
            prealloc: add.prealloc,
            paused: add.paused,
            ..Home::new(self.now, add.key, add.metainfo, spec, add.picker, add.max_peers)
        };
        let (key, hash) = (home.key, home.meta.info_hash);
        let index = self.homes.insert(home);
        self.by_key.insert(key, index);
        self.by_hash.insert(hash, index);
        if let Some(at) = magnet {
            self.hand_down(at, index);
        }
        self.touch(index);
        self.tell_nodes(index);
        self.set_torrent_limits(key, add.limits);
        let home = &self.homes[index];
        if home.meta.geometry.piece_len() as usize + ccbt_storage::arena::PAGE > self.partition.capacity() {
            let message = format!(
                "its pieces of {} KiB do not fit into this shard's {} MiB of piece memory; raise --memory or use fewer --shards",
                home.meta.geometry.piece_len() / 1024,
                self.partition.capacity() >> 20,
            );
            return self.tell(FromShard::Event(key, Event::Failed { message, retry: false }));
        }
        self.open(index);
    }

    pub(crate) fn open(&mut self, index: usize) {
        let home = &mut self.homes[index];
        home.busy += 1;
        let mode = if home.seed_only { OpenMode::ReadOnly } else { OpenMode::ReadWrite };
        let later = home.selection.skipped(&home.meta);
        let command = StorageCmd::Open {
            torrent: home.key,
            spec: home.spec.clone(),
            prealloc: home.prealloc,
            mode,
            later,
        };
        self.command(command);
    }

    /// Hands a command to storage, or keeps it until there is room: torrents are many, the queue is not.
    pub(crate) fn command(&mut self, command: StorageCmd) {
        if self.backlog.is_empty() && self.storage.under_way() < crate::shard::JOBS_MAX {
            self.storage.submit(command);
        } else {
            self.backlog.push_back(command);
        }
    }

    pub(crate) fn on_storage(&mut self, done: StorageDone) {
        let key = match &done {
            StorageDone::Opened { torrent, .. }
            | StorageDone::Written { torrent, .. }
            | StorageDone::ReadDone { torrent, .. }
            | StorageDone::Synced { torrent, .. }
            | StorageDone::Looked { torrent, .. }
            | StorageDone::Closed { torrent } => *torrent,
        };
        // A torrent stays until everything under way has been answered.
        let index = *self.by_key.get(&key).expect("storage answers for a torrent that is gone");
        match done {
            StorageDone::Opened { result, .. } => self.on_opened(index, result),
            StorageDone::Written { piece, buf, result, .. } => self.on_written(index, piece, buf, result),
            StorageDone::ReadDone { tag, buf, result, .. } => {
                if !self.is_download(&buf) {
                    self.on_upload_read(index, tag, buf, result);
                } else if self.homes[index].partials.is_reading(PieceIndex(tag as u32)) {
                    self.on_taken_back(index, PieceIndex(tag as u32), buf, result);
                } else {
                    self.on_check_read(index, tag, buf, result);
                }
            }
            StorageDone::Synced { result, .. } => self.on_synced(index, result),
            StorageDone::Looked { result, .. } => self.on_looked(index, result),
            StorageDone::Closed { .. } => self.on_closed_files(index),
        }
    }

    /// Reads for checking and of begun pieces fill download memory, reads for peers upload memory.
    fn is_download(&self, buf: &PieceBuf) -> bool {
        buf.region().id() == self.partition.region().id()
    }

    fn on_opened(&mut self, index: usize, result: Result<OpenReport, StorageError>) {
        let home = &mut self.homes[index];
        home.busy -= 1;
        if home.relocations.is_reopening() {
            return self.on_reopened(index, result);
        }
        match result {
            Ok(report) => self.opened(index, &report),
            Err(error) => self.fail(index, &error),
        }
        self.touch(index);
    }

    /// The files are open, for the first time or after a failure.
    pub(crate) fn opened(&mut self, index: usize, report: &OpenReport) {
        let home = &mut self.homes[index];
        home.take_report(report);
        let (key, recovered) = (home.key, home.failure.take().is_some());
        for note in &report.notes {
            self.tell(FromShard::Event(key, Event::Note(note.clone())));
        }
        if recovered {
            self.tell(FromShard::Event(key, Event::Recovered));
        }
        if self.is_ending(index) {
            return;
        }
        self.start_check(index, report);
    }

    /// Checking is over: `have` is on disk and good.
    pub(crate) fn run_torrent(&mut self, index: usize, have: Bitfield) {
        let config = TorrentConfig {
            picker: PickerConfig {
                padding: self.homes[index].meta.padding.clone(),
                ..self.homes[index].picker.clone()
            },
            listen_port: self.config.listen_port,
            metadata: Some(self.homes[index].meta.shared_raw_info()),
            pex: self.homes[index].pex && !self.homes[index].meta.private,
            dht_port: self.dht_port(&self.homes[index]),
            super_seeding: self.homes[index].super_seeding,
            ..self.config.torrent.clone()
        };
        let (now, id, punches) = (self.now, self.config.peer_id, self.may_punch());
        let home = &mut self.homes[index];
        if home.seed_only && have.count() == 0 && home.restarted.is_some() {
            return self.nothing_left(index);
        }
        let recent = std::mem::take(&mut home.recent);
        home.durability.found(have.clone(), recent, !home.seed_only, now);
        let mut torrent = Torrent::new(now, home.meta.info_hash, id, home.meta.geometry, config, have);
        torrent.go_on_from(home.stats);
        if punches {
            torrent.enable_holepunch();
        }
        home.torrent = Some(torrent);
        home.set_priorities();
        home.phase = Phase::Running;
        self.touch(index);
        self.spread(index);
        self.answer_waiting(index);
        self.adopt_all(index);
        self.dial(index);
    }

    // ---- trackers

    /// Starts announces that are due.
    pub(crate) fn announce(&mut self, index: usize) {
        let now = self.now;
        let home = &mut self.homes[index];
        if home.torrent.is_none() && !matches!(home.phase, Phase::Ending { .. }) {
            return;
        }
        let totals = home.totals();
        if let Some(announces) = &mut home.announces {
            announces.poll(now, totals, &self.trackers, &self.announced);
        }
    }

    pub(crate) fn take_announces(&mut self) -> bool {
        let mut any = false;
        while let Some(done) = self.announced.pop() {
            any = true;
            let Some(&index) = self.by_key.get(&done.torrent) else {
                self.on_magnet_announce(done);
                continue;
            };
            let home = &mut self.homes[index];
            let Some(announces) = &mut home.announces else { continue };
            let outcome = announces.on_done(self.now, done);
            for peer in outcome.peers {
                home.candidates.add(peer, Source::Tracker);
            }
            if let Some((url, reason)) = outcome.problem {
                let key = home.key;
                self.tell(FromShard::Event(key, Event::Tracker { url, reason }));
            }
            self.learn_address(outcome.external_ip);
            self.announce(index);
            self.dial(index);
            self.touch(index);
        }
        any
    }

    // ---- the end

    pub(crate) fn is_ending(&self, index: usize) -> bool {
        matches!(self.homes[index].phase, Phase::Ending { .. })
    }

    /// Stops a torrent: peers go at once, what is being written gets written and synced, trackers hear `stopped`.
    pub(crate) fn end_torrent(&mut self, index: usize, removed: bool) {
        let now = self.now;
        self.end_relocations(index);
        let home = &mut self.homes[index];
        home.removed |= removed;
        if matches!(home.phase, Phase::Ending { .. }) {
            return;
        }
        // Checking leaves its reads and verdicts to be taken in without a consequence.
        self.leave_line(index);
        let home = &mut self.homes[index];
        if matches!(home.phase, Phase::Checking(_)) {
            home.known = Some(home.known_now());
        }
        home.phase = Phase::Ending { closing: false };
        if let Some(announces) = &mut home.announces {
            announces.stop(now);
        }
        self.close_all(index);
        self.stop_satellites(index);
        self.announce(index);
        self.find_peers(index);
        self.touch(index);
    }

    /// Goes on with the end of a torrent as far as it can.
    pub(crate) fn continue_end(&mut self, index: usize) {
        let home = &mut self.homes[index];
        let Phase::Ending { closing } = home.phase else { return };
        if closing || home.busy > 0 || home.conns > 0 || home.part.satellites().next().is_some() {
            return;
        }
        if !home.delete_data {
            if self.keep_begun(index) {
                return;
            }
            if self.wants_last_sync(index) {
                return self.submit_sync(index);
            }
        }
        // Trackers may take longer than the disk.
        if self.homes[index].announces.as_ref().is_some_and(|announces| !announces.is_idle()) {
            return;
        }
        self.release_memory(index);
        let home = &mut self.homes[index];
        let torrent = home.key;
        if home.part.is_satellite() {
            self.satellite_ended(index);
            return self.forget(index);
        }
        home.phase = Phase::Ending { closing: true };
        home.busy += 1;
        self.command(StorageCmd::Close { torrent });
    }

    /// Gives back what memory a torrent holds whose connections are gone: pieces that are not complete, that the disk
    /// did not take, and that were read for others.
    pub(crate) fn release_memory(&mut self, index: usize) {
        let home = &mut self.homes[index];
        for (piece, buf) in std::mem::take(&mut home.unwritten) {
            if let Some(torrent) = &mut self.homes[index].torrent {
                torrent.write_failed(piece);
            }
            self.free_piece(buf);
        }
        let home = &mut self.homes[index];
        home.asides.clear();
        for (_, live) in std::mem::take(&mut home.live.0) {
            let buf = live.try_take().unwrap_or_else(|_| panic!("a receive outlived its connection"));
            self.free_piece(buf);
        }
        self.cache.forget_torrent(self.homes[index].key);
    }

    /// Storage has closed the files: the torrent is gone.
    pub(crate) fn forget(&mut self, index: usize) {
        self.stop_finding(index);
        self.forget_timers(index);
        let home = self.homes.remove(index);
        if !home.part.is_satellite() && !home.delete_data {
            self.tell(FromShard::Closed(home.key, Box::new(home.snapshot())));
        }
        if let (Some(_), Some(thread)) = (&home.web, &self.webseeds) {
            thread.send(Command::Forget(home.key));
        }
        self.by_key.remove(&home.key);
        self.by_hash.remove(&home.meta.info_hash);
        self.starved.retain(|starved| *starved != index);
        self.behind.retain(|behind| *behind != index);
        self.touched.retain(|touched| *touched != index);
        self.forget_limits(index);
        if home.removed {
            self.tell(FromShard::Event(home.key, Event::Removed));
        }
    }
}
