use super::*;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::mpsc::{Receiver, channel};

use ccbt_protocol::ids::{InfoHash, PeerId};

use crate::control::TrackerClientConfig;

fn answer(peer: &str) -> Answer {
    Ok(AnnounceResponse { peers: vec![peer.parse::<SocketAddr>().unwrap()], ..AnnounceResponse::default() })
}

fn refused() -> TrackerError {
    TrackerError::connect("t", &std::io::Error::other("refused"))
}

#[test]
fn one_answer_is_enough_and_two_are_one() {
    let peers = |results| combined(results).map(|answer| answer.peers.len());
    let malformed = || Err(TrackerError::Malformed);
    assert_eq!(peers([Some(answer("1.2.3.4:5")), Some(answer("[2001:db8::1]:5"))]), Ok(2));
    assert_eq!(peers([Some(answer("1.2.3.4:5")), Some(answer("1.2.3.4:5"))]), Ok(1), "told twice");
    assert_eq!(peers([Some(answer("1.2.3.4:5")), None]), Ok(1));
    assert_eq!(peers([Some(Err(refused())), Some(answer("1.2.3.4:5"))]), Ok(1));
    assert_eq!(peers([Some(Err(refused())), Some(malformed())]), Err(TrackerError::Malformed));
    assert_eq!(peers([Some(malformed()), Some(Err(refused()))]), Err(TrackerError::Malformed));
}

#[test]
fn only_public_addresses_are_told() {
    let bind = |ip: &str| Some(ip.parse::<IpAddr>().unwrap().into());
    assert_eq!(own_address(AddressFamily::V4, bind("::1").as_ref()), None);
    assert_eq!(own_address(AddressFamily::V6, bind("127.0.0.1").as_ref()), None);
}

/// What `count` announces to `url`, whose host `both.example` has both loopback addresses, come to.
fn announce(url: String, count: usize) -> Vec<Answer> {
    let request = AnnounceRequest {
        info_hash: InfoHash([1; 20]),
        peer_id: PeerId([2; 20]),
        port: 7,
        uploaded: 0,
        downloaded: 0,
        left: 1,
        event: Event::Started,
        numwant: None,
        key: 1,
        tracker_id: None,
        ip: None,
        other_ip: None,
    };
    let (tell, told) = channel();
    let ask = move || async move {
        let client = TrackerClient::new(TrackerClientConfig::default());
        client.resolver.know("both.example", &["::1".parse().unwrap(), "127.0.0.1".parse().unwrap()]);
        for _ in 0..count {
            tell.send(client.announce(&url, &request).await).unwrap();
        }
    };
    crate::executor::spawn("test", None, ask).unwrap().join().unwrap();
    told.iter().collect()
}

/// A tracker on `listener` that answers each connection once. Gives the requests.
fn serve(listener: TcpListener, peers: &'static [u8]) -> Receiver<String> {
    let (tell, heads) = channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|len| len == 1) {
                head.push(byte[0]);
            }
            let _ = tell.send(String::from_utf8(head).unwrap());
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", peers.len());
            let _ = stream.write_all(&[head.as_bytes(), peers].concat());
        }
    });
    heads
}

/// The same free TCP port of both loopback addresses.
fn listeners() -> (TcpListener, TcpListener, u16) {
    loop {
        let v6 = TcpListener::bind("[::1]:0").expect("this machine has IPv6 on loopback");
        let port = v6.local_addr().unwrap().port();
        if let Ok(v4) = TcpListener::bind(("127.0.0.1", port)) {
            return (v4, v6, port);
        }
    }
}

const PEERS4: &[u8] = b"d8:intervali1800e5:peers6:\x01\x02\x03\x04\x1a\xe1e";
const PEERS6: &[u8] = b"d8:intervali3600e6:peers618:\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\0\x50e";

#[test]
fn a_tracker_with_both_families_is_asked_by_both() {
    let (v4, v6, port) = listeners();
    let (heads4, heads6) = (serve(v4, PEERS4), serve(v6, PEERS6));
    let answers = announce(format!("http://both.example:{port}/announce"), 1);
    let answer = answers[0].clone().unwrap();
    let mut peers = answer.peers;
    peers.sort();
    assert_eq!(peers, ["1.2.3.4:6881", "[2001:db8::1]:80"].map(|peer| peer.parse().unwrap()));
    assert_eq!(answer.interval, Duration::from_secs(3600), "the longer one");
    for heads in [heads4, heads6] {
        let heads: Vec<String> = heads.try_iter().collect();
        assert_eq!(heads.len(), 1);
        assert!(!heads[0].contains("&ipv4=") && !heads[0].contains("&ipv6="), "both are seen: {heads:?}");
    }
}

#[test]
fn a_silent_family_is_waited_for_once() {
    let (v4, v6, port) = listeners();
    let _heads = serve(v4, PEERS4);
    v6.set_nonblocking(true).unwrap();
    let answers = announce(format!("http://both.example:{port}/announce"), 2);
    assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|answer| answer.peers.len() == 1)));
    assert_eq!(std::iter::from_fn(|| v6.accept().ok()).count(), 1, "then it is left alone");
}

#[test]
fn udp_trackers_too() {
    let (_v4, _v6, port) = listeners();
    let trackers = ["127.0.0.1", "::1"].map(|ip| {
        let socket = UdpSocket::bind((ip.parse::<IpAddr>().unwrap(), port)).unwrap();
        std::thread::spawn(move || {
            let mut bytes = [0; 2048];
            for _ in 0..2 {
                let (len, from) = socket.recv_from(&mut bytes).unwrap();
                let peer: &[u8] = if from.is_ipv4() { &[1, 2, 3, 4, 0, 5] } else { &[9; 18] };
                let answer = match len {
                    16 => [&[0; 4], &bytes[12..16], &[7; 8]].concat(),
                    _ => [&[0, 0, 0, 1], &bytes[12..16], &[0; 12], peer].concat(),
                };
                socket.send_to(&answer, from).unwrap();
            }
        })
    });
    let answers = announce(format!("udp://both.example:{port}/announce"), 1);
    assert_eq!(answers[0].as_ref().unwrap().peers.len(), 2);
    trackers.into_iter().for_each(|tracker| tracker.join().unwrap());
}
