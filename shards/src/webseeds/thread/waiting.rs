//! How the web seed thread waits: for its sockets, its bell and the clock, whichever is first.

use super::*;

impl Worker {
    /// Waits for sockets, the bell or the clock.
    pub(super) fn sleep(&mut self) {
        let mut wait = None;
        let mut at_most =
            |time: Duration| wait = Some(wait.map_or(time, |before: Duration| before.min(time)));
        if !self.outbox.is_empty() {
            at_most(LOOK);
        }
        if !self.idle.is_empty() {
            at_most(IDLE_TIME);
        }
        let mut whose = Vec::new();
        let mut polled: Vec<(BorrowedFd<'_>, PollFlags)> = vec![(self.bell.as_fd(), PollFlags::IN)];
        for (at, job) in self.jobs.iter().enumerate() {
            at_most(TELL);
            let (conn, flags) = match &job.stage {
                Stage::Connecting(conn, _) => (conn, PollFlags::OUT),
                Stage::Head(conn, _) if conn.wants_write() => (conn, PollFlags::IN | PollFlags::OUT),
                Stage::Head(conn, _) => (conn, PollFlags::IN),
                Stage::Body(conn, _) if !job.held => (conn, PollFlags::IN),
                Stage::Name(_) | Stage::Certificates(_) => {
                    at_most(LOOK);
                    continue;
                }
                _ => continue,
            };
            whose.push(at);
            polled.push((conn.as_fd(), flags));
        }
        let mut fds: Vec<PollFd<'_>> =
            polled.into_iter().map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)).collect();
        self.bell.announce_sleep();
        if self.commands.is_empty() {
            let limit = wait.map(|wait| Timespec { tv_sec: 0, tv_nsec: wait.subsec_nanos().into() });
            let limit = limit.map(|limit| match wait {
                Some(wait) if wait >= Duration::from_secs(1) => {
                    Timespec { tv_sec: wait.as_secs() as i64, ..limit }
                }
                _ => limit,
            });
            // Interrupted is as good as woken.
            let _ = poll(&mut fds, limit.as_ref());
        }
        let woken: Vec<bool> = fds[1..].iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        self.bell.awake();
        self.bell.drain();
        for (at, _) in whose.into_iter().zip(woken).filter(|(_, woken)| *woken) {
            self.jobs[at].ready = true;
        }
        for job in &mut self.jobs {
            job.ready |= matches!(job.stage, Stage::Name(_) | Stage::Certificates(_));
        }
    }
}
