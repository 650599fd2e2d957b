//! Finding torrents of the daemon and telling how they are.

use ccbt_protocol::ids::InfoHash;
use ccbt_protocol::tracker::schedule::is_supported;

use super::api::{self, Activity, ApiError, Event, Stats, Torrent as Row};
use super::core::{Answer, Core};

/// Trackers of a torrent that are asked at a time.
const SCRAPES_MAX: usize = 20;

fn gone() -> ApiError {
    ApiError::new(503, "stopping", "the engine is stopping")
}

impl Core {
    /// The torrent whose info-hash begins with `id`.
    pub fn find(&self, id: &str) -> Result<InfoHash, ApiError> {
        let id = id.to_ascii_lowercase();
        if id.len() > 40 || id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let message = "a torrent is named by its info-hash (40 hexadecimal digits), or its first digits";
            return Err(ApiError::new(400, "bad_info_hash", message));
        }
        if let Ok(hash) = id.parse::<InfoHash>() {
            return match self.torrents.contains_key(&hash) {
                true => Ok(hash),
                false => Err(self.missing(&id)),
            };
        }
        let mut fitting = self.torrents.keys().filter(|hash| hash.to_string().starts_with(&id));
        match (fitting.next(), fitting.next()) {
            (Some(hash), None) => Ok(*hash),
            (Some(_), Some(_)) => {
                let message = format!("several info-hashes begin with {id}: give more digits");
                Err(ApiError::new(400, "ambiguous", message))
            }
            (None, _) => Err(self.missing(&id)),
        }
    }

    fn missing(&self, id: &str) -> ApiError {
        if self.magnets.keys().any(|hash| hash.to_string().starts_with(id)) {
            let message = format!(
                "the metadata of {id} is not there yet; until then it can only be explained, traced and removed"
            );
            return ApiError::new(409, "no_metadata", message);
        }
        let message = format!("no torrent here has an info-hash that begins with {id}");
        ApiError::new(404, "no_such_torrent", message)
    }

    /// The magnet link that `id` names, if it names no torrent: its metadata is not there yet.
    pub fn find_magnet(&self, id: &str) -> Option<InfoHash> {
        let id = id.to_ascii_lowercase();
        let fits = |hash: &&InfoHash| !id.is_empty() && hash.to_string().starts_with(&id);
        let mut fitting = self.magnets.keys().filter(fits);
        match (fitting.next(), fitting.next(), self.torrents.keys().find(fits)) {
            (Some(hash), None, None) => Some(*hash),
            _ => None,
        }
    }

    /// As [`Self::find`], for what is to be changed.
    pub fn find_staying(&self, id: &str) -> Result<InfoHash, ApiError> {
        let hash = self.find(id)?;
        match self.torrents[&hash].leaving {
            None => Ok(hash),
            Some(_) => Err(ApiError::new(409, "removing", format!("the torrent {hash} is being removed"))),
        }
    }

    /// Place in the queue, from 1 (0: it has left), and whether it runs.
    pub fn place(&self, hash: InfoHash) -> (usize, bool) {
        (self.queue.position(hash).map_or(0, |at| at + 1), self.queue.runs(hash))
    }

    /// All torrents in the order of the queue, then those that are leaving.
    pub fn rows(&self) -> Vec<Row> {
        let row = |(at, hash): (usize, &InfoHash)| self.torrents[hash].row(at + 1, self.queue.runs(*hash));
        let mut rows: Vec<Row> = self.queue.order().iter().enumerate().map(row).collect();
        let leaving = self.torrents.values().filter(|torrent| torrent.leaving.is_some());
        rows.extend(leaving.map(|torrent| torrent.row(0, false)));
        rows.extend(self.magnet_rows());
        rows
    }

    /// The torrent as it is now.
    pub fn answer(&self, hash: InfoHash) -> Answer {
        let (position, runs) = self.place(hash);
        Answer::Torrent(Box::new(self.torrents[&hash].row(position, runs)))
    }

    /// Tells readers of torrents with a new status.
    pub fn tell_news(&mut self) {
        let any = self.subscribers.any();
        let changed: Vec<InfoHash> =
            self.torrents.iter().filter(|(_, torrent)| torrent.news).map(|(hash, _)| *hash).collect();
        for hash in changed {
            self.torrents.get_mut(&hash).expect("it was there just now").news = false;
            if any {
                let (position, runs) = self.place(hash);
                let row = self.torrents[&hash].row(position, runs);
                self.subscribers.tell(&Event::Status(Box::new(row)));
            }
        }
    }

    /// The daemon as a whole.
    pub fn stats(&self) -> Stats {
        let rows = self.rows();
        let count = |state| rows.iter().filter(|row| row.state == state).count();
        let limits = self.reloader.limits();
        let found = self.session.discovery_stats().unwrap_or_default();
        let trackers = self.session.tracker_stats();
        let sum = |of: fn(&Row) -> u64| rows.iter().map(of).fold(0, u64::saturating_add);
        Stats {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            port: self.session.port(),
            torrents: rows.len(),
            downloading: count(Activity::Downloading),
            seeding: count(Activity::Seeding),
            queued: count(Activity::Queued),
            paused: count(Activity::Paused),
            failed: count(Activity::Error),
            peers: rows.iter().map(|row| row.peers).sum(),
            down_rate: sum(|row| row.down_rate),
            up_rate: sum(|row| row.up_rate),
            downloaded: sum(|row| row.downloaded),
            uploaded: sum(|row| row.uploaded),
            down_limit: limits.down,
            up_limit: limits.up,
            dht_port: self.session.dht_port(),
            dht_nodes: found.dht.nodes.iter().sum(),
            dht_lookups: found.lookups,
            dht_announced: found.announced,
            dht_stored: found.dht.stored[0],
            lsd_heard: found.lsd_in,
            tracker_hosts: trackers.hosts,
            tracker_hosts_down: trackers.hosts_down,
            tracker_waiting: trackers.waiting,
            tracker_running: trackers.running,
            tracker_answered: trackers.answered,
            tracker_failed: trackers.failed,
            port_mapping: self.session.port_mapping().into(),
            ip_filter_ranges: self.session.ip_filter().map_or(0, |filter| filter.len()),
            filtered_connections: self.session.caches().shards().iter().map(|shard| shard.filtered).sum(),
        }
    }

    /// Asks the home of a torrent how its pieces are. Whoever asked waits for it.
    pub fn pieces(&self, id: &str, cells: api::Cells) -> Result<Answer, ApiError> {
        let hash = self.find_staying(id)?;
        let cells = cells.checked()?;
        let answer = self.torrents[&hash].handle.ask_snapshot().map_err(|_| gone())?;
        Ok(Answer::Pieces(hash, cells, answer))
    }

    /// Asks the home of a torrent how announcing does. Whoever asked waits for it.
    pub fn trackers(&self, id: &str) -> Result<Answer, ApiError> {
        let hash = self.find_staying(id)?;
        let answer = self.torrents[&hash].handle.ask_trackers().map_err(|_| gone())?;
        Ok(Answer::Trackers(hash, answer))
    }

    /// Shards, disks and hash threads.
    pub fn engine(&self) -> api::Engine {
        let caches = self.session.caches();
        api::Engine::new(&caches.shards(), &caches.stats(), &self.session.storage_stats())
    }

    /// Asks the trackers of a torrent about it. Whoever asked waits for them.
    pub fn scrape(&self, id: &str) -> Result<Answer, ApiError> {
        let hash = self.find_staying(id)?;
        let urls = self.torrents[&hash].handle.metainfo().trackers.iter().flatten();
        let supported = urls.filter(|url| is_supported(url)).take(SCRAPES_MAX);
        let asked = supported.map(|url| (url.clone(), self.session.scrape(url, vec![hash]))).collect();
        Ok(Answer::Scrapes(hash, asked))
    }
}
