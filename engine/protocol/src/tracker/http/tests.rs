use super::*;
use crate::bencode::Encoder;
use crate::ids::{InfoHash, PeerId};
use crate::tracker::{INTERVAL_DEFAULT, INTERVAL_MIN, TEXT_LEN_MAX};
use proptest::prelude::*;

fn request() -> AnnounceRequest {
    AnnounceRequest {
        info_hash: InfoHash(*b"\x00\x01 aZ09-._~%&=?#/+\xff\xfe"),
        peer_id: PeerId(*b"-CF0100-abcdefghijkl"),
        port: 6881,
        uploaded: 1,
        downloaded: 2,
        left: u64::MAX,
        event: Event::None,
        numwant: None,
        key: 0xbeef,
        tracker_id: None,
        ip: None,
        other_ip: None,
    }
}

const PLAIN: &str = "info_hash=%00%01%20aZ09-._~%25%26%3D%3F%23%2F%2B%FF%FE&peer_id=-CF0100-abcdefghijkl&port=6881\
    &uploaded=1&downloaded=2&left=18446744073709551615&compact=1&no_peer_id=1&key=0000BEEF";

#[test]
fn the_url_keeps_the_trackers_own_query() {
    let url = |base| announce_url(base, &request());
    assert_eq!(url("http://t.example/announce"), format!("http://t.example/announce?{PLAIN}"));
    assert_eq!(url("http://t.example/a?passkey=x#top"), format!("http://t.example/a?passkey=x&{PLAIN}"));
    assert_eq!(url("http://t.example/a?"), format!("http://t.example/a?{PLAIN}"));
    assert_eq!(url("http://t.example/a?p=1&"), format!("http://t.example/a?p=1&{PLAIN}"));
}

#[test]
fn optional_parameters_are_sent_when_set() {
    let full = AnnounceRequest {
        event: Event::Started,
        numwant: Some(80),
        tracker_id: Some(b"a b".to_vec()),
        ip: Some("2001:db8::1".parse().unwrap()),
        ..request()
    };
    let tail = "&numwant=80&event=started&ip=2001%3Adb8%3A%3A1&trackerid=a%20b";
    assert_eq!(announce_url("http://t/", &full), format!("http://t/?{PLAIN}{tail}"));
    let both =
        |ip: &str| announce_url("http://t/", &AnnounceRequest { other_ip: ip.parse().ok(), ..request() });
    assert!(both("2001:db8::1").ends_with("&ipv6=2001%3Adb8%3A%3A1"));
    assert!(both("1.2.3.4").ends_with("&ipv4=1.2.3.4"));
    let bye = AnnounceRequest { event: Event::Stopped, numwant: Some(80), ..request() };
    assert!(announce_url("http://t/", &bye).ends_with("&numwant=0&event=stopped"));
}

#[test]
fn a_compact_answer_is_read() {
    let mut encoder = Encoder::new();
    encoder.begin_dict().key(b"complete").int(5).key(b"external ip").bytes(&[9, 8, 7, 6]);
    encoder.key(b"incomplete").int(6).key(b"interval").int(900).key(b"min interval").int(30);
    encoder.key(b"peers").bytes(&[10, 0, 0, 1, 0, 80, 10, 0, 0, 2, 0, 0]);
    encoder.key(b"peers6").bytes(&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 81]);
    encoder.key(b"tracker id").bytes(b"\xff1").key(b"warning message").bytes(b"slow\n").end();
    let mut body = encoder.finish();
    body.extend(b"\r\n");
    let answer = parse_response(&body).unwrap();
    let expected = AnnounceResponse {
        interval: Duration::from_secs(900),
        min_interval: Some(Duration::from_secs(30)),
        seeders: Some(5),
        leechers: Some(6),
        peers: vec!["[2001:db8::1]:81".parse().unwrap(), "10.0.0.1:80".parse().unwrap()],
        warning: Some("slow".to_owned()),
        tracker_id: Some(b"\xff1".to_vec()),
        external_ip: Some("9.8.7.6".parse().unwrap()),
    };
    assert_eq!(answer, expected);
}

#[test]
fn dictionary_peers_are_read_and_cleaned() {
    let body = b"d8:intervali60e5:peersl\
        d2:ip9:127.0.0.14:porti1000ee\
        d2:ip3:::14:porti1001ee\
        d2:ip9:127.0.0.14:porti0ee\
        d2:ip9:127.0.0.14:porti65536ee\
        d2:ip9:127.0.0.14:porti-1ee\
        d2:ip11:example.com4:porti1002ee\
        d2:ip9:127.0.0.14:porti1000ee\
        d2:ipi5e4:port1:xe\
        de3:foo\
        ee";
    let answer = parse_response(body).unwrap();
    assert_eq!(answer.peers, ["127.0.0.1:1000".parse().unwrap(), "[::1]:1001".parse().unwrap()]);
}

#[test]
fn fields_of_wrong_types_count_as_absent() {
    let body = b"d8:completei-1e11:external ip3:abc14:failure reasoni1e10:incomplete1:x8:interval2:5m\
        12:min intervali0e5:peersi5e6:peers6le10:tracker id0:15:warning messagelee";
    assert_eq!(parse_response(body).unwrap(), AnnounceResponse::default());
    assert_eq!(parse_response(b"de").unwrap().interval, INTERVAL_DEFAULT);
    assert_eq!(parse_response(b"d8:intervali1ee").unwrap().interval, INTERVAL_MIN);
}

#[test]
fn refusals_tell_when_to_come_back() {
    let refused = |body: &[u8]| match parse_response(body) {
        Err(ReplyError::Refused(failure)) => failure,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        refused(b"d14:failure reason2:noe"),
        TrackerFailure { reason: "no".to_owned(), retry_in: None }
    );
    let later = refused(b"d14:failure reason2:no8:retry ini5ee");
    assert_eq!(later.retry_in, Some(RetryIn::After(Duration::from_secs(300))));
    assert_eq!(refused(b"d14:failure reason2:no8:retry in5:nevere").retry_in, Some(RetryIn::Never));
    let huge = refused(b"d14:failure reason2:no8:retry ini9223372036854775807ee");
    assert_eq!(huge.retry_in, Some(RetryIn::After(INTERVAL_MAX)));
    let mut encoder = Encoder::new();
    encoder.begin_dict().key(b"failure reason").bytes(&[b'x'; 100_000]).end();
    assert_eq!(refused(&encoder.finish()).reason.len(), TEXT_LEN_MAX);
}

#[test]
fn what_is_no_dictionary_is_malformed() {
    for body in [&b""[..], b"<html>404</html>", b"li1ee", b"i5e", b"d8:interval", b"4:spam"] {
        assert_eq!(parse_response(body), Err(ReplyError::Malformed));
    }
    let many = [b"d5:peersl".to_vec(), b"i1e".repeat(VALUES_MAX), b"ee".to_vec()].concat();
    assert_eq!(parse_response(&many), Err(ReplyError::Malformed));
}

#[test]
fn long_lists_are_cut_and_leave_room_for_ipv6() {
    let v4: Vec<u8> =
        (0..5000u32).flat_map(|n| [&(0x0a00_0000 + n).to_be_bytes()[..], &[0, 80]].concat()).collect();
    let v6: Vec<u8> = (1..=5000u128).flat_map(|n| [&n.to_be_bytes()[..], &[0, 80]].concat()).collect();
    let mut encoder = Encoder::new();
    encoder.begin_dict().key(b"peers").bytes(&v4).key(b"peers6").bytes(&v6).end();
    let peers = parse_response(&encoder.finish()).unwrap().peers;
    assert_eq!((peers.len(), peers.iter().filter(|peer| peer.is_ipv6()).count()), (PEERS_MAX, PEERS_MAX / 2));
    let mut encoder = Encoder::new();
    encoder.begin_dict().key(b"peers6").bytes(&v6).end();
    assert_eq!(parse_response(&encoder.finish()).unwrap().peers.len(), PEERS_MAX);
}

proptest! {
    #[test]
    fn no_bytes_break_the_parser(
        peers in proptest::collection::vec(any::<u8>(), 0..100),
        interval: i64,
        min: i64,
        cut in 0usize..200,
    ) {
        let mut encoder = Encoder::new();
        encoder.begin_dict().key(b"interval").int(interval).key(b"min interval").int(min);
        encoder.key(b"peers").bytes(&peers).key(b"peers6").bytes(&peers).end();
        let body = encoder.finish();
        let answer = parse_response(&body).unwrap();
        prop_assert!((INTERVAL_MIN..=INTERVAL_MAX).contains(&answer.interval));
        prop_assert!(answer.min_interval.is_none_or(|min| min <= INTERVAL_MAX));
        prop_assert!(answer.peers.iter().all(|peer| peer.port() != 0));
        prop_assert!(cut >= body.len() || parse_response(&body[..cut]).is_err());
    }

    #[test]
    fn encoded_bytes_decode_to_themselves(hash: [u8; 20]) {
        let url = announce_url("http://t/", &AnnounceRequest { info_hash: InfoHash(hash), ..request() });
        let text = url.strip_prefix("http://t/?info_hash=").unwrap().split('&').next().unwrap();
        let mut decoded = Vec::new();
        let mut rest = text.as_bytes();
        while let [first, tail @ ..] = rest {
            if *first == b'%' {
                decoded.push(u8::from_str_radix(std::str::from_utf8(&tail[..2]).unwrap(), 16).unwrap());
                rest = &tail[2..];
            } else {
                decoded.push(*first);
                rest = tail;
            }
        }
        prop_assert_eq!(decoded, hash);
    }
}

#[test]
fn scrapes_go_where_bep_48_says() {
    let hashes = [InfoHash([1; 20]), InfoHash(*b"aaaaaaaaaaaaaaaaaaaa")];
    let one = format!("info_hash={}", "%01".repeat(20));
    let url = |base| scrape_url(base, &hashes[..1]);
    assert_eq!(url("http://t/announce"), Some(format!("http://t/scrape?{one}")));
    assert_eq!(url("http://t/x/announce?k=v#f"), Some(format!("http://t/x/scrape?k=v&{one}")));
    assert_eq!(url("http://t/announce.php"), Some(format!("http://t/scrape.php?{one}")));
    for base in ["http://t/a", "http://t/announce/x", "http://t/x%064announce", "http://t/?a=/announc", ""] {
        assert_eq!(url(base), None, "{base}");
    }
    let both = scrape_url("http://t/announce", &hashes).unwrap();
    assert_eq!(both, format!("http://t/scrape?{one}&info_hash={}", "a".repeat(20)));
}

#[test]
fn a_scrapes_answer_tells_of_those_it_knows() {
    let hashes = [InfoHash(*b"aaaaaaaaaaaaaaaaaaaa"), InfoHash([1; 20])];
    let body = b"d5:filesd20:aaaaaaaaaaaaaaaaaaaad8:completei5e10:downloadedi50e10:incompletei-1eeee";
    let entry = ScrapeEntry { seeders: 5, completed: 50, leechers: 0 };
    assert_eq!(parse_scrape(body, &hashes), Ok(vec![Some(entry), None]));
    assert_eq!(parse_scrape(b"de", &hashes), Ok(vec![None, None]));
    assert_eq!(parse_scrape(b"le", &hashes), Err(ReplyError::Malformed));
    let refused = parse_scrape(b"d14:failure reason4:no\x07!e", &hashes).unwrap_err();
    assert_eq!(refused.to_string(), "the tracker refused the announce: no !");
}
