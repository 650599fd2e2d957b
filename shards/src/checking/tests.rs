//! Checks on a shard that the test turns by hand, of real files.

use std::fs;
use std::os::unix::fs::FileExt;

use ccbt_protocol::ids::TorrentKey;

use super::*;
use crate::messages::State;
use crate::testing::{KEY, PIECE, Rig, publish};

fn check(rig: &Rig) -> &Check {
    match &rig.shard.homes[0].phase {
        Phase::Checking(check) => check,
        other => panic!("it is {other:?}"),
    }
}

/// Changes one byte of a file of the torrent.
fn damage(rig: &Rig, file: usize, at: u64) {
    let file = fs::File::options().read(true).write(true).open(rig.path(file)).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

fn checked(events: &[Event]) -> Vec<(u32, u32)> {
    let checked = |event: &Event| match event {
        Event::Checked { good, total } => Some((*good, *total)),
        _ => None,
    };
    events.iter().filter_map(checked).collect()
}

#[test]
fn small_pieces_are_read_together() {
    let mut rig = Rig::new(|_| {});
    rig.add(&[100 * PIECE], |_| {});
    rig.turn_until("check", |rig| matches!(rig.shard.homes[0].phase, Phase::Checking(_)));
    assert_eq!((check(&rig).reads, check(&rig).total), (2, 100), "64 pieces in a MiB, and the rest");
    rig.wait(&Event::Finished);
    assert_eq!(rig.shard.pieces, 0);
    assert_eq!(rig.shard.partition.used(), 0);
}

#[test]
fn pieces_that_share_pages_are_checked_too() {
    let mut rig = Rig::new(|_| {});
    rig.add(&[100, 30 * PIECE, 5, 20 * PIECE + 77], |_| {});
    damage(&rig, 1, 5 * PIECE as u64);
    rig.wait(&Event::Checked { good: 50, total: 51 });
    assert_eq!(rig.shard.partition.used(), 0);
}

#[test]
fn more_pieces_than_memory() {
    // Twice the memory for downloads, in pieces that start in the middle of a page.
    let mut rig = Rig::new(|config| config.download_bytes = 1 << 20);
    rig.add(&[100, 128 * PIECE], |_| {});
    rig.wait(&Event::Checked { good: 129, total: 129 });
    assert_eq!((rig.shard.pieces, rig.shard.partition.used()), (0, 0));
}

#[test]
fn beside_transfers_a_check_takes_one_read_and_little_memory() {
    let mut rig = Rig::new(|_| {});
    rig.shard.transferring = true;
    rig.add(&[200 * PIECE], |_| {});
    rig.turn_until("check", |rig| matches!(rig.shard.homes[0].phase, Phase::Checking(_)));
    let mut most = 0;
    rig.turn_until("end of the check", |rig| {
        if let Phase::Checking(check) = &rig.shard.homes[0].phase {
            assert!(check.reads <= READS_BESIDE);
            most = most.max(check.bytes);
        }
        rig.shard.homes[0].is_running()
    });
    assert!(most <= rig.shard.partition.capacity() / MEMORY_PART_BESIDE, "{most} bytes");
    assert_eq!(rig.have().len(), 200);
}

#[test]
fn what_cannot_be_read_does_not_take_its_neighbours_with_it() {
    let mut rig = Rig::new(|_| {});
    rig.add(&[40 * PIECE], |add| add.seed_only = true);
    rig.wait(&Event::Finished);
    // The file is cut after it was looked at and before it is read.
    let report = OpenReport { files: rig.shard.homes[0].files.clone(), ..OpenReport::default() };
    let file = fs::File::options().write(true).open(rig.path(0)).unwrap();
    file.set_len(10 * PIECE as u64 + 1).unwrap();
    rig.shard.homes[0].torrent = None;
    rig.shard.start_check(0, &report);
    rig.wait(&Event::Checked { good: 10, total: 40 });
}

#[test]
fn a_recheck_finds_damage_and_keeps_the_sums() {
    let mut rig = Rig::finished();
    rig.shard.homes[0].stats.uploaded = 7;
    let stats = rig.shard.homes[0].stats;
    rig.shard.homes[0].torrent.as_mut().unwrap().go_on_from(stats);
    damage(&rig, 0, 2 * PIECE as u64);
    rig.shard.on_message(ToShard::Recheck(KEY));
    assert_eq!(rig.shard.homes[0].state(), State::Checking);
    rig.wait(&Event::Checked { good: 3, total: 4 });
    assert_eq!((rig.have(), rig.shard.homes[0].state()), (vec![0, 1, 3], State::Downloading));
    assert_eq!(rig.shard.homes[0].torrent.as_ref().unwrap().stats().uploaded, 7);
    // Again, while one runs: it begins anew and ends once.
    rig.shard.on_message(ToShard::Recheck(KEY));
    rig.shard.on_message(ToShard::Recheck(KEY));
    let seen = rig.wait(&Event::Checked { good: 3, total: 4 });
    assert_eq!(checked(&seen), [(3, 4)]);
    rig.shard.end_torrent(0, true);
    rig.wait(&Event::Removed);
}

#[test]
fn removed_at_any_moment_of_a_recheck() {
    for turns in 0..12 {
        let mut rig = Rig::finished();
        rig.shard.on_message(ToShard::Recheck(KEY));
        for _ in 0..turns {
            rig.shard.turn();
        }
        rig.shard.on_message(ToShard::Remove { key: KEY, delete_data: false });
        rig.wait(&Event::Removed);
        assert!(rig.shard.homes.is_empty() && rig.shard.partition.used() == 0, "after {turns} turns");
    }
}

#[test]
fn what_is_known_is_not_hashed_again() {
    let mut rig = Rig::finished();
    damage(&rig, 0, PIECE as u64);
    let known = rig.shard.homes[0].snapshot().known();
    rig.shard.on_message(ToShard::Remove { key: KEY, delete_data: false });
    rig.wait(&Event::Removed);
    // Nothing is looked at, so the damage is not found: the file is as it was when all was known.
    let add = |rig: &mut Rig, known| {
        let path = rig.path(0);
        let (bytes, modified) = (fs::read(&path).unwrap(), path.metadata().unwrap().modified().unwrap());
        rig.add(&[50_000], |add| {
            // Publishing has written the file anew.
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.write_all_at(&bytes, 0).unwrap();
            file.set_modified(modified).unwrap();
            add.known = Some(known);
        });
    };
    add(&mut rig, known.clone());
    let seen = rig.wait(&Event::Finished);
    assert_eq!((checked(&seen), rig.have()), (vec![], vec![0, 1, 2, 3]));
    rig.shard.on_message(ToShard::Remove { key: KEY, delete_data: false });
    rig.wait(&Event::Removed);
    // A file with another time is looked at.
    let file = fs::File::options().write(true).open(rig.path(0)).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    add(&mut rig, known);
    rig.wait(&Event::Checked { good: 3, total: 4 });
}

#[test]
fn one_check_at_a_time_on_a_rotating_device() {
    let mut rig = Rig::finished();
    let report = |rig: &Rig| OpenReport {
        files: rig.shard.homes[0].files.clone(),
        device: 5,
        rotating: true,
        ..OpenReport::default()
    };
    let other = (TorrentKey(99), 0);
    assert!(rig.shard.lines.join(5, other));
    rig.shard.homes[0].torrent = None;
    let found = report(&rig);
    rig.shard.start_check(0, &found);
    for _ in 0..20 {
        rig.turn();
    }
    assert_eq!((check(&rig).reads, check(&rig).looked), (0, 0), "it waits for the other");
    assert_eq!(rig.shard.lines.leave(5, other), Some((KEY, 0)));
    rig.shard.on_message(ToShard::CheckTurn(KEY));
    rig.wait(&Event::Checked { good: 4, total: 4 });
    assert!(rig.shard.lines.join(5, other), "it has left the line");
    // One that is removed while it waits leaves the line too.
    rig.shard.homes[0].torrent = None;
    rig.shard.start_check(0, &found);
    rig.shard.on_message(ToShard::Remove { key: KEY, delete_data: false });
    rig.wait(&Event::Removed);
    assert_eq!(rig.shard.lines.leave(5, other), None);
}

#[test]
fn a_state_given_back_in_the_middle_of_a_check_is_gone_on_from() {
    let mut rig = Rig::new(|_| {});
    let add = publish(rig.folder.path(), KEY, &[100 * PIECE]);
    let meta = add.metainfo.clone();
    rig.shard.add_torrent(add, false);
    rig.wait(&Event::Finished);
    let mut known = rig.shard.homes[0].snapshot().known();
    for piece in 30..100 {
        known.looked.remove(PieceIndex(piece));
        known.have.remove(PieceIndex(piece));
    }
    known.have.remove(PieceIndex(4));
    rig.shard.on_message(ToShard::Remove { key: KEY, delete_data: false });
    rig.wait(&Event::Removed);
    let again = crate::messages::AddTorrent {
        known: Some(known),
        metainfo: meta,
        ..publish(&rig.folder.path().join("elsewhere"), KEY, &[1])
    };
    rig.shard.add_torrent(crate::messages::AddTorrent { root: rig.folder.path().to_owned(), ..again }, false);
    rig.turn_until("check", |rig| matches!(rig.shard.homes[0].phase, Phase::Checking(_)));
    assert_eq!(check(&rig).total, 70);
    let snapshot = rig.shard.homes[0].snapshot();
    assert_eq!((snapshot.have.count(), snapshot.looked.count(), snapshot.durable.count()), (29, 30, 0));
    rig.wait(&Event::Checked { good: 99, total: 100 });
}

#[test]
fn what_could_not_be_read_for_want_of_descriptors_is_read_again() {
    let mut rig = Rig::finished();
    let report = OpenReport { files: rig.shard.homes[0].files.clone(), ..OpenReport::default() };
    rig.shard.homes[0].torrent = None;
    rig.shard.homes[0].phase =
        Phase::Checking(Check::new(plan::plan(&rig.shard.homes[0].meta, &report, None), None));
    // As after a read of all four pieces that failed.
    let Phase::Checking(check) = &mut rig.shard.homes[0].phase else { unreachable!() };
    let run = check.next(4).unwrap();
    assert_eq!(run, 0..4);
    let mut buf = rig.shard.partition.alloc(50_000, 0).unwrap();
    buf.set_len(50_000);
    (check.reads, check.bytes) = (1, 50_000);
    rig.shard.pieces += 4;
    rig.shard.homes[0].busy += 1;
    let emfile = StorageError::from_errno(ccbt_storage::error::Op::Read, "f0".as_ref(), 24);
    rig.shard.on_check_read(0, 0, buf, Err(emfile));
    assert!(self::check(&rig).paused && self::check(&rig).looked == 0, "nothing is taken for missing");
    rig.wait(&Event::Checked { good: 4, total: 4 });
}
