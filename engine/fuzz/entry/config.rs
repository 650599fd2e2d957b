//! What must hold for any text given as a configuration file. Run by the fuzz target and over the corpus by tests.

use std::path::Path;

use ccbt_fast::config::{File, Limits, Problem, Trust, limits_at, parse};
use jiff::ToSpan;
use jiff::civil::{DateTime, date};

/// Panics when an invariant breaks.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (file, problems) = parse(text, Path::new("f"), Trust::Full);
    check(text, &file, &problems);
    let (less, refused) = parse(text, Path::new("f"), Trust::Folder);
    check(text, &less, &refused);
    assert!(refused.len() >= problems.len(), "less trust never allows more");
    for (key, _) in less.entries().chain(less.overrides().map(|(key, found)| (key, &found.entry))) {
        assert!(!key.trusted_only, "{} is not for this file", key.path());
    }
}

fn check(text: &str, file: &File, problems: &[Problem]) {
    for problem in problems {
        let told = problem.to_string();
        assert!(!told.chars().any(char::is_control), "{told:?}");
        assert!(!problem.message.is_empty());
    }
    for (key, entry) in file.entries() {
        assert_eq!(key.read(&entry.value.to_text()).as_ref(), Ok(&entry.value), "{} of {text:?}", key.path());
    }
    for (key, found) in file.overrides() {
        assert!(key.per_torrent && !found.pattern.to_string().is_empty());
    }
    let rules = file.rules();
    let base = Limits { down: 1, up: 2 };
    let written: Vec<String> = rules.iter().map(ccbt_fast::config::Rule::to_toml).collect();
    let (again, problems) =
        parse(&format!("limits.schedule = [{}]", written.join(", ")), Path::new("f"), Trust::Full);
    assert!(problems.is_empty() && again.rules() == rules, "{written:?}: {problems:?}");
    // A week and a day in steps that meet every minute of the hour and hour of the day.
    let mut at: DateTime = date(2026, 10, 24).at(0, 0, 0, 0);
    for _ in 0..8 * 24 {
        let limits = limits_at(base, rules, at);
        assert!(!rules.is_empty() || limits == base);
        assert_eq!(limits, limits_at(base, again.rules(), at));
        at = at.checked_add(61.minutes()).expect("no end of time is near");
    }
}
