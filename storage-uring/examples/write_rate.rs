//! Writes (and reads back) a file of 1 MiB pieces through the storage service and prints rate and CPU cost.
//!
//! `write_rate FOLDER [GiB] [full|sparse|none] [piece KiB] [first file's odd bytes]`

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use ccbt_protocol::ids::{PieceIndex, TorrentKey};
use ccbt_storage::arena::{Partition, PieceBuf};
use ccbt_storage::doorbell::Doorbell;
use ccbt_storage::layout::{FileSpec, LayoutSpec};
use ccbt_storage::messages::{OpenMode, Preallocate, StorageCmd, StorageDone};
use ccbt_storage::{Completion, StorageClient, StorageConfig, StorageService};
use rustix::event::{PollFd, PollFlags, poll};

const KEY: TorrentKey = TorrentKey(1);
/// Pieces under way at a time.
const WINDOW: usize = 32;

fn wait(client: &mut StorageClient, bell: &Arc<Doorbell>) -> StorageDone {
    loop {
        if let Some(Completion::Storage(done)) = client.poll() {
            return done;
        }
        bell.announce_sleep();
        if !client.has_completions() {
            poll(&mut [PollFd::new(&**bell, PollFlags::IN)], None).expect("polling the bell");
        }
        bell.awake();
        bell.drain();
    }
}

/// CPU seconds of this process so far, all threads and kernel workers: (total, the storage thread's).
fn cpu() -> (f64, f64) {
    let ticks = |path: &str| -> f64 {
        let stat = std::fs::read_to_string(path).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or("").split(' ').collect();
        (11..13).map(|field| fields.get(field).and_then(|text| text.parse().ok()).unwrap_or(0.0)).sum::<f64>()
            / 100.0
    };
    let mut storage = 0.0;
    for task in std::fs::read_dir("/proc/self/task").expect("procfs").flatten() {
        let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        if name.trim() == "ccbt-storage" || name.starts_with("iou-wrk") {
            storage += ticks(&task.path().join("stat").to_string_lossy());
        }
    }
    (ticks("/proc/self/stat"), storage)
}

fn main() {
    let mut args = std::env::args().skip(1);
    let folder = PathBuf::from(args.next().expect("give a folder")).join("write_rate");
    let gib: f64 = args.next().map_or(2.0, |text| text.parse().expect("GiB"));
    let prealloc = match args.next().as_deref() {
        Some("full") => Preallocate::Full,
        Some("none") => Preallocate::None,
        _ => Preallocate::Sparse,
    };
    let piece_len = args.next().map_or(1024, |text| text.parse::<u32>().expect("KiB")) * 1024;
    let odd: u64 = args.next().map_or(0, |text| text.parse().expect("bytes"));
    let total = (gib * f64::from(1 << 30)) as u64;
    let file = |name: &str, len| FileSpec { path: name.into(), len, ..FileSpec::default() };
    let files = vec![file("odd", odd), file("data", total - odd)];
    let spec = Arc::new(LayoutSpec::new(folder.clone(), files, piece_len).expect("a layout"));
    let service = StorageService::start(StorageConfig::default()).expect("the service");
    let bell = Doorbell::new().expect("a bell");
    let mut memory = Partition::new(WINDOW * (piece_len as usize + 4096)).expect("memory");
    let mut client = service.client(Arc::clone(&bell), &[Arc::clone(memory.region())], WINDOW);
    client.submit(StorageCmd::Open {
        torrent: KEY,
        spec: Arc::clone(&spec),
        prealloc,
        mode: OpenMode::ReadWrite,
    });
    match wait(&mut client, &bell) {
        StorageDone::Opened { result: Ok(report), .. } => {
            println!("direct: {}, {:?}", report.direct, report.notes)
        }
        other => panic!("{other:?}"),
    }
    let pieces = total.div_ceil(u64::from(piece_len)) as u32;
    for reading in [false, true] {
        let (start, before) = (Instant::now(), cpu());
        let mut done = 0;
        let mut next = 0;
        while done < pieces {
            while next < pieces
                && client.under_way() < WINDOW
                && let Some(mut buf) =
                    memory.alloc(spec.piece_size(PieceIndex(next)), spec.phase(PieceIndex(next)))
            {
                let piece = PieceIndex(next);
                if reading {
                    client.submit(StorageCmd::Read {
                        torrent: KEY,
                        tag: 0,
                        start: spec.piece_start(piece),
                        buf,
                    });
                } else {
                    buf.as_mut_slice()[..8].copy_from_slice(&u64::from(next).to_ne_bytes());
                    client.submit(StorageCmd::Write { torrent: KEY, piece, buf });
                }
                next += 1;
            }
            let buf: PieceBuf = match wait(&mut client, &bell) {
                StorageDone::Written { buf, result: Ok(()), .. }
                | StorageDone::ReadDone { buf, result: Ok(()), .. } => buf,
                other => panic!("{other:?}"),
            };
            memory.free(buf);
            done += 1;
        }
        report(if reading { "read" } else { "write" }, start, before, gib);
        if !reading {
            let (start, before) = (Instant::now(), cpu());
            client.submit(StorageCmd::Sync { torrent: KEY });
            wait(&mut client, &bell);
            report("sync", start, before, gib);
        }
    }
    client.submit(StorageCmd::Close { torrent: KEY });
    wait(&mut client, &bell);
    service.stop();
    std::fs::remove_dir_all(folder).expect("removing what was written");
}

fn report(what: &str, start: Instant, before: (f64, f64), gib: f64) {
    let (seconds, after) = (start.elapsed().as_secs_f64(), cpu());
    println!(
        "{what}: {:.2} s, {:.0} MiB/s, CPU s/GiB: process {:.3}, storage thread and workers {:.3}",
        seconds,
        gib * 1024.0 / seconds,
        (after.0 - before.0) / gib,
        (after.1 - before.1) / gib
    );
}
