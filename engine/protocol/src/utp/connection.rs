//! One connection: from SYN to FIN or failure.
//!
//! Owner: the ring. Invariant: as long as something of ours is on its way, or waits for the peer's window, a timer runs;
//! timers that run out in a row without a word from the peer end the connection.

use super::delay::DelayHistory;
use super::inbound::{Arrival, Inbound};
use super::ledbat::Ledbat;
use super::mtu::MtuSearch;
use super::outbound::{News, Outbound};
use super::packet::{HEADER_LEN, Kind, Packet};
use super::rtt::Rtt;
use super::{MS, Micros, SECOND, Seq};

mod sending;

/// A lone packet is acknowledged after this time, or with whatever is sent before.
const ACK_DELAY: Micros = 20 * MS;
/// So many packets are acknowledged at once, but for [`ACK_GAP`].
const ACK_PACKETS: u32 = 2;
/// Between two acknowledgements at least, while fewer than [`ACK_MANY`] packets wait and none is missing: a fast peer's
/// packets are not answered one by one, and the window of any path in practice lasts for longer. Less than what the owner
/// lets pass between two reads of a busy socket (0.5 ms), or each of them would leave a timer behind.
const ACK_GAP: Micros = 2 * MS / 5;
const ACK_MANY: u32 = 32;
/// NATs forget a mapping that was not used for 30 s.
const KEEP_ALIVE: Micros = 29 * SECOND;
/// Timeouts in a row without a packet from the peer, after which it is gone: about 40 s.
const SILENCE_MAX: u32 = 6;
/// SYNs sent: 7 s.
const SYNS_MAX: u32 = 3;
/// Packets that must be answered, sent to a peer that wants a new connection, before the old one is given up.
const CHALLENGES_MAX: u32 = 3;
/// Timeouts in a row after which the path may have stopped to pass large packets.
const BLACK_HOLE: u32 = 2;
/// Most that clocks are believed to drift apart between two packets, in microseconds (as libutp).
const DRIFT_MAX: u32 = 10_000;

/// What a connection is made with.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Bytes that are received at most before they are consumed.
    pub receive_window: usize,
    /// UDP payload that passes every path: 548 for IPv4, 1232 for IPv6.
    pub datagram_floor: usize,
    /// UDP payload that is never exceeded: the interface's MTU, less IP's and UDP's headers.
    pub datagram_max: usize,
}

/// Why a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The peer does not answer.
    #[error("the peer does not answer")]
    TimedOut,
    /// The peer answered a SYN with a RESET.
    #[error("the peer takes no uTP connection")]
    Refused,
    /// The peer ended the connection with a RESET.
    #[error("the peer reset the connection")]
    Reset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// We dial; a SYN of this number is on its way.
    SynSent(Seq),
    /// Bytes may flow. `syn`: the peer's, when it dialled us.
    Open {
        syn: Option<Seq>,
    },
    Failed(Failure),
}

/// The peer's host wants another connection over the same two ports. Either the peer has forgotten this one, or somebody
/// else has its address: we send what it must answer. When it does, the new one is refused; otherwise this one is over.
#[derive(Clone, Copy, Debug)]
struct Challenge {
    /// The latest SYN's.
    id: u16,
    seq: Seq,
    /// Packets sent so far, and when the next is due.
    asked: u32,
    at: Option<Micros>,
    ask_now: bool,
}

/// A connection. See the module for the order of calls.
#[derive(Debug)]
pub struct Connection {
    state: State,
    recv_id: u16,
    send_id: u16,
    inbound: Inbound,
    outbound: Outbound,
    ledbat: Ledbat,
    rtt: Rtt,
    mtu: MtuSearch,
    /// Delays of our packets, by the peer's clock, and of its packets, by ours.
    ours: DelayHistory,
    theirs: DelayHistory,
    /// What the last packet took, for the peer to know.
    difference: u32,
    peer_window: usize,
    /// The window that the peer knows of.
    told_window: usize,
    /// Timeouts in a row without a packet from the peer, and without anything new acknowledged.
    silence: u32,
    stalls: u32,
    /// The next packet goes out whatever the peer's window is.
    may_overrun: bool,
    /// Packets not yet acknowledged.
    unacked: u32,
    ack_now: bool,
    /// The SYN came again: the answer that it was given is repeated.
    repeat_answer: bool,
    send_syn: bool,
    send_reset: bool,
    challenge: Option<Challenge>,
    /// A SYN of another connection, to be refused: its id and number.
    refused: Option<(u16, Seq)>,
    closing: bool,
    fin_sent: bool,
    /// Timers.
    retransmit_at: Option<Micros>,
    ack_at: Option<Micros>,
    probe_window_at: Option<Micros>,
    last_sent: Micros,
}

impl Connection {
    fn new(config: Config, state: State, recv_id: u16, send_id: u16, first: Seq, next: Seq) -> Self {
        let mtu = MtuSearch::new(config.datagram_floor, config.datagram_max);
        Self {
            state,
            recv_id,
            send_id,
            inbound: Inbound::new(next, config.receive_window),
            outbound: Outbound::new(first),
            ledbat: Ledbat::new(mtu.current() - HEADER_LEN),
            rtt: Rtt::new(),
            mtu,
            ours: DelayHistory::default(),
            theirs: DelayHistory::default(),
            difference: 0,
            peer_window: 0,
            told_window: config.receive_window,
            silence: 0,
            stalls: 0,
            may_overrun: false,
            unacked: 0,
            ack_now: false,
            repeat_answer: false,
            send_syn: false,
            send_reset: false,
            challenge: None,
            refused: None,
            closing: false,
            fin_sent: false,
            retransmit_at: None,
            ack_at: None,
            probe_window_at: None,
            last_sent: 0,
        }
    }

    /// A connection that we open. `id` and `seq`: random, so that nobody off the path can guess them.
    pub fn dial(config: Config, id: u16, seq: u16) -> Self {
        let syn = Seq(seq);
        let mut this = Self::new(config, State::SynSent(syn), id, id.wrapping_add(1), syn.plus(1), Seq(0));
        this.send_syn = true;
        this
    }

    /// The answer to a SYN; `None` when `syn` is none. `seq`: random.
    pub fn accept(now: Micros, config: Config, syn: &Packet<'_>, seq: u16) -> Option<Self> {
        if syn.kind != Kind::Syn {
            return None;
        }
        let state = State::Open { syn: Some(syn.seq) };
        let mut this = Self::new(config, state, syn.id.wrapping_add(1), syn.id, Seq(seq), syn.seq.plus(1));
        this.peer_window = syn.window as usize;
        this.note_times(now, syn, true);
        // Whatever follows: who dials waits for a STATE.
        (this.ack_now, this.repeat_answer) = (true, true);
        this.last_sent = now;
        Some(this)
    }

    /// Whether bytes may flow.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// The peer has dialled, even if we did as well.
    pub fn was_accepted(&self) -> bool {
        matches!(self.state, State::Open { syn: Some(_) })
    }

    /// Why it is over; `None` while it is not, and after an orderly end.
    pub fn failure(&self) -> Option<Failure> {
        match self.state {
            State::Failed(failure) => Some(failure),
            _ => None,
        }
    }

    /// The peer has sent all that it will.
    pub fn has_ended(&self) -> bool {
        self.inbound.has_ended()
    }

    /// We have sent all that we will, and the peer has got it.
    pub fn is_flushed(&self) -> bool {
        self.fin_sent && self.outbound.is_empty()
    }

    /// Stream bytes before this one have arrived: the owner need not keep them.
    pub fn acked(&self) -> u64 {
        self.outbound.acked()
    }

    /// Stream bytes before this one were sent at least once.
    pub fn sent(&self) -> u64 {
        self.outbound.sent()
    }

    /// Stream bytes that the owner has written.
    pub fn written(&self) -> u64 {
        self.outbound.written()
    }

    /// Bytes kept because they came too early.
    pub fn early_bytes(&self) -> usize {
        self.inbound.early_bytes()
    }

    /// Bytes of payload that may be on their way.
    pub fn congestion_window(&self) -> usize {
        self.ledbat.window()
    }

    /// UDP payload of full packets.
    pub fn datagram_len(&self) -> usize {
        self.mtu.current()
    }

    /// The owner has `bytes` more to send. Not after [`Self::close`].
    pub fn write(&mut self, bytes: usize) {
        assert!(!self.closing, "bytes after the end");
        self.outbound.write(bytes);
    }

    /// The owner has consumed `bytes` of those that were delivered.
    pub fn consumed(&mut self, bytes: usize) {
        self.inbound.consumed(bytes);
        // A sender that was held back must hear of it.
        let packet = self.mtu.current();
        if self.told_window < 2 * packet && self.inbound.window() >= 4 * packet {
            self.ack_now = true;
        }
    }

    /// Ends both sides at once, with a RESET.
    pub fn abort(&mut self) {
        if self.is_open() {
            self.send_reset = true;
        }
        if self.failure().is_none() {
            self.state = State::Failed(Failure::Reset);
        }
    }

    /// Takes in a datagram from the peer. Payload is lent to `sink` in stream order, each byte once. `room`: bytes
    /// that may be kept for packets that come too early, beside those that are. What does not belong is ignored.
    pub fn handle(&mut self, now: Micros, datagram: &[u8], room: usize, sink: &mut impl FnMut(&[u8])) {
        let Ok(packet) = Packet::decode(datagram) else { return };
        match (self.state, packet.kind) {
            (State::Failed(_), _) => {}
            (State::Open { syn: Some(syn) }, Kind::Syn) if packet.seq == syn && packet.id == self.send_id => {
                (self.ack_now, self.repeat_answer) = (true, true);
            }
            (state, Kind::Syn) => self.another(now, state, &packet),
            (state, Kind::Reset) => {
                // Who knows nothing of the connection answers with the id that it was sent.
                if packet.id == self.recv_id || packet.id == self.send_id {
                    let refused = matches!(state, State::SynSent(_));
                    self.state = State::Failed(if refused { Failure::Refused } else { Failure::Reset });
                }
            }
            (_, _) if packet.id != self.recv_id => {}
            (State::SynSent(syn), kind) => {
                if kind == Kind::State && packet.ack == syn {
                    self.answered(now, &packet);
                }
            }
            (State::Open { .. }, _) => self.handle_open(now, &packet, room, sink),
        }
    }

    /// A SYN of another connection over the same ports of the same hosts; the socket is ours.
    fn another(&mut self, now: Micros, state: State, syn: &Packet<'_>) {
        match (state, &mut self.challenge) {
            (State::Open { .. }, Some(challenge)) => (challenge.id, challenge.seq) = (syn.id, syn.seq),
            (State::Open { .. }, place) => {
                *place = Some(Challenge { id: syn.id, seq: syn.seq, asked: 0, at: None, ask_now: true });
            }
            (State::SynSent(ours), _) => {
                // Both have dialled: the attempt with the greater numbers counts, as both ends see them.
                if (syn.seq.0, syn.id) > (ours.0, self.recv_id) {
                    self.turn_around(now, syn);
                }
            }
            (State::Failed(_), _) => {}
        }
    }

    /// We have dialled, and accept instead.
    fn turn_around(&mut self, now: Micros, syn: &Packet<'_>) {
        self.state = State::Open { syn: Some(syn.seq) };
        (self.recv_id, self.send_id) = (syn.id.wrapping_add(1), syn.id);
        self.inbound = Inbound::new(syn.seq.plus(1), self.inbound.window());
        self.peer_window = syn.window as usize;
        (self.silence, self.retransmit_at, self.send_syn) = (0, None, false);
        self.rtt.progress();
        self.note_times(now, syn, true);
        (self.ack_now, self.repeat_answer) = (true, true);
    }

    fn answered(&mut self, now: Micros, packet: &Packet<'_>) {
        self.state = State::Open { syn: None };
        self.inbound = Inbound::new(packet.seq, self.inbound.window());
        self.peer_window = packet.window as usize;
        if self.silence == 0 {
            self.rtt.sample(now.saturating_sub(self.last_sent));
        }
        (self.silence, self.retransmit_at) = (0, None);
        self.rtt.progress();
        self.note_times(now, packet, true);
    }

    /// Takes in the timestamps of a packet.
    fn note_times(&mut self, now: Micros, packet: &Packet<'_>, acks_news: bool) {
        self.difference = (now as u32).wrapping_sub(packet.timestamp);
        let before = self.theirs.base();
        self.theirs.sample(now, self.difference);
        // Their packets got faster than ever: rather the clocks drift, and ours seem to get slower by as much.
        if let (Some(before), Some(base)) = (before, self.theirs.base()) {
            let drift = before.wrapping_sub(base);
            if (1..=DRIFT_MAX).contains(&drift) {
                self.ours.shift(drift);
            }
        }
        if acks_news && packet.difference != 0 {
            self.ours.sample(now, packet.difference);
        }
    }

    fn handle_open(&mut self, now: Micros, packet: &Packet<'_>, room: usize, sink: &mut impl FnMut(&[u8])) {
        let Some(place) = self.outbound.place_of(packet.ack) else { return };
        self.silence = 0;
        if let Some(Challenge { id, seq, .. }) = self.challenge.take_if(|challenge| challenge.asked > 0) {
            self.refused = Some((id, seq));
        }
        let flying = self.outbound.flying();
        // An older packet that was overtaken tells nothing of the window.
        if place >= 0 {
            self.peer_window = packet.window as usize;
        }
        let news = self.outbound.acknowledged(now, place, packet.selective_ack);
        self.note_times(now, packet, news.packets > 0);
        self.take_news(now, &news, flying);
        let arrival = match packet.kind {
            Kind::Data => self.inbound.data(packet.seq, packet.payload, room, sink),
            Kind::Fin => self.inbound.fin(packet.seq, sink),
            _ => return,
        };
        self.unacked += 1;
        let is_plain = arrival == Arrival::InOrder && !self.inbound.has_holes() && !self.inbound.has_ended();
        let gap_over = self.last_sent + ACK_GAP;
        if !is_plain || self.unacked >= ACK_MANY || self.unacked >= ACK_PACKETS && gap_over <= now {
            self.ack_now = true;
        } else {
            let at = if self.unacked >= ACK_PACKETS { gap_over } else { now + ACK_DELAY };
            self.ack_at = Some(self.ack_at.map_or(at, |before| before.min(at)));
        }
    }

    fn take_news(&mut self, now: Micros, news: &News, flying: usize) {
        let packet = self.payload_max();
        if let Some(len) = news.probe_arrived {
            self.mtu.arrived(HEADER_LEN + len);
        }
        if let Some(len) = news.probe_lost {
            self.mtu.lost(now, HEADER_LEN + len, false);
        }
        if news.is_congested {
            self.ledbat.lost(packet);
        }
        if news.packets == 0 {
            return;
        }
        if let Some(trip) = news.round_trip {
            self.rtt.sample(trip);
        }
        self.rtt.progress();
        self.stalls = 0;
        let limited = flying + packet + self.quantum() > self.ledbat.window();
        // A packet cannot have queued for longer than it was under way.
        let delay = self.ours.queueing().map(|delay| delay.min(news.round_trip.unwrap_or(Micros::MAX)));
        if !news.is_congested {
            self.ledbat.acked(news.bytes, flying, delay, packet, limited);
        }
        self.retransmit_at = self.outbound.is_flying().then(|| now + self.rtt.timeout());
        self.probe_window_at = None;
    }

    /// When [`Self::handle_timeout`] is to be called.
    pub fn deadline(&self) -> Option<Micros> {
        let keep_alive = Some(self.last_sent + KEEP_ALIVE).filter(|_| self.is_open());
        if self.failure().is_some() {
            return None;
        }
        let challenge = self.challenge.and_then(|challenge| challenge.at);
        [self.retransmit_at, self.ack_at, self.probe_window_at, challenge, keep_alive]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what time brings.
    pub fn handle_timeout(&mut self, now: Micros) {
        let is_due = |at: Option<Micros>| at.is_some_and(|at| at <= now);
        if self.failure().is_some() {
            return;
        }
        if is_due(self.retransmit_at) {
            self.retransmit_at = None;
            self.retransmit(now);
        }
        if is_due(self.ack_at) {
            (self.ack_at, self.ack_now) = (None, true);
        }
        if is_due(self.probe_window_at) {
            self.probe_window_at = None;
            self.may_overrun = true;
        }
        if let Some(challenge) = self.challenge.as_mut().filter(|challenge| is_due(challenge.at)) {
            if challenge.asked >= CHALLENGES_MAX {
                self.state = State::Failed(Failure::TimedOut);
                return;
            }
            challenge.at = None;
            challenge.ask_now = true;
        }
        if self.is_open() && now >= self.last_sent + KEEP_ALIVE {
            self.ack_now = true;
        }
    }

    fn retransmit(&mut self, now: Micros) {
        self.silence += 1;
        let most = if self.is_open() { SILENCE_MAX } else { SYNS_MAX };
        if self.silence >= most {
            self.state = State::Failed(Failure::TimedOut);
            return;
        }
        self.rtt.timed_out();
        if !self.is_open() {
            self.send_syn = true;
            return;
        }
        match self.outbound.timed_out() {
            Some(len) => self.mtu.lost(now, HEADER_LEN + len, false),
            None => {
                self.mtu.unsent();
                self.ledbat.timed_out(self.payload_max());
                // A closed window is none of the path's doing.
                self.stalls += u32::from(self.peer_window > 0);
                if self.stalls == BLACK_HOLE {
                    self.mtu.black_hole(now);
                }
            }
        }
    }

    fn payload_max(&self) -> usize {
        self.mtu.current() - HEADER_LEN
    }

    #[cfg(test)]
    pub(super) fn check(&self) {
        self.outbound.check();
    }
}
