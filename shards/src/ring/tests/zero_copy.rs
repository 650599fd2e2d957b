//! Sends without a copy over real sockets: bytes, memory, ends and refusals.
//!
//! Loopback copies at the receiving side as soon as a packet is delivered, so memory stays in the kernel's hands only
//! for what the peer's window keeps back: peers here have small receive buffers and read late.

use ccbt_storage::arena::PieceBuf;

use super::*;

/// Fits into a send buffer of the smallest usual `wmem_max`, and not into the peer's receive buffer.
const LEN: usize = 128 * 1024;

/// A connection with room for [`LEN`] to send and little to receive.
fn narrow_pair(ring: &mut SocketRing) -> (SocketKey, TcpStream) {
    use socket2::{Domain, Socket, Type};
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let theirs = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    theirs.set_recv_buffer_size(16 * 1024).unwrap();
    theirs.connect(&listener.local_addr().unwrap().into()).unwrap();
    theirs.set_read_timeout(Some(PATIENCE)).unwrap();
    let (ours, _) = listener.accept().unwrap();
    socket2::SockRef::from(&ours).set_send_buffer_size(4 * LEN).unwrap();
    (ring.add(ours.into()), theirs.into())
}

struct Rig {
    ring: SocketRing,
    slot: Rc<PieceBuf>,
    _partition: Partition,
}

impl Rig {
    fn new(mode: ZeroCopySend, held_max: usize) -> Self {
        let mut ring = ring();
        assert!(ring.set_zero_copy(mode, held_max), "these tests need Linux 6.2");
        let mut partition = Partition::new(1 << 20).unwrap();
        let mut buf = partition.alloc(LEN as u32, 0).unwrap();
        buf.as_mut_slice().iter_mut().enumerate().for_each(|(at, byte)| *byte = (at / 5 + at / 4096) as u8);
        Self { ring, slot: Rc::new(buf), _partition: partition }
    }

    fn send(&mut self, key: SocketKey) {
        let batch = self.ring.batch(key);
        batch.bytes(b"head");
        batch.slot(&self.slot, 0, LEN);
        batch.bytes(b"tail");
        self.ring.send(key);
    }

    fn sent(&mut self, key: SocketKey) {
        match next(&mut self.ring) {
            Event::Sent(of, Ok(n)) => assert!(of == key && n == LEN + 8, "{n}"),
            other => panic!("{other:?}"),
        }
    }

    fn is_held(&self) -> bool {
        Rc::strong_count(&self.slot) > 1
    }

    /// Gives the kernel every chance to let go, which it must not.
    fn assert_stays_held(&mut self) {
        for _ in 0..10 {
            self.ring.wait(Duration::from_millis(5)).unwrap();
            assert!(self.ring.next_event().is_none(), "it let go of bytes that the peer has not got");
            assert!(self.is_held());
        }
    }

    fn is_right(&self, got: &[u8]) -> bool {
        got.len() == LEN + 8
            && got[..4] == *b"head"
            && got[4..LEN + 4] == *self.slot.as_slice()
            && got[LEN + 4..] == *b"tail"
    }

    fn read(&self, theirs: &mut TcpStream) {
        let mut got = vec![0; LEN + 8];
        theirs.read_exact(&mut got).unwrap();
        assert!(self.is_right(&got));
    }
}

#[test]
fn memory_is_held_until_the_peer_has_the_bytes() {
    let mut rig = Rig::new(ZeroCopySend::On, 4 * LEN);
    let (key, mut theirs) = narrow_pair(&mut rig.ring);
    for round in 1..=3 {
        rig.send(key);
        rig.sent(key);
        rig.assert_stays_held();
        assert!(rig.ring.take(key).is_none(), "a socket whose bytes are held stays");
        rig.read(&mut theirs);
        assert!(matches!(next(&mut rig.ring), Event::Released));
        assert!(!rig.is_held() && rig.ring.zero_copy.is_idle());
        assert!(rig.ring.zero_copy.sends == round && rig.ring.zero_copy.copied == round, "loopback copies");
    }
}

#[test]
fn a_next_batch_is_sent_while_the_last_is_held_and_a_limit_is_kept() {
    let mut rig = Rig::new(ZeroCopySend::On, LEN + 100);
    let (key, mut theirs) = narrow_pair(&mut rig.ring);
    rig.send(key);
    rig.sent(key);
    assert!(rig.is_held());
    rig.send(key);
    rig.sent(key);
    assert_eq!(rig.ring.zero_copy.sends, 1, "the second would exceed what may be held: a plain send");
    assert_eq!(Rc::strong_count(&rig.slot), 2, "a plain send holds nothing when it is done");
    rig.read(&mut theirs);
    rig.read(&mut theirs);
    assert!(matches!(next(&mut rig.ring), Event::Released));
    rig.send(key);
    rig.sent(key);
    assert_eq!(rig.ring.zero_copy.sends, 2, "there is room again");
}

#[test]
fn a_send_in_parts_is_whole() {
    let mut rig = Rig::new(ZeroCopySend::On, 64 * LEN);
    // More than any send buffer takes at once.
    let (key, mut theirs) = pair(&mut rig.ring);
    let parts = 60;
    let batch = rig.ring.batch(key);
    for _ in 0..parts {
        batch.bytes(b"head");
        batch.slot(&rig.slot, 0, LEN);
        batch.bytes(b"tail");
    }
    rig.ring.send(key);
    rig.ring.flush().unwrap();
    let reader = std::thread::spawn(move || {
        let mut got = vec![0; parts * (LEN + 8)];
        theirs.read_exact(&mut got).unwrap();
        got
    });
    match next(&mut rig.ring) {
        Event::Sent(of, Ok(n)) => assert!(of == key && n == parts * (LEN + 8)),
        other => panic!("{other:?}"),
    }
    assert!(matches!(next(&mut rig.ring), Event::Released));
    assert!(!rig.is_held());
    assert!(reader.join().unwrap().chunks(LEN + 8).all(|got| rig.is_right(got)));
}

#[test]
fn a_closed_connection_delivers_what_was_sent_and_holds_it_so_long() {
    let mut rig = Rig::new(ZeroCopySend::On, 4 * LEN);
    let (key, mut theirs) = narrow_pair(&mut rig.ring);
    rig.send(key);
    rig.sent(key);
    rig.ring.close(key);
    assert!(matches!(next(&mut rig.ring), Event::Closed(of) if of == key));
    assert!(rig.ring.is_empty());
    rig.assert_stays_held();
    let mut got = Vec::new();
    theirs.read_to_end(&mut got).unwrap();
    assert!(rig.is_right(&got));
    assert!(matches!(next(&mut rig.ring), Event::Released));
    assert!(!rig.is_held());
}

#[test]
fn a_connection_closed_under_a_send_is_reset_when_its_peer_takes_nothing() {
    let mut rig = Rig::new(ZeroCopySend::On, 64 * LEN);
    let (key, theirs) = narrow_pair(&mut rig.ring);
    let batch = rig.ring.batch(key);
    (0..40).for_each(|_| batch.slot(&rig.slot, 0, LEN));
    rig.ring.send(key);
    rig.ring.flush().unwrap();
    assert!(rig.ring.sending(key), "more than the socket takes");
    rig.ring.close(key);
    assert!(matches!(next(&mut rig.ring), Event::Closed(of) if of == key));
    rig.assert_stays_held();
    rig.ring.reset_late();
    rig.assert_stays_held();
    rig.ring.reset_late();
    assert!(matches!(next(&mut rig.ring), Event::Released));
    assert!(!rig.is_held() && rig.ring.zero_copy.is_idle());
    drop(theirs);
}

#[test]
fn the_end_of_the_ring_waits_for_the_kernel_and_ends_though_a_peer_takes_nothing() {
    let mut rig = Rig::new(ZeroCopySend::On, 4 * LEN);
    let (key, _theirs) = narrow_pair(&mut rig.ring);
    rig.send(key);
    rig.sent(key);
    assert!(rig.is_held());
    let Rig { ring, slot, .. } = rig;
    drop(ring);
    assert_eq!(Rc::strong_count(&slot), 1, "held by nobody, leaked by nobody");
}

#[test]
fn a_refused_send_goes_out_with_a_copy_and_so_do_those_after_it() {
    for errno in [libc::ENOMEM, libc::ENOBUFS, libc::EOPNOTSUPP, libc::EINVAL] {
        let mut rig = Rig::new(ZeroCopySend::On, 4 * LEN);
        let (key, mut theirs) = pair(&mut rig.ring);
        rig.ring.zero_copy.fault = Some(errno);
        for _ in 0..2 {
            rig.send(key);
            loop {
                match next(&mut rig.ring) {
                    Event::Sent(of, Ok(n)) if of == key && n == LEN + 8 => break,
                    Event::Released => {}
                    other => panic!("{other:?}"),
                }
            }
            rig.read(&mut theirs);
            assert!(!rig.is_held(), "{errno}");
        }
        assert_eq!(rig.ring.zero_copy.sends, 1, "tried once");
        let (other, mut theirs) = pair(&mut rig.ring);
        while rig.ring.next_event().is_some() {}
        rig.send(other);
        rig.sent(other);
        rig.read(&mut theirs);
        assert_eq!(rig.ring.zero_copy.sends, 2, "another connection may try");
    }
}

#[test]
fn a_broken_connection_is_an_error_and_no_refusal() {
    let mut rig = Rig::new(ZeroCopySend::On, 64 * LEN);
    let (key, theirs) = narrow_pair(&mut rig.ring);
    let batch = rig.ring.batch(key);
    (0..40).for_each(|_| batch.slot(&rig.slot, 0, LEN));
    rig.ring.send(key);
    rig.ring.flush().unwrap();
    drop(theirs);
    let mut broken = false;
    while !broken {
        match next(&mut rig.ring) {
            Event::Sent(of, result) => {
                assert!(of == key && result.is_err());
                broken = true;
            }
            Event::Released => {}
            other => panic!("{other:?}"),
        }
    }
    rig.ring.close(key);
    while !rig.ring.is_empty() || rig.is_held() {
        next(&mut rig.ring);
    }
}

#[test]
fn loopback_is_left_alone_unless_it_is_wanted_and_messages_always() {
    let mut rig = Rig::new(ZeroCopySend::Auto, 4 * LEN);
    let (key, mut theirs) = pair(&mut rig.ring);
    rig.send(key);
    rig.sent(key);
    rig.read(&mut theirs);
    assert_eq!(rig.ring.zero_copy.sends, 0);
    let mut rig = Rig::new(ZeroCopySend::On, 4 * LEN);
    let (key, mut theirs) = pair(&mut rig.ring);
    rig.ring.batch(key).bytes(&[7; 100]);
    rig.ring.send(key);
    assert!(matches!(next(&mut rig.ring), Event::Sent(of, Ok(100)) if of == key));
    theirs.read_exact(&mut [0; 100]).unwrap();
    assert_eq!(rig.ring.zero_copy.sends, 0, "no payload");
}

/// What the kernel itself says when too much memory is locked; needs nothing but a limit that is finite.
#[test]
fn a_full_limit_of_locked_memory_costs_a_copy_and_nothing_else() {
    // Rights belong to a thread: others keep theirs.
    std::thread::spawn(|| {
        drop_ipc_lock();
        let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
        let Some(limit) = limit.filter(|limit| *limit <= 64 << 20) else { return };
        let count = limit as usize / LEN / 20 + 2;
        let mut rig = Rig::new(ZeroCopySend::On, usize::MAX / 2);
        let mut all = Vec::new();
        // Nobody reads, so all of it stays locked.
        for _ in 0..count {
            let (key, theirs) = narrow_pair(&mut rig.ring);
            let batch = rig.ring.batch(key);
            (0..20).for_each(|_| batch.slot(&rig.slot, 0, LEN));
            rig.ring.send(key);
            rig.ring.flush().unwrap();
            all.push((key, theirs));
        }
        while rig.ring.next_event().is_some() {}
        let tried = rig.ring.zero_copy.sends;
        assert_eq!(tried, count as u64);
        let refused = |ring: &mut SocketRing, key| {
            ring.socket(key).send.zero_copy == crate::zero_copy::ZeroCopyConn::GaveUp
        };
        let keys: Vec<SocketKey> = all.iter().map(|(key, _)| *key).collect();
        assert!(
            keys.iter().any(|key| refused(&mut rig.ring, *key)),
            "the limit of {limit} bytes was not felt"
        );
        let readers: Vec<_> = all
            .into_iter()
            .map(|(_, mut theirs)| {
                std::thread::spawn(move || {
                    let mut got = vec![0; 20 * LEN];
                    theirs.read_exact(&mut got).unwrap();
                    got
                })
            })
            .collect();
        let mut sent = 0;
        while sent < count || rig.is_held() {
            match next(&mut rig.ring) {
                Event::Sent(_, Ok(n)) if n == 20 * LEN => sent += 1,
                Event::Released => {}
                other => panic!("{other:?}"),
            }
        }
        for reader in readers {
            let got = reader.join().unwrap();
            assert!(got.chunks(LEN).all(|got| *got == *rig.slot.as_slice()));
        }
    })
    .join()
    .unwrap();
}

/// Takes `CAP_IPC_LOCK`, which lifts the limit, from this thread.
fn drop_ipc_lock() {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    const IPC_LOCK: u32 = 14;
    let header = Header { version: VERSION_3, pid: 0 };
    let mut data = [0_u32; 6];
    // SAFETY: a valid header and room for the two sets of three words that this version has.
    let rc = unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) };
    assert_eq!(rc, 0, "capget");
    data[0] &= !(1 << IPC_LOCK);
    // SAFETY: as above; only this thread's effective set shrinks.
    let rc = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    assert_eq!(rc, 0, "capset");
}
