//! The thread `ccbt-network`: network interfaces and addresses that come and go.
//!
//! Role: notices that an interface or address that the session is bound to has gone, and says so; opens what listens anew
//! when it is back, and has trackers and peers tried again ([`watch`]). Owner: [`crate::service::Service`], which starts
//! it only where there is something to look after.
//! Invariant: it sleeps until the kernel says that something has changed, or until something is due.

mod watch;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

pub(crate) use watch::{Entrances, Listener};

/// Changes that follow each other are looked at together, after this time.
const SETTLE: Duration = Duration::from_millis(200);

/// The running thread; it ends with this value.
pub(crate) struct NetworkThread {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl NetworkThread {
    /// Starts it. Errors: no thread or descriptor is to be had.
    pub fn start(mut entrances: Entrances) -> io::Result<Self> {
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let told = stop.clone();
        let news = watch::subscribe()?;
        let thread = std::thread::Builder::new().name("ccbt-network".to_owned()).spawn(move || {
            let mut due = Some(Instant::now());
            loop {
                if due.is_some_and(|at| at <= Instant::now()) {
                    due = entrances.look();
                }
                let mut fds = [PollFd::new(&*told, PollFlags::IN), PollFd::new(&news, PollFlags::IN)];
                let wait = due.map(|at| at.saturating_duration_since(Instant::now()));
                let wait = wait.map(|wait| Timespec {
                    tv_sec: wait.as_secs() as i64,
                    tv_nsec: wait.subsec_nanos().into(),
                });
                // Interrupted or not: the loop looks at everything.
                let _ = poll(&mut fds, wait.as_ref());
                if !fds[0].revents().is_empty() {
                    return;
                }
                if !fds[1].revents().is_empty() {
                    watch::drain(&news);
                    due.get_or_insert(Instant::now() + SETTLE);
                }
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for NetworkThread {
    fn drop(&mut self) {
        let _ = rustix::io::write(self.stop.as_fd(), &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the network thread panicked");
        }
    }
}
