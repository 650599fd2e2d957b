//! The synthetic seeder: N peers that have everything, unchoke at once and answer requests in order.
//!
//! Role: the load for clients that download. Each peer listens on an address of its own; for clients that refuse to
//! dial loopback peers it dials them instead ([`Seeder::dial`]). Owner: `transfer::run`, one seeder per run.
//! Invariant: block bytes go from the shared template to the socket by `writev`, never through a buffer.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::codec::{self, Frame, FrameParser, PIECE_HEADER_LEN, id};
use super::net::{self, Interest, Poller, Ready};
use crate::error::BenchError;
use crate::payload::Payload;
use crate::stats::Latencies;

/// Requests one peer may have waiting; the extension handshake announces 2000, some clients overshoot a little.
const QUEUE_MAX: usize = 8_192;
/// Items per `writev`; two slices each, far below IOV_MAX.
const BATCH: usize = 64;
/// How long the loop sleeps at most, so that stop requests and redials are seen.
const TICK: Duration = Duration::from_millis(20);
/// Pause before dialling again a client that refused or closed.
const REDIAL_PAUSE: Duration = Duration::from_millis(200);

/// What the seeder saw, summed over its threads.
#[derive(Debug, Default)]
pub struct SeederReport {
    /// CPU time of its threads.
    pub cpu: Duration,
    /// Block bytes sent.
    pub bytes: u64,
    /// Connections that completed a handshake.
    pub handshakes: u64,
    /// Peers that broke the protocol (encrypted first attempts are among them).
    pub protocol_errors: u64,
    /// Longest queue of waiting requests seen on one connection: the client's pipeline depth.
    pub depth_max: usize,
    /// Time between a connection's consecutive requests.
    pub inter_arrival: Latencies,
}

struct Shared {
    payload: Arc<Payload>,
    stop: AtomicBool,
    first_handshake: OnceLock<Instant>,
    first_request: OnceLock<Instant>,
    dial: OnceLock<SocketAddrV4>,
}

/// A running seeder; its threads end with [`Seeder::stop`] or when it is dropped.
pub struct Seeder {
    shared: Arc<Shared>,
    peers: Vec<SocketAddrV4>,
    threads: Vec<JoinHandle<io::Result<SeederReport>>>,
}

impl Seeder {
    /// Listens on `connections` addresses, spread over `threads` threads.
    pub fn start(payload: Arc<Payload>, connections: usize, threads: usize) -> Result<Self, BenchError> {
        let (port, listeners) = net::listen_on_all(connections).map_err(BenchError::socket("listen"))?;
        let peers = (0..connections).map(|nth| SocketAddrV4::new(net::seeder_address(nth), port)).collect();
        let shared = Arc::new(Shared {
            payload,
            stop: AtomicBool::new(false),
            first_handshake: OnceLock::new(),
            first_request: OnceLock::new(),
            dial: OnceLock::new(),
        });
        let mut shares: Vec<Vec<_>> = (0..threads.clamp(1, connections.max(1))).map(|_| Vec::new()).collect();
        let count = shares.len();
        for (nth, listener) in listeners.into_iter().enumerate() {
            shares[nth % count].push((net::seeder_address(nth), listener));
        }
        let threads = shares
            .into_iter()
            .map(|share| {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || Worker::new(shared, share)?.run())
            })
            .collect();
        Ok(Self { shared, peers, threads })
    }

    /// Addresses a client can connect to, one per peer.
    pub fn peers(&self) -> &[SocketAddrV4] {
        &self.peers
    }

    /// From now on every peer keeps a connection to `target` by dialling it.
    pub fn dial(&self, target: SocketAddrV4) {
        // A second target would be a second run, and a run has its own seeder.
        assert!(self.shared.dial.set(target).is_ok(), "a seeder dials one client");
    }

    /// When the first client handshake arrived.
    pub fn first_handshake(&self) -> Option<Instant> {
        self.shared.first_handshake.get().copied()
    }

    /// When the first request arrived: the start of the transfer.
    pub fn first_request(&self) -> Option<Instant> {
        self.shared.first_request.get().copied()
    }

    /// Ends the threads and sums up what they saw.
    pub fn stop(mut self) -> Result<SeederReport, BenchError> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut total = SeederReport::default();
        for thread in self.threads.drain(..) {
            let report = thread.join().expect("seeder threads do not panic");
            let report = report.map_err(BenchError::socket("seeder loop"))?;
            total.cpu += report.cpu;
            total.bytes += report.bytes;
            total.handshakes += report.handshakes;
            total.protocol_errors += report.protocol_errors;
            total.depth_max = total.depth_max.max(report.depth_max);
            total.inter_arrival.merge(&report.inter_arrival);
        }
        Ok(total)
    }
}

impl Drop for Seeder {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

/// Something to send, whole.
enum Item {
    Control(Vec<u8>),
    Block { header: [u8; PIECE_HEADER_LEN], payload: Range<usize> },
}

impl Item {
    fn len(&self) -> usize {
        match self {
            Self::Control(bytes) => bytes.len(),
            Self::Block { payload, .. } => PIECE_HEADER_LEN + payload.len(),
        }
    }
}

/// Protocol state of one connection, apart from its parser.
struct Peer {
    queue: VecDeque<Item>,
    /// Bytes of the queue's front that are sent.
    sent: usize,
    greeted: bool,
    fast: bool,
    last_request: Option<Instant>,
}

impl Peer {
    fn new() -> Self {
        Self { queue: VecDeque::new(), sent: 0, greeted: false, fast: false, last_request: None }
    }

    fn greet(&mut self, shared: &Shared) {
        let hello = codec::handshake(shared.payload.info_hash(), super::random_peer_id());
        self.queue.push_back(Item::Control(hello.to_vec()));
        self.greeted = true;
    }

    /// Reacts to one frame; false ends the connection.
    fn on_frame(
        &mut self,
        frame: Frame<'_>,
        now: Instant,
        shared: &Shared,
        report: &mut SeederReport,
    ) -> bool {
        match frame {
            Frame::Handshake(hello) => {
                if hello.info_hash != shared.payload.info_hash() {
                    return false;
                }
                shared.first_handshake.get_or_init(|| now);
                report.handshakes += 1;
                self.fast = hello.fast;
                if !self.greeted {
                    self.greet(shared);
                }
                let mut out = Vec::new();
                if hello.fast {
                    codec::push_message(&mut out, id::HAVE_ALL, &[]);
                } else {
                    let bits = codec::full_bitfield(shared.payload.piece_count());
                    codec::push_message(&mut out, id::BITFIELD, &bits);
                }
                if hello.extended {
                    codec::push_extended_handshake(&mut out);
                }
                codec::push_message(&mut out, id::UNCHOKE, &[]);
                self.queue.push_back(Item::Control(out));
                true
            }
            Frame::Message { id: id::REQUEST, body } => self.on_request(body, now, shared, report),
            Frame::Message { id: id::CANCEL, body } => self.on_cancel(body),
            // It has nothing that we would want; all else needs no answer.
            Frame::Message { .. } | Frame::KeepAlive | Frame::Block { .. } => true,
        }
    }

    fn on_request(&mut self, body: &[u8], now: Instant, shared: &Shared, report: &mut SeederReport) -> bool {
        let Ok((piece, begin, len)) = codec::parse_block_message(id::REQUEST, body) else { return false };
        let Some(payload) = shared.payload.locate(piece, begin, len) else { return false };
        if self.queue.len() >= QUEUE_MAX {
            return false;
        }
        match self.last_request.replace(now) {
            Some(before) => report.inter_arrival.record(now - before),
            None => {
                shared.first_request.get_or_init(|| now);
            }
        }
        self.queue.push_back(Item::Block { header: codec::piece_header(piece, begin, len), payload });
        report.depth_max = report.depth_max.max(self.queue.len());
        true
    }

    /// Drops a request that is not being sent yet, with a REJECT where BEP 6 demands an answer.
    fn on_cancel(&mut self, body: &[u8]) -> bool {
        let Ok((piece, begin, len)) = codec::parse_block_message(id::CANCEL, body) else { return false };
        let wanted = len.checked_add(9).map(|_| codec::piece_header(piece, begin, len));
        let found = self.queue.iter().enumerate().skip(1).find_map(|(at, item)| match item {
            Item::Block { header, .. } if Some(*header) == wanted => Some(at),
            _ => None,
        });
        if let Some(at) = found {
            self.queue.remove(at);
            if self.fast {
                let mut out = Vec::new();
                codec::push_block_message(&mut out, id::REJECT, piece, begin, len);
                self.queue.push_back(Item::Control(out));
            }
        }
        true
    }

    /// Sends until the queue is empty or the socket is full; true if something is left.
    fn flush(&mut self, stream: &TcpStream, payload: &Payload, bytes: &mut u64) -> io::Result<bool> {
        while !self.queue.is_empty() {
            match write_batch(stream, payload, &self.queue, self.sent) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.advance(written, bytes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    fn advance(&mut self, written: usize, bytes: &mut u64) {
        self.sent += written;
        while let Some(front) = self.queue.front()
            && self.sent >= front.len()
        {
            self.sent -= front.len();
            if let Item::Block { payload, .. } = front {
                *bytes += payload.len() as u64;
            }
            self.queue.pop_front();
        }
    }
}

/// One `writev` of the first items of `queue`, of whose front `skip` bytes are sent already.
fn write_batch(
    mut stream: &TcpStream,
    payload: &Payload,
    queue: &VecDeque<Item>,
    skip: usize,
) -> io::Result<usize> {
    let mut slices = [IoSlice::new(&[]); 2 * BATCH];
    let mut used = 0;
    let mut skip = skip;
    let mut add = |bytes: &'_ [u8]| -> Range<usize> {
        let from = skip.min(bytes.len());
        skip -= from;
        from..bytes.len()
    };
    for item in queue.iter().take(BATCH) {
        let parts: [&[u8]; 2] = match item {
            Item::Control(bytes) => [bytes, &[]],
            Item::Block { header, payload: range } => [header, payload.bytes(range.clone())],
        };
        for part in parts {
            let range = add(part);
            if !range.is_empty() {
                slices[used] = IoSlice::new(&part[range]);
                used += 1;
            }
        }
    }
    stream.write_vectored(&slices[..used])
}

struct Connection {
    stream: TcpStream,
    parser: FrameParser,
    peer: Peer,
    interest: Interest,
    /// Which of the worker's addresses dialled it; `None` if it was accepted.
    dialled_from: Option<usize>,
}

/// One thread's event loop. Tokens: listeners by index, connections behind them.
struct Worker {
    shared: Arc<Shared>,
    poller: Poller,
    homes: Vec<(Ipv4Addr, TcpListener)>,
    connections: Vec<Option<Connection>>,
    /// Per home: when to dial next; `None` while a dialled connection lives.
    redial: Vec<Option<Instant>>,
    report: SeederReport,
    buf: Vec<u8>,
}

impl Worker {
    fn new(shared: Arc<Shared>, homes: Vec<(Ipv4Addr, TcpListener)>) -> io::Result<Self> {
        let poller = Poller::new()?;
        for (nth, (_, listener)) in homes.iter().enumerate() {
            poller.add(listener, nth as u64, Interest::Read)?;
        }
        let redial = vec![Some(Instant::now()); homes.len()];
        let report = SeederReport::default();
        Ok(Self { shared, poller, homes, connections: Vec::new(), redial, report, buf: vec![0; 64 << 10] })
    }

    fn run(mut self) -> io::Result<SeederReport> {
        let mut ready: Vec<Ready> = Vec::new();
        while !self.shared.stop.load(Ordering::Relaxed) {
            self.dial_where_due()?;
            self.poller.wait(TICK, &mut ready)?;
            for event in &ready {
                match (event.token as usize).checked_sub(self.homes.len()) {
                    None => self.accept(event.token as usize)?,
                    Some(nth) => self.on_ready(nth, *event)?,
                }
            }
        }
        self.report.cpu = super::thread_cpu();
        Ok(self.report)
    }

    fn dial_where_due(&mut self) -> io::Result<()> {
        let Some(&target) = self.shared.dial.get() else { return Ok(()) };
        let now = Instant::now();
        for home in 0..self.homes.len() {
            if self.redial[home].is_some_and(|at| at <= now) {
                self.redial[home] = Some(now + REDIAL_PAUSE);
                if let Ok(stream) = net::dial(self.homes[home].0, target) {
                    self.redial[home] = None;
                    self.insert(stream, Some(home))?;
                }
            }
        }
        Ok(())
    }

    fn accept(&mut self, home: usize) -> io::Result<()> {
        match self.homes[home].1.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(true)?;
                self.insert(stream, None)
            }
            // The client gave up before we came to it.
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Ok(()),
            Err(_) => Ok(()),
        }
    }

    fn insert(&mut self, stream: TcpStream, dialled_from: Option<usize>) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let slot = self.connections.iter().position(Option::is_none).unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        let mut peer = Peer::new();
        let interest = if dialled_from.is_some() { Interest::ReadWrite } else { Interest::Read };
        if dialled_from.is_some() {
            peer.greet(&self.shared);
        }
        self.poller.add(&stream, (self.homes.len() + slot) as u64, interest)?;
        let parser = FrameParser::new(crate::payload::BLOCK_LEN);
        self.connections[slot] = Some(Connection { stream, parser, peer, interest, dialled_from });
        Ok(())
    }

    fn on_ready(&mut self, nth: usize, event: Ready) -> io::Result<()> {
        // An earlier event of this round may have closed it.
        let Some(connection) = self.connections.get_mut(nth).and_then(Option::as_mut) else { return Ok(()) };
        let alive = (!event.readable
            || read_frames(connection, &mut self.buf, &self.shared, &mut self.report))
            && match connection.peer.flush(&connection.stream, &self.shared.payload, &mut self.report.bytes) {
                Ok(left) => {
                    let interest = if left { Interest::ReadWrite } else { Interest::Read };
                    if interest != connection.interest {
                        connection.interest = interest;
                        self.poller.change(&connection.stream, event.token, interest)?;
                    }
                    true
                }
                Err(_) => false,
            };
        if !alive
            && let Some(closed) = self.connections[nth].take()
            && let Some(home) = closed.dialled_from
        {
            self.redial[home] = Some(Instant::now() + REDIAL_PAUSE);
        }
        Ok(())
    }
}

/// Reads once and reacts; false if the connection is over.
fn read_frames(
    connection: &mut Connection,
    buf: &mut [u8],
    shared: &Shared,
    report: &mut SeederReport,
) -> bool {
    let mut input: &[u8] = match connection.stream.read(buf) {
        Ok(0) => return false,
        Ok(len) => &buf[..len],
        Err(error) => return matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
    };
    let now = Instant::now();
    loop {
        match connection.parser.next(&mut input) {
            Ok(None) => return true,
            Ok(Some(frame)) if connection.peer.on_frame(frame, now, shared, report) => {}
            Ok(Some(_)) | Err(_) => {
                report.protocol_errors += 1;
                return false;
            }
        }
    }
}
