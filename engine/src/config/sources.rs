//! Where the layers are found, and reading them.
//!
//! Invariant: what is read again ([`Sources::load`] after a change) is read from the same places in the same order.

use std::fs::{self, File as OpenFile, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::file::{File, Trust, parse};
use super::key::Key;
use super::keys::KEYS;
use super::kind::Value;
use super::origin::{ConfigError, Origin, Problem};
use super::{Config, Entry, names};

/// Name of the file in each folder.
const FILE_NAME: &str = "ccbt.toml";
/// Bytes of a file at most.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Variables that are no keys.
const OTHER_VARIABLES: [&str; 2] = ["CCBT_NO_CONFIG", ccbt_storage::ring::features::VARIABLE];

/// A configuration file that may be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Where.
    pub path: PathBuf,
    /// Whether it may set everything.
    pub trust: Trust,
    /// Whether it is an error when it is not there.
    pub needed: bool,
}

/// Folders in which files are looked for.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// That of the administrator.
    pub system: Option<PathBuf>,
    /// That of the user.
    pub user: Option<PathBuf>,
    /// The current one.
    pub current: Option<PathBuf>,
}

/// A value that an option gives.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Its key.
    pub key: &'static Key,
    /// Read by [`Key::read`].
    pub value: Value,
    /// The option, for people: `--port`.
    pub flag: String,
}

/// All that a configuration is made of.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    files: Vec<Source>,
    variables: Vec<(String, String)>,
    settings: Vec<Setting>,
}

impl Places {
    /// Those of this process: `/etc/ccbt`, `$XDG_CONFIG_HOME/ccbt` or `~/.config/ccbt`, and the current folder.
    pub fn of_process() -> Self {
        // The specification of XDG has relative paths ignored.
        let xdg = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let home = xdg.or_else(|| Some(std::env::home_dir()?.join(".config")));
        Self {
            system: Some("/etc/ccbt".into()),
            user: home.filter(|home| home.is_absolute()).map(|home| home.join("ccbt")),
            current: Some(".".into()),
        }
    }
}

impl Sources {
    /// Files in `places`, none if that is `None`, and then the one that was named.
    pub fn new(places: Option<&Places>, named: Option<&Path>) -> Self {
        let found = |dir: &Option<PathBuf>, trust| {
            dir.as_ref().map(|dir| Source { path: dir.join(FILE_NAME), trust, needed: false })
        };
        let mut files: Vec<Source> = Vec::new();
        if let Some(places) = places {
            files.extend(found(&places.system, Trust::Full));
            files.extend(found(&places.user, Trust::Full));
            files.extend(found(&places.current, Trust::Folder));
        }
        files.extend(named.map(|path| Source { path: path.to_owned(), trust: Trust::Full, needed: true }));
        Self { files, ..Self::default() }
    }

    /// Adds environment variables; those that do not begin with `CCBT_` mean nothing here.
    pub fn variables(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        // An empty variable is one that was taken back.
        let ours = |(name, value): &(String, String)| name.starts_with("CCBT_") && !value.is_empty();
        self.variables.extend(variables.into_iter().filter(ours));
        self.variables.sort();
        self
    }

    /// Adds what options say.
    pub fn settings(mut self, settings: impl IntoIterator<Item = Setting>) -> Self {
        self.settings.extend(settings);
        self
    }

    /// The files, whether they are there or not.
    pub fn files(&self) -> &[Source] {
        &self.files
    }

    /// Reads everything. Nothing of it counts when anything is wrong.
    pub fn load(&self) -> Result<Config, ConfigError> {
        let mut config = Config::default();
        let mut problems = Vec::new();
        let mut layer = 0;
        for source in self.files.iter().filter(|source| !self.is_read_elsewhere(source)) {
            layer += 1;
            match read(source) {
                Ok(Some(text)) => {
                    let (file, found) = parse(&text, &source.path, source.trust);
                    config.add(layer, file);
                    problems.extend(found);
                }
                Ok(None) => {}
                Err(message) => {
                    let origin = Origin::File { path: source.path.as_path().into(), line: 0 };
                    problems.push(Problem { origin, key: String::new(), message });
                }
            }
        }
        layer += 1;
        config.add(layer, from_variables(&self.variables, &mut problems));
        let entry = |setting: &Setting| {
            let index = names::find(setting.key.section, setting.key.name).expect("it is in the table");
            let origin = Origin::Flag(setting.flag.clone());
            (index, Entry { value: setting.value.clone(), origin, layer: 0 })
        };
        config.add(layer + 1, File { entries: self.settings.iter().map(entry).collect(), ..File::default() });
        if problems.is_empty() {
            problems = config.contradictions();
        }
        if problems.is_empty() { Ok(config) } else { Err(ConfigError { problems }) }
    }

    /// Whether the current folder's file is the user's or the named one: then it is read as that.
    fn is_read_elsewhere(&self, source: &Source) -> bool {
        let id = |path: &Path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
        let Some(own) = id(&source.path) else { return false };
        source.trust == Trust::Folder
            && self.files.iter().any(|other| other.trust == Trust::Full && id(&other.path) == Some(own))
    }
}

/// The text of a file; `None` when it is not there and need not be.
fn read(source: &Source) -> Result<Option<String>, String> {
    // A fifo must not hold us up.
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32)
        .open(&source.path);
    let file = match opened {
        Err(error) if !source.needed && is_absent(&error) => return Ok(None),
        Err(error) => return Err(format!("cannot be read: {error}")),
        Ok(file) => file,
    };
    read_text(file).map(Some)
}

fn read_text(file: OpenFile) -> Result<String, String> {
    let metadata = file.metadata().map_err(|error| format!("cannot be read: {error}"))?;
    if !metadata.is_file() {
        return Err("is not a file".to_owned());
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err("is larger than 1 MiB, which no configuration is".to_owned());
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..good].iter().filter(|byte| **byte == b'\n').count();
        format!("is not UTF-8 text in line {line}")
    })
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn from_variables(variables: &[(String, String)], problems: &mut Vec<Problem>) -> File {
    let mut file = File::default();
    for (name, text) in variables {
        let origin = Origin::Env(name.clone());
        let long = KEYS.iter().position(|key| key.env() == *name);
        let short = || KEYS.iter().position(|key| key.short_env == Some(name));
        let Some(index) = long.or_else(short) else {
            if let Some(message) = unknown_variable(name) {
                problems.push(Problem { origin, key: String::new(), message });
            }
            continue;
        };
        // The systematic name is the more exact one.
        if long.is_none() && variables.iter().any(|(other, _)| *other == KEYS[index].env()) {
            continue;
        }
        match KEYS[index].read(text) {
            Ok(value) => file.entries.push((index, Entry { value, origin, layer: 0 })),
            Err(message) => problems.push(Problem { origin, key: KEYS[index].path(), message }),
        }
    }
    file
}

/// Names with `__` are ours. Others may belong to another program unless they are nearly right.
fn unknown_variable(name: &str) -> Option<String> {
    if OTHER_VARIABLES.contains(&name) {
        return None;
    }
    let long: Vec<String> = KEYS.iter().map(Key::env).collect();
    let short = || KEYS.iter().filter_map(|key| key.short_env).chain(OTHER_VARIABLES);
    let rest = name.strip_prefix("CCBT_")?;
    if let Some((section, key)) = rest.split_once("__") {
        let (section, key) = (section.to_ascii_lowercase(), key.to_ascii_lowercase());
        let reason = names::reason(&section, &key);
        let nearest = names::nearest(name, long.iter().map(String::as_str)).filter(|_| reason.is_none());
        return Some(match nearest {
            Some(right) => format!("unknown variable; did you mean {right}?"),
            None => names::unknown_key(&section, &key, &[]),
        });
    }
    let is_near = |right: &&str| strsim::damerau_levenshtein(name, right) <= 2;
    short().find(is_near).map(|right| format!("unknown variable; did you mean {right}?"))
}
