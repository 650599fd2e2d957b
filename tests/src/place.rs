//! A lab for tests of checkpoints: a torrent, a folder for its copy, and one for checkpoints.
//!
//! Owner: the test. What lies where is the same in all of them, so that a run goes on where another one has stopped.

use std::path::PathBuf;

use serde_json::Value;

use crate::ccbt::{Ccbt, CcbtCommand, ccbt};
use crate::lab::{Lab, Published};
use crate::payload::Payload;
use crate::raw_seeder::RawSeeder;
use crate::torrent::TorrentSpec;

/// See the module.
pub struct Place {
    /// The torrent, and its data if it was published.
    pub made: Published,
    /// Where it is downloaded to.
    pub copy: PathBuf,
    /// Where checkpoints are.
    pub store: PathBuf,
    /// All of that, and more.
    pub lab: Lab,
}

impl Place {
    /// Of a payload that is nowhere on disk. Bytes in a piece.
    pub fn announced(payload: Payload, piece_len: usize) -> Self {
        Self::new(|lab| lab.announce(payload, TorrentSpec::pieces_of(piece_len)))
    }

    /// Of a payload that is in the lab's data folder. Bytes in a piece.
    pub fn published(payload: Payload, piece_len: usize) -> Self {
        Self::new(|lab| lab.publish(payload, TorrentSpec::pieces_of(piece_len)))
    }

    fn new(make: impl FnOnce(&Lab) -> Published) -> Self {
        let lab = Lab::open_on_disk();
        let made = make(&lab);
        let (copy, store) = (lab.dir("copy"), lab.dir("state").join("checkpoints"));
        Self { made, copy, store, lab }
    }

    /// A download of it from `seeder`.
    pub fn download(&self, seeder: &RawSeeder) -> CcbtCommand {
        let command = CcbtCommand::download(&self.made.torrent_path, &self.copy).peer(seeder.address());
        command.checkpoints(&self.store)
    }

    /// The file of the checkpoint folder with this ending.
    pub fn file(&self, ending: &str) -> PathBuf {
        self.store.join(format!("{}.{ending}", self.made.torrent.info_hash_hex()))
    }

    /// Downloads `bytes` and stops orderly.
    pub fn download_some(&self, seeder: &RawSeeder, bytes: u64) {
        let mut ours = self.download(seeder).start();
        ours.wait_progress("bytes_done", bytes);
        ours.stop();
        assert!(self.file("ckpt").exists(), "an orderly end writes a checkpoint");
    }

    /// `ccbt-fast checkpoints ARGS --json`: exit code and object.
    pub fn checkpoints(&self, args: &[&str]) -> (i32, Value) {
        let dir = self.store.to_str().expect("labs have plain names");
        let (code, stdout, stderr) =
            ccbt([&["checkpoints"], args, &["--json", "--checkpoint-dir", dir]].concat());
        let object = stdout.lines().find_map(|line| serde_json::from_str(line).ok());
        (code, object.unwrap_or_else(|| panic!("{args:?}: {code} {stdout}{stderr}")))
    }
}

/// Bytes that a run, which has ended, has read from disks.
pub fn read_bytes(ours: &Ccbt) -> u64 {
    let stopped = ours.events("stopped").pop().expect("the last event");
    let disks = stopped["disks"].as_array().expect("a list").clone();
    disks.iter().map(|disk| disk["read_bytes"].as_u64().expect("a number of bytes")).sum()
}
