//! A peer that sends anything: nothing panics, bounds hold, and timers come to an end.

use super::*;

#[derive(Clone, Debug)]
enum Op {
    /// A packet: type, how far ids, number and acknowledgement are from what would be right, window, bits, payload.
    Packet {
        kind: u8,
        id: u16,
        seq: i32,
        ack: i32,
        window: u32,
        bits: Vec<u8>,
        payload: usize,
    },
    /// Any bytes.
    Bytes(Vec<u8>),
    Write(usize),
    Consume,
    Pass(Micros),
    Unsent,
    TooLarge,
    Close,
    Abort,
}

fn op() -> impl Strategy<Value = Op> {
    let near = prop_oneof![6 => -3..40i32, 1 => any::<i32>()];
    let kind = prop_oneof![6 => Just(0u8), 2 => Just(2), 1 => 0u8..6];
    let window = prop_oneof![Just(0u32), 0u32..3000, any::<u32>()];
    let bits = prop::collection::vec(any::<u8>(), 0..3).prop_map(|words| words.repeat(4));
    // Most acknowledge nothing that was not sent: others are ignored as a whole.
    let ack = prop_oneof![4 => -3..=0i32, 1 => near.clone()];
    let packet = (kind, 0u16..20, near, ack, window, bits, 0usize..1500).prop_map(
        |(kind, id, seq, ack, window, bits, payload)| Op::Packet {
            kind,
            id,
            seq,
            ack,
            window,
            bits,
            payload,
        },
    );
    prop_oneof![
        12 => packet,
        1 => prop::collection::vec(any::<u8>(), 0..60).prop_map(Op::Bytes),
        3 => (0usize..200_000).prop_map(Op::Write),
        2 => Just(Op::Consume),
        3 => (0u64..2_000_000).prop_map(Op::Pass),
        1 => Just(Op::Unsent),
        1 => Just(Op::TooLarge),
        1 => Just(Op::Close),
        1 => (0u8..30).prop_map(|n| if n == 0 { Op::Abort } else { Op::Pass(n.into()) }),
    ]
}

const SMALL: Config = Config { receive_window: 20_000, datagram_floor: 548, datagram_max: 1472 };
const ROOM: usize = 9_000;

struct Victim {
    conn: Connection,
    now: Micros,
    unread: usize,
    closed: bool,
    out: Transmit,
    /// What would be right: their next number, and our last.
    right: (Seq, Seq),
}

impl Victim {
    fn act(&mut self, op: Op) {
        match op {
            Op::Packet { kind, id, seq, ack, window, bits, payload } => {
                let id = if id == 0 { 7777 } else { 501 - u16::from(id == 1) };
                let mut bytes = vec![kind << 4 | 1, u8::from(!bits.is_empty())];
                bytes.extend_from_slice(&id.to_be_bytes());
                bytes.extend_from_slice(&[9; 8]);
                bytes.extend_from_slice(&window.to_be_bytes());
                bytes.extend_from_slice(&self.right.0.plus(seq as u16).0.to_be_bytes());
                bytes.extend_from_slice(&self.right.1.plus(ack as u16).0.to_be_bytes());
                if !bits.is_empty() {
                    bytes.extend_from_slice(&[0, bits.len() as u8]);
                    bytes.extend_from_slice(&bits);
                }
                bytes.resize(bytes.len() + payload, 5);
                self.give(&bytes);
            }
            Op::Bytes(bytes) => self.give(&bytes),
            Op::Write(bytes) if !self.closed && self.conn.written() - self.conn.acked() < 1 << 20 => {
                self.conn.write(bytes);
            }
            Op::Write(_) => {}
            Op::Consume => self.conn.consumed(std::mem::take(&mut self.unread)),
            Op::Pass(time) => {
                self.now += time;
                if self.conn.deadline().is_some_and(|at| at <= self.now) {
                    self.conn.handle_timeout(self.now);
                }
            }
            Op::Unsent if self.conn.poll_transmit(self.now, &mut self.out) => self.conn.unsent(&self.out),
            Op::TooLarge if self.conn.poll_transmit(self.now, &mut self.out) => {
                self.conn.too_large(self.now, &self.out);
            }
            Op::Unsent | Op::TooLarge => {}
            Op::Close => {
                self.closed = true;
                self.conn.close();
            }
            Op::Abort => self.conn.abort(),
        }
        self.pump();
        self.conn.check();
    }

    fn give(&mut self, bytes: &[u8]) {
        let (unread, right) = (&mut self.unread, &mut self.right.0);
        let room = ROOM.saturating_sub(self.conn.early_bytes());
        self.conn.handle(self.now, bytes, room, &mut |bytes| {
            *unread += bytes.len();
            *right = right.plus(1);
        });
        assert!(self.unread + self.conn.early_bytes() <= SMALL.receive_window);
        assert!(self.conn.early_bytes() <= ROOM);
    }

    /// Sends all; the packets of a call are bounded by the window.
    fn pump(&mut self) {
        for calls in 0.. {
            if !self.conn.poll_transmit(self.now, &mut self.out) {
                return;
            }
            assert!(calls < 4200, "it sends without end");
            for packet in &self.out.packets {
                assert!(packet.payload.end <= self.conn.written());
                if !packet.payload.is_empty() {
                    assert!(packet.payload.start >= self.conn.acked());
                }
            }
            let heads = &self.out.heads;
            if !heads.is_empty() {
                let last = heads.len() - self.out.packets.last().expect("heads have packets").head;
                if let Ok(packet) = Packet::decode(&heads[last..])
                    && packet.kind == Kind::Data
                {
                    self.right.1 = packet.seq;
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn anything_goes(ops in prop::collection::vec(op(), 1..120), dials: bool) {
        let syn = Packet {
            kind: Kind::Syn,
            id: 500,
            timestamp: 1,
            difference: 0,
            window: 1 << 20,
            seq: Seq(0xfffe),
            ack: Seq(0),
            selective_ack: None,
            payload: &[],
        };
        let (conn, right) = if dials {
            (Connection::dial(SMALL, 501, 0xfff0), (Seq(50), Seq(0xfff0)))
        } else {
            (Connection::accept(5, SMALL, &syn, 0xfff0).unwrap(), (Seq(0xffff), Seq(0xffef)))
        };
        let mut victim = Victim { conn, now: 5, unread: 0, closed: false, out: Transmit::default(), right };
        victim.pump();
        for op in ops {
            victim.act(op);
        }
        // Silence from here on: what waits for the peer is given up within some minutes.
        if victim.conn.written() > victim.conn.acked() || dials {
            let until = victim.now + 900 * SECOND;
            while let Some(at) = victim.conn.deadline().filter(|at| *at < until) {
                prop_assert!(at > victim.now || victim.now == at);
                victim.now = victim.now.max(at);
                victim.conn.handle_timeout(victim.now);
                victim.pump();
            }
            let idle = victim.conn.is_open() && victim.conn.written() == victim.conn.acked();
            prop_assert!(victim.conn.failure().is_some() || idle, "{:?}", victim.conn);
        }
    }
}

/// Acknowledging what was never sent moves nothing.
#[test]
fn wild_acknowledgements_are_ignored() {
    let mut pair = Pair::new(20, good(), [1_000_000, 0]);
    pair.run_for(150 * MS);
    let conn = &mut pair.ends[0].conn;
    let (acked, window) = (conn.acked(), conn.congestion_window());
    for ack in [30_000u16, 1000, 40_000] {
        for bits in [None, Some(&[0xff; 252][..])] {
            // The right id is not known here: all are tried, as an attacker would.
            for id in 0..=u16::MAX {
                let packet = Packet {
                    kind: Kind::State,
                    id,
                    timestamp: 0,
                    difference: 1,
                    window: u32::MAX,
                    seq: Seq(1),
                    ack: Seq(ack),
                    selective_ack: bits,
                    payload: &[],
                };
                let mut bytes = Vec::new();
                packet.encode_head(&mut bytes);
                conn.handle(pair.net.now, &bytes, 0, &mut |_| panic!("no payload"));
            }
        }
    }
    assert_eq!((conn.acked(), conn.congestion_window()), (acked, window));
    pair.run();
}

/// Everything is right but the connection's id, which nobody off the path knows.
#[test]
fn packets_of_another_id_are_ignored() {
    let packet = |kind, id, seq| Packet {
        kind,
        id,
        timestamp: 1,
        difference: 0,
        window: 1 << 20,
        seq: Seq(seq),
        ack: Seq(98),
        selective_ack: None,
        payload: if kind == Kind::Data { &[7; 100] } else { &[] },
    };
    let mut conn = Connection::accept(5, SMALL, &packet(Kind::Syn, 500, 7), 99).unwrap();
    let mut taken = 0;
    for (id, kind, expected) in
        [(500, Kind::Data, 0), (502, Kind::Data, 0), (502, Kind::Fin, 0), (501, Kind::Data, 100)]
    {
        let mut bytes = Vec::new();
        let sent = packet(kind, id, 8);
        sent.encode_head(&mut bytes);
        bytes.extend_from_slice(sent.payload);
        conn.handle(6, &bytes, ROOM, &mut |bytes| taken += bytes.len());
        assert_eq!((taken, conn.has_ended()), (expected, false), "id {id}, {kind:?}");
    }
    // Nobody consumes them: no more bytes are taken than there is a window for.
    for seq in 9..500 {
        let mut bytes = Vec::new();
        let sent = packet(Kind::Data, 501, seq);
        sent.encode_head(&mut bytes);
        bytes.extend_from_slice(sent.payload);
        conn.handle(6, &bytes, ROOM, &mut |bytes| taken += bytes.len());
    }
    assert_eq!(taken, SMALL.receive_window);
    // And only a SYN makes a connection.
    let mut state = Vec::new();
    packet(Kind::State, 500, 7).encode_head(&mut state);
    let from = "192.0.2.1:5".parse().unwrap();
    assert!(crate::utp::Admission::default().admit(0, from, &state).is_none());
}

/// Anybody can send a SYN in another one's name: what goes there is no more than one answer for each SYN that came.
#[test]
fn a_syn_in_another_ones_name_makes_no_more_bytes() {
    let syn = Packet {
        kind: Kind::Syn,
        id: 500,
        timestamp: 1,
        difference: 0,
        window: 1 << 20,
        seq: Seq(7),
        ack: Seq(0),
        selective_ack: None,
        payload: &[],
    };
    let mut bytes = Vec::new();
    syn.encode_head(&mut bytes);
    for copies in [0, 1, 5] {
        let mut conn = Connection::accept(5, SMALL, &syn, 99).unwrap();
        let (mut out, mut now, mut answered) = (Transmit::default(), 5, 0);
        let mut sent = |conn: &mut Connection, now| {
            while conn.poll_transmit(now, &mut out) {
                answered += out.heads.len();
            }
        };
        sent(&mut conn, now);
        for _ in 0..copies {
            conn.handle(now, &bytes, 0, &mut |_| panic!("no payload"));
            sent(&mut conn, now);
        }
        // Nobody speaks, so the connection is closed, and lingers as long as the ring lets it.
        now += 10 * SECOND;
        conn.close();
        sent(&mut conn, now);
        while let Some(at) = conn.deadline().filter(|at| *at < 20 * SECOND) {
            now = at.max(now);
            conn.handle_timeout(now);
            sent(&mut conn, now);
        }
        assert!(
            answered <= bytes.len() * (1 + copies),
            "{answered} bytes for {} of {copies} + 1 SYNs",
            bytes.len()
        );
    }
}
