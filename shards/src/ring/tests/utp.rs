//! uTP connections on the ring, over real loopback sockets: the same promises as for TCP.

use std::net::{SocketAddr, UdpSocket};

use ccbt_protocol::utp::{Connection, Packet};

use super::*;
use crate::ring::utp::io::{config, connected};
use crate::ring::utp::{DetachedUtp, Seat, UtpEnds, UtpSocket, micros};

/// The next event that `wanted` takes, of any of the rings.
fn until<T>(rings: &mut [&mut SocketRing], mut wanted: impl FnMut(Event) -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        for ring in rings.iter_mut() {
            ring.run_utp_timers(Instant::now());
            ring.wait(Duration::from_millis(1)).unwrap();
            while let Some(event) = ring.next_event() {
                if let Some(found) = wanted(event) {
                    return found;
                }
            }
        }
        assert!(Instant::now() < end, "no event");
    }
}

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// Dials from `dialler` and accepts on `acceptor`.
fn utp_pair(dialler: &mut SocketRing, acceptor: Option<&mut SocketRing>) -> (SocketKey, SocketKey) {
    let door = UdpSocket::bind(loopback()).unwrap();
    door.set_read_timeout(Some(PATIENCE)).unwrap();
    let ours = UtpEnds::default().dial(door.local_addr().unwrap()).unwrap();
    let dialled = dialler.connect_utp(ours, (7, 65_530));
    dialler.flush().unwrap();
    let mut syn = [0; 100];
    let (len, from) = door.recv_from(&mut syn).unwrap();
    let local = door.local_addr().unwrap();
    drop(door);
    let fd = connected(local, from).unwrap();
    let syn = Packet::decode(&syn[..len]).unwrap();
    let conn = Connection::accept(micros(Instant::now()), config(&fd), &syn, 65_534).unwrap();
    let socket = UtpSocket { fd, seat: Seat::default() };
    let parts = DetachedUtp { socket, conn, unread: Default::default() };
    let is_connected = |event| matches!(event, Event::Connected(of, Ok(())) if of == dialled).then_some(());
    let accepted = match acceptor {
        Some(acceptor) => {
            let accepted = acceptor.add_utp(parts);
            until(&mut [dialler, acceptor], is_connected);
            accepted
        }
        None => {
            let accepted = dialler.add_utp(parts);
            until(&mut [dialler], is_connected);
            accepted
        }
    };
    (dialled, accepted)
}

#[test]
fn blocks_pass_from_slots_to_their_places() {
    let mut ring = ring();
    let (from, to) = utp_pair(&mut ring, None);
    let (mut partition, mut table) = table(2, 32);
    let mut slot = partition.alloc(32 * BLOCK, 0).unwrap();
    let bytes: Vec<u8> = (0..32 * BLOCK).map(|at| (at / 7) as u8).collect();
    slot.as_mut_slice().copy_from_slice(&bytes);
    let slot = Rc::new(slot);
    let expected: Vec<Block> = blocks(0, 32).into_iter().chain(blocks(1, 32)).collect();
    let (mut left, mut unsent) = (expected.clone(), expected.clone().into_iter());
    let (mut spill, mut sending) = (Vec::new(), false);
    let mut in_place = 0;
    while !left.is_empty() {
        if !sending && unsent.len() > 0 {
            // A plain message between blocks is not predicted: what follows is repaired.
            if unsent.len() == 32 {
                let mut have = Vec::new();
                Message::Have(PieceIndex(0)).encode(&mut have);
                ring.batch(from).bytes(&have);
            }
            for block in unsent.by_ref().take(16) {
                ring.batch(from).bytes(&piece_header(block));
                ring.batch(from).slot(&slot, block.begin as usize, block.len as usize);
            }
            ring.send(from);
            sending = true;
        }
        if !ring.is_receiving(to) {
            ring.recv(to, left.iter().copied(), &table, usize::MAX, false);
        }
        match until(&mut [&mut ring], |event| {
            matches!(event, Event::Sent(..) | Event::Received(..)).then_some(event)
        }) {
            Event::Sent(of, result) => {
                assert!(of == from && result.unwrap() >= 16 * (BLOCK as usize + 13));
                sending = false;
            }
            Event::Received(of, result) => {
                assert!(of == to);
                let mut taker = Taker { table: &mut table, ended: Vec::new(), messages: 0 };
                ring.receiver(to).commit(result.unwrap(), &mut spill, &mut taker).unwrap();
                let ended = taker.ended;
                left.retain(|block| !ended.contains(block));
                in_place = ring.receiver(to).counters().in_place;
            }
            _ => unreachable!(),
        }
    }
    assert!(in_place > 24 * u64::from(BLOCK), "{in_place} bytes went straight to their place");
    for piece in 0..2 {
        let live = table.0.remove(&PieceIndex(piece)).unwrap();
        let buf = live.try_take().unwrap_or_else(|_| panic!("pinned"));
        assert!(buf.as_slice() == &bytes[..], "piece {piece}");
        partition.free(buf);
    }
    // What is acknowledged is let go of.
    until(&mut [&mut ring], |_| (Rc::strong_count(&slot) == 1).then_some(()));
}

#[test]
fn a_closed_connection_delivers_what_was_sent_and_then_ends() {
    let (mut one, mut two) = (ring(), ring());
    let (from, to) = utp_pair(&mut one, Some(&mut two));
    let bytes: Vec<u8> = (0..200_000).map(|at| (at / 3) as u8).collect();
    one.batch(from).bytes(&bytes);
    one.send(from);
    one.close(from);
    assert!(matches!(one.next_event(), Some(Event::Closed(of)) if of == from));
    let mut got = Vec::new();
    loop {
        two.recv_plain(to);
        let n = until(&mut [&mut one, &mut two], |event| match event {
            Event::Received(of, result) => Some((of == to).then(|| result.unwrap()).unwrap()),
            _ => None,
        });
        if n == 0 {
            break;
        }
        got.extend_from_slice(two.plain_bytes(to, n));
    }
    assert!(got == bytes, "{} bytes", got.len());
    two.close(to);
    let end = Instant::now() + PATIENCE;
    while !(one.utp_is_empty() && two.utp_is_empty()) {
        until_quiet(&mut one);
        until_quiet(&mut two);
        assert!(Instant::now() < end, "they linger");
    }
}

fn until_quiet(ring: &mut SocketRing) {
    ring.run_utp_timers(Instant::now());
    ring.wait(Duration::from_millis(1)).unwrap();
    while ring.next_event().is_some() {}
}

#[test]
fn a_connection_moves_to_another_ring_with_what_it_has_not_received() {
    let (mut one, mut two, mut three) = (ring(), ring(), ring());
    let (from, to) = utp_pair(&mut one, Some(&mut two));
    two.recv_plain(to);
    assert!(two.take(to).is_none(), "a receive is in flight");
    one.batch(from).bytes(&[b'x'; 1000]);
    one.send(from);
    let is_there = |event| matches!(event, Event::Received(of, Ok(256)) if of == to).then_some(());
    until(&mut [&mut one, &mut two], is_there);
    let stream = two.take(to).unwrap();
    assert!(two.is_empty() && two.utp_is_empty());
    let there = three.adopt(stream);
    let mut left = 744;
    while left > 0 {
        three.recv_plain(there);
        left -= until(&mut [&mut one, &mut three], |event| match event {
            Event::Received(of, result) if of == there => Some(result.unwrap()),
            _ => None,
        });
    }
    three.batch(there).bytes(b"back");
    three.send(there);
    one.recv_plain(from);
    let is_back = |event| matches!(event, Event::Received(of, Ok(4)) if of == from).then_some(());
    until(&mut [&mut one, &mut three], is_back);
    assert_eq!(one.plain_bytes(from, 4), b"back");
}

#[test]
fn receives_end_at_once_or_when_there_is_something_or_are_cancelled() {
    let (mut one, mut two) = (ring(), ring());
    let (from, to) = utp_pair(&mut one, Some(&mut two));
    let mut table = Table(HashMap::new());
    let received = |event| match event {
        Event::Received(_, result) => Some(result),
        _ => None,
    };
    two.recv(to, std::iter::empty(), &table, usize::MAX, true);
    let result = until(&mut [&mut two], received);
    assert_eq!(result.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    let mut commit = |ring: &mut SocketRing, n| {
        let mut taker = Taker { table: &mut table, ended: Vec::new(), messages: 0 };
        ring.receiver(to).commit(n, &mut Vec::new(), &mut taker).unwrap();
        taker.messages
    };
    commit(&mut two, 0);
    let nothing = Table(HashMap::new());
    two.recv(to, std::iter::empty(), &nothing, usize::MAX, false);
    two.cancel_recv(to);
    assert!(was_cancelled(&until(&mut [&mut two], received).unwrap_err()));
    commit(&mut two, 0);
    two.watch(to);
    assert!(!two.has_bytes(to));
    one.batch(from).bytes(&[0, 0, 0, 0, 0, 0, 0, 0]);
    one.send(from);
    until(&mut [&mut one, &mut two], |event| matches!(event, Event::Readable(of) if of == to).then_some(()));
    assert!(two.has_bytes(to));
    two.recv(to, std::iter::empty(), &nothing, 4, true);
    assert_eq!(until(&mut [&mut two], received).unwrap(), 4, "no more than it may");
    assert_eq!(commit(&mut two, 4), 1);
    assert!(two.has_bytes(to));
}

#[test]
fn nobody_there_is_told_at_once() {
    let mut ring = ring();
    let closed = UdpSocket::bind(loopback()).unwrap().local_addr().unwrap();
    let key = ring.connect_utp(UtpEnds::default().dial(closed).unwrap(), (1, 2));
    let started = Instant::now();
    until(&mut [&mut ring], |event| matches!(event, Event::Connected(of, Err(_)) if of == key).then_some(()));
    assert!(started.elapsed() < PATIENCE);
    ring.close(key);
    assert!(matches!(ring.next_event(), Some(Event::Closed(of)) if of == key));
}
