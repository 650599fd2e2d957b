//! Starting and stopping a daemon.
//!
//! In this order: the folder of the state is taken, the socket made, the session started, torrents given back to it, and
//! only then clients are heard. So no client sees half a daemon, and a second daemon disturbs nothing.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use ccbt_protocol::ids::InfoHash;
use ccbt_storage::layout::LayoutSpec;
use ccbt_storage::relocate::{MoveProgress, relocate};
use crossbeam_channel::{Receiver, Sender, bounded};

use super::actions::{Prepared, bind, wanted_files};
use super::api::ApiError;
use super::core::{Core, EngineGone, Message};
use super::filtering::Filtering;
use super::hooks::Hooks;
use super::http::Server;
use super::queue::Queue;
use super::reload::{Notice, Reloader};
use super::socket::{self, ControlError, Socket};
use super::state::{Found, StateDir, StateError};
use super::subscribers::Subscribers;
use super::torrent::Rules;
use super::watch::WatchFolder;
use crate::checkpoints::Store;
use crate::config::{Config, Limits, Reload, Sources, Watcher};
use crate::sandbox::Sandbox;
use crate::session::{AddOptions, Events, Session, Settings, StartError, TorrentSource};
use crate::{MoveOptions, ShutdownError};

/// Messages waiting for the daemon's thread: events of the session wait in a queue of their own behind it.
const MESSAGES_MAX: usize = 1024;

/// What a daemon is started with.
pub struct Setup {
    /// Where the configuration comes from.
    pub sources: Sources,
    /// Since before the files were read: no change is missed.
    pub watcher: io::Result<Watcher>,
    /// What was read.
    pub config: Config,
    /// What this process is kept to, if anything.
    pub sandbox: Option<Sandbox>,
    /// Made of it. Checkpoints without a folder get one in the folder of the state.
    pub settings: Settings,
}

/// Why there is no daemon.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The folder of the state cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// Nobody could control it.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The engine does not start.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// A running daemon. Dropping it stops it less orderly than [`Self::stop`] does.
pub struct Daemon {
    core: Core,
    server: Server,
    /// Its file goes with it.
    socket: Socket,
    listen: Option<SocketAddr>,
    socket_path: PathBuf,
}

impl Daemon {
    /// Starts it with all torrents of its folder.
    pub fn start(setup: Setup) -> Result<Self, DaemonError> {
        let Setup { sources, watcher, config, sandbox, mut settings } = setup;
        let effect = config.effect(None);
        let is_ours = effect.leaves_checkpoint_folder();
        let is_default = settings.checkpoints.dir == effect.settings.checkpoints.dir;
        let filtering = Filtering::new(effect.ip_filter);
        let daemon = effect.daemon;
        let state_path = daemon.state_path().ok_or(ControlError::NoHome)?;
        let socket_path = daemon.socket_path().ok_or(ControlError::NoHome)?;
        let state = StateDir::open(&state_path)?;
        let socket = socket::listen(&socket_path, daemon.socket.is_none())?;
        let tcp = daemon.listen.map(|address| listen(&daemon, address)).transpose()?;
        if is_ours && (is_default || settings.checkpoints.dir.is_none()) {
            settings.checkpoints.dir = Some(state_path.join("checkpoints"));
        }
        let (board, problem) = state.board();
        if let Some(problem) = problem {
            tracing::error!("order and counters are lost: {problem}");
        }
        let own_limits = (board.down_limit, board.up_limit);
        settings.down_limit = own_limits.0.unwrap_or(settings.down_limit);
        settings.up_limit = own_limits.1.unwrap_or(settings.up_limit);
        let limits = Limits { down: settings.down_limit, up: settings.up_limit };
        let session = Session::start(&settings)?;
        let (tell, inbox) = bounded(MESSAGES_MAX);
        forward(session.events(), tell.clone())
            .map_err(|source| ControlError::Io { place: "a thread".to_owned(), source })?;
        let watch = daemon.watch_dir.as_deref().map(WatchFolder::new);
        let store: Option<Store> = session.checkpoints();
        let now = Instant::now();
        let mut core = Core {
            session,
            inbox,
            config,
            reloader: Reloader::new(Reload::new(sources, watcher), daemon, limits),
            state,
            store,
            sandbox,
            torrents: HashMap::new(),
            magnets: HashMap::new(),
            keys: HashMap::new(),
            queue: Queue::new(),
            subscribers: Subscribers::default(),
            traces: Vec::new(),
            hooks: Hooks::new(tell.clone()),
            watch,
            filtering,
            own_limits,
            started: now,
            undecided: true,
            order_changed: false,
            counters_changed: false,
            times_changed: false,
            looked: now,
            saved: now,
            failing: false,
        };
        core.restore(&board)?;
        let listener = socket.listener.try_clone();
        let at = |source| ControlError::Io { place: socket_path.display().to_string(), source };
        let listen = tcp.as_ref().map(|tcp| tcp.address);
        let server = Server::start(listener.map_err(at)?, tcp, tell).map_err(at)?;
        Ok(Self { core, server, socket, listen, socket_path })
    }

    /// The port for peers; 0 when there is none.
    pub fn port(&self) -> u16 {
        self.core.session.port()
    }

    /// Where clients of this machine connect.
    pub fn socket(&self) -> &Path {
        &self.socket_path
    }

    /// Where clients with the token connect.
    pub fn listen(&self) -> Option<SocketAddr> {
        self.listen
    }

    /// How many torrents it has.
    pub fn torrents(&self) -> usize {
        self.core.torrents.len()
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.core.session.shards()
    }

    /// Asks every shard for a sign of life: each sends one by the channel. One that hangs may keep this call waiting.
    pub fn ping(&self) -> Receiver<()> {
        self.core.session.ping()
    }

    /// Adds a torrent file; one that is there already is no error of code `duplicate` to most.
    pub fn add_file(&mut self, path: &Path) -> Result<InfoHash, ApiError> {
        self.core.add_file(path)
    }

    /// Works for about `timeout`. To be called all the time.
    pub fn turn(&mut self, timeout: Duration) -> Result<(), EngineGone> {
        self.core.turn(timeout)
    }

    /// Takes changed configuration files; `asked`: whether or not they seem to have changed.
    pub fn reload(&mut self, asked: bool) -> Vec<Notice> {
        self.core.reload(asked)
    }

    /// Stops it: no client is heard any more, trackers are told, files synced, the state is kept.
    pub fn stop(self, timeout: Duration) -> Result<(), ShutdownError> {
        let Self { core, server, socket, .. } = self;
        // Before the session ends, so that the next daemon finds no socket of one that is on its way out.
        drop(socket);
        let stopped = core.stop(timeout);
        server.stop();
        stopped
    }
}

/// A TCP socket and what its clients must show.
pub(super) struct Tcp {
    pub listener: TcpListener,
    pub address: SocketAddr,
    pub token: String,
}

fn listen(daemon: &super::DaemonSettings, address: SocketAddr) -> Result<Tcp, ControlError> {
    let token = socket::token(&daemon.token_path().ok_or(ControlError::NoHome)?)?;
    let at = |source| ControlError::Io { place: address.to_string(), source };
    let listener = TcpListener::bind(address).map_err(at)?;
    let address = listener.local_addr().map_err(at)?;
    Ok(Tcp { listener, address, token })
}

/// Passes events of the session on. Where the daemon is behind, they wait in the session's queue.
fn forward(events: Events, tell: Sender<Message>) -> io::Result<()> {
    let run = move || {
        for event in events {
            if tell.send(Message::Session(event)).is_err() {
                return;
            }
        }
        // The daemon may be gone before its session.
        let _ = tell.send(Message::SessionEnded);
    };
    thread::Builder::new().name("ccbt-events".to_owned()).spawn(run).map(drop)
}

impl Core {
    /// Gives the session what the folder of the state has.
    fn restore(&mut self, board: &super::state::Board) -> Result<(), StateError> {
        let failed = |source| StateError::Io { path: "torrents".into(), source };
        let (mut found, problems) = self.state.torrents().map_err(failed)?;
        for problem in problems {
            tracing::error!("{problem}");
        }
        let places: HashMap<&str, usize> =
            board.order.iter().enumerate().map(|(at, hash)| (hash.as_str(), at)).collect();
        found.sort_by_key(|found| places.get(found.record.info_hash.as_str()).copied().unwrap_or(usize::MAX));
        let prepared = found.into_iter().filter_map(|found| self.prepare(found, board)).collect();
        self.launch(prepared);
        self.restore_magnets().map_err(failed)?;
        let all: Vec<InfoHash> = self.torrents.keys().copied().collect();
        for hash in all {
            let torrent = &self.torrents[&hash];
            match &torrent.record.move_to {
                // A session that is gone is noticed by its end.
                Some(to) => drop(torrent.handle.move_storage(to.clone(), MoveOptions::default())),
                None => self.run_hook(hash),
            }
        }
        Ok(())
    }

    fn prepare(&self, found: Found, board: &super::state::Board) -> Option<Prepared> {
        let Found { info_hash, mut record, torrent } = found;
        let loaded = TorrentSource::from(torrent.as_path()).load();
        let metainfo = match loaded {
            Ok(metainfo) if metainfo.info_hash == info_hash => metainfo,
            Ok(_) => {
                tracing::error!("{} is of another torrent; {} is not run", torrent.display(), record.name);
                return None;
            }
            Err(error) => {
                tracing::error!("{} is not run: {error}", record.name);
                return None;
            }
        };
        let checkpoint = self.checkpoint(&metainfo);
        let renames = checkpoint.iter().flat_map(|checkpoint| &checkpoint.renames);
        let renames: Vec<(u32, PathBuf)> = renames.map(|rename| (rename.file, rename.path.clone())).collect();
        if let Some(to) = record.move_to.clone()
            && let Ok(from) = LayoutSpec::from_metainfo(record.output.clone(), &metainfo)
                .and_then(|spec| spec.with_renames(&renames))
            && complete_move(&from, &to, &record.name)
        {
            (record.output, record.move_to) = (to, None);
            if let Err(error) = self.state.save(info_hash, &record) {
                tracing::error!("the daemon's state cannot be written: {error}");
            }
        }
        let effect = self.config.effect(Some((&info_hash, &metainfo.name)));
        let counters = board.counters.get(&record.info_hash).copied().unwrap_or_default();
        let rules = Rules::of(&effect);
        let file_priorities = wanted_files(&record, &metainfo, &effect).unwrap_or_else(|error| {
            tracing::error!("{}: {error}; all of its files are wanted", record.name);
            None
        });
        let mut options = AddOptions { file_priorities, ..effect.torrent };
        bind(&mut options.bind_to, record.bind_to.as_ref());
        options.web_seeds.extend(record.web_seeds.iter().cloned());
        Some(Prepared { metainfo, record, counters, checkpoint, options, rules })
    }
}

/// Completes a move that was under way, if files are at the new place only: opened at the old one they would be made anew.
/// Otherwise the torrent runs at the old place and the move begins again. Whether all is at the new place.
fn complete_move(from: &LayoutSpec, to: &Path, name: &str) -> bool {
    let there = from.with_root(to.to_owned());
    let stored = from.files().iter().enumerate().filter(|(_, file)| !file.pad && file.len > 0);
    let has = |spec: &LayoutSpec, index| fs::symlink_metadata(spec.file_path(index)).is_ok();
    let mut stored = stored.map(|(index, _)| index as u32);
    if !stored.any(|index| !has(from, index) && has(&there, index)) {
        return false;
    }
    match relocate(from, &there, MoveOptions::default(), &MoveProgress::default()) {
        Ok(_) => true,
        Err(error) => {
            tracing::error!("{name}: a move that was interrupted cannot be completed: {error}");
            false
        }
    }
}
