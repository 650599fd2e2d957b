//! The sending side: which bytes are in which packet, what has arrived, what is lost.
//!
//! Loss is found as in QUIC (RFC 9002, 6.1.1): every transmission has a rank, and a packet is lost when one that was sent
//! three ranks later has arrived. So a retransmission that is lost is found as well.
//!
//! Invariant: `flying` is the sum over packets that are [`Fate::Flying`], `lost` the number of those that are
//! [`Fate::Lost`]; the first packet of the queue never is [`Fate::Arrived`].

use std::collections::VecDeque;
use std::ops::Range;

use super::{Micros, Seq};

/// Later transmissions that have arrived before a packet counts as lost.
const REORDER: u64 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Flying,
    Lost,
    Arrived,
}

#[derive(Debug)]
struct Sent {
    start: u64,
    len: u16,
    fate: Fate,
    is_fin: bool,
    is_probe: bool,
    times: u8,
    rank: u64,
    at: Micros,
}

/// A packet to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ready {
    pub seq: Seq,
    pub payload: Range<u64>,
    pub is_fin: bool,
}

/// What an acknowledgement has told.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    /// Packets that were not known to have arrived.
    pub packets: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Round trip of the newest of them that was sent once.
    pub round_trip: Option<Micros>,
    /// A packet was lost that was sent after the last loss we have reacted to.
    pub is_congested: bool,
    /// Probes: payload bytes of one that arrived, of one that was lost.
    pub probe_arrived: Option<usize>,
    pub probe_lost: Option<usize>,
}

#[derive(Debug)]
pub(super) struct Outbound {
    first: Seq,
    queue: VecDeque<Sent>,
    flying: usize,
    flying_packets: usize,
    lost: usize,
    /// Arrived, but not the first.
    islands: usize,
    /// Stream bytes that the owner has written, and that packets were made of.
    written: u64,
    sent: u64,
    next_rank: u64,
    arrived_rank: u64,
    /// Losses of packets of a lower rank were reacted to.
    reacted: u64,
    /// The least round trip: an acknowledgement that comes faster is of an earlier transmission.
    least_trip: Micros,
}

impl Outbound {
    pub fn new(first: Seq) -> Self {
        Self {
            first,
            queue: VecDeque::new(),
            flying: 0,
            flying_packets: 0,
            lost: 0,
            islands: 0,
            written: 0,
            sent: 0,
            next_rank: 1,
            arrived_rank: 0,
            reacted: 0,
            least_trip: Micros::MAX,
        }
    }

    pub fn write(&mut self, bytes: usize) {
        self.written += bytes as u64;
    }

    pub fn written(&self) -> u64 {
        self.written
    }

    pub fn sent(&self) -> u64 {
        self.sent
    }

    pub fn unsent(&self) -> usize {
        (self.written - self.sent) as usize
    }

    /// All bytes before have arrived.
    pub fn acked(&self) -> u64 {
        self.queue.front().map_or(self.sent, |packet| packet.start)
    }

    /// Number of the oldest packet that is not known to have arrived.
    pub fn oldest(&self) -> Seq {
        self.first
    }

    /// Number of the next new packet.
    pub fn next_seq(&self) -> Seq {
        self.first.plus(self.queue.len() as u16)
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub fn len(&self) -> usize {
        self.queue.len()
    }

    pub fn flying(&self) -> usize {
        self.flying
    }

    pub fn is_flying(&self) -> bool {
        self.flying_packets > 0
    }

    pub fn has_lost(&self) -> bool {
        self.lost > 0
    }

    /// How many packets `ack` acknowledges; negative when it is older than what is known. `None`: no sensible number.
    /// More than 2^11 back is older than any packet on its way can be.
    pub fn place_of(&self, ack: Seq) -> Option<i32> {
        let count = ack.distance_from(self.first.minus(1));
        (-2048..=self.queue.len() as i32).contains(&count).then_some(count)
    }

    /// Takes in that the packets before `place` ([`Self::place_of`]) have arrived, and those of `bits`, the first of which
    /// is for the packet after `place`.
    pub fn acknowledged(&mut self, now: Micros, place: i32, bits: Option<&[u8]>) -> News {
        let mut news = News::default();
        for (byte, bits) in bits.unwrap_or_default().iter().enumerate().filter(|(_, bits)| **bits != 0) {
            for bit in (0..8).filter(|bit| bits & 1 << bit != 0) {
                let at = usize::try_from(place + 1 + (byte * 8 + bit) as i32);
                if let Ok(at) = at
                    && at < self.queue.len()
                {
                    self.arrived(now, at, &mut news);
                }
            }
        }
        for _ in 0..place {
            self.arrived(now, 0, &mut news);
            self.drop_first();
        }
        while self.queue.front().is_some_and(|packet| packet.fate == Fate::Arrived) {
            self.drop_first();
        }
        self.find_lost(&mut news);
        news
    }

    fn drop_first(&mut self) {
        self.queue.pop_front();
        self.islands -= 1;
        self.first = self.first.plus(1);
    }

    fn arrived(&mut self, now: Micros, at: usize, news: &mut News) {
        let packet = &mut self.queue[at];
        match packet.fate {
            Fate::Arrived => return,
            Fate::Lost => self.lost -= 1,
            Fate::Flying => {
                self.flying -= usize::from(packet.len);
                self.flying_packets -= 1;
            }
        }
        packet.fate = Fate::Arrived;
        self.islands += 1;
        news.packets += 1;
        news.bytes += usize::from(packet.len);
        if std::mem::take(&mut packet.is_probe) {
            news.probe_arrived = Some(usize::from(packet.len));
        }
        let trip = now.saturating_sub(packet.at);
        if packet.times == 1 {
            self.least_trip = self.least_trip.min(trip);
            // The newest has the shortest trip.
            news.round_trip = Some(news.round_trip.map_or(trip, |other| other.min(trip)));
        }
        if packet.times == 1 || trip >= self.least_trip {
            self.arrived_rank = self.arrived_rank.max(packet.rank);
        }
    }

    fn find_lost(&mut self, news: &mut News) {
        let is_behind = |packet: &Sent| packet.rank + REORDER <= self.arrived_rank;
        if self.islands == 0 && !self.queue.front().is_some_and(is_behind) {
            return;
        }
        let limit = self.arrived_rank;
        for packet in &mut self.queue {
            if packet.fate != Fate::Flying || packet.rank + REORDER > limit {
                continue;
            }
            packet.fate = Fate::Lost;
            self.flying -= usize::from(packet.len);
            self.flying_packets -= 1;
            self.lost += 1;
            if std::mem::take(&mut packet.is_probe) {
                news.probe_lost = Some(usize::from(packet.len));
            } else {
                news.is_congested |= packet.rank > self.reacted;
            }
        }
        if news.is_congested {
            self.reacted = self.next_rank - 1;
        }
    }

    /// Nothing has come back for too long: all that is on its way is lost. Returns the payload bytes of a probe that
    /// alone was on its way.
    pub fn timed_out(&mut self) -> Option<usize> {
        let is_alone = self.flying_packets == 1;
        let mut probe = None;
        for packet in self.queue.iter_mut().filter(|packet| packet.fate == Fate::Flying) {
            packet.fate = Fate::Lost;
            self.lost += 1;
            if std::mem::take(&mut packet.is_probe) {
                probe = Some(usize::from(packet.len)).filter(|_| is_alone);
            }
        }
        (self.flying, self.flying_packets) = (0, 0);
        self.reacted = self.next_rank - 1;
        probe
    }

    /// Payload bytes of the largest packet that is to be sent again next.
    pub fn lost_len(&self) -> Option<usize> {
        self.queue.iter().find(|packet| packet.fate == Fate::Lost).map(|packet| usize::from(packet.len))
    }

    /// The oldest lost packet is sent again.
    pub fn send_lost(&mut self, now: Micros) -> Option<Ready> {
        if self.lost == 0 {
            return None;
        }
        let at = self.queue.iter().position(|packet| packet.fate == Fate::Lost)?;
        let packet = &mut self.queue[at];
        packet.fate = Fate::Flying;
        packet.times = packet.times.saturating_add(1);
        (packet.rank, packet.at) = (self.next_rank, now);
        self.next_rank += 1;
        self.lost -= 1;
        self.flying += usize::from(packet.len);
        self.flying_packets += 1;
        let payload = packet.start..packet.start + u64::from(packet.len);
        Some(Ready { seq: self.first.plus(at as u16), payload, is_fin: packet.is_fin })
    }

    /// The next `len` bytes of the stream go into a new packet; none and `is_fin`: its end.
    pub fn send_new(&mut self, now: Micros, len: usize, is_fin: bool, is_probe: bool) -> Ready {
        assert!(len <= self.unsent() && len <= usize::from(u16::MAX));
        let seq = self.next_seq();
        let payload = self.sent..self.sent + len as u64;
        self.sent = payload.end;
        self.queue.push_back(Sent {
            start: payload.start,
            len: len as u16,
            fate: Fate::Flying,
            is_fin,
            is_probe,
            times: 1,
            rank: self.next_rank,
            at: now,
        });
        self.next_rank += 1;
        self.flying += len;
        self.flying_packets += 1;
        Ready { seq, payload, is_fin }
    }

    /// The packet of `seq` was not sent after all: again, without any blame on the path. Returns the payload bytes of
    /// a probe.
    pub fn unsent_packet(&mut self, seq: Seq) -> Option<usize> {
        let at = usize::try_from(seq.distance_from(self.first)).ok()?;
        let packet = self.queue.get_mut(at).filter(|packet| packet.fate == Fate::Flying)?;
        packet.fate = Fate::Lost;
        packet.times -= 1;
        self.lost += 1;
        self.flying -= usize::from(packet.len);
        self.flying_packets -= 1;
        std::mem::take(&mut packet.is_probe).then_some(usize::from(packet.len))
    }

    #[cfg(test)]
    pub fn check(&self) {
        let of = |fate: Fate| self.queue.iter().filter(move |packet| packet.fate == fate);
        assert_eq!(self.flying, of(Fate::Flying).map(|packet| usize::from(packet.len)).sum::<usize>());
        assert_eq!(self.flying_packets, of(Fate::Flying).count());
        assert_eq!((self.lost, self.islands), (of(Fate::Lost).count(), of(Fate::Arrived).count()));
        assert!(self.queue.front().is_none_or(|packet| packet.fate != Fate::Arrived));
        assert!(self.sent <= self.written);
    }
}
