use super::*;
use crate::ids::PeerId;
use proptest::prelude::*;

const TRANSACTION: u32 = 0xdead_beef;

fn request() -> AnnounceRequest {
    AnnounceRequest {
        info_hash: InfoHash([1; 20]),
        peer_id: PeerId([2; 20]),
        port: 6881,
        uploaded: 3,
        downloaded: 4,
        left: 5,
        event: Event::Started,
        numwant: Some(50),
        key: 6,
        tracker_id: None,
        ip: None,
        other_ip: None,
    }
}

fn announce() -> Query {
    Query::Announce(Box::new(request()), b"/announce?k=1".to_vec())
}

fn packet(words: &[u32], rest: &[u8]) -> Vec<u8> {
    let mut packet: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    packet.extend(rest);
    packet
}

fn connect_reply(id: u64) -> Vec<u8> {
    packet(&[ACTION_CONNECT, TRANSACTION], &id.to_be_bytes())
}

fn announce_reply() -> Vec<u8> {
    packet(&[ACTION_ANNOUNCE, TRANSACTION, 1800, 7, 8], &[10, 0, 0, 1, 0x1a, 0xe1])
}

fn exchange(tries_max: u32, cached: Option<Connection>, now: Instant) -> Exchange {
    let plan = RetryPlan { tries_max, ..RetryPlan::default() };
    Exchange::new(plan, AddressFamily::V4, TRANSACTION, announce(), cached, now)
}

#[test]
fn requests_have_the_layout_of_bep_15_and_41() {
    assert_eq!(connect_request(9), *b"\0\0\x04\x17\x27\x10\x19\x80\0\0\0\0\0\0\0\x09");
    let sent = announce_request(0x0102_0304_0506_0708, 9, &request(), b"/a");
    assert_eq!(sent.len(), 98 + 4);
    assert_eq!(sent[..16], *b"\x01\x02\x03\x04\x05\x06\x07\x08\0\0\0\x01\0\0\0\x09");
    assert_eq!(sent[16..36], [1; 20]);
    assert_eq!(sent[36..56], [2; 20]);
    assert_eq!(sent[56..80], packet(&[0, 4, 0, 5, 0, 3], &[]));
    assert_eq!(sent[80..98], *b"\0\0\0\x02\0\0\0\0\0\0\0\x06\0\0\0\x32\x1a\xe1");
    assert_eq!(sent[98..], *b"\x02\x02/a");
    let plain = AnnounceRequest { numwant: None, ip: Some([1, 2, 3, 4].into()), ..request() };
    let sent = announce_request(1, 9, &plain, &[b'x'; 300]);
    assert_eq!((&sent[84..88], &sent[92..96]), (&[1, 2, 3, 4][..], &[255; 4][..]));
    assert_eq!((sent[98], sent[99], sent[100 + 255], sent[101 + 255]), (2, 255, 2, 45));
    assert_eq!(announce_request(1, 9, &plain, &[b'x'; URL_DATA_LEN_MAX + 1]).len(), 98);
    assert_eq!(scrape_request(1, 2, &[InfoHash([3; 20]); 100]).len(), 16 + 20 * SCRAPE_HASHES_MAX);
}

#[test]
fn url_data_is_path_and_query() {
    assert_eq!(url_data("udp://t.example:80/announce?k=v#x"), b"/announce?k=v");
    assert_eq!(url_data("udp://t.example:80?k=v"), b"?k=v");
    assert_eq!(url_data("udp://t.example:80/"), b"");
    assert_eq!(url_data("udp://t.example:80"), b"");
}

#[test]
fn peers_are_read_by_the_carriers_family() {
    let v4 = decode(&announce_reply(), AddressFamily::V4).unwrap();
    let Reply::Announce(answer) = v4.1 else { panic!("not an announce") };
    assert_eq!(answer.peers, ["10.0.0.1:6881".parse().unwrap()]);
    assert_eq!((answer.leechers, answer.seeders), (Some(7), Some(8)));
    let mut entry = [0; 18];
    entry[15] = 1;
    entry[17] = 80;
    let v6 = decode(&packet(&[1, 2, 1800, 0, 0], &entry), AddressFamily::V6).unwrap();
    let Reply::Announce(answer) = v6.1 else { panic!("not an announce") };
    assert_eq!(answer.peers, ["[::1]:80".parse().unwrap()]);
    let scrape = decode(&packet(&[2, 5, 1, 2, 3, 4], &[]), AddressFamily::V4).unwrap();
    assert_eq!(scrape, (5, Reply::Scrape(vec![ScrapeEntry { seeders: 1, completed: 2, leechers: 3 }])));
}

#[test]
fn an_exchange_connects_then_announces() {
    let t0 = Instant::now();
    let mut exchange = exchange(1, None, t0);
    assert_eq!(exchange.poll_transmit(t0).unwrap(), connect_request(TRANSACTION));
    assert_eq!(exchange.poll_transmit(t0), None);
    assert!(exchange.handle_packet(t0, &connect_reply(77)));
    let sent = exchange.poll_transmit(t0).unwrap();
    assert_eq!(sent[..8], 77u64.to_be_bytes());
    assert!(exchange.handle_packet(t0, &announce_reply()));
    assert!(matches!(exchange.outcome(), Some(Outcome::Announced(_))));
    assert_eq!((exchange.deadline(), exchange.poll_transmit(t0)), (None, None));
    assert_eq!(exchange.connection(), Some(Connection { id: 77, received: t0 }));
}

#[test]
fn foreign_and_broken_packets_change_nothing() {
    let t0 = Instant::now();
    let mut exchange = exchange(2, None, t0);
    exchange.poll_transmit(t0).unwrap();
    let spoofed = packet(&[ACTION_CONNECT, TRANSACTION + 1, 0, 0], &[]);
    let unknown = packet(&[9, TRANSACTION, 0, 0], &[]);
    for odd in [&b""[..], &connect_reply(7)[..15], &spoofed, &unknown, &announce_reply()] {
        assert!(!exchange.handle_packet(t0, odd), "{odd:?}");
    }
    assert!(exchange.handle_packet(t0, &connect_reply(7)));
    exchange.poll_transmit(t0).unwrap();
    assert!(!exchange.handle_packet(t0, &connect_reply(8)), "a repeated connect reply");
    assert!(!exchange.handle_packet(t0, &announce_reply()[..19]), "truncated");
    assert_eq!(exchange.outcome(), None);
    assert!(exchange.handle_packet(t0, &announce_reply()));
    let outcome = exchange.outcome().cloned();
    let late = packet(&[ACTION_ERROR, TRANSACTION], b"no");
    assert!(!exchange.handle_packet(t0, &late) && exchange.outcome() == outcome.as_ref(), "it is over");
}

#[test]
fn waits_double_and_the_tries_end() {
    let t0 = Instant::now();
    let mut exchange = exchange(9, None, t0);
    let mut now = t0;
    for n in 0..9 {
        assert!(exchange.poll_transmit(now).is_some());
        let next = exchange.deadline().unwrap();
        assert_eq!(next - now, Duration::from_secs(15 << n));
        now = next;
    }
    assert_eq!(exchange.poll_transmit(now), None);
    assert_eq!(exchange.outcome(), Some(&Outcome::TimedOut));
}

#[test]
fn an_expired_connection_is_renewed_as_in_the_bep_example() {
    let t0 = Instant::now();
    let at = |seconds| t0 + Duration::from_secs(seconds);
    let mut exchange = exchange(9, None, t0);
    exchange.poll_transmit(t0).unwrap();
    exchange.handle_packet(t0, &connect_reply(7));
    let lengths: Vec<usize> =
        [0, 15, 45, 105].into_iter().map(|s| exchange.poll_transmit(at(s)).unwrap().len()).collect();
    assert_eq!(lengths, [113, 113, 113, 16], "connect again once the id is a minute old");
    exchange.handle_packet(at(106), &connect_reply(8));
    assert_eq!(exchange.poll_transmit(at(106)).unwrap()[..8], 8u64.to_be_bytes());
    assert_eq!(exchange.deadline(), Some(at(106 + 120)), "the back-off goes on");
}

#[test]
fn a_cached_id_the_tracker_forgot_is_renewed() {
    let t0 = Instant::now();
    let cached = Some(Connection { id: 5, received: t0 });
    let refusal = packet(&[ACTION_ERROR, TRANSACTION], b"bad connection id");
    let mut told = exchange(3, cached, t0);
    assert_eq!(told.poll_transmit(t0).unwrap().len(), 113);
    assert!(told.handle_packet(t0, &refusal));
    assert_eq!(told.poll_transmit(t0).unwrap(), connect_request(TRANSACTION));
    assert!(told.handle_packet(t0, &refusal));
    let Some(Outcome::Refused(failure)) = told.outcome() else { panic!("not refused") };
    assert_eq!(failure.reason, "bad connection id");
    let mut silent = exchange(3, cached, t0);
    silent.poll_transmit(t0).unwrap();
    let later = silent.deadline().unwrap();
    assert_eq!(silent.poll_transmit(later).unwrap(), connect_request(TRANSACTION));
    let mut old = exchange(3, cached, t0 + CONNECTION_LIFE);
    assert_eq!(old.poll_transmit(t0 + CONNECTION_LIFE).unwrap(), connect_request(TRANSACTION));
}

proptest! {
    #[test]
    fn no_bytes_break_the_decoder(bytes in proptest::collection::vec(any::<u8>(), 0..200), action in 0u32..5) {
        let framed = packet(&[action, TRANSACTION], &bytes);
        for family in [AddressFamily::V4, AddressFamily::V6] {
            decode(&bytes, family);
            if let Some((transaction, Reply::Announce(answer))) = decode(&framed, family) {
                prop_assert_eq!(transaction, TRANSACTION);
                prop_assert!(answer.peers.len() <= super::super::PEERS_MAX);
                prop_assert!(answer.peers.iter().all(|peer| peer.port() != 0));
            }
        }
    }

    #[test]
    fn every_exchange_ends(steps in proptest::collection::vec((0u8..5, any::<u64>()), 0..60), tries in 1u32..10) {
        let mut now = Instant::now();
        let mut exchange = exchange(tries, None, now);
        let mut sent = 0;
        for (kind, id) in steps {
            match kind {
                0 => { exchange.handle_packet(now, &connect_reply(id)); }
                1 => { exchange.handle_packet(now, &packet(&[ACTION_ERROR, id as u32], b"no")); }
                _ => if let Some(at) = exchange.deadline() {
                    now = now.max(at);
                    sent += u32::from(exchange.poll_transmit(now).is_some());
                },
            }
        }
        while let Some(at) = exchange.deadline() {
            now = now.max(at);
            sent += u32::from(exchange.poll_transmit(now).is_some());
        }
        prop_assert!(exchange.outcome().is_some());
        prop_assert!(sent <= 2 * tries + 60);
    }
}
