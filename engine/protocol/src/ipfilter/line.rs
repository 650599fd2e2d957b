//! One line of a text list.
//!
//! Role: [`parse_line`] tells the formats apart line by line, so a list may mix them. Invariant: any bytes are a line of
//! some kind or an error; names are skipped and never kept.
//!
//! | format | line |
//! |---|---|
//! | eMule DAT | `001.002.003.004 - 001.002.003.255 , 100 , name`: blocked up to level 127, as in qBittorrent |
//! | PeerGuardian | `name:1.2.3.4-5.6.7.8`; the name may have colons |
//! | CIDR, address | `1.2.3.0/24`, `2001:db8::/32`, `1.2.3.4`, and a comment behind `#` or `;` |
//! | comment | begins with `#`, `;` or `//` |

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Range;

/// Rules of DAT with a greater level say that the range is allowed.
const LEVEL_MAX: u64 = 127;

/// What a line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// Nothing.
    Empty,
    /// The range is blocked.
    Block(Range),
    /// The range has a level that is not blocked.
    Allow,
}

/// Why a line is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// It is of no known format.
    #[error("it is neither a range nor a network nor an address")]
    Unknown,
    /// The last address is lower, or of the other family.
    #[error("the range does not go from a lower to a higher address of one family")]
    Order,
    /// More bits than an address has.
    #[error("the prefix is longer than the address")]
    Prefix,
}

/// Reads one line, without its end.
pub fn parse_line(line: &[u8]) -> Result<Line, LineError> {
    let line = line.trim_ascii();
    if line.is_empty() || line.starts_with(b"#") || line.starts_with(b";") || line.starts_with(b"//") {
        return Ok(Line::Empty);
    }
    if let Some(network) = network(line) {
        return network.map(Line::Block);
    }
    let (range, rest) = match line.iter().position(|byte| *byte == b',') {
        Some(comma) => (&line[..comma], &line[comma + 1..]),
        None => (line, &[][..]),
    };
    let Some((first, last)) = ends(range) else {
        return named(line).ok_or(LineError::Unknown)?.map(Line::Block);
    };
    match Range::new(first, last) {
        Some(_) if level(rest) > LEVEL_MAX => Ok(Line::Allow),
        Some(range) => Ok(Line::Block(range)),
        // A name that ends in a colon makes `::1.2.3.4` of an address, which is one of IPv6.
        None if first.is_ipv4() != last.is_ipv4() => named(line).ok_or(LineError::Order)?.map(Line::Block),
        None => Err(LineError::Order),
    }
}

/// `ADDRESS` or `ADDRESS/PREFIX`, with nothing or a comment behind it.
fn network(line: &[u8]) -> Option<Result<Range, LineError>> {
    let end = line.iter().position(|byte| matches!(byte, b' ' | b'\t' | b'#' | b';')).unwrap_or(line.len());
    let rest = line[end..].trim_ascii_start();
    if !(rest.is_empty() || rest.starts_with(b"#") || rest.starts_with(b";") || rest.starts_with(b"//")) {
        return None;
    }
    let word = &line[..end];
    match word.iter().position(|byte| *byte == b'/') {
        None => address(word).and_then(|ip| Range::new(ip, ip)).map(Ok),
        Some(slash) => {
            let ip = address(&word[..slash])?;
            let prefix = number(&word[slash + 1..])?;
            let range = u8::try_from(prefix).ok().and_then(|prefix| Range::cidr(ip, prefix));
            Some(range.ok_or(LineError::Prefix))
        }
    }
}

/// `ADDRESS - ADDRESS`.
fn ends(text: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let dash = text.iter().position(|byte| *byte == b'-')?;
    Some((address(&text[..dash])?, address(&text[dash + 1..])?))
}

/// The access level in front of a DAT line's name; what is no number counts as 0, as in qBittorrent.
fn level(rest: &[u8]) -> u64 {
    let field = rest.split(|byte| *byte == b',').next().unwrap_or_default();
    number(field.trim_ascii()).unwrap_or(0)
}

/// `NAME:ADDRESS-ADDRESS`. A name may have colons and an IPv6 address has: the longest end of what is before the dash that
/// is an address of the other one's family counts.
fn named(line: &[u8]) -> Option<Result<Range, LineError>> {
    let dash = line.iter().rposition(|byte| *byte == b'-')?;
    let last = address(&line[dash + 1..])?;
    let before = &line[..dash];
    // No address is longer, so a long name costs no more than a short one.
    let from = before.len().saturating_sub(ADDRESS_LEN_MAX + 1);
    let colons = (from..before.len()).filter(|at| before[*at] == b':');
    let mut found = colons.filter_map(|colon| address(&before[colon + 1..]));
    let first = found.find(|first| first.is_ipv4() == last.is_ipv4())?;
    Some(Range::new(first, last).ok_or(LineError::Order))
}

/// `ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255`, and room for spaces.
const ADDRESS_LEN_MAX: usize = 64;

/// An address; unlike Rust's own reading leading zeros are allowed, and decimal, as lists have them.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = text.trim_ascii();
    if text.len() > ADDRESS_LEN_MAX {
        return None;
    }
    if text.contains(&b':') {
        let text = std::str::from_utf8(text).ok()?;
        return text.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    }
    let mut octets = [0; 4];
    let mut parts = text.split(|byte| *byte == b'.');
    for octet in &mut octets {
        let part = parts.next().filter(|part| part.len() <= 3)?;
        *octet = u8::try_from(number(part)?).ok()?;
    }
    parts.next().is_none().then(|| Ipv4Addr::from(octets).into())
}

/// Decimal digits.
fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 9 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(text.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}
