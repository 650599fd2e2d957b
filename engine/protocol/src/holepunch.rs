//! Connecting two peers that are both behind NATs, with the help of a third (BEP 55, ut_holepunch).
//!
//! Role: the messages ([`HolepunchMessage`]), what a relay and a target put up with ([`Gate`]), and who told of whom
//! ([`Introductions`]). Called by [`crate::torrent`]. Pure.
//!
//! Invariant: a message makes a relay send two at most, one of them back, and both no longer than what asked for them;
//! how many one peer can cause, and how many one peer gets, is bounded by the gates of both.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use crate::credit::Credit;
use crate::picker::PeerKey;

/// Name of the extension in the extended handshake's `m` (BEP 10).
pub const NAME: &str = "ut_holepunch";
/// Messages that may come from one peer, or go to one target, at once.
const BURST: u32 = 8;
/// One more after each such time.
const PACE_SECS: u64 = 5;
/// Addresses of which it is remembered who told them; the oldest go.
const INTRODUCTIONS_MAX: usize = 512;

/// A ut_holepunch message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HolepunchMessage {
    /// To a relay: bring me together with this peer of yours.
    Rendezvous(SocketAddr),
    /// From a relay: this peer dials you now; dial it as well.
    Connect(SocketAddr),
    /// From a relay: nothing comes of that.
    Error(SocketAddr, HolepunchError),
}

/// Why a relay does not help. An unknown number counts as [`Self::NoSuchPeer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum HolepunchError {
    /// The address is none.
    NoSuchPeer = 1,
    /// The relay is not connected to it.
    NotConnected = 2,
    /// It does not understand ut_holepunch.
    NoSupport = 3,
    /// It is who asks.
    NoSelf = 4,
}

/// A peer asks us, as relay, to bring it together with another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rendezvous {
    /// The address of the peer's connection: who it is to us.
    pub asker: SocketAddr,
    /// Where it waits for uTP, as far as we can know: what the other one is told.
    pub seen_at: SocketAddr,
    /// Whom it wants to meet.
    pub target: SocketAddr,
}

impl Rendezvous {
    /// The answer when nothing comes of it.
    pub fn refused(&self, error: HolepunchError) -> HolepunchMessage {
        HolepunchMessage::Error(self.target, error)
    }
}

/// The payload is no ut_holepunch message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the ut_holepunch message is malformed")]
pub struct Malformed;

impl HolepunchMessage {
    /// Reads the payload of an extension message. What follows it is ignored.
    pub fn parse(payload: &[u8]) -> Result<Self, Malformed> {
        let (&[kind, family], rest) = payload.split_first_chunk().ok_or(Malformed)?;
        let (ip, rest): (IpAddr, &[u8]) = match family {
            0 => {
                let (ip, rest) = rest.split_first_chunk::<4>().ok_or(Malformed)?;
                ((*ip).into(), rest)
            }
            1 => {
                let (ip, rest) = rest.split_first_chunk::<16>().ok_or(Malformed)?;
                ((*ip).into(), rest)
            }
            _ => return Err(Malformed),
        };
        let (port, rest) = rest.split_first_chunk().ok_or(Malformed)?;
        let addr = SocketAddr::new(ip, u16::from_be_bytes(*port));
        match kind {
            0 => Ok(Self::Rendezvous(addr)),
            1 => Ok(Self::Connect(addr)),
            2 => {
                let (code, _) = rest.split_first_chunk().ok_or(Malformed)?;
                let error = match u32::from_be_bytes(*code) {
                    2 => HolepunchError::NotConnected,
                    3 => HolepunchError::NoSupport,
                    4 => HolepunchError::NoSelf,
                    _ => HolepunchError::NoSuchPeer,
                };
                Ok(Self::Error(addr, error))
            }
            _ => Err(Malformed),
        }
    }

    /// The payload to send.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, addr, error) = match *self {
            Self::Rendezvous(addr) => (0, addr, 0),
            Self::Connect(addr) => (1, addr, 0),
            Self::Error(addr, error) => (2, addr, error as u32),
        };
        let mut out = vec![kind, u8::from(addr.is_ipv6())];
        match addr.ip() {
            IpAddr::V4(ip) => out.extend(ip.octets()),
            IpAddr::V6(ip) => out.extend(ip.octets()),
        }
        out.extend(addr.port().to_be_bytes());
        // BEP 55 has the field in every message.
        out.extend(error.to_be_bytes());
        out
    }
}

/// How much of this one peer may cause.
pub type Gate = Credit<BURST, PACE_SECS>;

/// Who told us of whom: a relay is asked that is connected to the address (it said so), once for each time it was told.
#[derive(Debug, Default)]
pub struct Introductions {
    by: HashMap<SocketAddr, PeerKey>,
    order: VecDeque<SocketAddr>,
}

impl Introductions {
    /// `teller` knows the peer at `addr`.
    pub fn told(&mut self, teller: PeerKey, addr: SocketAddr) {
        if self.by.insert(addr, teller).is_some() {
            return;
        }
        self.order.push_back(addr);
        if self.order.len() > INTRODUCTIONS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.by.remove(&oldest);
        }
    }

    /// Who told of `addr`; not again before it is told again.
    pub fn take(&mut self, addr: SocketAddr) -> Option<PeerKey> {
        let teller = self.by.remove(&addr)?;
        self.order.retain(|other| *other != addr);
        Some(teller)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use proptest::prelude::*;

    const PACE: Duration = Duration::from_secs(PACE_SECS);

    #[test]
    fn messages_are_those_of_bep_55() {
        let four: SocketAddr = "1.2.3.4:258".parse().unwrap();
        let rendezvous = HolepunchMessage::Rendezvous(four);
        assert_eq!(rendezvous.encode(), [0, 0, 1, 2, 3, 4, 1, 2, 0, 0, 0, 0]);
        // libtorrent leaves the error out where there is none.
        assert_eq!(HolepunchMessage::parse(&[0, 0, 1, 2, 3, 4, 1, 2]), Ok(rendezvous));
        let six: SocketAddr = "[2001:db8::1]:7".parse().unwrap();
        let error = HolepunchMessage::Error(six, HolepunchError::NoSelf);
        assert_eq!(error.encode().len(), 24);
        assert_eq!(HolepunchMessage::parse(&error.encode()), Ok(error));
        for len in 0..12 {
            assert_eq!(
                HolepunchMessage::parse(
                    &HolepunchMessage::Error(four, HolepunchError::NoSuchPeer).encode()[..len]
                ),
                Err(Malformed)
            );
        }
        assert_eq!(HolepunchMessage::parse(&[3, 0, 1, 2, 3, 4, 1, 2]), Err(Malformed), "kind");
        assert_eq!(HolepunchMessage::parse(&[0, 2, 1, 2, 3, 4, 1, 2]), Err(Malformed), "family");
    }

    #[test]
    fn a_gate_passes_a_burst_and_then_its_pace() {
        let mut now = Instant::now();
        let mut gate = Gate::new(now);
        assert_eq!((0..100).filter(|_| gate.pass(now)).count(), BURST as usize);
        for _ in 0..5 {
            now += PACE;
            assert!(gate.pass(now) && !gate.pass(now));
        }
        now += PACE * 1000;
        assert_eq!((0..100).filter(|_| gate.pass(now)).count(), BURST as usize, "rest is not saved up");
    }

    #[test]
    fn introductions_are_bounded_and_used_once() {
        let addr = |n: usize| SocketAddr::new([10, 0, (n / 256) as u8, n as u8].into(), 1);
        let mut known = Introductions::default();
        for n in 0..INTRODUCTIONS_MAX + 10 {
            known.told(PeerKey(n as u32), addr(n));
            known.told(PeerKey(7), addr(n));
        }
        assert_eq!((known.by.len(), known.order.len()), (INTRODUCTIONS_MAX, INTRODUCTIONS_MAX));
        assert_eq!(known.take(addr(9)), None, "the oldest are gone");
        assert_eq!(known.take(addr(10)), Some(PeerKey(7)));
        assert_eq!(known.take(addr(10)), None);
        assert_eq!(known.order.len(), known.by.len());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(kind in 0u8..3, ip: IpAddr, port: u16, code in 1u32..5) {
            let addr = SocketAddr::new(ip, port);
            let mut payload = HolepunchMessage::Rendezvous(addr).encode();
            payload[0] = kind;
            let at = payload.len() - 4;
            payload[at..].copy_from_slice(&if kind == 2 { code } else { 0 }.to_be_bytes());
            let message = HolepunchMessage::parse(&payload).unwrap();
            prop_assert_eq!(message.encode(), payload);
        }

        #[test]
        fn anything_may_come(payload in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(message) = HolepunchMessage::parse(&payload) {
                prop_assert_eq!(HolepunchMessage::parse(&message.encode()), Ok(message));
            }
        }
    }
}
