//! Why a command fails, and its exit code.

use std::io;
use std::path::PathBuf;

use ccbt_fast::config::ConfigError;
use ccbt_fast::daemon::{ClientError, ControlError, DaemonError};
use ccbt_fast::hashing::HashError;
use ccbt_fast::hashing::create::CreateError;
use ccbt_fast::hashing::verify::VerifyError;
use ccbt_fast::linking::LinkError;
use ccbt_fast::{AddError, LoadError, ServiceError, ShutdownError, StartError};
use ccbt_storage::relocate::RelocateError;

/// A command that does not end well.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The torrent file is unreadable or wrong.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The configuration cannot be used; the message has a line per problem.
    #[error("the configuration cannot be used:\n{0}")]
    Config(#[from] ConfigError),
    /// Options or paths that cannot be meant.
    #[error("{0}")]
    Usage(String),
    /// The engine does not start.
    #[error("{source}{}", advice(.source))]
    Start {
        #[from]
        source: StartError,
    },
    /// Descriptors or kernel memory ran out while the threads were started.
    #[error(
        "cannot start: a ring of the runtime could not be made; raise `ulimit -n` and `ulimit -l`, and start again"
    )]
    NoRuntime,
    /// The sandbox is not to be had.
    #[error(transparent)]
    Sandbox(#[from] ccbt_fast::sandbox::SandboxError),
    /// The torrent is not taken.
    #[error(transparent)]
    Add(#[from] AddError),
    /// The torrent cannot go on.
    #[error("{0}")]
    Torrent(String),
    /// Nothing that was checked is good.
    #[error(
        "there is nothing to seed: no piece is good; --output must name the folder that holds the torrent's \
         file or folder"
    )]
    NothingToSeed,
    /// No torrent was made.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// Nothing could be checked.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// What was checked is not what it should be.
    #[error("the data is not complete: {ok} of {total} pieces are ok")]
    Incomplete { ok: u64, total: u64 },
    /// Files of other folders cannot be taken over.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// Files cannot be moved or removed.
    #[error(transparent)]
    Relocate(#[from] RelocateError),
    /// This machine does not run it.
    #[error("{0} checks failed; the list above says what to do")]
    Unfit(usize),
    /// Settings of a server cannot be written.
    #[error(transparent)]
    Tune(#[from] ccbt_fast::tuning::ApplyError),
    /// Some files stay.
    #[error("{0} files could not be removed; the list above says why")]
    Left(usize),
    /// Some checkpoints or resume files are of no use.
    #[error("{bad} of {all} have problems; the list above names them")]
    Checkpoints { bad: usize, all: usize },
    /// The daemon cannot be started.
    #[error("{0}{advice}", advice = daemon_advice(.0))]
    Daemon(#[from] DaemonError),
    /// The daemon is not there, or refuses.
    #[error("{}", ccbt_protocol::metainfo::escape_for_terminal(&.0.to_string()))]
    Client(#[from] ClientError),
    /// The demonstration went wrong.
    #[error("the demo failed: {0}")]
    Demo(String),
    /// The engine's threads died.
    #[error("the engine stopped by itself; the log above says why, and what was verified and synced is safe")]
    EngineLost,
    /// The engine's threads hang.
    #[error(transparent)]
    Shutdown(#[from] ShutdownError),
    /// The system refuses something.
    #[error("cannot {what}: {source}")]
    System {
        what: String,
        #[source]
        source: io::Error,
    },
    /// A signal came before the work was done.
    #[error("stopped by {} before it was finished; run the same command to go on", signal_name(*.0))]
    Interrupted(i32),
}

impl Failure {
    /// For `map_err`: `what` completes "cannot …".
    pub fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::System { what, source }
    }

    /// A folder that cannot be used.
    pub fn folder(path: &std::path::Path, problem: &str) -> Self {
        let shown =
            PathBuf::from(ccbt_protocol::metainfo::escape_for_terminal(&path.to_string_lossy()).as_ref());
        Self::Usage(format!("--output {}: {problem}", shown.display()))
    }

    /// Whether the events of a transfer have told it already.
    pub fn is_told(&self) -> bool {
        matches!(self, Self::Torrent(_) | Self::NothingToSeed | Self::EngineLost | Self::Interrupted(_))
    }

    /// What the process exits with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Load(_) | Self::Config(_) | Self::Usage(_) | Self::Add(AddError::Load(_)) => 2,
            Self::Start { source } | Self::Daemon(DaemonError::Start(source)) => match source {
                StartError::Cpus { .. } | StartError::NoTransport => 2,
                StartError::Metrics { .. } | StartError::Service(ServiceError::Listen { .. }) => 1,
                _ => 3,
            },
            Self::Daemon(DaemonError::Control(ControlError::Io { .. })) => 1,
            Self::Daemon(_) => 2,
            Self::Client(ClientError::Refused(error)) if error.status < 500 => 2,
            Self::Client(ClientError::Token(_)) => 2,
            Self::Create(CreateError::Hash(HashError::Cancelled | HashError::Resources(_))) => 1,
            Self::Create(CreateError::Changed { .. }) => 1,
            Self::Link(LinkError::Folder { .. } | LinkError::Layout(_)) => 2,
            Self::Create(_)
            | Self::Verify(VerifyError::Root { .. } | VerifyError::Resume { .. } | VerifyError::Layout(_)) => {
                2
            }
            Self::Unfit(_) | Self::Sandbox(_) | Self::NoRuntime => 3,
            Self::Interrupted(signal) => 128 + u8::try_from(*signal).unwrap_or(0),
            _ => 1,
        }
    }
}

fn signal_name(signal: i32) -> String {
    signal_hook::low_level::signal_name(signal).map_or_else(|| format!("signal {signal}"), str::to_owned)
}

/// What to change when the engine does not start, from the error and the state of the system.
fn advice(error: &StartError) -> String {
    match error {
        // The probe's errors say it themselves; this is what only shows with all rings of the engine.
        StartError::Service(ServiceError::IoUring(source)) => {
            let sysctl = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
            format!("\n{}", io_uring_advice(source, sysctl.trim()))
        }
        _ => String::new(),
    }
}

fn daemon_advice(error: &DaemonError) -> String {
    if let DaemonError::Start(source) = error { advice(source) } else { String::new() }
}

fn io_uring_advice(error: &io::Error, sysctl: &str) -> &'static str {
    match (error.kind(), sysctl) {
        (_, "1" | "2") => {
            "the system administrator switched io_uring off: `sysctl -w kernel.io_uring_disabled=0` allows it"
        }
        (io::ErrorKind::OutOfMemory, _) => {
            "too little memory may be locked: raise it with `ulimit -l 65536` (LimitMEMLOCK=64M for systemd)"
        }
        (io::ErrorKind::PermissionDenied, _) => {
            "a seccomp filter forbids it, as in most containers: allow io_uring_setup, io_uring_enter and \
             io_uring_register (docker run --security-opt seccomp=unconfined)"
        }
        _ => "the kernel is too old or built without it: Linux 6.1 or newer with CONFIG_IO_URING is needed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ccbt_storage::ring::ProbeError;
    use std::net::SocketAddr;

    fn started(error: ServiceError) -> Failure {
        StartError::from(error).into()
    }

    fn io_uring(errno: i32) -> Failure {
        started(ServiceError::IoUring(io::Error::from_raw_os_error(errno)))
    }

    #[test]
    fn exit_codes_tell_the_kinds_apart() {
        let door = SocketAddr::from(([127, 0, 0, 1], 1)).into();
        let listen = ServiceError::Listen { door, source: io::ErrorKind::AddrInUse.into() };
        let codes = [
            (Failure::Usage("x".into()), 2),
            (io_uring(1), 3),
            (started(ServiceError::Resources(io::ErrorKind::OutOfMemory.into())), 3),
            (StartError::from(ProbeError::Memory).into(), 3),
            (started(listen), 1),
            (Failure::Torrent("x".into()), 1),
            (Failure::EngineLost, 1),
            (Failure::Interrupted(2), 130),
            (Failure::Interrupted(15), 143),
        ];
        for (failure, code) in codes {
            assert_eq!(failure.exit_code(), code, "{failure}");
        }
    }

    #[test]
    fn missing_io_uring_names_what_to_change() {
        let error = |errno| io::Error::from_raw_os_error(errno);
        assert!(io_uring_advice(&error(1), "2").contains("kernel.io_uring_disabled"));
        assert!(io_uring_advice(&error(1), "0").contains("seccomp"));
        assert!(io_uring_advice(&error(12), "").contains("ulimit -l"));
        assert!(io_uring_advice(&error(38), "").contains("CONFIG_IO_URING"));
    }

    #[test]
    fn messages_cannot_drive_a_terminal() {
        let text = Failure::folder(std::path::Path::new("a\x1b[2J"), "it is a file").to_string();
        assert_eq!(text, "--output a\\u{1b}[2J: it is a file");
        assert!(Failure::Interrupted(2).to_string().starts_with("stopped by SIGINT"));
    }
}
