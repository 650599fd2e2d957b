//! Limits by weekday and time of day. Pure: the time comes in.
//!
//! Times are what the wall clock shows. So a rule that ends at 02:30 in a night in which the clock jumps from 02:00 to
//! 03:00 ends at the jump, and in the night in which 02:30 comes twice it holds both times, until the second one.

use jiff::civil::{DateTime, Weekday};

use super::file::{Item, Reader};
use super::key::Key;
use super::kind::{Value, quoted};
use super::names;

/// Names of weekdays, Monday first.
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
/// Names of several days, with a bit per day, Monday lowest.
const GROUPS: [(&str, u8); 3] = [("all", 0b111_1111), ("weekdays", 0b001_1111), ("weekend", 0b110_0000)];
/// Keys of a rule.
pub const RULE_KEYS: [&str; 5] = ["days", "from", "to", "down_kib", "up_kib"];
/// Rules at most.
pub const RULES_MAX: usize = 1000;

/// Bytes per second; 0 = unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Received.
    pub down: u64,
    /// Sent.
    pub up: u64,
}

/// One `[[limits.schedule]]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// A bit per day on which it begins, Monday lowest.
    days: u8,
    /// Minute of the day at which it begins.
    from: u16,
    /// Minute of the day at which it ends; not after `from`: on the next day.
    to: u16,
    /// Bytes per second meanwhile; `None`: as without the rule.
    down: Option<u64>,
    /// As `down`.
    up: Option<u64>,
}

impl Rule {
    /// Whether it holds at that time of the wall clock.
    fn holds(&self, local: DateTime) -> bool {
        let minute = local.hour() as u16 * 60 + local.minute() as u16;
        let today = day_bit(local.weekday());
        let yesterday = day_bit(local.weekday().previous());
        let has = |day: u8| self.days & day != 0;
        if self.from < self.to {
            has(today) && (self.from..self.to).contains(&minute)
        } else {
            (has(today) && minute >= self.from) || (has(yesterday) && minute < self.to)
        }
    }

    /// As it stands in a file, on one line.
    pub fn to_toml(&self) -> String {
        let days: Vec<&str> = (0..7).filter(|day| self.days >> day & 1 == 1).map(|day| DAYS[day]).collect();
        let time = |minute: u16| format!("\"{:02}:{:02}\"", minute / 60, minute % 60);
        let mut text =
            format!("{{ days = [{}], from = {}, to = {}", quoted(&days), time(self.from), time(self.to));
        for (name, limit) in [("down_kib", self.down), ("up_kib", self.up)] {
            if let Some(limit) = limit {
                text += &format!(", {name} = {}", Value::Rate(limit).to_toml());
            }
        }
        text + " }"
    }
}

/// The limits at a time of the wall clock: those of `base`, but for what rules say that hold then; later rules win.
pub fn limits_at(base: Limits, rules: &[Rule], local: DateTime) -> Limits {
    rules.iter().filter(|rule| rule.holds(local)).fold(base, |limits, rule| Limits {
        down: rule.down.unwrap_or(limits.down),
        up: rule.up.unwrap_or(limits.up),
    })
}

fn day_bit(day: Weekday) -> u8 {
    1 << day.to_monday_zero_offset()
}

/// Reads the rules of one file. What is wrong is told to `reader`.
pub(super) fn read(reader: &mut Reader, item: &Item<'_>) -> Vec<Rule> {
    let Some(tables) = item.array().filter(|tables| tables.len() <= RULES_MAX) else {
        reader.wrong(
            item,
            "limits.schedule",
            "must be tables, each headed [[limits.schedule]]; 1000 at most",
        );
        return Vec::new();
    };
    tables.iter().filter_map(|table| read_rule(reader, table)).collect()
}

fn read_rule(reader: &mut Reader, item: &Item<'_>) -> Option<Rule> {
    let Some(entries) = item.table() else {
        reader.wrong(item, "limits.schedule", "must be a table with days, from, to, down_kib and up_kib");
        return None;
    };
    let mut rule = Rule { days: GROUPS[0].1, from: 0, to: 0, down: None, up: None };
    let mut seen: Vec<String> = Vec::new();
    let mut is_good = true;
    for (name, value) in &entries {
        let read = match name.name.as_str() {
            "days" => days(value).map(|days| rule.days = days).ok_or_else(|| expected_days(value)),
            "from" => time(value, false).map(|at| rule.from = at),
            "to" => time(value, true).map(|at| rule.to = at),
            "down_kib" => rate(value).map(|rate| rule.down = Some(rate)),
            "up_kib" => rate(value).map(|rate| rule.up = Some(rate)),
            other => Err(match names::nearest(other, RULE_KEYS.into_iter()) {
                Some(right) => format!("unknown key; did you mean {right}?"),
                None => format!("unknown key; a rule has {}", RULE_KEYS.join(", ")),
            }),
        };
        if let Err(message) = read {
            reader.wrong(name, &format!("limits.schedule.{}", name.name), &message);
            is_good = false;
        }
        seen.push(name.name.clone());
    }
    for needed in ["from", "to"] {
        if !seen.iter().any(|name| name == needed) {
            reader.wrong(
                item,
                "limits.schedule",
                &format!("{needed} is missing, such as {needed} = \"08:30\""),
            );
            is_good = false;
        }
    }
    if !seen.iter().any(|name| name == "down_kib" || name == "up_kib") {
        reader.wrong(item, "limits.schedule", "the rule limits nothing: give down_kib or up_kib");
        is_good = false;
    }
    is_good.then_some(rule)
}

fn days(item: &Item<'_>) -> Option<u8> {
    let text = item.text()?;
    let mut days = 0;
    for name in text.split(',').map(str::trim) {
        let day = DAYS.iter().position(|day| day.eq_ignore_ascii_case(name)).map(|day| 1 << day);
        let group = GROUPS.iter().find(|(group, _)| group.eq_ignore_ascii_case(name)).map(|(_, days)| *days);
        days |= day.or(group)?;
    }
    Some(days)
}

fn expected_days(item: &Item<'_>) -> String {
    let words: Vec<&str> = DAYS.into_iter().chain(GROUPS.map(|(name, _)| name)).collect();
    let found = item.text().unwrap_or_default();
    let is_wrong = |name: &&str| !words.iter().any(|word| word.eq_ignore_ascii_case(name));
    let wrong = found.split(',').map(str::trim).find(is_wrong);
    let hint = wrong.and_then(|name| names::nearest(name, words.iter().copied()));
    let hint = hint.map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
    format!(
        "must be a list of days, such as [\"mon\", \"fri\"] or [\"weekend\"], of {}{hint}",
        quoted(&words)
    )
}

/// Minutes since midnight. At the end of a rule 24:00 is midnight.
fn time(item: &Item<'_>, is_end: bool) -> Result<u16, String> {
    let problem = || "must be a time of day from \"00:00\" to \"23:59\"".to_owned();
    let text = item.text().ok_or_else(problem)?;
    let mut parts = text.split(':');
    let mut part = |max: u16| {
        let digits = parts.next().filter(|digits| matches!(digits.len(), 1 | 2))?;
        if !digits.bytes().all(|digit| digit.is_ascii_digit()) {
            return None;
        }
        digits.parse::<u16>().ok().filter(|number| *number <= max)
    };
    let (hour, minute) = part(24).zip(part(59)).ok_or_else(problem)?;
    // A time without quotes has seconds, by the rules of TOML.
    let seconds_are_zero = parts.next().is_none_or(|seconds| seconds.parse::<u16>() == Ok(0));
    match (hour * 60 + minute, seconds_are_zero && parts.next().is_none()) {
        (1440, true) if is_end => Ok(0),
        (at @ 0..1440, true) => Ok(at),
        _ => Err(problem()),
    }
}

fn rate(item: &Item<'_>) -> Result<u64, String> {
    let key: &Key = &super::keys::KEYS[names::find("limits", "global_down_kib").expect("it is in the table")];
    let value = key.read(&item.text().unwrap_or_default())?;
    Ok(value.number().expect("a rate"))
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
