//! `ccbt-fast config`: shows what counts and why, checks a file, prints the default one.

use std::collections::BTreeMap;
use std::fmt::Write;

use ccbt_fast::TorrentSource;
use ccbt_fast::config::{Config, Entry, Key, Origin, Pattern, Rule, Sources, Value, default_file};
use ccbt_protocol::metainfo::escape_for_terminal;
use serde_json::{Map, Value as Json, json};

use crate::args::{ConfigArgs, ConfigCommand, ShowArgs};
use crate::console::print_line;
use crate::failure::Failure;
use crate::json;

/// See the module.
pub fn run(args: &ConfigArgs) -> Result<(), Failure> {
    match &args.command {
        ConfigCommand::Show(args) => show(args),
        ConfigCommand::Check(args) => {
            Sources::new(None, Some(&args.file)).load()?;
            let shown = args.file.to_string_lossy();
            print_line(&escape_for_terminal(&format!("{shown}: nothing is wrong with it")));
            Ok(())
        }
        ConfigCommand::Default => {
            print_line(default_file().trim_end());
            Ok(())
        }
    }
}

fn show(args: &ShowArgs) -> Result<(), Failure> {
    let config = args.sources.sources(&[]).load()?;
    let torrent = args.torrent.as_deref().map(|path| TorrentSource::from(path).load()).transpose()?;
    let entries = match &torrent {
        Some(metainfo) => config.entries_for(&metainfo.info_hash, &metainfo.name),
        None => config.entries().collect(),
    };
    if args.json {
        print_line(&json::to_line(&as_json(&config, &entries, args.origin)));
    } else {
        print_line(as_text(&config, &entries, args.origin, torrent.is_none()).trim_end());
    }
    Ok(())
}

/// A value as JSON: numbers of bytes and of seconds, the rest as they are written.
fn value_as_json(value: &Value) -> Json {
    match value {
        Value::Bool(on) => json!(on),
        Value::Number(number) | Value::Rate(number) | Value::Size(number) => json!(number),
        Value::Ratio(ratio) => json!(ratio),
        Value::Time(time) => json!(time.as_secs_f64()),
        Value::Cpus(cpus) => json!(cpus),
        Value::Command(words) | Value::Folders(words) | Value::Files(words) | Value::Hosts(words) => {
            json!(words)
        }
        Value::FilePriorities(_) => serde_json::from_str(&value.to_text()).expect("its text is a JSON array"),
        Value::Word(_)
        | Value::Path(_)
        | Value::Address(_)
        | Value::Places(_)
        | Value::Loopback(_)
        | Value::LogFilter(_)
        | Value::Peer(_) => json!(value.to_text()),
    }
}

fn with_origin(value: Json, origin: &Origin, tells_origin: bool) -> Json {
    if tells_origin { json!({ "value": value, "origin": origin.to_string() }) } else { value }
}

fn as_json(config: &Config, entries: &[(&'static Key, &Entry)], tells_origin: bool) -> Json {
    let mut sections = Map::new();
    for (key, entry) in entries {
        let value = with_origin(value_as_json(&entry.value), &entry.origin, tells_origin);
        let section = sections.entry(key.section).or_insert_with(|| json!({}));
        section[key.name] = value;
    }
    let (rules, origin) = config.schedule();
    let rules: Vec<String> = rules.iter().map(Rule::to_toml).collect();
    sections["limits"]["schedule"] =
        with_origin(json!(rules), origin.unwrap_or(&Origin::Default), tells_origin);
    let mut torrents = Map::new();
    for (key, found) in config.overrides() {
        let value = with_origin(value_as_json(&found.entry.value), &found.entry.origin, tells_origin);
        let torrent = torrents.entry(found.pattern.to_string()).or_insert_with(|| json!({}));
        torrent[key.name] = value;
    }
    sections.insert("torrent".to_owned(), Json::Object(torrents));
    Json::Object(sections)
}

/// As a file would have it, so that it can be one.
fn as_text(
    config: &Config,
    entries: &[(&'static Key, &Entry)],
    tells_origin: bool,
    tells_torrents: bool,
) -> String {
    let mut text = String::new();
    let mut line = |content: String, origin: &Origin| {
        let content = escape_for_terminal(&content).into_owned();
        let end =
            if tells_origin && !content.starts_with('[') { format!("  # {origin}") } else { String::new() };
        writeln!(text, "{content}{end}").expect("a String takes every write");
    };
    let mut section = "";
    let mut lines: Vec<(String, &Origin)> = Vec::new();
    for (key, entry) in entries {
        if key.section != section {
            section = key.section;
            lines.push((format!("[{section}]"), &Origin::Default));
        }
        lines.push((format!("{} = {}", key.name, entry.value.to_toml()), &entry.origin));
        if key.path() == "limits.global_up_kib"
            && let (rules @ [_, ..], Some(origin)) = config.schedule()
        {
            let rules: Vec<String> = rules.iter().map(Rule::to_toml).collect();
            lines.push((format!("schedule = [{}]", rules.join(", ")), origin));
        }
    }
    if tells_torrents {
        lines.extend(torrents(config));
    }
    for (content, origin) in lines {
        line(content, origin);
    }
    text
}

/// A section for each pattern, in the order in which they were named last; of two values for a key the later one.
fn torrents(config: &Config) -> Vec<(String, &Origin)> {
    let mut patterns: Vec<&Pattern> = Vec::new();
    for (_, found) in config.overrides() {
        patterns.retain(|pattern| **pattern != found.pattern);
        patterns.push(&found.pattern);
    }
    let mut lines = Vec::new();
    for pattern in patterns {
        lines.push((format!("[torrent.{}]", toml::Value::String(pattern.to_string())), &Origin::Default));
        let mut values: BTreeMap<&str, (String, &Origin)> = BTreeMap::new();
        for (key, found) in config.overrides().filter(|(_, found)| found.pattern == *pattern) {
            let content = format!("{} = {}", key.name, found.entry.value.to_toml());
            values.insert(key.name, (content, &found.entry.origin));
        }
        lines.extend(values.into_values());
    }
    lines
}
