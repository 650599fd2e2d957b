//! The storage thread: its loop, and what it knows.
//!
//! Role: carries out [`StorageCmd`]s. Owner: itself; everything here is plain data of this one thread.
//! Invariant: every command is answered once, with its buffer; a request ends when its last
//! [`Part`](crate::schedule::Part) does; a sync starts when all earlier writes of its torrent have ended, a
//! close when everything has. Started by [`crate::service`].
//!
//! One turn of the loop: take commands → open a few files → start what the devices may do → wake clients →
//! submit (and sleep when there is nothing else to do) → take in what ended.

mod barrier;
mod changed;
mod device;
mod handles;
mod locking;
mod making;
mod opening;
mod ports;
mod torrent;
mod transfer;

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ccbt_protocol::ids::TorrentKey;
use crossbeam_channel::Receiver;
use slab::Slab;

use self::device::Device;
use self::handles::Handles;
use self::opening::Opening;
pub(crate) use self::ports::NewClient;
use self::ports::Ports;
use self::torrent::Torrent;
use self::transfer::Request;
use crate::doorbell::Doorbell;
use crate::error::{ErrorKind, Op, StorageError};
use crate::messages::{OpenMode, StorageCmd, StorageDone};
use crate::ring::{DiskRing, Done};
use crate::schedule::tuner::Fixed;
use crate::schedule::{Batch, Next, WORKERS_PER_DEVICE_MAX};
use crate::stats::ServiceCounters;

/// Operations carried out on this thread (file systems in memory) per device and turn.
const INLINE_PER_TURN: usize = 8;

/// An operation that moves no piece data.
#[derive(Debug)]
enum Task {
    /// Reserve the blocks of a file that was `had` bytes long.
    Allocate { torrent: TorrentKey, file: u32, fd: Rc<OwnedFd>, had: u64 },
    /// Make a file durable.
    SyncFile { torrent: TorrentKey, file: u32 },
    /// Make a folder's entries durable.
    SyncFolder { torrent: TorrentKey, path: PathBuf },
}

/// An operation in flight.
#[derive(Debug)]
enum Running {
    Batch { device: usize, batch: Batch, started: Duration },
    Task { device: usize, task: Task },
}

/// All state of the storage thread.
#[derive(Debug)]
pub(crate) struct Core {
    ring: DiskRing,
    bell: Arc<Doorbell>,
    stop: Arc<AtomicBool>,
    ports: Ports,
    torrents: HashMap<TorrentKey, Torrent>,
    /// Torrents with files to open now.
    /// By device and inode, as long as a torrent holds them.
    locks: HashMap<(u64, u64), Weak<OwnedFd>>,
    /// Each is a descriptor beside those of [`Handles`].
    locks_max: usize,
    opening: VecDeque<TorrentKey>,
    requests: Slab<Request>,
    running: Slab<Running>,
    devices: Vec<Device>,
    handles: Handles,
    fixed: Fixed,
    /// Which device is served first next time.
    first_device: usize,
    stats: Arc<ServiceCounters>,
    /// The clock's zero.
    epoch: Instant,
    /// The time when this turn began.
    now: Duration,
    /// Operations may hang in tests, so none is carried out on this thread.
    never_inline: bool,
}

/// How the storage thread is to work.
#[derive(Clone, Debug)]
pub(crate) struct CoreConfig {
    pub(crate) fixed: Fixed,
    pub(crate) max_open_files: usize,
    pub(crate) never_inline: bool,
    pub(crate) stats: Arc<ServiceCounters>,
}

impl Core {
    pub(crate) fn new(
        ring: DiskRing,
        bell: Arc<Doorbell>,
        stop: Arc<AtomicBool>,
        newcomers: Receiver<NewClient>,
        config: CoreConfig,
    ) -> Self {
        Self {
            ring,
            bell,
            stop,
            ports: Ports::new(newcomers),
            torrents: HashMap::new(),
            opening: VecDeque::new(),
            locks: HashMap::new(),
            locks_max: config.max_open_files / 2,
            requests: Slab::new(),
            running: Slab::new(),
            devices: Vec::new(),
            handles: Handles::new(config.max_open_files),
            fixed: config.fixed,
            first_device: 0,
            stats: config.stats,
            epoch: Instant::now(),
            now: Duration::ZERO,
            never_inline: config.never_inline,
        }
    }

    /// Runs until asked to stop and nothing is left to do.
    pub(crate) fn run(&mut self) {
        let mut commands = Vec::new();
        loop {
            self.ports.take(&mut commands);
            let mut busy = !commands.is_empty();
            for (client, command) in commands.drain(..) {
                self.command(client, command);
            }
            self.step_opening();
            self.now = self.epoch.elapsed();
            self.start_operations();
            self.show();
            self.ports.ring();
            busy |= self.work_left();
            if busy {
                self.ring.turn(false);
            } else if !self.rest() {
                return;
            }
            self.now = self.epoch.elapsed();
            while let Some(done) = self.ring.next_done() {
                self.operation_ended(done);
            }
        }
    }

    /// Lets others see how things stand.
    fn show(&self) {
        self.stats.now(self.ring.counts(), self.handles.open());
        self.devices.iter().for_each(Device::show);
    }

    /// Sleeps until an operation ends or the bell rings; false when it is time to stop.
    fn rest(&mut self) -> bool {
        self.bell.announce_sleep();
        let stop = self.stop.load(Ordering::Acquire);
        if self.ports.waiting() {
            self.bell.awake();
            return true;
        }
        if stop && self.running.is_empty() {
            return false;
        }
        self.ring.turn(true);
        self.bell.awake();
        true
    }

    fn command(&mut self, client: usize, command: StorageCmd) {
        let key = torrent_of(&command);
        let Some(torrent) = self.torrents.get_mut(&key) else {
            return self.command_without_torrent(client, command);
        };
        if torrent.opening.is_some() || torrent.closing.is_some() {
            torrent.waiting.push_back((client, command));
            return;
        }
        match command {
            StorageCmd::Open { .. } => panic!("torrent {} is open already", key.0),
            StorageCmd::Write { piece, buf, .. } => self.begin_write(client, key, piece, buf),
            StorageCmd::Read { tag, start, buf, .. } => self.begin_read(client, key, tag, start, buf),
            StorageCmd::Sync { .. } => {
                torrent.add_sync(client);
                self.progress(key);
            }
            StorageCmd::Look { torrent } => {
                let result = self.look(torrent);
                self.ports.answer(client, StorageDone::Looked { torrent, result });
            }
            StorageCmd::Close { .. } => {
                torrent.closing = Some(client);
                self.progress(key);
            }
        }
    }

    fn command_without_torrent(&mut self, client: usize, command: StorageCmd) {
        let torrent = torrent_of(&command);
        let not_open = |op| Err(not_open(op, torrent));
        let answer = match command {
            StorageCmd::Open { spec, prealloc, mode, later, .. } => {
                let opening = Opening::new(client, prealloc, spec.files().len(), later);
                self.torrents.insert(torrent, Torrent::new(spec, mode, opening));
                self.opening.push_back(torrent);
                return;
            }
            StorageCmd::Write { piece, buf, .. } => {
                StorageDone::Written { torrent, piece, buf, result: not_open(Op::Write) }
            }
            StorageCmd::Read { tag, buf, .. } => {
                StorageDone::ReadDone { torrent, tag, buf, result: not_open(Op::Read) }
            }
            StorageCmd::Sync { .. } => StorageDone::Synced { torrent, result: not_open(Op::Sync) },
            StorageCmd::Look { .. } => StorageDone::Looked { torrent, result: Ok(()) },
            StorageCmd::Close { .. } => StorageDone::Closed { torrent },
        };
        self.ports.answer(client, answer);
    }

    /// Whether something can be done without waiting for an operation or a command.
    fn work_left(&self) -> bool {
        let share = self.share();
        let startable = |device: &Device| device.queue.in_flight() < share && device.queue.ready();
        !self.opening.is_empty() || self.devices.iter().any(startable)
    }

    /// Operations that each device may have in flight, whatever its queue would take. Each operation uses one
    /// descriptor, and as long as fewer than the limit are in use, one can be closed for another: so the limit
    /// is divided, and a slow device cannot keep the others from opening files. One each in any case.
    fn share(&self) -> u32 {
        let share = self.handles.max() / self.devices.len().max(1);
        u32::try_from(share.max(1)).unwrap_or(u32::MAX)
    }

    /// Starts what the devices may do now.
    fn start_operations(&mut self) {
        let (count, share) = (self.devices.len(), self.share());
        self.first_device += 1;
        for turn in 0..count {
            let device = (self.first_device + turn) % count;
            let mut inline = 0;
            while self.devices[device].queue.in_flight() < share && inline < INLINE_PER_TURN {
                match self.devices[device].queue.next_work() {
                    None => break,
                    Some(Next::Task(task)) => self.start_task(device, task),
                    Some(Next::Batch(batch)) => {
                        inline += usize::from(self.devices[device].in_memory);
                        self.start_batch(device, batch);
                    }
                }
            }
        }
    }

    fn operation_ended(&mut self, done: Done) {
        match self.running.remove(done.token as usize) {
            Running::Batch { device, batch, started } => {
                let latency = self.now.saturating_sub(started);
                self.batch_ended(device, batch, done.result, latency);
            }
            Running::Task { device, task } => self.task_ended(device, task, done.result),
        }
    }

    fn start_task(&mut self, device: usize, task: Task) {
        let fd = match &task {
            Task::Allocate { fd, .. } => Ok(Rc::clone(fd)),
            Task::SyncFile { torrent, file } => self.handle_to_sync(*torrent, *file),
            Task::SyncFolder { path, .. } => {
                self.handles.retrying(|| crate::files::open_to_sync(path)).map(Rc::new)
            }
        };
        let fd = match fd {
            Ok(fd) => fd,
            Err(error) => {
                self.devices[device].queue.task_ended();
                return self.task_failed(task, error);
            }
        };
        // No kernel does these without a worker.
        self.devices[device].counters.punt();
        let entry = self.running.vacant_entry();
        let token = entry.key() as u64;
        match &task {
            Task::Allocate { torrent, file, .. } => {
                let len = self.torrents[torrent].spec.files()[*file as usize].len;
                self.ring.allocate(&fd, len, token);
            }
            Task::SyncFile { .. } => self.ring.sync(&fd, true, token),
            Task::SyncFolder { .. } => self.ring.sync(&fd, false, token),
        }
        entry.insert(Running::Task { device, task });
    }

    fn task_ended(&mut self, device: usize, task: Task, result: Result<u32, i32>) {
        let of = &mut self.devices[device];
        of.queue.task_ended();
        of.counters.task();
        match (result, task) {
            (Err(libc::EINTR | libc::EAGAIN), task) => {
                of.counters.retry();
                of.queue.push_task(task);
            }
            (result, Task::Allocate { torrent, file, fd, had }) => {
                self.allocated(torrent, file, &fd, had, result)
            }
            (Ok(_), Task::SyncFile { torrent, file }) => self.file_synced(torrent, file),
            (Ok(_), Task::SyncFolder { torrent, .. }) => self.sync_part_ended(torrent, None),
            (Err(errno), task) => {
                of.counters.error();
                let path = self.task_path(&task);
                self.task_failed(task, StorageError::from_errno(Op::Sync, &path, errno));
            }
        }
    }

    fn task_path(&self, task: &Task) -> PathBuf {
        match task {
            Task::SyncFolder { path, .. } => path.clone(),
            Task::SyncFile { torrent, file } | Task::Allocate { torrent, file, .. } => {
                self.torrents[torrent].spec.file_path(*file)
            }
        }
    }

    /// The number of the device with `st_dev` `number`, which is new if it was not seen before.
    fn device(&mut self, number: u64, in_memory: impl FnOnce() -> bool) -> u16 {
        if let Some(known) = self.devices.iter().position(|device| device.number == number) {
            return known as u16;
        }
        let in_memory = in_memory() && !self.never_inline;
        self.devices.push(Device::new(number, in_memory, self.fixed, &self.stats));
        // Every device has its own: none waits for the workers that another occupies.
        self.ring.limit_workers(self.devices.len() as u32 * WORKERS_PER_DEVICE_MAX);
        u16::try_from(self.devices.len() - 1).expect("fewer than 65536 devices")
    }

    /// Takes a torrent out, and what came for it meanwhile up again.
    fn forget(&mut self, key: TorrentKey) {
        self.handles.close_torrent(key);
        let torrent = self.torrents.remove(&key).expect("a torrent to forget");
        for (client, command) in torrent.waiting {
            self.command(client, command);
        }
    }
}

fn torrent_of(command: &StorageCmd) -> TorrentKey {
    match command {
        StorageCmd::Open { torrent, .. }
        | StorageCmd::Write { torrent, .. }
        | StorageCmd::Read { torrent, .. }
        | StorageCmd::Sync { torrent }
        | StorageCmd::Look { torrent }
        | StorageCmd::Close { torrent } => *torrent,
    }
}

fn not_open(op: Op, torrent: TorrentKey) -> StorageError {
    StorageError::new(op, format!("files of torrent {}", torrent.0).as_ref(), ErrorKind::NotOpen)
}

fn may_write(mode: OpenMode) -> bool {
    mode == OpenMode::ReadWrite
}

#[cfg(test)]
mod tests;
