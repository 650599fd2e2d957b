//! Whether io_uring works here.
//!
//! Role: what happens before the first operation. Called by the storage thread when it starts, and by whoever
//! wants to tell the user what to change ([`probe`]).

use std::io;

use io_uring::{Probe, opcode};

use super::ENTRIES;
use super::features::{features, setup};

/// Lets a write beyond the process's file size limit (`ulimit -f`) fail with `EFBIG` on the calling thread,
/// instead of ending the process with `SIGXFSZ`.
pub fn survive_file_size_limit() {
    // SAFETY: `set` is initialised by `sigemptyset` before it is used, and the mask is the calling thread's
    // own.
    unsafe {
        let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGXFSZ);
        let result = libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
        assert_eq!(result, 0, "blocking one signal cannot fail");
    }
}

/// Why io_uring cannot be used here, and what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// `EPERM` or `EACCES`.
    #[error(
        "io_uring is not permitted: set `sysctl kernel.io_uring_disabled=0`, or allow io_uring_setup, \
         io_uring_enter and io_uring_register in the container's seccomp profile"
    )]
    Forbidden,
    /// `ENOSYS`.
    #[error(
        "this kernel offers no io_uring: Linux 5.13 or newer is needed, built with CONFIG_IO_URING and \
         not blocked by a seccomp profile"
    )]
    Missing,
    /// `ENOMEM`.
    #[error(
        "not enough locked memory for io_uring: raise it with `ulimit -l 65536` (LimitMEMLOCK= in systemd)"
    )]
    Memory,
    /// An operation that is needed is unknown to the kernel.
    #[error("this kernel's io_uring lacks {0}: Linux 5.13 or newer is needed")]
    Opcode(&'static str),
    /// Anything else.
    #[error("io_uring cannot be set up ({})", io::Error::from_raw_os_error(*.0))]
    Other(i32),
}

impl From<io::Error> for ProbeError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::Forbidden,
            Some(libc::ENOSYS) => Self::Missing,
            Some(libc::ENOMEM) => Self::Memory,
            other => Self::Other(other.unwrap_or(libc::EIO)),
        }
    }
}

/// Whether io_uring works here with all that the storage thread and the shards need. Leaves nothing behind.
pub fn probe() -> Result<(), ProbeError> {
    let ring = setup(features()?, ENTRIES, None)?;
    let mut known = Probe::new();
    ring.submitter().register_probe(&mut known)?;
    if !ring.params().is_feature_ext_arg() {
        return Err(ProbeError::Opcode("waiting with a time-out (IORING_FEAT_EXT_ARG)"));
    }
    let needed = [
        (opcode::Read::CODE, "READ"),
        (opcode::Write::CODE, "WRITE"),
        (opcode::Readv::CODE, "READV"),
        (opcode::Writev::CODE, "WRITEV"),
        (opcode::Fsync::CODE, "FSYNC"),
        (opcode::Fallocate::CODE, "FALLOCATE"),
        (opcode::PollAdd::CODE, "POLL_ADD"),
        (opcode::Accept::CODE, "ACCEPT"),
        (opcode::Connect::CODE, "CONNECT"),
        (opcode::SendMsg::CODE, "SENDMSG"),
        (opcode::RecvMsg::CODE, "RECVMSG"),
        (opcode::Timeout::CODE, "TIMEOUT"),
        (opcode::AsyncCancel::CODE, "ASYNC_CANCEL"),
    ];
    match needed.iter().find(|(code, _)| !known.is_supported(*code)) {
        Some((_, name)) => Err(ProbeError::Opcode(name)),
        None => Ok(()),
    }
}
