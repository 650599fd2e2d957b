use super::*;
use proptest::prelude::*;

fn credentials() -> Credentials {
    Credentials::new("me", "pass:word").unwrap()
}

fn addr() -> Target {
    Target::Addr("1.2.3.4:258".parse().unwrap())
}

fn tunnel(kind: ProxyKind, credentials: Option<Credentials>, target: Target) -> (Tunnel, Vec<u8>) {
    let mut out = Vec::new();
    let tunnel = Tunnel::new(kind, credentials, target, &mut out).unwrap();
    (tunnel, out)
}

#[test]
fn socks5_with_and_without_a_password() {
    let (mut plain, hello) = tunnel(ProxyKind::Socks5, None, addr());
    assert_eq!(hello, [5, 1, 0]);
    let mut out = Vec::new();
    assert_eq!(plain.push(&[5, 0], &mut out), Ok(None));
    assert_eq!(out, [5, 1, 0, 1, 1, 2, 3, 4, 1, 2]);
    out.clear();
    assert_eq!(plain.push(&[5, 0, 0, 1, 9, 9, 9, 9, 0, 1, 7, 8], &mut out), Ok(Some(vec![7, 8])));
    assert!(out.is_empty());

    let name = Target::Name("t.example".to_owned(), 80);
    let (mut secured, hello) = tunnel(ProxyKind::Socks5, Some(credentials()), name);
    assert_eq!(hello, [5, 2, 0, 2]);
    assert_eq!(secured.push(&[5, 2], &mut out), Ok(None));
    assert_eq!(out, b"\x01\x02me\x09pass:word");
    out.clear();
    assert_eq!(secured.push(&[1, 0], &mut out), Ok(None));
    assert_eq!(out, b"\x05\x01\x00\x03\x09t.example\x00\x50");
    assert_eq!(secured.push(b"\x05\x00\x00\x03\x01x\x00\x01", &mut out), Ok(Some(vec![])));
}

#[test]
fn http_connect() {
    let (mut tunnel_, request) = tunnel(ProxyKind::Http, Some(credentials()), addr());
    let expected = "CONNECT 1.2.3.4:258 HTTP/1.1\r\nHost: 1.2.3.4:258\r\n\
        Proxy-Authorization: Basic bWU6cGFzczp3b3Jk\r\n\r\n";
    assert_eq!(request, expected.as_bytes());
    let mut out = Vec::new();
    assert_eq!(tunnel_.push(b"HTTP/1.1 200 Yes\r\nA: b\r\n", &mut out), Ok(None));
    assert_eq!(tunnel_.push(b"\r\n\x13Bit", &mut out), Ok(Some(b"\x13Bit".to_vec())));
    let v6 = Target::Addr("[2001:db8::1]:80".parse().unwrap());
    let (_, request) = tunnel(ProxyKind::Http, None, v6);
    assert!(request.starts_with(b"CONNECT [2001:db8::1]:80 HTTP/1.1\r\n"));
}

#[test]
fn datagrams_are_asked_for_and_go_where_the_proxy_says() {
    let near: IpAddr = "10.0.0.1".parse().unwrap();
    let open = |reply: &[u8]| {
        let mut hello = Vec::new();
        let mut tunnel = Tunnel::associate(None, &mut hello);
        let mut out = Vec::new();
        assert_eq!(tunnel.push(&[5, 0], &mut out), Ok(None));
        assert_eq!(out, [5, 3, 0, 1, 0, 0, 0, 0, 0, 0], "from any address of ours");
        assert_eq!(tunnel.relay(near), Err(ProxyError::Relay), "not open yet");
        tunnel.push(reply, &mut out).map(|rest| (rest, tunnel.relay(near)))
    };
    let relay = |ip: [u8; 4], port: u8| {
        let [a, b, c, d] = ip;
        let (rest, relay) = open(&[5, 0, 0, 1, a, b, c, d, 0, port]).unwrap();
        assert_eq!(rest, Some(vec![]));
        relay.map(|relay| relay.to_string())
    };
    assert_eq!(relay([9, 8, 7, 6], 5).as_deref(), Ok("9.8.7.6:5"));
    assert_eq!(relay([0; 4], 5).as_deref(), Ok("10.0.0.1:5"), "at the proxy's own address");
    assert_eq!(relay([127, 0, 0, 1], 5).as_deref(), Ok("10.0.0.1:5"), "its loopback is not ours");
    assert_eq!(relay([9, 8, 7, 6], 0), Err(ProxyError::Relay));
    assert_eq!(relay([255; 4], 5), Err(ProxyError::Relay));
    assert_eq!(relay([224, 0, 0, 1], 5), Err(ProxyError::Relay));
    let named = open(b"\x05\0\0\x03\x01x\0\x01").unwrap();
    assert_eq!(named.1, Err(ProxyError::Relay), "a name is not looked up");
    assert_eq!(open(&[5, 7, 0, 1, 0, 0, 0, 0, 0, 0]), Err(ProxyError::Socks(7)));
    assert!(ProxyError::Socks(7).is_lasting() && !ProxyError::Socks(1).is_lasting());
}

#[test]
fn refusals_say_what_to_check() {
    let socks = |reply: &[u8], credentials: Option<Credentials>| {
        tunnel(ProxyKind::Socks5, credentials, addr()).0.push(reply, &mut Vec::new()).unwrap_err()
    };
    assert_eq!(socks(&[5, 0xff], None), ProxyError::Method);
    assert_eq!(socks(&[5, 2], None), ProxyError::Method, "not asked for");
    assert_eq!(socks(&[5, 2, 1, 1], Some(credentials())), ProxyError::Credentials);
    assert_eq!(socks(&[5, 0, 5, 5], None), ProxyError::Socks(5));
    assert_eq!(socks(&[5, 0, 5, 0, 0, 9, 1], None), ProxyError::Nonsense("SOCKS5"));
    assert_eq!(socks(b"HT", None), ProxyError::Nonsense("SOCKS5"));
    let http = |reply: &[u8]| tunnel(ProxyKind::Http, None, addr()).0.push(reply, &mut Vec::new());
    assert_eq!(http(b"HTTP/1.1 407 No\r\n\r\n"), Err(ProxyError::Credentials));
    assert_eq!(http(b"HTTP/1.0 502 Bad\r\n\r\n"), Err(ProxyError::Http(502)));
    assert_eq!(http(b"HTTP/1.1 xyz\r\n\r\n"), Err(ProxyError::Nonsense("HTTP")));
    assert_eq!(http(b"\x05\x00"), Err(ProxyError::Nonsense("HTTP")));
    let endless = [&b"HTTP/1.1 200 OK\r\n"[..], &vec![b'a'; REPLY_LEN_MAX]].concat();
    assert_eq!(http(&endless), Err(ProxyError::Nonsense("HTTP")));
}

#[test]
fn names_and_credentials_cannot_smuggle() {
    for name in ["", "a b", "a\r\nX: y", "ä", &"a".repeat(256)] {
        for kind in [ProxyKind::Socks5, ProxyKind::Http] {
            let target = Target::Name(name.to_owned(), 1);
            assert_eq!(Tunnel::new(kind, None, target, &mut Vec::new()).unwrap_err(), ProxyError::Name);
        }
    }
    assert_eq!(Credentials::new("a:b", "c"), None);
    assert_eq!(Credentials::new("", "c"), None);
    assert_eq!(Credentials::new("a", "c\n"), None);
    assert_eq!(Credentials::new("a", &"c".repeat(256)), None);
    let (tunnel, _) = tunnel(ProxyKind::Socks5, Some(credentials()), addr());
    assert!(!format!("{tunnel:?}").contains("pass"));
}

proptest! {
    /// However the answers are cut, the outcome is the same, and memory stays bounded.
    #[test]
    fn cuts_do_not_matter(
        is_http: bool,
        secured: bool,
        replies in proptest::collection::vec(prop_oneof![
            Just(vec![5, 0]), Just(vec![5, 2]), Just(vec![1, 0]), Just(vec![5, 0, 0, 1, 1, 2, 3, 4, 5, 6]),
            Just(b"HTTP/1.1 200 OK\r\n".to_vec()), Just(b"\r\n".to_vec()), any::<Vec<u8>>(),
        ], 0..8),
        cut in 1usize..7,
    ) {
        let kind = if is_http { ProxyKind::Http } else { ProxyKind::Socks5 };
        let bytes = replies.concat();
        let run = |step: usize| {
            let (mut tunnel, mut out) = tunnel(kind, secured.then(credentials), addr());
            let mut rest = Vec::new();
            let mut chunks = bytes.chunks(step);
            let open = loop {
                let Some(chunk) = chunks.next() else { break None };
                match tunnel.push(chunk, &mut out) {
                    Ok(None) => {}
                    Ok(Some(first)) => {
                        rest.extend(first);
                        break Some(Ok(()));
                    }
                    Err(error) => break Some(Err(error)),
                }
                assert!(tunnel.received.len() <= REPLY_LEN_MAX);
            };
            rest.extend(chunks.flatten());
            let is_open = open == Some(Ok(()));
            (open, out, if is_open { rest } else { Vec::new() })
        };
        prop_assert_eq!(run(cut), run(1));
    }
}
