//! Options about files as such: taking them over from elsewhere, other names, moving and deleting.

use std::path::PathBuf;

use ccbt_fast::choosing::{ChooseError, choose};
use ccbt_fast::linking::{LinkMode, LinkOptions};
use ccbt_fast::{Metainfo, Priority};
use ccbt_protocol::metainfo::FileEntry;
use clap::{Args, ValueEnum};

use super::{PlaceArgs, SourceArgs};
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
    #[arg(long = "file-priority", value_name = "FILES=PRIORITY", value_parser = file_priority)]
    pub priorities: Vec<(String, Priority)>,
}

impl FilesArgs {
    /// The priority of each file; `None`: nothing was said.
    pub fn priorities(&self, metainfo: &Metainfo) -> Result<Option<Vec<Priority>>, Failure> {
        if self.only.is_empty() && self.priorities.is_empty() {
            return Ok(None);
        }
        let failed = |error: ChooseError| {
            Failure::Usage(ccbt_protocol::metainfo::escape_for_terminal(&error.to_string()).into_owned())
        };
        let all = if self.only.is_empty() { Priority::Normal } else { Priority::Skip };
        let mut priorities = vec![all; metainfo.files.len()];
        let only = self.only.iter().map(|files| (files, Priority::Normal));
        for (files, priority) in
            only.chain(self.priorities.iter().map(|(files, priority)| (files, *priority)))
        {
            for file in choose(metainfo, files).map_err(failed)? {
                priorities[file as usize] = priority;
            }
        }
        let is_wanted = |(file, priority): (&FileEntry, &Priority)| !file.pad && *priority != Priority::Skip;
        if !metainfo.files.iter().zip(&priorities).any(is_wanted) {
            return Err(Failure::Usage(
                "--file-priority skips every file: nothing is left to fetch".to_owned(),
            ));
        }
        Ok(Some(priorities))
    }
}

fn file_priority(text: &str) -> Result<(String, Priority), String> {
    let problem = || "must be FILES=PRIORITY, such as 0-3=high or *.nfo=skip".to_owned();
    let (files, name) = text.rsplit_once('=').filter(|(files, _)| !files.is_empty()).ok_or_else(problem)?;
    match Priority::from_name(name) {
        Some(priority) => Ok((files.to_owned(), priority)),
        None => Err(format!("{name:?} is no priority; there are skip, low, normal and high")),
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
    #[command(flatten)]
    pub place: PlaceArgs,
    #[command(flatten)]
    pub sources: SourceArgs,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
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
