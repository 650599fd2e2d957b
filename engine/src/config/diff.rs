//! What a changed configuration changes, and whether a running session takes it. Pure.

use std::collections::BTreeMap;

use super::key::Applies;
use super::{Config, Rule};

/// One difference between two configurations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What has changed: `limits.global_down_kib`, `torrent."a*".preallocate`, `limits.schedule`.
    pub key: String,
    /// As it stands in a file; empty: it was not set.
    pub from: String,
    /// As `from`.
    pub to: String,
    /// Whether a running session takes it.
    pub applies: Applies,
}

/// Every value that differs, in the order of the table. Where a value comes from does not count.
pub fn diff(old: &Config, new: &Config) -> Vec<Change> {
    let mut changes = Vec::new();
    for ((key, before), (_, after)) in old.entries().zip(new.entries()) {
        if before.value != after.value {
            let (from, to) = (before.value.to_toml(), after.value.to_toml());
            changes.push(Change { key: key.path(), from, to, applies: key.applies });
        }
    }
    let (before, after) = (rules(old.schedule().0), rules(new.schedule().0));
    if before != after {
        let key = "limits.schedule".to_owned();
        changes.push(Change { key, from: before, to: after, applies: Applies::AtOnce });
    }
    let (before, after) = (overrides(old), overrides(new));
    let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let value = |all: &BTreeMap<String, (String, Applies)>| all.get(name).cloned();
        let (from, to) = (value(&before), value(&after));
        if from != to {
            let applies = from.as_ref().or(to.as_ref()).expect("one of them has it").1;
            let text = |side: Option<(String, Applies)>| side.map(|(text, _)| text).unwrap_or_default();
            changes.push(Change { key: name.clone(), from: text(from), to: text(to), applies });
        }
    }
    changes
}

fn rules(rules: &[Rule]) -> String {
    if rules.is_empty() {
        return String::new();
    }
    format!("[{}]", rules.iter().map(Rule::to_toml).collect::<Vec<_>>().join(", "))
}

fn overrides(config: &Config) -> BTreeMap<String, (String, Applies)> {
    let value = |(key, found): (&'static super::Key, &super::Override)| {
        let name = format!("torrent.{:?}.{}", found.pattern.to_string(), key.name);
        (name, (found.entry.value.to_toml(), key.applies))
    };
    config.overrides().map(value).collect()
}
