//! What a shard does with messages and storage answers, and what it tells.
//!
//! Owner: the shard; called by [`crate::drive`] once a turn, or when a report is due.

use std::time::Duration;

use ccbt_protocol::ids::TorrentKey;
use ccbt_protocol::wire::mse::torrent_hash;
use ccbt_storage::Completion;

use crate::announce::Announces;
use crate::messages::{Event, FromShard, ToShard, TorrentStatus};
use crate::satellites::SatelliteStatus;
use crate::shard::{JOBS_MAX, Shard};
use crate::torrents::Phase;

/// How long a shutdown may wait for trackers and disks.
const GOODBYE: Duration = Duration::from_millis(2800);
/// Connections listed in a status at most: more than a person looks at.
const STATUS_PEERS: usize = 200;

impl Shard {
    pub(crate) fn on_message(&mut self, message: ToShard) {
        match message {
            ToShard::Add { torrent, spread } => self.add_torrent(*torrent, spread),
            ToShard::AddMagnet(magnet) => self.add_magnet(*magnet),
            ToShard::Remove { key, delete_data } => match self.by_key.get(&key) {
                Some(&index) => {
                    self.homes[index].delete_data |= delete_data;
                    self.end_torrent(index, true);
                }
                None => match self.fetcher_by_key(key) {
                    Some(at) => self.end_fetcher(at, true),
                    None => self.tell(FromShard::Event(key, Event::Removed)),
                },
            },
            ToShard::Move { key, root, options } => self.want_move(key, root, options),
            ToShard::Rename { key, file, path } => self.want_rename(key, file, path),
            ToShard::CancelMove(key) => self.cancel_moves(key),
            ToShard::Pause(key) => self.pause(key),
            ToShard::Recheck(key) => {
                if let Some(&index) = self.by_key.get(&key) {
                    self.resume(index);
                    self.restart(index, false);
                }
            }
            ToShard::Resume(key) => {
                if let Some(&index) = self.by_key.get(&key) {
                    self.end_pause(index);
                    self.resume(index);
                } else if let Some(at) = self.fetcher_by_key(key) {
                    self.pause_fetcher(at, false);
                }
            }
            ToShard::Snapshot(key, reply) => {
                if let Some(&index) = self.by_key.get(&key) {
                    // One that does not wait any more is none of our business.
                    let _ = reply.try_send(self.homes[index].snapshot());
                }
            }
            // As with a snapshot.
            ToShard::Diagnose(key, reply) => drop(reply.try_send(self.look(key))),
            ToShard::Trackers(key, reply) => {
                if let Some(&index) = self.by_key.get(&key) {
                    let announces = self.homes[index].announces.as_ref();
                    let _ = reply.try_send(announces.map(Announces::statuses).unwrap_or_default());
                }
            }
            ToShard::Ping(reply) => drop(reply.try_send(())),
            ToShard::CheckTurn(key) => match self.by_key.get(&key) {
                Some(&index) => self.on_check_turn(index),
                None => tracing::debug!(key = key.0, "a turn for a torrent that has left the line"),
            },
            ToShard::AddPeers(key, peers, source) => {
                if let Some(&index) = self.by_key.get(&key) {
                    for peer in &peers {
                        self.homes[index].candidates.add(*peer, source);
                    }
                    self.dial(index);
                    self.touch(index);
                } else {
                    self.add_magnet_peers(key, &peers, source);
                }
            }
            ToShard::Limits { down, up } => self.set_limits(down, up),
            ToShard::Filter(filter) => self.set_filter(filter),
            ToShard::Reached(port) => self.set_port(port),
            ToShard::TorrentLimits(key, limits) => self.set_torrent_limits(key, limits),
            ToShard::Play(key, play) => self.on_play(key, play),
            ToShard::StopPlaying(key, reader) => self.stop_playing(key, reader),
            ToShard::Select(key, selection) => self.select(key, selection),
            ToShard::Tokens { torrent, way, word } => self.on_tokens(torrent, way, &word),
            ToShard::Route(info_hash, Some(shard)) => {
                self.routes.insert(info_hash, shard);
                self.torrent_names.insert(torrent_hash(info_hash), info_hash);
            }
            ToShard::Route(info_hash, None) => {
                self.routes.remove(&info_hash);
                self.torrent_names.remove(&torrent_hash(info_hash));
            }
            ToShard::HandOff(hand_off) => self.on_hand_off(*hand_off),
            ToShard::Arrived(arrival) => self.on_arrived(arrival.stream, arrival.addr),
            ToShard::AddSatellite(add) => self.add_satellite(*add),
            ToShard::StopSatellite(key) => {
                if let Some(&index) = self.by_key.get(&key) {
                    self.end_torrent(index, false);
                }
            }
            ToShard::ToSatellite { key, message } => self.on_to_satellite(key, message),
            ToShard::FromSatellite { key, shard, message } => self.on_from_satellite(key, shard, message),
            ToShard::Punch(key, addr) => {
                if let Some(&index) = self.by_key.get(&key) {
                    self.punch(index, addr);
                }
            }
            ToShard::Rendezvous(key, addr) => {
                if let Some(&index) = self.by_key.get(&key) {
                    self.seek_relay(index, addr);
                }
            }
            ToShard::Relay(relay) => self.on_relay(*relay),
            ToShard::Relayed(key, asker, answer) => self.on_relayed(key, asker, answer),
            ToShard::Dial { key, addr, home, record } => self.on_dial(key, addr, home, record),
            ToShard::MakeRoom(key) => {
                if let Some(&index) = self.by_key.get(&key) {
                    self.shed(index);
                }
            }
            ToShard::SatellitePeer { key, shard, back } => self.on_satellite_peer(key, shard, back),
            ToShard::SatelliteMet { key, shard, id } => self.on_satellite_met(key, shard, id),
            ToShard::Duplicate { key, id } => self.on_duplicate(key, id),
            ToShard::Ban { key, ip, from } => self.on_ban(key, ip, from),
            ToShard::SatelliteStatus { key, shard, status } => self.on_satellite_status(key, shard, *status),
            ToShard::SatelliteFailed { key, error } => self.on_satellite_failed(key, &error),
            ToShard::SatelliteGone { key, shard, partial } => self.on_satellite_gone(key, shard, partial),
            ToShard::Web(key, message) => self.on_web(key, message),
            ToShard::Tap(request) => self.add_tap(request),
            ToShard::Listen(socket) => {
                self.ring.listen(socket);
            }
            ToShard::Shutdown => self.shut_down(),
        }
    }

    fn shut_down(&mut self) {
        if self.stopping.is_some() {
            return;
        }
        self.stopping = Some(self.now + GOODBYE);
        let homes: Vec<usize> = self.homes.iter().map(|(index, _)| index).collect();
        homes.into_iter().for_each(|index| self.end_torrent(index, false));
        let magnets: Vec<usize> = self.fetchers.iter().map(|(at, _)| at).collect();
        magnets.into_iter().for_each(|at| self.end_fetcher(at, false));
    }

    pub(crate) fn take_storage(&mut self) -> bool {
        let mut any = false;
        while let Some(completion) = self.storage.poll() {
            any = true;
            match completion {
                Completion::Storage(done) => self.on_storage(done),
                Completion::Hash(verdict) => self.on_verdict(verdict),
                Completion::Relocated(done) => self.on_relocated(done),
            }
        }
        while self.storage.under_way() < JOBS_MAX
            && let Some(command) = self.backlog.pop_front()
        {
            self.storage.submit(command);
        }
        self.submit_waiting_jobs();
        any
    }

    /// Four times a second at most: tells how torrents do with which something has happened.
    pub(crate) fn send_statuses(&mut self) {
        for index in self.take_changed() {
            self.tell_move_progress(index);
            if self.homes[index].part.is_satellite() {
                self.report_status(index);
            } else if let Some(status) = self.status(index) {
                self.tell(FromShard::Status(Box::new(status)));
            }
            if self.keeps_changing(index) {
                self.note_change(index);
            }
        }
        let cache = self.cache.stats();
        if cache != std::mem::replace(&mut self.told_cache, cache) {
            self.tell(FromShard::Cache(self.config.index, cache));
        }
        let stats = self.stats_now();
        if stats != std::mem::replace(&mut self.told_stats, stats) {
            self.tell(FromShard::Work(self.config.index, Box::new(stats)));
        }
    }

    /// Whether a torrent's status changes although nothing happens to it: its rates fall, its files move.
    fn keeps_changing(&mut self, index: usize) -> bool {
        let now = self.now;
        let home = &mut self.homes[index];
        let rates = home.torrent.as_mut().map(|torrent| torrent.rates(now)).unwrap_or_default();
        rates.0 + rates.1 > 0 || home.relocations.is_moving()
    }

    /// A satellite tells its home instead.
    fn report_status(&mut self, index: usize) {
        let now = self.now;
        let home = &mut self.homes[index];
        let state = home.state();
        let Some(torrent) = &mut home.torrent else { return };
        let (stats, rates, peer_count) = (torrent.stats(), torrent.rates(now), torrent.peer_count());
        let moving = rates.0 + rates.1 > 0;
        // Pieces are counted at home.
        let picture = (state, stats, peer_count, [0; 3], 0, moving);
        if home.last_status == Some(picture) && !moving {
            return;
        }
        home.last_status = Some(picture);
        let mut peers = torrent.peer_statuses(now);
        peers.truncate(STATUS_PEERS);
        let status = SatelliteStatus { stats, rates, peer_count, peers };
        self.tell_home(index, status);
    }

    /// `None` when nothing changed since the last one.
    fn status(&mut self, index: usize) -> Option<TorrentStatus> {
        let now = self.now;
        let home = &mut self.homes[index];
        let state = home.state();
        let (bytes_done, geometry) = (home.bytes_done(), home.meta.geometry);
        let known = home.known.as_ref().map_or(0, |known| known.have.count());
        let mut pieces_done = home.torrent.as_ref().map_or(known, |torrent| torrent.picker().have().count());
        let mut pieces_total = geometry.piece_count();
        if let Phase::Checking(check) = &home.phase {
            (pieces_done, pieces_total) = (check.looked, check.total);
        }
        let stats = home.all_stats();
        let (pieces_durable, syncs) = (home.durability.durable.count(), home.durability.syncs);
        let blocks_partial = home.partials.blocks();
        let mut peer_count = home.torrent.as_ref().map_or(0, |torrent| torrent.peer_count());
        let (mut down_rate, mut up_rate) =
            home.torrent.as_mut().map(|torrent| torrent.rates(now)).unwrap_or_default();
        for satellite in home.part.satellites() {
            peer_count += satellite.status.peer_count;
            down_rate += satellite.status.rates.0;
            up_rate += satellite.status.rates.1;
        }
        // The first status at rest tells that the rates are zero again.
        let moving = down_rate + up_rate > 0;
        let pieces = [pieces_done, pieces_durable, blocks_partial];
        let picture = (state, stats, peer_count, pieces, home.bytes_wanted, moving);
        if home.last_status == Some(picture) && !moving {
            return None;
        }
        home.last_status = Some(picture);
        let mut peers = home.torrent.as_mut().map(|torrent| torrent.peer_statuses(now)).unwrap_or_default();
        peers.extend(home.part.satellites().flat_map(|satellite| satellite.status.peers.iter().cloned()));
        peers.truncate(STATUS_PEERS);
        Some(TorrentStatus {
            key: home.key,
            state,
            stats,
            down_rate,
            up_rate,
            pieces_done,
            pieces_total,
            pieces_durable,
            blocks_partial,
            syncs,
            bytes_done,
            bytes_total: geometry.total_len(),
            bytes_wanted: home.bytes_wanted,
            bytes_left: home.wanted_left(),
            peer_count,
            peers,
            candidates: home.candidates.len(),
            web: home.web.as_ref().map(|web| web.counts()).unwrap_or_default(),
        })
    }

    // ---- rest

    /// Leaves all peers and trackers; what is being written gets written.
    pub(crate) fn pause(&mut self, key: TorrentKey) {
        let now = self.now;
        let Some(&index) = self.by_key.get(&key) else {
            if let Some(at) = self.fetcher_by_key(key) {
                self.pause_fetcher(at, true);
            }
            return;
        };
        let home = &mut self.homes[index];
        if home.paused || matches!(home.phase, Phase::Ending { .. }) {
            return;
        }
        home.paused = true;
        self.stop_satellites(index);
        let home = &mut self.homes[index];
        if let Some(announces) = &mut home.announces {
            announces.stop(now);
        }
        self.close_all(index);
        self.announce(index);
        self.find_peers(index);
        self.touch(index);
    }

    /// Goes on after [`Self::pause`].
    fn end_pause(&mut self, index: usize) {
        let now = self.now;
        let home = &mut self.homes[index];
        if !home.paused || matches!(home.phase, Phase::Ending { .. }) {
            return;
        }
        home.paused = false;
        self.wake_web(index);
        self.spread(index);
        let home = &mut self.homes[index];
        if let Some(announces) = &mut home.announces {
            announces.restart(now);
        }
        self.announce(index);
        self.dial(index);
        self.touch(index);
    }
}
