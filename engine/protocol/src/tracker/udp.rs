//! The UDP tracker protocol (BEP 15) with IPv6 peers and BEP 41 options: packets and one exchange's state machine.
//!
//! Owner: the control plane drives one [`Exchange`] per announce over whatever socket it has. Invariant: a packet that
//! is truncated, or whose transaction or action is not the awaited one, changes nothing; packets of other source
//! addresses must not be handed in at all.

use super::{
    AnnounceRequest, AnnounceResponse, Event, PeerCollector, TrackerFailure, clamp_interval, clean_text,
};
use crate::ids::InfoHash;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// First eight bytes of every connect request.
pub const PROTOCOL_ID: u64 = 0x417_2710_1980;
/// Most info-hashes of one scrape request: what fits into a packet without fragments.
pub const SCRAPE_HASHES_MAX: usize = 74;
/// How long a client may use a connection id; trackers accept it for twice as long.
pub const CONNECTION_LIFE: Duration = Duration::from_secs(60);
/// Longest BEP 41 URL data sent, in bytes; more would fragment the packet.
pub const URL_DATA_LEN_MAX: usize = 1020;

const ACTION_CONNECT: u32 = 0;
const ACTION_ANNOUNCE: u32 = 1;
const ACTION_SCRAPE: u32 = 2;
const ACTION_ERROR: u32 = 3;
const OPTION_URL_DATA: u8 = 2;

/// Address family of the packets' carrier: it decides the size of the peer entries in the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressFamily {
    /// Entries of 6 bytes.
    V4,
    /// Entries of 18 bytes.
    V6,
}

impl AddressFamily {
    /// The family of `ip`.
    pub const fn of(ip: &IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// Counts of one torrent from a scrape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScrapeEntry {
    /// Complete peers.
    pub seeders: u32,
    /// Downloads ever completed.
    pub completed: u32,
    /// Incomplete peers.
    pub leechers: u32,
}

/// One decoded packet of a tracker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Answer to connect: the id that further requests carry.
    Connect(u64),
    /// Answer to announce.
    Announce(AnnounceResponse),
    /// Answer to scrape, in the order of the request.
    Scrape(Vec<ScrapeEntry>),
    /// Refusal of any request.
    Error(TrackerFailure),
}

/// A connect request.
pub fn connect_request(transaction: u32) -> [u8; 16] {
    let mut packet = [0; 16];
    packet[..8].copy_from_slice(&PROTOCOL_ID.to_be_bytes());
    packet[8..12].copy_from_slice(&ACTION_CONNECT.to_be_bytes());
    packet[12..].copy_from_slice(&transaction.to_be_bytes());
    packet
}

/// An announce request: 98 bytes, then `url_data` (path and query of the tracker's URL) as BEP 41 options. URL data
/// longer than [`URL_DATA_LEN_MAX`] is left out: half a passkey helps nobody.
pub fn announce_request(
    connection: u64,
    transaction: u32,
    request: &AnnounceRequest,
    url_data: &[u8],
) -> Vec<u8> {
    let mut packet = Vec::with_capacity(98 + url_data.len() + 10);
    packet.extend(connection.to_be_bytes());
    packet.extend(ACTION_ANNOUNCE.to_be_bytes());
    packet.extend(transaction.to_be_bytes());
    packet.extend(request.info_hash.0);
    packet.extend(request.peer_id.0);
    packet.extend(request.downloaded.to_be_bytes());
    packet.extend(request.left.to_be_bytes());
    packet.extend(request.uploaded.to_be_bytes());
    let event: u32 = match request.event {
        Event::None => 0,
        Event::Completed => 1,
        Event::Started => 2,
        Event::Stopped => 3,
    };
    packet.extend(event.to_be_bytes());
    packet.extend(match request.ip {
        Some(IpAddr::V4(ip)) => ip.octets(),
        _ => [0; 4],
    });
    packet.extend(request.key.to_be_bytes());
    packet.extend(request.peers_wanted().map_or(u32::MAX, |n| n.min(i32::MAX as u32)).to_be_bytes());
    packet.extend(request.port.to_be_bytes());
    if url_data.len() <= URL_DATA_LEN_MAX {
        for part in url_data.chunks(255) {
            packet.extend([OPTION_URL_DATA, part.len() as u8]);
            packet.extend(part);
        }
    }
    packet
}

/// A scrape request for at most [`SCRAPE_HASHES_MAX`] hashes; further ones are left out.
pub fn scrape_request(connection: u64, transaction: u32, hashes: &[InfoHash]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(16 + 20 * hashes.len().min(SCRAPE_HASHES_MAX));
    packet.extend(connection.to_be_bytes());
    packet.extend(ACTION_SCRAPE.to_be_bytes());
    packet.extend(transaction.to_be_bytes());
    packet.extend(hashes.iter().take(SCRAPE_HASHES_MAX).flat_map(|hash| hash.0));
    packet
}

/// Path and query of `url` as BEP 41 URL data; empty when there is no path beyond "/".
pub fn url_data(url: &str) -> &[u8] {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split('#').next().unwrap_or(rest);
    match rest.find(['/', '?']) {
        Some(at) if rest.len() > at + 1 => &rest.as_bytes()[at..],
        _ => &[],
    }
}

fn be_u32(packet: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*packet.get(at..)?.first_chunk()?))
}

/// Transaction id of a tracker's packet, for finding the exchange it belongs to; `None` when shorter than 8 bytes.
pub fn transaction_of(packet: &[u8]) -> Option<u32> {
    be_u32(packet, 4)
}

/// Decodes a tracker's packet into its transaction id and content. `None` for truncated packets and unknown actions.
/// A ragged end after the last whole peer or scrape entry is ignored.
pub fn decode(packet: &[u8], family: AddressFamily) -> Option<(u32, Reply)> {
    let action = be_u32(packet, 0)?;
    let transaction = transaction_of(packet)?;
    let body = packet.get(8..)?;
    let reply = match action {
        ACTION_CONNECT => Reply::Connect(u64::from_be_bytes(*body.first_chunk()?)),
        ACTION_ANNOUNCE => {
            let (interval, leechers, seeders) = (be_u32(body, 0)?, be_u32(body, 4)?, be_u32(body, 8)?);
            let mut peers = PeerCollector::default();
            match family {
                AddressFamily::V4 => peers.push_compact_v4(&body[12..]),
                AddressFamily::V6 => peers.push_compact_v6(&body[12..]),
            }
            Reply::Announce(AnnounceResponse {
                interval: clamp_interval(interval.into()),
                seeders: Some(seeders),
                leechers: Some(leechers),
                peers: peers.peers,
                ..AnnounceResponse::default()
            })
        }
        ACTION_SCRAPE => {
            Reply::Scrape(body.as_chunks::<12>().0.iter().take(SCRAPE_HASHES_MAX).map(scrape_entry).collect())
        }
        ACTION_ERROR => Reply::Error(TrackerFailure { reason: clean_text(body), retry_in: None }),
        _ => return None,
    };
    Some((transaction, reply))
}

fn scrape_entry(entry: &[u8; 12]) -> ScrapeEntry {
    let field = |at| be_u32(entry, at).expect("12 bytes hold three fields");
    ScrapeEntry { seeders: field(0), completed: field(4), leechers: field(8) }
}

/// What an exchange asks for once it has a connection id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Query {
    /// An announce, with the BEP 41 URL data to append.
    Announce(Box<AnnounceRequest>, Vec<u8>),
    /// A scrape.
    Scrape(Vec<InfoHash>),
}

/// A connection id and when it was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// The id.
    pub id: u64,
    /// When the tracker's connect reply came.
    pub received: Instant,
}

impl Connection {
    /// Whether a request sent at `now` may still carry this id.
    pub fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.received) < CONNECTION_LIFE
    }
}

/// Retransmission of BEP 15: the n-th wait is `base · 2^n`, n from 0 to 8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPlan {
    /// The first wait; BEP 15 says 15 s.
    pub base: Duration,
    /// Packets sent without an answer before the exchange gives up, at least 1.
    pub tries_max: u32,
}

impl Default for RetryPlan {
    /// 15 s, and every one of BEP 15's nine waits.
    fn default() -> Self {
        Self { base: Duration::from_secs(15), tries_max: 9 }
    }
}

/// How an exchange ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The announce was answered.
    Announced(AnnounceResponse),
    /// The scrape was answered.
    Scraped(Vec<ScrapeEntry>),
    /// The tracker refused.
    Refused(TrackerFailure),
    /// No answer to the last allowed packet.
    TimedOut,
}

/// One request to one UDP tracker: connect if needed, ask, retransmit, reconnect when the id has expired.
///
/// Call order: [`Exchange::poll_transmit`] whenever [`Exchange::deadline`] has come, and send what it returns;
/// [`Exchange::handle_packet`] for each packet of the tracker's address. [`Exchange::outcome`] is set when all is done.
#[derive(Debug)]
pub struct Exchange {
    plan: RetryPlan,
    family: AddressFamily,
    transaction: u32,
    query: Query,
    connection: Option<Connection>,
    /// The id comes from an earlier exchange, so the tracker may have forgotten it (restart, other address).
    connection_is_cached: bool,
    awaiting: Option<u32>,
    query_was_sent: bool,
    tries: u32,
    backoff: u32,
    deadline: Instant,
    outcome: Option<Outcome>,
}

impl Exchange {
    /// An exchange that wants to transmit at once. `transaction` must be unpredictable: it is what keeps off-path
    /// strangers from answering. `cached` is a connection id of an earlier exchange with this tracker.
    pub fn new(
        plan: RetryPlan,
        family: AddressFamily,
        transaction: u32,
        query: Query,
        cached: Option<Connection>,
        now: Instant,
    ) -> Self {
        assert!(plan.tries_max >= 1, "an exchange must be allowed one packet");
        Self {
            plan,
            family,
            transaction,
            query,
            connection: cached,
            connection_is_cached: cached.is_some(),
            awaiting: None,
            query_was_sent: false,
            tries: 0,
            backoff: 0,
            deadline: now,
            outcome: None,
        }
    }

    /// The family of the packets, where it was not known before the first of them came.
    pub fn set_family(&mut self, family: AddressFamily) {
        self.family = family;
    }

    /// When [`Exchange::poll_transmit`] wants to be called next; `None` once there is an outcome.
    pub fn deadline(&self) -> Option<Instant> {
        self.outcome.is_none().then_some(self.deadline)
    }

    /// The end of the exchange, once it has come.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    /// The connection id in use, for caching.
    pub fn connection(&self) -> Option<Connection> {
        self.connection
    }

    /// The packet to send now. `None` before the deadline, and when the tries are used up (then there is an outcome).
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.outcome.is_some() || now < self.deadline {
            return None;
        }
        if self.awaiting.take().is_some() {
            // Trackers drop packets with an id they do not know without a word, so silence may mean just that.
            if self.connection_is_cached {
                self.forget_connection();
            }
            self.backoff = (self.backoff + 1).min(8);
        }
        if self.tries >= self.plan.tries_max {
            self.outcome = Some(Outcome::TimedOut);
            return None;
        }
        if self.connection.is_some_and(|connection| !connection.is_fresh(now)) {
            self.forget_connection();
        }
        self.tries += 1;
        self.deadline = now + self.plan.base.saturating_mul(1 << self.backoff);
        let Some(connection) = self.connection else {
            self.awaiting = Some(ACTION_CONNECT);
            return Some(connect_request(self.transaction).to_vec());
        };
        self.query_was_sent = true;
        Some(match &self.query {
            Query::Announce(request, url_data) => {
                self.awaiting = Some(ACTION_ANNOUNCE);
                announce_request(connection.id, self.transaction, request, url_data)
            }
            Query::Scrape(hashes) => {
                self.awaiting = Some(ACTION_SCRAPE);
                scrape_request(connection.id, self.transaction, hashes)
            }
        })
    }

    /// Takes a packet of the tracker's address. Returns whether it was the awaited one; anything else changes nothing.
    pub fn handle_packet(&mut self, now: Instant, packet: &[u8]) -> bool {
        let (Some(awaiting), None) = (self.awaiting, &self.outcome) else { return false };
        let Some((transaction, reply)) = decode(packet, self.family) else { return false };
        if transaction != self.transaction {
            return false;
        }
        match (awaiting, reply) {
            (ACTION_CONNECT, Reply::Connect(id)) => {
                self.connection = Some(Connection { id, received: now });
                self.connection_is_cached = false;
                self.go_on(now);
            }
            (ACTION_ANNOUNCE, Reply::Announce(response)) => self.outcome = Some(Outcome::Announced(response)),
            (ACTION_SCRAPE, Reply::Scrape(entries)) => self.outcome = Some(Outcome::Scraped(entries)),
            (_, Reply::Error(_)) if self.connection_is_cached => {
                self.forget_connection();
                self.go_on(now);
            }
            (_, Reply::Error(failure)) => self.outcome = Some(Outcome::Refused(failure)),
            _ => return false,
        }
        true
    }

    /// The awaited packet came and there is more to send: at once, and with the tries of a fresh question.
    fn go_on(&mut self, now: Instant) {
        self.awaiting = None;
        self.deadline = now;
        if !self.query_was_sent {
            self.backoff = 0;
        }
        // The answered packet was no lost one. Without this, one try could never get past connect.
        self.tries = self.tries.saturating_sub(1);
    }

    fn forget_connection(&mut self) {
        self.connection = None;
        self.connection_is_cached = false;
    }
}

#[cfg(test)]
mod tests;
