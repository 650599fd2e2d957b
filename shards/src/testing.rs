//! A shard that a test turns by hand, with real storage in a folder of its own.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ccbt_protocol::bitfield::Bitfield;
use ccbt_protocol::choker::ChokerConfig;
use ccbt_protocol::ids::{PeerId, PieceIndex, TorrentKey};
use ccbt_protocol::metainfo::Metainfo;
use ccbt_protocol::metainfo::build::{Builder, InputFile};
use ccbt_protocol::peer::PeerInfo;
use ccbt_protocol::picker::{PickerConfig, Slots};
use ccbt_protocol::rate::TorrentLimits;
use ccbt_protocol::request_window::WindowConfig;
use ccbt_protocol::selection::Selection;
use ccbt_protocol::torrent::{TorrentConfig, TorrentEvent};
use ccbt_protocol::wire::handshake::Reserved;
use ccbt_protocol::wire::message::Message;
use ccbt_storage::doorbell::Doorbell;
use ccbt_storage::messages::Preallocate;
use ccbt_storage::{StorageConfig, StorageService};
use crossbeam_channel::{Receiver, unbounded};

use crate::dialling::Transports;
use crate::encryption::EncryptionPolicy;
use crate::inbox::Inbox;
use crate::messages::{AddTorrent, Event, FromShard, Snapshot};
use crate::shard::{Links, Shard, ShardConfig};
use crate::sync::SyncConfig;
use crate::trackers::Trackers;
use crate::zero_copy::ZeroCopySend;

/// Bounds a hang; never a measure of speed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// The torrent of [`Rig::add`].
pub(crate) const KEY: TorrentKey = TorrentKey(1);
/// Bytes of its pieces.
pub(crate) const PIECE: usize = 16_384;

/// The shard, and all around it.
pub(crate) struct Rig {
    pub shard: Shard,
    told: Receiver<FromShard>,
    _storage: StorageService,
    pub folder: tempfile::TempDir,
}

pub(crate) fn config() -> ShardConfig {
    ShardConfig {
        index: 0,
        download_bytes: 4 << 20,
        upload_bytes: 1 << 20,
        listeners: Vec::new(),
        listen_port: 0,
        bind: None,
        peer_id: PeerId([1; 20]),
        max_connections: 10,
        connect_timeout: PATIENCE,
        handshake_timeout: PATIENCE,
        torrent: TorrentConfig {
            picker: PickerConfig::default(),
            window: WindowConfig::default(),
            choker: ChokerConfig::default(),
            listen_port: 0,
            metadata: None,
            pex: true,
            dht_port: 0,
            super_seeding: false,
        },
        count_overhead: false,
        sync: SyncConfig::default(),
        zero_copy_send: ZeroCopySend::Off,
        transports: Transports::default(),
        encryption: EncryptionPolicy::default(),
    }
}

/// Bytes of a file of [`publish`]: no two pieces alike.
pub(crate) fn bytes(file: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 251 + at * 7 + file * 91 + 1) as u8).collect()
}

/// Writes files `t/f0`… of these sizes below `folder`; what it takes to add their torrent.
pub(crate) fn publish(folder: &Path, key: TorrentKey, sizes: &[usize]) -> AddTorrent {
    std::fs::create_dir_all(folder.join("t")).unwrap();
    let (mut all, mut files) = (Vec::new(), Vec::new());
    for (at, len) in sizes.iter().enumerate() {
        std::fs::write(folder.join(format!("t/f{at}")), bytes(at, *len)).unwrap();
        all.extend(bytes(at, *len));
        files.push(InputFile { path: vec![format!("f{at}")], len: *len as u64, ..InputFile::default() });
    }
    let hashes: Vec<_> = all.chunks(PIECE).map(ccbt_storage::hash::sha1).collect();
    let torrent = Builder::multi_file("t", files).piece_len(PIECE as u32).plan().unwrap().finish(&hashes);
    AddTorrent {
        key,
        metainfo: Arc::new(Metainfo::parse(&torrent).unwrap()),
        root: folder.to_owned(),
        prealloc: Preallocate::Sparse,
        picker: PickerConfig::default(),
        peers: Vec::new(),
        trackers: Vec::new(),
        use_dht: true,
        use_lsd: true,
        seed_only: false,
        max_peers: 10,
        limits: TorrentLimits::default(),
        selection: Selection::default(),
        streaming: false,
        super_seeding: false,
        pex: true,
        known: None,
        renames: Vec::new(),
        paused: false,
    }
}

/// Memory that is not needed: no bytes come.
struct Endless;

impl Slots for Endless {
    fn acquire(&mut self, _piece: PieceIndex, _len: u32) -> bool {
        true
    }
}

impl Rig {
    /// A shard without a torrent.
    pub fn new(change: impl FnOnce(&mut ShardConfig)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let storage = StorageService::start(StorageConfig::default()).unwrap();
        let bell = Doorbell::new().unwrap();
        let (inbox, receiver) = Inbox::new(bell.clone());
        let (control, told) = unbounded();
        let links = Links {
            bell,
            inbox: receiver,
            others: vec![inbox],
            control,
            lines: Arc::default(),
            connections: Arc::default(),
            discovery: None,
            utp_ends: crate::ring::utp::UtpEnds::default(),
            trackers: Trackers::unheard(),
        };
        let mut config = config();
        change(&mut config);
        let shard = Shard::new(config, links, &storage).unwrap();
        Self { shard, told, _storage: storage, folder }
    }

    /// Adds the torrent of files of these sizes, which are there.
    pub fn add(&mut self, sizes: &[usize], change: impl FnOnce(&mut AddTorrent)) {
        let mut add = publish(self.folder.path(), KEY, sizes);
        change(&mut add);
        self.shard.add_torrent(add, false);
    }

    /// A shard with a torrent of one file and four pieces, which is there and finished.
    pub fn finished() -> Self {
        let mut rig = Self::new(|_| {});
        rig.add(&[50_000], |_| {});
        rig.wait(&Event::Finished);
        rig
    }

    /// One turn, and a moment for storage and hash threads.
    pub fn turn(&mut self) {
        self.shard.turn();
        std::thread::sleep(Duration::from_millis(1));
    }

    /// Turns until `done` says so.
    pub fn turn_until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < end, "no {what}");
            self.turn();
        }
    }

    /// Turns until `wanted` is told; the events up to then.
    pub fn wait(&mut self, wanted: &Event) -> Vec<Event> {
        let mut seen = Vec::new();
        self.turn_until(&format!("{wanted:?}"), |rig| {
            seen.extend(rig.events());
            seen.contains(wanted)
        });
        seen
    }

    /// Turns until a failure is told: its message, and whether it is retried.
    pub fn wait_failure(&mut self) -> (String, bool) {
        let mut found = None;
        self.turn_until("failure", |rig| {
            found = rig.events().into_iter().find_map(|event| match event {
                Event::Failed { message, retry } => Some((message, retry)),
                _ => None,
            });
            found.is_some()
        });
        found.expect("just seen")
    }

    /// What was told of the torrent since the last call.
    pub fn events(&self) -> Vec<Event> {
        let event = |message| match message {
            FromShard::Event(KEY, event) => Some(event),
            _ => None,
        };
        self.told.try_iter().filter_map(event).collect()
    }

    /// What was told at the end of a torrent.
    pub fn closed(&self) -> Option<Snapshot> {
        self.told.try_iter().find_map(|message| match message {
            FromShard::Closed(_, snapshot) => Some(*snapshot),
            _ => None,
        })
    }

    /// Loses `pieces` and fetches them again from a peer that exists on paper only, up to where they are to be written.
    pub fn bring_to_writing(&mut self, pieces: &[u32]) {
        let now = Instant::now();
        let home = &mut self.shard.homes[0];
        let torrent = home.torrent.as_mut().expect("it runs");
        pieces.iter().for_each(|piece| torrent.lost_piece(PieceIndex(*piece)));
        let info = PeerInfo {
            addr: "192.0.2.1:5".parse().unwrap(),
            id: PeerId([9; 20]),
            reserved: Reserved::default(),
            incoming: false,
        };
        let peer = torrent.connected(now, info);
        let all = Bitfield::full(torrent.geometry().piece_count());
        torrent.message(now, peer, Message::Bitfield(all.as_wire())).unwrap();
        torrent.message(now, peer, Message::Unchoke).unwrap();
        let mut complete = Vec::new();
        while complete.len() < pieces.len() {
            torrent.fill_requests(now, peer, &mut Endless, &mut self.shard.rng);
            for block in torrent.peer(peer).expected().collect::<Vec<_>>() {
                torrent.begin_block(peer, block).unwrap();
                torrent.end_block(now, peer, block);
            }
            while let Some(event) = torrent.poll_event() {
                if let TorrentEvent::PieceComplete(piece) = event {
                    complete.push(piece.0);
                    assert!(torrent.verdict(piece, true, Vec::new));
                }
            }
        }
        torrent.gone(peer);
        complete.sort_unstable();
        assert_eq!(complete, pieces);
        for piece in pieces {
            home.durability.durable.remove(PieceIndex(*piece));
        }
    }

    /// The pieces that the torrent has.
    pub fn have(&self) -> Vec<u32> {
        let torrent = self.shard.homes[0].torrent.as_ref().expect("it runs");
        torrent.picker().have().iter().map(|piece| piece.0).collect()
    }

    /// A file of the torrent.
    pub fn path(&self, file: usize) -> std::path::PathBuf {
        self.folder.path().join(format!("t/f{file}"))
    }
}
