//! What a configuration makes of the engine's own types.
//!
//! Invariant: without a configuration it is exactly what the library's defaults are (tested), but for the folder of
//! checkpoints, which the library leaves to its user; so the table and the library cannot drift apart.

use std::path::PathBuf;
use std::time::Duration;

use ccbt_protocol::rate::TorrentLimits;

use super::{LogSettings, ProxySettings};
use crate::checkpoints::CheckpointSettings;
use crate::choosing::Choice;
use crate::daemon::DaemonSettings;
use crate::ipfilter::FilterSettings;
use crate::sandbox::SandboxSettings;
use crate::session::{AddOptions, Settings};

/// Connections of all torrents together when nobody says how many.
const GLOBAL_PEERS: usize = 500;
/// Connections beyond a torrent's own: incoming ones that are still in their handshake.
const HANDSHAKES: usize = 64;

/// Whether a torrent goes on from its checkpoint; see `disk.auto_resume`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AutoResume {
    /// After a question where somebody can be asked, else yes.
    #[default]
    Ask,
    /// Without a question.
    Always,
    /// Only when a command says so.
    Never,
}

/// What the keys have an effect on. Each key writes a field of its own.
#[derive(Clone, Debug)]
pub struct Effect {
    /// For [`crate::Session::start`], but for the files it names.
    pub settings: Settings,
    /// For [`crate::Session::add_torrent`].
    pub torrent: AddOptions,
    /// See `limits.per_torrent_down_kib` and what follows; ends up in `torrent`.
    pub(super) limits: TorrentLimits,
    /// See `network.max_global_peers`; ends up in `settings`.
    pub(super) max_global_peers: Option<usize>,
    /// See `disk.checkpoint_enabled`; ends up in `settings`.
    pub(super) checkpoint_enabled: bool,
    /// See `disk.checkpoint_dir`; ends up in `settings`.
    pub(super) checkpoint_dir: Option<PathBuf>,
    /// Whether to ask before going on from a checkpoint; `torrent` has the rest of it.
    pub auto_resume: AutoResume,
    /// Which files are wanted, where nobody says so for the torrent itself; becomes [`AddOptions::file_priorities`] once
    /// the torrent's files are known.
    pub files: Choice,
    /// Folder that a finished download moves to.
    pub move_completed: Option<PathBuf>,
    /// Time of seeding.
    pub seed_time: Option<Duration>,
    /// What seeding sends, as a multiple of the torrent's size.
    pub seed_ratio: Option<f64>,
    /// What is logged, and where to.
    pub log: LogSettings,
    /// Its content belongs into [`Settings::tracker_roots_pem`].
    pub tracker_ca_file: Option<PathBuf>,
    /// What [`ProxySettings::load`] gives belongs into [`Settings::proxy`].
    pub proxy: ProxySettings,
    /// What [`crate::ipfilter::load`] gives belongs into [`Settings::ip_filter`].
    pub ip_filter: FilterSettings,
    /// For [`crate::sandbox`].
    pub sandbox: SandboxSettings,
    /// For [`crate::daemon`].
    pub daemon: DaemonSettings,
}

impl Default for Effect {
    fn default() -> Self {
        Self {
            settings: Settings::default(),
            torrent: AddOptions::new("."),
            limits: TorrentLimits::default(),
            max_global_peers: None,
            checkpoint_enabled: true,
            checkpoint_dir: None,
            auto_resume: AutoResume::default(),
            files: Choice::default(),
            move_completed: None,
            seed_time: None,
            seed_ratio: None,
            log: LogSettings::default(),
            tracker_ca_file: None,
            proxy: ProxySettings::default(),
            ip_filter: FilterSettings::default(),
            sandbox: SandboxSettings::default(),
            daemon: DaemonSettings::default(),
        }
    }
}

impl Effect {
    /// Called once all keys are applied.
    pub(super) fn finish(mut self) -> Self {
        self.torrent.limits = Some(self.limits);
        let wanted = GLOBAL_PEERS.max(self.torrent.max_peers + HANDSHAKES);
        self.settings.max_connections = self.max_global_peers.unwrap_or(wanted);
        self.settings.checkpoints.dir = if self.checkpoint_enabled { self.checkpoint_folder() } else { None };
        self.torrent.auto_resume = self.auto_resume != AutoResume::Never;
        self
    }

    /// Whether checkpoints are wanted, and nobody has said where.
    pub(crate) fn leaves_checkpoint_folder(&self) -> bool {
        self.checkpoint_enabled && self.checkpoint_dir.is_none()
    }

    /// The folder of checkpoints, also when none are to be kept; `None` where there is no home to put it in.
    pub fn checkpoint_folder(&self) -> Option<PathBuf> {
        self.checkpoint_dir.clone().or_else(CheckpointSettings::default_dir)
    }
}
