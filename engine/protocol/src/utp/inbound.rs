//! The receiving side: packets in any order to bytes in order.
//!
//! Invariant: bytes that are kept (too early, or not consumed by the owner) never exceed the window that was announced.

use std::collections::VecDeque;

use super::packet::SELECTIVE_ACK_LEN_MAX;
use super::{REORDER_PACKETS_MAX, Seq};

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// It was the next one: it, and those that waited for it, were delivered.
    InOrder,
    /// It came too early and is kept.
    Early,
    /// It was there already, or there is no room for it.
    Refused,
}

#[derive(Debug)]
pub(super) struct Inbound {
    /// The next packet in order.
    next: Seq,
    /// What came too early: place 0 is that of the packet after `next`.
    early: VecDeque<Option<Box<[u8]>>>,
    /// Packets and bytes in there.
    early_packets: usize,
    early_bytes: usize,
    /// Delivered bytes that the owner has not consumed.
    unread: usize,
    /// Room for `early_bytes` and `unread`.
    capacity: usize,
    /// Number of the FIN.
    end: Option<Seq>,
    ended: bool,
}

impl Inbound {
    pub fn new(next: Seq, capacity: usize) -> Self {
        Self {
            next,
            early: VecDeque::new(),
            early_packets: 0,
            early_bytes: 0,
            unread: 0,
            capacity,
            end: None,
            ended: false,
        }
    }

    /// The last packet that has come in order.
    pub fn ack(&self) -> Seq {
        self.next.minus(1)
    }

    /// Bytes there is room for.
    pub fn window(&self) -> usize {
        self.capacity - self.unread - self.early_bytes
    }

    pub fn early_bytes(&self) -> usize {
        self.early_bytes
    }

    /// Whether packets are missing before others.
    pub fn has_holes(&self) -> bool {
        self.early_packets > 0
    }

    /// Everything up to the FIN has been delivered.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    pub fn consumed(&mut self, bytes: usize) {
        self.unread = self.unread.checked_sub(bytes).expect("more was consumed than delivered");
    }

    /// A FIN has come. False: its number makes no sense.
    pub fn fin(&mut self, seq: Seq, sink: &mut impl FnMut(&[u8])) -> Arrival {
        let ahead = seq.distance_from(self.next);
        let known = self.end.is_some_and(|end| end != seq);
        if self.ended || known || !(0..=REORDER_PACKETS_MAX as i32).contains(&ahead) {
            return Arrival::Refused;
        }
        self.end = Some(seq);
        // What claims to come behind the end never will be read.
        while self.early.len() >= ahead.max(1) as usize {
            self.forget_last();
        }
        if ahead > 0 {
            return Arrival::Early;
        }
        self.deliver_early(sink);
        Arrival::InOrder
    }

    fn forget_last(&mut self) {
        if let Some(Some(bytes)) = self.early.pop_back() {
            self.early_packets -= 1;
            self.early_bytes -= bytes.len();
        }
    }

    /// A DATA packet has come. `room`: bytes that may be kept for packets that come too early, beside what is kept.
    pub fn data(&mut self, seq: Seq, payload: &[u8], room: usize, sink: &mut impl FnMut(&[u8])) -> Arrival {
        let ahead = seq.distance_from(self.next);
        let behind_end = self.end.is_some_and(|end| seq.distance_from(end) >= 0);
        if ahead < 0 || self.ended || behind_end {
            return Arrival::Refused;
        }
        if ahead == 0 {
            // It may take the place of early ones, which then come again: in order is worth more.
            if self.unread + payload.len() > self.capacity {
                return Arrival::Refused;
            }
            while payload.len() > self.window() {
                self.forget_last();
            }
            self.unread += payload.len();
            sink(payload);
            self.next = self.next.plus(1);
            self.deliver_early(sink);
            return Arrival::InOrder;
        }
        let place = ahead as usize - 1;
        if place >= REORDER_PACKETS_MAX || payload.len() > self.window().min(room) {
            return Arrival::Refused;
        }
        if self.early.len() <= place {
            self.early.resize_with(place + 1, || None);
        }
        if self.early[place].is_some() {
            return Arrival::Refused;
        }
        self.early[place] = Some(payload.into());
        self.early_packets += 1;
        self.early_bytes += payload.len();
        Arrival::Early
    }

    /// Delivers what has waited for the packet before `next`, and sees the end.
    fn deliver_early(&mut self, sink: &mut impl FnMut(&[u8])) {
        loop {
            if self.end == Some(self.next) {
                self.next = self.next.plus(1);
                self.ended = true;
                self.early = VecDeque::new();
                return;
            }
            match self.early.pop_front() {
                Some(Some(bytes)) => {
                    self.early_packets -= 1;
                    self.early_bytes -= bytes.len();
                    self.unread += bytes.len();
                    sink(&bytes);
                    self.next = self.next.plus(1);
                }
                Some(None) => return,
                None => {
                    // Loss is rare: a connection keeps no memory for it.
                    self.early = VecDeque::new();
                    return;
                }
            }
        }
    }

    /// Writes which packets are there beyond the missing one; nothing when there are none.
    pub fn selective_ack(&self, out: &mut [u8; SELECTIVE_ACK_LEN_MAX]) -> usize {
        if self.early_packets == 0 {
            return 0;
        }
        let len = self.early.len().div_ceil(32) * 4;
        out[..len].fill(0);
        for (at, _) in self.early.iter().enumerate().filter(|(_, packet)| packet.is_some()) {
            out[at / 8] |= 1 << (at % 8);
        }
        len
    }
}
