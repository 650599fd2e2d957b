use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::sync::Arc;
use std::time::SystemTime;

use ccbt_protocol::bitfield::Bitfield;
use ccbt_protocol::ids::TorrentKey;

use super::*;
use crate::checkpoints::{Checkpoint, Format, Source, Store, Totals};
use crate::session::checkpointing::{Origin, Torrent};
use crate::session::control::Registry;
use crate::session::torrent::Shared;
use crate::testing;

const DAY: Duration = Duration::from_secs(86_400);

fn checkpoint(info_hash: InfoHash, have: Bitfield) -> Checkpoint {
    Checkpoint {
        info_hash,
        name: "t".into(),
        saved_at: 1,
        added_at: 1,
        source: Source::default(),
        output: "/srv".into(),
        renames: Vec::new(),
        piece_len: 16_384,
        total_len: 163_840,
        looked: have.clone(),
        partial: Vec::new(),
        have,
        files: vec![None],
        totals: Totals::default(),
        file_priorities: Vec::new(),
        trackers: Vec::new(),
        peers: Vec::new(),
    }
}

/// A writer that runs one torrent, and a folder.
fn writer(settings: CheckpointSettings) -> (tempfile::TempDir, Writer, InfoHash) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let shared = Arc::new(Shared::new(TorrentKey(0), Arc::new(testing::metainfo("t", 10 * 16_384, 16_384))));
    let info_hash = shared.info_hash();
    let origin = Origin {
        source: crate::checkpoints::Source::default(),
        added_at: 1,
        totals: Totals::default(),
        peers: Vec::new(),
        seed_only: false,
        spec: None,
    };
    let writer = Writer {
        settings,
        is_synced: true,
        store: Store::new(folder.path().join("state")),
        registry: Arc::new(Registry::default()),
        torrents: HashMap::from([(TorrentKey(0), Torrent::new(shared, origin))]),
        pending: HashSet::new(),
        failing: false,
        cleaning: Cleaning::default(),
    };
    (folder, writer, info_hash)
}

fn put(store: &Store, info_hash: InfoHash, have: Bitfield, age: Duration) {
    store.save(&checkpoint(info_hash, have), Format::Binary).unwrap();
    let file = File::options().write(true).open(store.path(info_hash)).unwrap();
    file.set_modified(SystemTime::now() - age).unwrap();
}

fn sweep(writer: &mut Writer) -> u32 {
    writer.cleaning.begin();
    let mut parts = 0;
    while writer.cleaning.due() <= Instant::now() + DAY / 24 {
        writer.cleaning.due = Some(Instant::now());
        writer.clean();
        parts += 1;
    }
    parts
}

#[test]
fn nothing_is_removed_before_a_checkpoint_is_written() {
    let (_folder, mut writer, _) = writer(CheckpointSettings::default());
    put(&writer.store, InfoHash([1; 20]), Bitfield::empty(10), DAY * 99);
    writer.clean();
    assert_eq!(writer.store.hashes().unwrap().len(), 1);
    assert_eq!(sweep(&mut writer), 1);
    assert!(writer.store.hashes().unwrap().is_empty());
}

#[test]
fn a_running_torrents_checkpoint_stays_and_does_not_grow_old_for_others() {
    let settings = CheckpointSettings { keep_completed: false, ..CheckpointSettings::default() };
    let (_folder, mut writer, ours) = writer(settings);
    put(&writer.store, ours, Bitfield::full(10), DAY * 99);
    let (old, done, new) = (InfoHash([1; 20]), InfoHash([2; 20]), InfoHash([3; 20]));
    put(&writer.store, old, Bitfield::empty(10), DAY * 31);
    put(&writer.store, done, Bitfield::full(10), DAY);
    put(&writer.store, new, Bitfield::empty(10), DAY * 29);
    sweep(&mut writer);
    assert_eq!(writer.store.hashes().unwrap(), BTreeSet::from([new, ours]));
    // As another process would.
    let month = Retention { older_than: Some(DAY * 30), completed: false };
    assert!(writer.store.clean(month, &BTreeSet::new()).unwrap().is_empty());
}

#[test]
fn a_sweep_goes_on_part_by_part_and_comes_again() {
    let (_folder, mut writer, _) = writer(CheckpointSettings::default());
    std::fs::create_dir_all(writer.store.dir()).unwrap();
    for number in 0..(2 * PART + 1) as u32 {
        let mut hash = [9; 20];
        hash[..4].copy_from_slice(&number.to_be_bytes());
        // Not even good ones.
        let file = File::create(writer.store.path(InfoHash(hash))).unwrap();
        file.set_modified(SystemTime::now() - DAY * 31).unwrap();
    }
    writer.cleaning.begin();
    writer.clean();
    assert_eq!(writer.store.hashes().unwrap().len(), PART + 1);
    assert_eq!(sweep(&mut writer), 2);
    assert!(writer.store.hashes().unwrap().is_empty());
    assert!(writer.cleaning.due() > Instant::now() + DAY / 24);
}

#[test]
fn another_retention_sweeps_at_once_and_no_retention_removes_nothing() {
    let never = CheckpointSettings { keep: None, ..CheckpointSettings::default() };
    let (_folder, mut writer, _) = writer(never.clone());
    put(&writer.store, InfoHash([1; 20]), Bitfield::empty(10), DAY * 9999);
    sweep(&mut writer);
    assert_eq!(writer.store.hashes().unwrap().len(), 1);
    let next = writer.cleaning.due();
    writer.set(CheckpointSettings { pieces: 7, ..never });
    assert_eq!(writer.cleaning.due(), next, "that is no other retention");
    writer.set(CheckpointSettings::default());
    writer.clean();
    assert!(writer.store.hashes().unwrap().is_empty());
}
