//! What becomes of pieces when the disk fails them, on a shard that the test turns by hand.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ccbt_protocol::choker::ChokerConfig;
use ccbt_protocol::ids::{PeerId, PieceIndex, TorrentKey};
use ccbt_protocol::metainfo::Metainfo;
use ccbt_protocol::metainfo::build::Builder;
use ccbt_protocol::picker::PickerConfig;
use ccbt_protocol::request_window::WindowConfig;
use ccbt_protocol::torrent::TorrentConfig;
use ccbt_storage::doorbell::Doorbell;
use ccbt_storage::error::{Op, StorageError};
use ccbt_storage::messages::Preallocate;
use ccbt_storage::{StorageConfig, StorageService};
use crossbeam_channel::{Receiver, unbounded};

use crate::control::TrackerClientConfig;
use crate::inbox::Inbox;
use crate::messages::{AddTorrent, Event, FromShard, State};
use crate::shard::{Links, Shard, ShardConfig};

/// Bounds a hang; never a measure of speed.
const PATIENCE: Duration = Duration::from_secs(20);
const KEY: TorrentKey = TorrentKey(1);
/// Errno of a device error.
const EIO: i32 = 5;

struct Rig {
    shard: Shard,
    told: Receiver<FromShard>,
    _storage: StorageService,
    _folder: tempfile::TempDir,
}

fn config() -> ShardConfig {
    ShardConfig {
        index: 0,
        download_bytes: 1 << 20,
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
            metadata_size: 0,
        },
        tracker: TrackerClientConfig::default(),
    }
}

fn add(folder: &Path) -> AddTorrent {
    let bytes = vec![7; 50_000];
    std::fs::write(folder.join("f"), &bytes).unwrap();
    let hashes: Vec<_> = bytes.chunks(16_384).map(ccbt_storage::hash::sha1).collect();
    let torrent = Builder::single_file("f", 50_000).piece_len(16_384).plan().unwrap().finish(&hashes);
    AddTorrent {
        key: KEY,
        metainfo: Arc::new(Metainfo::parse(&torrent).unwrap()),
        root: folder.to_owned(),
        prealloc: Preallocate::Sparse,
        picker: PickerConfig::default(),
        peers: Vec::new(),
        use_trackers: false,
        seed_only: false,
        max_peers: 10,
    }
}

impl Rig {
    /// A shard with a torrent whose four pieces are there and finished.
    fn finished() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let storage = StorageService::start(StorageConfig::default()).unwrap();
        let bell = Doorbell::new().unwrap();
        let (inbox, receiver) = Inbox::new(bell.clone());
        let (control, told) = unbounded();
        let links = Links { bell, inbox: receiver, others: vec![inbox], control };
        let mut shard = Shard::new(config(), links, &storage).unwrap();
        shard.add_torrent(add(folder.path()), false);
        let mut rig = Self { shard, told, _storage: storage, _folder: folder };
        rig.wait(&Event::Finished);
        rig
    }

    fn turn(&mut self) {
        self.shard.turn();
        std::thread::sleep(Duration::from_millis(1));
    }

    fn wait(&mut self, wanted: &Event) {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if self.events().contains(wanted) {
                return;
            }
            self.turn();
        }
        panic!("no {wanted:?}");
    }

    fn events(&self) -> Vec<Event> {
        let event = |message| match message {
            FromShard::Event(KEY, event) => Some(event),
            _ => None,
        };
        self.told.try_iter().filter_map(event).collect()
    }

    fn have(&self) -> Vec<u32> {
        let torrent = self.shard.homes[0].torrent.as_ref().unwrap();
        torrent.picker().have().iter().map(|piece| piece.0).collect()
    }
}

#[test]
fn a_failed_sync_takes_back_what_it_covered_and_nothing_else() {
    let mut rig = Rig::finished();
    let home = &mut rig.shard.homes[0];
    // As after a sync was handed over, and a piece was written behind it.
    home.durability.syncing = Some(vec![PieceIndex(1), PieceIndex(3)]);
    home.durability.unsynced = vec![PieceIndex(2)];
    home.busy += 1;
    let error = StorageError::from_errno(Op::Sync, Path::new("f"), EIO);
    rig.shard.on_synced(0, Err(error));
    assert_eq!(rig.have(), [0, 2]);
    assert_eq!(rig.shard.homes[0].durability.unsynced, [PieceIndex(2)]);
    assert_eq!(rig.shard.homes[0].state(), State::Paused);
    let events = rig.events();
    assert!(matches!(&events[..], [Event::Failed { retry: true, .. }]), "{events:?}");
    // Nothing is taken for finished by a sync that works again: two pieces are missing.
    rig.shard.submit_sync(0);
    rig.wait(&Event::Recovered);
    for _ in 0..20 {
        rig.turn();
    }
    assert_eq!(rig.events(), []);
    assert_eq!(rig.shard.homes[0].state(), State::Downloading);
}

#[test]
fn finished_waits_for_a_sync_that_covers_what_was_written_during_another() {
    let mut rig = Rig::finished();
    rig.shard.homes[0].durability.unsynced = vec![PieceIndex(1)];
    rig.shard.on_finished(0);
    rig.shard.homes[0].durability.unsynced.push(PieceIndex(2));
    // Asked again while the first sync is under way: one at a time, and one more behind it.
    rig.shard.on_finished(0);
    rig.wait(&Event::Finished);
    assert!(rig.shard.homes[0].durability.unsynced.is_empty());
    assert_eq!(rig.shard.homes[0].busy, 0);
}
