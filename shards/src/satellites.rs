//! One torrent on several shards: satellites beside its home.
//!
//! Role: carries the messages of [`ccbt_protocol::lease`] between shards, and adds up what satellites report. A
//! satellite is a [`Home`] of its own on another shard, with the same key and files, its own peers and its own memory;
//! opening, checking, syncing, trackers and the choice of addresses stay at home. Owner: the shard. Invariants: the
//! home closes the files only when every satellite has said [`ToShard::SatelliteGone`]; a satellite's pieces count as
//! durable only by a sync of the home's that was asked for after they were reported.

pub mod peers;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use ccbt_protocol::bitfield::Bitfield;
use ccbt_protocol::ids::{PeerId, PieceIndex, TorrentKey};
use ccbt_protocol::lease::{Borrower, FromSatellite, Lender, ToSatellite};
use ccbt_protocol::metainfo::Metainfo;
use ccbt_protocol::peer::PeerStatus;
use ccbt_protocol::picker::{PartialPiece, PickerConfig, Priority};
use ccbt_protocol::rate::TorrentLimits;
use ccbt_protocol::score::Record;
use ccbt_protocol::torrent::{Stats, Torrent, TorrentConfig};
use ccbt_storage::error::{ErrorKind, StorageError};
use ccbt_storage::layout::LayoutSpec;
use crossbeam_channel::TrySendError;

use crate::binding::Binding;
use crate::discovering::Finding;
use crate::faults::Failure;
use crate::messages::ToShard;
use crate::shard::Shard;
use crate::sync::SyncPolicy;
use crate::torrents::{Home, Phase};

/// A torrent for a shard that is not its home.
#[derive(Debug)]
pub struct AddSatellite {
    /// As at home.
    pub key: TorrentKey,
    /// As at home.
    pub metainfo: Arc<Metainfo>,
    /// The files, which the home has opened.
    pub spec: Arc<LayoutSpec>,
    /// What is ours so far.
    pub have: Bitfield,
    /// Pieces with a priority other than normal.
    pub priorities: Vec<(PieceIndex, Priority)>,
    /// Order and endgame.
    pub picker: PickerConfig,
    /// Connections of this part at most.
    pub max_peers: usize,
    /// The files live in memory.
    pub in_memory: bool,
    /// As at home.
    pub pex: bool,
    /// Its peers hear of our DHT node.
    pub use_dht: bool,
    /// As at home; its home keeps those of all peers together.
    pub limits: TorrentLimits,
    /// As at home.
    pub bind: Option<Binding>,
    /// The home's shard.
    pub home: usize,
}

/// How a satellite does.
#[derive(Debug, Default)]
pub struct SatelliteStatus {
    /// Sums so far.
    pub stats: Stats,
    /// Payload bytes per second, down and up.
    pub rates: (u64, u64),
    /// Connections through their handshake.
    pub peer_count: usize,
    /// Some of its peers.
    pub peers: Vec<PeerStatus>,
}

/// What the home knows of a satellite.
#[derive(Debug, Default)]
pub(crate) struct Satellite {
    /// As it told last.
    pub status: SatelliteStatus,
    /// Connections that it was given and that are not over.
    pub conns: usize,
    /// It was told to end: it gets nothing any more.
    pub stopping: bool,
}

/// Which part of a torrent a [`Home`] is.
#[derive(Debug)]
pub(crate) enum Part {
    /// Its home.
    Home {
        lender: Lender,
        /// By shard.
        satellites: BTreeMap<usize, Satellite>,
        /// Peers that are connected to satellites, with the shard of each.
        guests: HashMap<PeerId, usize>,
    },
    /// A satellite of the home on this shard.
    Satellite {
        home: usize,
        borrower: Borrower,
        /// What the home knew of the peers that it gave us, while they are ours.
        records: HashMap<SocketAddr, Record>,
    },
}

impl Part {
    pub fn home(now: Instant) -> Self {
        Self::Home { lender: Lender::new(now), satellites: BTreeMap::new(), guests: HashMap::new() }
    }

    pub fn is_satellite(&self) -> bool {
        matches!(self, Self::Satellite { .. })
    }

    pub fn satellites(&self) -> impl Iterator<Item = &Satellite> {
        let map = match self {
            Self::Home { satellites, .. } => Some(satellites),
            Self::Satellite { .. } => None,
        };
        map.into_iter().flat_map(BTreeMap::values)
    }

    /// Whether a satellite is connected to the peer that calls itself so.
    pub fn has_guest(&self, id: PeerId) -> bool {
        matches!(self, Self::Home { guests, .. } if guests.contains_key(&id))
    }

    /// When the next news has to be told even if nothing happens.
    pub fn next_turn(&self) -> Option<Instant> {
        match self {
            Self::Home { lender, .. } => lender.next_turn(),
            Self::Satellite { borrower, .. } => borrower.next_turn(),
        }
    }
}

/// Messages for other shards whose inboxes were full. They are few and small: leases are answered before the next one
/// is asked for, and news is gathered.
#[derive(Debug, Default)]
pub(crate) struct Outbox(VecDeque<(usize, ToShard)>);

impl Shard {
    /// Sends to another shard, in order, now or when there is room. A shard that has stopped needs no messages.
    pub(crate) fn post(&mut self, shard: usize, message: ToShard) {
        self.stats.messages += 1;
        let of_leases = matches!(message, ToShard::ToSatellite { .. } | ToShard::FromSatellite { .. });
        self.stats.lease_messages += u64::from(of_leases);
        self.enqueue(shard, message);
    }

    fn enqueue(&mut self, shard: usize, message: ToShard) {
        if self.outbox.0.iter().any(|(other, _)| *other == shard) {
            return self.outbox.0.push_back((shard, message));
        }
        if let Err(TrySendError::Full(message)) = self.others[shard].try_send(message) {
            self.outbox.0.push_back((shard, message));
        }
    }

    /// Sends what had to wait.
    pub(crate) fn empty_outbox(&mut self) {
        for (shard, message) in std::mem::take(&mut self.outbox.0) {
            self.enqueue(shard, message);
        }
    }

    /// Whether messages wait for room.
    pub(crate) fn has_outbox(&self) -> bool {
        !self.outbox.0.is_empty()
    }

    /// How many.
    pub(crate) fn outbox_len(&self) -> usize {
        self.outbox.0.len()
    }

    // ---- at home

    /// Makes every other shard a satellite of a torrent that runs and is to be spread, once it has back what it had begun.
    /// Nothing happens while another shard has not let go of its part, or files are being moved: it is called again then.
    pub(crate) fn spread(&mut self, index: usize) {
        self.take_back(index);
        let home = &self.homes[index];
        let may = home.spread && home.may_fetch() && !home.paused;
        if !may || home.part.is_satellite() || home.part.satellites().next().is_some() {
            return;
        }
        let shards: Vec<usize> = (0..self.others.len()).filter(|shard| *shard != self.config.index).collect();
        let limits = self.torrent_limits(index);
        for shard in &shards {
            let home = &mut self.homes[index];
            let Part::Home { lender, satellites, .. } = &mut home.part else { return };
            let torrent = home.torrent.as_mut().expect("a torrent that runs");
            lender.join(torrent, *shard);
            satellites.insert(*shard, Satellite::default());
            let pieces = home.meta.geometry.pieces();
            let priority = |piece: PieceIndex| (piece, torrent.picker().priority(piece));
            let message = AddSatellite {
                key: home.key,
                metainfo: home.meta.clone(),
                spec: home.spec.clone(),
                have: torrent.picker().have().clone(),
                priorities: pieces
                    .map(priority)
                    .filter(|(_, priority)| *priority != Priority::Normal)
                    .collect(),
                picker: home.picker.clone(),
                max_peers: home.max_peers.div_ceil(self.others.len()),
                in_memory: home.in_memory,
                pex: home.pex,
                use_dht: home.finding.dht,
                limits,
                bind: home.bind.clone(),
                home: self.config.index,
            };
            self.post(*shard, ToShard::AddSatellite(Box::new(message)));
        }
    }

    /// The torrent ends, rests, or is to be looked at or moved: first its satellites end. Those who wait for that look
    /// at [`Part::satellites`] and are touched by [`Self::on_satellite_gone`].
    pub(crate) fn stop_satellites(&mut self, index: usize) {
        self.stop_web(index);
        let key = self.homes[index].key;
        let Part::Home { satellites, .. } = &mut self.homes[index].part else { return };
        let told = |(shard, satellite): (&usize, &mut Satellite)| {
            (!std::mem::replace(&mut satellite.stopping, true)).then_some(*shard)
        };
        for shard in satellites.iter_mut().filter_map(told).collect::<Vec<_>>() {
            self.post(shard, ToShard::StopSatellite(key));
        }
    }

    /// The shards that help with a torrent.
    pub(crate) fn satellite_shards(&self, index: usize) -> Vec<usize> {
        match &self.homes[index].part {
            Part::Home { satellites, .. } => satellites.keys().copied().collect(),
            Part::Satellite { .. } => Vec::new(),
        }
    }

    pub(crate) fn on_from_satellite(&mut self, key: TorrentKey, shard: usize, message: FromSatellite) {
        let Some(&index) = self.by_key.get(&key) else { return };
        let home = &mut self.homes[index];
        let (Part::Home { lender, .. }, Some(torrent)) = (&mut home.part, &mut home.torrent) else { return };
        let (now, geometry) = (self.now, home.meta.geometry);
        match &message {
            FromSatellite::Fetched(pieces) if self.config.sync.policy != SyncPolicy::None => {
                for piece in pieces {
                    home.durability.add(*piece, u64::from(geometry.piece_size(*piece)), now);
                }
            }
            FromSatellite::Lost(pieces) => {
                let pieces = pieces.clone();
                for piece in pieces {
                    self.lose_piece(index, piece);
                }
                let home = &mut self.homes[index];
                let (Part::Home { lender, .. }, Some(torrent)) = (&mut home.part, &mut home.torrent) else {
                    return;
                };
                lender.receive(torrent, shard, message);
                return self.touch(index);
            }
            _ => {}
        }
        lender.receive(torrent, shard, message);
        self.touch(index);
    }

    pub(crate) fn on_satellite_gone(&mut self, key: TorrentKey, shard: usize, partial: Vec<PartialPiece>) {
        let Some(&index) = self.by_key.get(&key) else { return };
        let home = &mut self.homes[index];
        let (Part::Home { lender, satellites, guests }, Some(torrent)) = (&mut home.part, &mut home.torrent)
        else {
            return;
        };
        lender.leave(torrent, shard);
        let last = satellites.remove(&shard).expect("a satellite says once that it is gone");
        guests.retain(|_, at| *at != shard);
        home.past += last.status.stats;
        partial.into_iter().for_each(|partial| home.partials.put(partial));
        self.forget_asking(index, shard);
        self.spread(index);
        self.touch(index);
    }

    pub(crate) fn on_satellite_status(&mut self, key: TorrentKey, shard: usize, status: SatelliteStatus) {
        let Some(&index) = self.by_key.get(&key) else { return };
        if let Part::Home { satellites, .. } = &mut self.homes[index].part
            && let Some(known) = satellites.get_mut(&shard)
        {
            known.status = status;
            self.note_change(index);
        }
    }

    /// The disk failed a satellite: that is the torrent's failure. Its parts elsewhere end, and come back when it goes on.
    pub(crate) fn on_satellite_failed(&mut self, key: TorrentKey, error: &StorageError) {
        let Some(&index) = self.by_key.get(&key) else { return };
        // A file that has to be copied before it is written to: the home gets there, and knows how.
        let shared = error.kind() == ErrorKind::Shared;
        let home = &mut self.homes[index];
        if !home.is_running() {
            return;
        }
        home.spread &= !shared;
        if !shared {
            self.fail(index, error);
        }
        self.stop_satellites(index);
        self.touch(index);
    }

    /// Once a second: a part that gets nowhere makes way for others.
    pub(crate) fn tick_part(&mut self, index: usize) {
        let now = self.now;
        let home = &self.homes[index];
        let Some(torrent) = &home.torrent else { return };
        let in_the_way = match &home.part {
            Part::Home { lender, .. } => lender.is_home_in_the_way(now, torrent),
            Part::Satellite { borrower, .. } => borrower.is_stalled(now),
        };
        if in_the_way {
            // First what is idle already; what is given up now is idle the next time.
            self.abandon_idle(index);
            self.homes[index].torrent.as_mut().expect("looked at above").rest_useless(now);
        }
        let home = &mut self.homes[index];
        if let (Part::Satellite { borrower, .. }, Some(torrent)) = (&mut home.part, &mut home.torrent) {
            borrower.tick(now, torrent);
        }
    }

    /// Tells satellites what is wanted now.
    pub(crate) fn spread_priorities(&mut self, index: usize, changes: &[(PieceIndex, Priority)]) {
        if let Part::Home { lender, .. } = &mut self.homes[index].part {
            lender.priorities_changed(changes);
        }
    }

    // ---- on a satellite

    pub(crate) fn add_satellite(&mut self, add: AddSatellite) {
        let AddSatellite {
            key,
            metainfo,
            spec,
            have,
            priorities,
            picker,
            max_peers,
            in_memory,
            pex,
            use_dht,
            limits,
            bind,
            home,
        } = add;
        if self.stopping.is_some() {
            let gone = ToShard::SatelliteGone { key, shard: self.config.index, partial: Vec::new() };
            return self.post(home, gone);
        }
        assert!(!self.by_key.contains_key(&key), "a shard is both home and satellite of a torrent");
        let mut satellite = Home::new(self.now, key, metainfo.clone(), spec, picker.clone(), max_peers);
        satellite.finding = Finding::satellite(use_dht);
        satellite.bind = bind;
        let config = TorrentConfig {
            picker: PickerConfig { padding: metainfo.padding.clone(), ..picker },
            listen_port: self.config.listen_port,
            metadata: Some(metainfo.shared_raw_info()),
            pex: pex && !metainfo.private,
            dht_port: self.dht_port(&satellite),
            ..self.config.torrent.clone()
        };
        let (now, id, hash) = (self.now, self.config.peer_id, metainfo.info_hash);
        let mut torrent = Torrent::new_satellite(now, hash, id, metainfo.geometry, config, have);
        for (piece, priority) in priorities {
            torrent.picker_mut().set_priority(piece, priority);
        }
        torrent.priorities_changed();
        if self.may_punch() {
            torrent.enable_holepunch();
        }
        satellite.phase = Phase::Running;
        satellite.in_memory = in_memory;
        satellite.torrent = Some(torrent);
        satellite.part = Part::Satellite {
            home,
            borrower: Borrower::new(now, self.others.len()),
            records: HashMap::new(),
        };
        let index = self.homes.insert(satellite);
        self.by_key.insert(key, index);
        self.by_hash.insert(hash, index);
        self.set_torrent_limits(key, limits);
        self.touch(index);
    }

    pub(crate) fn on_to_satellite(&mut self, key: TorrentKey, message: ToSatellite) {
        let Some(&index) = self.by_key.get(&key) else { return };
        let now = self.now;
        let home = &mut self.homes[index];
        let (Part::Satellite { borrower, .. }, Some(torrent)) = (&mut home.part, &mut home.torrent) else {
            return;
        };
        if let ToSatellite::Lost(pieces) = &message {
            pieces.iter().for_each(|piece| self.cache.forget_piece(key, *piece));
        }
        borrower.receive(now, torrent, message);
        self.touch(index);
    }

    /// The disk refuses something here: nothing is asked for any more, and the home decides.
    pub(crate) fn report_failure(&mut self, index: usize, error: &StorageError) {
        let home = &self.homes[index];
        let (Part::Satellite { home: shard, .. }, key) = (&home.part, home.key) else { return };
        let (shard, told) = (*shard, home.failure.is_some());
        self.homes[index].failure = Some(Failure::of_satellite());
        if !told {
            self.post(shard, ToShard::SatelliteFailed { key, error: error.clone() });
        }
    }

    /// The last part of a satellite's end.
    pub(crate) fn satellite_ended(&mut self, index: usize) {
        let (now, own) = (self.now, self.config.index);
        let home = &mut self.homes[index];
        let key = home.key;
        let (Part::Satellite { home: shard, borrower, .. }, Some(torrent)) =
            (&mut home.part, &mut home.torrent)
        else {
            panic!("the end of a satellite")
        };
        let shard = *shard;
        let stats = torrent.stats();
        let partial = home.partials.written(torrent.picker().have());
        let last: Vec<FromSatellite> = borrower.close(now, torrent).collect();
        for message in last {
            self.post(shard, ToShard::FromSatellite { key, shard: own, message });
        }
        let status = SatelliteStatus { stats, ..SatelliteStatus::default() };
        self.post(shard, ToShard::SatelliteStatus { key, shard: own, status: Box::new(status) });
        self.post(shard, ToShard::SatelliteGone { key, shard: own, partial });
    }

    pub(crate) fn tell_home(&mut self, index: usize, status: SatelliteStatus) {
        let home = &self.homes[index];
        let (Part::Satellite { home: shard, .. }, key) = (&home.part, home.key) else { return };
        let message = ToShard::SatelliteStatus { key, shard: self.config.index, status: Box::new(status) };
        self.post(*shard, message);
    }

    // ---- both

    /// Lends, borrows and tells. Called whenever something happened to the torrent.
    pub(crate) fn settle_part(&mut self, index: usize) {
        let (now, own) = (self.now, self.config.index);
        let home = &mut self.homes[index];
        let key = home.key;
        let Some(torrent) = &mut home.torrent else { return };
        let mut out: Vec<(usize, ToShard)> = Vec::new();
        match &mut home.part {
            Part::Home { lender, .. } => {
                lender.settle(now, torrent, &mut self.rng);
                let messages = lender.outgoing();
                out.extend(messages.map(|(shard, message)| (shard, ToShard::ToSatellite { key, message })));
            }
            Part::Satellite { home, borrower, .. } => {
                borrower.settle(now, torrent);
                let wrap = |message| (*home, ToShard::FromSatellite { key, shard: own, message });
                out.extend(borrower.outgoing().map(wrap));
            }
        }
        let due = home.part.next_turn();
        self.timers.gathers.set(index, due);
        out.into_iter().for_each(|(shard, message)| self.post(shard, message));
    }

    /// Looks after torrents whose news has waited long enough.
    pub(crate) fn gather_due(&mut self) {
        // Those that are due settle in this turn, and say again when.
        while let Some(index) = self.timers.gathers.pop(self.now) {
            self.touch(index);
        }
    }
}

#[cfg(test)]
mod tests;
