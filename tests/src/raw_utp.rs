//! One connection over uTP (BEP 29), spoken by hand: just enough to greet, ask and be answered on loopback.
//!
//! Owner: the test. Invariant: what arrives in order is acknowledged; nothing is sent twice, as loopback loses nothing that
//! fits its buffers. Dropped means reset.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use crate::SOON;
use crate::raw_peer::id;

const DATA: u8 = 0;
const FIN: u8 = 1;
const STATE: u8 = 2;
const RESET: u8 = 3;
const SYN: u8 = 4;
/// Bytes of a header without extensions.
const HEADER: usize = 20;
/// Bytes that may be sent to us.
const WINDOW: u32 = 1 << 20;

/// A connection to the client under test.
pub struct RawUtp {
    socket: UdpSocket,
    /// What the other side calls it.
    send_id: u16,
    seq: u16,
    ack: u16,
    received: Vec<u8>,
    closed: bool,
}

impl RawUtp {
    /// Connects to `peer`. Panics when nobody answers.
    pub fn connect(from: Ipv4Addr, peer: SocketAddr) -> Self {
        let socket = UdpSocket::bind((from, 0)).expect("a free port");
        socket.connect(peer).expect("loopback");
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a socket has a read timeout");
        let recv_id = socket.local_addr().expect("bound").port() & 0x7fff;
        let mut this =
            Self { socket, send_id: recv_id + 1, seq: 1, ack: 0, received: Vec::new(), closed: false };
        this.packet(SYN, recv_id, &[]);
        this.seq = 2;
        let until = Instant::now() + SOON;
        while this.ack == 0 && !this.closed {
            assert!(Instant::now() < until, "nobody answers a SYN");
            this.take_one();
        }
        this
    }

    fn packet(&self, kind: u8, connection: u16, payload: &[u8]) {
        let mut bytes = vec![kind << 4 | 1, 0];
        bytes.extend(connection.to_be_bytes());
        bytes.extend([0; 8]);
        bytes.extend(WINDOW.to_be_bytes());
        bytes.extend(self.seq.to_be_bytes());
        bytes.extend(self.ack.to_be_bytes());
        bytes.extend(payload);
        // A port that is closed by now is looked for by what is received.
        let _ = self.socket.send(&bytes);
    }

    /// Sends bytes as one packet.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.packet(DATA, self.send_id, bytes);
        self.seq = self.seq.wrapping_add(1);
    }

    /// Takes one packet in, if one comes soon.
    fn take_one(&mut self) {
        let mut bytes = [0; 65_536];
        let Ok(len) = self.socket.recv(&mut bytes) else { return };
        let bytes = &bytes[..len];
        if len < HEADER {
            return;
        }
        let (kind, seq) = (bytes[0] >> 4, u16::from_be_bytes([bytes[16], bytes[17]]));
        let (mut extension, mut at) = (bytes[1], HEADER);
        while extension != 0 {
            extension = bytes[at];
            at += 2 + usize::from(bytes[at + 1]);
        }
        match kind {
            // The first one answers the SYN; data begins with its number.
            STATE if self.ack == 0 => self.ack = seq.wrapping_sub(1),
            DATA | FIN if seq == self.ack.wrapping_add(1) => {
                self.ack = seq;
                self.received.extend(&bytes[at..]);
                self.closed |= kind == FIN;
                self.packet(STATE, self.send_id, &[]);
            }
            DATA | FIN => self.packet(STATE, self.send_id, &[]),
            RESET => self.closed = true,
            _ => {}
        }
    }

    /// The next `len` bytes; `None` when the connection ends instead.
    pub fn read(&mut self, len: usize) -> Option<Vec<u8>> {
        let until = Instant::now() + SOON;
        while self.received.len() < len {
            if self.closed {
                return None;
            }
            assert!(Instant::now() < until, "no {len} bytes within {SOON:?}");
            self.take_one();
        }
        Some(self.received.drain(..len).collect())
    }

    /// Declares interest and waits to be unchoked; false when the connection ends instead.
    pub fn become_unchoked(&mut self) -> bool {
        self.send_bytes(&[0, 0, 0, 1, id::INTERESTED]);
        self.wait_message(id::UNCHOKE).is_some()
    }

    /// Fetches a range of a piece as a leecher that is unchoked; `None` when the connection ends instead.
    pub fn fetch(&mut self, piece: u32, begin: u32, len: u32) -> Option<Vec<u8>> {
        let words = [13, u32::from(id::REQUEST) << 24].map(u32::to_be_bytes).concat();
        let range = [piece, begin, len].map(u32::to_be_bytes).concat();
        self.send_bytes(&[&words[..5], &range].concat());
        self.wait_message(id::PIECE).map(|block| block[8..].to_vec())
    }

    /// The payload of the next message with this id, others passed over; `None` when the connection ends instead.
    fn wait_message(&mut self, id: u8) -> Option<Vec<u8>> {
        loop {
            let len = self.read(4)?;
            let len = u32::from_be_bytes(len.try_into().expect("4 bytes"));
            let message = self.read(len as usize)?;
            if message.first() == Some(&id) {
                return Some(message[1..].to_vec());
            }
        }
    }
}

impl Drop for RawUtp {
    fn drop(&mut self) {
        self.packet(RESET, self.send_id, &[]);
    }
}
