//! Programs under restrictions that machines in the wild have: io_uring forbidden, little memory, another user.
//!
//! Owner: [`crate::ccbt`]. The restriction is put on by a small Python script that then becomes the program, so it holds
//! for that process alone; only [`Confinement::User`] and the control groups need privileges. The script is embedded,
//! like libtorrent's.

use std::path::Path;
use std::process::Command;

use crate::cgroup::{Cgroup, Cpuset};
use crate::libtorrent::python;

const SCRIPT: &str = include_str!("confine.py");

/// What is taken away.
#[derive(Clone, Copy, Debug)]
pub enum Confinement<'a> {
    /// `io_uring_setup` fails with this errno: EPERM (1) is a seccomp filter or the sysctl, ENOSYS (38) an old kernel.
    NoIoUring(u8),
    /// RLIMIT_MEMLOCK in bytes, with CAP_IPC_LOCK dropped.
    Memlock(u64),
    /// RLIMIT_NOFILE, soft and hard.
    OpenFiles(u64),
    /// RLIMIT_FSIZE in bytes, soft.
    FileSize(u64),
    /// RLIMIT_DATA in bytes, soft and hard.
    Data(u64),
    /// This user and group id and no privileges.
    User(u32),
    /// `landlock_create_ruleset` fails with this errno: ENOSYS (38) is a kernel without it.
    NoLandlock(u8),
    /// This CPU only.
    Cpu(u32),
    /// The `nth` (from 0) of these system calls (names, separated by commas) fails with `errno`, and `struck` is made then.
    /// Counted are those of all threads from the first `io_uring_setup` on.
    Nth {
        /// Error number.
        errno: u8,
        /// Which.
        nth: usize,
        /// Names.
        calls: &'a str,
        /// A file that is not there yet.
        struck: &'a Path,
    },
    /// The limits of this control group.
    Cgroup(&'a Cgroup),
    /// The CPUs of this control group.
    Cpuset(&'a Cpuset),
}

impl Confinement<'_> {
    /// `program`, confined, ready for its arguments.
    pub fn command(self, program: &Path) -> Command {
        let (restriction, value) = match self {
            Self::NoIoUring(errno) => ("no-io-uring", errno.to_string()),
            Self::Memlock(bytes) => ("memlock", bytes.to_string()),
            Self::OpenFiles(count) => ("open-files", count.to_string()),
            Self::FileSize(bytes) => ("file-size", bytes.to_string()),
            Self::Data(bytes) => ("data", bytes.to_string()),
            Self::User(id) => ("user", id.to_string()),
            Self::NoLandlock(errno) => ("no-landlock", errno.to_string()),
            Self::Cpu(number) => ("cpu", number.to_string()),
            Self::Nth { errno, nth, calls, struck } => {
                ("nth", format!("{errno}:{nth}:{calls}:{}", struck.display()))
            }
            Self::Cgroup(group) => ("cgroup", group.procs()),
            Self::Cpuset(group) => ("cgroup", group.procs()),
        };
        let mut command = Command::new(python());
        command.args(["-c", SCRIPT, restriction, &value]).arg(program);
        command
    }
}
