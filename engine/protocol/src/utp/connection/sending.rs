//! What a connection sends next.

use super::super::packet::SELECTIVE_ACK_LEN_MAX;
use super::super::transmit::Transmit;
use super::*;
use crate::utp::SENT_PACKETS_MAX;

/// Packets that new room in the window is saved up for, if that is at most a part of it: they go out in one call.
const QUANTUM_PACKETS: usize = 16;
const QUANTUM_PART: usize = 32;
/// Packets that follow a probe: without them only a timeout would tell that it is lost.
const BEHIND_PROBE: usize = 4;

impl Connection {
    /// Ends our side: a FIN goes out behind all that was written, as soon as there is somebody to hear it.
    pub fn close(&mut self) {
        self.closing = true;
    }

    /// Whether the peer is where its packets seem to come from. A SYN alone may be in another one's name: it is answered
    /// once, and not with a FIN that is sent again and again.
    fn is_proven(&self) -> bool {
        !matches!(self.state, State::Open { syn: Some(syn) } if self.inbound.ack() == syn)
            || self.outbound.written() > 0
    }

    /// Puts the next packets into `out`; false when there is nothing to send now.
    pub fn poll_transmit(&mut self, now: Micros, out: &mut Transmit) -> bool {
        out.clear();
        if let Some((id, seq)) = self.refused.take() {
            let start = out.heads.len();
            let reset = Packet { ack: seq, ..self.packet(now, Kind::Reset, id, Seq(0), None) };
            reset.encode_head(&mut out.heads);
            out.push(start, 0..0);
            return true;
        }
        if std::mem::take(&mut self.send_reset) {
            self.head(now, Kind::Reset, self.send_id, self.outbound.next_seq(), out);
            return true;
        }
        if self.failure().is_some() {
            return false;
        }
        if let State::SynSent(syn) = self.state {
            if std::mem::take(&mut self.send_syn) {
                self.head(now, Kind::Syn, self.recv_id, syn, out);
                self.retransmit_at = Some(now + self.rtt.timeout());
                self.last_sent = now;
                return true;
            }
            return false;
        }
        if self.challenge.is_some_and(|challenge| challenge.ask_now) {
            self.send_challenge(now, out);
            return true;
        }
        // Data carries acknowledgements, but for selective ones: a longer header would make packets unequal.
        if self.ack_now && (self.inbound.has_holes() || self.repeat_answer) {
            self.send_state(now, out);
            return true;
        }
        self.send_data(now, out);
        if out.packets.is_empty() && self.ack_now {
            self.send_state(now, out);
        }
        !out.packets.is_empty()
    }

    /// The socket took none of `out`: it will be sent again when there is room.
    pub fn unsent(&mut self, out: &Transmit) {
        if out.packets.first().is_some_and(|packet| packet.payload.is_empty()) && !self.is_open() {
            self.send_syn |= matches!(self.state, State::SynSent(_));
            return;
        }
        self.ack_now = true;
        for head in Self::heads(out) {
            if (head.kind == Kind::Data || head.kind == Kind::Fin)
                && self.outbound.unsent_packet(head.seq).is_some()
            {
                self.mtu.unsent();
            }
        }
        if !self.outbound.is_flying() {
            self.retransmit_at = None;
        }
    }

    /// Our own host refused `out`, for its packets are larger than its interface's MTU.
    pub fn too_large(&mut self, now: Micros, out: &Transmit) {
        for head in Self::heads(out) {
            match self.outbound.unsent_packet(head.seq) {
                Some(len) => self.mtu.lost(now, HEADER_LEN + len, true),
                None => self.mtu.black_hole(now),
            }
        }
        if !self.outbound.is_flying() {
            self.retransmit_at = None;
        }
    }

    fn heads(out: &Transmit) -> impl Iterator<Item = Packet<'_>> {
        let mut rest = &out.heads[..];
        out.packets.iter().map(move |packet| {
            let (head, after) = rest.split_at(packet.head);
            rest = after;
            Packet::decode(head).expect("our own")
        })
    }

    /// Appends a packet without payload.
    fn head(&mut self, now: Micros, kind: Kind, id: u16, seq: Seq, out: &mut Transmit) {
        let mut bits = [0; SELECTIVE_ACK_LEN_MAX];
        let len = if kind == Kind::State { self.inbound.selective_ack(&mut bits) } else { 0 };
        let bits = Some(&bits[..len]).filter(|bits| !bits.is_empty());
        let start = out.heads.len();
        self.packet(now, kind, id, seq, bits).encode_head(&mut out.heads);
        out.push(start, 0..0);
    }

    fn packet<'a>(&self, now: Micros, kind: Kind, id: u16, seq: Seq, bits: Option<&'a [u8]>) -> Packet<'a> {
        let ack = if self.is_open() { self.inbound.ack() } else { Seq(0) };
        Packet {
            kind,
            id,
            timestamp: now as u32,
            difference: self.difference,
            window: self.inbound.window() as u32,
            seq,
            ack,
            selective_ack: bits,
            payload: &[],
        }
    }

    fn send_state(&mut self, now: Micros, out: &mut Transmit) {
        let answer = std::mem::take(&mut self.repeat_answer);
        let seq = if answer { self.outbound.oldest() } else { self.outbound.next_seq() };
        self.head(now, Kind::State, self.send_id, seq, out);
        self.acknowledges(now);
    }

    /// A packet of payload that the peer has: it is acknowledged once more and not delivered.
    fn send_challenge(&mut self, now: Micros, out: &mut Transmit) {
        let start = out.heads.len();
        self.packet(now, Kind::Data, self.send_id, self.outbound.oldest().minus(1), None)
            .encode_head(&mut out.heads);
        out.heads.push(0);
        out.push(start, 0..0);
        let wait = self.rtt.timeout();
        if let Some(challenge) = &mut self.challenge {
            challenge.ask_now = false;
            challenge.asked += 1;
            challenge.at = Some(now + wait);
        }
        self.acknowledges(now);
    }

    /// A packet goes out that acknowledges all that has come.
    fn acknowledges(&mut self, now: Micros) {
        (self.ack_now, self.ack_at, self.unacked) = (false, None, 0);
        self.told_window = self.inbound.window();
        self.last_sent = now;
    }

    /// Whether a packet with `len` bytes may be sent now.
    fn may_send(&self, len: usize) -> bool {
        if self.may_overrun {
            return true;
        }
        // One packet may always be on its way, so that a window that is smaller does not stop us for ever.
        let congestion = self.ledbat.window().max(self.payload_max());
        self.outbound.flying() + len <= congestion.min(self.peer_window)
    }

    fn send_data(&mut self, now: Micros, out: &mut Transmit) {
        if self.outbound.has_lost() {
            self.send_again(now, out);
        }
        if out.packets.is_empty() {
            self.send_probe(now, out);
        }
        if !out.may_fragment && !self.outbound.has_lost() {
            self.send_new(now, out);
        }
        if !out.packets.is_empty() {
            self.acknowledges(now);
            if self.retransmit_at.is_none() {
                self.retransmit_at = Some(now + self.rtt.timeout());
            }
        } else if !self.outbound.is_flying()
            && (self.outbound.has_lost() || self.outbound.unsent() > 0)
            && self.probe_window_at.is_none()
        {
            self.probe_window_at = Some(now + self.rtt.timeout());
        }
    }

    fn send_again(&mut self, now: Micros, out: &mut Transmit) {
        while let Some(len) = self.outbound.lost_len() {
            let may_fragment = HEADER_LEN + len > self.mtu.current();
            if !self.may_send(len)
                || !out.has_room(len)
                || (!out.packets.is_empty() && may_fragment != out.may_fragment)
            {
                return;
            }
            out.may_fragment = may_fragment;
            let ready = self.outbound.send_lost(now).expect("seen just now");
            self.add(now, ready, out);
            if may_fragment {
                return;
            }
        }
    }

    fn send_probe(&mut self, now: Micros, out: &mut Transmit) {
        if self.outbound.unsent() < BEHIND_PROBE * self.mtu.current() || !self.may_make_packets() {
            return;
        }
        let Some(len) = self.mtu.wanted(now).map(|size| size - HEADER_LEN) else { return };
        if self.outbound.unsent() >= len + BEHIND_PROBE * self.payload_max()
            && self.ledbat.window() >= BEHIND_PROBE * self.payload_max()
            && self.may_send(len)
        {
            self.mtu.sent();
            let ready = self.outbound.send_new(now, len, false, true);
            self.add(now, ready, out);
        }
    }

    fn may_make_packets(&self) -> bool {
        self.outbound.len() < SENT_PACKETS_MAX && !self.fin_sent
    }

    fn send_new(&mut self, now: Micros, out: &mut Transmit) {
        // A probe goes alone.
        let full = self.payload_max();
        if out.segment_len() > HEADER_LEN + full {
            return;
        }
        if !self.has_quantum(out) {
            return;
        }
        while self.may_make_packets() {
            let mut len = full.min(self.outbound.unsent());
            if !self.outbound.is_flying() && self.peer_window > 0 {
                len = len.min(self.peer_window);
            }
            if len == 0 {
                if self.closing && out.packets.is_empty() && self.is_proven() {
                    self.fin_sent = true;
                    let ready = self.outbound.send_new(now, 0, true, false);
                    self.add(now, ready, out);
                }
                return;
            }
            if !self.may_send(len) || !out.has_room(len) {
                return;
            }
            let ready = self.outbound.send_new(now, len, false, false);
            self.add(now, ready, out);
        }
    }

    /// Bytes of room that are worth a call while others are on their way: more acknowledgements will come.
    pub(super) fn quantum(&self) -> usize {
        (QUANTUM_PACKETS * self.payload_max()).min(self.ledbat.window().min(self.peer_window) / QUANTUM_PART)
    }

    /// Whether there is room for so much, or for all that there is.
    fn has_quantum(&self, out: &Transmit) -> bool {
        let wanted = self.quantum().min(self.outbound.unsent());
        !self.outbound.is_flying() || !out.packets.is_empty() || self.may_overrun || self.may_send(wanted)
    }

    fn add(&mut self, now: Micros, ready: super::super::outbound::Ready, out: &mut Transmit) {
        self.may_overrun = false;
        let kind = if ready.is_fin { Kind::Fin } else { Kind::Data };
        let start = out.heads.len();
        self.packet(now, kind, self.send_id, ready.seq, None).encode_head(&mut out.heads);
        out.push(start, ready.payload);
    }
}
