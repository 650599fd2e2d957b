//! The command line: names, bounds and help texts.
//!
//! Role: text in, typed values out. Owner: `main`. Invariant: every option of a command reaches [`Settings`],
//! [`AddOptions`] or the command itself; an option that would mean nothing for a command is not there.

mod checkpoints;
mod files;
mod limits;
mod log;

use std::ffi::{OsStr, OsString};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ccbt_fast::hashing::{HashOptions, Order};
use ccbt_fast::layout::Overrides;
use ccbt_fast::{
    AddOptions, PickerConfig, Preallocate, Settings, Strategy, SyncConfig, SyncPolicy, ZeroCopySend,
};
use clap::builder::RangedU64ValueParser;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum, value_parser};

pub use checkpoints::{CheckpointArgs, CheckpointsArgs, CheckpointsCommand, HashPrefix, ResumeArgs};
pub use files::{DeleteArgs, LinkArgs, MoveArgs, RenameArgs};
pub use limits::LimitArgs;
pub use log::LogArgs;

use crate::goal::Goal;

/// Connections beyond the torrent's own: incoming ones that are still in their handshake.
const HANDSHAKES_MAX: usize = 64;

/// A fast BitTorrent client for Linux (io_uring, one thread per core).
#[derive(Debug, Parser)]
#[command(name = "ccbt-fast", version, after_help = EXIT_CODES, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "`ccbt-fast TORRENT` is short for `ccbt-fast download TORRENT`.

Exit codes:
  0              done; for `seed`, and `download` while it seeds, also after SIGINT, SIGTERM or SIGHUP
  1              failed while running: bad pieces, or a failure of disk or network
  2              wrong usage, torrent or path; nothing was created
  3              io_uring or lockable memory is not available
  129, 130, 143  stopped by SIGHUP, SIGINT or SIGTERM before it was finished, or at once by a second one";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Download a torrent; ends when everything is verified and on disk
    Download(DownloadArgs),
    /// Go on with a download that has a checkpoint
    Resume(ResumeArgs),
    /// List, show, compare, remove, export and import checkpoints
    Checkpoints(CheckpointsArgs),
    /// Serve a torrent whose data is there; nothing is written
    Seed(SeedArgs),
    /// Make a torrent file; the same input always gives the same output
    Create(CreateArgs),
    /// Check files against a torrent; nothing is changed
    Verify(VerifyArgs),
    /// Move a torrent's files to another folder; run it again after an interruption to complete it
    Move(MoveArgs),
    /// Remove a torrent's files and nothing else
    Delete(DeleteArgs),
    /// Show what a torrent file says
    Info(InfoArgs),
    /// Make, share, download and compare a file on this machine, without the internet
    Demo(DemoArgs),
}

impl Command {
    /// Whether the command's events are JSON lines.
    pub fn tells_json(&self) -> bool {
        match self {
            Self::Download(args) => args.transfer.json,
            Self::Resume(args) => args.download.transfer.json,
            Self::Seed(args) => args.transfer.json,
            Self::Move(args) => args.json,
            _ => false,
        }
    }
}

/// Options of `download` and `seed`.
#[derive(Args, Clone, Debug)]
pub struct TransferArgs {
    /// Torrent file
    #[arg(value_name = "TORRENT")]
    pub torrent: PathBuf,
    /// Folder that holds the torrent's file or folder [default: .]
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Port to listen on; 0: any [default: the first free one of 6881-6889]
    #[arg(short, long, value_name = "N")]
    pub port: Option<u16>,
    /// Address to listen on and to connect from [default: all]
    #[arg(long, value_name = "ADDR")]
    pub bind: Option<IpAddr>,
    /// Peer to connect to; can be repeated
    #[arg(long = "peer", value_name = "IP:PORT", value_parser = peer_address)]
    pub peers: Vec<SocketAddr>,
    #[command(flatten)]
    pub limits: LimitArgs,
    /// Disk operations in flight per device [default: found out while it works]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=4096))]
    pub disk_queue_depth: Option<u32>,
    /// KiB per disk operation at most [default: found out while it works]
    #[arg(long, value_name = "KIB", value_parser = value_parser!(u32).range(128..=4096))]
    pub disk_write_kib: Option<u32>,
    /// Send without a copy in the kernel: on, off, or auto (to other machines, unless the kernel copies)
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub zero_copy_send: ZeroCopySend,
    /// Threads that serve peers, one per CPU [default: what the CPUs leave beside storage and hashing]
    #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(1..=1024))]
    pub shards: Option<u16>,
    /// Seed until this many minutes have passed; with --seed-ratio, until either is reached
    #[arg(long, value_name = "MIN", value_parser = minutes)]
    pub seed_time: Option<Duration>,
    /// Seed until this many times the torrent's size was sent
    #[arg(long, value_name = "R", value_parser = ratio)]
    pub seed_ratio: Option<f64>,
    /// Ask no tracker: use --peer and incoming connections only
    #[arg(long)]
    pub no_tracker: bool,
    /// Connections at most
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = value_parser!(u32).range(1..=65_000))]
    pub max_peers: u32,
    /// Memory for pieces at most
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = memory_mib())]
    pub memory: u32,
    /// Print one JSON object per event on standard output
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub link: LinkArgs,
    #[command(flatten)]
    pub rename: RenameArgs,
    #[command(flatten)]
    pub log: LogArgs,
}

/// Options of `download`.
#[derive(Args, Clone, Debug)]
pub struct DownloadArgs {
    #[command(flatten)]
    pub transfer: TransferArgs,
    /// How files get their length
    #[arg(long, value_name = "HOW", value_enum, default_value_t = PreallocateArg::Sparse)]
    pub preallocate: PreallocateArg,
    /// When written data is made to outlast a power cut
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = SyncArg::Checkpoint)]
    pub sync: SyncArg,
    /// Order in which pieces are fetched
    #[arg(long, value_name = "ORDER", value_enum, default_value_t = SelectionArg::RarestFirst)]
    pub piece_selection: SelectionArg,
    /// Move everything to DIR when it is finished, before seeding; an interrupted move is completed at start
    #[arg(long, value_name = "DIR")]
    pub move_completed: Option<PathBuf>,
    /// Peers asked for the same block at most, towards the end
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = value_parser!(u8).range(1..=16))]
    pub endgame_duplicates: u8,
    #[command(flatten)]
    pub checkpoint: CheckpointArgs,
}

/// Options of `seed`.
#[derive(Args, Clone, Debug)]
pub struct SeedArgs {
    #[command(flatten)]
    pub transfer: TransferArgs,
}

/// Options of `create`.
#[derive(Args, Clone, Debug)]
pub struct CreateArgs {
    /// File or folder to make a torrent of
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// Torrent file to write [default: NAME.torrent in the current folder]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Replace the torrent file if it is there
    #[arg(long)]
    pub force: bool,
    /// Name of the torrent [default: that of the file or folder]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Bytes in a piece, a power of two such as 256K or 4M [default: what gives 1000 to 2000 pieces]
    #[arg(long, value_name = "SIZE", value_parser = piece_size)]
    pub piece_size: Option<u32>,
    /// Peers come from the trackers only
    #[arg(long)]
    pub private: bool,
    /// Tracker; repeated ones are asked when those before fail. URLs joined by commas are equals (one tier)
    #[arg(short, long = "tracker", value_name = "URL")]
    pub trackers: Vec<String>,
    /// Web seed; can be repeated
    #[arg(short, long = "web-seed", value_name = "URL")]
    pub web_seeds: Vec<String>,
    /// Free text
    #[arg(short, long, value_name = "TEXT")]
    pub comment: Option<String>,
    /// Tag of a private tracker; changes the info-hash
    #[arg(long, value_name = "TEXT")]
    pub source: Option<String>,
    /// Name of the program or person who made it
    #[arg(long, value_name = "TEXT")]
    pub created_by: Option<String>,
    /// Date to put in: `now`, or seconds since 1970 [default: none, for reproducible output]
    #[arg(long, value_name = "DATE", value_parser = date, allow_hyphen_values = true)]
    pub date: Option<DateArg>,
    /// Start each file of a folder at a piece boundary (padding files)
    #[arg(long)]
    pub align: bool,
    /// Mark executable files of a folder as such
    #[arg(long)]
    pub keep_executable: bool,
    /// Leave out symbolic links, devices, sockets and pipes instead of refusing them
    #[arg(long)]
    pub skip_special: bool,
    #[command(flatten)]
    pub hash: HashArgs,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What `--date` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DateArg {
    Now,
    Seconds(i64),
}

/// How `create` and `verify` read and hash.
#[derive(Args, Clone, Debug)]
pub struct HashArgs {
    /// Threads that hash [default: one per CPU]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub threads: u8,
    /// Order of reading: one stream in rising order, or many pieces at once
    #[arg(long, value_name = "ORDER", value_enum, default_value_t = OrderArg::Auto)]
    pub read_order: OrderArg,
    /// Leave CPU and disk to everything else that wants them
    #[arg(long)]
    pub idle: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OrderArg {
    /// Sequential on devices that say they rotate, else parallel
    Auto,
    /// One stream in rising order, on one thread
    Sequential,
    /// Many pieces at once, on all threads
    Parallel,
}

impl HashArgs {
    /// For the library.
    pub fn options(&self) -> HashOptions {
        let order = match self.read_order {
            OrderArg::Auto => Order::Auto,
            OrderArg::Sequential => Order::Sequential,
            OrderArg::Parallel => Order::Parallel,
        };
        HashOptions { threads: self.threads.into(), order, idle: self.idle, ..HashOptions::default() }
    }
}

/// Options of `verify`.
#[derive(Args, Clone, Debug)]
pub struct VerifyArgs {
    /// Torrent files, checked at once
    #[arg(value_name = "TORRENT", required = true)]
    pub torrents: Vec<PathBuf>,
    /// Folder that holds the torrents' files or folders
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub output: PathBuf,
    /// Keep what was checked in this file when stopped, and go on from there; removed at the end
    #[arg(long, value_name = "FILE")]
    pub resume_file: Option<PathBuf>,
    #[command(flatten)]
    pub hash: HashArgs,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Options of `demo`.
#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// Folder for the files, of which nothing stays [default: the system's temporary folder]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// MiB to share
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = demo_mib())]
    pub size_mib: u64,
}

/// Options of `info`.
#[derive(Args, Clone, Debug)]
pub struct InfoArgs {
    /// Torrent file
    #[arg(value_name = "TORRENT")]
    pub torrent: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PreallocateArg {
    /// Reserve the blocks, so that a full disk shows at once
    Full,
    /// Set the length only
    Sparse,
    /// Let files grow as pieces arrive
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SyncArg {
    /// At the end, and every minute or 4 GiB
    Checkpoint,
    /// After each batch of pieces, before others hear of them
    Piece,
    /// Never: a power cut may cost all that the system had not written yet
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum SelectionArg {
    /// Pieces with the fewest copies first
    RarestFirst,
    /// From the first to the last
    Sequential,
    /// Rising, going on behind the piece that was begun last
    RoundRobin,
}

impl TransferArgs {
    /// What the session is started with when this process may open `descriptors` files and sockets.
    pub fn settings(&self, descriptors: usize) -> Settings {
        let defaults = Settings::default();
        Settings {
            layout: Overrides { shards: self.shards.map(usize::from), ..Overrides::default() },
            port: self.port,
            bind: self.bind,
            memory_bytes: (self.memory as usize) << 20,
            max_connections: self.max_peers as usize + HANDSHAKES_MAX,
            max_open_files: defaults.max_open_files.min(descriptors / 4).max(1),
            disk_queue_depth: self.disk_queue_depth,
            disk_write_bytes: self.disk_write_kib.map(|kib| kib << 10),
            down_limit: self.limits.down_limit << 10,
            up_limit: self.limits.up_limit << 10,
            count_overhead: self.limits.count_overhead,
            zero_copy_send: self.zero_copy_send,
            ..defaults
        }
    }

    /// Folder that holds the torrent's file or folder.
    pub fn output(&self) -> &Path {
        self.output.as_deref().unwrap_or(Path::new("."))
    }

    /// When seeding ends.
    pub fn goal(&self) -> Goal {
        Goal { time: self.seed_time, ratio: self.seed_ratio }
    }

    fn add_options(&self) -> AddOptions {
        AddOptions {
            peers: self.peers.clone(),
            use_trackers: !self.no_tracker,
            max_peers: self.max_peers as usize,
            limits: Some(self.limits.of_torrent()),
            renames: self.rename.renames.clone(),
            source: Some(self.torrent.clone()),
            ..AddOptions::new(self.output())
        }
    }
}

impl DownloadArgs {
    /// What the session is started with, as [`TransferArgs::settings`].
    pub fn settings(&self, descriptors: usize) -> Settings {
        let policy = match self.sync {
            SyncArg::Checkpoint => SyncPolicy::Checkpoint,
            SyncArg::Piece => SyncPolicy::Piece,
            SyncArg::None => SyncPolicy::None,
        };
        let sync = SyncConfig { policy, ..SyncConfig::default() };
        Settings { sync, checkpoints: self.checkpoint.settings(), ..self.transfer.settings(descriptors) }
    }

    /// How the torrent runs.
    pub fn add_options(&self) -> AddOptions {
        let preallocate = match self.preallocate {
            PreallocateArg::Full => Preallocate::Full,
            PreallocateArg::Sparse => Preallocate::Sparse,
            PreallocateArg::None => Preallocate::None,
        };
        let strategy = match self.piece_selection {
            SelectionArg::RarestFirst => Strategy::RarestFirst,
            SelectionArg::Sequential => Strategy::Sequential,
            SelectionArg::RoundRobin => Strategy::RoundRobin,
        };
        let endgame_duplicates = usize::from(self.endgame_duplicates);
        let picker = PickerConfig { strategy, endgame_duplicates, ..PickerConfig::default() };
        AddOptions { preallocate, picker, ..self.transfer.add_options() }
    }
}

impl SeedArgs {
    /// How the torrent runs.
    pub fn add_options(&self) -> AddOptions {
        AddOptions { seed_only: true, ..self.transfer.add_options() }
    }
}

/// At least a few pieces of common sizes, at most 1 TiB.
fn memory_mib() -> RangedU64ValueParser<u32> {
    RangedU64ValueParser::new().range(16..=1 << 20)
}

fn demo_mib() -> RangedU64ValueParser<u64> {
    RangedU64ValueParser::new().range(1..=1 << 20)
}

fn peer_address(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text
        .parse()
        .map_err(|_| "must be IP:PORT, such as 192.0.2.7:6881 or [2001:db8::7]:6881".to_owned())?;
    if address.port() == 0 || address.ip().is_unspecified() {
        return Err("nobody can be reached at this address".to_owned());
    }
    Ok(address)
}

fn piece_size(text: &str) -> Result<u32, String> {
    let upper = text.to_ascii_uppercase();
    let digits = upper.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &upper[digits.len()..] {
        "" | "B" => 1,
        "K" | "KIB" => 1 << 10,
        "M" | "MIB" => 1 << 20,
        _ => return Err("must be a number of bytes, or end in K or M".to_owned()),
    };
    let bytes = digits.parse::<u32>().ok().and_then(|number| number.checked_mul(unit));
    bytes.ok_or_else(|| "must be a number of bytes, or end in K or M".to_owned())
}

fn date(text: &str) -> Result<DateArg, String> {
    match text {
        "now" => Ok(DateArg::Now),
        seconds => seconds
            .parse()
            .map(DateArg::Seconds)
            .map_err(|_| "must be `now` or a number of seconds".to_owned()),
    }
}

fn minutes(text: &str) -> Result<Duration, String> {
    let minutes: f64 = text.parse().map_err(|_| "must be a number of minutes".to_owned())?;
    Duration::try_from_secs_f64(minutes * 60.0)
        .map_err(|_| "must be a number of minutes from 0 on".to_owned())
}

fn ratio(text: &str) -> Result<f64, String> {
    let ratio: f64 = text.parse().map_err(|_| "must be a number".to_owned())?;
    if ratio.is_finite() && ratio >= 0.0 { Ok(ratio) } else { Err("must be a number from 0 on".to_owned()) }
}

/// Puts the command `download` in front of arguments that name no command.
pub fn with_default_command(mut args: Vec<OsString>) -> Vec<OsString> {
    let is_known = |first: &OsStr| {
        let first = first.to_string_lossy();
        matches!(&*first, "-h" | "--help" | "-V" | "--version" | "help")
            || Cli::command().get_subcommands().any(|command| command.get_name() == first)
    };
    if args.get(1).is_some_and(|first| !is_known(first)) {
        args.insert(1, "download".into());
    }
    args
}

#[cfg(test)]
#[path = "args_tests.rs"]
mod tests;
