//! What is measured: kernels, the engine's ways to hash, other libraries, other programs.
//!
//! Role: a [`Subject`] hashes a small part of a [`Set`] per step, and goes round it. Owner: `kernels::run`. Invariant: a
//! step of a subject reads every byte that it counts.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use ccbt_protocol::ids::{PieceIndex, TorrentKey};
use ccbt_storage::arena::{Partition, PieceBuf};
use ccbt_storage::doorbell::Doorbell;
use ccbt_storage::hash::algorithm::{Algorithm, Sha1Algorithm, Sha256Algorithm};
use ccbt_storage::hash::{
    BLOCK_LEN, Backend, Block, HashPool, Hasher, Kernel, PoolJob, digest_all, update_lanes,
};
use ccbt_storage::messages::{HashJob, HashVerdict};
use crossbeam_channel::{Receiver, Sender, bounded};

use crate::error::BenchError;

/// Lanes that the engine's dispatch is measured with.
const DISPATCH_LANES: [usize; 6] = [1, 2, 4, 5, 8, 16];

/// Pieces in memory of the kind that the engine keeps them in.
pub(super) struct Set {
    /// For people.
    pub(super) name: &'static str,
    /// `None` while the pool has it.
    pieces: Vec<Option<PieceBuf>>,
    piece_len: usize,
    /// The same bytes for programs.
    file: Option<PathBuf>,
    /// Keeps the memory.
    _partition: Partition,
}

impl Set {
    /// `count` pieces of `piece_len` bytes. Fails when there is no memory for them.
    pub(super) fn new(name: &'static str, piece_len: usize, count: usize) -> Result<Self, BenchError> {
        let no_memory = |error| BenchError::Usage(format!("no memory for --set-mib: {error}"));
        let mut partition = Partition::new(piece_len * count).map_err(no_memory)?;
        let mut seed = 0x9e37_79b9_7f4a_7c15u64;
        let pieces = (0..count).map(|_| {
            let mut piece = partition.alloc(piece_len as u32, 0).expect("the partition holds all pieces");
            for eight in piece.as_mut_slice().as_chunks_mut::<8>().0 {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                *eight = seed.to_le_bytes();
            }
            Some(piece)
        });
        let pieces = pieces.collect();
        Ok(Self { name, pieces, piece_len, file: None, _partition: partition })
    }

    /// Bytes of all pieces.
    pub(super) fn len(&self) -> usize {
        self.pieces.len() * self.piece_len
    }

    /// Also writes the bytes to `path`.
    pub(super) fn write(&mut self, path: PathBuf) -> Result<(), BenchError> {
        let all: Vec<u8> = (0..self.pieces.len()).flat_map(|number| self.piece(number)).copied().collect();
        std::fs::write(&path, all).map_err(BenchError::file("write", &path))?;
        self.file = Some(path);
        Ok(())
    }

    fn piece(&self, number: usize) -> &[u8] {
        self.pieces[number].as_ref().expect("no pieces are with the pool between steps").as_slice()
    }

    /// The next `count` pieces from `cursor` on, around the end.
    fn next(&self, cursor: &mut usize, count: usize) -> Vec<&[u8]> {
        let numbers = (0..count).map(|nth| (*cursor + nth) % self.pieces.len());
        let pieces = numbers.map(|number| self.piece(number)).collect();
        *cursor = (*cursor + count) % self.pieces.len();
        pieces
    }
}

/// One way to hash.
pub(super) struct Subject {
    pub(super) algorithm: &'static str,
    pub(super) name: String,
    /// Messages at once.
    pub(super) lanes: usize,
    /// Set for a bare kernel.
    pub(super) kernel: Option<Kernel>,
    /// Hashes the next part of the set and returns its bytes.
    pub(super) step: Step,
}

/// See [`Subject::step`].
pub(super) type Step = Box<dyn FnMut(&mut Set) -> Result<usize, BenchError>>;

impl Subject {
    fn new<A: Algorithm>(name: impl Into<String>, lanes: usize, step: Step) -> Self {
        Self { algorithm: A::NAME, name: name.into(), lanes, kernel: None, step }
    }
}

/// Everything that hashes `Set`s piece by piece.
pub(super) fn all() -> Vec<Subject> {
    let mut subjects = own::<Sha1Algorithm>();
    subjects.extend(libraries_sha1());
    subjects.extend(own::<Sha256Algorithm>());
    subjects.extend(libraries_sha256());
    subjects
}

/// The engine's kernels and its dispatch.
fn own<A: Algorithm>() -> Vec<Subject> {
    let mut subjects = Vec::new();
    for kernel in Kernel::ALL.into_iter().filter(|kernel| kernel.is_available()) {
        for lanes in 1..=kernel.lanes() {
            let subject = Subject::new::<A>(kernel.name(), lanes, by_kernel::<A>(kernel, lanes));
            subjects.push(Subject { kernel: Some(kernel), ..subject });
        }
    }
    for lanes in
        DISPATCH_LANES.into_iter().filter(|&lanes| lanes <= Backend::detect().lanes::<Sha1Algorithm>())
    {
        subjects.push(Subject::new::<A>("update_lanes", lanes, by_dispatch::<A>(lanes)));
    }
    subjects
}

fn by_kernel<A: Algorithm>(kernel: Kernel, lanes: usize) -> Step {
    let mut cursor = 0;
    Box::new(move |set| {
        let pieces = set.next(&mut cursor, lanes);
        let blocks: Vec<&[Block]> = pieces.iter().map(|piece| piece.as_chunks::<BLOCK_LEN>().0).collect();
        let mut states = vec![A::START; lanes];
        kernel.compress::<A>(&mut states, &blocks);
        std::hint::black_box(&states);
        Ok(lanes * set.piece_len)
    })
}

fn by_dispatch<A: Algorithm>(lanes: usize) -> Step {
    let mut cursor = 0;
    Box::new(move |set| {
        let mut hashers = vec![Hasher::<A>::new(); lanes];
        update_lanes(&mut hashers, &set.next(&mut cursor, lanes));
        hashers.into_iter().for_each(|hasher| {
            std::hint::black_box(hasher.finalize());
        });
        Ok(lanes * set.piece_len)
    })
}

/// A library's function of one whole message.
fn library<A: Algorithm, D>(name: &str, hash: impl Fn(&[u8]) -> D + 'static) -> Subject {
    let mut cursor = 0;
    let step: Step = Box::new(move |set| {
        std::hint::black_box(hash(set.next(&mut cursor, 1)[0]));
        Ok(set.piece_len)
    });
    Subject::new::<A>(name, 1, step)
}

fn libraries_sha1() -> Vec<Subject> {
    vec![
        library::<Sha1Algorithm, _>("sha1 crate", |bytes| <sha1::Sha1 as sha1::Digest>::digest(bytes)),
        #[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
        library::<Sha1Algorithm, _>("sha1-asm", |bytes| {
            let mut state = Sha1Algorithm::START;
            sha1_asm::compress(&mut state, bytes.as_chunks::<BLOCK_LEN>().0);
            state
        }),
        library::<Sha1Algorithm, _>("aws-lc", |bytes| {
            aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, bytes)
        }),
    ]
}

fn libraries_sha256() -> Vec<Subject> {
    vec![
        library::<Sha256Algorithm, _>("sha2 crate", |bytes| <sha2::Sha256 as sha2::Digest>::digest(bytes)),
        library::<Sha256Algorithm, _>("aws-lc", |bytes| {
            aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes)
        }),
    ]
}

/// `sha1sum` and `sha256sum` of the set's file, those that are installed.
pub(super) fn programs() -> Vec<Subject> {
    let mut subjects = Vec::new();
    for (program, is_sha1) in [("sha1sum", true), ("sha256sum", false)] {
        let version = Command::new(program).arg("--version").stdout(Stdio::null()).status();
        if !version.is_ok_and(|status| status.success()) {
            eprintln!("{program}: not installed, left out");
            continue;
        }
        let step: Step = Box::new(move |set| {
            let file = set.file.as_ref().expect("programs run on sets with a file");
            let status = Command::new(program).arg(file).stdout(Stdio::null()).status();
            match status.map_err(BenchError::file("hash", file))? {
                status if status.success() => Ok(set.len()),
                status => Err(BenchError::Client(format!("{program}: {status}"))),
            }
        });
        let name = format!("{program} (process)");
        subjects.push(if is_sha1 {
            Subject::new::<Sha1Algorithm>(name, 1, step)
        } else {
            Subject::new::<Sha256Algorithm>(name, 1, step)
        });
    }
    subjects
}

/// The hash pool with one thread, and what its thread could do at best: whole sets at a time.
pub(super) fn pool(jobs: usize) -> Result<Vec<Subject>, BenchError> {
    let lanes = Backend::detect().lanes::<Sha1Algorithm>();
    let whole: Step = Box::new(move |set| {
        let pieces = (0..set.pieces.len()).map(|number| set.piece(number));
        digest_all::<Sha1Algorithm>(Backend::detect(), pieces, |_, digest| {
            std::hint::black_box(digest);
        });
        Ok(set.len())
    });
    let (kernel, width) = Backend::detect().group::<Sha1Algorithm>(lanes);
    let bare = by_kernel::<Sha1Algorithm>(kernel, width);
    let start = |error| BenchError::Usage(format!("cannot start a hash thread: {error}"));
    let mut client = PoolClient::new(jobs).map_err(start)?;
    Ok(vec![
        Subject::new::<Sha1Algorithm>(kernel.name(), width, bare),
        Subject::new::<Sha1Algorithm>("digest_all", lanes, whole),
        Subject::new::<Sha1Algorithm>("HashPool, 1 thread", lanes, Box::new(move |set| client.step(set))),
    ])
}

/// A shard's side of a pool.
struct PoolClient {
    jobs: Sender<PoolJob>,
    reply: Sender<HashVerdict>,
    verdicts: Receiver<HashVerdict>,
    bell: Arc<Doorbell>,
    /// Ends its thread when this goes.
    _pool: HashPool,
}

impl PoolClient {
    fn new(jobs: usize) -> std::io::Result<Self> {
        let pool = HashPool::start(&[None])?;
        let (reply, verdicts) = bounded(jobs);
        Ok(Self { jobs: pool.sender(), reply, verdicts, bell: Doorbell::new()?, _pool: pool })
    }

    /// All pieces of the set as jobs, until the last verdict.
    fn step(&mut self, set: &mut Set) -> Result<usize, BenchError> {
        let gone = || BenchError::Client("the hash thread ended".into());
        for (number, piece) in set.pieces.iter_mut().enumerate() {
            let buf = piece.take().expect("no pieces are with the pool between steps");
            let (torrent, piece) = (TorrentKey(0), PieceIndex(number as u32));
            let job = HashJob { torrent, piece, expected: [0; 20], buf };
            let job = PoolJob { job, reply: self.reply.clone(), bell: Arc::clone(&self.bell) };
            self.jobs.send(job).map_err(|_| gone())?;
        }
        for _ in 0..set.pieces.len() {
            let verdict = self.verdicts.recv().map_err(|_| gone())?;
            set.pieces[verdict.piece.0 as usize] = Some(verdict.buf);
        }
        Ok(set.len())
    }
}
