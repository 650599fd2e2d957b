//! Options of the daemon and of the commands that control one.

use std::net::SocketAddr;
use std::path::PathBuf;

use ccbt_fast::config::{Setting, Value, find_path, keys::KEYS};
use ccbt_fast::daemon::{SeedAction, Step};
use ccbt_fast::{Binding, PeerAddress};
use clap::{Args, ValueEnum};

use super::{FilesArgs, HashPrefix, SettingArgs, SourceArgs, peer_address, web_seed};

/// Options of `daemon`.
#[derive(Args, Clone, Debug)]
pub struct DaemonArgs {
    /// Torrent file to add; can be repeated. One that is there already is left as it is
    #[arg(long, value_name = "TORRENT", num_args = 1..)]
    pub add: Vec<PathBuf>,
    /// Unix socket for control [default: $XDG_RUNTIME_DIR/ccbt/daemon.sock]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Loopback address for control over HTTP, for those who show the token
    #[arg(long, value_name = "ADDR:PORT", value_parser = |text: &str| key_value("daemon.listen", text))]
    pub listen: Option<Value>,
    /// Folder of torrents, their states and checkpoints [default: $XDG_STATE_HOME/ccbt or ~/.local/state/ccbt]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Folder whose torrent files are added
    #[arg(long, value_name = "DIR")]
    pub watch_dir: Option<PathBuf>,
    /// Print one JSON object per event on standard output
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub sources: SourceArgs,
    #[command(flatten)]
    pub settings: SettingArgs<true>,
}

impl DaemonArgs {
    /// What options say of keys.
    pub fn given(&self) -> Vec<Setting> {
        let path = |path: &Option<PathBuf>| path.clone().map(Value::Path);
        let own = [
            ("daemon.socket", "--socket", path(&self.socket)),
            ("daemon.listen", "--listen", self.listen.clone()),
            ("daemon.state_dir", "--state-dir", path(&self.state_dir)),
            ("daemon.watch_dir", "--watch-dir", path(&self.watch_dir)),
        ];
        let own = own.into_iter().filter_map(|(key, flag, value)| {
            let key = &KEYS[find_path(key).expect("it is in the table")];
            Some(Setting { key, value: value?, flag: flag.to_owned() })
        });
        self.settings.given().iter().cloned().chain(own).collect()
    }
}

/// Which daemon is meant.
#[derive(Args, Clone, Debug, Default)]
pub struct PlaceArgs {
    /// Unix socket of the daemon [default: as configured, or $XDG_RUNTIME_DIR/ccbt/daemon.sock]
    #[arg(long, value_name = "PATH", conflicts_with = "connect")]
    pub socket: Option<PathBuf>,
    /// Address that the daemon listens on, in place of the socket
    #[arg(long, value_name = "ADDR:PORT", requires = "token_file")]
    pub connect: Option<SocketAddr>,
    /// File with the daemon's token
    #[arg(long, value_name = "FILE", requires = "connect")]
    pub token_file: Option<PathBuf>,
}

/// Which daemon is meant, and how it is told.
#[derive(Args, Clone, Debug)]
pub struct ControlArgs {
    #[command(flatten)]
    pub place: PlaceArgs,
    #[command(flatten)]
    pub sources: SourceArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Some torrents of a daemon.
#[derive(Args, Clone, Debug)]
pub struct PickArgs {
    /// Info-hash of a torrent, or its first digits
    #[arg(value_name = "INFO_HASH", required = true)]
    pub info_hashes: Vec<HashPrefix>,
    #[command(flatten)]
    pub control: ControlArgs,
}

/// Options of `trace`.
#[derive(Args, Clone, Debug)]
pub struct TraceArgs {
    /// Info-hash of a torrent, or its first digits
    #[arg(value_name = "INFO_HASH")]
    pub info_hash: HashPrefix,
    /// The peer, with its port or with any
    #[arg(value_name = "IP[:PORT]")]
    pub peer: PeerAddress,
    /// End after so many lines
    #[arg(long, value_name = "N")]
    pub lines: Option<u64>,
    #[command(flatten)]
    pub control: ControlArgs,
}

/// Options of `list` and `stats`.
#[derive(Args, Clone, Debug)]
pub struct ListArgs {
    #[command(flatten)]
    pub control: ControlArgs,
}

/// Options of `top`.
#[derive(Args, Clone, Debug)]
pub struct TopArgs {
    #[command(flatten)]
    pub place: PlaceArgs,
    #[command(flatten)]
    pub sources: SourceArgs,
}

/// A limit in bytes per second, as `limit` takes it; `None`: as configured.
pub fn rate_limit(text: &str) -> Result<Option<u64>, String> {
    match own("limits.per_torrent_down_kib", text.trim())? {
        Own::Value(Value::Rate(bytes)) => Ok(Some(bytes)),
        _ => Ok(None),
    }
}

fn places(text: &str) -> Result<Binding, &'static str> {
    text.parse().map_err(|()| "must be IP addresses and network interfaces, such as eth0 or 10.0.0.2,::1")
}

/// Options of `add`.
#[derive(Args, Clone, Debug)]
pub struct AddArgs {
    /// Torrent files or magnet links
    #[arg(value_name = "TORRENT", required = true)]
    pub torrents: Vec<PathBuf>,
    /// Folder for their files [default: the daemon's disk.output]
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// They rest until they are resumed
    #[arg(long)]
    pub paused: bool,
    /// Put them before all others in the queue
    #[arg(long)]
    pub top: bool,
    /// Peer to connect to; can be repeated
    #[arg(long = "peer", value_name = "IP:PORT", value_parser = peer_address)]
    pub peers: Vec<SocketAddr>,
    /// Folder or file on an HTTP server to fetch from as well (BEP 19); can be repeated
    #[arg(long = "web-seed", value_name = "URL", value_parser = web_seed)]
    pub web_seeds: Vec<String>,
    /// Addresses and network interfaces that they are bound to, of those of the daemon's network.bind_address
    #[arg(long, value_name = "ADDR|IFACE", value_parser = places)]
    pub bind_to: Option<Binding>,
    #[command(flatten)]
    pub files: FilesArgs,
    #[command(flatten)]
    pub change: ChangeArgs,
    #[command(flatten)]
    pub control: ControlArgs,
}

/// Options of `remove`.
#[derive(Args, Clone, Debug)]
pub struct RemoveArgs {
    #[command(flatten)]
    pub pick: PickArgs,
    /// Remove their files too, and nothing else
    #[arg(long)]
    pub delete_data: bool,
}

/// Options of `queue`.
#[derive(Args, Clone, Debug)]
pub struct QueueArgs {
    /// Where the torrent goes in the queue
    #[arg(value_enum)]
    pub step: StepArg,
    #[command(flatten)]
    pub pick: PickArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StepArg {
    Up,
    Down,
    Top,
    Bottom,
}

impl From<StepArg> for Step {
    fn from(step: StepArg) -> Self {
        match step {
            StepArg::Up => Self::Up,
            StepArg::Down => Self::Down,
            StepArg::Top => Self::Top,
            StepArg::Bottom => Self::Bottom,
        }
    }
}

/// Options of `limit`.
#[derive(Args, Clone, Debug)]
pub struct LimitArgs {
    /// Info-hash of a torrent, or its first digits; none: --down and --up of all together
    #[arg(value_name = "INFO_HASH")]
    pub info_hashes: Vec<HashPrefix>,
    #[command(flatten)]
    pub change: ChangeArgs,
    #[command(flatten)]
    pub control: ControlArgs,
}

/// A value, or the word for what the configuration says.
#[derive(Clone, Debug, PartialEq)]
pub enum Own {
    Default,
    Value(Value),
}

/// Values of a torrent's own; `default` stands for what the configuration says.
#[derive(Args, Clone, Debug, Default)]
pub struct ChangeArgs {
    /// What is received per second at most, such as 2MiB/s or a number of KiB/s; 0 = no limit, or `default`
    #[arg(long, value_name = "RATE", value_parser = |text: &str| own("limits.per_torrent_down_kib", text))]
    pub down: Option<Own>,
    /// As --down, for sending
    #[arg(long, value_name = "RATE", value_parser = |text: &str| own("limits.per_torrent_up_kib", text))]
    pub up: Option<Own>,
    /// As --down, for each peer
    #[arg(long, value_name = "RATE", value_parser = |text: &str| own("limits.per_peer_down_kib", text))]
    pub peer_down: Option<Own>,
    /// As --up, for each peer
    #[arg(long, value_name = "RATE", value_parser = |text: &str| own("limits.per_peer_up_kib", text))]
    pub peer_up: Option<Own>,
    /// Seed until this many times its size was sent: a number, `off` or `default`
    #[arg(long, value_name = "R", value_parser = |text: &str| own("limits.seed_ratio", text))]
    pub ratio: Option<Own>,
    /// Seed for so long: a number of minutes, 1h30m, `off` or `default`
    #[arg(long, value_name = "TIME", value_parser = |text: &str| own("limits.seed_time", text))]
    pub time: Option<Own>,
    /// What happens then: pause, remove or `default`
    #[arg(long, value_name = "WORD", value_parser = |text: &str| own("daemon.seed_action", text))]
    pub then: Option<Own>,
    /// Run it whatever the limits of the queue are, or no longer
    #[arg(long, value_name = "BOOL")]
    pub force: Option<bool>,
}

impl ChangeArgs {
    /// What `then` says; an inner `None`: as configured.
    pub fn action(&self) -> Option<Option<SeedAction>> {
        self.then.as_ref().map(|then| match then {
            Own::Value(Value::Word("remove")) => Some(SeedAction::Remove),
            Own::Value(_) => Some(SeedAction::Pause),
            Own::Default => None,
        })
    }
}

fn key_value(path: &str, text: &str) -> Result<Value, String> {
    KEYS[find_path(path).expect("it is in the table")].read(text)
}

fn own(path: &str, text: &str) -> Result<Own, String> {
    match text {
        "default" => Ok(Own::Default),
        text => key_value(path, text).map(Own::Value).map_err(|problem| format!("{problem}, or \"default\"")),
    }
}
