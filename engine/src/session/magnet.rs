//! Magnet links: from a name to a torrent that can be added.
//!
//! Role: [`Session::add_magnet`] begins, [`MagnetHandle`] tells how far it is and waits, and [`Session::add_torrent`] with
//! what it found goes on under the same key, over the same connections. Owner: written by the control thread, read by any
//! handle. Invariant: an outcome stays.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use ccbt_protocol::candidates::Source;
use ccbt_protocol::ids::{InfoHash, TorrentKey};
use ccbt_protocol::magnet::Magnet;
use ccbt_protocol::metainfo::Metainfo;
use ccbt_shards::binding::Binding;
use ccbt_shards::inbox::Inbox;
use ccbt_shards::messages::{AddMagnet, Event, ToShard};

use super::error::{AddError, GoneError, MagnetError};
use super::settings::TrackerSchemes;
use super::{AddOptions, Session};

/// Host names of one link (`x.pe`) that are looked up.
const MAX_HOSTS: usize = 16;

/// How the metadata of a magnet link is looked for.
#[derive(Clone, Debug)]
pub struct MagnetOptions {
    /// Addresses to connect to besides those of the link and of trackers.
    pub peers: Vec<SocketAddr>,
    /// Whether the link's trackers are asked.
    pub use_trackers: bool,
    /// Which of them.
    pub tracker_schemes: TrackerSchemes,
    /// Take addresses from peers (BEP 11).
    pub use_pex: bool,
    /// Look for peers in the DHT (BEP 5).
    pub use_dht: bool,
    /// Look for peers in the local network (BEP 14).
    pub use_lsd: bool,
    /// See [`AddOptions::bind_to`].
    pub bind_to: Option<Binding>,
    /// Connections at most.
    pub max_peers: usize,
    /// Begin at rest.
    pub paused: bool,
}

impl From<&AddOptions> for MagnetOptions {
    /// As the torrent itself will be run.
    fn from(options: &AddOptions) -> Self {
        Self {
            peers: options.peers.clone(),
            use_trackers: options.use_trackers,
            tracker_schemes: options.tracker_schemes,
            use_pex: options.use_pex,
            use_dht: options.use_dht,
            use_lsd: options.use_lsd,
            bind_to: options.bind_to.clone(),
            max_peers: options.max_peers,
            paused: options.paused,
        }
    }
}

impl Default for MagnetOptions {
    fn default() -> Self {
        Self::from(&AddOptions::new(""))
    }
}

/// How far a magnet is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MagnetStatus {
    /// Bytes of metadata received.
    pub received: u32,
    /// Bytes in all; 0 until a peer says.
    pub total: u32,
    /// Connections through their handshake (a count).
    pub peers: usize,
    /// Addresses known (a count).
    pub candidates: usize,
}

#[derive(Debug, Default)]
struct Progress {
    status: MagnetStatus,
    outcome: Option<Result<Arc<Metainfo>, MagnetError>>,
    /// It is to go.
    leaving: bool,
}

/// What the control thread and handles share.
#[derive(Debug)]
pub(super) struct SharedMagnet {
    key: TorrentKey,
    magnet: Magnet,
    progress: Mutex<Progress>,
    changed: Condvar,
    home: OnceLock<Inbox>,
}

impl SharedMagnet {
    pub(super) fn new(key: TorrentKey, magnet: Magnet) -> Self {
        Self { key, magnet, progress: Mutex::default(), changed: Condvar::new(), home: OnceLock::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn key(&self) -> TorrentKey {
        self.key
    }

    pub(super) fn info_hash(&self) -> InfoHash {
        self.magnet.info_hash
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.lock().leaving
    }

    /// Takes in what the shard tells.
    pub(super) fn apply(&self, event: &Event) {
        match *event {
            Event::Metadata { received, total, peers, candidates } => {
                self.lock().status = MagnetStatus { received, total, peers, candidates };
            }
            Event::Removed => self.end(Err(MagnetError::Removed)),
            _ => {}
        }
    }

    /// The metadata is there; what is to be told.
    pub(super) fn complete(&self, info: &[u8]) -> Event {
        match Metainfo::from_info(info) {
            Ok(mut metainfo) => {
                metainfo.trackers.clone_from(&self.magnet.trackers);
                metainfo.web_seeds.clone_from(&self.magnet.web_seeds);
                let len = info.len() as u32;
                let mut progress = self.lock();
                (progress.status.received, progress.status.total) = (len, len);
                drop(progress);
                self.end(Ok(Arc::new(metainfo)));
                Event::MetadataComplete
            }
            Err(source) => {
                let error = MagnetError::Unusable(source);
                let message = error.to_string();
                self.end(Err(error));
                Event::Failed { message, retry: false }
            }
        }
    }

    /// What comes first stays.
    pub(super) fn end(&self, outcome: Result<Arc<Metainfo>, MagnetError>) {
        self.lock().outcome.get_or_insert(outcome);
        self.changed.notify_all();
    }

    fn send(&self, message: ToShard) -> Result<(), GoneError> {
        let sent = self.home.get().is_some_and(|home| home.send(message));
        if sent { Ok(()) } else { Err(GoneError) }
    }
}

/// A magnet link of a session, whose metadata is looked for. Cheap to clone; outlives the session.
#[derive(Clone, Debug)]
pub struct MagnetHandle {
    pub(super) shared: Arc<SharedMagnet>,
}

impl MagnetHandle {
    /// Its name in events, and that of its torrent.
    pub fn key(&self) -> TorrentKey {
        self.shared.key
    }

    /// What is looked for.
    pub fn info_hash(&self) -> InfoHash {
        self.shared.info_hash()
    }

    /// The link.
    pub fn magnet(&self) -> &Magnet {
        &self.shared.magnet
    }

    /// How far it was a moment ago.
    pub fn status(&self) -> MagnetStatus {
        self.shared.lock().status
    }

    /// What was found, with the link's trackers and web seeds; `None`: nothing yet.
    pub fn metainfo(&self) -> Option<Result<Arc<Metainfo>, MagnetError>> {
        self.shared.lock().outcome.clone()
    }

    /// Waits until the metadata is there and verified, for `timeout` at most, or for ever.
    pub fn wait_metadata(&self, timeout: Option<Duration>) -> Result<Arc<Metainfo>, MagnetError> {
        let started = Instant::now();
        let mut progress = self.shared.lock();
        loop {
            if let Some(outcome) = &progress.outcome {
                return outcome.clone();
            }
            progress = match timeout {
                None => self.shared.changed.wait(progress).unwrap_or_else(PoisonError::into_inner),
                Some(timeout) => {
                    let left = timeout.saturating_sub(started.elapsed());
                    if left.is_zero() {
                        return Err(MagnetError::TimedOut(timeout));
                    }
                    let waited = self.shared.changed.wait_timeout(progress, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Leaves peers and trackers until [`Self::resume`].
    pub fn pause(&self) -> Result<(), GoneError> {
        self.shared.send(ToShard::Pause(self.key()))
    }

    /// Goes on after [`Self::pause`].
    pub fn resume(&self) -> Result<(), GoneError> {
        self.shared.send(ToShard::Resume(self.key()))
    }

    /// Tells it of addresses to connect to.
    pub fn add_peers(&self, peers: Vec<SocketAddr>) -> Result<(), GoneError> {
        self.shared.send(ToShard::AddPeers(self.key(), peers, Source::User))
    }
}

impl Session {
    /// Looks for the metadata of a magnet link. [`crate::TorrentEvent::Metadata`] tells how far it is, and
    /// [`crate::TorrentEvent::MetadataComplete`] when it is there; then [`Session::add_torrent`] with
    /// [`MagnetHandle::metainfo`] goes on with the same peers.
    pub fn add_magnet(&self, magnet: Magnet, options: MagnetOptions) -> Result<MagnetHandle, AddError> {
        let shared = self.registry.register_magnet(magnet)?;
        let (key, magnet) = (shared.key(), &shared.magnet);
        let mut trackers = if options.use_trackers { magnet.trackers.clone() } else { Vec::new() };
        options.tracker_schemes.sift(&mut trackers);
        let home = self.service().add_magnet(AddMagnet {
            key,
            info_hash: magnet.info_hash,
            peers: options.peers,
            named: magnet.peers.clone(),
            trackers,
            max_peers: options.max_peers,
            paused: options.paused,
            pex: options.use_pex,
            dht: options.use_dht,
            lsd: options.use_lsd,
            bind: options.bind_to,
        });
        look_up(magnet.hosts.clone(), key, home.clone());
        shared.home.set(home).expect("a magnet is handed over once");
        Ok(MagnetHandle { shared })
    }

    /// Stops looking. [`crate::TorrentEvent::Removed`] follows. Nothing happens when its torrent was added.
    pub fn remove_magnet(&self, magnet: &MagnetHandle) {
        if self.registry.is_magnet(magnet.key()) {
            magnet.shared.lock().leaving = true;
            self.service().remove(magnet.key(), false);
        }
    }
}

/// Looks up hosts that a link names, without keeping anybody waiting: the system's resolver may take its time.
fn look_up(mut hosts: Vec<String>, key: TorrentKey, home: Inbox) {
    if hosts.is_empty() {
        return;
    }
    hosts.truncate(MAX_HOSTS);
    let run = move || {
        for host in hosts {
            match host.to_socket_addrs() {
                Ok(found) => drop(home.send(ToShard::AddPeers(key, found.collect(), Source::Magnet))),
                Err(error) => tracing::debug!("x.pe={host}: {error}"),
            }
        }
    };
    if let Err(error) = std::thread::Builder::new().name("ccbt-resolve".to_owned()).spawn(run) {
        tracing::warn!("hosts of a magnet link are not looked up: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::control::Registry;
    use crate::session::torrent::TorrentHandle;
    use crate::testing;

    fn magnet_of(metainfo: &Metainfo) -> Magnet {
        Magnet { web_seeds: vec!["http://w.example/".to_owned()], ..Magnet::of(metainfo) }
    }

    #[test]
    fn what_was_found_becomes_a_torrent_of_the_same_key() {
        let registry = Registry::default();
        let metainfo = testing::metainfo("t", 100, 16384);
        let shared = registry.register_magnet(magnet_of(&metainfo)).expect("new");
        let magnet = MagnetHandle { shared };
        assert!(matches!(registry.register_magnet(magnet_of(&metainfo)), Err(AddError::Duplicate(_))));
        let short = Some(Duration::from_millis(1));
        assert!(matches!(magnet.wait_metadata(short), Err(MagnetError::TimedOut(_))));
        assert_eq!(magnet.shared.complete(metainfo.raw_info()), Event::MetadataComplete);
        let found = magnet.wait_metadata(None).expect("complete");
        assert_eq!((&found.files, &found.web_seeds), (&metainfo.files, &magnet.magnet().web_seeds));
        let again = Metainfo::parse(&found.to_torrent()).expect("what was written is read");
        assert_eq!(again, *found);
        let torrent = TorrentHandle { shared: registry.register(found).expect("the magnet's own") };
        assert_eq!(torrent.key(), magnet.key());
        assert!(!registry.is_magnet(magnet.key()));
    }

    #[test]
    fn metadata_that_is_no_torrent_and_removal_end_the_wait() {
        let registry = Registry::default();
        let metainfo = testing::metainfo("t", 100, 16384);
        let magnet = MagnetHandle { shared: registry.register_magnet(magnet_of(&metainfo)).expect("new") };
        assert!(matches!(magnet.shared.complete(b"d4:name1:xe"), Event::Failed { retry: false, .. }));
        assert!(matches!(magnet.wait_metadata(None), Err(MagnetError::Unusable(_))));
        magnet.shared.apply(&Event::Removed);
        assert!(
            matches!(magnet.wait_metadata(None), Err(MagnetError::Unusable(_))),
            "what comes first stays"
        );
        magnet.shared.lock().leaving = true;
        let early = registry.register(Arc::new(metainfo));
        assert!(matches!(early, Err(AddError::Duplicate(_))), "until it is gone");
    }
}
