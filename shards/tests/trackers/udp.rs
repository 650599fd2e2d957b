//! UDP trackers (BEP 15, BEP 41).

use std::net::UdpSocket;
use std::rc::Rc;

use super::*;
use ccbt_protocol::tracker::udp::RetryPlan;

const CONNECTION: u64 = 0x0123_4567_89ab_cdef;

/// One packet of a client, and how to answer it.
struct Call<'a> {
    socket: &'a UdpSocket,
    from: SocketAddr,
    packet: &'a [u8],
}

impl Call<'_> {
    fn is_connect(&self) -> bool {
        self.packet.len() == 16 && self.packet[..8] == 0x417_2710_1980_u64.to_be_bytes()
    }

    fn transaction(&self) -> &[u8] {
        &self.packet[12..16]
    }

    fn reply(&self, action: u32, transaction: &[u8], body: &[u8]) {
        let packet = [&action.to_be_bytes()[..], transaction, body].concat();
        self.socket.send_to(&packet, self.from).unwrap();
    }

    /// Answers as a good tracker does.
    fn serve(&self) {
        if self.is_connect() {
            return self.reply(0, self.transaction(), &CONNECTION.to_be_bytes());
        }
        assert_eq!(self.packet[..8], CONNECTION.to_be_bytes());
        let mut body = Vec::new();
        for number in [1800_u32, 3, 7] {
            body.extend(number.to_be_bytes());
        }
        if self.from.is_ipv4() {
            body.extend([1, 2, 3, 4, 0x1a, 0xe1, 5, 6, 7, 8, 0x1a, 0xe2]);
        } else {
            body.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x1a, 0xe1]);
        }
        self.reply(1, self.transaction(), &body);
    }
}

/// Lets `answer` see each packet with its number, and gives the packets.
fn tracker(
    addr: &str,
    answer: impl Fn(usize, Call<'_>) + Send + 'static,
) -> Option<(SocketAddr, Receiver<Vec<u8>>)> {
    let socket = UdpSocket::bind(addr).ok()?;
    let addr = socket.local_addr().unwrap();
    let (tell, packets) = channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        for number in 0.. {
            let (len, from) = socket.recv_from(&mut buffer).unwrap();
            if tell.send(buffer[..len].to_vec()).is_err() {
                return;
            }
            answer(number, Call { socket: &socket, from, packet: &buffer[..len] });
        }
    });
    Some((addr, packets))
}

fn v4(answer: impl Fn(usize, Call<'_>) + Send + 'static) -> (SocketAddr, Receiver<Vec<u8>>) {
    tracker("127.0.0.1:0", answer).unwrap()
}

fn quick(base: u64, tries_max: u32) -> TrackerClientConfig {
    let udp_retry = RetryPlan { base: Duration::from_millis(base), tries_max };
    TrackerClientConfig { udp_retry, ..TrackerClientConfig::default() }
}

#[test]
fn announce_with_url_data() {
    let (addr, packets) = v4(|_, call| call.serve());
    let response = ask_default(&format!("udp://{addr}/announce?key=1#x")).unwrap();
    assert_eq!(response.peers, compact_peers());
    assert_eq!((response.seeders, response.leechers), (Some(7), Some(3)));
    let packets: Vec<_> = packets.try_iter().collect();
    assert_eq!(packets.len(), 2);
    assert_eq!(packets[1][16..36], [0xab; 20]);
    assert_eq!(packets[1][98..], *b"\x02\x0f/announce?key=1");
}

#[test]
fn ipv6_announce_has_ipv6_peers() {
    let Some((addr, _packets)) = tracker("[::1]:0", |_, call| call.serve()) else { return };
    let response = ask_default(&format!("udp://{addr}/announce")).unwrap();
    assert_eq!(response.peers, ["[2001:db8::1]:6881".parse().unwrap()]);
}

#[test]
fn names_and_bind_addresses() {
    let (addr, _packets) = v4(|_, call| {
        assert_eq!(call.from.ip().to_string(), "127.0.0.7");
        call.serve();
    });
    let config =
        TrackerClientConfig { bind: Some("127.0.0.7".parse().unwrap()), ..TrackerClientConfig::default() };
    let response = ask(config, &format!("udp://localhost:{}", addr.port())).unwrap();
    assert_eq!(response.peers, compact_peers());
}

#[test]
fn lost_packets_are_repeated() {
    // The first connect and the first announce get lost.
    let (addr, packets) = v4(|number, call| {
        if number != 0 && number != 2 {
            call.serve();
        }
    });
    let response = ask(quick(50, 8), &format!("udp://{addr}")).unwrap();
    assert_eq!(response.peers, compact_peers());
    let sizes: Vec<_> = packets.try_iter().map(|packet| packet.len()).collect();
    assert_eq!(sizes[..4], [16, 16, 98, 98]);
}

#[test]
fn packets_not_asked_for_are_ignored() {
    let (addr, _packets) = v4(|_, call| {
        let mut wrong = call.transaction().to_vec();
        wrong[0] ^= 1;
        call.reply(3, &wrong, b"wrong transaction");
        call.reply(0, &wrong, &[0xff; 8]);
        call.reply(77, call.transaction(), b"unknown action");
        call.reply(1, call.transaction(), b"short");
        call.socket.send_to(b"", call.from).unwrap();
        call.socket.send_to(&[0; 3], call.from).unwrap();
        // Right in everything but where it comes from.
        let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
        let error = [&3_u32.to_be_bytes()[..], call.transaction(), b"spoofed"].concat();
        stranger.send_to(&error, call.from).unwrap();
        call.serve();
    });
    assert_eq!(ask_default(&format!("udp://{addr}")).unwrap().peers, compact_peers());
}

#[test]
fn refusal_is_shown() {
    let (addr, _packets) = v4(|_, call| {
        if call.is_connect() { call.serve() } else { call.reply(3, call.transaction(), b"not\x07registered") }
    });
    let error = ask_default(&format!("udp://{addr}")).unwrap_err();
    assert_eq!(error.to_string(), "the tracker refused the announce: not registered");
}

#[test]
fn silence_times_out() {
    let (addr, packets) = v4(|_, _| {});
    let error = ask(quick(20, 3), &format!("udp://{addr}")).unwrap_err();
    assert!(matches!(error, TrackerError::TimedOut { .. }), "{error:?}");
    assert_eq!(packets.try_iter().count(), 3);
}

#[test]
fn nobody_listens() {
    let addr = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = ask_default(&format!("udp://{addr}")).unwrap_err();
    assert!(matches!(error, TrackerError::Connect { .. }), "{error:?}");
}

#[test]
fn connection_ids_are_kept_and_renewed() {
    // From its fourth packet on the tracker knows the old connection no more.
    let (addr, packets) = v4(|number, call| {
        if number == 3 { call.reply(3, call.transaction(), b"connection ID mismatch") } else { call.serve() }
    });
    let url = format!("udp://{addr}");
    run(move || async move {
        let client = Rc::new(TrackerClient::new(TrackerClientConfig::default()));
        for _ in 0..3 {
            client.announce(&url, &request()).await.unwrap();
        }
    });
    let sizes: Vec<_> = packets.try_iter().map(|packet| packet.len()).collect();
    assert_eq!(sizes, [16, 98, 98, 98, 16, 98]);
}

#[test]
fn stopped_does_not_wait_for_a_dead_tracker() {
    let (addr, packets) = v4(|_, _| {});
    let config =
        TrackerClientConfig { stop_timeout: Duration::from_secs(1), ..TrackerClientConfig::default() };
    let error = run(move || async move {
        let stopped = AnnounceRequest { event: Event::Stopped, ..request() };
        TrackerClient::new(config).announce(&format!("udp://{addr}"), &stopped).await.unwrap_err()
    });
    assert!(matches!(error, TrackerError::TimedOut { .. }), "{error:?}");
    assert!(packets.try_iter().count() >= 2, "a `stopped` is repeated as well");
}

/// Junk without end neither keeps the executor busy nor extends the time.
#[test]
fn floods_end_in_time() {
    let (addr, _packets) = v4(|_, call| {
        for _ in 0..20_000 {
            let _ = call.socket.send_to(&[0xee; 64], call.from);
        }
    });
    let error = ask(quick(30, 3), &format!("udp://{addr}")).unwrap_err();
    assert!(matches!(error, TrackerError::TimedOut { .. }), "{error:?}");
}

/// Many at once ask for one connection id, and use one socket.
#[test]
fn announces_at_once_share_a_connection_id() {
    let (tell, ports) = channel();
    let (addr, packets) = v4(move |_, call| {
        let _ = tell.send(call.from.port());
        call.serve();
    });
    let url = format!("udp://{addr}/announce");
    run(move || async move {
        let client = Rc::new(TrackerClient::new(TrackerClientConfig::default()));
        let announce = |client: Rc<TrackerClient>, url: String| async move {
            assert_eq!(client.announce(&url, &request()).await.unwrap().peers, compact_peers());
        };
        let tasks: Vec<_> =
            (0..20).map(|_| glommio::spawn_local(announce(client.clone(), url.clone()))).collect();
        for task in tasks {
            task.await;
        }
        assert_eq!(client.kept().1, 1);
    });
    let sizes: Vec<_> = packets.try_iter().map(|packet| packet.len()).collect();
    assert_eq!(sizes.iter().filter(|len| **len == 16).count(), 1, "{sizes:?}");
    assert_eq!(sizes.len(), 21);
    let ports: std::collections::HashSet<_> = ports.try_iter().collect();
    assert_eq!(ports.len(), 1);
}

#[test]
fn scrapes_take_74_hashes_a_packet() {
    let (addr, packets) = v4(|_, call| {
        if call.is_connect() {
            return call.serve();
        }
        let hashes = (call.packet.len() - 16) / 20;
        let body: Vec<u8> = (0..hashes as u32 * 3).flat_map(u32::to_be_bytes).collect();
        call.reply(2, call.transaction(), &body);
    });
    let url = format!("udp://{addr}/announce");
    let entries = run(move || async move {
        let hashes: Vec<_> = (0..100).map(|byte| InfoHash([byte; 20])).collect();
        TrackerClient::new(TrackerClientConfig::default()).scrape(&url, &hashes).await.unwrap()
    });
    assert_eq!(entries.len(), 100);
    let last = entries[73].unwrap();
    assert_eq!((last.seeders, last.completed, last.leechers), (219, 220, 221));
    assert_eq!(entries[74].unwrap().seeders, 0, "the first of the second packet");
    let sizes: Vec<_> = packets.try_iter().map(|packet| packet.len()).collect();
    assert_eq!(sizes, [16, 16 + 74 * 20, 16 + 26 * 20]);
}
