//! Local service discovery: the announces that clients of one network send to all others (BEP 14).
//!
//! Invariant: what is parsed is within the bounds below, and `parse(write(a)) == a`. Called by the discovery thread.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::ids::InfoHash;

/// Where announces go.
pub const GROUP_V4: Ipv4Addr = Ipv4Addr::new(239, 192, 152, 143);
/// As [`GROUP_V4`], for IPv6.
pub const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0xefc0, 0x988f);
/// Its UDP port.
pub const PORT: u16 = 6771;
/// Bytes of a datagram that is looked at (BEP 14: 1400).
pub const DATAGRAM_MAX: usize = 1400;
/// Info-hashes in one announce that we send: it fits the size then.
pub const HASHES_MAX: usize = 24;
/// Bytes of a cookie.
pub const COOKIE_MAX: usize = 64;
/// Header lines that are looked at.
const LINES_MAX: usize = 64;

/// One announce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announce {
    /// Where the sender takes connections over TCP.
    pub port: u16,
    /// What it has; at least one.
    pub hashes: Vec<InfoHash>,
    /// By which senders know what they sent themselves; printable ASCII, at most [`COOKIE_MAX`] bytes.
    pub cookie: Option<String>,
}

impl Announce {
    /// The datagram, to one of the groups.
    pub fn write(&self, v6: bool) -> Vec<u8> {
        let host = if v6 { format!("[{GROUP_V6}]:{PORT}") } else { format!("{GROUP_V4}:{PORT}") };
        let mut text = format!("BT-SEARCH * HTTP/1.1\r\nHost: {host}\r\nPort: {}\r\n", self.port);
        for hash in &self.hashes {
            text += &format!("Infohash: {hash}\r\n");
        }
        if let Some(cookie) = &self.cookie {
            text += &format!("cookie: {cookie}\r\n");
        }
        text += "\r\n\r\n";
        text.into_bytes()
    }

    /// Reads a datagram; `None` when it is no announce. Lines that BEP 14 does not name are passed over.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > DATAGRAM_MAX {
            return None;
        }
        let text = std::str::from_utf8(bytes).ok()?;
        let (head, _) = text.split_once("\r\n\r\n")?;
        let mut lines = head.split("\r\n");
        if lines.next()? != "BT-SEARCH * HTTP/1.1" {
            return None;
        }
        let (mut port, mut hashes, mut cookie) = (None, Vec::new(), None);
        for (count, line) in lines.enumerate() {
            let (name, value) = line.split_once(':')?;
            let value = value.trim();
            if count >= LINES_MAX {
                return None;
            } else if name.eq_ignore_ascii_case("port") {
                // Neither twice nor with a sign.
                let digits = value.bytes().all(|byte| byte.is_ascii_digit());
                let read = value.parse::<u16>().ok().filter(|port| digits && *port != 0)?;
                if port.replace(read).is_some() {
                    return None;
                }
            } else if name.eq_ignore_ascii_case("infohash") {
                let hash: InfoHash = value.parse().ok()?;
                if !hashes.contains(&hash) {
                    hashes.push(hash);
                }
            } else if name.eq_ignore_ascii_case("cookie") {
                let is_good = value.len() <= COOKIE_MAX && value.bytes().all(|byte| byte.is_ascii_graphic());
                if !is_good || cookie.replace(value.to_owned()).is_some() {
                    return None;
                }
            }
        }
        let port = port?;
        (!hashes.is_empty()).then_some(Self { port, hashes, cookie })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample(count: usize) -> Announce {
        let hashes = (0..count).map(|n| InfoHash([n as u8; 20])).collect();
        Announce { port: 6881, hashes, cookie: Some("c0ffee".into()) }
    }

    #[test]
    fn as_bep_14_shows_it() {
        let text = "BT-SEARCH * HTTP/1.1\r\nHost: 239.192.152.143:6771\r\nPort: 6881\r\n\
                    Infohash: 0000000000000000000000000000000000000000\r\ncookie: c0ffee\r\n\r\n\r\n";
        assert_eq!(String::from_utf8_lossy(&sample(1).write(false)), text);
        assert!(String::from_utf8_lossy(&sample(1).write(true)).contains("Host: [ff15::efc0:988f]:6771\r\n"));
        assert!(sample(HASHES_MAX).write(true).len() <= DATAGRAM_MAX);
    }

    #[test]
    fn what_is_no_announce_is_refused() {
        let good = String::from_utf8(sample(2).write(false)).expect("text");
        assert_eq!(Announce::parse(good.as_bytes()), Some(sample(2)));
        for (from, to) in [
            ("BT-SEARCH", "bt-search"),
            ("HTTP/1.1", "HTTP/1.0"),
            ("Port: 6881", "Port: 0"),
            ("Port: 6881", "Port: +81"),
            ("Port: 6881", "Port: 68811"),
            ("Port: 6881", "Port: 1\r\nPort: 1"),
            ("Port: 6881", "No: 6881"),
            ("Port: 6881", "6881"),
            ("Infohash: 00", "Infohash: 0g"),
            ("Infohash: 00", "Infohash: 0"),
            ("c0ffee", "c0ffee\r\ncookie: x"),
            ("c0ffee", "c\u{7}"),
            ("\r\n\r\n\r\n", "\r\n"),
        ] {
            let bad = good.replace(from, to);
            assert_eq!(Announce::parse(bad.as_bytes()), None, "{from} -> {to}");
        }
        assert_eq!(Announce::parse(good.replace("Infohash", "X").as_bytes()), None, "nothing is announced");
        assert_eq!(Announce::parse(b"\xff"), None);
        let long = good.replace("cookie", &"x: y\r\n".repeat(200));
        assert_eq!(Announce::parse(long.as_bytes()), None);
        let other = good.replace("Infohash", "INFOHASH").replace("cookie", "X-More: 1\r\nCookie");
        assert_eq!(Announce::parse(other.as_bytes()), Some(sample(2)), "names in any case, and other lines");
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>, at in 0usize..100, byte: u8) {
            let _ = Announce::parse(&bytes);
            let mut near = sample(3).write(false);
            near[at] = byte;
            if let Some(announce) = Announce::parse(&near) {
                prop_assert_eq!(Announce::parse(&announce.write(true)), Some(announce));
            }
        }
    }
}
