//! The thread `ccbt-mover`: relocations one after the other, in the order they come.
//!
//! Role: keeps whole-file work away from shards and the storage ring. Owner: the storage service. Invariant: every job
//! taken is answered once, and the bell rings after the answer is in the queue. The queue is bounded ([`WAITING_MAX`]);
//! a shard whose job does not fit keeps it and tries again.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, select_biased};

use super::{RelocateDone, RelocateJob};
use crate::doorbell::Doorbell;

/// Jobs of all shards that wait. Each is a few hundred bytes and may take hours, so there is no use in more.
pub const WAITING_MAX: usize = 64;

/// A job and where its answer goes.
#[derive(Debug)]
pub struct MoverJob {
    /// What to do.
    pub job: RelocateJob,
    /// Takes the answer; has room for all jobs of this client under way.
    pub reply: Sender<RelocateDone>,
    /// Rung after the answer is in `reply`.
    pub bell: Arc<Doorbell>,
}

/// The running thread. Dropping it stops it.
#[derive(Debug)]
pub struct Mover {
    jobs: Sender<MoverJob>,
    /// Dropped to end the thread: jobs may still have other senders.
    running: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// A shard's way to the mover.
#[derive(Debug)]
pub struct MoverClient {
    jobs: Sender<MoverJob>,
    reply: Sender<RelocateDone>,
    answers: Receiver<RelocateDone>,
    bell: Arc<Doorbell>,
    under_way: usize,
}

impl Mover {
    /// Starts the thread.
    pub fn start() -> io::Result<Self> {
        let (jobs, waiting) = bounded(WAITING_MAX);
        let (running, stopped) = bounded(0);
        let thread =
            std::thread::Builder::new().name("ccbt-mover".into()).spawn(move || work(&waiting, &stopped))?;
        Ok(Self { jobs, running: Some(running), thread: Some(thread) })
    }

    /// A client that is woken by `bell`.
    pub fn client(&self, bell: Arc<Doorbell>) -> MoverClient {
        // One more than can wait: the one that is being done.
        let (reply, answers) = bounded(WAITING_MAX + 1);
        MoverClient { jobs: self.jobs.clone(), reply, answers, bell, under_way: 0 }
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        drop(self.running.take());
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join)
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

fn work(waiting: &Receiver<MoverJob>, stopped: &Receiver<()>) {
    loop {
        let job = select_biased! {
            recv(stopped) -> _ => return,
            recv(waiting) -> job => job,
        };
        let Ok(MoverJob { job, reply, bell }) = job else { return };
        let done = job.run();
        match reply.try_send(done) {
            Ok(()) => bell.ring(),
            // The shard has ended without waiting.
            Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(_)) => unreachable!("the answers of a client fit into its queue"),
        }
    }
}

impl MoverClient {
    /// Hands a job over, or gives it back when too many wait: try again later.
    pub fn submit(&mut self, job: RelocateJob) -> Result<(), RelocateJob> {
        if self.under_way > WAITING_MAX {
            return Err(job);
        }
        let job = MoverJob { job, reply: self.reply.clone(), bell: Arc::clone(&self.bell) };
        match self.jobs.try_send(job) {
            Ok(()) => {
                self.under_way += 1;
                Ok(())
            }
            Err(TrySendError::Full(job)) => Err(job.job),
            Err(TrySendError::Disconnected(_)) => panic!("the mover thread is gone"),
        }
    }

    /// The next answer, without waiting.
    pub fn poll(&mut self) -> Option<RelocateDone> {
        let done = self.answers.try_recv().ok()?;
        self.under_way -= 1;
        Some(done)
    }

    /// Whether [`Self::poll`] has something.
    pub fn has_answers(&self) -> bool {
        !self.answers.is_empty()
    }

    /// Jobs handed over and not yet answered.
    pub fn under_way(&self) -> usize {
        self.under_way
    }
}
