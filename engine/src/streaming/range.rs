//! Byte ranges (RFC 9110 section 14). Pure.

use std::ops::Range;

/// What a Range header asks of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// All of it: there is no range, it cannot be read, or there are several, which need not be served.
    Whole,
    /// These bytes, at least one.
    Part(Range<u64>),
    /// Nothing that is there.
    Unsatisfiable,
}

/// Reads the value of a Range header for a file of `len` bytes.
pub(super) fn asked(header: &str, len: u64) -> Asked {
    let Some(spec) = header.trim().split_once('=').filter(|(unit, _)| unit.eq_ignore_ascii_case("bytes"))
    else {
        return Asked::Whole;
    };
    let Some((first, last)) = spec.1.trim().split_once('-') else { return Asked::Whole };
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // A number that is too large is behind every end.
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    let range = match (first, last) {
        ("", last) => match number(last) {
            Some(count) => len.saturating_sub(count)..len,
            None => return Asked::Whole,
        },
        (first, "") => match number(first) {
            Some(first) => first..len,
            None => return Asked::Whole,
        },
        (first, last) => match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(len),
            _ => return Asked::Whole,
        },
    };
    if range.start < range.end { Asked::Part(range) } else { Asked::Unsatisfiable }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        for (header, expected) in [
            ("bytes=0-0", Asked::Part(0..1)),
            ("bytes=0-", Asked::Part(0..100)),
            ("Bytes = 5-9", Asked::Whole),
            ("BYTES=5-9", Asked::Part(5..10)),
            ("bytes=99-200", Asked::Part(99..100)),
            ("bytes=-1", Asked::Part(99..100)),
            ("bytes=-500", Asked::Part(0..100)),
            ("bytes=-0", Asked::Unsatisfiable),
            ("bytes=100-", Asked::Unsatisfiable),
            ("bytes=100-200", Asked::Unsatisfiable),
            ("bytes=99999999999999999999999-", Asked::Unsatisfiable),
            ("bytes=0-99999999999999999999999", Asked::Part(0..100)),
            ("bytes=9-5", Asked::Whole),
            ("bytes=-", Asked::Whole),
            ("bytes=a-b", Asked::Whole),
            ("bytes=+1-2", Asked::Whole),
            ("bytes=0-1,5-6", Asked::Whole),
            ("items=0-1", Asked::Whole),
            ("", Asked::Whole),
        ] {
            assert_eq!(asked(header, 100), expected, "{header}");
        }
        assert_eq!(asked("bytes=0-", 0), Asked::Unsatisfiable);
    }
}
