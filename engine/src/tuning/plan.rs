//! What a profile would change, and doing it.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::Profile;
use super::profiles::Compare;
use crate::doctor::sysctl;

/// The first line of every file that is written; one without it is somebody else's.
const MARK: &str = "# Written by ccbt-fast tune";
const SYSCTL_FILE: &str = "etc/sysctl.d/90-ccbt-fast.conf";
const LIMITS_FILE: &str = "etc/security/limits.d/90-ccbt-fast.conf";
const CONFIG_FILE: &str = "etc/ccbt/ccbt.toml";

/// A setting of the kernel that is to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its name for `sysctl`.
    pub name: &'static str,
    /// What it is; `None`: this kernel does not have it, or does not show it.
    pub from: Option<String>,
    /// What it should be.
    pub to: String,
    /// What for.
    pub reason: &'static str,
}

/// A file, and what stands in its place now.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Output {
    path: PathBuf,
    text: String,
    old: Option<String>,
}

/// What a profile would change below a root.
#[derive(Clone, Debug)]
pub struct Plan {
    root: PathBuf,
    changes: Vec<Change>,
    files: Vec<Output>,
}

/// What [`Plan::apply`] did.
#[derive(Debug, Default)]
pub struct Written {
    /// Files that are new or have another text now.
    pub files: Vec<PathBuf>,
    /// Settings of the kernel that count now.
    pub set: Vec<&'static str>,
    /// Those that the kernel refused, as in most containers; the file sets them at the next start of the machine.
    pub refused: Vec<(&'static str, io::Error)>,
}

/// Nothing, or not everything, was written.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Somebody's own file.
    #[error(
        "{0} was not written by `ccbt-fast tune`: move it away, or take over what the difference shows by hand"
    )]
    Foreign(PathBuf),
    /// The system refuses.
    #[error("cannot write {path}: {source}; run it as root, or with --root DIR")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Whether what is there is as good as what should be.
fn is_enough(compare: Compare, now: &str, wanted: &str) -> bool {
    let numbers =
        |text: &str| text.split(' ').map(|part| part.parse::<u64>().ok()).collect::<Option<Vec<_>>>();
    match (compare, numbers(now).as_deref(), numbers(wanted).as_deref()) {
        (Compare::AtLeast, Some([.., now]), Some([.., wanted])) => now >= wanted,
        (Compare::Range, Some([low, high]), Some([wanted_low, wanted_high])) => {
            low <= wanted_low && high >= wanted_high
        }
        _ => now == wanted,
    }
}

impl Plan {
    /// Compares `profile` with what is below `root` (`/` for this machine).
    pub fn of(profile: Profile, root: &Path) -> Self {
        let change = |wanted: &super::profiles::Sysctl| {
            let from = sysctl(root, wanted.name);
            let enough = from.as_ref().is_some_and(|now| is_enough(wanted.compare, now, wanted.value));
            let to = wanted.value.to_owned();
            (!enough).then_some(Change { name: wanted.name, from, to, reason: wanted.reason })
        };
        let texts = [
            (SYSCTL_FILE, sysctl_file(profile)),
            (LIMITS_FILE, limits_file(profile)),
            (CONFIG_FILE, config_file(profile)),
        ];
        let file = |(path, text): (&str, String)| {
            let path = root.join(path);
            let old = fs::read_to_string(&path).ok();
            Output { path, text, old }
        };
        Self {
            root: root.to_owned(),
            changes: profile.sysctls().iter().filter_map(change).collect(),
            files: texts.into_iter().map(file).collect(),
        }
    }

    /// Settings of the kernel that are not yet good enough.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// The difference for people: settings of the kernel, then each file line by line, `-` for what goes and `+` for what
    /// comes. Empty when nothing would change.
    pub fn difference(&self) -> String {
        let mut text = String::new();
        for Change { name, from, to, reason } in &self.changes {
            let from = from.as_deref().unwrap_or("unknown here");
            writeln!(text, "{name}: {from} -> {to}\n    {reason}").expect("a String takes every write");
        }
        for file in self.files.iter().filter(|file| file.old.as_ref() != Some(&file.text)) {
            let verb = if file.old.is_some() { "changes" } else { "is new" };
            writeln!(text, "{} {verb}:", file.path.display()).expect("a String takes every write");
            let old: Vec<&str> = file.old.iter().flat_map(|old| old.lines()).collect();
            let new: Vec<&str> = file.text.lines().collect();
            let lines = old.iter().filter(|line| !new.contains(line)).map(|line| ('-', line));
            let lines = lines.chain(new.iter().filter(|line| !old.contains(line)).map(|line| ('+', line)));
            for (sign, line) in lines {
                writeln!(text, "  {sign} {line}").expect("a String takes every write");
            }
        }
        text
    }

    /// Writes the files, each whole or not at all, and sets the kernel's settings where `proc` is below the root. Files
    /// are looked at first: with one of somebody else's nothing is written.
    pub fn apply(&self) -> Result<Written, ApplyError> {
        let is_foreign = |file: &&Output| file.old.as_ref().is_some_and(|old| !old.starts_with(MARK));
        if let Some(file) = self.files.iter().find(is_foreign) {
            return Err(ApplyError::Foreign(file.path.clone()));
        }
        let mut written = Written::default();
        for file in self.files.iter().filter(|file| file.old.as_ref() != Some(&file.text)) {
            replace(&file.path, &file.text)
                .map_err(|source| ApplyError::Io { path: file.path.clone(), source })?;
            written.files.push(file.path.clone());
        }
        for change in &self.changes {
            let path = self.root.join("proc/sys").join(change.name.replace('.', "/"));
            // An image has no settings of a kernel, and one that this kernel lacks has no file.
            if !path.exists() {
                continue;
            }
            match fs::write(&path, &change.to) {
                Ok(()) => written.set.push(change.name),
                Err(error) => written.refused.push((change.name, error)),
            }
        }
        Ok(written)
    }
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().expect("each file is in a folder");
    fs::create_dir_all(folder)?;
    let mut file = tempfile::Builder::new().permissions(permissions()).tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// Everybody may read them: login shells and the daemon's user do.
fn permissions() -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o644)
}

fn head(profile: Profile) -> String {
    format!("{MARK} --profile {profile}: run it again with another profile, or remove this file.\n")
}

fn sysctl_file(profile: Profile) -> String {
    let mut text = head(profile);
    for sysctl in profile.sysctls() {
        writeln!(text, "\n# {}\n{} = {}", sysctl.reason, sysctl.name, sysctl.value)
            .expect("a String takes every write");
    }
    text
}

fn limits_file(profile: Profile) -> String {
    let (head, most) = (head(profile), profile.descriptors());
    format!(
        "{head}# For login shells; services have LimitNOFILE= and LimitMEMLOCK= in their units.\n\n\
         # one for each peer and open file\n* - nofile {most}\nroot - nofile {most}\n\
         # KiB for the rings of older kernels\n* - memlock 65536\nroot - memlock 65536\n"
    )
}

fn config_file(profile: Profile) -> String {
    let (mut text, mut section) = (head(profile), "");
    let mut settings: Vec<_> = profile.settings().iter().collect();
    // Stable: keys keep their order within a section.
    settings.sort_by_key(|setting| setting.key.split_once('.').expect("section.key").0);
    for setting in settings {
        let (of, key) = setting.key.split_once('.').expect("section.key");
        if of != section {
            section = of;
            write!(text, "\n[{section}]").expect("a String takes every write");
        }
        write!(text, "\n# {}\n{key} = {}\n", setting.reason, setting.value)
            .expect("a String takes every write");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    fn root(sysctls: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("made");
        for (name, value) in sysctls {
            let path = root.path().join("proc/sys").join(name.replace('.', "/"));
            fs::create_dir_all(path.parent().unwrap()).expect("made");
            fs::write(path, value).expect("written");
        }
        root
    }

    #[test]
    fn every_profile_is_a_configuration_that_loads() {
        for profile in Profile::ALL {
            let root = root(&[]);
            Plan::of(profile, root.path()).apply().expect("written");
            let file = root.path().join(CONFIG_FILE);
            let config =
                Sources::new(None, Some(&file)).load().unwrap_or_else(|error| panic!("{profile}: {error}"));
            let set =
                config.entries().filter(|(_, entry)| entry.origin.to_string().contains("ccbt.toml")).count();
            assert_eq!(set, profile.settings().len(), "{profile}");
            assert_eq!(profile.name().parse(), Ok(profile));
        }
        let error = "seedbox".parse::<Profile>().expect_err("no profile").to_string();
        assert!(error.contains("seedbox-1g, seedbox-10g, bulk-25g+"), "{error}");
    }

    #[test]
    fn only_what_is_not_good_enough_changes() {
        let root = root(&[
            ("net.ipv4.tcp_rmem", "4096\t131072\t6291456\n"),
            ("net.ipv4.tcp_wmem", "4096\t16384\t99999999\n"),
            ("net.core.somaxconn", "65535\n"),
            ("net.ipv4.ip_local_port_range", "1024\t65535\n"),
            ("net.ipv4.tcp_slow_start_after_idle", "1\n"),
            ("net.ipv4.tcp_mtu_probing", "1\n"),
        ]);
        let plan = Plan::of(Profile::Seedbox1g, root.path());
        let names: Vec<_> = plan.changes().iter().map(|change| change.name).collect();
        let expected = [
            "net.ipv4.tcp_rmem",
            "net.core.rmem_max",
            "net.core.wmem_max",
            "net.ipv4.tcp_max_syn_backlog",
            "net.ipv4.tcp_slow_start_after_idle",
        ];
        assert_eq!(names, expected);
        let difference = plan.difference();
        assert!(
            difference.contains("net.ipv4.tcp_rmem: 4096 131072 6291456 -> 4096 131072 33554432"),
            "{difference}"
        );
        assert!(difference.contains("+ [engine]"), "{difference}");
        assert!(!root.path().join("etc").exists(), "nothing is written before it is applied");
        let written = plan.apply().expect("written");
        assert_eq!(
            written.set,
            ["net.ipv4.tcp_rmem", "net.ipv4.tcp_slow_start_after_idle"],
            "the kernel has these"
        );
        assert_eq!(written.files.len(), 3);
        let now = fs::read_to_string(root.path().join("proc/sys/net/ipv4/tcp_rmem")).expect("there");
        assert_eq!(now, "4096 131072 33554432");
    }

    #[test]
    fn applied_twice_changes_nothing_and_another_profile_replaces_it() {
        let root = root(&[]);
        Plan::of(Profile::Hdd, root.path()).apply().expect("written");
        let again = Plan::of(Profile::Hdd, root.path());
        let difference = again.difference();
        assert!(!difference.contains("90-ccbt-fast") && !difference.contains("ccbt.toml"), "{difference}");
        assert!(again.apply().expect("nothing to do").files.is_empty());
        let other = Plan::of(Profile::Nvme, root.path());
        assert!(other.difference().contains("- # Written by"), "{}", other.difference());
        assert_eq!(other.apply().expect("written").files.len(), 3);
        let text = fs::read_to_string(root.path().join(CONFIG_FILE)).expect("there");
        assert!(text.contains("--profile nvme"), "{text}");
    }

    #[test]
    fn somebody_elses_file_stays_and_nothing_is_written() {
        let root = root(&[("net.core.rmem_max", "1")]);
        let own = root.path().join(CONFIG_FILE);
        fs::create_dir_all(own.parent().unwrap()).expect("made");
        fs::write(&own, "[engine]\nmemory = \"1GiB\"\n").expect("written");
        let plan = Plan::of(Profile::Nvme, root.path());
        let error = plan.apply().expect_err("refused");
        assert!(matches!(&error, ApplyError::Foreign(path) if *path == own), "{error}");
        assert!(!root.path().join(SYSCTL_FILE).exists());
        assert_eq!(fs::read_to_string(root.path().join("proc/sys/net/core/rmem_max")).expect("there"), "1");
    }
}
