//! The synthetic leecher: N peers that keep a window of requests outstanding and drop what they get.
//!
//! Role: the load for clients that seed. Each connection comes from an address of its own, takes pieces from the
//! common [`WorkPool`], checks blocks against the template and times each from request to last byte.
//! Owner: `transfer::run`, one call per run.
//! Invariant: a run ends with every block received and checked exactly once, or with an error.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::codec::{self, Frame, FrameParser, id};
use super::net::{self, Interest, Poller, Ready};
use super::pool::WorkPool;
use crate::error::BenchError;
use crate::payload::{BLOCK_LEN, Payload};
use crate::stats::Latencies;

/// Bytes of one receive: some blocks, little enough to stay in a core's cache.
const RECEIVE_LEN: usize = 256 << 10;
/// Bytes compared at each end of a block.
const EDGE_LEN: usize = 64;
/// One block in this many is compared whole.
const FULL_CHECK_EVERY: u64 = 64;
/// How long the loop sleeps at most.
const TICK: Duration = Duration::from_millis(20);
/// Pause before a closed connection is dialled again.
const REDIAL_PAUSE: Duration = Duration::from_millis(100);
/// Requests to keep outstanding with a client that does not announce `reqq` (BEP 10 names no default; 250 is usual).
const REQQ_DEFAULT: usize = 250;

/// What to fetch, from whom and how.
pub struct FetchPlan {
    /// The torrent.
    pub payload: Arc<Payload>,
    /// The seeding client.
    pub target: SocketAddrV4,
    /// Number of peers, each with an address of its own.
    pub connections: usize,
    /// Requests each keeps outstanding, unless the client's `reqq` is lower.
    pub window: usize,
    /// Threads to spread the connections over.
    pub threads: usize,
    /// Set from outside to give up.
    pub cancel: Arc<AtomicBool>,
}

/// What the leecher saw, summed over its threads.
#[derive(Debug, Default)]
pub struct FetchReport {
    /// From the first dial to the last block.
    pub elapsed: Duration,
    /// CPU time of its threads.
    pub cpu: Duration,
    /// Blocks received.
    pub blocks: u64,
    /// Connections that completed a handshake.
    pub handshakes: u64,
    /// CHOKE messages received.
    pub chokes: u64,
    /// Requests the client rejected (BEP 6).
    pub rejects: u64,
    /// Blocks that nobody had asked for.
    pub unrequested: u64,
    /// Blocks with wrong content.
    pub wrong: u64,
    /// From request to last byte of the block.
    pub round_trip: Latencies,
}

/// Fetches the whole torrent once; blocks until it is here or `cancel` is set.
///
/// Errors: cancelled, wrong content, or a failure of our own sockets. A client that closes is dialled again.
pub fn fetch(plan: &FetchPlan) -> Result<FetchReport, BenchError> {
    let pool = WorkPool::new(&plan.payload);
    let started = Instant::now();
    let threads = plan.threads.clamp(1, plan.connections.max(1));
    let reports: Vec<io::Result<FetchReport>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|nth| {
                let pool = &pool;
                scope.spawn(move || Worker::new(plan, pool, (nth..plan.connections).step_by(threads))?.run())
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("leecher threads do not panic")).collect()
    });
    let mut total = FetchReport::default();
    for report in reports {
        let report = report.map_err(BenchError::socket("leecher loop"))?;
        total.elapsed = total.elapsed.max(report.elapsed);
        total.cpu += report.cpu;
        total.blocks += report.blocks;
        total.handshakes += report.handshakes;
        total.chokes += report.chokes;
        total.rejects += report.rejects;
        total.unrequested += report.unrequested;
        total.wrong += report.wrong;
        total.round_trip.merge(&report.round_trip);
    }
    total.elapsed = started.elapsed();
    if total.wrong > 0 {
        return Err(BenchError::Client(format!("{} blocks had wrong content", total.wrong)));
    }
    if pool.missing() > 0 {
        return Err(BenchError::Client(format!("cancelled with {} blocks missing", pool.missing())));
    }
    Ok(total)
}

struct Outstanding {
    block: u64,
    asked: Instant,
}

/// Protocol state of one connection, apart from its parser.
struct Puller {
    fast: bool,
    has_all: bool,
    unchoked: bool,
    window: usize,
    /// Rest of the piece in work.
    work: Range<u64>,
    outstanding: VecDeque<Outstanding>,
    out: Vec<u8>,
    /// Block whose payload is arriving; `None` while an unrequested one is.
    arriving: Option<Outstanding>,
}

/// What the reactions of a [`Puller`] need from its thread.
struct Context<'a> {
    payload: &'a Payload,
    pool: &'a WorkPool,
    window: usize,
    report: &'a mut FetchReport,
    now: Instant,
}

impl Puller {
    fn new(plan: &FetchPlan) -> Self {
        let hello = codec::handshake(plan.payload.info_hash(), super::random_peer_id());
        Self {
            fast: false,
            has_all: false,
            unchoked: false,
            window: plan.window.min(REQQ_DEFAULT),
            work: 0..0,
            outstanding: VecDeque::new(),
            out: hello.to_vec(),
            arriving: None,
        }
    }

    /// Reacts to one frame; false ends the connection.
    fn on_frame(&mut self, frame: Frame<'_>, context: &mut Context<'_>) -> bool {
        match frame {
            Frame::Handshake(hello) => {
                if hello.info_hash != context.payload.info_hash() {
                    return false;
                }
                context.report.handshakes += 1;
                self.fast = hello.fast;
                if hello.fast {
                    codec::push_message(&mut self.out, id::HAVE_NONE, &[]);
                }
                if hello.extended {
                    codec::push_extended_handshake(&mut self.out);
                }
                codec::push_message(&mut self.out, id::INTERESTED, &[]);
            }
            Frame::Block { piece, begin, len, offset, data } => {
                let place = (piece, begin, len);
                self.on_block(place, offset, data, context);
            }
            Frame::Message { id, body } => self.on_message(id, body, context),
            Frame::KeepAlive => {}
        }
        true
    }

    fn on_message(&mut self, kind: u8, body: &[u8], context: &mut Context<'_>) {
        match kind {
            id::HAVE_ALL => self.has_all = true,
            id::BITFIELD => self.has_all = codec::bitfield_is_full(body, context.payload.piece_count()),
            id::UNCHOKE => self.unchoked = true,
            id::CHOKE => {
                self.unchoked = false;
                context.report.chokes += 1;
                // BEP 6 promises a REJECT or the block for each request; without it a choke drops them all.
                if !self.fast {
                    self.give_back_all(context.pool);
                }
            }
            id::REJECT => {
                if let Ok((piece, begin, len)) = codec::parse_block_message(kind, body)
                    && let Some(found) = self.take_outstanding((piece, begin, len as usize), context.payload)
                {
                    context.report.rejects += 1;
                    context.pool.give_back(found.block..found.block + 1);
                }
            }
            id::EXTENDED if body.first() == Some(&0) => {
                if let Some(reqq) = codec::parse_reqq(body) {
                    self.window = context.window.min(reqq.max(1));
                }
            }
            _ => {}
        }
    }

    fn take_outstanding(&mut self, place: (u32, u32, usize), payload: &Payload) -> Option<Outstanding> {
        let (piece, begin, len) = place;
        let at = self.outstanding.iter().position(|asked| payload.place_of(asked.block) == (piece, begin))?;
        (len == BLOCK_LEN).then(|| self.outstanding.remove(at))?
    }

    fn on_block(&mut self, place: (u32, u32, usize), offset: usize, data: &[u8], context: &mut Context<'_>) {
        if offset == 0 {
            self.arriving = self.take_outstanding(place, context.payload);
            if self.arriving.is_none() {
                context.report.unrequested += 1;
            }
        }
        let Some(arriving) = &self.arriving else { return };
        let block = arriving.block;
        if !content_is_right(context.payload.block(block), block, offset, data) {
            context.report.wrong += 1;
        }
        if offset + data.len() == place.2 {
            context.report.round_trip.record(context.now - arriving.asked);
            context.report.blocks += 1;
            context.pool.received();
            self.arriving = None;
        }
    }

    /// Tops the window up with requests.
    fn ask(&mut self, context: &Context<'_>) {
        if !(self.unchoked && self.has_all) {
            return;
        }
        while self.outstanding.len() < self.window {
            let Some(block) = self.work.next() else {
                match context.pool.take() {
                    Some(work) => self.work = work,
                    None => return,
                }
                continue;
            };
            let (piece, begin) = context.payload.place_of(block);
            codec::push_block_message(&mut self.out, id::REQUEST, piece, begin, BLOCK_LEN as u32);
            self.outstanding.push_back(Outstanding { block, asked: context.now });
        }
    }

    fn give_back_all(&mut self, pool: &WorkPool) {
        pool.give_back(std::mem::take(&mut self.work));
        let undone = self.arriving.take().into_iter().chain(self.outstanding.drain(..));
        undone.for_each(|asked| pool.give_back(asked.block..asked.block + 1));
    }

    /// Sends what is queued; true if something is left.
    fn flush(&mut self, mut stream: &TcpStream) -> io::Result<bool> {
        while !self.out.is_empty() {
            match stream.write(&self.out) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => drop(self.out.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}

/// Compares the edges of every block, and the whole of one in [`FULL_CHECK_EVERY`].
fn content_is_right(expected: &[u8], block: u64, offset: usize, data: &[u8]) -> bool {
    let end = offset + data.len();
    let same = |range: Range<usize>| {
        let range = range.start.max(offset)..range.end.min(end);
        range.is_empty() || expected[range.clone()] == data[range.start - offset..range.end - offset]
    };
    match block.is_multiple_of(FULL_CHECK_EVERY) {
        true => same(0..BLOCK_LEN),
        false => same(0..EDGE_LEN) && same(BLOCK_LEN - EDGE_LEN..BLOCK_LEN),
    }
}

struct Connection {
    stream: TcpStream,
    parser: FrameParser,
    puller: Puller,
    interest: Interest,
}

/// One thread's event loop; a connection's token is its place in `connections`.
struct Worker<'a> {
    plan: &'a FetchPlan,
    pool: &'a WorkPool,
    poller: Poller,
    numbers: Vec<usize>,
    connections: Vec<Option<Connection>>,
    redial: Vec<Instant>,
    report: FetchReport,
    buf: Vec<u8>,
}

impl<'a> Worker<'a> {
    fn new(
        plan: &'a FetchPlan,
        pool: &'a WorkPool,
        numbers: impl Iterator<Item = usize>,
    ) -> io::Result<Self> {
        let numbers: Vec<_> = numbers.collect();
        Ok(Self {
            plan,
            pool,
            poller: Poller::new()?,
            connections: numbers.iter().map(|_| None).collect(),
            redial: vec![Instant::now(); numbers.len()],
            numbers,
            report: FetchReport::default(),
            buf: vec![0; RECEIVE_LEN],
        })
    }

    fn run(mut self) -> io::Result<FetchReport> {
        let mut ready: Vec<Ready> = Vec::new();
        while self.pool.missing() > 0 && self.report.wrong == 0 && !self.plan.cancel.load(Ordering::Relaxed) {
            self.dial_where_due()?;
            self.poller.wait(TICK, &mut ready)?;
            for event in &ready {
                self.serve(event.token as usize, event.readable)?;
            }
            if ready.is_empty() {
                // Work that another connection gave back wakes nobody: look for it when nothing else happens.
                (0..self.connections.len()).try_for_each(|nth| self.serve(nth, false))?;
            }
        }
        self.report.cpu = super::thread_cpu();
        Ok(self.report)
    }

    fn dial_where_due(&mut self) -> io::Result<()> {
        for nth in 0..self.connections.len() {
            if self.connections[nth].is_some() || self.redial[nth] > Instant::now() {
                continue;
            }
            self.redial[nth] = Instant::now() + REDIAL_PAUSE;
            let Ok(stream) = net::dial(net::leecher_address(self.numbers[nth]), self.plan.target) else {
                continue;
            };
            stream.set_nodelay(true)?;
            self.poller.add(&stream, nth as u64, Interest::ReadWrite)?;
            let (parser, puller) = (FrameParser::new(BLOCK_LEN), Puller::new(self.plan));
            self.connections[nth] =
                Some(Connection { stream, parser, puller, interest: Interest::ReadWrite });
        }
        Ok(())
    }

    /// Reads if there is something, asks for more, and sends.
    fn serve(&mut self, nth: usize, readable: bool) -> io::Result<()> {
        let Some(connection) = self.connections[nth].as_mut() else { return Ok(()) };
        let mut context = Context {
            payload: &self.plan.payload,
            pool: self.pool,
            window: self.plan.window,
            report: &mut self.report,
            now: Instant::now(),
        };
        let alive = (!readable || read_frames(connection, &mut self.buf, &mut context)) && {
            connection.puller.ask(&context);
            match connection.puller.flush(&connection.stream) {
                Ok(left) => {
                    let interest = if left { Interest::ReadWrite } else { Interest::Read };
                    if interest != connection.interest {
                        connection.interest = interest;
                        self.poller.change(&connection.stream, nth as u64, interest)?;
                    }
                    true
                }
                Err(_) => false,
            }
        };
        if !alive && let Some(mut closed) = self.connections[nth].take() {
            closed.puller.give_back_all(self.pool);
            self.redial[nth] = Instant::now() + REDIAL_PAUSE;
        }
        Ok(())
    }
}

/// Reads once and reacts; false if the connection is over.
fn read_frames(connection: &mut Connection, buf: &mut [u8], context: &mut Context<'_>) -> bool {
    let mut input: &[u8] = match connection.stream.read(buf) {
        Ok(0) => return false,
        Ok(len) => &buf[..len],
        Err(error) => return matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
    };
    context.now = Instant::now();
    loop {
        match connection.parser.next(&mut input) {
            Ok(None) => return true,
            Ok(Some(frame)) if connection.puller.on_frame(frame, context) => {}
            Ok(Some(_)) | Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_checks_see_the_edges_of_all_and_the_middle_of_some() {
        let payload = Payload::new(2 << 20, 1 << 20).expect("valid sizes");
        let damaged = |number: u64, at: usize| {
            let mut data = payload.block(number).to_vec();
            data[at] ^= 1;
            // Cut in two at an odd place, as a socket would.
            !(content_is_right(payload.block(number), number, 0, &data[..5_000])
                && content_is_right(payload.block(number), number, 5_000, &data[5_000..]))
        };
        for at in [0, 63, BLOCK_LEN - 64, BLOCK_LEN - 1] {
            assert!(damaged(1, at) && damaged(64, at), "edge byte {at}");
        }
        assert!(damaged(64, 8_000) && damaged(0, 4_999));
        assert!(content_is_right(payload.block(7), 7, 0, payload.block(7)));
    }

    #[test]
    fn a_choke_without_fast_returns_all_work_and_with_fast_waits_for_rejects() {
        let payload = Arc::new(Payload::new(1 << 20, 1 << 20).expect("valid sizes"));
        let plan = FetchPlan {
            payload: Arc::clone(&payload),
            target: SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 1),
            connections: 1,
            window: 8,
            threads: 1,
            cancel: Arc::default(),
        };
        for fast in [false, true] {
            let pool = WorkPool::new(&payload);
            let mut report = FetchReport::default();
            let (window, now) = (8, Instant::now());
            let mut context = Context { payload: &payload, pool: &pool, window, report: &mut report, now };
            let mut puller = Puller { fast, has_all: true, unchoked: true, ..Puller::new(&plan) };
            puller.ask(&context);
            assert_eq!(puller.outstanding.len(), 8);
            puller.on_message(id::CHOKE, &[], &mut context);
            assert_eq!(puller.outstanding.len(), if fast { 8 } else { 0 });
            let mut reject = Vec::new();
            codec::push_block_message(&mut reject, id::REJECT, 0, BLOCK_LEN as u32, BLOCK_LEN as u32);
            puller.on_message(id::REJECT, &reject[5..], &mut context);
            assert_eq!(context.report.rejects, u64::from(fast));
            puller.give_back_all(&pool);
            let mut open: Vec<u64> = std::iter::from_fn(|| pool.take()).flatten().collect();
            open.sort_unstable();
            assert_eq!(open, (0..64).collect::<Vec<_>>(), "nothing lost, nothing twice");
        }
    }
}
