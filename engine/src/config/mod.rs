//! Configuration: `ccbt.toml`, environment variables and options, from the built-in defaults up to one torrent.
//!
//! Role: text in, [`Effect`] (the engine's own settings) out, with the origin of every value. Owner: whoever starts a
//! session. [`keys::KEYS`] is the one table of all keys; [`Sources`] reads the layers, a higher one wins key by key:
//!
//! > defaults < `/etc/ccbt/ccbt.toml` < `~/.config/ccbt/ccbt.toml` < `./ccbt.toml` < `--config FILE` < `CCBT_*` < options
//! > < `[torrent."…"]`
//!
//! Invariants: a configuration with any problem is not applied at all, and every problem of a file is told at once;
//! nothing is accepted and ignored; `./ccbt.toml` cannot set what is [`Key::trusted_only`]. [`diff`] tells what a changed
//! configuration changes and [`Watcher`] that a file has changed.

mod diff;
mod effect;
mod file;
mod key;
pub mod keys;
mod kind;
pub(crate) mod log;
mod names;
mod origin;
mod pattern;
mod proxy;
mod reload;
mod schedule;
mod sources;
mod template;
mod units;
mod watch;

use ccbt_protocol::ids::InfoHash;
use jiff::civil::DateTime;

pub use diff::{Change, diff};
pub use effect::{AutoResume, Effect};
pub use file::{File, Trust, parse};
pub use key::{Applies, Flag, Key};
pub use kind::{Kind, Value};
pub use log::LogSettings;
pub use names::{ELSEWHERE, find_path, unknown_key};
pub use origin::{ConfigError, Origin, Problem};
pub use pattern::{Pattern, matches_glob};
pub use proxy::ProxySettings;
pub use reload::Reload;
pub use schedule::{Limits, Rule, limits_at};
pub use sources::{Places, Setting, Source, Sources};
pub use template::default_file;
pub use watch::Watcher;

use keys::KEYS;

/// A value and where it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Within the bounds of its key.
    pub value: Value,
    /// Where it comes from.
    pub origin: Origin,
    /// Number of its layer; the defaults are layer 0.
    layer: usize,
}

/// A value for some torrents.
#[derive(Clone, Debug, PartialEq)]
pub struct Override {
    /// For which.
    pub pattern: Pattern,
    /// Place of its key in [`KEYS`].
    pub key: usize,
    /// What for them.
    pub entry: Entry,
}

/// All layers in one.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// One per key, in their order.
    entries: Vec<Entry>,
    /// Later ones win, but for those with an info-hash, which win over names.
    overrides: Vec<Override>,
    rules: Vec<Rule>,
    /// Where the rules come from, and their layer.
    rules_from: Option<(Origin, usize)>,
}

impl Default for Config {
    fn default() -> Self {
        let entry = |key: &Key| Entry { value: key.default_value(), origin: Origin::Default, layer: 0 };
        let entries = KEYS.iter().map(entry).collect();
        Self { entries, overrides: Vec::new(), rules: Vec::new(), rules_from: None }
    }
}

impl Config {
    /// The value of each key, in the order of the table.
    pub fn entries(&self) -> impl Iterator<Item = (&'static Key, &Entry)> {
        KEYS.iter().zip(&self.entries)
    }

    /// The values for some torrents; later ones win.
    pub fn overrides(&self) -> impl Iterator<Item = (&'static Key, &Override)> {
        self.overrides.iter().map(|found| (&KEYS[found.key], found))
    }

    /// The schedule of limits, and where it comes from.
    pub fn schedule(&self) -> (&[Rule], Option<&Origin>) {
        (&self.rules, self.rules_from.as_ref().map(|(origin, _)| origin))
    }

    /// The values that count for the torrent of that hash and name: its own, else those of all.
    pub fn entries_for(&self, info_hash: &InfoHash, name: &str) -> Vec<(&'static Key, &Entry)> {
        let mut entries: Vec<_> = self.entries().collect();
        let matching = || self.overrides.iter().filter(|found| found.pattern.is_for(info_hash, name));
        let (names, hashes) =
            (matching().filter(|f| !f.pattern.is_hash()), matching().filter(|f| f.pattern.is_hash()));
        for found in names.chain(hashes) {
            entries[found.key].1 = &found.entry;
        }
        entries
    }

    /// What the session is to be started with, and the torrent to be added with.
    pub fn effect(&self, torrent: Option<(&InfoHash, &str)>) -> Effect {
        let mut effect = Effect::default();
        let entries = match torrent {
            Some((info_hash, name)) => self.entries_for(info_hash, name),
            None => self.entries().collect(),
        };
        for (key, entry) in entries {
            (key.apply)(&mut effect, &entry.value);
        }
        effect.finish()
    }

    /// The limits of all torrents together at a time of the wall clock. A limit that a higher layer than the schedule's
    /// has set (an option, say) holds at any time.
    pub fn limits_at(&self, local: DateTime) -> Limits {
        let [down, up] = ["global_down_kib", "global_up_kib"]
            .map(|name| &self.entries[names::find("limits", name).expect("it is in the table")]);
        let limit = |entry: &Entry| entry.value.number().expect("a rate");
        let base = Limits { down: limit(down), up: limit(up) };
        let scheduled = limits_at(base, &self.rules, local);
        let layer = self.rules_from.as_ref().map_or(0, |(_, layer)| *layer);
        Limits {
            down: if down.layer > layer { base.down } else { scheduled.down },
            up: if up.layer > layer { base.up } else { scheduled.up },
        }
    }

    /// Puts a layer over what is there.
    fn add(&mut self, layer: usize, file: File) {
        for (key, entry) in file.entries {
            self.entries[key] = Entry { layer, ..entry };
        }
        self.overrides.extend(file.overrides);
        if let Some((rules, origin)) = file.schedule {
            self.rules = rules;
            self.rules_from = Some((origin, layer));
        }
    }

    /// What cannot be true at once.
    fn contradictions(&self) -> Vec<Problem> {
        const RISING: [(&str, &str, &str); 3] = [
            ("network", "pipeline_depth_min", "pipeline_depth_max"),
            ("network", "request_timeout_min", "request_timeout_max"),
            ("strategy", "optimistic_slots", "upload_slots"),
        ];
        let mut problems = Vec::new();
        for (section, less, more) in RISING {
            let [less, more] =
                [less, more].map(|name| names::find(section, name).expect("it is in the table"));
            let size = |key: usize| {
                let value = &self.entries[key].value;
                value
                    .time()
                    .map_or_else(|| u128::from(value.number().expect("a number")), |time| time.as_millis())
            };
            if size(less) > size(more) {
                // The one that was set last is to blame.
                let (key, other) = if self.entries[less].layer >= self.entries[more].layer {
                    (less, more)
                } else {
                    (more, less)
                };
                let relation = if key == less { "at most" } else { "at least" };
                let other_value = self.entries[other].value.to_text();
                problems.push(Problem {
                    origin: self.entries[key].origin.clone(),
                    key: KEYS[key].path(),
                    message: format!(
                        "must be {relation} {} ({other_value}, from {})",
                        KEYS[other].name, self.entries[other].origin
                    ),
                });
            }
        }
        problems
    }
}

#[cfg(test)]
mod effect_tests;
#[cfg(test)]
mod tests;
