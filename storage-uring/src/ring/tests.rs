use super::*;
use crate::arena::Partition;

#[test]
fn probes_and_explains() {
    assert_eq!(probe(), Ok(()));
    let of = |errno| ProbeError::from(io::Error::from_raw_os_error(errno)).to_string();
    assert!(of(libc::EPERM).contains("kernel.io_uring_disabled"));
    assert!(of(libc::ENOSYS).contains("seccomp"));
    assert!(of(libc::ENOMEM).contains("ulimit -l"));
    assert!(of(libc::EMFILE).contains("os error 24"));
}

#[test]
fn moves_bytes_both_ways_and_holds_what_the_kernel_uses() {
    let bell = Doorbell::new().unwrap();
    let mut ring = DiskRing::new(bell).unwrap();
    let mut part = Partition::new(1 << 20).unwrap();
    let fd = Rc::new(OwnedFd::from(tempfile::tempfile().unwrap()));
    let mut buf = part.alloc(8192, 100).unwrap();
    for (at, byte) in buf.as_mut_slice().iter_mut().enumerate() {
        *byte = at as u8;
    }
    let key = ring.hold(buf);
    let halves = [Range { buf: key, at: 4096, len: 4096 }, Range { buf: key, at: 0, len: 4096 }];
    ring.transfer((Direction::Write, Mode::Plain), &fd, 10, halves.into_iter(), 7);
    ring.turn(true);
    assert_eq!(ring.next_done(), Some(Done { token: 7, result: Ok(8192) }));
    ring.zero(Range { buf: key, at: 0, len: 8192 });
    assert_eq!(ring.transfer_now(Direction::Read, &fd, 10, halves.into_iter()), Ok(8192));
    ring.transfer((Direction::Read, Mode::Plain), &fd, 8192 + 10, halves.into_iter(), 8);
    ring.sync(&fd, true, 9);
    let mut seen = Vec::new();
    while seen.len() < 2 {
        ring.turn(true);
        seen.extend(std::iter::from_fn(|| ring.next_done()));
    }
    seen.sort_by_key(|done| done.token);
    assert_eq!(
        seen.iter().map(|done| done.result).collect::<Vec<_>>(),
        [Ok(0), Ok(0)],
        "the end of the file"
    );
    let buf = ring.release(key);
    assert!(buf.as_slice().iter().enumerate().all(|(at, byte)| *byte == at as u8));
    part.free(buf);
}

#[test]
#[should_panic(expected = "in flight")]
fn a_buffer_in_flight_cannot_be_taken() {
    let mut ring = DiskRing::new(Doorbell::new().unwrap()).unwrap();
    let mut part = Partition::new(1 << 16).unwrap();
    let fd = Rc::new(OwnedFd::from(tempfile::tempfile().unwrap()));
    let key = ring.hold(part.alloc(4096, 0).unwrap());
    ring.transfer(
        (Direction::Write, Mode::Plain),
        &fd,
        0,
        [Range { buf: key, at: 0, len: 4096 }].into_iter(),
        0,
    );
    ring.release(key);
}

#[test]
fn the_bell_wakes_a_sleeper_every_time() {
    let bell = Doorbell::new().unwrap();
    let mut ring = DiskRing::new(Arc::clone(&bell)).unwrap();
    let (sender, receiver) = crossbeam_channel::bounded::<u32>(1);
    let pusher = std::thread::spawn({
        let bell = Arc::clone(&bell);
        move || {
            for n in 0..2000 {
                sender.send(n).unwrap();
                bell.ring();
            }
        }
    });
    for n in 0..2000 {
        loop {
            if let Ok(got) = receiver.try_recv() {
                assert_eq!(got, n);
                break;
            }
            bell.announce_sleep();
            let sleep = receiver.is_empty();
            ring.turn(sleep);
            bell.awake();
        }
    }
    pusher.join().unwrap();
}
