//! The command line: names, bounds and help texts.
//!
//! Role: text in, typed values out. Owner: `main`. Invariant: every option of a command reaches the configuration or the
//! command itself; an option that would mean nothing for a command is not there.

mod checkpoints;
mod config;
mod daemon;
mod dht;
mod files;
mod server;
mod settings;
mod stream;

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::path::PathBuf;

use ccbt_fast::hashing::{HashOptions, Order};
use clap::builder::RangedU64ValueParser;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

pub use checkpoints::{
    CheckpointArgs, CheckpointDirArgs, CheckpointsArgs, CheckpointsCommand, HashPrefix, ResumeArgs,
};
pub use config::{ConfigArgs, ConfigCommand, ShowArgs};
pub use daemon::{
    AddArgs, ChangeArgs, ControlArgs, DaemonArgs, LimitArgs, ListArgs, Own, PickArgs, PlaceArgs, QueueArgs,
    RemoveArgs, TopArgs, TraceArgs, rate_limit,
};
pub use dht::{DhtArgs, DhtCommand, Name, hex};
pub use files::{DeleteArgs, FilesArgs, LinkArgs, MoveArgs, RenameArgs};
pub use server::{CompletionsArgs, DoctorArgs, ManArgs, ShellArg, TuneArgs};
pub use settings::{SettingArgs, SourceArgs};
pub use stream::StreamArgs;

/// A fast BitTorrent client for Linux (io_uring, one thread per core).
#[derive(Debug, Parser)]
#[command(name = "ccbt-fast", version, after_help = EXIT_CODES, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "`ccbt-fast TORRENT` is short for `ccbt-fast download TORRENT`.

Exit codes:
  0              done; for `seed`, `daemon`, `top`, and `download` while it seeds, also after SIGINT, SIGTERM or a hang-up
  1              failed while running: bad pieces, or a failure of disk or network; no daemon runs
  2              wrong usage, configuration, torrent or path; nothing was created
  3              io_uring or lockable memory is not available; for `doctor` a check failed
  129, 130, 143  stopped by SIGHUP, SIGINT or SIGTERM before it was finished, or at once by a second one

`download`, `seed` and `daemon` read ccbt.toml again on SIGHUP, unless their terminal is gone: then they stop.
`ccbt-fast config default` prints every key; each can be set by file, environment, option or --set.";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Download a torrent, by its file or a magnet link; ends when everything is verified and on disk
    Download(DownloadArgs),
    /// Download a torrent by its magnet link, as `download` does
    Magnet(DownloadArgs),
    /// Download a file and serve it over HTTP while it comes, for mpv, VLC and others
    Stream(StreamArgs),
    /// Go on with a torrent: one of the daemon if a daemon has it, else a download that has a checkpoint
    Resume(ResumeArgs),
    /// List, show, compare, remove, export and import checkpoints
    Checkpoints(CheckpointsArgs),
    /// Serve a torrent whose data is there; nothing is written
    Seed(SeedArgs),
    /// Make a torrent file; the same input always gives the same output
    Create(CreateArgs),
    /// Check files against a torrent; nothing is changed
    Verify(VerifyArgs),
    /// Move a torrent's files to another folder: with --from files that no daemon uses (run it again after an interruption
    /// to complete it), else those of a torrent of the daemon
    Move(MoveArgs),
    /// Remove a torrent's files and nothing else
    Delete(DeleteArgs),
    /// Show what a torrent file says
    Info(InfoArgs),
    /// Show and check the configuration
    Config(ConfigArgs),
    /// Ask the DHT: peers, numbers, values
    Dht(DhtArgs),
    /// Make, share, download and compare a file on this machine, without the internet
    Demo(DemoArgs),
    /// Run many torrents until stopped; the commands below control it
    Daemon(DaemonArgs),
    /// Add torrent files or magnet links to the daemon
    Add(AddArgs),
    /// List the daemon's torrents
    List(ListArgs),
    /// Show all that the daemon knows of a torrent
    Show(PickArgs),
    /// Let torrents of the daemon rest
    Pause(PickArgs),
    /// Remove torrents from the daemon; their files stay unless --delete-data is given
    Remove(RemoveArgs),
    /// Change limits and seeding goals of torrents of the daemon, or the limits of all together
    Limit(LimitArgs),
    /// Hash all data of torrents of the daemon again
    Recheck(PickArgs),
    /// Ask the trackers of torrents of the daemon how many peers they know
    Scrape(PickArgs),
    /// Say why torrents of the daemon are slow, stuck or not seeding, and what to do
    Explain(PickArgs),
    /// List the peers of torrents of the daemon, with what they are worth
    Peers(PickArgs),
    /// Print every message to and from one peer of a torrent of the daemon
    Trace(TraceArgs),
    /// Move torrents of the daemon in its queue
    Queue(QueueArgs),
    /// Have the daemon read its IP filter anew
    ReloadFilter(ListArgs),
    /// Show the daemon as a whole
    Stats(ListArgs),
    /// Print a script that completes commands and options, for a shell
    Completions(CompletionsArgs),
    /// Write the manual pages into a folder
    Man(ManArgs),
    /// Watch and control the daemon's torrents on a terminal
    Top(TopArgs),
    /// Print what happens in the daemon, one JSON object a line
    Events(ListArgs),
    /// Say what this machine lacks, and what to type about it; nothing is changed
    Doctor(DoctorArgs),
    /// Show what a server's settings should be, or set them
    Tune(TuneArgs),
}

impl Command {
    /// Whether the command's events are JSON lines.
    pub fn tells_json(&self) -> bool {
        match self {
            Self::Download(args) | Self::Magnet(args) => args.transfer.json,
            Self::Stream(args) => args.download.transfer.json,
            Self::Resume(args) => args.download.transfer.json,
            Self::Seed(args) => args.transfer.json,
            Self::Move(args) => args.control.json,
            Self::Daemon(args) => args.json,
            _ => false,
        }
    }
}

/// Options of `download` and `seed`, besides those of the configuration.
#[derive(Args, Clone, Debug)]
pub struct TransferArgs {
    /// Torrent file; for `download`, `magnet` and `stream` a magnet link as well
    #[arg(value_name = "TORRENT")]
    pub torrent: PathBuf,
    /// Peer to connect to; can be repeated
    #[arg(long = "peer", value_name = "IP:PORT", value_parser = peer_address)]
    pub peers: Vec<SocketAddr>,
    /// Folder or file on an HTTP server to fetch from as well (BEP 19); can be repeated
    #[arg(long = "web-seed", value_name = "URL", value_parser = web_seed)]
    pub web_seeds: Vec<String>,
    /// Print one JSON object per event on standard output
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub link: LinkArgs,
    #[command(flatten)]
    pub rename: RenameArgs,
    #[command(flatten)]
    pub sources: SourceArgs,
}

/// Options of `download`.
#[derive(Args, Clone, Debug)]
pub struct DownloadArgs {
    #[command(flatten)]
    pub transfer: TransferArgs,
    #[command(flatten)]
    pub files: FilesArgs,
    #[command(flatten)]
    pub settings: SettingArgs<true>,
    #[command(flatten)]
    pub checkpoint: CheckpointArgs,
}

/// Options of `seed`.
#[derive(Args, Clone, Debug)]
pub struct SeedArgs {
    #[command(flatten)]
    pub transfer: TransferArgs,
    #[command(flatten)]
    pub settings: SettingArgs<false>,
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
    /// Put symbolic links that stay inside the folder in as links (BEP 47)
    #[arg(long)]
    pub keep_symlinks: bool,
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
    pub rename: RenameArgs,
    #[command(flatten)]
    pub checkpoints: CheckpointDirArgs,
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

impl DownloadArgs {
    /// Whether the command line says where the files go.
    pub fn names_output(&self) -> bool {
        let given = self.settings.given().iter().cloned();
        given.chain(self.transfer.sources.assigned()).any(|setting| setting.key.path() == "disk.output")
    }
}

fn demo_mib() -> RangedU64ValueParser<u64> {
    RangedU64ValueParser::new().range(1..=1 << 20)
}

fn web_seed(text: &str) -> Result<String, String> {
    let usable = text.starts_with("http://") || text.starts_with("https://");
    if usable { Ok(text.to_owned()) } else { Err("it has to begin with http:// or https://".to_owned()) }
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
