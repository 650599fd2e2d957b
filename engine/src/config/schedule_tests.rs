use super::*;
use crate::config::{Config, Setting, Sources, Trust, find_path, keys, parse};
use jiff::tz::TimeZone;
use jiff::{Timestamp, civil};
use std::path::Path;

const KIB: u64 = 1 << 10;

fn rules(text: &str) -> Vec<Rule> {
    let (file, problems) = parse(text, Path::new("f"), Trust::Full);
    assert!(problems.is_empty(), "{problems:?}");
    file.schedule.expect("there is one").0
}

fn rule(days: &str, from: &str, to: &str, limits: &str) -> String {
    format!("[[limits.schedule]]\ndays = {days}\nfrom = {from}\nto = {to}\n{limits}\n")
}

/// 2026-11-23 is a Monday.
fn november(day: i8, hour: i8, minute: i8) -> civil::DateTime {
    civil::date(2026, 11, day).at(hour, minute, 59, 999_999_999)
}

fn down_at(rules: &[Rule], local: civil::DateTime) -> u64 {
    limits_at(Limits { down: 7, up: 9 }, rules, local).down
}

#[test]
fn a_rule_holds_on_its_days_from_begin_to_before_its_end() {
    let rules = rules(&rule("[\"weekdays\"]", "\"08:30\"", "\"18:00\"", "down_kib = 2"));
    for (day, hour, minute, expected) in [
        (23, 8, 29, 7),
        (23, 8, 30, 2 * KIB),
        (23, 17, 59, 2 * KIB),
        (23, 18, 0, 7),
        (27, 9, 0, 2 * KIB),
        (28, 9, 0, 7),
        (29, 9, 0, 7),
    ] {
        assert_eq!(down_at(&rules, november(day, hour, minute)), expected, "{day} {hour}:{minute}");
    }
    let both = limits_at(Limits { down: 7, up: 9 }, &rules, november(23, 9, 0));
    assert_eq!(both, Limits { down: 2 * KIB, up: 9 }, "what it does not name stays");
}

#[test]
fn a_rule_goes_on_over_midnight() {
    let rules = rules(&rule("[\"fri\", \"SUN\"]", "\"22:00\"", "\"6:00\"", "down_kib = 0"));
    for (day, hour, expected) in [
        (27, 21, 7),
        (27, 22, 0),
        (27, 23, 0),
        (28, 0, 0),
        (28, 5, 0),
        (28, 6, 7),
        (28, 23, 7),
        (29, 3, 7),
        (29, 22, 0),
        // Sunday's rule ends on Monday.
        (30, 5, 0),
        (30, 6, 7),
    ] {
        assert_eq!(down_at(&rules, november(day, hour, 0)), expected, "{day} {hour}:00");
    }
    let to_midnight = self::rules(&rule("[\"mon\"]", "\"22:00\"", "\"24:00\"", "down_kib = 1"));
    assert_eq!(down_at(&to_midnight, november(23, 23, 59)), KIB);
    assert_eq!(down_at(&to_midnight, november(24, 0, 0)), 7);
    let whole_day = self::rules(&rule("[\"mon\"]", "\"05:00\"", "\"05:00\"", "down_kib = 1"));
    assert_eq!(down_at(&whole_day, november(24, 4, 59)), KIB);
    assert_eq!(down_at(&whole_day, november(24, 5, 0)), 7);
    assert_eq!(down_at(&whole_day, november(23, 4, 59)), 7);
}

#[test]
fn the_last_rule_wins_for_what_it_names() {
    let text = rule("[\"all\"]", "\"00:00\"", "\"24:00\"", "down_kib = 1\nup_kib = 1")
        + &rule("[\"mon\"]", "\"10:00\"", "\"11:00\"", "up_kib = \"5MiB/s\"");
    let rules = rules(&text);
    let at = |hour| limits_at(Limits::default(), &rules, november(23, hour, 0));
    assert_eq!(at(9), Limits { down: KIB, up: KIB });
    assert_eq!(at(10), Limits { down: KIB, up: 5 << 20 });
}

/// Central Europe without a database: 2026-03-29 02:00 becomes 03:00, 2026-10-25 03:00 becomes 02:00.
fn berlin(instant: &str) -> civil::DateTime {
    let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").expect("a POSIX time zone");
    instant.parse::<Timestamp>().expect("an instant").to_zoned(zone).datetime()
}

#[test]
fn clocks_are_put_forward_and_back() {
    let rules = rules(&rule("[\"all\"]", "\"01:30\"", "\"02:30\"", "down_kib = 1"));
    for (instant, expected) in [
        // Forward: 02:00 to 03:00 is not there, so the rule ends at the jump.
        ("2026-03-29T00:29:00Z", 7),
        ("2026-03-29T00:30:00Z", KIB),
        ("2026-03-29T00:59:59Z", KIB),
        ("2026-03-29T01:00:00Z", 7),
        // Back: 02:00 to 03:00 is there twice, and so is the rule's end.
        ("2026-10-24T23:29:00Z", 7),
        ("2026-10-24T23:30:00Z", KIB),
        ("2026-10-25T00:29:00Z", KIB),
        ("2026-10-25T00:30:00Z", 7),
        ("2026-10-25T01:00:00Z", KIB),
        ("2026-10-25T01:30:00Z", 7),
    ] {
        assert_eq!(down_at(&rules, berlin(instant)), expected, "{instant} is {}", berlin(instant));
    }
    let begins_in_the_gap = self::rules(&rule("[\"sun\"]", "\"02:15\"", "\"04:00\"", "down_kib = 1"));
    assert_eq!(down_at(&begins_in_the_gap, berlin("2026-03-29T00:59:00Z")), 7);
    assert_eq!(down_at(&begins_in_the_gap, berlin("2026-03-29T01:00:00Z")), KIB, "it begins at the jump");
}

#[test]
fn what_is_wrong_with_a_rule_is_told_with_its_line() {
    let text = "[limits]\nglobal_down_kib = 5\n\
                [[limits.schedule]]\ndays = [\"mon\", \"tuue\"]\nfrom = \"25:00\"\nto = \"08:60\"\ndown_kib = -1\nupkib = 3\n\
                [[limits.schedule]]\nfrom = \"24:00\"\nto = 8\nup_kib = \"fast\"\n\
                [[limits.schedule]]\ndays = []\nto = \"08:00:01\"\n";
    let (file, problems) = parse(text, Path::new("f"), Trust::Full);
    let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
    for (line, part) in [
        (4, "did you mean \"tue\""),
        (5, "limits.schedule.from: must be a time of day"),
        (6, "limits.schedule.to: must be a time of day"),
        (7, "limits.schedule.down_kib: must be a rate"),
        (8, "did you mean up_kib"),
        (10, "limits.schedule.from"),
        (11, "limits.schedule.to"),
        (12, "limits.schedule.up_kib"),
        (13, "from is missing"),
        (13, "limits nothing"),
        (14, "list of days"),
        (15, "limits.schedule.to"),
    ] {
        let found = told.iter().any(|text| text.starts_with(&format!("f:{line}: ")) && text.contains(part));
        assert!(found, "line {line}: {part}: {told:#?}");
    }
    assert_eq!(told.len(), 12, "{told:#?}");
    assert!(file.schedule.expect("it was there").0.is_empty(), "no rule of them counts");
    for not_a_list in ["schedule = 5", "schedule = [5]", "[limits.schedule]\nfrom = \"1:00\""] {
        let (_, problems) = parse(&format!("[limits]\n{not_a_list}"), Path::new("f"), Trust::Full);
        assert!(!problems.is_empty(), "{not_a_list}");
    }
    let unquoted = rules(&rule("[\"mon\"]", "08:30:00", "18:00:00", "up_kib = 1"));
    assert_eq!(unquoted, rules(&rule("[\"mon\"]", "\"08:30\"", "\"18:00\"", "up_kib = 1")));
}

#[test]
fn rules_are_written_and_read_back() {
    let before = rules(
        &(rule("[\"weekend\"]", "\"22:05\"", "\"6:00\"", "down_kib = 0\nup_kib = 3")
            + &rule("[\"mon\"]", "\"0:00\"", "\"24:00\"", "up_kib = \"1B/s\"")),
    );
    let text: Vec<String> = before.iter().map(Rule::to_toml).collect();
    assert_eq!(rules(&format!("[limits]\nschedule = [{}]", text.join(", "))), before);
}

#[test]
fn a_limit_of_a_higher_layer_than_the_schedule_holds_at_any_time() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("x.toml");
    let text = "[limits]\nglobal_down_kib = 5\nglobal_up_kib = 5\n".to_owned()
        + &rule("[\"all\"]", "\"0:00\"", "\"24:00\"", "down_kib = 1\nup_kib = 2");
    std::fs::write(&path, text).expect("written");
    let load = |sources: Sources| -> Config { sources.load().expect("good") };
    let sources = || Sources::new(None, Some(&path));
    let any = november(23, 1, 1);
    assert_eq!(load(sources()).limits_at(any), Limits { down: KIB, up: 2 * KIB });
    let key = &keys::KEYS[find_path("limits.global_down_kib").expect("a key")];
    let flag = Setting { key, value: key.read("9").expect("good"), flag: "--down-limit".into() };
    let config = load(sources().settings([flag]));
    assert_eq!(config.limits_at(any), Limits { down: 9 * KIB, up: 2 * KIB });
    let config = load(sources().variables([("CCBT_UP_LIMIT".to_owned(), "8".to_owned())]));
    assert_eq!(config.limits_at(any), Limits { down: KIB, up: 8 * KIB });
}
