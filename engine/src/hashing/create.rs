//! Makes a torrent file from a file or a folder (BEP 3, 12, 19, 27, 47): `ccbt-fast create`.
//!
//! Owner: the caller's thread. Invariant: the same files and options give the same bytes, on any machine and
//! with any number of threads; nothing below the folder is left out without a note; files that change
//! meanwhile are an error.

use std::fs::{FileType, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use ccbt_protocol::metainfo::build::{BuildError, Builder, InputFile, Plan};
use ccbt_protocol::metainfo::{MAX_FILES, Metainfo};

use super::{Faults, HashError, HashOptions, HashPlan, PlanFile, Progress, shown};

/// What to make a torrent of, and how. Start from [`CreateOptions::new`].
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// The file or folder. May itself be reached through symbolic links.
    pub path: PathBuf,
    /// The torrent's name; by default that of the file or folder.
    pub name: Option<String>,
    /// Bytes in a piece, a power of two from 16 KiB; by default chosen for 1000 to 2000 pieces.
    pub piece_len: Option<u32>,
    /// Start each file at a piece boundary (BEP 47 padding). Folders only.
    pub align: bool,
    /// Peers from the trackers only (BEP 27).
    pub private: bool,
    /// Tracker URLs in tiers (BEP 12).
    pub trackers: Vec<Vec<String>>,
    /// Web seed URLs (BEP 19).
    pub web_seeds: Vec<String>,
    /// Free text.
    pub comment: Option<String>,
    /// The program's name; none by default, so that no version changes the output.
    pub created_by: Option<String>,
    /// Seconds since 1970; none by default, so that the output is reproducible.
    pub creation_date: Option<i64>,
    /// The private tracker's tag, part of the info-hash.
    pub source: Option<String>,
    /// Mark files executable (BEP 47) that their owner may execute. Changes the info-hash. Folders only.
    pub keep_executable: bool,
    /// Put symbolic links that stay inside the folder into the torrent as such (BEP 47). Others are special, like devices.
    /// Changes the info-hash. Folders only.
    pub keep_symlinks: bool,
    /// Leave symbolic links, devices, sockets and pipes out with a note, instead of refusing them.
    pub skip_special: bool,
    /// Threads and way of reading.
    pub hash: HashOptions,
    /// How far it is, and the way to cancel it.
    pub progress: Arc<Progress>,
}

impl CreateOptions {
    /// Of `path`, with all defaults.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            name: None,
            piece_len: None,
            align: false,
            private: false,
            trackers: Vec::new(),
            web_seeds: Vec::new(),
            comment: None,
            created_by: None,
            creation_date: None,
            source: None,
            keep_executable: false,
            keep_symlinks: false,
            skip_special: false,
            hash: HashOptions::default(),
            progress: Arc::default(),
        }
    }
}

/// A torrent that was made.
#[derive(Clone, Debug)]
pub struct Created {
    /// The torrent file.
    pub bytes: Vec<u8>,
    /// The same, read back.
    pub metainfo: Metainfo,
    /// What was left out and why, one line each, for the user.
    pub notes: Vec<String>,
}

/// Why no torrent was made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// A file or folder cannot be looked at.
    #[error("cannot read {}: {source}; check the path and its permissions", shown(path))]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The folder has no files.
    #[error("{} holds no files; a torrent needs at least one byte", shown(path))]
    Empty {
        /// The folder.
        path: PathBuf,
    },
    /// Something that cannot be shared.
    #[error(
        "{} is a {what}, which cannot be put into a torrent; remove it, or choose to skip such files",
        shown(path)
    )]
    Special {
        /// Where.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// A name that is no UTF-8 (BEP 3 asks for it).
    #[error("{} has a name that is not valid UTF-8; rename it", shown(path))]
    NotUtf8 {
        /// Where.
        path: PathBuf,
    },
    /// A path without a last part, such as `/`.
    #[error("{} has no name of its own; give the torrent a name", shown(path))]
    NoName {
        /// The path.
        path: PathBuf,
    },
    /// An option that means nothing for a single file.
    #[error("{0} needs a folder, and this is a single file; leave it out")]
    FolderOnly(&'static str),
    /// A file is no longer what it was when its size was taken.
    #[error("{} changed while it was hashed; run this again when nothing writes to it", shown(path))]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// Names, sizes or settings that make no torrent.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// Reading failed, was cancelled, or could not start.
    #[error(transparent)]
    Hash(HashError),
}

impl From<HashError> for CreateError {
    fn from(error: HashError) -> Self {
        match error {
            HashError::Shortened { path } => Self::Changed { path },
            error => Self::Hash(error),
        }
    }
}

/// Reads everything below `options.path` once and returns the torrent file.
pub fn create_torrent(options: CreateOptions) -> Result<Created, CreateError> {
    let root = std::fs::metadata(&options.path).map_err(read_error(&options.path))?;
    let name = match &options.name {
        Some(name) => name.clone(),
        None => own_name(&options.path)?,
    };
    let mut notes = Vec::new();
    let inputs = if root.is_dir() {
        walk(&options, &mut notes)?
    } else if root.is_file() {
        if options.align {
            return Err(CreateError::FolderOnly("alignment"));
        }
        if options.keep_executable {
            return Err(CreateError::FolderOnly("keeping the executable mark"));
        }
        if options.keep_symlinks {
            return Err(CreateError::FolderOnly("keeping symbolic links"));
        }
        vec![Input::new(options.path.clone(), Vec::new(), &root, false)]
    } else {
        return Err(CreateError::Special { path: options.path, what: kind_name(root.file_type()) });
    };
    let plan = plan(&options, name, &inputs, root.is_dir())?;
    let hashes = hash(&options, &plan, &inputs)?;
    if let Some(changed) = inputs.iter().find(|input| !input.is_unchanged(root.is_dir())) {
        return Err(CreateError::Changed { path: changed.path.clone() });
    }
    let bytes = plan.finish(&hashes);
    let metainfo = Metainfo::parse(&bytes).expect("what a plan finishes is read back");
    Ok(Created { bytes, metainfo, notes })
}

fn plan(
    options: &CreateOptions,
    name: String,
    inputs: &[Input],
    is_folder: bool,
) -> Result<Plan, CreateError> {
    let mut builder = if is_folder {
        Builder::multi_file(name, inputs.iter().map(|input| input.entry.clone()).collect())
    } else {
        Builder::single_file(name, inputs[0].entry.len)
    };
    if let Some(piece_len) = options.piece_len {
        builder = builder.piece_len(piece_len);
    }
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let plan = builder
        .align(options.align)
        .private(options.private)
        .trackers(options.trackers.clone())
        .web_seeds(options.web_seeds.clone())
        .comment(text(&options.comment))
        .created_by(text(&options.created_by))
        .creation_date(options.creation_date)
        .source(text(&options.source))
        .plan()?;
    Ok(plan)
}

fn hash(options: &CreateOptions, plan: &Plan, inputs: &[Input]) -> Result<Vec<[u8; 20]>, CreateError> {
    // The plan keeps the order of files and adds padding between them.
    let mut stored = inputs.iter();
    let mut plan_file = |pad: bool, len: u64| match pad {
        true => PlanFile::padding(len),
        false => PlanFile::stored(stored.next().expect("a plan has as many files").path.clone(), len),
    };
    let files = plan.files().iter().map(|file| plan_file(file.pad, file.len)).collect();
    let hash_plan = HashPlan::new(files, plan.geometry().piece_len()).expect("the plan has these sizes");
    assert_eq!(hash_plan.geometry(), plan.geometry(), "the files of a plan tile it");
    let hashes = hash_plan.run(options.hash, Faults::Stop, &options.progress)?;
    Ok(hashes.pieces.into_iter().map(|hash| hash.expect("a run without faults hashes every piece")).collect())
}

/// The last part of `path`, looked up when it is `.` or ends in `..`.
fn own_name(path: &Path) -> Result<String, CreateError> {
    let is_named = matches!(path.components().next_back(), Some(Component::Normal(_)));
    let resolved = if is_named { path.to_owned() } else { path.canonicalize().map_err(read_error(path))? };
    let name = resolved.file_name().ok_or_else(|| CreateError::NoName { path: path.to_owned() })?;
    name.to_str().map(str::to_owned).ok_or_else(|| CreateError::NotUtf8 { path: path.to_owned() })
}

/// A file to be put into the torrent.
struct Input {
    path: PathBuf,
    entry: InputFile,
    stamp: Stamp,
}

/// What changes when a file is written or replaced: device, inode, length, and time of the last change.
type Stamp = (u64, u64, u64, i64, i64);

impl Input {
    fn new(path: PathBuf, below: Vec<String>, metadata: &Metadata, executable: bool) -> Self {
        let entry = InputFile { path: below, len: metadata.len(), executable, hidden: false, symlink: None };
        Self { path, entry, stamp: stamp(metadata) }
    }

    fn is_unchanged(&self, is_in_folder: bool) -> bool {
        let metadata = if is_in_folder { self.path.symlink_metadata() } else { self.path.metadata() };
        metadata.is_ok_and(|metadata| stamp(&metadata) == self.stamp)
    }
}

fn stamp(metadata: &Metadata) -> Stamp {
    (metadata.dev(), metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec())
}

/// All files below the folder, by the bytes of their paths. Hidden files are files like others.
fn walk(options: &CreateOptions, notes: &mut Vec<String>) -> Result<Vec<Input>, CreateError> {
    let mut inputs = Vec::new();
    let mut folders: Vec<(PathBuf, Vec<String>)> = vec![(options.path.clone(), Vec::new())];
    while let Some((folder, below)) = folders.pop() {
        if options.progress.is_cancelled() {
            return Err(HashError::Cancelled.into());
        }
        let mut is_empty = true;
        for item in std::fs::read_dir(&folder).map_err(read_error(&folder))? {
            is_empty = false;
            let path = item.map_err(read_error(&folder))?.path();
            // Of the item itself, never of what a link leads to.
            let metadata = path.symlink_metadata().map_err(read_error(&path))?;
            let kind = metadata.file_type();
            let target =
                if kind.is_symlink() && options.keep_symlinks { link_target(&path, &below) } else { None };
            if !kind.is_dir() && !kind.is_file() && target.is_none() {
                special(options, &path, kind, notes)?;
                continue;
            }
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name.ok_or_else(|| CreateError::NotUtf8 { path: path.clone() })?.to_owned();
            let below = [&below[..], &[name]].concat();
            if kind.is_dir() {
                folders.push((path, below));
                continue;
            }
            // The builder refuses so many; stop before the list of a whole disk fills the memory.
            if inputs.len() >= MAX_FILES {
                return Err(BuildError::from(ccbt_protocol::metainfo::MetainfoError::TooManyFiles).into());
            }
            let executable = options.keep_executable && target.is_none() && metadata.mode() & 0o100 != 0;
            let mut input = Input::new(path, below, &metadata, executable);
            if target.is_some() {
                (input.entry.len, input.entry.symlink) = (0, target);
            }
            inputs.push(input);
        }
        if is_empty && folder != options.path {
            notes.push(format!("{}: empty folder left out, torrents hold files only", shown(&folder)));
        }
    }
    if inputs.is_empty() {
        return Err(CreateError::Empty { path: options.path.clone() });
    }
    inputs.sort_unstable_by(|a, b| a.path.as_os_str().as_bytes().cmp(b.path.as_os_str().as_bytes()));
    notes.sort_unstable();
    Ok(inputs)
}

/// Where the link `path`, which lies in the folder `below`, leads, from the torrent's folder on. `None`: out of that, to
/// that itself, or by a way that depends on other links.
fn link_target(path: &Path, below: &[String]) -> Option<Vec<String>> {
    let text = std::fs::read_link(path).ok()?;
    let (mut target, mut has_name) = (below.to_vec(), false);
    for part in text.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if !has_name => drop(target.pop()?),
            Component::Normal(name) => {
                has_name = true;
                target.push(name.to_str()?.to_owned());
            }
            _ => return None,
        }
    }
    (!target.is_empty()).then_some(target)
}

/// Notes or refuses what is neither file nor folder.
fn special(
    options: &CreateOptions,
    path: &Path,
    kind: FileType,
    notes: &mut Vec<String>,
) -> Result<(), CreateError> {
    let what = kind_name(kind);
    if !options.skip_special {
        return Err(CreateError::Special { path: path.to_owned(), what });
    }
    notes.push(format!("{}: {what} left out", shown(path)));
    Ok(())
}

fn kind_name(kind: FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    match kind {
        kind if kind.is_symlink() => "symbolic link",
        kind if kind.is_fifo() => "pipe",
        kind if kind.is_socket() => "socket",
        _ => "device",
    }
}

fn read_error(path: &Path) -> impl FnOnce(io::Error) -> CreateError {
    let path = path.to_owned();
    move |source| CreateError::Read { path, source }
}
