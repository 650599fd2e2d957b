//! Datagrams of connected UDP sockets, many in one call: UDP_SEGMENT out, UDP_GRO in.
//!
//! Plain non-blocking calls and not operations on the ring: they end at once, so that one buffer serves all connections of
//! a shard and stays in the cache, and no memory belongs to the kernel in between. One call moves up to 64 KiB.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use ccbt_protocol::utp::{Config, Transmit};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::Outgoing;
use crate::binding::{Binding, Door, socket_to};

/// One GRO batch at most.
const BUFFER_LEN: usize = 65_536;
/// Messages of one receive call at most.
const BATCH: usize = 16;
/// Longer messages come in batches already: one for a call, so that the next goes into the same part of the cache.
const LARGE: usize = 8 << 10;
/// What a datagram is given at most, IP's and UDP's headers included: clients receive into buffers of this size.
const MTU_MAX: usize = 1500;
/// Bytes that a connection receives ahead of the shard, if the system lets its socket have twice as much.
const WINDOW_MAX: usize = 1 << 20;
const WINDOW_MIN: usize = 96 << 10;

/// What became of a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is out, or lost like any datagram.
    Gone,
    /// The socket takes nothing now.
    Full,
    /// Larger than the interface's MTU.
    TooLarge,
    /// The other host says that nobody listens there (an earlier datagram of ours came back).
    Unreachable,
}

/// The buffers of a shard.
pub(super) struct Datagrams {
    /// [`BATCH`] buffers of [`BUFFER_LEN`]; empty until the first datagram.
    buffer: Vec<u8>,
    controls: [Control; BATCH],
    /// The last call brought a long message.
    large: bool,
    iovecs: Vec<libc::iovec>,
    /// The kernel segments for us.
    segments: bool,
}

/// Control message of one `u16` (out) or `int` (in), aligned as a `cmsghdr`.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; 32]);

impl Datagrams {
    pub fn new() -> Self {
        let controls = [Control([0; 32]); BATCH];
        Self { buffer: Vec::new(), controls, large: false, iovecs: Vec::new(), segments: true }
    }

    /// Sends all packets of `out` from `fd`.
    pub fn send(&mut self, fd: RawFd, out: &Transmit, bytes: &Outgoing) -> Outcome {
        if out.may_fragment {
            set_fragmenting(fd, true);
        }
        let outcome = self.send_batch(fd, out, bytes);
        if out.may_fragment {
            set_fragmenting(fd, false);
        }
        outcome
    }

    fn send_batch(&mut self, fd: RawFd, out: &Transmit, bytes: &Outgoing) -> Outcome {
        let mut cursor = bytes.cursor();
        let many = out.packets.len() > 1;
        let (mut head, mut outcome) = (0, Outcome::Gone);
        self.iovecs.clear();
        for packet in &out.packets {
            let iovecs = &mut self.iovecs;
            let mut add = |part: &[u8]| {
                iovecs.push(libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() });
            };
            add(&out.heads[head..head + packet.head]);
            head += packet.head;
            cursor.read(&packet.payload, &mut add);
            if !(many && self.segments) {
                outcome = self.call(fd, None);
                self.iovecs.clear();
                if outcome != Outcome::Gone {
                    return outcome;
                }
            }
        }
        if many && self.segments {
            outcome = self.call(fd, Some(out.segment_len() as u16));
            if outcome == Outcome::TooLarge {
                // So it says for any reason for which it cannot segment as well: one by one tells which it is.
                self.segments = false;
                outcome = self.send_batch(fd, out, bytes);
                self.segments = outcome == Outcome::TooLarge;
            }
        }
        outcome
    }

    /// One `sendmsg` of `self.iovecs`.
    fn call(&mut self, fd: RawFd, segment: Option<u16>) -> Outcome {
        let mut control = Control([0; 32]);
        // SAFETY: all-zero is a valid msghdr.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = self.iovecs.as_mut_ptr();
        header.msg_iovlen = self.iovecs.len();
        if let Some(segment) = segment {
            header.msg_control = control.0.as_mut_ptr().cast();
            // SAFETY: a pure computation.
            header.msg_controllen = unsafe { libc::CMSG_SPACE(2) } as usize;
            // SAFETY: `control` is aligned as a cmsghdr and has room for one with two bytes of data.
            unsafe {
                let message = libc::CMSG_FIRSTHDR(&raw const header);
                (*message).cmsg_level = libc::SOL_UDP;
                (*message).cmsg_type = libc::UDP_SEGMENT;
                (*message).cmsg_len = libc::CMSG_LEN(2) as usize;
                libc::CMSG_DATA(message).cast::<u16>().write_unaligned(segment);
            }
        }
        for _ in 0..2 {
            // SAFETY: the iovecs lead into `Transmit::heads` and batches that the caller borrows; the kernel only reads
            // them, and only during the call.
            let sent =
                unsafe { libc::sendmsg(fd, &raw const header, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
            if sent >= 0 {
                return Outcome::Gone;
            }
            match io::Error::last_os_error().raw_os_error() {
                // What an earlier datagram has met is told once; this one was not sent.
                Some(libc::ECONNREFUSED) => return Outcome::Unreachable,
                Some(libc::EINTR) => {}
                Some(libc::EAGAIN | libc::ENOBUFS) => return Outcome::Full,
                Some(libc::EMSGSIZE) => return Outcome::TooLarge,
                Some(libc::EINVAL | libc::EIO) if segment.is_some() => return Outcome::TooLarge,
                _ => return Outcome::Gone,
            }
        }
        Outcome::Gone
    }

    /// Gives the next datagrams of `fd` to `take`: some, one after the other, and the length of each but the last. Whether
    /// there may be more.
    pub fn receive(&mut self, fd: RawFd, take: &mut impl FnMut(&[u8], usize)) -> io::Result<bool> {
        if self.buffer.is_empty() {
            self.buffer = vec![0; BATCH * BUFFER_LEN];
        }
        let wanted = if self.large { 1 } else { BATCH };
        let buffers = self.buffer.as_mut_ptr();
        let mut iovecs: [libc::iovec; BATCH] = std::array::from_fn(|at| libc::iovec {
            iov_base: buffers.wrapping_add(at * BUFFER_LEN).cast(),
            iov_len: BUFFER_LEN,
        });
        // SAFETY: all-zero is a valid mmsghdr.
        let mut messages: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
        for (at, message) in messages.iter_mut().enumerate() {
            message.msg_hdr.msg_iov = &raw mut iovecs[at];
            message.msg_hdr.msg_iovlen = 1;
            message.msg_hdr.msg_control = self.controls[at].0.as_mut_ptr().cast();
            message.msg_hdr.msg_controllen = size_of::<Control>();
        }
        let (pointer, flags) = (messages.as_mut_ptr(), libc::MSG_DONTWAIT);
        // SAFETY: buffers and controls are ours, do not overlap and outlive the call; their lengths are right.
        let got = unsafe { libc::recvmmsg(fd, pointer, wanted as u32, flags, std::ptr::null_mut()) };
        if got < 0 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR) => Ok(false),
                _ => Err(error),
            };
        }
        let got = got as usize;
        self.large = false;
        for (at, message) in messages[..got].iter().enumerate() {
            let len = message.msg_len as usize;
            self.large |= len > LARGE;
            // SAFETY: the kernel has filled header and control.
            let segment = unsafe { gro_segment(&message.msg_hdr) };
            if len > 0 {
                take(&self.buffer[at * BUFFER_LEN..][..len], segment.unwrap_or(len));
            }
        }
        Ok(got == wanted)
    }
}

/// The length of the datagrams that the kernel has put together.
///
/// # Safety
/// `header` was filled by a receive call, and its control buffer is still there.
unsafe fn gro_segment(header: &libc::msghdr) -> Option<usize> {
    // SAFETY: the caller's promise; CMSG_* stay within the length that the kernel has set.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while !message.is_null() {
            if (*message).cmsg_level == libc::SOL_UDP && (*message).cmsg_type == libc::UDP_GRO {
                let len = libc::CMSG_DATA(message).cast::<libc::c_int>().read_unaligned();
                return usize::try_from(len).ok().filter(|len| *len > 0);
            }
            message = libc::CMSG_NXTHDR(header, message);
        }
    }
    None
}

/// A UDP socket at `port` (0: one of its own) that talks to `peer` only; the kernel gives it that peer's datagrams, whoever
/// else is bound to the same address (with SO_REUSEPORT, as all of them must be).
pub fn connected(bind: Option<&Binding>, port: u16, peer: SocketAddr) -> io::Result<OwnedFd> {
    let share = |socket: &Socket| match port {
        0 => Ok(()),
        _ => socket.set_reuse_address(true).and_then(|()| socket.set_reuse_port(true)),
    };
    let socket = socket_to(bind, (Type::DGRAM, Protocol::UDP), peer, port, share)?;
    connect(socket, peer)
}

/// As [`connected`], from a door.
pub fn connected_at(door: &Door, peer: SocketAddr) -> io::Result<OwnedFd> {
    let kind = Type::DGRAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(peer), kind, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    door.bind(&socket)?;
    connect(socket, peer)
}

fn connect(socket: Socket, peer: SocketAddr) -> io::Result<OwnedFd> {
    socket.connect(&peer.into())?;
    let fd = OwnedFd::from(socket);
    let socket = SockRef::from(&fd);
    // Smaller where the system allows no more; what we announce follows from it.
    let _ = socket.set_recv_buffer_size(2 * WINDOW_MAX);
    let _ = socket.set_send_buffer_size(2 * WINDOW_MAX);
    // Without it datagrams come one by one (before Linux 5.0).
    let _ = set_option(fd.as_raw_fd(), libc::SOL_UDP, libc::UDP_GRO, 1);
    set_fragmenting(fd.as_raw_fd(), false);
    Ok(fd)
}

/// What the connection over `fd` is made with.
pub fn config(fd: &OwnedFd) -> Config {
    let socket = SockRef::from(fd);
    let is_v6 = socket.local_addr().ok().and_then(|addr| addr.as_socket()).is_some_and(|addr| addr.is_ipv6());
    let (level, option, headers, floor) = if is_v6 {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU, 48, 1280 - 48)
    } else {
        (libc::IPPROTO_IP, libc::IP_MTU, 28, 576 - 28)
    };
    let mtu = option_of(fd.as_fd().as_raw_fd(), level, option).unwrap_or(MTU_MAX).min(MTU_MAX);
    // Of a socket's buffer the kernel counts its own overhead, which is as much again for full packets.
    let room = socket.recv_buffer_size().unwrap_or(0) / 2;
    Config {
        receive_window: room.clamp(WINDOW_MIN, WINDOW_MAX),
        datagram_floor: floor,
        datagram_max: mtu.saturating_sub(headers),
    }
}

/// Whether datagrams may be cut into fragments on their way. Otherwise they carry DF, whatever the kernel believes of the
/// path.
fn set_fragmenting(fd: RawFd, may: bool) {
    let is_v6 = SockRef::from(&BorrowedRaw(fd)).domain().is_ok_and(|domain| domain == Domain::IPV6);
    let (level, option) = if is_v6 {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER)
    } else {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER)
    };
    // IPV6_PMTUDISC_* have the same values.
    let value = if may { libc::IP_PMTUDISC_DONT } else { libc::IP_PMTUDISC_PROBE };
    let _ = set_option(fd, level, option, value);
}

/// Datagrams that no connected socket claims all go to the first socket of `socket`'s address and SO_REUSEPORT, not to any
/// of them by a hash. Before that socket is bound.
pub fn prefer_first(socket: &Socket) -> io::Result<()> {
    // "Return 0": the number of a socket in the group.
    let mut code = [libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 }];
    let program = libc::sock_fprog { len: 1, filter: code.as_mut_ptr() };
    let len = size_of::<libc::sock_fprog>() as libc::socklen_t;
    let option = libc::SO_ATTACH_REUSEPORT_CBPF;
    let pointer = (&raw const program).cast();
    // SAFETY: the program and its one instruction live during the call, which copies them.
    match unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, pointer, len) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

struct BorrowedRaw(RawFd);

impl AsFd for BorrowedRaw {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        // SAFETY: made by `set_fragmenting` only, whose callers keep the descriptor open during the call.
        unsafe { std::os::fd::BorrowedFd::borrow_raw(self.0) }
    }
}

fn set_option(fd: RawFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: `value` is an int that lives during the call.
    match unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), len) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn option_of(fd: RawFd, level: libc::c_int, option: libc::c_int) -> Option<usize> {
    let (mut value, mut len): (libc::c_int, _) = (0, size_of::<libc::c_int>() as libc::socklen_t);
    // SAFETY: `value` has room for the int that these options have.
    let result = unsafe { libc::getsockopt(fd, level, option, (&raw mut value).cast(), &raw mut len) };
    usize::try_from(value).ok().filter(|_| result == 0)
}
