//! Peers from peers (BEP 11, ut_pex).
//!
//! Role: the messages ([`PexMessage`]), who is connected and what each peer was told of it ([`Book`], [`Told`]), and what
//! of a stranger's message is believed ([`Gate`]). Called by [`crate::torrent`] and [`crate::fetching`], never for private
//! torrents (BEP 27). Pure.
//!
//! Invariant: a peer is told at most once in [`INTERVAL`], of at most [`MAX_TOLD`] peers that came and as many that went.

mod book;
mod gate;

pub use book::{Book, Told};
pub use gate::Gate;
pub(crate) use gate::is_plausible;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::bencode::{Dict, Encoder, Limits, decode_prefix};

/// Name of the extension in the extended handshake's `m` (BEP 10).
pub const NAME: &str = "ut_pex";
/// Between two messages to one peer at least.
pub const INTERVAL: Duration = Duration::from_secs(60);
/// Peers told as having come, and as having gone, in one message.
pub const MAX_TOLD: usize = 50;
/// Longest payload that is looked at, in bytes: far more than BEP 11 allows.
pub const MAX_PAYLOAD_LEN: usize = 16 * 1024;
/// Bencode values in a payload: six keys and some for the future.
const MAX_TOKENS: usize = 64;

/// What is said of a peer (BEP 11).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    /// Prefers encryption.
    pub const ENCRYPTION: Self = Self(0x01);
    /// Downloads nothing.
    pub const SEED: Self = Self(0x02);
    /// Speaks uTP.
    pub const UTP: Self = Self(0x04);
    /// Speaks ut_holepunch (BEP 55).
    pub const HOLEPUNCH: Self = Self(0x08);
    /// The teller connected to it: it can be reached.
    pub const REACHABLE: Self = Self(0x10);

    /// With those of `other`, if `wanted`.
    #[must_use]
    pub const fn with(self, other: Self, wanted: bool) -> Self {
        if wanted { Self(self.0 | other.0) } else { self }
    }

    /// Whether all of `other` are set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A ut_pex message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PexMessage {
    /// Peers that came.
    pub added: Vec<(SocketAddr, Flags)>,
    /// Peers that went.
    pub dropped: Vec<SocketAddr>,
}

/// The payload is no ut_pex message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the ut_pex message is malformed")]
pub struct PexError;

impl PexMessage {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.dropped.is_empty()
    }

    /// Reads the payload of an extension message. Addresses are as they were sent, useless ones included; the rest of a
    /// list after the last whole address, and flags without an address, are ignored.
    pub fn parse(payload: &[u8]) -> Result<Self, PexError> {
        if payload.len() > MAX_PAYLOAD_LEN {
            return Err(PexError);
        }
        let (document, _) = decode_prefix(payload, Limits { tokens: MAX_TOKENS }).map_err(|_| PexError)?;
        let dict = document.root().as_dict().ok_or(PexError)?;
        let mut message = Self::default();
        for (addrs, flags) in [(b"added".as_slice(), b"added.f".as_slice()), (b"added6", b"added6.f")] {
            let flags = dict.get_bytes(flags).unwrap_or_default();
            let flag = |at: usize| Flags(flags.get(at).copied().unwrap_or(0));
            let found = addresses(dict, addrs).enumerate().map(|(at, addr)| (addr, flag(at)));
            message.added.extend(found);
        }
        for key in [b"dropped".as_slice(), b"dropped6"] {
            message.dropped.extend(addresses(dict, key));
        }
        Ok(message)
    }

    /// The payload to send.
    pub fn encode(&self) -> Vec<u8> {
        let (mut added, mut flags, mut added6, mut flags6) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (addr, flag) in &self.added {
            let (addrs, flags) =
                if addr.is_ipv4() { (&mut added, &mut flags) } else { (&mut added6, &mut flags6) };
            push(addrs, addr);
            flags.push(flag.0);
        }
        let (mut dropped, mut dropped6) = (Vec::new(), Vec::new());
        for addr in &self.dropped {
            push(if addr.is_ipv4() { &mut dropped } else { &mut dropped6 }, addr);
        }
        let mut out = Encoder::new();
        out.begin_dict();
        out.key(b"added").bytes(&added);
        out.key(b"added.f").bytes(&flags);
        if !added6.is_empty() {
            out.key(b"added6").bytes(&added6);
            out.key(b"added6.f").bytes(&flags6);
        }
        out.key(b"dropped").bytes(&dropped);
        if !dropped6.is_empty() {
            out.key(b"dropped6").bytes(&dropped6);
        }
        out.end();
        out.finish()
    }
}

fn push(out: &mut Vec<u8>, addr: &SocketAddr) {
    match addr {
        SocketAddr::V4(addr) => out.extend(addr.ip().octets()),
        SocketAddr::V6(addr) => out.extend(addr.ip().octets()),
    }
    out.extend(addr.port().to_be_bytes());
}

/// Compact addresses: six bytes each, or eighteen where the key ends with a 6.
fn addresses<'a>(dict: Dict<'_, 'a>, key: &[u8]) -> impl Iterator<Item = SocketAddr> + use<'a> {
    let bytes = dict.get_bytes(key).unwrap_or_default();
    let len = if key.ends_with(b"6") { 18 } else { 6 };
    bytes.chunks_exact(len).map(|chunk| {
        let (ip, port) = chunk.split_at(chunk.len() - 2);
        let port = u16::from_be_bytes([port[0], port[1]]);
        match (<[u8; 4]>::try_from(ip), <[u8; 16]>::try_from(ip)) {
            (Ok(ip), _) => (Ipv4Addr::from(ip), port).into(),
            (_, Ok(ip)) => (Ipv6Addr::from(ip), port).into(),
            _ => unreachable!("chunks of 6 or 18 bytes"),
        }
    })
}

#[cfg(test)]
mod tests;
