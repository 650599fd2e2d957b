//! Sizes, rates, times and lists of CPUs as people write them. Pure.
//!
//! Invariant: what `show_*` writes, the function beside it reads back as the same value.

use std::time::Duration;

/// Units of bytes by their lower-case name; K, M, G, T alone are powers of 1024, kB, MB … of 1000.
const BYTES: [(&str, f64); 14] = [
    ("b", 1.0),
    ("k", 1024.0),
    ("kib", 1024.0),
    ("kb", 1e3),
    ("m", 1048576.0),
    ("mib", 1048576.0),
    ("mb", 1e6),
    ("g", 1073741824.0),
    ("gib", 1073741824.0),
    ("gb", 1e9),
    ("t", 1099511627776.0),
    ("tib", 1099511627776.0),
    ("tb", 1e12),
    ("pib", 1125899906842624.0),
];

/// As above, for what only rates have.
const BITS: [(&str, f64); 4] = [("bit", 0.125), ("kbit", 125.0), ("mbit", 125e3), ("gbit", 125e6)];

const TIMES: [(&str, f64); 5] = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86400.0)];

/// CPU numbers are smaller than this.
const CPUS_MAX: usize = 4096;

/// Bytes in `text`: a number of `bare` bytes each, or one with a unit. `None`: it is neither, or beyond 2^63.
pub fn bytes(text: &str, bare: u64) -> Option<u64> {
    let (number, unit) = split(text)?;
    let factor = if unit.is_empty() { bare as f64 } else { factor(&BYTES, unit)? };
    scaled(number, factor)
}

/// Bytes per second in `text`: a number of KiB/s, or one with a unit of bytes or bits, which may end in `/s`.
pub fn rate(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let unit = match unit.len().checked_sub(2).and_then(|at| unit.split_at_checked(at)) {
        Some((unit, per)) if per.eq_ignore_ascii_case("/s") => unit,
        _ => unit,
    };
    let factor = match unit {
        "" => 1024.0,
        unit => factor(&BYTES, unit).or_else(|| factor(&BITS, unit))?,
    };
    let bytes = scaled(number, factor)?;
    // 0 is no limit: a limit of less than a byte must not become that.
    let is_zero = number.bytes().all(|digit| matches!(digit, b'0' | b'.'));
    Some(if is_zero { bytes } else { bytes.max(1) })
}

/// A time: a number of `bare`s, or parts with units from days to ms such as `1h30m`.
pub fn time(text: &str, bare: Duration) -> Option<Duration> {
    let mut rest = text.trim();
    let (first, unit) = split(rest)?;
    if unit.is_empty() {
        return seconds(first.parse::<f64>().ok()? * bare.as_secs_f64());
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let (number, tail) = split(rest)?;
        let len = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(len);
        total = total.checked_add(seconds(number.parse::<f64>().ok()? * factor(&TIMES, unit)?)?)?;
        rest = tail.trim_start();
    }
    Some(total)
}

/// CPU numbers in `text`: single ones and ranges, separated by commas, as in `0-3,8`. Rising and each once.
pub fn cpus(text: &str) -> Option<Vec<usize>> {
    let mut all = Vec::new();
    for part in text.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse::<usize>().ok();
        let (first, last) = (number(first)?, number(last)?);
        if first > last || last >= CPUS_MAX {
            return None;
        }
        all.extend(first..=last);
    }
    all.sort_unstable();
    all.dedup();
    Some(all)
}

/// The largest binary unit that shows `bytes` exactly: `256MiB`.
pub fn show_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut unit = 0;
    let mut value = bytes;
    while value > 0 && value.is_multiple_of(1024) && unit + 1 < UNITS.len() {
        value /= 1024;
        unit += 1;
    }
    format!("{value}{}", UNITS[unit])
}

/// As [`show_bytes`], per second.
pub fn show_rate(bytes: u64) -> String {
    format!("{}/s", show_bytes(bytes))
}

/// `1h30m`, exact to the millisecond.
pub fn show_time(time: Duration) -> String {
    let ms = time.as_millis();
    let parts = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s"), (1, "ms")];
    let mut left = ms;
    let mut text = String::new();
    for (size, unit) in parts {
        if left >= size {
            text += &format!("{}{unit}", left / size);
            left %= size;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// `0,1,8`.
pub fn show_cpus(cpus: &[usize]) -> String {
    cpus.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

/// A plain decimal number and what follows it.
fn split(text: &str) -> Option<(&str, &str)> {
    let text = text.trim();
    let len = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(len);
    let is_number = number.starts_with(|c: char| c.is_ascii_digit()) && number.parse::<f64>().is_ok();
    is_number.then(|| (number, unit.trim_start()))
}

fn factor(units: &[(&str, f64)], unit: &str) -> Option<f64> {
    units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).map(|(_, factor)| *factor)
}

fn scaled(number: &str, factor: f64) -> Option<u64> {
    // Whole numbers of whole units stay exact beyond 2^53.
    if let Ok(whole) = number.parse::<u64>()
        && factor >= 1.0
    {
        return whole.checked_mul(factor as u64).filter(|bytes| *bytes <= i64::MAX as u64);
    }
    let bytes = number.parse::<f64>().ok()? * factor;
    (bytes < i64::MAX as f64).then_some(bytes as u64)
}

fn seconds(seconds: f64) -> Option<Duration> {
    // Rounded to what is shown.
    let ms = (seconds * 1000.0).round();
    (ms < 1e15).then(|| Duration::from_millis(ms as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_and_rates() {
        for (text, expected) in [
            ("3", Some(3 << 20)),
            ("3MiB", Some(3 << 20)),
            (" 3 mib ", Some(3 << 20)),
            ("3M", Some(3 << 20)),
            ("3MB", Some(3_000_000)),
            ("1.5k", Some(1536)),
            ("0", Some(0)),
            ("7B", Some(7)),
            ("8388607TiB", Some(8_388_607 << 40)),
            ("8388608TiB", None),
            ("99999999999999999999", None),
            ("1e3", None),
            ("-1", None),
            ("+1", None),
            (".5", None),
            ("1.2.3", None),
            ("", None),
            ("MiB", None),
            ("1 MiB 2", None),
            ("inf", None),
            ("1MiB/s", None),
        ] {
            assert_eq!(bytes(text, 1 << 20), expected, "{text:?}");
        }
        for (text, expected) in [
            ("1024", Some(1 << 20)),
            ("10MiB/s", Some(10 << 20)),
            ("10MiB", Some(10 << 20)),
            ("1.5 MiB/S", Some(3 << 19)),
            ("100Mbit/s", Some(12_500_000)),
            ("7B/s", Some(7)),
            ("1bit/s", Some(1)),
            ("0.0001", Some(1)),
            ("0.0", Some(0)),
            ("/s", None),
            ("1/s", Some(1024)),
            ("1é/s", None),
            ("1é", None),
        ] {
            assert_eq!(rate(text), expected, "{text:?}");
        }
    }

    #[test]
    fn times_and_cpus() {
        let minute = Duration::from_secs(60);
        for (text, ms) in [
            ("1.5", Some(90_000)),
            ("90s", Some(90_000)),
            ("1h30m", Some(5_400_000)),
            ("1h 30m", Some(5_400_000)),
            ("2d", Some(172_800_000)),
            ("250ms", Some(250)),
            ("1M", Some(60_000)),
            ("0", Some(0)),
            ("1h30", None),
            ("1w", None),
            ("-1", None),
            ("nan", None),
            ("", None),
            ("999999999999999999999999d", None),
        ] {
            assert_eq!(time(text, minute), ms.map(Duration::from_millis), "{text:?}");
        }
        assert_eq!(cpus("0-2, 8,1"), Some(vec![0, 1, 2, 8]));
        assert!(["", "a", "3-1", "0,", "0-99999999999", "4096", "-1"].iter().all(|bad| cpus(bad).is_none()));
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(number in 0..=i64::MAX as u64, ms in 0u64..1_000_000_000_000) {
            prop_assert_eq!(bytes(&show_bytes(number), 1), Some(number));
            prop_assert_eq!(rate(&show_rate(number)), Some(number));
            let span = Duration::from_millis(ms);
            prop_assert_eq!(time(&show_time(span), Duration::from_secs(1)), Some(span));
        }

        #[test]
        fn nothing_panics(text in "[0-9.a-zMKG/é, -]{0,12}") {
            let _ = (bytes(&text, 1 << 20), rate(&text), time(&text, Duration::from_secs(60)), cpus(&text));
        }
    }
}
