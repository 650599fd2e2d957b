//! A shard's thread: pinned, running one glommio executor, able to sleep on a foreign eventfd.
//!
//! Role: everything about glommio that needs care. Called by [`crate::service`], one call per shard.
//! Why it looks like this (glommio 0.9.0):
//! * `Placement::Fixed` unwraps sysfs topology that containers hide, so we pin with `core_affinity` and stay `Unbound`;
//! * the only public way to wait for a descriptor of our own is to read it as a [`BufferedFile`];
//! * when its preempt timer has fired before it looks at its queues, it parks although tasks could run, perhaps for
//!   ever. A thread that loses its CPU for the timer's length at that point is enough. So the timer is set to an age, and
//!   whoever runs for long gives way with [`Sleeper::give_way`], which waits for a real (and ready) descriptor.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::thread::JoinHandle;
use std::time::Duration;

use glommio::io::BufferedFile;
use glommio::net::TcpStream;
use glommio::{LocalExecutorBuilder, Placement};

/// How long control tasks (trackers) may have to wait for their turn while a shard is busy.
pub const SLICE: Duration = Duration::from_millis(5);
/// Never, see the module. Not longer, as glommio computes with it.
const PREEMPT: Duration = Duration::from_secs(24 * 60 * 60);
/// Entries of each of glommio's rings; trackers and timers only, so little will do.
const RING_DEPTH: usize = 64;

thread_local! {
    static MAKING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is making its executor. glommio panics when its first ring cannot be made (descriptors, kernel
/// memory); a panic hook that ends the program may ask, and say so in words of its own. Without such a hook the thread
/// ends and [`spawn`] fails.
pub fn is_being_made() -> bool {
    MAKING.get()
}

/// Starts a thread called `name`, pinned to `cpu` when given, and runs `main` on a glommio executor there.
///
/// `main` makes its future on the new thread, so the future need not be `Send`. Errors: the executor could not be
/// built (memlock, io_uring), told before this returns.
pub fn spawn<F, Fut>(name: &str, cpu: Option<usize>, main: F) -> io::Result<JoinHandle<()>>
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let (told, built) = crossbeam_channel::bounded::<io::Result<()>>(1);
    let handle = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        if let Some(id) = cpu {
            // A CPU that went offline or left our mask since the layout was made is no reason to fail.
            core_affinity::set_for_current(core_affinity::CoreId { id });
        }
        MAKING.set(true);
        let executor = LocalExecutorBuilder::new(Placement::Unbound)
            .io_memory(0)
            .ring_depth(RING_DEPTH)
            .preempt_timer(PREEMPT)
            .make();
        MAKING.set(false);
        match executor {
            Ok(executor) => {
                let _ = told.send(Ok(()));
                executor.run(main());
            }
            Err(error) => {
                let _ = told.send(Err(io::Error::other(error.to_string())));
            }
        }
    })?;
    built.recv().map_err(|_| io::Error::other("the shard's thread died while starting"))??;
    Ok(handle)
}

/// glommio's stream over any socket of ours, a connected UDP socket included.
pub(crate) fn stream(socket: OwnedFd) -> TcpStream {
    // SAFETY: `socket` gives its descriptor up right here, so the stream is its only owner.
    unsafe { TcpStream::from_raw_fd(socket.into_raw_fd()) }
}

/// Sleeps on an eventfd inside the executor.
pub struct Sleeper {
    file: BufferedFile,
    /// The same descriptor, to write.
    bell: OwnedFd,
}

impl Sleeper {
    /// For the eventfd `fd`, which must be in blocking mode; it is duplicated. Call on the executor's thread.
    pub fn new(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let bell = fd.try_clone_to_owned()?;
        let own = bell.try_clone()?.into_raw_fd();
        // SAFETY: `own` is a fresh duplicate that nobody else closes; BufferedFile takes it over.
        Ok(Self { file: unsafe { BufferedFile::from_raw_fd(own) }, bell })
    }

    /// Lets every other task of the executor go on as far as it can, then returns.
    pub async fn give_way(&self) -> io::Result<()> {
        rustix::io::write(&self.bell, &1u64.to_ne_bytes())?;
        self.sleep().await
    }

    /// Returns once the eventfd has been written, and resets it. Other tasks of the executor run meanwhile.
    pub async fn sleep(&self) -> io::Result<()> {
        match self.file.read_at(0, 8).await {
            Ok(_) => Ok(()),
            Err(error) => Err(io::Error::other(error.to_string())),
        }
    }
}
