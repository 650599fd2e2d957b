//! The ring over real loopback sockets: what it promises about events, memory and ends.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

use ccbt_protocol::geometry::Block;
use ccbt_protocol::ids::PieceIndex;
use ccbt_protocol::wire::message::{Message, WireError, piece_header};
use ccbt_protocol::wire::mse::{Ciphers, Rc4};
use ccbt_protocol::wire::receiver::Sink;
use ccbt_storage::arena::Partition;
use ccbt_storage::doorbell::Doorbell;

use super::recv::{IDLE_SCRATCH_LEN, SCRATCH_LEN};
use super::*;

/// Bounds a hang; never a measure of speed.
const PATIENCE: Duration = Duration::from_secs(20);
const BLOCK: u32 = 16 * 1024;

mod utp;
mod zero_copy;

struct Table(HashMap<PieceIndex, LivePiece>);

impl Places for Table {
    fn piece(&self, block: Block) -> Option<&LivePiece> {
        self.0.get(&block.piece)
    }
}

/// Accepts every block into the table, in place or copied.
struct Taker<'a> {
    table: &'a mut Table,
    ended: Vec<Block>,
    messages: usize,
}

impl Sink for Taker<'_> {
    type Error = WireError;

    fn begin_block(&mut self, block: Block) -> Result<bool, WireError> {
        Ok(self.table.0.contains_key(&block.piece))
    }

    fn write(&mut self, block: Block, offset: u32, bytes: &[u8]) {
        self.table.0.get_mut(&block.piece).unwrap().write((block.begin + offset) as usize, bytes);
    }

    fn placed(&self, block: Block, offset: u32, len: u32) -> &[u8] {
        self.table.0[&block.piece].read((block.begin + offset) as usize, len as usize)
    }

    fn end_block(&mut self, block: Block, accepted: bool) -> Result<(), WireError> {
        assert!(accepted);
        self.ended.push(block);
        Ok(())
    }

    fn message(&mut self, _: Message<'_>) -> Result<(), WireError> {
        self.messages += 1;
        Ok(())
    }
}

fn ring() -> SocketRing {
    SocketRing::new(Doorbell::new().unwrap()).unwrap()
}

fn next(ring: &mut SocketRing) -> Event {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(event) = ring.next_event() {
            return event;
        }
        assert!(Instant::now() < end, "no event");
        ring.wait(Duration::from_millis(100)).unwrap();
    }
}

fn pair(ring: &mut SocketRing) -> (SocketKey, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    theirs.set_read_timeout(Some(PATIENCE)).unwrap();
    let (ours, _) = listener.accept().unwrap();
    (ring.add(ours.into()), theirs)
}

fn blocks(piece: u32, count: u32) -> Vec<Block> {
    (0..count).map(|nth| Block { piece: PieceIndex(piece), begin: nth * BLOCK, len: BLOCK }).collect()
}

fn table(pieces: u32, blocks: u32) -> (Partition, Table) {
    let mut partition = Partition::new(8 << 20).unwrap();
    let mut live = |_| LivePiece::new(partition.alloc(blocks * BLOCK, 0).unwrap());
    let table = (0..pieces).map(|piece| (PieceIndex(piece), live(piece))).collect();
    (partition, Table(table))
}

#[test]
fn accepts_connects_and_says_who() {
    let mut ring = ring();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    assert_eq!(ring.listen(listener.into()), 0);
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let key = ring.connect(socket.into(), addr);
    let (mut connected, mut accepted) = (false, false);
    while !(connected && accepted) {
        match next(&mut ring) {
            Event::Connected(of, result) => {
                result.unwrap();
                connected = of == key;
            }
            Event::Accepted { listener: 0, socket } => {
                let (_fd, from) = socket.unwrap();
                accepted = from.ip().is_loopback();
            }
            other => panic!("{other:?}"),
        }
    }
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let refused = ring.connect(socket.into(), closed);
    assert!(matches!(next(&mut ring), Event::Connected(of, Err(_)) if of == refused));
}

#[test]
fn scatters_blocks_to_their_places_and_sends_from_slots() {
    let mut ring = ring();
    let (key, mut theirs) = pair(&mut ring);
    let (mut partition, mut table) = table(2, 4);
    let expected: Vec<Block> = blocks(0, 4).into_iter().chain(blocks(1, 4)).collect();
    let bytes: Vec<u8> = (0..8 * BLOCK).map(|at| (at / 7) as u8).collect();
    let mut stream = Vec::new();
    for (nth, block) in expected.iter().enumerate() {
        if nth == 5 {
            // Not predicted: what the receive has placed behind it must be repaired.
            Message::Have(PieceIndex(0)).encode(&mut stream);
        }
        stream.extend_from_slice(&piece_header(*block));
        stream.extend_from_slice(&bytes[nth * BLOCK as usize..(nth + 1) * BLOCK as usize]);
    }
    let writer = std::thread::spawn(move || {
        theirs.write_all(&stream).unwrap();
        theirs
    });
    let mut outstanding = expected.clone();
    let mut spill = Vec::new();
    let mut messages = 0;
    while !outstanding.is_empty() {
        ring.recv(key, outstanding.iter().copied(), &table, usize::MAX, false);
        assert!(ring.is_receiving(key));
        let Event::Received(of, Ok(n)) = next(&mut ring) else { panic!("no bytes") };
        assert!(of == key && n > 0);
        let mut taker = Taker { table: &mut table, ended: Vec::new(), messages: 0 };
        ring.receiver(key).commit(n, &mut spill, &mut taker).unwrap();
        messages += taker.messages;
        let ended = taker.ended;
        outstanding.retain(|block| !ended.contains(block));
    }
    assert_eq!(messages, 1);
    let mut slots = Vec::new();
    for piece in 0..2 {
        let live = table.0.remove(&PieceIndex(piece)).unwrap();
        assert_eq!(live.pins(), 0, "no receive is in flight");
        let buf = live.try_take().unwrap_or_else(|_| panic!("pinned"));
        let start = piece as usize * 4 * BLOCK as usize;
        assert!(buf.as_slice() == &bytes[start..start + 4 * BLOCK as usize], "piece {piece}");
        slots.push(Rc::new(buf));
    }
    let mut theirs = writer.join().unwrap();
    let batch = ring.batch(key);
    batch.bytes(b"head");
    batch.slot(&slots[1], 10, 100_000 - 40_000);
    batch.bytes(b"tail");
    ring.send(key);
    let reader = std::thread::spawn(move || {
        let mut got = vec![0; 4 + 60_000 + 4];
        theirs.read_exact(&mut got).unwrap();
        got
    });
    assert!(matches!(next(&mut ring), Event::Sent(of, Ok(60_008)) if of == key));
    let got = reader.join().unwrap();
    let from = 4 * BLOCK as usize + 10;
    assert!(
        got[..4] == *b"head" && got[60_004..] == *b"tail" && got[4..60_004] == bytes[from..from + 60_000]
    );
    ring.close(key);
    while !matches!(next(&mut ring), Event::Closed(of) if of == key) {}
    for slot in slots {
        partition.free(Rc::try_unwrap(slot).expect("a finished send holds no slot"));
    }
    assert_eq!(partition.used(), 0);
}

#[test]
fn a_piece_stays_pinned_until_its_receive_is_over() {
    let mut ring = ring();
    let (key, theirs) = pair(&mut ring);
    let (_partition, mut table) = table(1, 2);
    let expected = blocks(0, 2);
    ring.recv(key, expected.iter().copied(), &table, usize::MAX, false);
    ring.flush().unwrap();
    assert!(ring.may_write(key, expected[1]) && !ring.may_write(key, blocks(1, 1)[0]));
    let live = table.0.remove(&PieceIndex(0)).unwrap();
    let live = match live.try_take() {
        Err(live) => live,
        Ok(_) => panic!("taken under a receive"),
    };
    table.0.insert(PieceIndex(0), live);
    ring.cancel_recv(key);
    match next(&mut ring) {
        Event::Received(of, Err(error)) => assert!(of == key && was_cancelled(&error), "{error}"),
        other => panic!("{other:?}"),
    }
    assert!(!ring.may_write(key, expected[1]));
    assert_eq!(table.0[&PieceIndex(0)].pins(), 0);
    let mut taker = Taker { table: &mut table, ended: Vec::new(), messages: 0 };
    ring.receiver(key).commit(0, &mut Vec::new(), &mut taker).unwrap();
    drop(theirs);
}

#[test]
fn closing_gives_one_event_and_gone_sockets_are_harmless() {
    let mut ring = ring();
    let (key, mut theirs) = pair(&mut ring);
    ring.recv_plain(key);
    ring.flush().unwrap();
    ring.close(key);
    ring.close(key);
    assert!(matches!(next(&mut ring), Event::Closed(of) if of == key));
    assert!(ring.next_event().is_none());
    assert!(!ring.is_receiving(key) && !ring.may_write(key, blocks(0, 1)[0]));
    assert!(ring.is_empty());
    let mut rest = Vec::new();
    assert_eq!(theirs.read_to_end(&mut rest).unwrap(), 0, "the peer sees the end");
    let (again, _theirs) = pair(&mut ring);
    assert!(again.index() == key.index() && again != key, "the place is reused under another name");
}

#[test]
fn an_idle_socket_can_be_taken_out_and_a_busy_one_cannot() {
    let mut ring = ring();
    let (key, mut theirs) = pair(&mut ring);
    ring.recv_plain(key);
    assert!(ring.take(key).is_none());
    theirs.write_all(b"hello").unwrap();
    assert!(matches!(next(&mut ring), Event::Received(of, Ok(5)) if of == key));
    assert_eq!(ring.plain_bytes(key, 5), b"hello");
    let Some(Stream::Tcp(fd)) = ring.take(key) else { panic!("it is idle") };
    let mut ours = TcpStream::from(fd);
    ours.write_all(b"moved").unwrap();
    let mut got = [0; 5];
    theirs.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"moved");
}

#[test]
fn a_rung_bell_and_a_timeout_wake_a_parked_loop() {
    let bell = Doorbell::new().unwrap();
    let mut ring = SocketRing::new(bell.clone()).unwrap();
    ring.set_parked(true);
    ring.arm_timeout(Duration::from_millis(1));
    ring.flush().unwrap();
    let mut fds = [rustix::event::PollFd::from_borrowed_fd(bell.park_fd(), rustix::event::PollFlags::IN)];
    let timeout = rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 };
    assert_eq!(
        rustix::event::poll(&mut fds, Some(&timeout)).unwrap(),
        1,
        "the timeout writes the park eventfd"
    );
    ring.set_parked(false);
    bell.announce_sleep();
    bell.ring();
    assert!(matches!(next(&mut ring), Event::Bell));
    bell.drain();
    bell.announce_sleep();
    bell.ring();
    assert!(matches!(next(&mut ring), Event::Bell), "the poll is armed again");
}

/// The order of calls of a parking loop loses no wake-up, whatever completes in between.
#[test]
fn parking_again_and_again_loses_no_wake_up() {
    let bell = Doorbell::new().unwrap();
    let mut ring = SocketRing::new(bell.clone()).unwrap();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let ringer = std::thread::spawn({
        let (bell, stop) = (bell.clone(), stop.clone());
        move || {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                bell.ring();
                std::thread::sleep(Duration::from_micros(20));
            }
        }
    });
    for round in 0..20_000 {
        while ring.next_event().is_some() {
            bell.drain();
        }
        bell.announce_sleep();
        if round % 3 == 0 {
            ring.wait(Duration::from_micros(50)).unwrap();
        }
        bell.announce_park();
        ring.arm_timeout(Duration::from_millis(1));
        ring.set_parked(true);
        ring.flush().unwrap();
        if !ring.has_events() {
            let mut fds =
                [rustix::event::PollFd::from_borrowed_fd(bell.park_fd(), rustix::event::PollFlags::IN)];
            let timeout = rustix::event::Timespec { tv_sec: 5, tv_nsec: 0 };
            let n = rustix::event::poll(&mut fds, Some(&timeout)).unwrap();
            assert_eq!(n, 1, "round {round}: nothing woke us");
            let mut count = [0; 8];
            rustix::io::read(bell.park_fd(), &mut count).unwrap();
        }
        ring.set_parked(false);
        ring.flush().unwrap();
        bell.awake();
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    ringer.join().unwrap();
}

#[test]
fn an_idle_connection_holds_little_memory_and_a_busy_one_much() {
    let mut ring = ring();
    let (key, mut theirs) = pair(&mut ring);
    let (_partition, mut table) = table(1, 1);
    // Receives `stream`, of which nothing or the first block is expected; bytes of scratch while that is in flight.
    let mut receive = |stream: &[u8], expected: &[Block]| {
        theirs.write_all(stream).unwrap();
        ring.recv(key, expected.iter().copied(), &table, usize::MAX, false);
        let scratch = ring.socket(key).recv.scratch_len();
        let Event::Received(_, result) = next(&mut ring) else { panic!("no receive") };
        let mut taker = Taker { table: &mut table, ended: Vec::new(), messages: 0 };
        ring.receiver(key).commit(result.unwrap(), &mut Vec::new(), &mut taker).unwrap();
        scratch
    };
    let keep_alive = [0; 4];
    assert_eq!(receive(&keep_alive, &[]), IDLE_SCRATCH_LEN);
    assert_eq!(receive(&[0; 300], &[]), IDLE_SCRATCH_LEN);
    assert_eq!(receive(&[], &[]), SCRATCH_LEN, "the last one was too small");
    let large: Vec<usize> = (0..6).map(|_| receive(&keep_alive, &[])).collect();
    let (many, few) = (SCRATCH_LEN, IDLE_SCRATCH_LEN);
    assert_eq!(large, [many, many, many, few, few, few]);
    assert_eq!(receive(&keep_alive, &blocks(0, 1)), SCRATCH_LEN, "a block is expected");
}

#[test]
fn a_watch_ends_when_there_is_something_and_a_receive_at_once_does_not_wait() {
    let mut ring = ring();
    let (key, mut peer) = pair(&mut ring);
    let mut table = Table(HashMap::new());
    // Each plan has its commit.
    let commit = |ring: &mut SocketRing, table: &mut Table, n| {
        let mut taker = Taker { table, ended: Vec::new(), messages: 0 };
        ring.receiver(key).commit(n, &mut Vec::new(), &mut taker).unwrap();
    };
    ring.recv(key, std::iter::empty(), &table, usize::MAX, true);
    match next(&mut ring) {
        Event::Received(_, Err(error)) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        other => panic!("{other:?}"),
    }
    commit(&mut ring, &mut table, 0);
    assert!(!ring.has_bytes(key));
    ring.watch(key);
    assert!(ring.is_reading(key) && !ring.is_receiving(key));
    ring.wait(Duration::from_millis(20)).unwrap();
    assert!(ring.next_event().is_none(), "nothing has come");
    peer.write_all(&[0; 9]).unwrap();
    assert!(matches!(next(&mut ring), Event::Readable(readable) if readable == key));
    assert!(ring.has_bytes(key) && !ring.is_reading(key));
    // No more than asked, and the rest is known to be there.
    ring.recv(key, std::iter::empty(), &table, 4, true);
    assert!(matches!(next(&mut ring), Event::Received(_, Ok(4))));
    commit(&mut ring, &mut table, 4);
    assert!(ring.has_bytes(key));
    ring.watch(key);
    assert!(matches!(next(&mut ring), Event::Readable(_)));
    ring.recv(key, std::iter::empty(), &table, 5, true);
    assert!(matches!(next(&mut ring), Event::Received(_, Ok(5))));
    ring.watch(key);
    ring.close(key);
    assert!(
        matches!(next(&mut ring), Event::Closed(closed) if closed == key),
        "a watch does not keep a socket"
    );
}

#[test]
fn an_earlier_timeout_moves_the_one_in_flight() {
    let mut ring = ring();
    ring.arm_timeout(Duration::from_secs(3600));
    ring.flush().unwrap();
    ring.arm_timeout(Duration::from_millis(5));
    let end = Instant::now() + PATIENCE;
    while ring.timeout_at.is_some() {
        assert!(Instant::now() < end, "it still ends in an hour");
        ring.wait(Duration::from_millis(50)).unwrap();
        while ring.next_event().is_some() {}
    }
}

/// What kernels before 5.19 have: rings without flags, an accept for each connection, receives that do not wait first.
#[test]
fn without_its_optional_features_a_ring_does_the_same_with_more_operations() {
    let mut ring = SocketRing::with(Features::NONE, Doorbell::new().unwrap()).unwrap();
    assert!(!ring.set_zero_copy(ZeroCopySend::On, 1 << 20), "there is none");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    ring.listen(listener.into());
    ring.flush().unwrap();
    let mut clients = Vec::new();
    for nth in 0..3 {
        let before = ring.counts().submissions;
        clients.push(TcpStream::connect(addr).unwrap());
        let Event::Accepted { socket: Ok((fd, _)), .. } = next(&mut ring) else { panic!("no connection") };
        assert_eq!(ring.counts().submissions, before + 1, "connection {nth} has the next accept armed");
        let key = ring.add(fd);
        ring.recv_plain(key);
        ring.flush().unwrap();
        clients[nth].write_all(b"hello").unwrap();
        assert!(matches!(next(&mut ring), Event::Received(of, Ok(5)) if of == key));
        ring.batch(key).bytes(b"good day");
        ring.send(key);
        assert!(matches!(next(&mut ring), Event::Sent(of, Ok(8)) if of == key));
        let mut answer = [0; 8];
        clients[nth].read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"good day");
    }
}

/// Encrypted batches are copies that no ceiling counts.
#[test]
fn encrypted_sends_that_nobody_takes_become_short() {
    const MIB: usize = 1 << 20;
    let mut ring = ring();
    let mut partition = Partition::new(4 << 20).unwrap();
    let mut buf = partition.alloc(MIB as u32, 0).unwrap();
    buf.set_len(MIB as u32);
    let slot = Rc::new(buf);
    let ciphers = || Some(Box::new(Ciphers { incoming: Rc4::new(b"in"), outgoing: Rc4::new(b"out") }));
    let all: Vec<(SocketKey, TcpStream)> = (0..4).map(|_| pair(&mut ring)).collect();
    let (plain, _theirs) = pair(&mut ring);
    all.iter().for_each(|(key, _)| ring.set_ciphers(*key, ciphers()));
    for (nth, (key, _)) in all[..3].iter().enumerate() {
        assert_eq!(ring.batch_room(all[3].0, MIB), MIB, "after {nth} of 8 MiB");
        (0..8).for_each(|_| ring.batch(*key).slot(&slot, 0, MIB));
        ring.send(*key);
        ring.flush().unwrap();
    }
    assert_eq!(ring.batch_room(all[3].0, MIB), 64 << 10, "24 MiB wait");
    assert_eq!(ring.batch_room(all[3].0, 1000), 1000);
    assert_eq!(ring.batch_room(plain, MIB), MIB, "plain ones are no copies");
    // One peer takes its bytes, the connection of another one ends.
    let (done, gone) = (all[0].0, all[1].0);
    let mut reader = all[0].1.try_clone().unwrap();
    let taken = std::thread::spawn(move || reader.read_exact(&mut vec![0; 8 * MIB]).unwrap());
    ring.close(gone);
    let (mut is_done, mut is_gone) = (false, false);
    while !(is_done && is_gone) {
        match next(&mut ring) {
            Event::Sent(key, Ok(len)) => is_done |= key == done && len == 8 * MIB,
            Event::Closed(key) => is_gone |= key == gone,
            other => panic!("{other:?}"),
        }
    }
    taken.join().unwrap();
    assert_eq!(ring.batch_room(all[3].0, MIB), MIB, "their memory is free");
}
