//! A test's working place: a scratch folder and one of the machine's few test slots.
//!
//! Owner: the test function that opened it, which keeps it to its last line. Invariant: at most `slots` labs are open on
//! the machine at once, whatever runs the tests: `cargo test` (threads of one process) or nextest (many processes).
//! Process-wide locks on files give that; a flag like `--test-threads` would not reach every runner.

use std::env;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::statvfs;
use tempfile::TempDir;

use crate::payload::Payload;
use crate::torrent::{Torrent, TorrentSpec};

/// Free bytes a RAM file system must have before a lab moves in: container defaults (64 MiB) are too small.
const RAM_BYTES_MIN: u64 = 3 << 30;

/// A scratch folder that vanishes on drop, held together with a test slot.
pub struct Lab {
    dir: TempDir,
    _slot: File,
}

impl Lab {
    /// Waits for a test slot and opens a scratch folder, in RAM if there is enough of it.
    ///
    /// Panics when no scratch folder can be made.
    pub fn open() -> Self {
        let ram = Path::new("/dev/shm");
        let base = if free_bytes(ram) >= RAM_BYTES_MIN { ram.to_path_buf() } else { env::temp_dir() };
        Self::open_in(&base)
    }

    /// Like [`Lab::open`], but in the system's temporary folder: usually a disk, where O_DIRECT is really in force.
    pub fn open_on_disk() -> Self {
        Self::open_in(&env::temp_dir())
    }

    fn open_in(base: &Path) -> Self {
        let slot = take_slot();
        let dir = tempfile::Builder::new()
            .prefix("ccbt-tests-")
            .tempdir_in(base)
            .unwrap_or_else(|error| panic!("cannot make a scratch folder in {}: {error}", base.display()));
        Self { dir, _slot: slot }
    }

    /// The scratch folder itself.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Makes (if need be) and names a folder inside the lab.
    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::create_dir_all(&path).unwrap_or_else(|error| panic!("cannot make {}: {error}", path.display()));
        path
    }

    /// Writes `bytes` to a file of the lab and returns its path.
    pub fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, bytes).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
        path
    }

    /// Writes `payload` into `<lab>/data` and its torrent to `<lab>/t.torrent`: what a seeder needs.
    pub fn publish(&self, payload: Payload, spec: TorrentSpec) -> Published {
        let data = self.dir("data");
        payload.write_to(&data);
        self.announce(payload, spec)
    }

    /// Like [`Lab::publish`] with nothing but the torrent on disk: for payloads that a raw seeder serves from memory.
    pub fn announce(&self, payload: Payload, spec: TorrentSpec) -> Published {
        let data = self.dir("data");
        let torrent = Torrent::of(&payload, &spec);
        let torrent_path = self.file("t.torrent", torrent.bytes());
        Published { data, torrent_path, torrent, payload }
    }
}

/// A payload, usually on disk, together with its torrent file.
pub struct Published {
    /// The folder that holds the payload's top-level file or folder.
    pub data: PathBuf,
    /// The `.torrent` file.
    pub torrent_path: PathBuf,
    /// The torrent as built by the harness.
    pub torrent: Torrent,
    /// The payload itself, for comparing.
    pub payload: Payload,
}

/// How many labs may be open at once: one per core, at least two so that one waiting test does not idle the machine.
fn slots() -> usize {
    thread::available_parallelism().map_or(2, usize::from).clamp(2, 8)
}

fn take_slot() -> File {
    let user = rustix::process::getuid().as_raw();
    let folder = env::temp_dir().join(format!("ccbt-tests-slots-{user}"));
    fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("cannot make {}: {error}", folder.display()));
    loop {
        for slot in 0..slots() {
            let path = folder.join(slot.to_string());
            let file =
                File::create(&path).unwrap_or_else(|error| panic!("cannot open {}: {error}", path.display()));
            match file.try_lock() {
                Ok(()) => return file,
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => panic!("cannot lock {}: {error}", path.display()),
            }
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn free_bytes(path: &Path) -> u64 {
    statvfs(path).map_or(0, |fs| fs.f_bavail * fs.f_frsize)
}
