//! The cache without a shard: sockets are made up, reads are ended by the test.

use super::*;

const LEN: u32 = 65_536;
const PLACE: Place = Place { len: LEN, phase: 0, in_memory: true };

fn key(nth: u32) -> ExtentKey {
    ExtentKey { torrent: TorrentKey(0), piece: PieceIndex(0), nth }
}

fn socket(number: u32) -> SocketKey {
    SocketKey::for_test(number)
}

/// A cache that holds four extents of `LEN` bytes.
fn cache() -> ReadCache {
    ReadCache::new(4 * LEN as usize).unwrap()
}

fn begin(cache: &mut ReadCache, nth: u32, why: Why) -> Option<(u64, PieceBuf)> {
    cache.begin_read(key(nth), PLACE, why, &mut Vec::new())
}

fn read(cache: &mut ReadCache, nth: u32) {
    let (tag, buf) = begin(cache, nth, Why::Asked).expect("there is memory");
    cache.end_read(tag, buf, true).expect("it was wanted");
}

fn hold(cache: &ReadCache, nth: u32) -> Rc<PieceBuf> {
    let Found::Ready(buf) = cache.find(key(nth)) else { panic!("{nth} is not there") };
    buf
}

#[test]
fn blocks_and_extents_line_up() {
    let torrent = TorrentKey(1);
    let block = |begin, len| Block { piece: PieceIndex(3), begin, len };
    let nths = |block| extents_of(torrent, block).map(|key| key.nth).collect::<Vec<_>>();
    assert_eq!(nths(block(0, 16384)), [0]);
    assert_eq!(nths(block(EXTENT - 16384, 16384)), [0]);
    assert_eq!(nths(block(EXTENT - 1, 2)), [0, 1]);
    let geometry = Geometry::new(4 * 300_000, 300_000).unwrap();
    let last = ExtentKey { torrent, piece: PieceIndex(3), nth: 1 };
    assert_eq!(range_of(&geometry, last), (EXTENT, 300_000 - EXTENT));
    assert_eq!(per_piece(&geometry), 2);
}

#[test]
fn what_is_being_sent_stays() {
    let mut cache = cache();
    (0..4).for_each(|nth| read(&mut cache, nth));
    let held: Vec<_> = (0..4).map(|nth| hold(&cache, nth)).collect();
    assert!(begin(&mut cache, 4, Why::Asked).is_none());
    drop(held);
    read(&mut cache, 4);
    assert!(!cache.contains(key(0)), "the oldest went");
    assert_eq!(cache.stats().evictions, 1);
    assert_eq!(cache.stats().resident, 4 * u64::from(LEN));
}

#[test]
fn one_read_serves_and_wakes_all_who_wait_for_it_and_nobody_else() {
    let mut cache = cache();
    let (tag, buf) = begin(&mut cache, 0, Why::Asked).unwrap();
    let (other, other_buf) = begin(&mut cache, 1, Why::Asked).unwrap();
    (0..50).for_each(|number| cache.wait_for(key(0), socket(number)));
    cache.wait_for(key(0), socket(7));
    cache.wait_for(key(1), socket(99));
    assert!(matches!(cache.find(key(0)), Found::Reading));
    let (_, woken) = cache.end_read(tag, buf, true).unwrap();
    assert_eq!(woken, (0..50).map(socket).collect::<Vec<_>>());
    assert_eq!(cache.end_read(other, other_buf, false).unwrap().1, [socket(99)], "also when it fails");
    assert_eq!((cache.stats().reads, cache.contains(key(1))), (2, false));
}

#[test]
fn those_without_memory_are_woken_in_turn_and_never_forgotten() {
    let mut cache = cache();
    let reads: Vec<_> = (0..4).map(|nth| begin(&mut cache, nth, Why::Asked).unwrap()).collect();
    (0..20).for_each(|number| cache.wait_for_memory(socket(number)));
    let mut left = 20;
    for (tag, buf) in reads {
        cache.end_read(tag, buf, true).unwrap();
        let expected = if cache.reads() > 0 { WAKE } else { left };
        let woken = cache.take_hungry().count();
        assert_eq!(woken, expected);
        left -= woken;
    }
    assert_eq!(left, 0, "the last read wakes the rest: nothing else would");
}

#[test]
fn suspicions_are_bounded_and_their_outcome_is_counted() {
    let mut cache = cache();
    let (tag, buf) = begin(&mut cache, 0, Why::Ahead(socket(1))).unwrap();
    assert!(!cache.may_read_ahead(LEN), "a quarter of the memory");
    cache.end_read(tag, buf, true).unwrap();
    assert!(!cache.may_read_ahead(LEN), "as long as nobody used it");
    cache.used(key(0));
    assert!(cache.may_read_ahead(LEN));
    // Asked for while it is read: used. Never asked for: in vain, and its reader hears of it.
    let (tag, buf) = begin(&mut cache, 1, Why::Ahead(socket(1))).unwrap();
    cache.wait_for(key(1), socket(2));
    cache.end_read(tag, buf, true).unwrap();
    let (tag, buf) = begin(&mut cache, 2, Why::Ahead(socket(3))).unwrap();
    cache.end_read(tag, buf, true).unwrap();
    let mut in_vain = Vec::new();
    for nth in 10..14 {
        let (tag, buf) = cache.begin_read(key(nth), PLACE, Why::Asked, &mut in_vain).unwrap();
        cache.end_read(tag, buf, true).unwrap();
    }
    assert_eq!(in_vain, [socket(3)]);
    let stats = cache.stats();
    assert_eq!((stats.ahead_reads, stats.ahead_used, stats.ahead_wasted), (3, 2, 1));
    let (tag, buf) = begin(&mut cache, 20, Why::Ahead(socket(1))).unwrap();
    cache.end_read(tag, buf, false).unwrap();
    assert!(cache.may_read_ahead(LEN), "a failed read holds nothing");
}

#[test]
fn what_nobody_has_come_to_is_counted_once() {
    let mut cache = cache();
    let unvisited = |cache: &ReadCache| cache.unvisited / LEN as usize;
    let (tag, buf) = begin(&mut cache, 0, Why::Asked).unwrap();
    assert_eq!(unvisited(&cache), 1, "being read");
    cache.end_read(tag, buf, true).unwrap();
    assert_eq!(unvisited(&cache), 1, "read");
    (0..2).for_each(|_| cache.used(key(0)));
    assert_eq!(unvisited(&cache), 0);
    let (tag, buf) = begin(&mut cache, 1, Why::Asked).unwrap();
    cache.end_read(tag, buf, false).unwrap();
    assert_eq!(unvisited(&cache), 0, "it did not come");
    assert!(cache.admit(key(2), (0, true), &[7; LEN as usize], &mut Vec::new()));
    read(&mut cache, 3);
    let (tag, buf) = begin(&mut cache, 4, Why::Asked).unwrap();
    assert_eq!(unvisited(&cache), 3);
    cache.forget_torrent(TorrentKey(0));
    assert_eq!(unvisited(&cache), 0, "nobody will come");
    assert!(cache.end_read(tag, buf, true).is_none());
    (0..9).for_each(|nth| read(&mut cache, nth));
    assert_eq!(unvisited(&cache), 4, "those that went unused count no more");
}

#[test]
fn of_files_in_memory_little_is_read_before_it_is_needed() {
    let mut cache = ReadCache::new(4 * AHEAD_IN_MEMORY).unwrap();
    let most = AHEAD_IN_MEMORY as u32 / LEN;
    (0..most - 1).for_each(|nth| read(&mut cache, nth));
    assert!(cache.may_look_ahead());
    read(&mut cache, most);
    assert!(!cache.may_look_ahead());
    cache.used(key(0));
    assert!(cache.may_look_ahead());
}

#[test]
fn a_lost_piece_is_forgotten_in_every_stage() {
    let mut cache = cache();
    read(&mut cache, 0);
    read(&mut cache, 1);
    let sending = hold(&cache, 1);
    let (tag, buf) = begin(&mut cache, 2, Why::Ahead(socket(1))).unwrap();
    cache.wait_for(key(2), socket(5));
    cache.forget_piece(TorrentKey(0), PieceIndex(0));
    assert!((0..3).all(|nth| !cache.contains(key(nth))), "none of it is served again");
    assert_eq!(cache.take_hungry().collect::<Vec<_>>(), [socket(5)]);
    assert!(cache.end_read(tag, buf, true).is_none(), "its old bytes are thrown away");
    assert!(cache.may_read_ahead(LEN));
    // All memory comes back, that of the extent in a batch when the batch is gone.
    (10..13).for_each(|nth| read(&mut cache, nth));
    let held: Vec<_> = (10..13).map(|nth| hold(&cache, nth)).collect();
    assert!(begin(&mut cache, 13, Why::Asked).is_none());
    drop(sending);
    read(&mut cache, 13);
    drop(held);
}

#[test]
fn what_was_just_written_is_there_as_if_it_had_been_read() {
    let mut cache = cache();
    let admit =
        |cache: &mut ReadCache, nth| cache.admit(key(nth), (0, true), &[7; LEN as usize], &mut Vec::new());
    assert!(admit(&mut cache, 0));
    assert_eq!(hold(&cache, 0).as_slice()[..3], [7; 3]);
    (1..4).for_each(|nth| read(&mut cache, nth));
    assert!(admit(&mut cache, 2), "there already");
    assert_eq!((cache.stats().admitted, cache.stats().evictions), (1, 0));
    assert!(admit(&mut cache, 4) && !cache.contains(key(0)), "the oldest went");
    let held: Vec<_> = (1..5).map(|nth| hold(&cache, nth)).collect();
    assert!(!admit(&mut cache, 5), "what is being sent stays");
    drop(held);
}

/// Extents of `LEN` bytes in a megabyte, and in the share at the start.
const PER_MIB: u32 = (1 << 20) / LEN;
const AT_START: u32 = SHARE_START as u32 / LEN;

/// One reader passes an extent; whether it was there.
fn pass(cache: &mut ReadCache, nth: u32) -> bool {
    let hit = cache.contains(key(nth));
    if !hit {
        read(cache, nth);
    }
    cache.used(key(nth));
    hit
}

#[test]
fn readers_that_never_come_back_do_not_fill_the_memory() {
    let mut cache = ReadCache::new(8 * SHARE_START).unwrap();
    for nth in 0..20 * AT_START {
        pass(&mut cache, nth);
        // Another one follows closely.
        assert!(nth < PER_MIB || pass(&mut cache, nth - PER_MIB));
    }
    assert_eq!((cache.share, cache.stats().resident), (SHARE_START, SHARE_START as u64));
}

#[test]
fn memory_grows_by_what_is_missed_until_it_is_missed_no_more() {
    let mut cache = ReadCache::new(8 * SHARE_START).unwrap();
    let round = |cache: &mut ReadCache| (0..3 * AT_START).filter(|nth| pass(cache, *nth)).count() as u32;
    assert_eq!(round(&mut cache), 0);
    (0..3).for_each(|_| _ = round(&mut cache));
    assert_eq!(round(&mut cache), 3 * AT_START, "three times the share, again and again: all of it stays");
    assert!(cache.share > 3 * SHARE_START && cache.share < 8 * SHARE_START, "{}", cache.share);
}

#[test]
fn what_readers_are_on_the_way_to_is_not_let_go_of() {
    let mut cache = ReadCache::new(3 * SHARE_START).unwrap();
    (0..2 * AT_START).for_each(|nth| read(&mut cache, nth));
    assert_eq!((cache.share, cache.stats().evictions), (2 * SHARE_START, 0));
    (0..2 * AT_START).for_each(|nth| cache.used(key(nth)));
    (2 * AT_START..3 * AT_START).for_each(|nth| read(&mut cache, nth));
    assert_eq!(cache.share, 2 * SHARE_START, "there is enough that was used");
    // With all memory in use somebody has to give way.
    (3 * AT_START..8 * AT_START).for_each(|nth| read(&mut cache, nth));
    assert_eq!(cache.stats().resident, 3 * SHARE_START as u64);
}

#[test]
fn a_disk_is_read_twice_for_lack_of_memory_only() {
    let mut cache = ReadCache::new(3 * SHARE_START).unwrap();
    let place = Place { in_memory: false, ..PLACE };
    for nth in 0..3 * AT_START {
        let (tag, buf) = cache.begin_read(key(nth), place, Why::Asked, &mut Vec::new()).unwrap();
        cache.end_read(tag, buf, true).unwrap();
        cache.used(key(nth));
    }
    assert_eq!((cache.stats().evictions, cache.stats().resident), (0, 3 * SHARE_START as u64));
}
