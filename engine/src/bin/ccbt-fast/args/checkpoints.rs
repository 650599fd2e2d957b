//! Options about checkpoints.

use std::path::PathBuf;

use ccbt_fast::InfoHash;
use ccbt_fast::checkpoints::Format;
use clap::{Args, Subcommand, ValueEnum};

use super::{DownloadArgs, PlaceArgs, SourceArgs};
use crate::failure::Failure;

/// Options of `download`, besides those of the configuration.
#[derive(Args, Clone, Debug)]
pub struct CheckpointArgs {
    /// Go on from the checkpoint without asking, in its folder unless --output names one
    #[arg(long, conflicts_with = "no-checkpoint")]
    pub resume: bool,
}

/// Where checkpoints are, for commands without a session.
#[derive(Args, Clone, Debug)]
pub struct CheckpointDirArgs {
    /// Folder of checkpoints [default: that of the configuration; disk.checkpoint_dir]
    #[arg(long, value_name = "DIR")]
    checkpoint_dir: Option<PathBuf>,
    #[command(flatten)]
    sources: SourceArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FormatArg {
    /// Packed with zstd
    Binary,
    /// Text
    Json,
}

impl From<FormatArg> for Format {
    fn from(format: FormatArg) -> Self {
        match format {
            FormatArg::Binary => Self::Binary,
            FormatArg::Json => Self::Json,
        }
    }
}

impl CheckpointDirArgs {
    /// The folder; `None` where there is no home to put it in. Errors: the configuration is wrong.
    pub fn dir(&self) -> Result<Option<PathBuf>, Failure> {
        match &self.checkpoint_dir {
            Some(dir) => Ok(Some(dir.clone())),
            None => Ok(self.sources.sources(&[]).load()?.effect(None).checkpoint_folder()),
        }
    }
}

/// Options of `resume`: all of `download`, with an info-hash in the place of the torrent file.
#[derive(Args, Clone, Debug)]
#[command(mut_arg("torrent", |arg| arg.value_name("INFO_HASH").help("Info-hash of the torrent, or its first digits")))]
#[command(mut_arg("output", |arg| arg.help("Folder that holds the torrent's file or folder [default: as before]")))]
#[command(mut_arg("resume", |arg| arg.hide(true)), mut_arg("no-checkpoint", |arg| arg.hide(true)))]
pub struct ResumeArgs {
    #[command(flatten)]
    pub download: DownloadArgs,
    /// Show what is there and ask before going on; also for what is not where it was
    #[arg(long)]
    pub interactive: bool,
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Ask no daemon
    #[arg(long, conflicts_with_all = ["socket", "connect"])]
    pub no_daemon: bool,
}

impl ResumeArgs {
    /// Whether anything was asked for that only a download of this process can do.
    pub fn has_other_options(&self) -> bool {
        let DownloadArgs { transfer, files, settings, checkpoint: _ } = &self.download;
        self.interactive
            || !settings.given().is_empty()
            || !files.only.is_empty()
            || !files.priorities.is_empty()
            || transfer.sources.assigned().next().is_some()
            || !transfer.peers.is_empty()
            || !transfer.link.folders.is_empty()
            || !transfer.rename.renames.is_empty()
    }
}

/// Options of `checkpoints`.
#[derive(Args, Clone, Debug)]
#[command(mut_arg("checkpoint_dir", |arg| arg.global(true)), mut_arg("config", |arg| arg.global(true)))]
#[command(mut_arg("no_config", |arg| arg.global(true)), mut_arg("assignments", |arg| arg.global(true)))]
pub struct CheckpointsArgs {
    #[command(subcommand)]
    pub command: CheckpointsCommand,
    #[command(flatten)]
    pub dir: CheckpointDirArgs,
    /// Print one JSON object
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Clone, Debug, Subcommand)]
pub enum CheckpointsCommand {
    /// List all
    List,
    /// Show all that one says
    Show { info_hash: HashPrefix },
    /// Compare them with their torrents and files; nothing is hashed
    Verify {
        /// Which ones [default: all]
        info_hashes: Vec<HashPrefix>,
    },
    /// Remove old ones, and with --completed those of complete torrents
    Clean {
        /// Remove those that were not written for so many days
        #[arg(long, value_name = "N", required_unless_present = "completed")]
        days: Option<u32>,
        /// Remove those of complete torrents
        #[arg(long)]
        completed: bool,
    },
    /// Remove some; the torrents' files stay
    Delete {
        #[arg(required = true)]
        info_hashes: Vec<HashPrefix>,
    },
    /// Write one to a file
    Export {
        info_hash: HashPrefix,
        file: PathBuf,
        /// Form of the file
        #[arg(long, value_enum, default_value_t = FormatArg::Json)]
        format: FormatArg,
    },
    /// Take over exported ones and those of libtorrent, qBittorrent, rtorrent and Transmission, without hashing
    Import {
        /// Files (.fastresume, .libtorrent_resume, .resume, .ckpt), or folders of them such as BT_backup
        #[arg(required = true)]
        paths: Vec<PathBuf>,
        /// The torrent file [default: the one beside each]
        #[arg(long, value_name = "FILE")]
        torrent: Option<PathBuf>,
        /// Folder of the data [default: what each says]
        #[arg(short, long, value_name = "DIR")]
        output: Option<PathBuf>,
    },
}

/// An info-hash, or its first digits in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashPrefix(pub String);

impl std::str::FromStr for HashPrefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fits = (4..=40).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if fits {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err("must be an info-hash (40 hexadecimal digits), or its first 4 or more digits".to_owned())
        }
    }
}

impl HashPrefix {
    /// Whether `hash` is meant.
    pub fn matches(&self, hash: InfoHash) -> bool {
        hash.to_string().starts_with(&self.0)
    }
}
