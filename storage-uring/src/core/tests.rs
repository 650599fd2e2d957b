//! Results that no healthy disk gives: operations are taken from the queues and ended by hand.

use std::os::unix::fs::FileExt as _;

use ccbt_protocol::ids::PieceIndex;
use crossbeam_channel::{Receiver, Sender, bounded};

use super::*;
use crate::arena::Partition;
use crate::layout::{Class, FileSpec, LayoutSpec};
use crate::messages::Preallocate;
use crate::schedule::Mode;

const KEY: TorrentKey = TorrentKey(3);
const PIECE: u32 = 16_384;

struct Bench {
    core: Core,
    commands: Sender<StorageCmd>,
    answers: Receiver<StorageDone>,
    memory: Partition,
    spec: Arc<LayoutSpec>,
    _folder: tempfile::TempDir,
}

impl Bench {
    /// An open torrent of one file of four pieces.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = FileSpec { path: "f".into(), len: u64::from(4 * PIECE), ..FileSpec::default() };
        let spec = Arc::new(LayoutSpec::new(folder.path().to_path_buf(), vec![file], PIECE).unwrap());
        let bell = Doorbell::new().unwrap();
        let (newcomers, arrivals) = bounded(1);
        let (commands, taken) = bounded(16);
        let (answer, answers) = bounded(16);
        newcomers
            .send(NewClient { commands: taken, answers: answer, bell: Doorbell::new().unwrap() })
            .unwrap();
        let ring = DiskRing::new(Arc::clone(&bell)).unwrap();
        let config = CoreConfig {
            fixed: Fixed { depth: Some(8), batch_bytes: None },
            max_open_files: 8,
            never_inline: true,
            stats: Arc::default(),
        };
        let core = Core::new(ring, bell, Arc::new(AtomicBool::new(true)), arrivals, config);
        let memory = Partition::new(1 << 20).unwrap();
        let mut this = Self { core, commands, answers, memory, spec: Arc::clone(&spec), _folder: folder };
        let (mode, prealloc) = (OpenMode::ReadWrite, Preallocate::Sparse);
        this.submit(StorageCmd::Open { torrent: KEY, spec, prealloc, mode, later: Vec::new() });
        this.core.step_opening();
        assert!(matches!(this.answers.try_recv(), Ok(StorageDone::Opened { result: Ok(_), .. })));
        this
    }

    fn submit(&mut self, command: StorageCmd) {
        self.commands.send(command).unwrap();
        let mut commands = Vec::new();
        self.core.ports.take(&mut commands);
        for (client, command) in commands {
            self.core.command(client, command);
        }
    }

    fn write(&mut self, piece: u32) {
        let mut buf = self.memory.alloc(PIECE, 0).unwrap();
        for (at, byte) in buf.as_mut_slice().iter_mut().enumerate() {
            *byte = content(piece * PIECE + at as u32);
        }
        self.submit(StorageCmd::Write { torrent: KEY, piece: PieceIndex(piece), buf });
    }

    /// The operation the storage thread would start next.
    fn next(&mut self) -> (usize, Batch) {
        let device = usize::from(self.core.torrents[&KEY].home);
        match self.core.devices[device].queue.next_work() {
            // As if the attempt had blocked: what ends it now is final.
            Some(Next::Batch(batch)) => (device, Batch { mode: Mode::Plain, ..batch }),
            other => panic!("{other:?}"),
        }
    }

    /// Lets everything go its way; the pieces answered, and whether they were written.
    fn finish(&mut self) -> Vec<(u32, Result<(), ErrorKind>)> {
        self.core.run();
        let mut pieces: Vec<_> = self
            .answers
            .try_iter()
            .map(|done| match done {
                StorageDone::Written { piece, result, .. } => (piece.0, result.map_err(|error| error.kind())),
                other => panic!("{other:?}"),
            })
            .collect();
        pieces.sort_by_key(|(piece, _)| *piece);
        pieces
    }

    fn check(&self, pieces: std::ops::Range<u32>) {
        let bytes = std::fs::read(self.spec.file_path(0)).unwrap();
        let range = pieces.start * PIECE..pieces.end * PIECE;
        assert!(range.into_iter().all(|at| bytes[at as usize] == content(at)));
    }
}

fn content(at: u32) -> u8 {
    (at.wrapping_mul(0x9e37_79b9) >> 24) as u8
}

#[test]
fn a_short_write_goes_on_where_it_ended() {
    for moved in [1, 100, 4096, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE + 5000, 3 * PIECE - 1] {
        let mut bench = Bench::new();
        (0..3).for_each(|piece| bench.write(piece));
        let (device, batch) = bench.next();
        assert_eq!(batch.len, 3 * PIECE, "three neighbours, one operation");
        // The kernel wrote only so much.
        let bytes: Vec<u8> = (0..moved).map(content).collect();
        let file = std::fs::OpenOptions::new().write(true).open(bench.spec.file_path(0)).unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        bench.core.batch_ended(device, batch, Ok(moved), Duration::ZERO);
        assert_eq!(bench.answers.len(), (moved / PIECE) as usize, "only whole pieces are claimed");
        assert_eq!(bench.finish(), [(0, Ok(())), (1, Ok(())), (2, Ok(()))]);
        bench.check(0..3);
    }
}

#[test]
fn an_error_of_a_joined_operation_hits_only_the_piece_it_is_of() {
    let mut bench = Bench::new();
    (0..3).for_each(|piece| bench.write(piece));
    let (device, batch) = bench.next();
    bench.core.batch_ended(device, batch, Err(libc::EIO), Duration::ZERO);
    assert!(bench.answers.is_empty(), "nobody knows yet which piece it was");
    // On their own, only the second fails again.
    let alone: Vec<_> = (0..3).map(|_| bench.next()).collect();
    for (device, batch) in alone {
        assert_eq!(batch.parts.len(), 1);
        match batch.head().offset / u64::from(PIECE) {
            1 => bench.core.batch_ended(device, batch, Err(libc::EIO), Duration::ZERO),
            _ => bench.core.start_batch(device, batch),
        }
    }
    assert_eq!(bench.finish(), [(0, Ok(())), (1, Err(ErrorKind::Io)), (2, Ok(()))]);
    bench.check(0..1);
    bench.check(2..3);
}

#[test]
fn a_file_system_that_refuses_direct_writes_gets_buffered_ones() {
    let mut bench = Bench::new();
    bench.write(0);
    let (device, batch) = bench.next();
    if batch.head().class == Class::Seam {
        eprintln!("skipped: no O_DIRECT in the temporary folder");
        return;
    }
    bench.core.batch_ended(device, batch, Err(libc::EINVAL), Duration::ZERO);
    let (device, batch) = bench.next();
    assert_eq!(batch.head().class, Class::Seam);
    bench.core.start_batch(device, batch);
    assert_eq!(bench.core.torrents[&KEY].files[0].align, 0, "not tried again");
    assert_eq!(bench.finish(), [(0, Ok(()))]);
    bench.check(0..1);
}

#[test]
fn being_asked_to_try_again_ends() {
    let mut bench = Bench::new();
    bench.write(0);
    let mut tries = 0;
    while bench.answers.is_empty() {
        let (device, batch) = bench.next();
        bench.core.batch_ended(device, batch, Err(libc::EAGAIN), Duration::ZERO);
        tries += 1;
        assert!(tries < 1000);
    }
    assert_eq!(bench.finish(), [(0, Err(ErrorKind::Io))]);
    assert!(tries > 1);
}

#[test]
fn a_failed_sync_is_told_and_tried_again_by_the_next() {
    let mut bench = Bench::new();
    bench.write(0);
    let (device, batch) = bench.next();
    bench.core.start_batch(device, batch);
    assert_eq!(bench.finish(), [(0, Ok(()))]);
    bench.submit(StorageCmd::Sync { torrent: KEY });
    for _ in 0..2 {
        // The file, and the folder with its new entry.
        let Some(Next::Task(task)) = bench.core.devices[device].queue.next_work() else { panic!("a task") };
        let result = if matches!(task, Task::SyncFile { .. }) { Err(libc::EIO) } else { Ok(0) };
        bench.core.task_ended(device, task, result);
    }
    match bench.answers.try_recv() {
        Ok(StorageDone::Synced { result: Err(error), .. }) => {
            assert_eq!((error.op(), error.path().to_path_buf()), (Op::Sync, bench.spec.file_path(0)));
        }
        other => panic!("{other:?}"),
    }
    bench.submit(StorageCmd::Sync { torrent: KEY });
    assert!(bench.core.devices[device].queue.ready(), "the file is still to be synced");
    bench.core.run();
    assert!(matches!(bench.answers.try_recv(), Ok(StorageDone::Synced { result: Ok(()), .. })));
}
