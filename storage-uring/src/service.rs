//! Starts the storage thread and the hash pool, and hands out [`StorageClient`]s.

use std::io;
use std::sync::Arc;

use crate::arena::Region;
use crate::doorbell::Doorbell;
use crate::messages::{HashJob, HashVerdict, StorageCmd, StorageDone};

/// Where and how the storage thread and the hash pool run.
#[derive(Clone, Debug)]
pub struct StorageConfig {
    /// CPU of the storage thread; `None` = not pinned.
    pub storage_cpu: Option<usize>,
    /// One hash thread per entry, pinned to that CPU when given.
    pub hash_cpus: Vec<Option<usize>>,
    /// Disk operations in flight at most.
    pub queue_depth: u32,
    /// Files open at most.
    pub max_open_files: usize,
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self { storage_cpu: None, hash_cpus: vec![None], queue_depth: 64, max_open_files: 512 }
    }
}

/// Something a client asked for is done.
#[derive(Debug)]
pub enum Completion {
    /// From the storage thread.
    Storage(StorageDone),
    /// From the hash pool.
    Hash(HashVerdict),
}

/// The running threads.
#[derive(Debug)]
pub struct StorageService {}

/// One shard's way to storage and hashing. Owned by the shard's thread.
#[derive(Debug)]
pub struct StorageClient {}

#[allow(unused_variables, missing_docs)]
impl StorageService {
    /// Starts the threads. Errors: io_uring or memory not to be had.
    pub fn start(config: StorageConfig) -> io::Result<Self> { todo!() }
    /// A client that is woken by `bell`. `regions` are the mappings its buffers come from (registered as fixed buffers
    /// where possible); `max_jobs` bounds the commands and jobs it has under way.
    pub fn client(&self, bell: Arc<Doorbell>, regions: &[Arc<Region>], max_jobs: usize) -> StorageClient { todo!() }
    /// Ends the threads after all commands are answered. Clients must be gone or idle.
    pub fn stop(self) { todo!() }
}

#[allow(unused_variables, missing_docs)]
impl StorageClient {
    /// Hands a command over. Panics when more than `max_jobs` are under way: a broken invariant of the shard.
    pub fn submit(&mut self, command: StorageCmd) { todo!() }
    /// Hands a job over; as [`Self::submit`].
    pub fn hash(&mut self, job: HashJob) { todo!() }
    /// The next completion, without waiting.
    pub fn poll(&mut self) -> Option<Completion> { todo!() }
    /// Whether [`Self::poll`] has something.
    pub fn has_completions(&self) -> bool { todo!() }
    /// Commands and jobs handed over and not yet answered.
    pub fn under_way(&self) -> usize { todo!() }
}
