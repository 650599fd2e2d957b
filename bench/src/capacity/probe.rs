//! The single measurements of `ccbt-bench box`, each a few seconds.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use ccbt_storage::hash::algorithm::{Algorithm, Sha1Algorithm, Sha256Algorithm};
use ccbt_storage::hash::{Backend, digest_all};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::error::BenchError;
use crate::stats::median;
use crate::storage::{self, Measured};

const GIB: f64 = (1u64 << 30) as f64;
/// How long one rate is measured.
const TIME: Duration = Duration::from_millis(700);
/// Syncs of a small write.
const SYNCS: u64 = 32;
/// Queue depths; the last measurement leaves it to the engine.
const DEPTHS: [Option<u32>; 4] = [Some(1), Some(4), Some(16), None];
/// Length of the pieces written and hashed.
const PIECE_KIB: u32 = 1024;
/// Bytes of one send and one receive.
const SEND_LEN: usize = 256 << 10;
/// Pieces hashed in turn: more than caches hold.
const HASH_PIECES: usize = 64;

/// One queue depth. Rates in bytes per second.
#[derive(Debug, Clone, Serialize)]
pub struct DiskAtDepth {
    /// `None`: found out by the engine.
    pub depth: Option<u32>,
    pub write: f64,
    pub read: f64,
}

/// What the disk does.
#[derive(Debug, Clone, Serialize)]
pub struct Disk {
    pub depths: Vec<DiskAtDepth>,
    /// The depth that the engine came to.
    pub found_depth: u32,
    /// Writing with the sync behind it, as the engine does it.
    pub write_synced: f64,
    /// The same without.
    pub write: f64,
    pub read: f64,
    /// Median of a synced write of 4 KiB, milliseconds.
    pub sync_ms: f64,
    /// Share of the bytes that went through the page cache: 1 where there is no O_DIRECT.
    pub buffered_share: f64,
    pub is_rotating: bool,
}

/// Measures the disk of `dir` with files of `size_mib`.
pub fn disk(dir: &Path, size_mib: u32) -> Result<Disk, BenchError> {
    let mut depths = Vec::new();
    let mut last = None;
    for depth in DEPTHS {
        let measured = storage::measure(dir, size_mib, PIECE_KIB, depth)?;
        let bytes = f64::from(size_mib) * 1048576.0;
        let (write, read) = (bytes / measured.write.seconds, bytes / measured.read.seconds);
        depths.push(DiskAtDepth { depth, write, read });
        last = Some((bytes, measured));
    }
    let (bytes, Measured { write, read, seen, .. }) = last.expect("there are depths");
    let seen = seen.expect("the service tells");
    Ok(Disk {
        depths,
        found_depth: seen.depth,
        write_synced: bytes / (write.seconds + seen.sync_s),
        write: bytes / write.seconds,
        read: bytes / read.seconds,
        sync_ms: small_syncs(dir)?,
        buffered_share: seen.buffered_share,
        is_rotating: is_rotating(dir),
    })
}

fn small_syncs(dir: &Path) -> Result<f64, BenchError> {
    let path = dir.join("ccbt-bench-sync");
    let failed = |action| BenchError::file(action, &path);
    let file =
        OpenOptions::new().create(true).truncate(true).write(true).open(&path).map_err(failed("create"))?;
    let mut times = Vec::new();
    for number in 0..SYNCS {
        let start = Instant::now();
        let written = file.write_all_at(&[number as u8; 4096], number * 4096).and_then(|()| file.sync_data());
        written.map_err(failed("sync"))?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let _ = std::fs::remove_file(&path);
    Ok(median(&times).expect("there are syncs"))
}

/// Whether the device says that it has heads; file systems of several devices say nothing.
fn is_rotating(dir: &Path) -> bool {
    let Ok(found) = std::fs::metadata(dir) else { return false };
    let (major, minor) = (rustix::fs::major(found.dev()), rustix::fs::minor(found.dev()));
    // A partition has no queue: that of its disk is one folder up.
    ["queue/rotational", "../queue/rotational"].iter().any(|file| {
        let path = format!("/sys/dev/block/{major}:{minor}/{file}");
        std::fs::read_to_string(path).is_ok_and(|text| text.trim() == "1")
    })
}

/// Bytes hashed per second.
#[derive(Debug, Clone, Serialize)]
pub struct Hashing {
    /// SHA-1 on one CPU.
    pub sha1: f64,
    /// SHA-1 on all CPUs at once.
    pub sha1_all: f64,
    /// SHA-256 (BEP 52) on one CPU.
    pub sha256: f64,
}

/// Measures the engine's kernels, as it uses them.
pub fn hashing(cpus: usize) -> Hashing {
    let sum_of = |threads: usize| {
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..threads).map(|_| scope.spawn(hash_rate::<Sha1Algorithm>)).collect();
            all.into_iter().map(|one| one.join().expect("hashing does not panic")).sum::<f64>()
        })
    };
    Hashing { sha1: sum_of(1), sha1_all: sum_of(cpus), sha256: hash_rate::<Sha256Algorithm>() }
}

fn hash_rate<A: Algorithm>() -> f64 {
    let backend = Backend::detect();
    let len = PIECE_KIB as usize * 1024;
    let bytes: Vec<u8> = (0..HASH_PIECES * len).map(|at| (at / 7) as u8).collect();
    let (start, mut hashed) = (Instant::now(), 0);
    while start.elapsed() < TIME {
        digest_all::<A>(backend, bytes.chunks_exact(len), |_, digest| {
            std::hint::black_box(digest.as_ref());
        });
        hashed += bytes.len();
    }
    hashed as f64 / start.elapsed().as_secs_f64()
}

/// TCP on loopback.
#[derive(Debug, Clone, Serialize)]
pub struct Network {
    /// One connection, bytes per second.
    pub rate: f64,
    /// CPU seconds per GiB.
    pub send_cpu_s: f64,
    /// As above.
    pub receive_cpu_s: f64,
}

/// Measures one connection, a thread at each end. What the kernel does of the receiver's work in the sender's time, as
/// it does on loopback, counts for the sender.
pub fn network() -> Result<Network, BenchError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(BenchError::socket("listen"))?;
    let address = listener.local_addr().map_err(BenchError::socket("listen"))?;
    std::thread::scope(|scope| {
        let receiving = scope.spawn(move || -> std::io::Result<(u64, f64)> {
            let (mut stream, _) = listener.accept()?;
            let (mut buffer, mut bytes) = (vec![0; SEND_LEN], 0);
            loop {
                match stream.read(&mut buffer)? {
                    0 => return Ok((bytes, thread_cpu())),
                    count => bytes += count as u64,
                }
            }
        });
        let sending = scope.spawn(move || -> std::io::Result<(f64, f64)> {
            let mut stream = TcpStream::connect(address)?;
            let (buffer, start) = (vec![1; SEND_LEN], Instant::now());
            while start.elapsed() < 2 * TIME {
                stream.write_all(&buffer)?;
            }
            Ok((start.elapsed().as_secs_f64(), thread_cpu()))
        });
        let failed = || BenchError::socket("move bytes on loopback");
        let (seconds, send_cpu) = sending.join().expect("sending does not panic").map_err(failed())?;
        let (bytes, receive_cpu) = receiving.join().expect("receiving does not panic").map_err(failed())?;
        let gib = bytes as f64 / GIB;
        Ok(Network {
            rate: bytes as f64 / seconds,
            send_cpu_s: send_cpu / gib,
            receive_cpu_s: receive_cpu / gib,
        })
    })
}

/// CPU seconds of this thread.
fn thread_cpu() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Free bytes for files at `dir`.
pub fn free_bytes(dir: &Path) -> Result<u64, BenchError> {
    let folder = File::open(dir).map_err(BenchError::file("open", dir))?;
    let found =
        rustix::fs::fstatvfs(&folder).map_err(|error| BenchError::file("look at", dir)(error.into()))?;
    Ok(found.f_bavail * found.f_frsize)
}
