//! Files and disks that fail a torrent, on a shard that the test turns by hand.

use std::fs;
use std::path::Path;

use ccbt_protocol::picker::PieceState;
use ccbt_storage::error::Op;

use super::*;
use crate::messages::{State, ToShard};
use crate::testing::{KEY, PIECE, Rig};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

fn error(op: Op, errno: i32) -> StorageError {
    StorageError::from_errno(op, Path::new("f0"), errno)
}

fn changed(kind: ErrorKind) -> StorageError {
    StorageError::new(Op::Read, Path::new("f0"), kind)
}

#[test]
fn reads_that_keep_failing_stop_a_torrent() {
    let mut faults = ReadFaults::default();
    let piece = PieceIndex(1);
    assert!(!faults.bad(piece) && !faults.bad(piece));
    faults.good();
    assert!(faults.bad(piece), "the same piece for the third time, however many were good between");
    let mut faults = ReadFaults::default();
    let many: Vec<bool> = (0..FAILED_IN_ROW_MAX).map(|piece| faults.bad(PieceIndex(piece))).collect();
    assert_eq!(many.iter().filter(|stop| **stop).count(), 1);
    assert!(many[FAILED_IN_ROW_MAX as usize - 1], "many pieces in a row");
    let mut faults = ReadFaults::default();
    for piece in 0..FAILED_PIECES_KNOWN_MAX as u32 {
        assert!(!faults.bad(PieceIndex(piece)));
        faults.good();
    }
    assert!(faults.bad(piece), "memory is bounded");
}

#[test]
fn a_device_that_fails_reads_is_given_up_until_the_user_says_so() {
    let mut rig = Rig::new(|_| {});
    rig.add(&[40 * PIECE], |_| {});
    rig.wait(&Event::Finished);
    for piece in 0..FAILED_IN_ROW_MAX {
        rig.shard.read_failed(0, PieceIndex(piece), &error(Op::Read, EIO));
    }
    let (message, retry) = rig.wait_failure();
    assert!(!retry && message.contains("f0") && message.contains("resume"), "{message}");
    rig.turn_until("closed files", |rig| matches!(rig.shard.homes[0].phase, Phase::Opening));
    for _ in 0..50 {
        rig.turn();
    }
    assert_eq!(rig.shard.homes[0].state(), State::Paused);
    assert!(rig.shard.homes[0].torrent.is_none(), "nobody reads from it");
    assert_eq!(rig.shard.homes[0].known_now().have.count(), 40 - FAILED_IN_ROW_MAX, "what was good is known");
    rig.shard.on_message(ToShard::Resume(KEY));
    rig.wait(&Event::Recovered);
    rig.turn_until("running", |rig| rig.shard.homes[0].is_running());
    assert_eq!(rig.have().len() as u32, 40 - FAILED_IN_ROW_MAX, "only what failed is fetched again");
    rig.shard.on_message(ToShard::Recheck(KEY));
    rig.wait(&Event::Checked { good: 40, total: 40 });
}

#[test]
fn a_seed_never_asks_for_what_it_has_lost() {
    let mut rig = Rig::new(|_| {});
    rig.add(&[10 * PIECE], |add| add.seed_only = true);
    rig.wait(&Event::Finished);
    rig.shard.read_failed(0, PieceIndex(3), &error(Op::Read, EIO));
    let torrent = rig.shard.homes[0].torrent.as_ref().unwrap();
    assert_eq!(torrent.picker().state(PieceIndex(3)), PieceState::Skipped);
    assert!(torrent.is_finished(), "nothing is wanted");
    let told = rig.events();
    assert!(matches!(&told[..], [Event::Note(note)] if note.contains("piece 3")), "{told:?}");
}

#[test]
fn a_file_cut_under_a_seed_costs_the_pieces_behind_the_cut() {
    let mut rig = Rig::new(|_| {});
    rig.add(&[10 * PIECE, 10 * PIECE], |add| add.seed_only = true);
    rig.wait(&Event::Finished);
    let file = fs::File::options().write(true).open(rig.path(1)).unwrap();
    file.set_len(4 * PIECE as u64).unwrap();
    rig.shard.read_failed(0, PieceIndex(17), &changed(ErrorKind::ShortRead));
    // The first file is as it was and not looked at again.
    rig.wait(&Event::Checked { good: 14, total: 20 });
    rig.turn_until("running", |rig| rig.shard.homes[0].is_running());
    assert_eq!(rig.have(), (0..14).collect::<Vec<_>>());
    // Soon after: the piece goes, and no more. Files that change all the time would be read all the time.
    rig.shard.read_failed(0, PieceIndex(13), &changed(ErrorKind::ShortRead));
    assert!(rig.shard.homes[0].is_running());
    assert_eq!(rig.have().len(), 13);
}

#[test]
fn a_download_makes_a_deleted_file_anew() {
    let mut rig = Rig::new(|_| {});
    rig.add(&[10 * PIECE, 10 * PIECE], |_| {});
    rig.wait(&Event::Finished);
    fs::remove_file(rig.path(0)).unwrap();
    rig.shard.fail(0, &changed(ErrorKind::Missing));
    assert_eq!(rig.shard.homes[0].state(), State::Paused);
    rig.wait(&Event::Recovered);
    rig.turn_until("running", |rig| rig.shard.homes[0].is_running());
    assert_eq!(rig.have(), (10..20).collect::<Vec<_>>());
    assert_eq!((rig.shard.homes[0].state(), rig.path(0).exists()), (State::Downloading, true));
}

#[test]
fn a_seed_without_data_stops_and_goes_on_when_it_is_back() {
    let mut rig = Rig::new(|_| {});
    rig.add(&[50_000], |add| add.seed_only = true);
    rig.wait(&Event::Finished);
    let aside = rig.folder.path().join("aside");
    fs::rename(rig.path(0), &aside).unwrap();
    rig.shard.read_failed(0, PieceIndex(0), &changed(ErrorKind::Missing));
    let (message, retry) = rig.wait_failure();
    assert!(!retry && message.contains("restore"), "{message}");
    assert_eq!(rig.shard.homes[0].state(), State::Paused);
    fs::rename(&aside, rig.path(0)).unwrap();
    rig.turn_until("closed files", |rig| matches!(rig.shard.homes[0].phase, Phase::Opening));
    rig.shard.on_message(ToShard::Resume(KEY));
    rig.wait(&Event::Recovered);
    rig.turn_until("running", |rig| rig.shard.homes[0].is_running());
    assert_eq!(rig.have(), [0, 1, 2, 3]);
}

#[test]
fn a_torrent_that_cannot_be_opened_is_opened_on_resume() {
    let mut rig = Rig::new(|_| {});
    let taken = rig.folder.path().join("taken");
    fs::write(&taken, b"in the way").unwrap();
    rig.add(&[50_000], |add| add.root = taken.clone());
    let (message, retry) = rig.wait_failure();
    assert!(!retry && message.contains("taken"), "{message}");
    rig.shard.on_message(ToShard::Resume(KEY));
    assert!(rig.wait_failure().0.contains("taken"), "told again, for it was asked again");
    fs::remove_file(&taken).unwrap();
    rig.shard.on_message(ToShard::Resume(KEY));
    rig.wait(&Event::Recovered);
    rig.turn_until("running", |rig| rig.shard.homes[0].is_running());
}

#[test]
fn the_pauses_between_attempts_grow_and_the_cause_is_told_once() {
    let mut rig = Rig::finished();
    let pause = |rig: &Rig| rig.shard.homes[0].failure.as_ref().unwrap().pause;
    let mut pauses = Vec::new();
    for _ in 0..8 {
        // A full disk fails whatever is on the way at once: that is one failure.
        rig.shard.fail(0, &error(Op::Write, ENOSPC));
        let at = rig.shard.homes[0].failure.as_ref().unwrap().retry_at;
        rig.shard.fail(0, &error(Op::Write, ENOSPC));
        assert_eq!(rig.shard.homes[0].failure.as_ref().unwrap().retry_at, at);
        pauses.push(pause(&rig).as_secs());
        rig.shard.homes[0].failure.as_mut().unwrap().tried = true;
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, 30]);
    assert_eq!(rig.events().len(), 1);
    rig.shard.fail(0, &error(Op::Write, EIO));
    assert_eq!(rig.events().len(), 1, "another cause is told");
    rig.shard.on_message(ToShard::Resume(KEY));
    rig.wait(&Event::Recovered);
    assert!(rig.shard.homes[0].failure.is_none(), "a sync went well");
}

#[test]
fn verified_pieces_wait_for_the_disk_and_are_written_when_it_is_back() {
    let mut rig = Rig::finished();
    let whole = fs::read(rig.path(0)).unwrap();
    rig.bring_to_writing(&[1, 2]);
    for piece in [1usize, 2] {
        let mut buf = rig.shard.partition.alloc(PIECE as u32, 0).unwrap();
        buf.as_mut_slice().copy_from_slice(&whole[piece * PIECE..][..PIECE]);
        rig.shard.pieces += 1;
        rig.shard.homes[0].busy += 1;
        rig.shard.homes[0].backlog.pieces += 1;
        rig.shard.on_written(0, PieceIndex(piece as u32), buf, Err(error(Op::Write, ENOSPC)));
    }
    assert_eq!(rig.have(), [0, 3]);
    assert!(rig.wait_failure().1, "it goes on by itself");
    // What is on disk there now is not what is to be written.
    fs::File::options().write(true).open(rig.path(0)).unwrap().set_len(PIECE as u64).unwrap();
    rig.wait(&Event::Recovered);
    rig.turn_until("pieces", |rig| rig.have().len() == 4);
    assert_eq!(fs::read(rig.path(0)).unwrap()[PIECE..3 * PIECE], whole[PIECE..3 * PIECE]);
    assert_eq!((rig.shard.pieces, rig.shard.partition.used()), (0, 0));
}

#[test]
fn pieces_that_a_disk_does_not_take_leave_memory_to_others() {
    let mut rig = Rig::new(|config| config.download_bytes = 8 * PIECE);
    rig.add(&[10 * PIECE], |_| {});
    rig.wait(&Event::Finished);
    rig.bring_to_writing(&[0, 1, 2, 3, 4, 5]);
    for piece in 0..6 {
        let buf = rig.shard.partition.alloc(PIECE as u32, 0).unwrap();
        rig.shard.pieces += 1;
        rig.shard.homes[0].busy += 1;
        rig.shard.homes[0].backlog.pieces += 1;
        rig.shard.on_written(0, PieceIndex(piece), buf, Err(error(Op::Write, ENOSPC)));
    }
    rig.shard.starved.push(0);
    rig.shard.reclaim();
    assert_eq!(rig.shard.homes[0].unwritten.len(), 6, "nobody else is in need");
    rig.shard.starved.push(77);
    rig.shard.reclaim();
    assert_eq!(rig.shard.homes[0].unwritten.len(), 2, "a quarter of the memory");
    let torrent = rig.shard.homes[0].torrent.as_ref().unwrap();
    assert_eq!(torrent.picker().state(PieceIndex(5)), PieceState::Missing, "it is fetched again");
    assert_eq!(rig.shard.pieces, 2);
}

#[test]
fn want_of_descriptors_costs_no_piece() {
    let mut rig = Rig::finished();
    let key = crate::cache::ExtentKey { torrent: KEY, piece: PieceIndex(1), nth: 0 };
    let (tag, buf) = rig
        .shard
        .cache
        .begin_read(
            key,
            crate::cache::Place { len: PIECE as u32, phase: 0, in_memory: true },
            crate::cache::Why::Asked,
            &mut Vec::new(),
        )
        .unwrap();
    rig.shard.homes[0].busy += 1;
    rig.shard.on_upload_read(0, tag, buf, Err(error(Op::Read, 24)));
    assert_eq!((rig.have().len(), rig.shard.homes[0].busy), (4, 0));
    assert_eq!(rig.events(), []);
}

#[test]
fn what_others_did_to_the_files_of_a_torrent_at_rest_is_seen_when_it_goes_on() {
    let mut rig = Rig::new(|_| {});
    rig.add(&[10 * PIECE, 10 * PIECE], |_| {});
    rig.wait(&Event::Finished);
    let rest = |rig: &mut Rig, meddle: &dyn Fn(&Path, &Path)| {
        rig.shard.on_message(ToShard::Pause(KEY));
        rig.turn_until("rest", |rig| rig.shard.homes[0].busy == 0);
        meddle(&rig.path(0), &rig.folder.path().join("t"));
        rig.shard.on_message(ToShard::Resume(KEY));
    };
    rest(&mut rig, &|_, _| ());
    rig.turn_until("look", |rig| rig.shard.homes[0].busy == 0);
    assert!(rig.shard.homes[0].is_running() && rig.events().is_empty(), "nothing has changed");
    // One file is another one of the same length.
    rest(&mut rig, &|file, folder| {
        fs::write(folder.join("new"), vec![7; 10 * PIECE]).unwrap();
        fs::rename(folder.join("new"), file).unwrap();
    });
    rig.wait(&Event::Checked { good: 10, total: 20 });
    rig.turn_until("running", |rig| rig.shard.homes[0].is_running());
    assert_eq!(rig.have(), (10..20).collect::<Vec<_>>());
    // Another folder is in the place of theirs.
    rest(&mut rig, &|_, folder| {
        fs::rename(folder, folder.with_file_name("away")).unwrap();
        fs::create_dir(folder).unwrap();
    });
    rig.wait(&Event::Recovered);
    rig.turn_until("running", |rig| rig.shard.homes[0].is_running());
    assert_eq!((rig.have(), rig.path(1).exists()), (Vec::new(), true));
}
