//! Reads and writes: from requests to parts, and from ended operations back to answers.

use std::time::{Duration, Instant};

use ccbt_protocol::ids::{PieceIndex, TorrentKey};

use super::{Core, Running, may_write, not_open};
use crate::arena::{PAGE, PieceBuf};
use crate::error::{ErrorKind, Op, StorageError};
use crate::layout::Class;
use crate::messages::StorageDone;
use crate::ring::{BufKey, Direction, Range};
use crate::schedule::{Batch, Mode, Part};

/// Shorter reads with ragged ends go through the page cache as a whole: one operation instead of up to three.
const RAGGED_DIRECT_READ_MIN: u32 = 64 * 1024;
/// How often the system may ask for another try of one part.
const RETRIES_MAX: u8 = 64;

/// What a request is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    Write { piece: PieceIndex, epoch: u64 },
    Read { tag: u64 },
}

/// A read or write under way.
#[derive(Debug)]
pub(super) struct Request {
    client: usize,
    torrent: TorrentKey,
    purpose: Purpose,
    buf: BufKey,
    parts_left: u32,
    error: Option<StorageError>,
}

impl Core {
    pub(super) fn begin_write(&mut self, client: usize, key: TorrentKey, piece: PieceIndex, buf: PieceBuf) {
        let made = self.make_files_of(key, piece);
        let torrent = self.torrents.get_mut(&key).expect("an open torrent");
        let size = torrent.spec.piece_size(piece);
        let error = if !may_write(torrent.mode) {
            not_open(Op::Write, key)
        } else if size == 0 || buf.len() != size as usize {
            StorageError::new(Op::Write, torrent.spec.root(), ErrorKind::BadLayout)
        } else if let Err(error) = made {
            error
        } else if let Some(path) = torrent.shared_file_of(piece) {
            StorageError::new(Op::Write, &path, ErrorKind::Shared)
        } else {
            let epoch = torrent.write_began();
            let start = torrent.spec.piece_start(piece);
            return self.begin(client, key, Purpose::Write { piece, epoch }, start, buf);
        };
        self.ports.answer(client, StorageDone::Written { torrent: key, piece, buf, result: Err(error) });
    }

    pub(super) fn begin_read(&mut self, client: usize, key: TorrentKey, tag: u64, start: u64, buf: PieceBuf) {
        let spec = &self.torrents[&key].spec;
        if start.checked_add(buf.len() as u64).is_none_or(|end| end > spec.total_len()) {
            let result = Err(StorageError::new(Op::Read, spec.root(), ErrorKind::BadLayout));
            return self.ports.answer(client, StorageDone::ReadDone { torrent: key, tag, buf, result });
        }
        self.begin(client, key, Purpose::Read { tag }, start, buf);
    }

    fn begin(&mut self, client: usize, key: TorrentKey, purpose: Purpose, start: u64, buf: PieceBuf) {
        let torrent = self.torrents.get_mut(&key).expect("an open torrent");
        torrent.requests += 1;
        let (len, phase) = (buf.len() as u32, buf.phase());
        let buf = self.ring.hold(buf);
        let direction = match purpose {
            Purpose::Write { .. } => Direction::Write,
            Purpose::Read { .. } => Direction::Read,
        };
        // The one part more is the request itself until all are queued: some have none, being padding only.
        let mut parts_left = 1;
        let request = self.requests.vacant_key() as u32;
        for extent in torrent.spec.extents(start, len) {
            if torrent.spec.files()[extent.file as usize].pad {
                if direction == Direction::Read {
                    self.ring.zero(Range { buf, at: extent.at, len: extent.len });
                }
                continue;
            }
            let state = torrent.files[extent.file as usize];
            let ragged = (extent.offset | u64::from(extent.len)) % PAGE as u64 != 0;
            let small = direction == Direction::Read && ragged && extent.len < RAGGED_DIRECT_READ_MIN;
            let queue = &mut self.devices[usize::from(state.device)].queue;
            for (class, span) in extent.spans(phase, state.align().filter(|_| !small)) {
                let cut = queue.batch_bytes();
                for from in (0..span.len).step_by(cut as usize) {
                    parts_left += 1;
                    queue.push(Part {
                        request,
                        torrent: key,
                        file: span.file,
                        offset: span.offset + u64::from(from),
                        at: span.at + from,
                        len: cut.min(span.len - from),
                        direction,
                        class,
                        solo: false,
                        retries: 0,
                    });
                }
            }
        }
        self.requests.insert(Request { client, torrent: key, purpose, buf, parts_left, error: None });
        self.part_ended(request, None);
    }

    /// Starts a batch, or carries it out at once when the file system lives in memory.
    pub(super) fn start_batch(&mut self, device: usize, batch: Batch) {
        let head = *batch.head();
        let fd = match self.handle(head.torrent, head.file, head.class == Class::Direct) {
            Ok(fd) => fd,
            Err(error) if error.errno() == Some(libc::EINVAL) && head.class == Class::Direct => {
                return self.batch_ended(device, batch, Err(libc::EINVAL), Duration::ZERO);
            }
            Err(error) => {
                self.devices[device].queue.ended(&batch);
                self.devices[device].counters.error();
                return self.fail(&batch.parts, &error);
            }
        };
        let requests = &self.requests;
        let range =
            |part: &Part| Range { buf: requests[part.request as usize].buf, at: part.at, len: part.len };
        if self.devices[device].in_memory {
            let start = Instant::now();
            let result =
                self.ring.transfer_now(head.direction, &fd, head.offset, batch.parts.iter().map(range));
            return self.batch_ended(device, batch, result, start.elapsed());
        }
        if batch.mode == Mode::Worker {
            self.devices[device].counters.punt();
        }
        let entry = self.running.vacant_entry();
        let token = entry.key() as u64;
        let way = (head.direction, batch.mode);
        self.ring.transfer(way, &fd, head.offset, batch.parts.iter().map(range), token);
        entry.insert(Running::Batch { device, batch, started: self.now });
    }

    /// Takes the result of a batch: what was moved is done, the rest goes on, and an error hits only the part
    /// it is of.
    pub(super) fn batch_ended(
        &mut self,
        device: usize,
        batch: Batch,
        result: Result<u32, i32>,
        latency: Duration,
    ) {
        let of = &mut self.devices[device];
        if let Err(errno @ (libc::EAGAIN | libc::EOPNOTSUPP)) = result
            && batch.mode == Mode::Try
            && !of.in_memory
        {
            of.counters.blocked();
            return of.queue.would_block(batch, errno == libc::EAGAIN);
        }
        of.queue.ended(&batch);
        if let Ok(bytes) = result {
            of.moved(&batch, bytes, self.now, latency);
        }
        let head = *batch.head();
        let torrent = self.torrents.get_mut(&head.torrent).expect("a request holds its torrent");
        if head.direction == Direction::Write {
            torrent.dirty.insert(head.file);
        }
        let many = batch.parts.len() > 1;
        match result {
            Ok(0) => {
                let kind =
                    if head.direction == Direction::Read { ErrorKind::ShortRead } else { ErrorKind::Io };
                let error =
                    StorageError::new(op_of(head.direction), &torrent.spec.file_path(head.file), kind);
                of.counters.error();
                self.fail(&batch.parts, &error);
            }
            Ok(moved) => self.moved(device, batch, moved),
            Err(libc::EINVAL) if head.class == Class::Direct => {
                // The file system wants more than it said, or changed its mind: the page cache takes
                // everything.
                torrent.files[head.file as usize].align = 0;
                self.again(device, batch.parts, |part| Part { class: Class::Seam, ..part });
            }
            Err(libc::EINTR | libc::EAGAIN) if head.retries < RETRIES_MAX => {
                self.again(device, batch.parts, |part| Part { retries: part.retries + 1, ..part });
            }
            Err(_) if many => self.again(device, batch.parts, |part| Part { solo: true, ..part }),
            Err(errno) => {
                of.counters.error();
                let path = torrent.spec.file_path(head.file);
                self.fail(&batch.parts, &StorageError::from_errno(op_of(head.direction), &path, errno));
            }
        }
    }

    /// `moved` bytes of the batch are done; the rest goes on, through the page cache unless it starts with a
    /// whole page.
    fn moved(&mut self, device: usize, batch: Batch, mut moved: u32) {
        for part in batch.parts {
            let done = moved.min(part.len);
            moved -= done;
            if done == part.len {
                self.part_ended(part.request, None);
                continue;
            }
            let offset = part.offset + u64::from(done);
            self.devices[device].counters.retry();
            let class = if (done as usize).is_multiple_of(PAGE) { part.class } else { Class::Seam };
            let rest = Part { offset, at: part.at + done, len: part.len - done, class, ..part };
            self.devices[device].queue.push(rest);
        }
    }

    fn again(&mut self, device: usize, parts: Vec<Part>, change: impl Fn(Part) -> Part) {
        self.devices[device].counters.retry();
        parts.into_iter().for_each(|part| self.devices[device].queue.push(change(part)));
    }

    fn fail(&mut self, parts: &[Part], error: &StorageError) {
        for part in parts {
            self.part_ended(part.request, Some(error.clone()));
        }
    }

    fn part_ended(&mut self, index: u32, error: Option<StorageError>) {
        let request = &mut self.requests[index as usize];
        request.parts_left -= 1;
        request.error = request.error.take().or(error);
        if request.parts_left > 0 {
            return;
        }
        let request = self.requests.remove(index as usize);
        let (key, buf) = (request.torrent, self.ring.release(request.buf));
        let result = request.error.map_or(Ok(()), Err);
        let torrent = self.torrents.get_mut(&key).expect("a request holds its torrent");
        torrent.requests -= 1;
        let answer = match request.purpose {
            Purpose::Write { piece, epoch } => {
                torrent.write_ended(epoch);
                if result.is_ok() {
                    torrent.written.insert(piece);
                }
                StorageDone::Written { torrent: key, piece, buf, result }
            }
            Purpose::Read { tag } => StorageDone::ReadDone { torrent: key, tag, buf, result },
        };
        self.ports.answer(request.client, answer);
        self.progress(key);
    }
}

fn op_of(direction: Direction) -> Op {
    match direction {
        Direction::Read => Op::Read,
        Direction::Write => Op::Write,
    }
}
