//! What is durable when, and what a failed sync takes back, on a shard that the test turns by hand.

use std::path::Path;
use std::time::Duration;

use ccbt_protocol::ids::PieceIndex;
use ccbt_storage::error::{Op, StorageError};

use super::*;
use crate::messages::{Event, State};
use crate::testing::Rig;

/// Errno of a device error.
const EIO: i32 = 5;

fn eio() -> StorageError {
    StorageError::from_errno(Op::Sync, Path::new("f"), EIO)
}

fn durable(rig: &Rig) -> Vec<u32> {
    rig.shard.homes[0].durability.durable.iter().map(|piece| piece.0).collect()
}

#[test]
fn a_failed_sync_takes_back_what_it_covered_and_nothing_else() {
    let mut rig = Rig::finished();
    assert_eq!(durable(&rig), [0, 1, 2, 3], "finished means durable");
    let home = &mut rig.shard.homes[0];
    // As after a sync was handed over, and a piece was written behind it.
    home.durability.syncing = Some(vec![PieceIndex(1), PieceIndex(3)]);
    home.durability.unsynced = vec![PieceIndex(2)];
    home.durability.durable.remove(PieceIndex(2));
    home.busy += 1;
    rig.shard.on_synced(0, Err(eio()));
    assert_eq!((rig.have(), durable(&rig)), (vec![0, 2], vec![0]));
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
    assert_eq!(durable(&rig), [0, 2]);
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

#[test]
fn a_piece_lost_while_it_is_synced_is_not_durable() {
    let mut rig = Rig::finished();
    let home = &mut rig.shard.homes[0];
    home.durability.syncing = Some(vec![PieceIndex(1), PieceIndex(3)]);
    home.busy += 1;
    assert!(rig.shard.lose_piece(0, PieceIndex(3)));
    rig.shard.on_synced(0, Ok(()));
    assert_eq!((rig.have(), durable(&rig)), (vec![0, 1, 2], vec![0, 1, 2]));
    assert!(!rig.shard.lose_piece(0, PieceIndex(3)), "once");
}

/// A shard whose torrent has lost pieces 1 and 2, brought to where a verified piece is written.
fn writing(policy: SyncPolicy) -> Rig {
    let mut rig = Rig::new(|config| config.sync.policy = policy);
    rig.add(&[50_000], |_| {});
    rig.wait(&Event::Finished);
    rig.bring_to_writing(&[1, 2]);
    rig
}

#[test]
fn policy_piece_claims_a_piece_after_its_sync() {
    let mut rig = writing(SyncPolicy::Piece);
    let syncs = rig.shard.homes[0].durability.syncs;
    rig.shard.take_written(0, PieceIndex(1));
    rig.shard.take_written(0, PieceIndex(2));
    assert_eq!(rig.have(), [0, 3], "written, and not told to anybody");
    let durability = &rig.shard.homes[0].durability;
    assert_eq!(
        (&durability.syncing, &durability.unsynced),
        (&Some(vec![PieceIndex(1)]), &vec![PieceIndex(2)])
    );
    rig.wait(&Event::Finished);
    assert_eq!((rig.have(), durable(&rig)), (vec![0, 1, 2, 3], vec![0, 1, 2, 3]));
    assert_eq!(
        rig.shard.homes[0].durability.syncs,
        syncs + 2,
        "the second one covers all that came meanwhile"
    );
}

#[test]
fn policy_piece_takes_a_piece_back_that_was_never_claimed() {
    let mut rig = writing(SyncPolicy::Piece);
    rig.shard.take_written(0, PieceIndex(1));
    // The answer of the disk, before the true one.
    rig.shard.homes[0].busy += 1;
    rig.shard.on_synced(0, Err(eio()));
    assert_eq!((rig.have(), durable(&rig)), (vec![0, 3], vec![0, 3]));
    let torrent = rig.shard.homes[0].torrent.as_ref().unwrap();
    assert_eq!(torrent.picker().state(PieceIndex(1)), PieceState::Missing, "it is fetched again");
    rig.shard.homes[0].durability.syncing = Some(Vec::new());
    rig.wait(&Event::Recovered);
}

#[test]
fn policy_none_never_syncs() {
    let mut rig = writing(SyncPolicy::None);
    assert_eq!(rig.shard.homes[0].durability.syncs, 0, "not for the first Finished either");
    rig.shard.take_written(0, PieceIndex(1));
    rig.shard.take_written(0, PieceIndex(2));
    rig.shard.touch(0);
    rig.wait(&Event::Finished);
    rig.shard.end_torrent(0, true);
    rig.wait(&Event::Removed);
    assert!(rig.shard.homes.is_empty());
}

#[test]
fn checkpoints_come_by_time_or_by_bytes() {
    let now = Instant::now();
    let config = SyncConfig { bytes: 100, interval: Duration::from_secs(60), ..SyncConfig::default() };
    let mut durability = Durability::new(9);
    assert!(!durability.is_due(&config, now + Duration::from_secs(1000)), "nothing is written");
    durability.add(PieceIndex(1), 50, now);
    durability.add(PieceIndex(2), 40, now + Duration::from_secs(59));
    assert!(!durability.is_due(&config, now + Duration::from_secs(59)));
    assert!(durability.is_due(&config, now + Duration::from_secs(60)), "since the first one");
    durability.add(PieceIndex(3), 10, now);
    assert!(durability.is_due(&config, now), "enough bytes");
    durability.begin();
    assert!(!durability.is_due(&config, now + Duration::from_secs(1000)), "all of it is on its way");
}

#[test]
fn a_checkpoint_covers_what_was_written_so_far() {
    let mut rig = writing(SyncPolicy::Checkpoint);
    rig.shard.config.sync.bytes = 1;
    rig.shard.take_written(0, PieceIndex(1));
    assert_eq!((rig.have(), durable(&rig)), (vec![0, 1, 3], vec![0, 3]), "claimed to peers, not durable");
    rig.turn_until("sync by the tick", |rig| durable(rig) == [0, 1, 3]);
    assert_eq!(rig.shard.homes[0].snapshot().known_durable().looked.count(), 4);
}
