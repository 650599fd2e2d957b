//! HTTP trackers.

use super::*;
use ccbt_protocol::tracker::{INTERVAL_MIN, RetryIn, TrackerFailure};

fn pack(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn short() -> TrackerClientConfig {
    TrackerClientConfig { http_timeout: Duration::from_millis(300), ..TrackerClientConfig::default() }
}

#[test]
fn compact_answer_and_a_proper_request() {
    let server = WebServer::start(|_, stream| respond(stream, "200 OK", "", COMPACT));
    let response = ask_default(&(server.url() + "?passkey=s%20e")).unwrap();
    assert_eq!(response.peers, compact_peers());
    assert_eq!((response.seeders, response.leechers), (Some(7), Some(3)));
    let head = server.head();
    let mut lines = head.lines();
    let hash = "%AB".repeat(20);
    assert_eq!(
        lines.next().unwrap(),
        format!(
            "GET /announce?passkey=s%20e&info_hash={hash}&peer_id=-CF0001-abcdefghijkl&port=6881&uploaded=1\
             &downloaded=2&left=3&compact=1&no_peer_id=1&key=12345678&numwant=50&event=started HTTP/1.1"
        )
    );
    let headers: Vec<&str> = lines.collect();
    let host = format!("Host: {}", server.addr);
    let agent = concat!("User-Agent: ccbt-fast/", env!("CARGO_PKG_VERSION"));
    for header in [&*host, agent, "Accept-Encoding: gzip"] {
        assert!(headers.contains(&header), "{header} is not in {headers:?}");
    }
}

#[test]
fn dictionary_peers_and_ipv6_peers() {
    let server = WebServer::start(|_, stream| {
        let mut body =
            b"d8:intervali1e5:peersld2:ip7:9.8.7.64:porti51413eed2:ip3:::24:porti7eee6:peers618:".to_vec();
        body.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x1a, 0xe1]);
        body.push(b'e');
        respond(stream, "200 OK", "", &body);
    });
    let response = ask_default(&server.url()).unwrap();
    assert_eq!(response.interval, INTERVAL_MIN);
    let mut peers = response.peers;
    peers.sort();
    let expected = ["9.8.7.6:51413", "[::2]:7", "[2001:db8::1]:6881"];
    assert_eq!(peers, expected.map(|peer| peer.parse().unwrap()));
}

#[test]
fn ipv6_tracker_gets_its_address_in_brackets() {
    let answer = |_: &str, stream: &mut TcpStream| respond(stream, "200 OK", "", COMPACT);
    let Ok(server) = WebServer::start_on("[::1]:0", answer) else { return };
    assert_eq!(ask_default(&server.url()).unwrap().peers, compact_peers());
    let host = format!("\r\nHost: [::1]:{}\r\n", server.addr.port());
    assert!(server.head().contains(&host));
}

#[test]
fn names_are_looked_up_and_all_addresses_tried() {
    // localhost is often ::1 as well, where this server does not listen.
    let server = WebServer::start(|_, stream| respond(stream, "200 OK", "", COMPACT));
    let url = format!("http://localhost:{}/announce", server.addr.port());
    assert_eq!(ask_default(&url).unwrap().peers, compact_peers());
    let error = ask_default("http://no-such-tracker.invalid/announce").unwrap_err();
    assert!(
        matches!(&error, TrackerError::NameLookup { host, .. } if host == "no-such-tracker.invalid"),
        "{error:?}"
    );
    assert_showable(&error);
}

#[test]
fn bind_address_is_where_it_comes_from() {
    let server = WebServer::start(|_, stream| {
        let ip = stream.peer_addr().unwrap().ip().to_string();
        respond(stream, "200 OK", "", format!("d15:warning message{}:{ip}e", ip.len()).as_bytes());
    });
    let bind =
        |ip: &str| TrackerClientConfig { bind: Some(ip.parse().unwrap()), ..TrackerClientConfig::default() };
    assert_eq!(ask(bind("127.0.0.5"), &server.url()).unwrap().warning.unwrap(), "127.0.0.5");
    let error = ask(bind("::1"), &server.url()).unwrap_err();
    assert!(matches!(error, TrackerError::WrongFamily { .. }), "{error:?}");
    let error = ask(bind("192.0.2.1"), &server.url()).unwrap_err();
    assert!(matches!(error, TrackerError::Connect { .. }), "{error:?}");
}

#[test]
fn gzip_is_unpacked() {
    let server =
        WebServer::start(|_, stream| respond(stream, "200 OK", "Content-Encoding: gzip\r\n", &pack(COMPACT)));
    assert_eq!(ask_default(&server.url()).unwrap().peers, compact_peers());
}

#[test]
fn gzip_bomb_is_refused() {
    let bomb = pack(&vec![b'i'; 64 << 20]);
    let server =
        WebServer::start(move |_, stream| respond(stream, "200 OK", "Content-Encoding: gzip\r\n", &bomb));
    let error = ask_default(&server.url()).unwrap_err();
    assert!(matches!(error, TrackerError::TooLarge { .. }), "{error:?}");
}

#[test]
fn unknown_encoding_is_an_error() {
    let server = WebServer::start(|_, stream| respond(stream, "200 OK", "Content-Encoding: br\r\n", COMPACT));
    let error = ask_default(&server.url()).unwrap_err();
    assert!(matches!(error, TrackerError::Encoding { .. }), "{error:?}");
}

#[test]
fn chunked_answer() {
    let server = WebServer::start(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        for chunk in COMPACT.chunks(10) {
            write!(stream, "{:x}\r\n", chunk.len()).unwrap();
            stream.write_all(chunk).unwrap();
            stream.write_all(b"\r\n").unwrap();
        }
        stream.write_all(b"0\r\n\r\n").unwrap();
    });
    assert_eq!(ask_default(&server.url()).unwrap().peers, compact_peers());
}

#[test]
fn answer_of_http_1_0_that_ends_with_the_connection() {
    let server = WebServer::start(|_, stream| {
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n").unwrap();
        stream.write_all(COMPACT).unwrap();
    });
    assert_eq!(ask_default(&server.url()).unwrap().peers, compact_peers());
}

#[test]
fn redirects_are_followed() {
    let server = WebServer::start(|head, stream| {
        let path = head.split(' ').nth(1).unwrap();
        let (status, to) = match path.split('?').next().unwrap() {
            "/announce" => ("301 Moved", "/one?x=1"),
            "/one" => ("302 Found", "two"),
            "/two" => ("303 See Other", "./three#fragment"),
            "/three" => ("307 Temporary Redirect", "/four"),
            "/four" => ("308 Permanent Redirect", "/five"),
            _ => return respond(stream, "200 OK", "", COMPACT),
        };
        respond(stream, status, &format!("Location: {to}\r\n"), b"moved");
    });
    assert_eq!(ask_default(&server.url()).unwrap().peers, compact_peers());
    let paths: Vec<_> = (0..6).map(|_| server.head().split(' ').nth(1).unwrap().to_owned()).collect();
    assert_eq!(paths[1..], ["/one?x=1", "/two", "/three", "/four", "/five"]);
}

#[test]
fn redirect_loop_ends() {
    let server = WebServer::start(|_, stream| respond(stream, "302 Found", "Location: /again\r\n", b""));
    let error = ask_default(&server.url()).unwrap_err();
    assert!(matches!(error, TrackerError::Redirect { .. }), "{error:?}");
    assert_eq!(server.heads.try_iter().count(), 6, "one request and five redirects");
}

#[test]
fn redirect_to_nonsense_is_refused() {
    for to in ["file:///etc/passwd", "http://[", "udp://127.0.0.1:1/", "http://127.0.0.1:0/"] {
        let headers = format!("Location: {to}\r\n");
        let server = WebServer::start(move |_, stream| respond(stream, "302 Found", &headers, b""));
        let error = ask_default(&server.url()).unwrap_err();
        assert!(
            matches!(error, TrackerError::Redirect { .. } | TrackerError::BadUrl { .. }),
            "{to}: {error:?}"
        );
        assert_showable(&error);
    }
}

#[test]
fn failure_reason_is_shown_whatever_the_status() {
    for status in ["200 OK", "404 Not Found", "500 Internal Server Error"] {
        let server = WebServer::start(move |_, stream| {
            respond(stream, status, "", b"d14:failure reason8:go\x1b away8:retry ini5ee");
        });
        let error = ask_default(&server.url()).unwrap_err();
        let after = RetryIn::After(Duration::from_secs(300));
        let failure = TrackerFailure { reason: "go  away".into(), retry_in: Some(after) };
        assert_eq!(error, TrackerError::Refused(failure), "{status}");
        assert_eq!(error.retry_in(), Some(after));
        assert_showable(&error);
    }
}

#[test]
fn other_statuses_are_named() {
    let server = WebServer::start(|_, stream| respond(stream, "503 Busy", "Retry-After: 120\r\n", b"<html>"));
    let error = ask_default(&server.url()).unwrap_err();
    assert!(error.to_string().contains("503 Service Unavailable"), "{error}");
    assert_eq!(error.retry_in(), Some(RetryIn::After(Duration::from_secs(120))));
    // A good body does not make a bad status good.
    let server = WebServer::start(|_, stream| respond(stream, "404 Not Found", "", COMPACT));
    let error = ask_default(&server.url()).unwrap_err();
    assert!(matches!(error, TrackerError::Status { retry_in: None, .. }), "{error:?}");
}

#[test]
fn endless_bodies_are_cut() {
    let announced = WebServer::start(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n").unwrap();
    });
    let endless = WebServer::start(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        while stream.write_all(&[b'd'; 65536]).is_ok() {}
    });
    for server in [announced, endless] {
        let error = ask_default(&server.url()).unwrap_err();
        assert!(matches!(error, TrackerError::TooLarge { .. }), "{error:?}");
    }
}

#[test]
fn endless_heads_are_cut() {
    let server = WebServer::start(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nX: ").unwrap();
        while stream.write_all(&[b'x'; 65536]).is_ok() {}
    });
    let error = ask_default(&server.url()).unwrap_err();
    assert!(matches!(error, TrackerError::Lost { .. }), "{error:?}");
}

/// hyper reads interim responses for ever, and a fast sender never lets it wait.
#[test]
fn endless_interim_responses_are_cut() {
    let server = WebServer::start(|_, stream| {
        let many = b"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(1000);
        while stream.write_all(&many).is_ok() {}
    });
    let error = ask_default(&server.url()).unwrap_err();
    assert!(matches!(error, TrackerError::Lost { .. }), "{error:?}");
}

/// An answer in the smallest chunks is an answer still.
#[test]
fn tiny_chunks_are_no_flood() {
    let mut body = b"d15:warning message200000:".to_vec();
    body.resize(body.len() + 200_000, b'x');
    body.push(b'e');
    let server = WebServer::start(move |_, stream| {
        let mut chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for byte in &body {
            chunked.extend([b'1', b'\r', b'\n', *byte, b'\r', b'\n']);
        }
        chunked.extend(b"0\r\n\r\n");
        stream.write_all(&chunked).unwrap();
    });
    assert!(ask_default(&server.url()).unwrap().warning.unwrap().starts_with("xxx"));
}

#[test]
fn slow_trickle_times_out() {
    let server = WebServer::start(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        while stream.write_all(b"1").is_ok() {
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    let error = ask(short(), &server.url()).unwrap_err();
    assert_eq!(error, TrackerError::TimedOut { after: Duration::from_millis(300) });
}

#[test]
fn silence_times_out() {
    // Accepts at the backlog's mercy, but never answers.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/announce", listener.local_addr().unwrap());
    let error = ask(short(), &url).unwrap_err();
    assert_eq!(error, TrackerError::TimedOut { after: Duration::from_millis(300) });
}

#[test]
fn nobody_listens() {
    let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = ask_default(&format!("http://{addr}/announce")).unwrap_err();
    assert!(error.to_string().to_lowercase().contains("refused"), "{error}");
}

#[test]
fn resets_are_errors() {
    let server = WebServer::start(|_, stream| {
        socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO)).unwrap();
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nd");
        let _ = stream.shutdown(Shutdown::Both);
    });
    let error = ask_default(&server.url()).unwrap_err();
    assert!(matches!(error, TrackerError::Lost { .. }), "{error:?}");
    assert_showable(&error);
}

#[test]
fn garbage_is_an_error() {
    let garbage: [&'static [u8]; 4] =
        [b"\x00\xff\x1b[2J nonsense\r\n\r\n", b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 999999\r\n\r\n"];
    for bytes in garbage {
        let server = WebServer::start(move |_, stream| stream.write_all(bytes).unwrap());
        let error = ask_default(&server.url()).unwrap_err();
        assert!(matches!(error, TrackerError::Lost { .. }), "{error:?}");
        assert_showable(&error);
    }
    for body in [&b"<html>"[..], b"", b"i5e", b"d5:peers999999:", &[b'l'; 100_000]] {
        let server = WebServer::start(move |_, stream| respond(stream, "200 OK", "", body));
        assert_eq!(ask_default(&server.url()).unwrap_err(), TrackerError::Malformed);
    }
}

#[test]
fn unusable_urls_are_told() {
    for url in [
        "",
        "announce",
        "ftp://host/",
        "http://",
        "http://ho st/",
        "udp://host:0/",
        "http://a:99999/",
        "wss://h/\n",
    ] {
        let error = ask_default(url).unwrap_err();
        assert!(matches!(error, TrackerError::BadUrl { .. }), "{url}: {error:?}");
        assert_showable(&error);
    }
}

/// Reads requests off `stream` until its other end closes it; each is answered. How many there were.
fn serve_all(mut stream: TcpStream) -> usize {
    let mut count = 0;
    while !read_head(&mut stream).is_empty() {
        count += 1;
        respond(&mut stream, "200 OK", "", COMPACT);
    }
    count
}

/// Announces one after the other share a connection; one that the server has closed meanwhile is replaced.
#[test]
fn connections_are_kept_and_replaced() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/announce", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        // The first connection is cut after three answers, without a word.
        let mut first = listener.accept().unwrap().0;
        for _ in 0..3 {
            read_head(&mut first);
            respond(&mut first, "200 OK", "", COMPACT);
        }
        drop(first);
        serve_all(listener.accept().unwrap().0)
    });
    run(move || async move {
        let client = TrackerClient::new(TrackerClientConfig::default());
        for _ in 0..8 {
            assert_eq!(client.announce(&url, &request()).await.unwrap().peers, compact_peers());
        }
        assert_eq!(client.kept().0, 1);
    });
    assert_eq!(server.join().unwrap(), 5);
}

#[test]
fn scrapes_ask_for_many_torrents_at_once() {
    let server = WebServer::start(|head, stream| {
        let hashes = head.matches("info_hash=").count();
        let mut body = b"d5:filesd".to_vec();
        for byte in 0..hashes as u8 {
            if head.contains(&format!("info_hash={}&", "%00".repeat(20))) {
                body.extend(b"20:");
                body.extend([byte; 20]);
                body.extend(format!("d8:completei{byte}e10:downloadedi9e10:incompletei1ee").bytes());
            }
        }
        body.extend(b"ee");
        respond(stream, "200 OK", "", &body);
    });
    let url = server.url();
    let entries = run(move || async move {
        let hashes: Vec<_> = (0..45).map(|byte| InfoHash([byte; 20])).collect();
        TrackerClient::new(TrackerClientConfig::default()).scrape(&url, &hashes).await.unwrap()
    });
    assert_eq!(entries.len(), 45);
    assert_eq!(entries[7].map(|entry| (entry.seeders, entry.completed, entry.leechers)), Some((7, 9, 1)));
    assert!(entries[..40].iter().all(Option::is_some) && entries[40..].iter().all(Option::is_none));
    assert!(server.head().starts_with("GET /scrape?info_hash="));
    let error = run(|| async {
        let client = TrackerClient::new(TrackerClientConfig::default());
        client.scrape("http://127.0.0.1:9/a", &[InfoHash([0; 20])]).await.unwrap_err()
    });
    assert!(matches!(error, TrackerError::NoScrape { .. }), "{error:?}");
}

#[test]
fn what_the_ip_filter_has_is_not_asked() {
    use ccbt_protocol::ipfilter::{Builder, Range};
    let server = WebServer::start(|_, stream| respond(stream, "200 OK", "", COMPACT));
    let mut builder = Builder::default();
    let loopback = Range::cidr([127, 0, 0, 0].into(), 8).unwrap();
    builder.add(loopback).unwrap();
    let filter = Some(std::sync::Arc::new(builder.build()));
    let url = server.url();
    let results = run(move || async move {
        let client = TrackerClient::new(TrackerClientConfig::default());
        let mut results = vec![client.announce(&url, &request()).await.map(drop)];
        client.set_filter(filter);
        // A connection that was kept is not used either.
        results.push(client.announce(&url, &request()).await.map(drop));
        client.set_filter(None);
        results.push(client.announce(&url, &request()).await.map(drop));
        results
    });
    assert!(results[0].is_ok() && results[2].is_ok(), "{results:?}");
    assert!(matches!(results[1], Err(TrackerError::Filtered { .. })), "{results:?}");
}
