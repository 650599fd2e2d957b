//! Programs under restrictions that machines in the wild have: io_uring forbidden, little lockable memory.
//!
//! Owner: [`crate::ccbt`]. The restriction is put on by a small Python script that then becomes the program, so it holds
//! for that process alone and needs no privilege. The script is embedded, like libtorrent's.

use std::path::Path;
use std::process::Command;

use crate::libtorrent::python;

const SCRIPT: &str = include_str!("confine.py");

/// What is taken away.
#[derive(Clone, Copy, Debug)]
pub enum Confinement {
    /// `io_uring_setup` fails with this errno: EPERM (1) is a seccomp filter or the sysctl, ENOSYS (38) an old kernel.
    NoIoUring(u8),
    /// RLIMIT_MEMLOCK in bytes, with CAP_IPC_LOCK dropped.
    Memlock(u64),
    /// RLIMIT_NOFILE, soft and hard.
    OpenFiles(u64),
}

impl Confinement {
    /// `program`, confined, ready for its arguments.
    pub fn command(self, program: &Path) -> Command {
        let (restriction, value) = match self {
            Self::NoIoUring(errno) => ("no-io-uring", u64::from(errno)),
            Self::Memlock(bytes) => ("memlock", bytes),
            Self::OpenFiles(count) => ("open-files", count),
        };
        let mut command = Command::new(python());
        command.args(["-c", SCRIPT, restriction, &value.to_string()]).arg(program);
        command
    }
}
