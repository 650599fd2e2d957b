//! Keeps this process to its own folders, and from system calls that it never needs.
//!
//! Role: `security.sandbox`. Called once, by the thread that is about to start all others, which inherit both
//! restrictions; nothing takes them back. Invariant: what was restricted stays so for the process and whatever it
//! runs.
//!
//! Files: Landlock. Written to are the folders of downloads, of the state and of the log, and
//! `security.sandbox_paths`; read besides are the configuration, the system's libraries and `/proc`. io_uring works
//! with the credentials of who made the ring, so its operations on files are restricted alike. System calls:
//! [`syscalls`].

mod syscalls;
mod within;

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use crate::config::Effect;

pub(crate) use within::is_within;

/// What Linux 6.2 restricts: without `truncate` files outside could be emptied.
const NEEDED: ABI = ABI::V3;
/// What is restricted where the kernel knows it: control of devices (6.10).
const WANTED: ABI = ABI::V5;
/// Signals to processes outside (6.12).
const SCOPED: ABI = ABI::V6;

/// What every program reads: libraries, names of hosts and users, certificates, time zones, what the kernel tells.
const SYSTEM: [&str; 13] = [
    "/etc",
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib64",
    "/nix/store",
    "/proc",
    "/sys",
    "/dev/urandom",
    "/dev/random",
    "/run/systemd/resolve",
    "/run/resolvconf",
];
/// Devices that are written to.
const DEVICES: [&str; 2] = ["/dev/null", "/dev/tty"];

/// See `security.sandbox`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SandboxMode {
    /// None.
    #[default]
    Off,
    /// As far as the kernel goes; what it lacks is told.
    Auto,
    /// The program ends if the kernel lacks something.
    Strict,
}

/// Keys of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SandboxSettings {
    /// Whether there is one.
    pub mode: SandboxMode,
    /// Folders that may be written to besides.
    pub paths: Vec<PathBuf>,
}

/// What is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Folders with everything below them, made if they are not there.
    pub write: Vec<PathBuf>,
    /// The same, made closed to others.
    pub private: Vec<PathBuf>,
    /// Files, and folders with everything below them.
    pub read: Vec<PathBuf>,
    /// Folders of which entries come and go (the socket's); no file in them is read or written.
    pub entries: Vec<PathBuf>,
    /// The program that is run, if any: then it and the system's programs may be.
    pub program: Option<PathBuf>,
}

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The kernel does not do it.
    #[error(
        "the sandbox cannot be set up: {0}; Linux 6.2 or newer with Landlock (`lsm=` of the kernel's command line) and \
         seccomp is needed, or security.sandbox = \"auto\" or \"off\""
    )]
    Missing(String),
}

/// The restrictions that this process has.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// What may be written to; links are resolved.
    roots: Vec<PathBuf>,
    /// What the kernel does not restrict, for the user.
    pub notes: Vec<String>,
}

impl Policy {
    /// What the configuration names. `files` are those that it is read from.
    pub fn of<'a>(effect: &Effect, files: impl Iterator<Item = &'a Path>) -> Self {
        let daemon = &effect.daemon;
        let mut this = Self::default();
        this.write.push(effect.torrent.output.clone());
        this.write.extend(effect.move_completed.clone());
        this.write.extend(effect.sandbox.paths.clone());
        this.private.extend(effect.settings.checkpoints.dir.clone());
        this.write.extend(effect.log.file.as_deref().map(folder_of));
        // An editor replaces a file by another one: its folder must be read.
        let folders = files.filter(|file| file.exists()).map(folder_of);
        this.read.extend(folders);
        let named = [&effect.tracker_ca_file, &effect.proxy.credentials_file, &daemon.token_file];
        this.read.extend(named.into_iter().flatten().cloned());
        let filter = effect.ip_filter.path.as_deref();
        this.read.extend(filter.map(|path| if path.is_dir() { path.to_owned() } else { folder_of(path) }));
        this
    }

    /// And what the daemon needs, with the folders that clients may name; `in_use` are folders of torrents that it has.
    pub fn of_daemon<'a>(
        effect: &Effect,
        files: impl Iterator<Item = &'a Path>,
        in_use: Vec<PathBuf>,
    ) -> Self {
        let mut this = Self::of(effect, files);
        let daemon = &effect.daemon;
        this.private.extend(daemon.state_path());
        this.write.extend(daemon.watch_dir.clone());
        this.entries.extend(daemon.socket_path().map(|path| folder_of(&path)));
        // One that is not there is on a disk that is not there: nothing is made in its place.
        let named = in_use.into_iter().chain(daemon.allowed_folders.iter().cloned());
        this.write.extend(named.filter(|folder| folder.is_dir()));
        this.program = daemon.on_complete.as_ref().and_then(|command| command.first()).map(PathBuf::from);
        this
    }

    /// Restricts the calling thread and all that it starts.
    pub fn enter(&self, mode: SandboxMode) -> Result<Option<Sandbox>, SandboxError> {
        if mode == SandboxMode::Off {
            return Ok(None);
        }
        self.make_folders();
        let roots =
            self.write.iter().chain(&self.private).filter_map(|path| path.canonicalize().ok()).collect();
        let mut notes = Vec::new();
        let is_strict = mode == SandboxMode::Strict;
        let missing = |error: &dyn std::error::Error| SandboxError::Missing(error.to_string());
        match self.restrict_files(is_strict) {
            Ok(RulesetStatus::FullyEnforced) => {}
            Ok(RulesetStatus::PartiallyEnforced) => {
                notes.push(
                    "the sandbox is weaker than it could be: this kernel's Landlock is an older one"
                        .to_owned(),
                );
            }
            Ok(RulesetStatus::NotEnforced) => {
                notes.push("files are not restricted: this kernel has no Landlock".to_owned());
            }
            Err(error) if is_strict => return Err(missing(&error)),
            Err(error) => notes.push(format!("files are not restricted: {error}")),
        }
        if let Err(error) = syscalls::restrict(self.program.is_some()) {
            if is_strict {
                return Err(missing(&*error));
            }
            notes.push(format!("system calls are not restricted: {error}"));
        }
        Ok(Some(Sandbox { roots, notes }))
    }

    /// Afterwards they could not be made. One that cannot be is not there for the torrent either, which says so.
    fn make_folders(&self) {
        for (folders, mode) in [(&self.write, 0o777), (&self.private, 0o700)] {
            for folder in folders {
                let _ = DirBuilder::new().recursive(true).mode(mode).create(folder);
            }
        }
    }

    fn restrict_files(&self, is_strict: bool) -> Result<RulesetStatus, RulesetError> {
        let level = if is_strict { CompatLevel::HardRequirement } else { CompatLevel::BestEffort };
        let ruleset = Ruleset::default()
            .set_compatibility(level)
            .handle_access(AccessFs::from_all(NEEDED))?
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(WANTED))?
            .scope(Scope::from_all(SCOPED) & Scope::Signal)?
            .create()?;
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let all = AccessFs::from_all(WANTED) & !AccessFs::Execute;
        let system = SYSTEM.iter().map(PathBuf::from);
        let system_access = if self.program.is_some() { read | AccessFs::Execute } else { read };
        let ruleset = allow(ruleset, system, system_access)?;
        let ruleset =
            allow(ruleset, DEVICES.iter().map(PathBuf::from), AccessFs::ReadFile | AccessFs::WriteFile)?;
        let ruleset = allow(ruleset, self.program.iter().cloned(), AccessFs::ReadFile | AccessFs::Execute)?;
        let ruleset = allow(ruleset, self.read.iter().cloned(), read)?;
        // The socket is made in a folder of its own and gets its place by a rename.
        let entries = AccessFs::ReadDir
            | AccessFs::MakeDir
            | AccessFs::RemoveDir
            | AccessFs::RemoveFile
            | AccessFs::MakeSock
            | AccessFs::Refer;
        let ruleset = allow(ruleset, self.entries.iter().cloned(), entries)?;
        let ruleset = allow(ruleset, self.write.iter().chain(&self.private).cloned(), all)?;
        Ok(ruleset.restrict_self()?.ruleset)
    }
}

/// Adds a rule for each path that is there.
fn allow(
    mut ruleset: RulesetCreated,
    paths: impl Iterator<Item = PathBuf>,
    access: impl Into<BitFlags<AccessFs>>,
) -> Result<RulesetCreated, RulesetError> {
    let access = access.into();
    for path in paths {
        let Ok(fd) = PathFd::new(&path) else { continue };
        let access = if path.is_dir() { access } else { access & AccessFs::from_file(WANTED) };
        ruleset = ruleset.add_rule(PathBeneath::new(fd, access))?;
    }
    Ok(ruleset)
}

impl Sandbox {
    /// Whether a torrent may lie in `folder`, of which the end need not be there; the message says what to do.
    pub fn check(&self, folder: &Path) -> Result<(), String> {
        if is_within(folder, self.roots.iter().map(PathBuf::as_path)) {
            return Ok(());
        }
        let roots: Vec<_> = self.roots.iter().map(|root| root.display().to_string()).collect();
        Err(format!(
            "the folder {} is outside of the sandbox: choose one below {}, or name it in security.sandbox_paths and \
             start again",
            folder.display(),
            roots.join(", ")
        ))
    }
}

fn folder_of(path: &Path) -> PathBuf {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_names_what_the_configuration_names() {
        let mut effect = Effect::default();
        effect.daemon.state_dir = Some("/var/lib/x".into());
        effect.daemon.socket = Some("/run/x/sock".into());
        effect.daemon.on_complete = Some(vec!["/bin/true".into()]);
        effect.sandbox.paths = vec!["/srv/more".into()];
        let policy = Policy::of_daemon(&effect, std::iter::empty(), vec!["/not/there".into(), "/".into()]);
        assert_eq!(policy.write, [".", "/srv/more", "/"].map(PathBuf::from));
        assert_eq!(policy.private, [PathBuf::from("/var/lib/x")]);
        assert_eq!(policy.entries, [PathBuf::from("/run/x")]);
        assert_eq!(policy.program, Some("/bin/true".into()));
        assert!(policy.enter(SandboxMode::Off).expect("nothing to do").is_none());
    }
}
