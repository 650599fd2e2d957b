//! What must hold for a uTP connection whatever its peer sends. Run by the fuzz target and over the corpus by tests.
//!
//! The first byte says who dials. Then come operations: a byte that says which, and what it needs. Packets get the right
//! connection id and numbers near the right ones, so that they are taken in.

use ccbt_protocol::utp::{Admission, Config, Connection, HEADER_LEN, Packet, Seq, Transmit};

const CONFIG: Config = Config { receive_window: 30_000, datagram_floor: 548, datagram_max: 1472 };
const ROOM: usize = 10_000;

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn word(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes([self.byte()?, self.byte()?]))
    }
}

struct Peer {
    conn: Connection,
    now: u64,
    unread: usize,
    closed: bool,
    theirs: Seq,
    ours: Seq,
    out: Transmit,
}

/// Panics when an invariant breaks.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let Some(first) = input.byte() else { return };
    // Others' selective acks have any length, ours are words.
    if let Ok(packet) = Packet::decode(input.0)
        && packet.selective_ack.is_none_or(|bits| bits.len().is_multiple_of(4))
    {
        let mut again = Vec::new();
        packet.encode_head(&mut again);
        again.extend_from_slice(packet.payload);
        assert_eq!(Packet::decode(&again), Ok(packet));
    }
    let _ = Admission::default().admit(5, ([127, 0, 0, 1], 5).into(), input.0);
    let mut syn = vec![0x41, 0, 0, 40];
    syn.resize(HEADER_LEN, 0);
    let conn = if first.is_multiple_of(2) {
        Connection::dial(CONFIG, 41, 0xfff0)
    } else {
        Connection::accept(9, CONFIG, &Packet::decode(&syn).expect("a SYN"), 0xfff0).expect("a SYN")
    };
    let (theirs, ours, out) = (Seq(1), Seq(0xfff0), Transmit::default());
    let mut peer = Peer { conn, now: 9, unread: 0, closed: false, theirs, ours, out };
    peer.pump();
    while peer.act(&mut input).is_some() {
        peer.pump();
        assert!(peer.unread + peer.conn.early_bytes() <= CONFIG.receive_window);
        assert!(peer.conn.early_bytes() <= ROOM);
    }
    peer.end();
}

impl Peer {
    fn act(&mut self, input: &mut Input<'_>) -> Option<()> {
        match input.byte()? {
            0..=9 => {
                let (kind, near, acked) = (input.byte()? % 5, input.byte()? as i8, input.byte()? as i8);
                let (window, flags, payload) = (input.word()?, input.byte()?, input.word()? % 1500);
                let mut bytes = vec![kind << 4 | 1, flags & 1, 0, 41];
                bytes.extend_from_slice(&[3; 8]);
                bytes.extend_from_slice(&(u32::from(window) * 16).to_be_bytes());
                bytes.extend_from_slice(&self.theirs.plus(near as u16).0.to_be_bytes());
                bytes.extend_from_slice(&self.ours.plus(acked as u16).0.to_be_bytes());
                if flags & 1 == 1 {
                    bytes.extend_from_slice(&[0, 4, flags, input.byte()?, input.byte()?, flags]);
                }
                bytes.resize(bytes.len() + usize::from(payload), 7);
                self.give(&bytes);
            }
            10 => {
                let (now, _) = input.0.split_at(input.0.len().min(60));
                self.give(now);
            }
            11 if !self.closed && self.conn.written() - self.conn.acked() < 1 << 20 => {
                self.conn.write(usize::from(input.word()?));
            }
            12 => self.conn.consumed(std::mem::take(&mut self.unread)),
            13 => self.pass(u64::from(input.word()?) * 100),
            14 if self.conn.poll_transmit(self.now, &mut self.out) => self.conn.unsent(&self.out),
            15 if self.conn.poll_transmit(self.now, &mut self.out) => {
                self.conn.too_large(self.now, &self.out);
            }
            16 => {
                self.closed = true;
                self.conn.close();
            }
            17 => self.conn.abort(),
            _ => {}
        }
        Some(())
    }

    fn give(&mut self, bytes: &[u8]) {
        let (unread, theirs) = (&mut self.unread, &mut self.theirs);
        let room = ROOM.saturating_sub(self.conn.early_bytes());
        self.conn.handle(self.now, bytes, room, &mut |bytes| {
            *unread += bytes.len();
            *theirs = theirs.plus(1);
        });
    }

    fn pass(&mut self, time: u64) {
        self.now += time;
        if self.conn.deadline().is_some_and(|at| at <= self.now) {
            self.conn.handle_timeout(self.now);
        }
    }

    fn pump(&mut self) {
        for calls in 0.. {
            if !self.conn.poll_transmit(self.now, &mut self.out) {
                return;
            }
            assert!(calls < 5000, "it sends without end");
            let last = self.out.packets.last().expect("a call has packets");
            let head = &self.out.heads[self.out.heads.len() - last.head..];
            let packet = Packet::decode(head).expect("our own");
            if packet.kind as u8 <= 1 {
                self.ours = packet.seq;
            }
            for packet in &self.out.packets {
                assert!(packet.payload.end <= self.conn.written());
                assert!(packet.payload.is_empty() || packet.payload.start >= self.conn.acked());
            }
        }
    }

    /// The peer is silent from now on: what waits for it is given up.
    fn end(&mut self) {
        for _ in 0..200 {
            let Some(at) = self.conn.deadline() else { return };
            self.now = self.now.max(at);
            self.conn.handle_timeout(self.now);
            self.pump();
        }
        assert!(self.conn.failure().is_some() || self.conn.written() == self.conn.acked(), "{:?}", self.conn);
    }
}
