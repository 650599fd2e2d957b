//! One peer connection spoken by hand over a blocking socket (BEP 3): what a test needs to misbehave in detail.
//!
//! Owner: the test, or [`crate::raw_seeder`]. Nothing here checks what it sends. What it receives is parsed just far
//! enough to tell messages apart; a broken frame from the client under test panics, as that is a finding.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::SOON;
use crate::process::POLL;

/// Message ids of BEP 3 and BEP 10.
pub mod id {
    /// No payload.
    pub const CHOKE: u8 = 0;
    /// No payload.
    pub const UNCHOKE: u8 = 1;
    /// No payload.
    pub const INTERESTED: u8 = 2;
    /// No payload.
    pub const NOT_INTERESTED: u8 = 3;
    /// A piece index.
    pub const HAVE: u8 = 4;
    /// A bit per piece, spare bits zero.
    pub const BITFIELD: u8 = 5;
    /// Piece, offset, length.
    pub const REQUEST: u8 = 6;
    /// Piece, offset, data.
    pub const PIECE: u8 = 7;
    /// Piece, offset, length.
    pub const CANCEL: u8 = 8;
    /// UDP port of a DHT node (BEP 5).
    pub const PORT: u8 = 9;
    /// No payload (BEP 6).
    pub const HAVE_ALL: u8 = 14;
    /// Piece, offset, length (BEP 6).
    pub const REJECT: u8 = 16;
    /// A bencoded dictionary after one byte (BEP 10).
    pub const EXTENDED: u8 = 20;
}

/// Longest frame accepted from the client under test: a bitfield or a block, with room.
const FRAME_MAX: usize = 1 << 20;

/// A message other than a keep-alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// See [`id`].
    pub id: u8,
    /// Everything after the id.
    pub payload: Vec<u8>,
}

impl Message {
    /// The `index`-th big-endian 32-bit word of the payload, if it is that long.
    pub fn word(&self, index: usize) -> Option<u32> {
        self.payload
            .get(4 * index..4 * index + 4)
            .map(|word| u32::from_be_bytes(word.try_into().expect("4 bytes")))
    }
}

/// A connection to the client under test.
pub struct RawPeer {
    stream: TcpStream,
}

impl RawPeer {
    /// Wraps a connected socket. Reads give up, as a failed test, after [`SOON`].
    pub fn new(stream: TcpStream) -> Self {
        stream.set_nonblocking(false).expect("a socket can block");
        stream.set_read_timeout(Some(SOON)).expect("a socket has a read timeout");
        stream.set_write_timeout(Some(SOON)).expect("a socket has a write timeout");
        stream.set_nodelay(true).expect("a TCP socket has no-delay");
        Self { stream }
    }

    /// Connects to `peer`.
    pub fn connect(peer: SocketAddr) -> Self {
        Self::try_connect_from(Ipv4Addr::LOCALHOST, peer)
            .unwrap_or_else(|error| panic!("cannot reach {peer}: {error}"))
    }

    /// Connects from a loopback address of one's own, so that address bans can be told apart.
    pub fn try_connect_from(from: Ipv4Addr, peer: SocketAddr) -> std::io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((from, 0)).into())?;
        socket.connect(&peer.into())?;
        Ok(Self::new(socket.into()))
    }

    /// Takes the next connection.
    ///
    /// Panics when nobody connects in time.
    pub fn accept(listener: &TcpListener) -> Self {
        listener.set_nonblocking(true).expect("a listener can be non-blocking");
        let until = Instant::now() + SOON;
        loop {
            match listener.accept() {
                Ok((stream, _)) => return Self::new(stream),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    assert!(Instant::now() < until, "nobody connected within {SOON:?}");
                    std::thread::sleep(POLL);
                }
                Err(error) => panic!("cannot accept: {error}"),
            }
        }
    }

    /// The other side's address.
    pub fn ip(&self) -> Option<IpAddr> {
        self.stream.peer_addr().ok().map(|address| address.ip())
    }

    /// A second handle on the same socket, for shutting it down from outside.
    pub fn socket(&self) -> std::io::Result<TcpStream> {
        self.stream.try_clone()
    }

    /// Sends our handshake without any extension bits.
    pub fn send_handshake(&mut self, info_hash: [u8; 20]) {
        self.send_handshake_with(info_hash, [0; 8]);
    }

    /// As [`Self::send_handshake`], with these bits.
    pub fn send_handshake_with(&mut self, info_hash: [u8; 20], reserved: [u8; 8]) {
        // Different for every socket of this machine: the kernel gives one port number to several addresses.
        let (ip, port) = match self.stream.local_addr() {
            Ok(SocketAddr::V4(address)) => (address.ip().octets(), address.port()),
            _ => ([0; 4], 0),
        };
        let peer_id = format!("-RW0001-{:03}{:03}{port:06}", ip[2], ip[3]);
        let peer_id = peer_id.as_bytes().try_into().expect("8, 6 and 6 bytes");
        self.send_bytes(&handshake_bytes(info_hash, reserved, peer_id));
    }

    /// Reads the other side's handshake; `None` when the connection closes instead.
    pub fn read_handshake(&mut self) -> Option<[u8; 68]> {
        let mut bytes = [0; 68];
        self.read_exactly(&mut bytes).then_some(bytes)
    }

    /// Handshakes in both directions as the side that dials, or answers; either order works for us.
    ///
    /// Panics when the other side does not complete it or names another torrent.
    pub fn handshake(&mut self, info_hash: [u8; 20]) {
        self.send_handshake(info_hash);
        let theirs = self.read_handshake().expect("the client answers a good handshake");
        assert_eq!(theirs[..20], *b"\x13BitTorrent protocol", "the client speaks BitTorrent");
        assert_eq!(theirs[28..48], info_hash, "the client names the same torrent");
    }

    /// Fetches a range of a piece as a leecher that is unchoked; `None` once the connection is closed.
    pub fn fetch(&mut self, piece: u32, begin: u32, len: u32) -> Option<Vec<u8>> {
        self.send_words(id::REQUEST, &[piece, begin, len], &[]);
        loop {
            let block = self.wait_message(id::PIECE)?;
            if (block.word(0), block.word(1)) == (Some(piece), Some(begin)) {
                return Some(block.payload[8..].to_vec());
            }
        }
    }

    /// Declares interest and waits to be unchoked; false once the connection is closed.
    pub fn become_unchoked(&mut self) -> bool {
        self.send(id::INTERESTED, &[]);
        self.wait_message(id::UNCHOKE).is_some()
    }

    /// Whether bytes wait to be read, or the end of the stream does.
    pub fn has_data(&self) -> bool {
        self.stream.set_nonblocking(true).expect("a socket can be non-blocking");
        let peeked = self.stream.peek(&mut [0]);
        self.stream.set_nonblocking(false).expect("a socket can block");
        !matches!(peeked, Err(error) if error.kind() == ErrorKind::WouldBlock)
    }

    /// Sends bytes as they are. A connection that the other side has closed is not an error: tests look for the close.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> bool {
        match self.stream.write_all(bytes) {
            Ok(()) => true,
            Err(error) if is_close(error.kind()) => false,
            Err(error) => panic!("cannot send: {error}"),
        }
    }

    /// Sends one message; false once the connection is closed.
    pub fn send(&mut self, id: u8, payload: &[u8]) -> bool {
        let len = u32::try_from(payload.len() + 1).expect("a message is short");
        let mut frame = len.to_be_bytes().to_vec();
        frame.push(id);
        frame.extend_from_slice(payload);
        self.send_bytes(&frame)
    }

    /// Sends a message made of 32-bit words and a tail: HAVE, REQUEST, PIECE.
    pub fn send_words(&mut self, id: u8, words: &[u32], tail: &[u8]) -> bool {
        let mut payload: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        payload.extend_from_slice(tail);
        self.send(id, &payload)
    }

    /// The next message, keep-alives passed over; `None` once the connection is closed.
    pub fn recv(&mut self) -> Option<Message> {
        loop {
            let mut len = [0; 4];
            if !self.read_exactly(&mut len) {
                return None;
            }
            let len = usize::try_from(u32::from_be_bytes(len)).expect("u32 fits");
            assert!(len <= FRAME_MAX, "the client under test sent a frame of {len} bytes");
            let mut frame = vec![0; len];
            if !self.read_exactly(&mut frame) {
                return None;
            }
            if let Some((&id, payload)) = frame.split_first() {
                return Some(Message { id, payload: payload.to_vec() });
            }
        }
    }

    /// The next message with this id, others passed over; `None` once the connection is closed.
    pub fn wait_message(&mut self, id: u8) -> Option<Message> {
        let until = Instant::now() + SOON;
        loop {
            let message = self.recv()?;
            if message.id == id {
                return Some(message);
            }
            assert!(Instant::now() < until, "no message {id} within {SOON:?}");
        }
    }

    /// Waits until the other side closes, whatever it says before.
    ///
    /// Panics when the connection is still open at the deadline.
    pub fn wait_closed(&mut self, deadline: Duration) {
        let until = Instant::now() + deadline;
        let mut waste = [0; 4096];
        loop {
            let left = until.saturating_duration_since(Instant::now()).max(POLL);
            self.stream.set_read_timeout(Some(left)).expect("a socket has a read timeout");
            match self.stream.read(&mut waste) {
                Ok(0) => return,
                Ok(_) => assert!(Instant::now() < until, "the connection is still open after {deadline:?}"),
                Err(error) if is_close(error.kind()) => return,
                Err(error) => panic!("the connection is still open after {deadline:?}: {error}"),
            }
        }
    }

    fn read_exactly(&mut self, into: &mut [u8]) -> bool {
        match self.stream.read_exact(into) {
            Ok(()) => true,
            Err(error) if is_close(error.kind()) => false,
            Err(error) => panic!("nothing received within {SOON:?}: {error}"),
        }
    }
}

/// A handshake (BEP 3) with any reserved bits and peer id.
pub fn handshake_bytes(info_hash: [u8; 20], reserved: [u8; 8], peer_id: [u8; 20]) -> Vec<u8> {
    let mut bytes = b"\x13BitTorrent protocol".to_vec();
    bytes.extend_from_slice(&reserved);
    bytes.extend_from_slice(&info_hash);
    bytes.extend_from_slice(&peer_id);
    bytes
}

/// The bitfield of somebody who has every one of `pieces` pieces (spare bits zero).
pub fn full_bitfield(pieces: usize) -> Vec<u8> {
    let mut bits = vec![0xff; pieces.div_ceil(8)];
    if let (Some(last), spare @ 1..) = (bits.last_mut(), bits_spare(pieces)) {
        *last <<= spare;
    }
    bits
}

/// Unused bits in the last byte of a bitfield for `pieces` pieces.
fn bits_spare(pieces: usize) -> usize {
    (8 - pieces % 8) % 8
}

fn is_close(kind: ErrorKind) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
    matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof)
}
