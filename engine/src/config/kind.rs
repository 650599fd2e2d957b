//! What a key may hold: reading, bounds, and how both are told.
//!
//! Role: text in, typed values out. All sources go through text: an environment variable and an option are text, and a
//! number or boolean of a file is written as one ([`super::file`]), so a value means the same wherever it stands.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ccbt_protocol::picker::Priority;
use ccbt_shards::binding::Binding;
use ccbt_shards::tapping::PeerAddress;

use super::units;
use crate::choosing::read_priority;

/// Type and bounds of a key.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number.
    Int {
        /// Smallest.
        min: u64,
        /// Largest.
        max: u64,
    },
    /// Bytes, as a number of `bare` bytes each, or with a unit.
    Size {
        /// What a number without a unit counts, in bytes.
        bare: u64,
        /// Smallest, in bytes.
        min: u64,
        /// Largest, in bytes.
        max: u64,
    },
    /// Bytes per second, as a number of KiB/s, or with a unit; 0 = no limit.
    Rate {
        /// Largest, in bytes per second.
        max: u64,
    },
    /// A time, as a number of `bare`s, or with units.
    Time {
        /// What a number without a unit counts.
        bare: Duration,
        /// Shortest.
        min: Duration,
        /// Longest.
        max: Duration,
    },
    /// A finite number from 0 on.
    Ratio,
    /// One of these words, whatever their case.
    Choice(&'static [&'static str]),
    /// A path; in a file absolute, or below the home folder (`~/…`).
    Path,
    /// Addresses and network interfaces of this machine: an array, or separated by commas.
    Places,
    /// An IP address.
    Address,
    /// CPU numbers.
    Cpus,
    /// An address of this machine that others cannot reach, with a port.
    Loopback,
    /// A program and its arguments: an array, or the program alone.
    Command,
    /// Absolute paths of folders: an array, or one of them.
    Folders,
    /// Files of a torrent by numbers or names: an array, or one of them.
    Files,
    /// How much such files are wanted: an array, or one of them.
    FilePriorities,
    /// `HOST:PORT`, any number of them: an array, or separated by commas.
    Hosts,
    /// See [`super::log::directives`].
    LogFilter,
    /// An IP address, or one with a port.
    Peer,
}

/// A value that is within the bounds of its key.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A word that stands for no value, such as `auto`, or one of a choice.
    Word(&'static str),
    /// See [`Kind::Bool`].
    Bool(bool),
    /// A whole number, or bytes.
    Number(u64),
    /// Bytes per second.
    Rate(u64),
    /// Bytes.
    Size(u64),
    /// See [`Kind::Ratio`].
    Ratio(f64),
    /// See [`Kind::Time`].
    Time(Duration),
    /// See [`Kind::Path`].
    Path(PathBuf),
    /// See [`Kind::Places`].
    Places(Binding),
    /// See [`Kind::Address`].
    Address(IpAddr),
    /// See [`Kind::Cpus`].
    Cpus(Vec<usize>),
    /// See [`Kind::Loopback`].
    Loopback(SocketAddr),
    /// See [`Kind::Command`].
    Command(Vec<String>),
    /// See [`Kind::Folders`].
    Folders(Vec<String>),
    /// See [`Kind::Files`].
    Files(Vec<String>),
    /// See [`Kind::FilePriorities`].
    FilePriorities(Vec<(String, Priority)>),
    /// See [`Kind::Hosts`].
    Hosts(Vec<String>),
    /// See [`Kind::LogFilter`].
    LogFilter(String),
    /// See [`Kind::Peer`].
    Peer(PeerAddress),
}

impl Kind {
    /// Reads a value; `None` when it is not one, or out of bounds.
    pub fn read(&self, text: &str) -> Option<Value> {
        let text = text.trim();
        Some(match *self {
            Self::Bool => Value::Bool(text.to_ascii_lowercase().parse().ok()?),
            Self::Int { min, max } => {
                Value::Number(text.parse().ok().filter(|number| (min..=max).contains(number))?)
            }
            Self::Size { bare, min, max } => {
                Value::Size(units::bytes(text, bare).filter(|bytes| (min..=max).contains(bytes))?)
            }
            Self::Rate { max } => Value::Rate(units::rate(text).filter(|bytes| *bytes <= max)?),
            Self::Time { bare, min, max } => {
                Value::Time(units::time(text, bare).filter(|time| (min..=max).contains(time))?)
            }
            Self::Ratio => Value::Ratio(text.parse().ok().filter(|r: &f64| r.is_finite() && *r >= 0.0)?),
            Self::Choice(words) => {
                Value::Word(words.iter().find(|word| word.eq_ignore_ascii_case(text)).copied()?)
            }
            Self::Path if text.is_empty() || text.contains('\0') => return None,
            Self::Path => Value::Path(expand_home(text)),
            Self::Places => Value::Places(places(text)?),
            Self::Address => Value::Address(text.parse().ok()?),
            Self::Cpus => Value::Cpus(units::cpus(text)?),
            Self::Loopback => {
                Value::Loopback(text.parse().ok().filter(|address: &SocketAddr| address.ip().is_loopback())?)
            }
            Self::Command => Value::Command(command(text)?),
            Self::Folders => {
                let is_good = |path: &String| expand_home(path).is_absolute() && !path.contains('\0');
                Value::Folders(texts(text).filter(|paths| paths.iter().all(is_good))?)
            }
            Self::Files => Value::Files(texts(text)?),
            Self::FilePriorities => {
                let priorities =
                    texts(text)?.iter().map(|text| read_priority(text).ok()).collect::<Option<_>>();
                Value::FilePriorities(priorities?)
            }
            Self::Hosts => Value::Hosts(hosts(text)?),
            Self::LogFilter => Value::LogFilter(super::log::directives(text).map(|_| text.to_owned())?),
            Self::Peer => Value::Peer(text.parse().ok()?),
        })
    }

    /// What may stand there, to follow "must be".
    pub fn expected(&self) -> String {
        match self {
            Self::Bool => "true or false".to_owned(),
            Self::Int { min, max } => format!("a whole number from {min} to {max}"),
            Self::Size { bare, min, max } => format!(
                "a size from {} to {}, such as \"{}\" or a number of {}",
                units::show_bytes(*min),
                units::show_bytes(*max),
                units::show_bytes((*bare).max(*min)),
                unit_of_size(*bare)
            ),
            Self::Rate { max } => format!(
                "a rate up to {}, such as \"10MiB/s\" or a number of KiB/s; 0 = no limit",
                units::show_rate(*max)
            ),
            Self::Time { bare, min, max } => format!(
                "a time from {} to {}, such as \"1h30m\" or a number of {}",
                units::show_time(*min),
                units::show_time(*max),
                unit_of_time(*bare)
            ),
            Self::Ratio => "a number from 0 on".to_owned(),
            Self::Choice(words) => format!("one of {}", quoted(words)),
            Self::Path => "a path".to_owned(),
            Self::Places => "IP addresses and network interfaces of this machine, such as [\"eth0\", \"10.0.0.2\"]".to_owned(),
            Self::Address => "an IP address".to_owned(),
            Self::Cpus => "numbers of CPUs, such as [0, 1] or \"0-3,8\"".to_owned(),
            Self::Loopback => {
                "a loopback address and port, such as \"127.0.0.1:6880\" (for others to reach it, put a proxy \
                 with TLS before it)"
                    .to_owned()
            }
            Self::Command => {
                "a program and its arguments, such as [\"/usr/local/bin/done\", \"-v\"], or a program".to_owned()
            }
            Self::Folders => "absolute paths of folders, such as [\"/srv/a\", \"/srv/b\"], or one of them".to_owned(),
            Self::Files => {
                "files by numbers or names, such as [\"0,2-5\", \"*.mkv\"], or one of them".to_owned()
            }
            Self::FilePriorities => "files and skip, low, normal or high, such as [\"0-3=high\", \"*.nfo=skip\"], or \
                                     one of them"
                .to_owned(),
            Self::LogFilter => "levels of modules, such as \"info,ccbt_shards=debug\"".to_owned(),
            Self::Peer => "an IP address, or one with a port, such as \"10.0.0.2:6881\"".to_owned(),
            Self::Hosts => "hosts and ports, such as [\"a.example:6881\", \"[::1]:6881\"]".to_owned(),
        }
    }

    /// Whether values joined by commas are one value.
    pub const fn is_list(&self) -> bool {
        matches!(self, Self::Places | Self::Hosts)
    }

    /// A placeholder for help texts.
    pub fn placeholder(&self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::Int { .. } => "N",
            Self::Size { bare, .. } if *bare == 1 << 10 => "KIB",
            Self::Size { .. } => "MIB",
            Self::Rate { .. } => "KIB",
            Self::Time { bare, .. } if bare.as_secs() == 60 => "MIN",
            Self::Time { .. } => "SECONDS",
            Self::Ratio => "R",
            Self::Choice(_) => "WORD",
            Self::Path => "PATH",
            Self::Places => "ADDR|IFACE",
            Self::Address => "ADDR",
            Self::Cpus => "CPUS",
            Self::Loopback => "ADDR:PORT",
            Self::Command => "PROGRAM",
            Self::Folders => "PATH",
            Self::Files => "LIST|GLOB",
            Self::FilePriorities => "FILES=PRIORITY",
            Self::Hosts => "HOST:PORT",
            Self::LogFilter => "FILTER",
            Self::Peer => "IP[:PORT]",
        }
    }
}

impl Value {
    /// As it stands in a file.
    pub fn to_toml(&self) -> String {
        match self {
            Self::Bool(on) => on.to_string(),
            Self::Number(number) => number.to_string(),
            Self::Rate(0) => "0".to_owned(),
            Self::Ratio(ratio) => format!("{ratio:?}"),
            Self::Cpus(cpus) => format!("[{}]", units::show_cpus(cpus).replace(',', ", ")),
            Self::Command(words) | Self::Folders(words) | Self::Files(words) | Self::Hosts(words) => {
                toml_array(words)
            }
            Self::FilePriorities(priorities) => toml_array(&shown_priorities(priorities)),
            other => toml::Value::String(other.to_text()).to_string(),
        }
    }

    /// As it stands in an environment variable.
    pub fn to_text(&self) -> String {
        match self {
            Self::Word(word) => (*word).to_owned(),
            Self::Bool(on) => on.to_string(),
            Self::Number(number) => number.to_string(),
            Self::Rate(0) => "0".to_owned(),
            Self::Rate(bytes) => units::show_rate(*bytes),
            Self::Size(bytes) => units::show_bytes(*bytes),
            Self::Ratio(ratio) => ratio.to_string(),
            Self::Time(time) => units::show_time(*time),
            Self::Path(path) => path.to_string_lossy().into_owned(),
            Self::Places(places) => places.to_string(),
            Self::Address(address) => address.to_string(),
            Self::Cpus(cpus) => units::show_cpus(cpus),
            Self::Loopback(address) => address.to_string(),
            Self::Command(words) | Self::Folders(words) | Self::Files(words) | Self::Hosts(words) => {
                json(words)
            }
            Self::FilePriorities(priorities) => json(&shown_priorities(priorities)),
            Self::LogFilter(filter) => filter.clone(),
            Self::Peer(peer) => peer.to_string(),
        }
    }

    /// A number, bytes or bytes per second; `None` for a word.
    pub(super) fn number(&self) -> Option<u64> {
        match self {
            Self::Number(number) | Self::Rate(number) | Self::Size(number) => Some(*number),
            _ => None,
        }
    }

    /// As [`Self::number`], as an index or count of things in memory.
    pub(super) fn count(&self) -> Option<usize> {
        self.number().map(|number| usize::try_from(number).unwrap_or(usize::MAX))
    }

    /// The word; empty for other values.
    pub(super) fn word(&self) -> &'static str {
        if let Self::Word(word) = self { word } else { "" }
    }

    /// A time; `None` for a word.
    pub(super) fn time(&self) -> Option<Duration> {
        if let Self::Time(time) = self { Some(*time) } else { None }
    }

    /// A path; `None` for a word.
    pub(super) fn path(&self) -> Option<PathBuf> {
        if let Self::Path(path) = self { Some(path.clone()) } else { None }
    }

    /// A loopback address; `None` for a word.
    pub(super) fn loopback(&self) -> Option<SocketAddr> {
        if let Self::Loopback(address) = self { Some(*address) } else { None }
    }

    /// A program and its arguments; `None` for a word.
    pub(super) fn command(&self) -> Option<Vec<String>> {
        if let Self::Command(words) = self { Some(words.clone()) } else { None }
    }

    /// Paths; none for a word.
    pub(super) fn folders(&self) -> Vec<PathBuf> {
        if let Self::Folders(paths) = self {
            paths.iter().map(|path| expand_home(path)).collect()
        } else {
            Vec::new()
        }
    }

    /// Files; none for a word.
    pub(super) fn files(&self) -> Vec<String> {
        if let Self::Files(files) = self { files.clone() } else { Vec::new() }
    }

    /// Files and their priorities; none for a word.
    pub(super) fn file_priorities(&self) -> Vec<(String, Priority)> {
        if let Self::FilePriorities(priorities) = self { priorities.clone() } else { Vec::new() }
    }

    /// Places of this machine; `None` for a word.
    pub(super) fn places(&self) -> Option<Binding> {
        if let Self::Places(places) = self { Some(places.clone()) } else { None }
    }

    /// Hosts and ports; none for a word.
    pub(super) fn hosts(&self) -> Vec<String> {
        if let Self::Hosts(hosts) = self { hosts.clone() } else { Vec::new() }
    }

    /// Directives of a log; `None` for a word.
    pub(super) fn filter(&self) -> Option<String> {
        if let Self::LogFilter(filter) = self { Some(filter.clone()) } else { None }
    }

    /// A peer; `None` for a word.
    pub(super) fn peer(&self) -> Option<PeerAddress> {
        if let Self::Peer(peer) = self { Some(*peer) } else { None }
    }

    /// CPUs; `None` for a word.
    pub(super) fn cpus(&self) -> Option<Vec<usize>> {
        if let Self::Cpus(cpus) = self { Some(cpus.clone()) } else { None }
    }
}

/// `"a", "b" and "c"` without the last comma.
pub(super) fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ")
}

fn json(words: &[String]) -> String {
    serde_json::to_string(words).expect("strings are JSON")
}

fn toml_array(words: &[String]) -> String {
    toml::Value::Array(words.iter().map(|word| toml::Value::String(word.clone())).collect()).to_string()
}

fn shown_priorities(priorities: &[(String, Priority)]) -> Vec<String> {
    priorities.iter().map(|(files, priority)| format!("{files}={}", priority.name())).collect()
}

/// A JSON array of strings, or one.
fn texts(text: &str) -> Option<Vec<String>> {
    let texts: Vec<String> =
        if text.starts_with('[') { serde_json::from_str(text).ok()? } else { vec![text.into()] };
    (!texts.is_empty() && texts.iter().all(|text| !text.is_empty())).then_some(texts)
}

/// A JSON array of strings, or strings between commas, each a host and a port.
fn hosts(text: &str) -> Option<Vec<String>> {
    let hosts: Vec<String> = match text.strip_prefix('[').filter(|rest| rest.starts_with(['"', ']'])) {
        Some(_) => serde_json::from_str(text).ok()?,
        None => text.split(',').map(|host| host.trim().to_owned()).collect(),
    };
    hosts.iter().all(|host| ccbt_shards::discovery::parse_host(host).is_some()).then_some(hosts)
}

/// A JSON array of strings, or places between commas.
fn places(text: &str) -> Option<Binding> {
    match text.strip_prefix('[').filter(|rest| rest.starts_with('"')) {
        Some(_) => serde_json::from_str::<Vec<String>>(text).ok()?.join(",").parse().ok(),
        None => text.parse().ok(),
    }
}

/// A JSON array of strings, or one program.
fn command(text: &str) -> Option<Vec<String>> {
    let words = match text.strip_prefix('[') {
        Some(_) => serde_json::from_str(text).ok()?,
        None => vec![text.to_owned()],
    };
    let is_good = words.first().is_some_and(|program: &String| !program.is_empty());
    (is_good && !words.iter().any(|word| word.contains('\0'))).then_some(words)
}

fn expand_home(text: &str) -> PathBuf {
    match (text.strip_prefix("~/"), std::env::home_dir()) {
        (Some(below), Some(home)) => home.join(below),
        _ => text.into(),
    }
}

fn unit_of_size(bare: u64) -> &'static str {
    match bare {
        1 => "bytes",
        1024 => "KiB",
        _ => "MiB",
    }
}

fn unit_of_time(bare: Duration) -> &'static str {
    if bare.as_secs() == 60 { "minutes" } else { "seconds" }
}
