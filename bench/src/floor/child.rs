//! One bare loop, in this process: `ccbt-bench floor-child` (hidden).
//!
//! Role: what is measured. Owner: its one thread. Each connection has its own part of the file, as a peer with pieces of
//! its own has.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use ccbt_storage::hash::algorithm::Sha1Algorithm;
use ccbt_storage::hash::{Backend, digest_all};
use clap::Args;

use super::Task;
use super::far::each;
use crate::error::BenchError;
use crate::generator::net::Interest;

/// Bytes of a piece.
const PIECE: usize = 1 << 20;
/// Pieces hashed at once: the lanes of AVX-512.
const LANES: usize = 16;
/// Bytes read and sent at once.
const EXTENT: usize = 256 << 10;
/// System calls on one socket before others have their turn.
const BURST: usize = 4;

/// Options of the hidden subcommand.
#[derive(Args, Debug, Clone)]
pub struct ChildArgs {
    task: Task,
    port: u16,
    connections: u16,
    /// MiB of each connection.
    each_mib: u64,
    file: PathBuf,
}

/// Writes so many MiB.
pub(super) fn fill(path: &Path, mib: u64) -> io::Result<()> {
    let mut file = File::create(path)?;
    let chunk = vec![7; PIECE];
    (0..mib).try_for_each(|_| file.write_all(&chunk))
}

/// Moves everything.
pub fn run(args: &ChildArgs) -> Result<bool, BenchError> {
    let sockets: io::Result<Vec<TcpStream>> = (0..args.connections)
        .map(|_| {
            let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, args.port))?;
            socket.set_nonblocking(true)?;
            socket.set_nodelay(true)?;
            Ok(socket)
        })
        .collect();
    let sockets = sockets.map_err(BenchError::socket("connect"))?;
    let moved = match args.task {
        Task::Receive => receive(&sockets, |_, _, piece| Ok(piece)),
        Task::Seed => send(args, &sockets),
        Task::Write | Task::Download => File::create(&args.file).and_then(|file| {
            let mut sink = Sink { file, each: args.each_mib << 20, batch: Vec::new(), spare: Vec::new() };
            sink.file.set_len(sink.each * u64::from(args.connections))?;
            let lanes = if args.task == Task::Download { LANES } else { 1 };
            receive(&sockets, |nth, offset, piece| sink.take(lanes, (nth, offset), piece))?;
            sink.flush(lanes > 1)
        }),
    };
    moved.map_err(BenchError::socket("move bytes"))?;
    Ok(true)
}

/// Fills pieces of each connection; `full` takes one that is the connection's at an offset, and gives one to go on with.
fn receive(
    sockets: &[TcpStream],
    mut full: impl FnMut(usize, u64, Vec<u8>) -> io::Result<Vec<u8>>,
) -> io::Result<()> {
    // Piece, bytes in it, and where it begins.
    let mut states: Vec<(Vec<u8>, usize, u64)> = sockets.iter().map(|_| (vec![0; PIECE], 0, 0)).collect();
    each(sockets, Interest::Read, |nth, mut socket| {
        let (piece, at, offset) = &mut states[nth];
        for _ in 0..BURST {
            let count = socket.read(&mut piece[*at..])?;
            *at += count;
            if count == 0 {
                return Ok(true);
            }
            if *at == PIECE {
                *piece = full(nth, *offset, std::mem::take(piece))?;
                (*at, *offset) = (0, *offset + PIECE as u64);
            }
        }
        Ok(false)
    })
}

/// Where full pieces go.
struct Sink {
    file: File,
    /// Bytes of each connection.
    each: u64,
    batch: Vec<(u64, Vec<u8>)>,
    spare: Vec<Vec<u8>>,
}

impl Sink {
    /// Takes a piece of connection and offset; when there are `lanes` of them, all are hashed, if they are many, and written.
    fn take(&mut self, lanes: usize, (nth, offset): (usize, u64), piece: Vec<u8>) -> io::Result<Vec<u8>> {
        self.batch.push((nth as u64 * self.each + offset, piece));
        if self.batch.len() == lanes {
            self.flush(lanes > 1)?;
        }
        Ok(self.spare.pop().unwrap_or_else(|| vec![0; PIECE]))
    }

    fn flush(&mut self, hashed: bool) -> io::Result<()> {
        if hashed {
            let pieces = self.batch.iter().map(|(_, piece)| piece.as_slice());
            digest_all::<Sha1Algorithm>(Backend::detect(), pieces, |_, digest| {
                std::hint::black_box(digest);
            });
        }
        for (at, piece) in self.batch.drain(..) {
            self.file.write_all_at(&piece, at)?;
            self.spare.push(piece);
        }
        Ok(())
    }
}

/// Sends its part of the file on each.
fn send(args: &ChildArgs, sockets: &[TcpStream]) -> io::Result<()> {
    let file = File::open(&args.file)?;
    let each_bytes = args.each_mib << 20;
    // Bytes read, how many of them were sent, and where in the part they begin.
    let mut states: Vec<(Vec<u8>, usize, u64)> =
        sockets.iter().map(|_| (vec![0; EXTENT], EXTENT, 0)).collect();
    each(sockets, Interest::ReadWrite, |nth, mut socket| {
        let (extent, sent, next) = &mut states[nth];
        for _ in 0..BURST {
            if *sent == EXTENT {
                if *next == each_bytes {
                    return Ok(true);
                }
                file.read_exact_at(extent, nth as u64 * each_bytes + *next)?;
                (*sent, *next) = (0, *next + EXTENT as u64);
            }
            *sent += match socket.write(&extent[*sent..]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                other => other?,
            };
        }
        Ok(false)
    })
}
