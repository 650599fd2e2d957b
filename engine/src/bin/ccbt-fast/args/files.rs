//! Options about files as such: taking them over from elsewhere, other names, moving and deleting.

use std::path::PathBuf;

use ccbt_fast::choosing::{Choice, read_priority};
use ccbt_fast::linking::{LinkMode, LinkOptions};
use ccbt_fast::{Metainfo, Priority};
use clap::{Args, ValueEnum};

use super::{CheckpointDirArgs, ControlArgs};
use crate::failure::Failure;

/// Options for taking over files of other folders.
#[derive(Args, Clone, Debug)]
pub struct LinkArgs {
    /// Look below DIR for files of the torrent, whatever they are called, and link them; can be repeated
    #[arg(long = "link-from", value_name = "DIR")]
    pub folders: Vec<PathBuf>,
    /// How found files are taken over
    #[arg(long = "link-mode", value_name = "HOW", value_enum, default_value_t = LinkModeArg::Auto)]
    #[arg(requires = "folders")]
    pub mode: LinkModeArg,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LinkModeArg {
    /// Share blocks where the file system can (btrfs, xfs), else a hard link
    Auto,
    /// Share blocks only
    Reflink,
    /// A hard link only, and only for files that are verified as a whole
    Hardlink,
    /// Share blocks, else copy
    Copy,
}

/// Options for which files of a torrent are fetched.
#[derive(Args, Clone, Debug, Default)]
pub struct FilesArgs {
    /// Fetch only these files: numbers as `info` prints them (0,2-5), or a name with * and ?; can be repeated
    #[arg(long = "files", value_name = "LIST|GLOB")]
    pub only: Vec<String>,
    /// How much files are wanted: LIST|GLOB=skip, low, normal or high; can be repeated, the last one counts
    #[arg(long = "file-priority", value_name = "FILES=PRIORITY", value_parser = read_priority)]
    pub priorities: Vec<(String, Priority)>,
}

impl FilesArgs {
    /// What was said.
    pub fn choice(&self) -> Choice {
        Choice { only: self.only.clone(), priorities: self.priorities.clone() }
    }

    /// The priority of each file; `None`: nothing was said.
    pub fn priorities(&self, metainfo: &Metainfo) -> Result<Option<Vec<Priority>>, Failure> {
        self.choice().priorities_in(metainfo).map_err(|error| {
            Failure::Usage(ccbt_protocol::metainfo::escape_for_terminal(&error.to_string()).into_owned())
        })
    }
}

/// Options for files that lie elsewhere than the torrent says.
#[derive(Args, Clone, Debug)]
pub struct RenameArgs {
    /// The file with this number (from 0, as in `info --json`) lies at PATH below the folder; can be repeated
    #[arg(long = "rename", value_name = "INDEX=PATH", value_parser = rename)]
    pub renames: Vec<(u32, PathBuf)>,
}

/// Options of `move`.
#[derive(Args, Clone, Debug)]
pub struct MoveArgs {
    /// Torrent file; without --from the info-hash of a torrent of the daemon, or its first digits
    #[arg(value_name = "TORRENT|INFO_HASH")]
    pub torrent: PathBuf,
    /// Folder that holds the torrent's file or folder now; nothing may be using it
    #[arg(long, value_name = "DIR", conflicts_with_all = ["socket", "connect"])]
    pub from: Option<PathBuf>,
    /// Folder that shall hold it
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
    /// Replace other files of the same names
    #[arg(long)]
    pub overwrite: bool,
    #[command(flatten)]
    pub rename: RenameArgs,
    /// Folder of checkpoints, which know other names of files [default: that of the configuration]
    #[arg(long, value_name = "DIR", requires = "from")]
    pub checkpoint_dir: Option<PathBuf>,
    #[command(flatten)]
    pub control: ControlArgs,
}

/// Options of `delete`.
#[derive(Args, Clone, Debug)]
pub struct DeleteArgs {
    /// Torrent file, which stays
    #[arg(value_name = "TORRENT")]
    pub torrent: PathBuf,
    /// Folder that holds the torrent's file or folder; it stays itself
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    #[command(flatten)]
    pub rename: RenameArgs,
    #[command(flatten)]
    pub checkpoints: CheckpointDirArgs,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

impl LinkArgs {
    /// Where to look and how to link; `None`: nowhere.
    pub fn options(&self) -> Option<LinkOptions> {
        let mode = match self.mode {
            LinkModeArg::Auto => LinkMode::Auto,
            LinkModeArg::Reflink => LinkMode::Reflink,
            LinkModeArg::Hardlink => LinkMode::HardLink,
            LinkModeArg::Copy => LinkMode::Copy,
        };
        let folders = self.folders.clone();
        (!folders.is_empty()).then(|| LinkOptions { folders, mode, ..LinkOptions::default() })
    }
}

fn rename(text: &str) -> Result<(u32, PathBuf), String> {
    let problem = || "must be INDEX=PATH, such as 3=Season 1/episode.mkv".to_owned();
    let (index, path) = text.split_once('=').ok_or_else(problem)?;
    let index = index.parse().map_err(|_| problem())?;
    if path.is_empty() { Err(problem()) } else { Ok((index, path.into())) }
}
