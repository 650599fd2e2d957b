//! Messages: the examples of the BEPs, round trips, and bytes of strangers.

use super::*;
use proptest::prelude::*;

fn decoded(bytes: &[u8]) -> Body {
    Message::decode(bytes).unwrap_or_else(|error| panic!("{error:?}: {}", bytes.escape_ascii())).body
}

fn id(text: &[u8; 20]) -> NodeId {
    NodeId(*text)
}

#[test]
fn the_examples_of_bep_5() {
    let asker = id(b"abcdefghij0123456789");
    let query = |bytes: &[u8]| match decoded(bytes) {
        Body::Query { id, read_only: false, query } if id == asker => query,
        other => panic!("{other:?}"),
    };
    assert_eq!(query(b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe"), Query::Ping);
    let target = id(b"mnopqrstuvwxyz123456");
    let want = Want::default();
    assert_eq!(
        query(
            b"d1:ad2:id20:abcdefghij01234567896:target20:mnopqrstuvwxyz123456e1:q9:find_node1:t2:aa1:y1:qe"
        ),
        Query::FindNode { target, want }
    );
    let info_hash = InfoHash(target.0);
    assert_eq!(
        query(b"d1:ad2:id20:abcdefghij01234567899:info_hash20:mnopqrstuvwxyz123456e1:q9:get_peers1:t2:aa1:y1:qe"),
        Query::GetPeers { info_hash, want, no_seeds: false, scrape: false }
    );
    let announce: &[u8] =
        b"d1:ad2:id20:abcdefghij012345678912:implied_porti1e9:info_hash20:mnopqrstuvwxyz1234564:port\
i6881e5:token8:aoeusnthe1:q13:announce_peer1:t2:aa1:y1:qe";
    let token = b"aoeusnth".to_vec();
    assert_eq!(query(announce), Query::AnnouncePeer { info_hash, port: None, seed: false, token });
    let answer: &[u8] =
        b"d1:rd2:id20:abcdefghij01234567895:token8:aoeusnth6:valuesl6:axje.u6:idhtnmee1:t2:aa1:y1:re";
    let Body::Answer { id, ip: None, answer } = decoded(answer) else { panic!("an answer") };
    assert_eq!((id, answer.token.as_deref()), (asker, Some(&b"aoeusnth"[..])));
    assert_eq!(
        answer.values,
        ["97.120.106.101:11893".parse().unwrap(), "105.100.104.116:28269".parse().unwrap()]
    );
    let error = decoded(b"d1:eli201e23:A Generic Error Ocurrede1:t2:aa1:y1:ee");
    assert_eq!(error, Body::Error { code: 201, text: "A Generic Error Ocurred".into() });
}

#[test]
fn queries_that_lack_something_say_what() {
    let refused = |bytes: &[u8]| match Message::decode(bytes) {
        Err(Malformed::Query { transaction, code, .. }) => {
            assert_eq!(transaction, b"aa");
            code
        }
        other => panic!("{other:?}"),
    };
    let with = |args: &str, method: &str| {
        let text =
            format!("d1:ad2:id20:abcdefghij0123456789{args}e1:q{}:{method}1:t2:aa1:y1:qe", method.len());
        refused(text.as_bytes())
    };
    assert_eq!(with("", "find_node"), code::PROTOCOL);
    assert_eq!(with("9:info_hash19:mnopqrstuvwxyz12345", "get_peers"), code::PROTOCOL);
    assert_eq!(with("", "dance"), code::METHOD_UNKNOWN);
    let hash = "9:info_hash20:mnopqrstuvwxyz123456";
    for rest in ["5:token1:x", "4:porti0e5:token1:x", "4:porti65536e5:token1:x", "4:porti5e"] {
        assert_eq!(with(&format!("{hash}{rest}"), "announce_peer"), code::PROTOCOL, "{rest}");
    }
    assert_eq!(with(&format!("5:token1:x1:v1001:{}", "x".repeat(1001)), "put"), code::TOO_LONG);
    let salted = format!("1:k32:{}4:salt65:{}5:token1:x1:v1:x", "k".repeat(32), "s".repeat(65));
    assert_eq!(with(&salted, "put"), code::SALT_TOO_LONG);
    assert_eq!(refused(b"d1:ad2:id19:abcdefghij012345678e1:q4:ping1:t2:aa1:y1:qe"), code::PROTOCOL);
    assert_eq!(refused(b"d1:q4:ping1:t2:aa1:y1:qe"), code::PROTOCOL);
}

#[test]
fn what_nobody_can_answer_is_passed_over() {
    let cases: [&[u8]; 8] = [
        b"",
        b"x",
        b"i5e",
        b"d1:q4:ping1:y1:qe",
        b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t0:1:y1:qe",
        b"d1:rd2:id19:abcdefghij012345678e1:t2:aa1:y1:re",
        b"d1:rd2:id20:abcdefghij01234567895:nodes25:0123456789012345678901234e1:t2:aa1:y1:re",
        b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t17:aaaaaaaaaaaaaaaaa1:y1:qe",
    ];
    for bytes in cases {
        assert_eq!(Message::decode(bytes), Err(Malformed::Silent), "{}", bytes.escape_ascii());
    }
    assert_eq!(Message::decode(&[b'd'; DATAGRAM_MAX + 1]), Err(Malformed::Silent));
}

#[test]
fn addresses_of_nobody_are_left_out() {
    let node = |ip: [u8; 4], port: u16| [&[7; 20][..], &ip, &port.to_be_bytes()].concat();
    let nodes =
        [node([8, 8, 8, 8], 0), node([0, 0, 0, 0], 5), node([8, 8, 8, 8], 5), node([224, 0, 0, 1], 5)]
            .concat();
    let bytes = [&b"d1:rd2:id20:abcdefghij01234567895:nodes104:"[..], &nodes, b"e1:t2:aa1:y1:re"].concat();
    let Body::Answer { answer, .. } = decoded(&bytes) else { panic!("an answer") };
    assert_eq!(answer.nodes.len(), 1);
    let values = [[8, 8, 8, 8, 0, 0], [0, 0, 0, 0, 0, 5], [8, 8, 8, 8, 0, 5], [224, 0, 0, 1, 0, 5]];
    let values = values.map(|value| [&b"6:"[..], &value].concat()).concat();
    let bytes = [&b"d1:rd2:id20:abcdefghij01234567896:valuesl"[..], &values, b"ee1:t2:aa1:y1:re"].concat();
    let Body::Answer { answer, .. } = decoded(&bytes) else { panic!("an answer") };
    assert_eq!(answer.values, ["8.8.8.8:5".parse().unwrap()]);
}

fn any_id() -> impl Strategy<Value = NodeId> {
    any::<[u8; 20]>().prop_map(NodeId)
}

fn any_addr() -> impl Strategy<Value = SocketAddr> {
    let v4 = (1u8..224, any::<[u8; 3]>()).prop_map(|(a, b)| std::net::IpAddr::from([a, b[0], b[1], b[2]]));
    let v6 = any::<[u8; 14]>().prop_map(|rest| {
        let mut ip = [0x20, 0x01, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        ip[2..].copy_from_slice(&rest);
        std::net::IpAddr::from(ip)
    });
    (prop_oneof![v4, v6], 1u16..).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

fn any_item(salted: bool) -> impl Strategy<Value = Item> {
    let value = prop::collection::vec(any::<u8>(), 0..900)
        .prop_map(|bytes| [format!("{}:", bytes.len()).as_bytes(), &bytes].concat());
    let salt = prop::collection::vec(any::<u8>(), 0..if salted { SALT_MAX } else { 1 });
    let signed = (
        any::<[u8; 32]>(),
        salt,
        any::<i64>().prop_filter("bencode has no i64::MIN", |seq| *seq != i64::MIN),
        any::<[u8; 32]>(),
    );
    let signed = signed.prop_map(|(key, salt, seq, half)| {
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(&half);
        Signed { key, salt, seq, signature }
    });
    (value, prop::option::of(signed)).prop_map(|(value, signed)| Item { value, signed })
}

fn any_query() -> impl Strategy<Value = Query> {
    let want = || (any::<bool>(), any::<bool>()).prop_map(|(v4, v6)| Want { v4, v6 });
    let hash = || any::<[u8; 20]>().prop_map(InfoHash);
    let token = || prop::collection::vec(any::<u8>(), 0..TOKEN_MAX);
    prop_oneof![
        Just(Query::Ping),
        (any_id(), want()).prop_map(|(target, want)| Query::FindNode { target, want }),
        (any_id(), want()).prop_map(|(target, want)| Query::SampleInfohashes { target, want }),
        (hash(), want(), any::<bool>(), any::<bool>()).prop_map(|(info_hash, want, no_seeds, scrape)| {
            Query::GetPeers { info_hash, want, no_seeds, scrape }
        }),
        (hash(), prop::option::of(1u16..), any::<bool>(), token())
            .prop_map(|(info_hash, port, seed, token)| Query::AnnouncePeer { info_hash, port, seed, token }),
        (any_id(), prop::option::of(0i64..), want()).prop_map(|(target, seq, want)| Query::Get {
            target,
            seq,
            want
        }),
        (any_item(true), prop::option::of(0i64..), token()).prop_map(|(item, cas, token)| Query::Put {
            item: Box::new(item),
            cas,
            token
        }),
    ]
}

fn any_answer() -> impl Strategy<Value = Answer> {
    let contact = (any_id(), any_addr()).prop_map(|(id, addr)| Contact { id, addr });
    let samples =
        (prop::collection::vec(any::<[u8; 20]>().prop_map(InfoHash), 0..20), any::<u32>(), any::<u32>())
            .prop_map(|(hashes, total, interval)| Samples { hashes, total, interval });
    let blooms = any::<(u8, u8)>().prop_map(|(a, b)| Box::new((Bloom([a; 256]), Bloom([b; 256]))));
    (
        prop::collection::vec(contact, 0..16),
        prop::option::of(prop::collection::vec(any::<u8>(), 0..TOKEN_MAX)),
        prop::collection::vec(any_addr(), 0..60),
        prop::option::of(blooms),
        prop::option::of(any_item(false).prop_map(Box::new)),
        prop::option::of(samples),
        prop::option::of(0i64..),
    )
        .prop_map(|(mut nodes, token, values, blooms, item, samples, seq)| {
            // As they stand on the wire: families apart.
            nodes.sort_by_key(|node| node.addr.is_ipv6());
            let seq = seq.filter(|_| item.is_none());
            let item = item.map(|mut item| {
                if let Some(signed) = &mut item.signed {
                    signed.salt.clear();
                }
                item
            });
            Answer { nodes, token, values, blooms, item, seq, samples }
        })
}

fn any_body() -> impl Strategy<Value = Body> {
    prop_oneof![
        (any_id(), any::<bool>(), any_query()).prop_map(|(id, read_only, query)| Body::Query {
            id,
            read_only,
            query
        }),
        (any_id(), prop::option::of(any_addr()), any_answer()).prop_map(|(id, ip, answer)| Body::Answer {
            id,
            ip,
            answer: Box::new(answer)
        }),
        (any::<i32>(), "[ -~]{0,100}").prop_map(|(code, text)| Body::Error { code: code.into(), text }),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(transaction in prop::collection::vec(any::<u8>(), 1..=TRANSACTION_MAX),
                                    body in any_body()) {
        let message = Message { transaction, body };
        let bytes = message.encode();
        if bytes.len() <= DATAGRAM_MAX {
            prop_assert_eq!(Message::decode(&bytes), Ok(message));
        }
    }

    #[test]
    fn any_bytes_are_survived_and_bounded(body in any_body(),
                                          changes in prop::collection::vec((any::<u16>(), any::<u8>()), 1..6)) {
        let mut bytes = Message { transaction: vec![1], body }.encode();
        for (at, byte) in changes {
            let at = usize::from(at) % bytes.len();
            bytes[at] = byte;
        }
        if let Ok(message) = Message::decode(&bytes) {
            if let Body::Answer { answer, .. } = &message.body {
                prop_assert!(answer.values.len() <= VALUES_MAX && answer.nodes.len() <= 2 * NODES_MAX);
            }
            let again = Message::decode(&message.encode());
            prop_assert_eq!(again, Ok(message));
        }
    }
}
