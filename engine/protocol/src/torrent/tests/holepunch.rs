//! ut_holepunch (BEP 55) as the torrent speaks it: relays, who asks, who is asked for, and those who ask too much.

use std::net::SocketAddr;

use super::*;
use crate::holepunch::{self, HolepunchError, HolepunchMessage};
use crate::pex::{self, Flags, PexMessage};
use crate::wire::extension::{ExtensionHandshake, UT_HOLEPUNCH, UT_PEX};

const PUNCH_ID: u8 = 55;

fn torrent(now: Instant, private: bool) -> Torrent {
    let geometry = Geometry::new(1 << 20, 1 << 18).expect("sane sizes");
    let config = TorrentConfig { pex: !private, ..swarm::config() };
    let mut torrent =
        Torrent::new(now, InfoHash([1; 20]), PeerId([9; 20]), geometry, config, Bitfield::empty(4));
    torrent.enable_holepunch();
    torrent
}

fn addr(n: u8) -> SocketAddr {
    SocketAddr::new([8, 8, 8, n].into(), 1000 + u16::from(n))
}

/// A peer that understands ut_holepunch, if `speaks`.
fn join(torrent: &mut Torrent, now: Instant, n: u8, utp: bool, speaks: bool) -> PeerKey {
    let info = PeerInfo { addr: addr(n), id: PeerId([n; 20]), reserved: swarm::FAST, incoming: true };
    let key = torrent.connected(now, info);
    if utp {
        torrent.over_utp(key);
    }
    let mut messages = vec![(pex::NAME.to_owned(), 33)];
    if speaks {
        messages.push((holepunch::NAME.to_owned(), PUNCH_ID));
    }
    let hello = ExtensionHandshake { port: Some(77), messages, ..ExtensionHandshake::default() }.encode();
    torrent.message(now, key, Message::Extended { id: 0, payload: &hello }).expect("a good handshake");
    heard(torrent, now, key);
    key
}

/// The ut_holepunch messages that wait to be sent.
fn heard(torrent: &mut Torrent, now: Instant, key: PeerKey) -> Vec<HolepunchMessage> {
    let bytes = std::mem::take(torrent.out(now, key));
    let mut rest = &bytes[..];
    let mut found = Vec::new();
    while let [a, b, c, d, tail @ ..] = rest {
        let (body, after) = tail.split_at(u32::from_be_bytes([*a, *b, *c, *d]) as usize);
        if let [20, PUNCH_ID, payload @ ..] = body {
            found.push(HolepunchMessage::parse(payload).expect("our own"));
        }
        rest = after;
    }
    found
}

fn say(
    torrent: &mut Torrent,
    now: Instant,
    key: PeerKey,
    message: HolepunchMessage,
) -> Result<(), PeerFault> {
    torrent.message(now, key, Message::Extended { id: UT_HOLEPUNCH, payload: &message.encode() })
}

#[test]
fn a_relay_brings_two_together() {
    let now = Instant::now();
    let mut torrent = torrent(now, false);
    let (one, two) = (join(&mut torrent, now, 1, true, true), join(&mut torrent, now, 2, false, true));
    // Over TCP it comes from any port; it listens on the one it names.
    let two_listens = SocketAddr::new(addr(2).ip(), 77);
    say(&mut torrent, now, one, HolepunchMessage::Rendezvous(two_listens)).unwrap();
    assert_eq!(heard(&mut torrent, now, one), [HolepunchMessage::Connect(two_listens)]);
    assert_eq!(heard(&mut torrent, now, two), [HolepunchMessage::Connect(addr(1))]);
    let deaf = join(&mut torrent, now, 3, true, false);
    for (target, error) in [
        (addr(3), HolepunchError::NoSupport),
        (addr(1), HolepunchError::NoSelf),
        (SocketAddr::new(addr(2).ip(), 0), HolepunchError::NoSuchPeer),
    ] {
        say(&mut torrent, now, one, HolepunchMessage::Rendezvous(target)).unwrap();
        assert_eq!(heard(&mut torrent, now, one), [HolepunchMessage::Error(target, error)]);
    }
    assert_eq!(heard(&mut torrent, now, deaf), []);
}

#[test]
fn whom_this_part_does_not_know_another_part_may() {
    let now = Instant::now();
    let (mut here, mut there) = (torrent(now, false), torrent(now, false));
    let one = join(&mut here, now, 1, true, true);
    let (two, deaf) = (join(&mut there, now, 2, true, true), join(&mut there, now, 3, true, false));
    let mut ask = |target| {
        say(&mut here, now, one, HolepunchMessage::Rendezvous(target)).unwrap();
        assert_eq!(heard(&mut here, now, one), [], "before the answer");
        let Some(TorrentEvent::Relay(asked)) = here.poll_event() else { panic!("nobody is asked") };
        let answer = there.relay(now, &asked);
        here.relayed(asked.asker, answer.unwrap_or(asked.refused(HolepunchError::NotConnected)));
        heard(&mut here, now, one)
    };
    assert_eq!(ask(addr(2)), [HolepunchMessage::Connect(addr(2))]);
    assert_eq!(ask(addr(3)), [HolepunchMessage::Error(addr(3), HolepunchError::NoSupport)]);
    assert_eq!(ask(addr(9)), [HolepunchMessage::Error(addr(9), HolepunchError::NotConnected)]);
    // The target's bound is its own part's: it counts what comes from others.
    let told = (0..4).filter(|_| ask(addr(2)) == [HolepunchMessage::Connect(addr(2))]).count();
    assert_eq!(told, 4);
    assert_eq!(heard(&mut there, now, two), [HolepunchMessage::Connect(addr(1)); 5]);
    assert_eq!(heard(&mut there, now, deaf), []);
    // One that has gone hears nothing, and nobody else does.
    here.gone(one);
    let other = join(&mut here, now, 4, true, true);
    here.relayed(addr(1), HolepunchMessage::Connect(addr(2)));
    assert_eq!(heard(&mut here, now, other), []);
}

#[test]
fn floods_are_bounded_for_who_asks_and_for_who_is_asked_for() {
    let now = Instant::now();
    let mut torrent = torrent(now, false);
    let victim = join(&mut torrent, now, 100, true, true);
    let (mut told, mut answered) = (0, 0);
    for n in 1..20 {
        let key = join(&mut torrent, now, n, true, true);
        for _ in 0..100 {
            let _ = say(&mut torrent, now, key, HolepunchMessage::Rendezvous(addr(100)));
        }
        answered += heard(&mut torrent, now, key).len();
        told += heard(&mut torrent, now, victim).len();
    }
    assert!((1..=10).contains(&told), "{told} messages to one that 19 peers ask for");
    assert!(answered <= 19 * 10, "{answered} answers for 1900 questions");
    let key = join(&mut torrent, now, 50, true, true);
    let faults =
        (0..1000).filter(|_| say(&mut torrent, now, key, HolepunchMessage::Rendezvous(addr(100))).is_err());
    assert!(faults.count() > 0, "and in the end it is closed");
    while torrent.poll_event().is_some() {}
    let key = join(&mut torrent, now, 51, true, true);
    for n in 0..100 {
        let _ = say(&mut torrent, now, key, HolepunchMessage::Connect(addr(n)));
    }
    let punches =
        std::iter::from_fn(|| torrent.poll_event()).filter(|event| matches!(event, TorrentEvent::Punch(_)));
    assert!(punches.count() <= 10, "a relay makes us dial so many at most");
}

#[test]
fn who_told_of_an_address_is_asked_once() {
    let now = Instant::now();
    let mut torrent = torrent(now, false);
    let (one, two) = (join(&mut torrent, now, 1, true, true), join(&mut torrent, now, 2, true, false));
    for (key, n) in [(one, 20), (two, 21)] {
        let message = PexMessage { added: vec![(addr(n), Flags::HOLEPUNCH)], dropped: Vec::new() }.encode();
        torrent.message(now, key, Message::Extended { id: UT_PEX, payload: &message }).unwrap();
    }
    assert!(torrent.rendezvous(addr(20)) && !torrent.rendezvous(addr(20)));
    assert!(!torrent.rendezvous(addr(21)), "it does not understand us");
    assert!(!torrent.rendezvous(addr(22)), "nobody told");
    assert_eq!(heard(&mut torrent, now, one), [HolepunchMessage::Rendezvous(addr(20))]);
    say(&mut torrent, now, one, HolepunchMessage::Connect(addr(20))).unwrap();
    let events: Vec<_> = std::iter::from_fn(|| torrent.poll_event()).collect();
    assert!(events.contains(&TorrentEvent::Punch(addr(20))), "{events:?}");
    // Addresses of our own network are nothing that a stranger can know of.
    say(&mut torrent, now, one, HolepunchMessage::Connect("10.0.0.1:5".parse().unwrap())).unwrap();
    assert_eq!(torrent.poll_event(), None);
}

#[test]
fn a_private_torrent_brings_nobody_together() {
    let now = Instant::now();
    let mut torrent = torrent(now, true);
    let (one, two) = (join(&mut torrent, now, 1, true, true), join(&mut torrent, now, 2, true, true));
    say(&mut torrent, now, one, HolepunchMessage::Rendezvous(addr(2))).expect("a strike");
    assert!(heard(&mut torrent, now, one).is_empty() && heard(&mut torrent, now, two).is_empty());
}
