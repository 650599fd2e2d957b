//! What a daemon is started with: the section `[daemon]` of the configuration, and where its files are by default.
//!
//! Called by the table of keys, the daemon and its clients.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::queue::QueueLimits;
use crate::checkpoints::CheckpointSettings;

/// What becomes of a torrent whose seeding goal is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeedAction {
    /// It rests.
    #[default]
    Pause,
    /// It leaves the daemon; its files stay.
    Remove,
}

/// The section `[daemon]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonSettings {
    /// Unix socket for control; `None`: [`Self::socket_path`].
    pub socket: Option<PathBuf>,
    /// Loopback address to listen on besides.
    pub listen: Option<SocketAddr>,
    /// File with the token that TCP clients must show; `None`: `token` in the folder of the state.
    pub token_file: Option<PathBuf>,
    /// Folder of torrents, their states and checkpoints; `None`: [`Self::state_path`].
    pub state_dir: Option<PathBuf>,
    /// How many torrents run at a time.
    pub queue: QueueLimits,
    /// What happens when a seeding goal is reached.
    pub seed_action: SeedAction,
    /// Folder whose torrent files are added.
    pub watch_dir: Option<PathBuf>,
    /// Folders that clients may name; none: any.
    pub allowed_folders: Vec<PathBuf>,
    /// Program and arguments to run when a download is complete.
    pub on_complete: Option<Vec<String>>,
}

impl Default for DaemonSettings {
    fn default() -> Self {
        Self {
            socket: None,
            listen: None,
            token_file: None,
            state_dir: None,
            queue: QueueLimits {
                active_downloads: Some(5),
                active_seeds: None,
                active_limit: None,
                slow_rate: 2 << 10,
                slow_after: Duration::from_secs(60),
            },
            seed_action: SeedAction::default(),
            watch_dir: None,
            allowed_folders: Vec::new(),
            on_complete: None,
        }
    }
}

impl DaemonSettings {
    /// The folder of the state: `$XDG_STATE_HOME/ccbt` or `~/.local/state/ccbt`; `None` where there is no home.
    pub fn state_path(&self) -> Option<PathBuf> {
        let default = || CheckpointSettings::default_dir()?.parent().map(PathBuf::from);
        self.state_dir.clone().or_else(default)
    }

    /// The socket: `$XDG_RUNTIME_DIR/ccbt/daemon.sock`, or below the folder of the state where there is no such folder.
    pub fn socket_path(&self) -> Option<PathBuf> {
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| dir.is_absolute());
        let folder = || match runtime {
            Some(dir) => Some(dir.join("ccbt")),
            None => Some(self.state_path()?.join("daemon")),
        };
        self.socket.clone().or_else(|| Some(folder()?.join("daemon.sock")))
    }

    /// The file with the token.
    pub fn token_path(&self) -> Option<PathBuf> {
        self.token_file.clone().or_else(|| Some(self.state_path()?.join("daemon/token")))
    }
}
