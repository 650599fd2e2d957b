//! One configuration file: text in, values and everything that is wrong with it out. Pure.
//!
//! Invariant: never panics, and takes a time that grows with the text's length only (fuzzed).

use std::path::Path;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::key::Key;
use super::keys::{KEYS, SECTIONS};
use super::kind::{Kind, Value};
use super::origin::{Origin, Problem};
use super::pattern::Pattern;
use super::schedule::{self, Rule};
use super::{Entry, Override, names};

/// What one file says.
#[derive(Clone, Debug, Default)]
pub struct File {
    /// Values, each with its place in [`KEYS`].
    pub(super) entries: Vec<(usize, Entry)>,
    /// Values for some torrents, in the order of the lines.
    pub(super) overrides: Vec<Override>,
    /// The schedule and where it begins, if there is one.
    pub(super) schedule: Option<(Vec<Rule>, Origin)>,
}

impl File {
    /// Its values, in the order of the lines within a section.
    pub fn entries(&self) -> impl Iterator<Item = (&'static Key, &Entry)> {
        self.entries.iter().map(|(key, entry)| (&KEYS[*key], entry))
    }

    /// Its values for some torrents.
    pub fn overrides(&self) -> impl Iterator<Item = (&'static Key, &Override)> {
        self.overrides.iter().map(|found| (&KEYS[found.key], found))
    }

    /// Its schedule of limits.
    pub fn rules(&self) -> &[Rule] {
        self.schedule.as_ref().map_or(&[], |(rules, _)| rules)
    }
}

/// Whether a file may set everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Its folder belongs to the user or the administrator, or it was named.
    Full,
    /// It lies in the current folder, where torrents land.
    Folder,
}

/// A name or value of a file.
pub(super) struct Item<'a> {
    /// The name; empty for a value.
    pub name: String,
    value: Option<&'a DeValue<'a>>,
    at: usize,
}

impl<'a> Item<'a> {
    fn new(value: &'a Spanned<DeValue<'a>>) -> Self {
        Self { name: String::new(), value: Some(value.get_ref()), at: value.span().start }
    }

    /// The names and values of a table, in the order of the lines.
    pub fn table(&self) -> Option<Vec<(Item<'a>, Item<'a>)>> {
        let DeValue::Table(table) = self.value? else { return None };
        Some(entries(table))
    }

    /// The values of an array.
    pub fn array(&self) -> Option<Vec<Item<'a>>> {
        let DeValue::Array(array) = self.value? else { return None };
        Some(array.iter().map(Item::new).collect())
    }

    /// A scalar as text, or a list of them with commas between.
    pub fn text(&self) -> Option<String> {
        Some(match self.value? {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().to_owned(),
            DeValue::Integer(number) => {
                u64::from_str_radix(number.as_str(), number.radix()).ok()?.to_string()
            }
            DeValue::Float(number) => number.as_str().to_owned(),
            DeValue::Boolean(on) => on.to_string(),
            DeValue::Datetime(time) => time.to_string(),
            DeValue::Array(array) => {
                let scalar = |item| Some(Item::new(item)).filter(|item| !item.is_list())?.text();
                array.iter().map(scalar).collect::<Option<Vec<String>>>()?.join(",")
            }
            DeValue::Table(_) => return None,
        })
    }

    /// A list of strings as JSON.
    fn strings(&self) -> Option<String> {
        let word = |item: &Item<'_>| match item.value {
            Some(DeValue::String(text)) => Some(text.to_string()),
            _ => None,
        };
        let words = self.array()?.iter().map(word).collect::<Option<Vec<String>>>()?;
        serde_json::to_string(&words).ok()
    }

    fn is_list(&self) -> bool {
        matches!(self.value, Some(DeValue::Array(_)))
    }
}

fn entries<'a>(table: &'a DeTable<'a>) -> Vec<(Item<'a>, Item<'a>)> {
    let mut all: Vec<_> = table
        .iter()
        .map(|(name, value)| {
            let name = Item { name: name.get_ref().to_string(), value: None, at: name.span().start };
            (name, Item::new(value))
        })
        .collect();
    all.sort_by_key(|(name, _)| name.at);
    all
}

/// Collects what a file says and what is wrong with it.
pub(super) struct Reader {
    /// Where the lines end, rising.
    line_ends: Vec<usize>,
    path: Arc<Path>,
    trust: Trust,
    problems: Vec<Problem>,
    /// Lines whose syntax is wrong: what was made out of them is not worth a message.
    broken: Vec<usize>,
}

impl Reader {
    fn line(&self, at: usize) -> usize {
        1 + self.line_ends.partition_point(|end| *end < at)
    }

    fn origin(&self, at: usize) -> Origin {
        Origin::File { path: Arc::clone(&self.path), line: self.line(at) }
    }

    /// Something is wrong at `item`.
    pub fn wrong(&mut self, item: &Item<'_>, key: &str, message: &str) {
        let line = self.line(item.at);
        if !self.broken.contains(&line) && self.problems.len() < PROBLEMS_MAX {
            let origin = Origin::File { path: Arc::clone(&self.path), line };
            self.problems.push(Problem { origin, key: key.to_owned(), message: message.to_owned() });
        }
    }

    /// Reads the value of a key; `shown` is what the file calls it.
    fn value(&mut self, key: &Key, shown: &str, name: &Item<'_>, item: &Item<'_>) -> Option<Entry> {
        let value = self.checked(key, item);
        match value {
            Ok(value) => Some(Entry { value, origin: self.origin(name.at), layer: 0 }),
            Err(message) => {
                self.wrong(name, shown, &message);
                None
            }
        }
    }

    fn checked(&self, key: &Key, item: &Item<'_>) -> Result<Value, String> {
        if key.trusted_only && self.trust == Trust::Folder {
            return Err(
                "is not taken from a ccbt.toml in the current folder, which may have been downloaded; \
                 set it in ~/.config/ccbt/ccbt.toml, or name this file with --config"
                    .to_owned(),
            );
        }
        let text = match key.kind {
            Kind::Cpus => item.text(),
            Kind::Command
            | Kind::Folders
            | Kind::Files
            | Kind::Hosts
            | Kind::Places
            | Kind::FilePriorities
                if item.is_list() =>
            {
                item.strings()
            }
            _ => item.text().filter(|_| !item.is_list()),
        };
        let text = text.ok_or_else(|| format!("must be {}", key.expected()))?;
        let value = key.read(&text)?;
        match &value {
            Value::Path(path) if !path.is_absolute() => {
                Err(format!("must be an absolute path or begin with ~/, not {text:?}"))
            }
            _ => Ok(value),
        }
    }
}

/// Problems told of one file; a file with more is no configuration.
const PROBLEMS_MAX: usize = 100;

/// Reads the text of the file at `path`. Both what is usable and what is wrong come out.
pub fn parse(text: &str, path: &Path, trust: Trust) -> (File, Vec<Problem>) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (table, errors) = DeTable::parse_recoverable(text);
    let path: Arc<Path> = Arc::from(path);
    let line_ends = text.match_indices('\n').map(|(at, _)| at).collect();
    let mut reader = Reader { line_ends, path, trust, problems: Vec::new(), broken: Vec::new() };
    for error in errors.iter().take(PROBLEMS_MAX) {
        let origin = reader.origin(error.span().map_or(0, |span| span.start));
        if let Origin::File { line, .. } = origin {
            reader.broken.push(line);
        }
        let message = error.message().replace('\n', ", ");
        reader.problems.push(Problem { origin, key: String::new(), message });
    }
    let mut file = File::default();
    for (name, item) in entries(table.get_ref()) {
        match item.table() {
            Some(torrents) if name.name == "torrent" => read_torrents(&mut reader, torrents, &mut file),
            Some(keys) if SECTIONS.iter().any(|(section, _)| *section == name.name) => {
                read_section(&mut reader, &name.name, keys, &mut file);
            }
            Some(_) => reader.wrong(&name, &name.name, &names::unknown_section(&name.name)),
            None if name.name == "torrent" || SECTIONS.iter().any(|(section, _)| *section == name.name) => {
                reader.wrong(&name, &name.name, &format!("must be a section: [{}]", name.name));
            }
            None => reader.wrong(&name, &name.name, &names::unknown_section(&name.name)),
        }
    }
    let mut problems = reader.problems;
    problems.sort_by_key(|problem| if let Origin::File { line, .. } = problem.origin { line } else { 0 });
    (file, problems)
}

fn read_section(reader: &mut Reader, section: &str, keys: Vec<(Item<'_>, Item<'_>)>, file: &mut File) {
    for (name, item) in keys {
        let path = format!("{section}.{}", name.name);
        if path == "limits.schedule" {
            let origin = reader.origin(name.at);
            file.schedule = Some((schedule::read(reader, &item), origin));
            continue;
        }
        match names::find(section, &name.name) {
            Some(index) => {
                let entry = reader.value(&KEYS[index], &path, &name, &item);
                file.entries.extend(entry.map(|entry| (index, entry)));
            }
            None => {
                let more: &[&str] = if section == "limits" { &["schedule"] } else { &[] };
                reader.wrong(&name, &path, &names::unknown_key(section, &name.name, more));
            }
        }
    }
}

fn read_torrents(reader: &mut Reader, torrents: Vec<(Item<'_>, Item<'_>)>, file: &mut File) {
    for (pattern, item) in torrents {
        let shown = format!("torrent.{:?}", pattern.name);
        let (Some(matcher), Some(keys)) = (Pattern::new(&pattern.name), item.table()) else {
            let message = "must be a section: [torrent.\"INFO-HASH\"], or [torrent.\"NAME\"] with * and ? \
                           for what differs";
            reader.wrong(&pattern, &shown, message);
            continue;
        };
        for (name, item) in keys {
            let path = format!("{shown}.{}", name.name);
            match names::find_per_torrent(&name.name) {
                Some(index) => {
                    let entry = reader.value(&KEYS[index], &path, &name, &item);
                    let pattern = matcher.clone();
                    file.overrides.extend(entry.map(|entry| Override { pattern, key: index, entry }));
                }
                None => reader.wrong(&name, &path, &names::unknown_per_torrent(&name.name)),
            }
        }
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
