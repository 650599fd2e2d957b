//! One measurement of the storage service, in this process: `ccbt-bench storage-child` (hidden).
//!
//! Role: does what a shard does, without network and hashing: whole pieces, a bounded number under way.
//! Prints one line of JSON, a [`Measured`].

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use ccbt_protocol::ids::{PieceIndex, TorrentKey};
use ccbt_storage::arena::{Partition, PieceBuf};
use ccbt_storage::doorbell::Doorbell;
use ccbt_storage::layout::{FileSpec, LayoutSpec};
use ccbt_storage::messages::{OpenMode, Preallocate, StorageCmd, StorageDone};
use ccbt_storage::{Completion, StorageClient, StorageConfig, StorageService};
use clap::Args;
use rand::seq::SliceRandom as _;
use rustix::event::{PollFd, PollFlags, poll};

use super::{Alloc, Measured, Order, Seen, Way};
use crate::error::BenchError;
use crate::stats::Latencies;

const KEY: TorrentKey = TorrentKey(1);

/// Options of the hidden subcommand.
#[derive(Args, Debug, Clone)]
pub struct ChildArgs {
    #[arg(long)]
    dir: PathBuf,
    #[arg(long)]
    size_mib: u32,
    #[arg(long)]
    piece_kib: u32,
    #[arg(long)]
    window: usize,
    #[arg(long, value_enum)]
    alloc: Alloc,
    #[arg(long, value_enum)]
    order: Order,
    #[arg(long)]
    queue_depth: Option<u32>,
    #[arg(long)]
    write_kib: Option<u32>,
}

/// The service, one client and its memory.
struct Rig {
    client: StorageClient,
    bell: Arc<Doorbell>,
    memory: Partition,
    spec: Arc<LayoutSpec>,
    window: usize,
}

/// Measures and prints.
pub fn run(args: &ChildArgs) -> Result<bool, BenchError> {
    let folder = args.dir.join("ccbt-bench-storage");
    let result = measure(args, folder.clone());
    let _ = std::fs::remove_dir_all(&folder);
    println!("{}", serde_json::to_string(&result?).expect("plain data serialises"));
    Ok(true)
}

fn failed(what: &str, why: impl std::fmt::Display) -> BenchError {
    BenchError::Client(format!("{what}: {why}"))
}

fn measure(args: &ChildArgs, folder: PathBuf) -> Result<Measured, BenchError> {
    let piece_len = args.piece_kib.saturating_mul(1024);
    let total = u64::from(args.size_mib) << 20;
    let files = vec![FileSpec { path: "data".into(), len: total, ..FileSpec::default() }];
    let spec = Arc::new(LayoutSpec::new(folder, files, piece_len).map_err(|error| failed("layout", error))?);
    let service = StorageService::start(StorageConfig {
        queue_depth: args.queue_depth,
        write_bytes: args.write_kib.map(|kib| kib.saturating_mul(1024)),
        ..StorageConfig::default()
    })
    .map_err(|error| failed("storage service", error))?;
    let bell = Doorbell::new().map_err(|error| failed("eventfd", error))?;
    let memory = Partition::new(args.window * piece_len as usize).map_err(|error| failed("memory", error))?;
    let client = service.client(Arc::clone(&bell), args.window);
    let mut rig = Rig { client, bell, memory, spec: Arc::clone(&spec), window: args.window };
    rig.touch_memory(piece_len);
    let order = pieces(&spec, args.order);
    rig.open(args.alloc)?;
    let write = rig.move_all(&order, false)?;
    let start = Instant::now();
    rig.client.submit(StorageCmd::Sync { torrent: KEY });
    match rig.wait() {
        StorageDone::Synced { result, .. } => result.map_err(|error| failed("sync", error))?,
        other => panic!("{other:?} is no answer to a sync"),
    }
    let sync_s = start.elapsed().as_secs_f64();
    let read = rig.move_all(&order, true)?;
    let stats = service.stats();
    let device = &stats.devices[0];
    let bytes = device.read.bytes + device.write.bytes;
    let buffered = device.read.buffered_bytes + device.write.buffered_bytes;
    let seen = Seen {
        depth: device.depth_limit,
        batch_kib: device.batch_bytes / 1024,
        punts: device.punts,
        operations: device.read.operations + device.write.operations,
        enters: stats.enters,
        buffered_share: buffered as f64 / bytes.max(1) as f64,
        sync_s,
    };
    rig.client.submit(StorageCmd::Close { torrent: KEY });
    rig.wait();
    service.stop();
    Ok(Measured { write, read, peak_rss_mib: 0.0, seen: Some(seen) })
}

/// The pieces in the order they are to be moved.
fn pieces(spec: &LayoutSpec, order: Order) -> Vec<u32> {
    let count = spec.total_len().div_ceil(u64::from(spec.piece_len())) as u32;
    let mut pieces: Vec<u32> = (0..count).collect();
    if order == Order::Random {
        pieces.shuffle(&mut rand::rng());
    }
    pieces
}

/// CPU seconds of this process so far, with the kernel's workers, which are its threads.
fn cpu() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

impl Rig {
    /// Gives all memory its pages, with bytes that do not compress to nothing.
    fn touch_memory(&mut self, piece_len: u32) {
        let mut random = 1u64;
        let mut bufs = Vec::new();
        while let Some(mut buf) = self.memory.alloc(piece_len, 0) {
            for word in buf.as_mut_slice().chunks_exact_mut(8) {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                word.copy_from_slice(&random.to_ne_bytes());
            }
            bufs.push(buf);
        }
        bufs.into_iter().for_each(|buf| self.memory.free(buf));
    }

    fn open(&mut self, alloc: Alloc) -> Result<(), BenchError> {
        let prealloc = match alloc {
            Alloc::Full => Preallocate::Full,
            Alloc::Sparse => Preallocate::Sparse,
        };
        let (spec, mode) = (Arc::clone(&self.spec), OpenMode::ReadWrite);
        self.client.submit(StorageCmd::Open { torrent: KEY, spec, prealloc, mode, later: Vec::new() });
        match self.wait() {
            StorageDone::Opened { result, .. } => {
                let report = result.map_err(|error| failed("open", error))?;
                report.notes.iter().for_each(|note| eprintln!("{note}"));
                Ok(())
            }
            other => panic!("{other:?} is no answer to an open"),
        }
    }

    fn wait(&mut self) -> StorageDone {
        loop {
            if let Some(Completion::Storage(done)) = self.client.poll() {
                return done;
            }
            self.bell.announce_sleep();
            if !self.client.has_completions() {
                poll(&mut [PollFd::new(&*self.bell, PollFlags::IN)], None).expect("polling an eventfd");
            }
            self.bell.awake();
            self.bell.drain();
        }
    }

    /// Writes or reads every piece once.
    fn move_all(&mut self, pieces: &[u32], reading: bool) -> Result<Way, BenchError> {
        let mut latencies = Latencies::default();
        let mut handed_over = vec![Instant::now(); pieces.len()];
        let (start, cpu_before) = (Instant::now(), cpu());
        let (mut next, mut left) = (0, pieces.len());
        while left > 0 {
            while let Some(&piece) = pieces.get(next)
                && self.client.under_way() < self.window
                && self.begin(piece, reading)
            {
                handed_over[piece as usize] = Instant::now();
                next += 1;
            }
            let (piece, buf, result) = match self.wait() {
                StorageDone::Written { piece, buf, result, .. } => (piece.0, buf, result),
                StorageDone::ReadDone { tag, buf, result, .. } => (tag as u32, buf, result),
                other => panic!("{other:?} was not asked for"),
            };
            result.map_err(|error| failed("transfer", error))?;
            latencies.record(handed_over[piece as usize].elapsed());
            self.memory.free(buf);
            left -= 1;
        }
        let (seconds, cpu_s) = (start.elapsed().as_secs_f64(), cpu() - cpu_before);
        let summary = latencies.summary();
        let (p50_us, p99_us, p999_us) = (summary.p50_us, summary.p99_us, summary.p999_us);
        Ok(Way { seconds, cpu_s, p50_us, p99_us, p999_us })
    }

    /// Hands a piece over; false when its memory is not there yet.
    fn begin(&mut self, number: u32, reading: bool) -> bool {
        let piece = PieceIndex(number);
        let (len, phase) = (self.spec.piece_size(piece), self.spec.phase(piece));
        let Some(mut buf): Option<PieceBuf> = self.memory.alloc(len, phase) else { return false };
        let start = self.spec.piece_start(piece);
        self.client.submit(if reading {
            StorageCmd::Read { torrent: KEY, tag: number.into(), start, buf }
        } else {
            buf.as_mut_slice()[..4].copy_from_slice(&number.to_ne_bytes());
            StorageCmd::Write { torrent: KEY, piece, buf }
        });
        true
    }
}
