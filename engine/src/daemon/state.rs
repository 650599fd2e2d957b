//! What a daemon remembers: its folder.
//!
//! ```text
//! lock                  held by the daemon that uses the folder
//! torrents/HASH.torrent the torrent file as it was added
//! torrents/HASH.magnet  an Add: a magnet link whose metadata is looked for, and how its torrent is to be added
//! torrents/HASH.json    a Record: what was asked for; a torrent is there if this is
//! daemon.json           a Board: order of the queue, counters, limits of all
//! token                 for clients by TCP
//! ```
//!
//! Every file is replaced as a whole ([`write_atomically`]). Invariant: after a crash every torrent that was answered as
//! added is there with what it was last told; counters may be some seconds old. What cannot be read is left where it is and
//! told.
//!
//! Owner: the daemon's main thread.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ccbt_protocol::ids::InfoHash;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::api::{Add, Places};
use super::settings::SeedAction;
use crate::checkpoints::write_atomically;
use crate::choosing::{Choice, read_priority};

/// Bytes of a record or board at most.
const FILE_BYTES_MAX: u64 = 256 << 20;
const VERSION: u32 = 1;

/// Rates of one torrent where they differ from the configuration's, in bytes per second; 0 = no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnLimits {
    /// Received from all its peers.
    #[serde(default)]
    pub down: Option<u64>,
    /// Sent to all its peers.
    #[serde(default)]
    pub up: Option<u64>,
    /// Received from each.
    #[serde(default)]
    pub peer_down: Option<u64>,
    /// Sent to each.
    #[serde(default)]
    pub peer_up: Option<u64>,
}

/// What was asked for of one torrent. Times are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    version: u32,
    pub info_hash: String,
    pub name: String,
    /// Folder of its files.
    pub output: PathBuf,
    /// Where they are being moved.
    pub move_to: Option<PathBuf>,
    pub paused: bool,
    pub forced: bool,
    pub limits: OwnLimits,
    /// Files that are wanted, as [`super::api::Add`] has them.
    #[serde(default)]
    pub files: Vec<String>,
    #[serde(default)]
    pub file_priorities: Vec<String>,
    /// As [`super::api::Add`] has them.
    #[serde(default)]
    pub bind_to: Option<Places>,
    #[serde(default)]
    pub web_seeds: Vec<String>,
    /// Goals of seeding where they differ from the configuration's; an inner `None`: no goal.
    pub seed_ratio: Option<Own<f64>>,
    pub seed_seconds: Option<Own<u64>>,
    pub seed_action: Option<SeedAction>,
    /// It has reached its goal.
    pub goal_reached: bool,
    /// It was resumed after that, and seeds on.
    pub goal_ignored: bool,
    pub added_at: i64,
    pub completed_at: Option<i64>,
    /// What is to follow completion has been begun.
    pub completion_handled: bool,
    /// The program for complete downloads is to run.
    pub hook_due: bool,
}

/// A value of a torrent's own, which may be none.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Own<T> {
    Off,
    Value(T),
}

impl<T> Own<T> {
    pub fn value(self) -> Option<T> {
        match self {
            Self::Off => None,
            Self::Value(value) => Some(value),
        }
    }
}

impl Record {
    pub fn new(info_hash: InfoHash, name: &str, output: PathBuf, added_at: i64) -> Self {
        Self {
            version: VERSION,
            info_hash: info_hash.to_string(),
            name: name.to_owned(),
            output,
            move_to: None,
            paused: false,
            forced: false,
            limits: OwnLimits::default(),
            files: Vec::new(),
            file_priorities: Vec::new(),
            bind_to: None,
            web_seeds: Vec::new(),
            seed_ratio: None,
            seed_seconds: None,
            seed_action: None,
            goal_reached: false,
            goal_ignored: false,
            added_at,
            completed_at: None,
            completion_handled: false,
            hook_due: false,
        }
    }
}

impl Record {
    /// Which files were asked for. Errors: a text that is no priority.
    pub fn choice(&self) -> Result<Choice, String> {
        let priorities =
            self.file_priorities.iter().map(|text| read_priority(text)).collect::<Result<_, _>>()?;
        Ok(Choice { only: self.files.clone(), priorities })
    }
}

/// Sums of a torrent over all runs. Bytes of payload, and seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counters {
    pub downloaded: u64,
    pub uploaded: u64,
    pub seeded_seconds: u64,
}

/// What changes often, or concerns all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Board {
    version: u32,
    pub order: Vec<String>,
    pub counters: BTreeMap<String, Counters>,
    /// Rates of all torrents together, in place of the configuration's.
    pub down_limit: Option<u64>,
    pub up_limit: Option<u64>,
}

/// The folder, held.
#[derive(Debug)]
pub(super) struct StateDir {
    dir: PathBuf,
    /// Holds the lock until it is closed.
    _lock: File,
}

/// Folders of the torrents and links that the folder of the state has; of files that cannot be read none.
pub fn folders_in_use(state: &Path) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(state.join("daemon/torrents")).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("json") => {
                let record = read_json::<Record>(&path).ok();
                folders.extend(record.into_iter().flat_map(|record| [Some(record.output), record.move_to]));
            }
            Some("magnet") => folders.extend(read_json::<Add>(&path).ok().map(|how| how.output)),
            _ => {}
        }
    }
    let mut folders: Vec<PathBuf> = folders.into_iter().flatten().collect();
    folders.sort();
    folders.dedup();
    folders
}

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another daemon has it.
    #[error(
        "another daemon uses {}: stop it, control it with `ccbt-fast list` and the like, or name another folder \
         with --state-dir",
        .0.display()
    )]
    Taken(PathBuf),
    /// It cannot be made, read or written.
    #[error("the folder {} cannot be used: {source}; name another one with --state-dir", .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A torrent that was found in the folder.
#[derive(Debug)]
pub(super) struct Found {
    pub info_hash: InfoHash,
    pub record: Record,
    pub torrent: PathBuf,
}

impl StateDir {
    /// Makes the folder if need be and takes it.
    pub fn open(state: &Path) -> Result<Self, StateError> {
        let dir = state.join("daemon");
        let at = |path: &Path, source| StateError::Io { path: path.to_owned(), source };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir.join("torrents"))
            .map_err(|error| at(&dir, error))?;
        let path = dir.join("lock");
        let lock = File::options().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let lock = lock.map_err(|error| at(&path, error))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { dir, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StateError::Taken(dir)),
            Err(TryLockError::Error(error)) => Err(at(&path, error)),
        }
    }

    fn path(&self, info_hash: InfoHash, ending: &str) -> PathBuf {
        self.dir.join("torrents").join(format!("{info_hash}.{ending}"))
    }

    /// Where the torrent file is.
    pub fn torrent_path(&self, info_hash: InfoHash) -> PathBuf {
        self.path(info_hash, "torrent")
    }

    /// Keeps a new torrent.
    pub fn add(&self, info_hash: InfoHash, record: &Record, torrent: &[u8]) -> io::Result<()> {
        write_atomically(&self.torrent_path(info_hash), torrent)?;
        self.save(info_hash, record)
    }

    /// Keeps what has changed of a torrent.
    pub fn save(&self, info_hash: InfoHash, record: &Record) -> io::Result<()> {
        let json = serde_json::to_vec_pretty(record)?;
        write_atomically(&self.path(info_hash, "json"), &json)
    }

    /// Forgets a torrent. The record goes first: without it the torrent is not there.
    pub fn remove(&self, info_hash: InfoHash) -> io::Result<()> {
        for ending in ["json", "torrent"] {
            match fs::remove_file(self.path(info_hash, ending)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        File::open(self.dir.join("torrents"))?.sync_all()
    }

    /// Keeps a magnet link.
    pub fn add_magnet(&self, info_hash: InfoHash, how: &Add) -> io::Result<()> {
        write_atomically(&self.path(info_hash, "magnet"), &serde_json::to_vec_pretty(how)?)
    }

    /// Forgets a magnet link.
    pub fn remove_magnet(&self, info_hash: InfoHash) -> io::Result<()> {
        match fs::remove_file(self.path(info_hash, "magnet")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// All magnet links; what cannot be read is told.
    pub fn magnets(&self) -> io::Result<Vec<Add>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.dir.join("torrents"))? {
            let path = entry?.path();
            if path.extension().is_some_and(|ending| ending == "magnet") {
                match read_json::<Add>(&path) {
                    Ok(how) => found.push(how),
                    Err(problem) => tracing::error!("{} is not used: {problem}", path.display()),
                }
            }
        }
        Ok(found)
    }

    /// All torrents, and what is wrong with others.
    pub fn torrents(&self) -> io::Result<(Vec<Found>, Vec<String>)> {
        let (mut found, mut problems) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(self.dir.join("torrents"))? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Some(info_hash) = name.strip_suffix(".json").and_then(|hash| hash.parse::<InfoHash>().ok())
            else {
                continue;
            };
            match read_json::<Record>(&path).and_then(|record| checked(record, info_hash)) {
                Ok(record) => {
                    found.push(Found { info_hash, record, torrent: self.torrent_path(info_hash) });
                }
                Err(problem) => problems.push(format!("{} is not used: {problem}", path.display())),
            }
        }
        found.sort_by_key(|found| (found.record.added_at, found.info_hash.to_string()));
        Ok((found, problems))
    }

    /// The board; an empty one if there is none or it cannot be used, which is told.
    pub fn board(&self) -> (Board, Option<String>) {
        let path = self.dir.join("daemon.json");
        if !path.exists() {
            return (Board::default(), None);
        }
        match read_json::<Board>(&path) {
            Ok(board) if board.version == VERSION => (board, None),
            Ok(board) => {
                (Board::default(), Some(format!("{}: version {} is unknown", path.display(), board.version)))
            }
            Err(problem) => (Board::default(), Some(format!("{}: {problem}", path.display()))),
        }
    }

    /// Keeps the board.
    pub fn save_board(&self, board: &Board) -> io::Result<()> {
        let json = serde_json::to_vec(&Board { version: VERSION, ..board.clone() })?;
        write_atomically(&self.dir.join("daemon.json"), &json)
    }
}

fn checked(record: Record, info_hash: InfoHash) -> Result<Record, String> {
    if record.version != VERSION {
        return Err(format!("version {} is unknown: a newer ccbt-fast wrote it", record.version));
    }
    if record.info_hash != info_hash.to_string() {
        return Err("it is of another torrent".to_owned());
    }
    Ok(record)
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, String> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    serde_json::from_slice(&bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_and_board_come_back() {
        let dir = tempfile::tempdir().expect("a folder");
        let state = StateDir::open(dir.path()).expect("nobody has it");
        assert!(matches!(StateDir::open(dir.path()), Err(StateError::Taken(_))), "it is held");
        let hash = InfoHash([7; 20]);
        let mut record = Record::new(hash, "name", "/srv".into(), 5);
        (record.seed_ratio, record.seed_seconds) = (Some(Own::Off), Some(Own::Value(9)));
        record.limits.up = Some(3);
        state.add(hash, &record, b"torrent").expect("written");
        let mut board = Board { order: vec![hash.to_string()], up_limit: Some(4), ..Board::default() };
        let counters = Counters { downloaded: 1, uploaded: 2, seeded_seconds: 3 };
        board.counters.insert(hash.to_string(), counters);
        state.save_board(&board).expect("written");
        drop(state);
        let state = StateDir::open(dir.path()).expect("it was given back");
        let (found, problems) = state.torrents().expect("listed");
        assert_eq!((found.len(), problems.len()), (1, 0), "{problems:?}");
        assert_eq!(
            (&found[0].record, fs::read(&found[0].torrent).expect("kept")),
            (&record, b"torrent".into())
        );
        let (read, problem) = state.board();
        assert_eq!((read.order, read.counters, read.up_limit), (board.order, board.counters, Some(4)));
        assert_eq!(problem, None);
        state.remove(hash).expect("removed");
        assert!(state.torrents().expect("listed").0.is_empty());
        state.remove(hash).expect("twice is no error");
    }

    #[test]
    fn what_cannot_be_read_is_told_and_stays() {
        let dir = tempfile::tempdir().expect("a folder");
        let state = StateDir::open(dir.path()).expect("nobody has it");
        let torrents = dir.path().join("daemon/torrents");
        let (one, other) = (InfoHash([1; 20]), InfoHash([2; 20]));
        fs::write(torrents.join(format!("{one}.json")), b"{").expect("written");
        let record = serde_json::to_vec(&Record::new(one, "n", "/".into(), 0)).expect("JSON");
        fs::write(torrents.join(format!("{other}.json")), record).expect("written");
        fs::write(dir.path().join("daemon/daemon.json"), b"[]").expect("written");
        let (found, problems) = state.torrents().expect("listed");
        assert_eq!((found.len(), problems.len()), (0, 2), "{problems:?}");
        assert!(state.board().1.is_some());
        assert!(torrents.join(format!("{one}.json")).exists());
    }

    /// What daemons of earlier releases left behind. When one of these fails, read the old form, too, and add a file of
    /// the new one: the files here stay as they are.
    #[test]
    fn the_folder_of_every_release_is_read() {
        let files = [
            ('1', ".json", include_str!("golden/record-v1-first.json")),
            ('2', ".json", include_str!("golden/record-v1-second.json")),
            ('4', ".json", include_str!("golden/record-v1.json")),
            ('3', ".magnet", include_str!("golden/magnet-v1-first.json")),
            ('5', ".magnet", include_str!("golden/magnet-v1.json")),
        ];
        let board = include_str!("golden/board-v1.json");
        let dir = tempfile::tempdir().expect("a folder");
        let state = StateDir::open(dir.path()).expect("nobody has it");
        for (digit, ending, text) in files {
            let name = format!("daemon/torrents/{}{ending}", format!("0{digit}").repeat(20));
            fs::write(dir.path().join(name), text).expect("written");
        }
        fs::write(dir.path().join("daemon/daemon.json"), board).expect("written");
        for hash in [InfoHash([1; 20]), InfoHash([2; 20]), InfoHash([4; 20])] {
            fs::write(state.torrent_path(hash), b"torrent").expect("written");
        }
        let (found, problems) = state.torrents().expect("listed");
        assert!(problems.is_empty(), "{problems:?}");
        let [first, second, full] = [0, 1, 2].map(|nth: usize| &found[nth].record);
        assert_eq!(
            (first.name.as_str(), first.paused, first.goal_reached),
            ("of the first daemon", true, true)
        );
        assert_eq!((first.seed_ratio, first.seed_seconds), (Some(Own::Off), Some(Own::Value(3600))));
        assert_eq!((first.limits.down, first.limits.peer_up), (Some(1000), Some(0)));
        for record in [second, full] {
            assert_eq!((record.move_to.as_deref(), record.forced), (Some(Path::new("/srv/c")), true));
            assert_eq!(
                (record.files.len(), record.file_priorities.len(), record.bind_to.is_some()),
                (2, 1, true)
            );
        }
        assert_eq!((second.web_seeds.len(), full.web_seeds.len()), (0, 1));
        let (read, problem) = state.board();
        assert_eq!((read.order.len(), read.up_limit, problem), (2, Some(500_000), None));
        assert_eq!(read.counters.values().next().map(|sums| sums.seeded_seconds), Some(33));
        let mut magnets = state.magnets().expect("listed");
        magnets.sort_by_key(|magnet| magnet.web_seeds.len());
        assert!(magnets.len() == 2 && magnets.iter().all(|magnet| magnet.top && magnet.peers.len() == 1));
        // What is written now is of the newest form that is kept here.
        assert_eq!(serde_json::to_string(full).expect("JSON"), files[2].2.trim());
        assert_eq!(serde_json::to_string(&read).expect("JSON"), board.trim());
        assert_eq!(serde_json::to_string_pretty(&magnets[1]).expect("JSON"), files[4].2.trim());
    }
}
