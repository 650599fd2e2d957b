//! A torrent's web seeds at its home: what they are asked for, and what becomes of what they bring.
//!
//! Role: takes runs of pieces from the picker, lends their memory to the web seed thread ([`crate::webseeds`]), and
//! hands what comes back to the hash pool, as pieces of peers are. Owner: the torrent's home shard. Invariants: a lent
//! piece is Elsewhere in the picker and counted in `busy` until it comes back, so nothing ends, moves or is looked at
//! before; web seeds hold half of the shard's piece memory at most.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ccbt_protocol::ids::{PieceIndex, TorrentKey};
use ccbt_protocol::rate::Way;
use ccbt_protocol::webseed::{Failure, Outcome, SeedId, Seeds, run, segments};
use ccbt_storage::arena::PieceBuf;
use ccbt_storage::messages::HashJob;

use crate::messages::{Event, FromShard};
use crate::shard::{PIECES_MAX, Shard};
use crate::webseeds::{Command, Fetch, FromWeb, Site, WebCounts};

/// Web seeds of a torrent that are used.
pub const SITES_MAX: usize = 32;
/// A request that brings no piece for so long is called back when peers have nothing else to do.
const STALLED: Duration = Duration::from_secs(2);
/// How long a seed rests that has nothing to offer now.
const NOTHING: Duration = Duration::from_secs(1);

/// A request under way.
struct Request {
    seed: SeedId,
    /// Pieces that are lent.
    held: usize,
    /// Of the last piece.
    progress: Instant,
    cancelled: bool,
}

/// The web seeds of one torrent.
pub(crate) struct WebSources {
    seeds: Seeds,
    sites: Vec<Arc<Site>>,
    requests: HashMap<u32, Request>,
    next: u32,
    /// Who brought the pieces that wait for their verdict.
    brought: HashMap<PieceIndex, SeedId>,
    /// Bytes that the thread may receive and has not, where a limit applies.
    allowed: Option<u64>,
}

impl WebSources {
    /// `None`: there are none.
    pub fn new(sites: &[Arc<Site>]) -> Option<Box<Self>> {
        let sites: Vec<Arc<Site>> = sites.iter().take(SITES_MAX).cloned().collect();
        (!sites.is_empty()).then(|| {
            Box::new(Self {
                seeds: Seeds::new(sites.len()),
                sites,
                requests: HashMap::new(),
                next: 0,
                brought: HashMap::new(),
                allowed: None,
            })
        })
    }

    /// For the status.
    pub fn counts(&self) -> WebCounts {
        let (known, active, banned) = self.seeds.counts();
        WebCounts { known, active, banned }
    }

    /// Whether anything is asked for.
    pub fn is_busy(&self) -> bool {
        !self.requests.is_empty()
    }

    /// When a seed has rested.
    pub fn next_wakeup(&self, now: Instant) -> Option<Instant> {
        self.seeds.next_wakeup(now)
    }
}

impl Shard {
    /// Asks web seeds for as much as they, the disk and memory take. Called whenever something happened to the torrent.
    pub(crate) fn feed_web(&mut self, index: usize) {
        while self.homes[index].web.is_some() && self.feed_once(index) {}
        self.allow_web(index);
    }

    /// Sends one request; whether another one may follow.
    fn feed_once(&mut self, index: usize) -> bool {
        let (now, half) = (self.now, self.partition.capacity() / 2);
        let limited = self.is_limited(index, Way::Down);
        let Some(thread) = self.webseeds.clone() else { return false };
        let home = &mut self.homes[index];
        if !home.may_fetch() || home.paused || home.part.is_satellite() || home.seed_only {
            return false;
        }
        let behind = home.is_behind(now, self.partition.capacity());
        let (Some(torrent), Some(web)) = (&mut home.torrent, &mut home.web) else { return false };
        if torrent.picker().startable() == 0 {
            return false;
        }
        let Some(seed) = web.seeds.next(now) else { return false };
        if behind {
            self.wait_for_backlog(index);
            return false;
        }
        let piece_len = u64::from(home.meta.geometry.piece_len());
        let count = web.seeds.run_bytes(seed).div_ceil(piece_len).max(1) as u32;
        let (meta, spec, seeds) = (&home.meta, &home.spec, &web.seeds);
        let usable = |piece| {
            !seeds.lacks_any(seed) || run::files_of(meta, piece).all(|file| !seeds.lacks(now, seed, file))
        };
        let mut pieces = VecDeque::new();
        let (held, partition, in_use) = (&mut self.web_bytes, &mut self.partition, &mut self.pieces);
        let mut starved = false;
        let acquire = |piece: PieceIndex| {
            let len = meta.geometry.piece_size(piece);
            let room = *in_use < PIECES_MAX && (*held == 0 || *held + len as usize <= half);
            let Some(buf) = room.then(|| partition.alloc(len, spec.phase(piece))).flatten() else {
                starved = true;
                return false;
            };
            (*in_use, *held) = (*in_use + 1, *held + len as usize);
            pieces.push_back(buf);
            true
        };
        let lowest = web.seeds.is_sequential(seed);
        let lent = torrent.lend_run(count, lowest, &mut self.rng, usable, acquire);
        let Some(&first) = lent.first() else {
            if starved && !std::mem::replace(&mut home.starved, true) {
                self.starved.push(index);
            } else if !starved {
                web.seeds.rest(now, seed, NOTHING);
            }
            return !starved;
        };
        home.busy += lent.len();
        web.seeds.begun(seed);
        let job = web.next;
        web.next = web.next.wrapping_add(1);
        web.requests.insert(job, Request { seed, held: lent.len(), progress: now, cancelled: false });
        if limited {
            web.allowed.get_or_insert(0);
        }
        let fetch = Fetch {
            torrent: home.key,
            job,
            home: self.others[self.config.index].clone(),
            site: web.sites[seed].clone(),
            first,
            segments: segments(&home.meta, first, lent.len() as u32),
            pieces,
            limited,
        };
        thread.send(Command::Fetch(Box::new(fetch)));
        true
    }

    pub(crate) fn on_web(&mut self, key: TorrentKey, message: FromWeb) {
        // Whoever lends memory stays until it is back; only word of progress may come later.
        let Some(&index) = self.by_key.get(&key) else { return };
        let now = self.now;
        let home = &mut self.homes[index];
        let Some(web) = &mut home.web else { return };
        match message {
            FromWeb::Progress(bytes) => {
                if let Some(torrent) = &mut home.torrent {
                    torrent.web_received(now, bytes);
                }
                if let Some(allowed) = &mut web.allowed {
                    *allowed = allowed.saturating_sub(bytes);
                }
            }
            FromWeb::Piece { job, piece, buf } => {
                self.web_bytes -= buf.len();
                let request = web.requests.get_mut(&job).expect("a piece of a request under way");
                (request.progress, request.held) = (now, request.held - 1);
                web.brought.insert(piece, request.seed);
                home.torrent.as_mut().expect("it stays while pieces are lent").web_arrived(piece);
                // It goes on being counted, now as one that is hashed.
                let expected = home.meta.piece_hash(piece);
                self.gather(index, HashJob { torrent: key, piece, expected, buf });
            }
            FromWeb::Ended { job, first, left, outcome } => {
                self.end_request(index, job, first, left, &outcome)
            }
        }
        self.touch(index);
    }

    fn end_request(
        &mut self,
        index: usize,
        job: u32,
        first: PieceIndex,
        left: VecDeque<PieceBuf>,
        outcome: &Outcome,
    ) {
        let now = self.now;
        let home = &mut self.homes[index];
        let (Some(web), Some(torrent)) = (&mut home.web, &mut home.torrent) else {
            panic!("the end of a request of a torrent that asks for nothing")
        };
        let request = web.requests.remove(&job).expect("a request ends once");
        assert_eq!(request.held, left.len(), "memory that web seeds hold");
        web.seeds.ended(now, request.seed, outcome);
        home.busy -= left.len();
        for nth in 0..left.len() as u32 {
            torrent.admit(PieceIndex(first.0 + nth));
        }
        torrent.mark_hungry();
        if let Err(failure) = &outcome.result
            && *failure != Failure::Cancelled
        {
            let url = web.sites[request.seed].url.clone();
            let told = Event::WebSeed { url, reason: failure.to_string() };
            let key = home.key;
            self.tell(FromShard::Event(key, told));
        }
        for buf in left {
            self.web_bytes -= buf.len();
            self.free_piece(buf);
        }
    }

    /// The hash of a piece is known. Who sent a wrong one is asked for nothing more: nobody else had a part in it.
    pub(crate) fn web_verdict(&mut self, index: usize, piece: PieceIndex, ok: bool) {
        let home = &mut self.homes[index];
        let Some(web) = &mut home.web else { return };
        let Some(seed) = web.brought.remove(&piece) else { return };
        if ok || !web.seeds.ban(seed) {
            return;
        }
        let url = web.sites[seed].url.clone();
        let reason = format!("it sent piece {piece} with a wrong hash and is not asked again");
        let key = home.key;
        self.tell(FromShard::Event(key, Event::WebSeed { url, reason }));
        self.cancel_web(index, |request| request.seed == seed);
    }

    /// The torrent ends, rests, or is to be looked at or moved: what is lent is called back.
    pub(crate) fn stop_web(&mut self, index: usize) {
        self.cancel_web(index, |_| true);
    }

    fn cancel_web(&mut self, index: usize, which: impl Fn(&Request) -> bool) {
        let home = &mut self.homes[index];
        let (Some(web), Some(thread)) = (&mut home.web, &self.webseeds) else { return };
        for (job, request) in web.requests.iter_mut().filter(|(_, request)| which(request)) {
            if !std::mem::replace(&mut request.cancelled, true) {
                thread.send(Command::Cancel(home.key, *job));
            }
        }
    }

    /// Once a second: slow web seeds make way for peers, and what slow peers have begun for web seeds.
    pub(crate) fn tick_web(&mut self, index: usize) {
        let now = self.now;
        let home = &mut self.homes[index];
        let is_running = home.is_running();
        let (Some(web), Some(torrent)) = (&home.web, &mut home.torrent) else { return };
        if !is_running || torrent.is_finished() || torrent.picker().startable() > 0 {
            return;
        }
        if torrent.has_idle_peer(now) {
            self.cancel_web(index, |request| now.saturating_duration_since(request.progress) >= STALLED);
        } else if !web.is_busy() && web.seeds.next(now).is_some() {
            self.abandon_idle(index);
            if let Some(torrent) = &mut self.homes[index].torrent {
                torrent.rest_useless(now);
            }
        }
    }

    /// The user wants a torrent to go on now.
    pub(crate) fn wake_web(&mut self, index: usize) {
        if let Some(web) = &mut self.homes[index].web {
            web.seeds.wake();
        }
    }

    /// Tells the thread how much may come for a torrent, where limits apply.
    fn allow_web(&mut self, index: usize) {
        let Some(thread) = self.webseeds.clone() else { return };
        let limited = self.is_limited(index, Way::Down);
        let home = &mut self.homes[index];
        let (key, Some(web)) = (home.key, &mut home.web) else { return };
        if !limited {
            if web.allowed.take().is_some() {
                thread.send(Command::Allow(key, None));
            }
            return;
        }
        let had = web.allowed.is_some();
        let unused = *web.allowed.get_or_insert(0);
        if !had {
            // From now on only what is allowed comes.
            thread.send(Command::Allow(key, Some(0)));
        }
        if !web.is_busy() {
            return;
        }
        let more = self.admit_web(index, unused);
        if more > 0 {
            let web = self.homes[index].web.as_mut().expect("just seen");
            web.allowed = web.allowed.map(|unused| unused + more);
            thread.send(Command::Allow(key, Some(more)));
        }
    }
}
