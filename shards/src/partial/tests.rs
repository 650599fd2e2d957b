use std::os::unix::fs::FileExt;
use std::sync::Arc;

use ccbt_protocol::metainfo::Metainfo;
use ccbt_protocol::metainfo::build::Builder;

use super::*;
use crate::messages::{Known, State};
use crate::testing::{KEY, Rig, publish};

const BLOCK: usize = 16_384;
const PIECE: usize = 4 * BLOCK;
const PIECES: u32 = 8;

/// A torrent of large pieces of which nothing is there.
fn rig(known: Option<Known>) -> Rig {
    let mut rig = Rig::new(|_| {});
    add(&mut rig, known);
    rig
}

fn add(rig: &mut Rig, known: Option<Known>) {
    let plan = Builder::single_file("big", u64::from(PIECES) * PIECE as u64).piece_len(PIECE as u32).plan();
    let torrent = plan.unwrap().finish(&vec![[7; 20]; PIECES as usize]);
    let mut add = publish(rig.folder.path(), KEY, &[1]);
    add.metainfo = Arc::new(Metainfo::parse(&torrent).unwrap());
    add.known = known;
    rig.shard.add_torrent(add, false);
    rig.turn_until("run", |rig| rig.shard.homes[0].is_running());
}

fn partial(piece: u32, blocks: &[u32]) -> PartialPiece {
    let mut field = Bitfield::empty(4);
    blocks.iter().for_each(|nth| assert!(field.insert(PieceIndex(*nth))));
    PartialPiece { piece: PieceIndex(piece), blocks: field }
}

/// Begins a piece with these blocks, in memory that is full of `fill`.
fn begin(rig: &mut Rig, piece: u32, blocks: &[u32], fill: u8) {
    let shard = &mut rig.shard;
    let mut buf = shard.partition.alloc(PIECE as u32, 0).expect("there is room");
    buf.as_mut_slice().fill(fill);
    shard.pieces += 1;
    let home = &mut shard.homes[0];
    assert!(home.torrent.as_mut().unwrap().picker_mut().take_back(&partial(piece, blocks)));
    home.live.0.insert(PieceIndex(piece), LivePiece::new(buf));
}

fn pause(rig: &mut Rig) {
    rig.shard.pause(KEY);
    rig.turn_until("rest", |rig| rig.shard.homes[0].live.0.is_empty() && rig.shard.homes[0].busy == 0);
}

/// A block of the file: its only byte, if all are the same.
fn block(rig: &Rig, piece: u32, nth: u32) -> Option<u8> {
    let mut bytes = vec![0; BLOCK];
    let file = std::fs::File::open(rig.folder.path().join("big")).unwrap();
    file.read_exact_at(&mut bytes, u64::from(piece) * PIECE as u64 + u64::from(nth) * BLOCK as u64).unwrap();
    bytes.iter().all(|byte| *byte == bytes[0]).then_some(bytes[0])
}

fn written(rig: &Rig) -> Vec<PartialPiece> {
    rig.shard.homes[0].snapshot().partial
}

#[test]
fn a_rest_writes_what_came_and_gives_the_memory_back() {
    let mut rig = rig(None);
    begin(&mut rig, 2, &[1, 3], 0x55);
    begin(&mut rig, 5, &[0], 0x66);
    pause(&mut rig);
    assert_eq!(rig.shard.partition.used(), 0);
    assert_eq!(written(&rig), [partial(2, &[1, 3]), partial(5, &[0])]);
    let blocks = [2, 5].map(|piece| [0, 1, 2, 3].map(|nth| block(&rig, piece, nth)));
    let two = [Some(0), Some(0x55), Some(0), Some(0x55)];
    assert_eq!(
        blocks,
        [two, [Some(0x66), Some(0), Some(0), Some(0)]],
        "nothing of what the memory held before"
    );
    assert_eq!(rig.shard.homes[0].state(), State::Paused);
    // They come back with the same bytes, and nothing is fetched before.
    rig.shard.on_message(crate::messages::ToShard::Resume(KEY));
    assert!(!rig.shard.homes[0].may_fetch(), "blocks are being read");
    rig.turn_until("blocks", |rig| rig.shard.homes[0].may_fetch());
    let home = &rig.shard.homes[0];
    let picker = home.torrent.as_ref().unwrap().picker();
    assert_eq!(picker.partial(PieceIndex(2)), Some(partial(2, &[1, 3])));
    assert_eq!(home.live.0[&PieceIndex(2)].read(BLOCK, BLOCK), [0x55; BLOCK]);
    assert_eq!(home.live.0[&PieceIndex(5)].read(0, 1), [0x66]);
    // What is in the files already is not written again: a block more is.
    let before = rig.path(0).with_file_name("../big").metadata().map(|found| found.modified().unwrap());
    pause(&mut rig);
    let after = rig.path(0).with_file_name("../big").metadata().map(|found| found.modified().unwrap());
    assert_eq!((before.unwrap(), written(&rig).len()), (after.unwrap(), 2));
}

#[test]
fn fewer_blocks_do_not_replace_more() {
    let mut rig = rig(None);
    begin(&mut rig, 2, &[1, 3], 0x55);
    pause(&mut rig);
    // Given up for others, and begun anew.
    rig.shard.homes[0].paused = false;
    begin(&mut rig, 2, &[0], 0x77);
    pause(&mut rig);
    assert_eq!(written(&rig), [partial(2, &[1, 3])]);
    assert_eq!((block(&rig, 2, 0), block(&rig, 2, 1)), (Some(0), Some(0x55)));
    rig.shard.homes[0].paused = false;
    begin(&mut rig, 2, &[0, 1, 2], 0x77);
    pause(&mut rig);
    assert_eq!(written(&rig), [partial(2, &[0, 1, 2])]);
    assert_eq!((block(&rig, 2, 0), block(&rig, 2, 3)), (Some(0x77), Some(0)));
}

#[test]
fn what_is_ours_wrong_or_not_wanted_is_not_kept() {
    let mut rig = rig(None);
    for piece in [1, 2, 3] {
        begin(&mut rig, piece, &[1], 0x55);
    }
    pause(&mut rig);
    assert_eq!(written(&rig).len(), 3);
    let home = &mut rig.shard.homes[0];
    home.partials.forget(PieceIndex(2));
    home.torrent.as_mut().unwrap().picker_mut().set_priority(PieceIndex(5), Priority::Skip);
    home.paused = false;
    let pieces: Vec<u32> = written(&rig).iter().map(|partial| partial.piece.0).collect();
    assert_eq!(pieces, [1, 3]);
    begin(&mut rig, 6, &[1], 0x44);
    rig.shard.homes[0].torrent.as_mut().unwrap().picker_mut().set_priority(PieceIndex(6), Priority::Skip);
    pause(&mut rig);
    assert_eq!((written(&rig).len(), block(&rig, 6, 1)), (2, Some(0)));
    assert_eq!(rig.shard.partition.used(), 0);
}

#[test]
fn a_full_memory_takes_back_what_fits_most_complete_first() {
    let mut rig = Rig::new(|config| config.download_bytes = 3 * PIECE);
    add(&mut rig, None);
    begin(&mut rig, 1, &[0], 0x11);
    begin(&mut rig, 2, &[0, 1, 2], 0x22);
    begin(&mut rig, 3, &[0, 1], 0x33);
    pause(&mut rig);
    let hog = rig.shard.partition.alloc(PIECE as u32, 0).expect("there is room");
    rig.shard.on_message(crate::messages::ToShard::Resume(KEY));
    rig.turn_until("blocks", |rig| rig.shard.homes[0].may_fetch());
    let mut live: Vec<u32> = rig.shard.homes[0].live.0.keys().map(|piece| piece.0).collect();
    live.sort_unstable();
    assert_eq!(live, [2, 3]);
    assert_eq!(written(&rig).len(), 3, "the other one stays where it is");
    rig.shard.partition.free(hog);
}

#[test]
fn a_torrent_that_ends_keeps_its_blocks_and_the_next_one_takes_them_back() {
    let mut first = rig(None);
    begin(&mut first, 2, &[1, 3], 0x55);
    first.shard.end_torrent(0, false);
    first.turn_until("end", |rig| rig.shard.homes.is_empty());
    let snapshot = first.closed().expect("its last words");
    assert_eq!(snapshot.partial, [partial(2, &[1, 3])]);
    let known = snapshot.known();
    add(&mut first, Some(known.clone()));
    first.turn_until("blocks", |rig| rig.shard.homes[0].may_fetch());
    let home = &first.shard.homes[0];
    assert_eq!(home.live.0[&PieceIndex(2)].read(3 * BLOCK, 1), [0x55]);
    first.shard.end_torrent(0, false);
    first.turn_until("end", |rig| rig.shard.homes.is_empty());
    // Of a file that was changed, or is gone, nothing is taken.
    let path = first.folder.path().join("big");
    std::fs::File::options().write(true).open(&path).unwrap().write_all_at(b"x", 7).unwrap();
    add(&mut first, Some(known));
    assert!(written(&first).is_empty() && first.shard.homes[0].live.0.is_empty());
}
