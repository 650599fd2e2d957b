//! Tests of the pool: each job answered once with its buffer, sleepers woken, stopping, refusals.

use super::*;
use crate::arena::Partition;
use crate::hash::Backend;
use ccbt_protocol::ids::{PieceIndex, TorrentKey};
use rustix::event::{PollFd, PollFlags, poll};
use std::collections::BTreeSet;

/// A client with a bell and room for `jobs` verdicts.
struct Client {
    part: Partition,
    bell: Arc<Doorbell>,
    reply: Sender<HashVerdict>,
    verdicts: Receiver<HashVerdict>,
}

impl Client {
    fn new(jobs: usize) -> Self {
        let (reply, verdicts) = bounded(jobs);
        Self { part: Partition::new(16 << 20).unwrap(), bell: Doorbell::new().unwrap(), reply, verdicts }
    }

    /// A piece of `len` bytes whose hash is expected to be right, or not.
    fn job(&mut self, piece: u32, len: u32, is_good: bool) -> PoolJob {
        let mut buf = self.part.alloc(len, piece % 4096).unwrap();
        for (at, byte) in buf.as_mut_slice().iter_mut().enumerate() {
            *byte = (at as u32 * 31 + piece) as u8;
        }
        let mut expected = oracle(buf.as_slice());
        if !is_good {
            expected[19] ^= 1;
        }
        let job = HashJob { torrent: TorrentKey(7), piece: PieceIndex(piece), expected, buf };
        PoolJob { job, reply: self.reply.clone(), bell: self.bell.clone() }
    }

    /// Sleeps on the bell until a verdict is there, as a shard does.
    fn wait(&self) -> HashVerdict {
        loop {
            self.bell.announce_sleep();
            if self.verdicts.is_empty() {
                poll(&mut [PollFd::new(&*self.bell, PollFlags::IN)], None).unwrap();
            }
            self.bell.awake();
            self.bell.drain();
            if let Ok(verdict) = self.verdicts.try_recv() {
                return verdict;
            }
        }
    }
}

fn oracle(bytes: &[u8]) -> [u8; 20] {
    use ::sha1::Digest;
    ::sha1::Sha1::digest(bytes).into()
}

#[test]
fn every_job_is_answered_once_with_its_buffer() {
    const JOBS: u32 = 600;
    for threads in 1..=3 {
        let pool = HashPool::start(&vec![None; threads]).unwrap();
        let mut client = Client::new(JOBS as usize);
        let sender = pool.sender();
        for piece in 0..JOBS {
            // Lengths of all kinds, so that pairs are uneven.
            let job = client.job(piece, 1 + piece * 37 % 20_000, !piece.is_multiple_of(5));
            sender.send(job).unwrap();
        }
        let mut open: BTreeSet<u32> = (0..JOBS).collect();
        while !open.is_empty() {
            let verdict = client.wait();
            let piece = verdict.piece.0;
            assert!(open.remove(&piece), "piece {piece} answered twice");
            assert_eq!(verdict.torrent, TorrentKey(7));
            assert_eq!(verdict.ok, !piece.is_multiple_of(5), "piece {piece}");
            assert_eq!(verdict.digest, oracle(verdict.buf.as_slice()));
            assert_eq!(verdict.buf.len() as u32, 1 + piece * 37 % 20_000);
            client.part.free(verdict.buf);
        }
        assert_eq!(client.part.used(), 0);
        assert!(client.verdicts.is_empty());
        pool.stop();
    }
}

#[test]
fn stop_answers_what_waits_and_then_refuses() {
    let pool = HashPool::start(&[None]).unwrap();
    let mut client = Client::new(100);
    let sender = pool.sender();
    for piece in 0..100 {
        sender.send(client.job(piece, 50_000, true)).unwrap();
    }
    pool.stop();
    assert_eq!(client.verdicts.len(), 100);
    assert!(sender.send(client.job(0, 1, true)).is_err());
}

/// Runs a worker on this thread until its queue is empty, without anybody else.
fn run_alone(jobs: impl IntoIterator<Item = PoolJob>) {
    let (sender, receiver) = bounded(POOL_JOBS_MAX);
    jobs.into_iter().for_each(|job| sender.send(job).unwrap());
    let (running, stopped) = bounded(0);
    drop(running);
    Worker { jobs: receiver, stopped, idle: Arc::default() }.run();
}

#[test]
fn short_pieces_do_not_wait_for_a_long_one() {
    let mut client = Client::new(41);
    let long = client.job(0, 4 << 20, true);
    let shorts: Vec<_> = (1..=40).map(|piece| client.job(piece, 16_384, true)).collect();
    run_alone(std::iter::once(long).chain(shorts));
    let order: Vec<u32> = client.verdicts.try_iter().map(|verdict| verdict.piece.0).collect();
    assert_eq!(order.len(), 41);
    // With a single lane the first comes first.
    let last = if Backend::detect().lanes::<Sha1Algorithm>() > 1 { 40 } else { 0 };
    assert_eq!(order.iter().position(|&piece| piece == 0), Some(last), "{order:?}");
}

#[test]
fn idle_threads_get_jobs_before_lanes_do() {
    assert_eq!(share(1, 0, 0), 0);
    assert_eq!(share(1, 20, 0), 20, "nobody idle: as many as wait");
    assert_eq!(share(1, 1, 1), 0, "the other one is for the idle thread");
    assert_eq!(share(1, 15, 1), 7, "eight each");
    assert_eq!(share(4, 2, 3), 0, "has more than its share");
    for (running, waiting, idle) in
        (1..20).flat_map(|a| (0..40).flat_map(move |b| (0..5).map(move |c| (a, b, c))))
    {
        let share = share(running, waiting, idle);
        assert!(share <= waiting);
        let left = waiting - share;
        assert!(share == 0 || idle == 0 || left / idle + 1 >= running + share, "{running} {waiting} {idle}");
    }
}

#[test]
fn a_client_that_is_gone_harms_nobody() {
    let pool = HashPool::start(&[None]).unwrap();
    let mut gone = Client::new(1);
    let job = gone.job(0, 1000, true);
    let mut client = Client::new(1);
    let job_after = client.job(1, 1000, true);
    drop(gone);
    pool.sender().send(job).unwrap();
    pool.sender().send(job_after).unwrap();
    assert!(client.wait().ok);
    pool.stop();
}

#[test]
fn threads_are_named_and_pinned() {
    let pool = HashPool::start(&[Some(first_cpu()), None]).unwrap();
    let names: Vec<&str> = pool.threads.iter().map(|thread| thread.thread().name().unwrap()).collect();
    assert_eq!(names, ["ccbt-hash-0", "ccbt-hash-1"]);
    pool.stop();
    let allowed = std::thread::spawn(|| {
        pin(Some(first_cpu())).unwrap();
        core_affinity::get_core_ids().unwrap()
    });
    let allowed: Vec<usize> = allowed.join().unwrap().into_iter().map(|core| core.id).collect();
    assert_eq!(allowed, [first_cpu()]);
}

#[test]
fn refuses_no_thread_and_cpus_that_are_not_there() {
    assert!(HashPool::start(&[]).unwrap_err().to_string().contains("hash_cpus"));
    for cpu in [1023, 1024, usize::MAX] {
        let error = HashPool::start(&[None, Some(cpu)]).unwrap_err();
        assert!(error.to_string().contains(&format!("CPU {cpu}")), "{error}");
    }
}

fn first_cpu() -> usize {
    core_affinity::get_core_ids().unwrap()[0].id
}
