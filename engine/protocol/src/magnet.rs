//! Magnet links (BEP 9, BEP 53): a torrent by its name alone, and where somebody may be who has it.
//!
//! Role: text to [`Magnet`] and back. Called by the session and the command line. Invariant: what comes out of
//! [`Magnet::parse`] is bounded and usable: URLs of schemes that are spoken, addresses with a port, ranges in order.
//! Hints that cannot be used (an exotic tracker, a peer without a port) are dropped, as old links are full of them; a
//! link that does not name one torrent is refused.

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;

use crate::ids::InfoHash;
use crate::metainfo::{MAX_FILES, MAX_URLS, Metainfo, is_tracker_url, is_web_seed_url};
use crate::picker::Priority;

/// Longest link that is read, in bytes.
pub const MAX_MAGNET_LEN: usize = 64 * 1024;
/// Most peers kept (`x.pe`).
pub const MAX_PEERS: usize = 100;
/// Most ranges of files kept (`so`).
pub const MAX_RANGES: usize = 10_000;
/// Longest name kept (`dn`), in bytes.
const MAX_NAME_LEN: usize = 1024;
/// Longest host name (RFC 1035).
const MAX_HOST_LEN: usize = 253;

/// A magnet link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Magnet {
    /// The torrent (`xt=urn:btih:`).
    pub info_hash: InfoHash,
    /// What it is called (`dn`), until its metadata says so.
    pub name: Option<String>,
    /// Tracker URLs (`tr`), each a tier of its own.
    pub trackers: Vec<Vec<String>>,
    /// Web seed URLs (`ws`).
    pub web_seeds: Vec<String>,
    /// Peers (`x.pe`) given by address.
    pub peers: Vec<SocketAddr>,
    /// Peers (`x.pe`) given as host name and port, `host:port`.
    pub hosts: Vec<String>,
    /// Bytes in all files (`xl`).
    pub len: Option<u64>,
    /// Files that are wanted (`so`, BEP 53), by index; empty: all of them.
    pub select: Vec<RangeInclusive<u32>>,
}

/// Why text is no magnet link of one torrent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MagnetError {
    /// Something else.
    #[error("it does not begin with `magnet:?`")]
    NotMagnet,
    /// Longer than [`MAX_MAGNET_LEN`].
    #[error("it is longer than {MAX_MAGNET_LEN} bytes")]
    TooLong,
    /// No `xt=urn:btih:`.
    #[error("it names no torrent: `xt=urn:btih:` with the info-hash is missing")]
    NoInfoHash,
    /// Only `xt=urn:btmh:`.
    #[error("it names a v2 torrent (urn:btmh), which is not supported; look for a link with urn:btih")]
    V2Only,
    /// An info-hash that is none.
    #[error("`urn:btih:` is not followed by 40 hexadecimal digits or 32 characters of base32")]
    BadInfoHash,
    /// Several different info-hashes.
    #[error("it names several torrents; give one link for each")]
    Several,
    /// `so` is not a list of numbers and ranges.
    #[error("`so` is not a list of file numbers and ranges like 0,2,4-6")]
    BadSelection,
}

impl Magnet {
    /// Whether `text` means to be a magnet link.
    pub fn is_magnet(text: &str) -> bool {
        text.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("magnet:"))
    }

    /// Reads a link.
    pub fn parse(text: &str) -> Result<Self, MagnetError> {
        if text.len() > MAX_MAGNET_LEN {
            return Err(MagnetError::TooLong);
        }
        let text = text.trim();
        let query = text.get(7..).filter(|_| Self::is_magnet(text)).and_then(|rest| rest.strip_prefix('?'));
        let query = query.ok_or(MagnetError::NotMagnet)?;
        let (mut magnet, mut info_hash, mut v2) = (Self::default(), None, false);
        for parameter in query.split('&') {
            let Some((key, value)) = parameter.split_once('=') else { continue };
            match base_key(key).to_ascii_lowercase().as_str() {
                "xt" => match topic(&decode(value, false))? {
                    Topic::V1(hash) if info_hash.is_some_and(|before| before != hash) => {
                        return Err(MagnetError::Several);
                    }
                    Topic::V1(hash) => info_hash = Some(hash),
                    Topic::V2 => v2 = true,
                    Topic::Other => {}
                },
                "dn" => magnet.name = magnet.name.take().or_else(|| name(&decode(value, true))),
                "tr" => magnet.add_tracker(decode(value, false)),
                "ws" => magnet.add_web_seed(decode(value, false)),
                "x.pe" => magnet.add_peer(&decode(value, false)),
                "xl" => magnet.len = magnet.len.or(decode(value, false).parse().ok()),
                "so" => add_ranges(&mut magnet.select, &decode(value, false))?,
                _ => {}
            }
        }
        magnet.select = merged(std::mem::take(&mut magnet.select));
        magnet.info_hash = match (info_hash, v2) {
            (Some(hash), _) => hash,
            (None, true) => return Err(MagnetError::V2Only),
            (None, false) => return Err(MagnetError::NoInfoHash),
        };
        Ok(magnet)
    }

    /// The link to a torrent whose file is at hand.
    pub fn of(metainfo: &Metainfo) -> Self {
        Self {
            info_hash: metainfo.info_hash,
            name: Some(metainfo.name.clone()),
            trackers: metainfo.trackers.clone(),
            web_seeds: metainfo.web_seeds.clone(),
            len: Some(metainfo.geometry.total_len()),
            ..Self::default()
        }
    }

    /// How much each file of the torrent is wanted (`so`); `None`: the link does not say. Indices past the last file
    /// mean nothing.
    pub fn priorities(&self, metainfo: &Metainfo) -> Option<Vec<Priority>> {
        if self.select.is_empty() {
            return None;
        }
        let mut priorities = vec![Priority::Skip; metainfo.files.len()];
        for range in &self.select {
            let end = (*range.end() as usize + 1).min(priorities.len());
            let start = (*range.start() as usize).min(end);
            priorities[start..end].fill(Priority::Normal);
        }
        Some(priorities)
    }

    fn add_tracker(&mut self, url: String) {
        let url = url.trim();
        let known = self.trackers.iter().flatten().any(|known| known == url);
        if self.trackers.len() < MAX_URLS && !known && is_tracker_url(url) {
            self.trackers.push(vec![url.to_owned()]);
        }
    }

    fn add_web_seed(&mut self, url: String) {
        let url = url.trim();
        let known = self.web_seeds.iter().any(|known| known == url);
        if self.web_seeds.len() < MAX_URLS && !known && is_web_seed_url(url) {
            self.web_seeds.push(url.to_owned());
        }
    }

    fn add_peer(&mut self, text: &str) {
        if self.peers.len() + self.hosts.len() >= MAX_PEERS {
            return;
        }
        if let Ok(addr) = text.parse::<SocketAddr>() {
            if addr.port() != 0 && !self.peers.contains(&addr) {
                self.peers.push(addr);
            }
        } else if is_host_and_port(text) && !self.hosts.iter().any(|known| known == text) {
            self.hosts.push(text.to_owned());
        }
    }
}

/// `tr.1` is another `tr`; `x.pe` is a key of its own.
fn base_key(key: &str) -> &str {
    match key.rsplit_once('.') {
        Some((base, number)) if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) => base,
        _ => key,
    }
}

enum Topic {
    V1(InfoHash),
    V2,
    Other,
}

fn topic(text: &str) -> Result<Topic, MagnetError> {
    let after = |prefix: &str| {
        let is_it = text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
        is_it.then(|| &text[prefix.len()..])
    };
    if after("urn:btmh:").is_some() {
        return Ok(Topic::V2);
    }
    let Some(hash) = after("urn:btih:") else { return Ok(Topic::Other) };
    let hash = if hash.len() == 32 { base32(hash) } else { hash.parse().ok() };
    hash.map(Topic::V1).ok_or(MagnetError::BadInfoHash)
}

/// 32 characters of RFC 4648, either case: 20 bytes exactly.
fn base32(text: &str) -> Option<InfoHash> {
    let (mut hash, mut bits, mut have, mut at) = ([0; 20], 0u32, 0, 0);
    for byte in text.bytes() {
        let digit = match byte.to_ascii_uppercase() {
            letter @ b'A'..=b'Z' => letter - b'A',
            digit @ b'2'..=b'7' => digit - b'2' + 26,
            _ => return None,
        };
        bits = bits << 5 | u32::from(digit);
        have += 5;
        if have >= 8 {
            have -= 8;
            *hash.get_mut(at)? = (bits >> have) as u8;
            at += 1;
        }
    }
    (at == 20).then_some(InfoHash(hash))
}

/// Percent-decoded; what is not UTF-8 then becomes U+FFFD. An escape that is none stays as it is. `form`: a plus sign is a
/// space.
fn decode(text: &str, form: bool) -> String {
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        match (byte, digit(at), digit(at + 1)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 2;
            }
            (b'+', ..) if form => out.push(b' '),
            _ => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn name(text: &str) -> Option<String> {
    let name: String = text.chars().filter(|c| !c.is_control()).collect();
    let name = name.trim();
    let cut = name.floor_char_boundary(MAX_NAME_LEN);
    (!name.is_empty()).then(|| name[..cut].to_owned())
}

fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let is_host = !host.is_empty() && host.len() <= MAX_HOST_LEN && host.chars().all(is_part);
    is_host && port.parse::<u16>().is_ok_and(|port| port != 0)
}

fn add_ranges(ranges: &mut Vec<RangeInclusive<u32>>, text: &str) -> Result<(), MagnetError> {
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u32>()
            .ok()
            .filter(|n| digits && (*n as usize) < MAX_FILES)
            .ok_or(MagnetError::BadSelection)
    };
    for part in text.split(',') {
        let (start, end) = part.split_once('-').unwrap_or((part, part));
        let (start, end) = (number(start)?, number(end)?);
        if start > end || ranges.len() >= MAX_RANGES {
            return Err(MagnetError::BadSelection);
        }
        ranges.push(start..=end);
    }
    Ok(())
}

/// In order, and none of them touching another.
fn merged(mut ranges: Vec<RangeInclusive<u32>>) -> Vec<RangeInclusive<u32>> {
    ranges.sort_unstable_by_key(|range| *range.start());
    let mut out: Vec<RangeInclusive<u32>> = Vec::new();
    for range in ranges {
        match out.last_mut() {
            Some(last) if *range.start() <= last.end() + 1 => {
                *last = *last.start()..=(*last.end()).max(*range.end());
            }
            _ => out.push(range),
        }
    }
    out
}

/// Percent-encoded: all but unreserved characters (RFC 3986).
struct Encoded<'a>(&'a str);

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.bytes().try_for_each(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                write!(f, "{}", char::from(byte))
            }
            _ => write!(f, "%{byte:02X}"),
        })
    }
}

impl fmt::Display for Magnet {
    /// The link.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "magnet:?xt=urn:btih:{}", self.info_hash)?;
        if let Some(name) = &self.name {
            write!(f, "&dn={}", Encoded(name))?;
        }
        if let Some(len) = self.len {
            write!(f, "&xl={len}")?;
        }
        self.trackers.iter().flatten().try_for_each(|url| write!(f, "&tr={}", Encoded(url)))?;
        self.web_seeds.iter().try_for_each(|url| write!(f, "&ws={}", Encoded(url)))?;
        self.peers.iter().try_for_each(|peer| write!(f, "&x.pe={peer}"))?;
        self.hosts.iter().try_for_each(|host| write!(f, "&x.pe={host}"))?;
        for (at, range) in self.select.iter().enumerate() {
            f.write_str(if at == 0 { "&so=" } else { "," })?;
            match (range.start(), range.end()) {
                (start, end) if start == end => write!(f, "{start}")?,
                (start, end) => write!(f, "{start}-{end}")?,
            }
        }
        Ok(())
    }
}

impl std::str::FromStr for Magnet {
    type Err = MagnetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

#[cfg(test)]
#[path = "magnet_tests.rs"]
mod tests;
