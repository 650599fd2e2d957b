//! Names that are not keys: the right one for a misspelt one, and why a name of the Python client is none here.

use super::key::Key;
use super::keys::{KEYS, SECTIONS};
use super::kind::quoted;

/// Keys of the Python client without a counterpart of the same name, and what to do instead.
pub const ELSEWHERE: [(&str, &str); 8] = [
    (
        "network.pipeline_depth",
        "requests follow each peer's rate, between pipeline_depth_min and pipeline_depth_max",
    ),
    (
        "network.block_size_kib",
        "blocks have 16 KiB (BEP 3): most clients serve no more at once (docs/parity.md); remove this line",
    ),
    ("disk.use_mmap", "files are read and written past the page cache (O_DIRECT); remove this line"),
    ("disk.checkpoint_on_piece", "checkpoint_pieces = 1 does this"),
    (
        "disk.checkpoint_compression",
        "binary checkpoints are always packed, JSON never is: see checkpoint_format",
    ),
    ("disk.resume_save_interval", "its name is checkpoint_interval"),
    ("network.enable_encryption", "one key for each way: encryption_in and encryption_out"),
    ("observability.structured_logging", "log_format = \"json\" writes an object a line"),
];

/// The key with this section and name.
pub fn find(section: &str, name: &str) -> Option<usize> {
    KEYS.iter().position(|key| key.section == section && key.name == name)
}

/// The key with this path (`section.name`).
pub fn find_path(path: &str) -> Option<usize> {
    path.split_once('.').and_then(|(section, name)| find(section, name))
}

/// The key that may stand in `[torrent."…"]` under this name.
pub fn find_per_torrent(name: &str) -> Option<usize> {
    KEYS.iter().position(|key| key.per_torrent && key.name == name)
}

/// Why a name of the Python client is no key.
pub fn reason(section: &str, name: &str) -> Option<&'static str> {
    let is_it = |(path, _): &&(&str, &str)| path.split_once('.') == Some((section, name));
    ELSEWHERE.iter().find(is_it).map(|(_, reason)| *reason)
}

/// What is wrong with a name that is no key of `section`; `more` are names that are allowed there besides keys.
pub fn unknown_key(section: &str, name: &str, more: &[&str]) -> String {
    if let Some(reason) = reason(section, name) {
        return reason.to_owned();
    }
    let elsewhere = KEYS.iter().find(|key| key.name == name);
    if let Some(key) = elsewhere {
        return format!("unknown key; {name} belongs into [{}]", key.section);
    }
    let here: Vec<&str> = KEYS
        .iter()
        .filter(|key| key.section == section)
        .map(|key| key.name)
        .chain(more.iter().copied())
        .collect();
    match nearest(name, here.iter().copied()) {
        Some(right) => format!("unknown key; did you mean {right}?"),
        None => match nearest(name, KEYS.iter().map(|key| key.name)).and_then(owner) {
            Some(key) => format!("unknown key; did you mean {}?", key.path()),
            None => format!("unknown key; [{section}] has {}", here.join(", ")),
        },
    }
}

/// What is wrong with a name that is no key of `[torrent."…"]`.
pub fn unknown_per_torrent(name: &str) -> String {
    let here = || KEYS.iter().filter(|key| key.per_torrent).map(|key| key.name);
    if let Some(key) = KEYS.iter().find(|key| key.name == name) {
        return format!("{} is for all torrents; move it to [{}]", key.name, key.section);
    }
    match nearest(name, here()) {
        Some(right) => format!("unknown key; did you mean {right}?"),
        None => format!("unknown key; a torrent may have {}", here().collect::<Vec<_>>().join(", ")),
    }
}

/// What is wrong with a name that is no section.
pub fn unknown_section(name: &str) -> String {
    if let Some(key) = KEYS.iter().find(|key| key.name == name) {
        return format!("keys stand below a section; {name} belongs into [{}]", key.section);
    }
    let sections = || SECTIONS.iter().map(|(section, _)| *section).chain(["torrent"]);
    match nearest(name, sections()) {
        Some(right) => format!("unknown section; did you mean [{right}]?"),
        None => format!("unknown section; there are {}", quoted(&sections().collect::<Vec<_>>())),
    }
}

/// The name of `all` that `wrong` is a misspelling of.
pub fn nearest<'a>(wrong: &str, all: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let wrong: String = wrong.chars().take(64).collect::<String>().to_ascii_lowercase();
    let distance = |name: &str| strsim::damerau_levenshtein(&wrong, &name.to_ascii_lowercase());
    let best = all.map(|name| (distance(name), name)).min()?;
    // A third of the letters may be wrong.
    (best.0 <= best.1.len().max(3) / 3).then_some(best.1)
}

fn owner(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}
