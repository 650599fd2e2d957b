use std::collections::BTreeSet;
use std::time::Instant;

use super::*;
use proptest::prelude::*;

fn addr(n: u32) -> SocketAddr {
    (Ipv4Addr::from(0x0800_0000 + n), 6881).into()
}

#[test]
fn a_message_on_the_wire() {
    let message = PexMessage {
        added: vec![
            ("1.2.3.4:258".parse().unwrap(), Flags::SEED.with(Flags::REACHABLE, true)),
            ("[2001:db8::1]:1".parse().unwrap(), Flags::UTP),
        ],
        dropped: vec!["5.6.7.8:9".parse().unwrap()],
    };
    let bytes = message.encode();
    let text = b"d5:added6:\x01\x02\x03\x04\x01\x027:added.f1:\x126:added618:";
    assert!(bytes.starts_with(text), "{}", bytes.escape_ascii());
    assert_eq!(PexMessage::parse(&bytes), Ok(message.clone()));
    assert!(message.added[0].1.has(Flags::SEED) && !message.added[0].1.has(Flags::UTP));
    // Old clients send no flags, and some send half an address.
    let odd = PexMessage::parse(b"d5:added8:\x01\x02\x03\x04\x00\x05xxe").expect("read as far as it goes");
    assert_eq!(odd.added, [("1.2.3.4:5".parse().unwrap(), Flags::default())]);
    for bad in [&b""[..], b"le", b"d5:added"] {
        assert_eq!(PexMessage::parse(bad), Err(PexError));
    }
    let wrong_kind = PexMessage::parse(b"d5:addedi1e7:droppedlee");
    assert!(wrong_kind.expect("nonsense counts as absent").is_empty());
}

#[test]
fn each_is_told_once_a_minute_and_not_of_itself() {
    let (mut book, now) = (Book::default(), Instant::now());
    let mut told = Told::default();
    book.joined(addr(0), Flags::default());
    assert_eq!(book.message(now, &mut told, Some(addr(0))), None, "it is alone");
    assert!(book.joined(addr(1), Flags::SEED) && !book.joined(addr(1), Flags::SEED));
    let first = book.message(now, &mut told, Some(addr(0))).expect("news, at once");
    assert_eq!(first.added, [(addr(1), Flags::SEED)]);
    book.left(addr(1));
    book.joined(addr(2), Flags::default());
    assert_eq!(book.message(now + INTERVAL / 2, &mut told, None), None);
    assert!(book.has_news(&told));
    let second = book.message(now + INTERVAL, &mut told, None).expect("a minute is over");
    assert_eq!((second.added, second.dropped), (vec![(addr(2), Flags::default())], vec![addr(1)]));
    assert!(!book.has_news(&told));
}

#[test]
fn many_are_told_in_portions() {
    let (mut book, mut now, mut told) = (Book::default(), Instant::now(), Told::default());
    book.joined(addr(0), Flags::default());
    assert!(book.message(now, &mut told, None).is_some());
    (1..=120).for_each(|n| assert!(book.joined(addr(n), Flags::default())));
    let mut heard = BTreeSet::new();
    for expected in [50, 50, 20] {
        now += INTERVAL;
        let message = book.message(now, &mut told, None).expect("more");
        assert_eq!(message.added.len(), expected);
        heard.extend(message.added.into_iter().map(|(addr, _)| addr));
    }
    assert_eq!(heard.len(), 120);
    // One that was away for longer than the log reaches begins anew.
    (1000..2000).for_each(|n| assert!(book.joined(addr(n), Flags::default())));
    let message = book.message(now + INTERVAL, &mut told, None).expect("more");
    assert_eq!(message.added.len(), MAX_TOLD);
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        added in prop::collection::vec((any::<(std::net::IpAddr, u16)>(), any::<u8>()), 0..60),
        dropped in prop::collection::vec(any::<(std::net::IpAddr, u16)>(), 0..60),
    ) {
        let mut added: Vec<_> = added.into_iter().map(|(addr, flags)| (SocketAddr::from(addr), Flags(flags))).collect();
        let mut dropped: Vec<SocketAddr> = dropped.into_iter().map(SocketAddr::from).collect();
        added.sort_by_key(|(addr, _)| addr.is_ipv6());
        dropped.sort_by_key(SocketAddr::is_ipv6);
        let message = PexMessage { added, dropped };
        prop_assert_eq!(PexMessage::parse(&message.encode()), Ok(message));
    }

    /// Who applies all messages knows who is there, whatever came and went in between.
    #[test]
    fn those_who_listen_know_who_is_there(steps in prop::collection::vec((0u32..40, any::<bool>(), 0u64..90), 0..200)) {
        let (mut book, mut now, mut told) = (Book::default(), Instant::now(), Told::default());
        let (mut here, mut heard) = (BTreeSet::new(), BTreeSet::new());
        let mut last: Option<Instant> = None;
        for (n, joins, seconds) in steps {
            now += Duration::from_secs(seconds);
            if joins {
                book.joined(addr(n), Flags::default());
                here.insert(addr(n));
            } else {
                book.left(addr(n));
                here.remove(&addr(n));
            }
            if let Some(message) = book.message(now, &mut told, None) {
                prop_assert!(last.is_none_or(|last| now - last >= INTERVAL));
                prop_assert!(message.added.len() <= MAX_TOLD && message.dropped.len() <= MAX_TOLD);
                last = Some(now);
                heard.extend(message.added.into_iter().map(|(addr, _)| addr));
                message.dropped.iter().for_each(|addr| { heard.remove(addr); });
            }
        }
        while book.has_news(&told) {
            now += INTERVAL;
            let Some(message) = book.message(now, &mut told, None) else { break };
            heard.extend(message.added.into_iter().map(|(addr, _)| addr));
            message.dropped.iter().for_each(|addr| { heard.remove(addr); });
        }
        prop_assert_eq!(here, heard);
    }
}
