//! The daemon and those who mean it no good: wrong requests, strangers, and clients that stall.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use ccbt_tests::PATIENCE;
use ccbt_tests::ccbt::ccbt;
use ccbt_tests::daemon::{Daemon, DaemonCommand, base64, exchange, torrent};
use ccbt_tests::lab::{Lab, Published};
use ccbt_tests::ports::free_port;
use ccbt_tests::process::wait_until;
use rustix::process::Signal;
use serde_json::{Value, json};

const MIB: usize = 1 << 20;

#[test]
fn wrong_requests_are_told_what_is_wrong() {
    let lab = Lab::open();
    let made = torrent(&lab, "t.bin", MIB, false);
    let daemon = DaemonCommand::new(&lab).start();
    daemon.ask(&["add", made.torrent_path.to_str().expect("plain"), "--paused"]);
    let torrent = format!("/v1/torrents/{}", made.torrent.info_hash_hex());
    for (method, path, body, status, code, part) in [
        ("GET", "/", "", 404, "no_such_path", "openapi.json"),
        ("PUT", "/v1/torrents", "", 405, "wrong_method", "openapi.json"),
        ("POST", "/v1/torrents", "{", 400, "bad_json", "line 1 column 1"),
        ("POST", "/v1/torrents", "{}", 400, "bad_torrent", "`magnet`"),
        ("POST", "/v1/torrents", r#"{"torrent":"","outptu":""}"#, 400, "bad_json", "unknown field `outptu`"),
        ("POST", "/v1/torrents", r#"{"torrent":"%"}"#, 400, "bad_base64", "torrent: "),
        ("POST", "/v1/torrents", r#"{"torrent":"ZGVhZA=="}"#, 400, "bad_torrent", "not a usable torrent"),
        ("GET", "/v1/torrents/xyz", "", 400, "bad_info_hash", "first digits"),
        ("GET", "/v1/torrents/0123456789", "", 404, "no_such_torrent", "0123456789"),
        ("PATCH", &torrent, r#"{"up_limit":-1}"#, 400, "bad_json", "invalid value"),
        ("PATCH", &torrent, r#"{"seed_seconds":1.5}"#, 400, "bad_value", "whole number"),
        ("DELETE", &format!("{torrent}?delete_data=perhaps"), "", 400, "bad_query", "delete_data"),
        ("DELETE", &format!("{torrent}?delete=true"), "", 400, "bad_query", "unknown field"),
        ("POST", &format!("{torrent}/move"), r#"{"to":"here"}"#, 400, "relative_path", "absolute"),
        ("POST", &format!("{torrent}/queue"), r#"{"step":"left"}"#, 400, "bad_json", "`up`"),
        ("POST", &format!("{torrent}/peers"), r#"{"peers":["127.0.0.1:0"]}"#, 400, "bad_peer", "127.0.0.1:0"),
    ] {
        let (found, answer) = daemon.http(method, path, body);
        assert_eq!((found, &answer["code"]), (status, &json!(code)), "{method} {path} {body}: {answer}");
        assert!(answer["message"].as_str().expect("a message").contains(part), "{part}: {answer}");
    }
    let (status, answer) = daemon.http("PATCH", &torrent, &" ".repeat(1 << 20));
    assert_eq!((status, &answer["code"]), (413, &json!("too_large")), "{answer}");
    // A body that is announced and too large is not even read.
    let (status, _) =
        daemon.raw(b"POST /v1/torrents HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n");
    assert_eq!(status, 413);
    let (status, _) = daemon.raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n");
    assert_eq!(status, 400);
    let head = format!("GET /v1/stats HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    assert_eq!(daemon.raw(head.as_bytes()).0, 431);
    assert_eq!(daemon.http("GET", "/openapi.json", "").1["openapi"], "3.1.0");
    assert_eq!(daemon.show(&made)["state"], "paused", "nothing has changed");
    daemon.stop();
}

#[test]
fn tcp_needs_the_token_and_our_name() {
    let lab = Lab::open();
    let address: SocketAddr = (Ipv4Addr::LOCALHOST, free_port()).into();
    let daemon = DaemonCommand::new(&lab).args(["--listen", &address.to_string()]).start();
    assert_eq!(daemon.started["listen"], address.to_string());
    let token_file = lab.dir("state").join("daemon/token");
    let mode = fs::metadata(&token_file).expect("made").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let token = fs::read_to_string(&token_file).expect("made").trim().to_owned();
    let ask = |head: &str| {
        let stream = TcpStream::connect(address).expect("it listens");
        exchange(stream, format!("{head}\r\n\r\n").as_bytes())
    };
    let right = format!("Authorization: Bearer {token}");
    let half = format!("Authorization: Bearer {}", &token[..32]);
    let host = format!("Host: {address}");
    for (lines, status) in [
        (vec!["GET /v1/stats HTTP/1.1", &host, &right], 200),
        (vec!["GET /v1/stats HTTP/1.1", &host], 401),
        (vec!["GET /openapi.json HTTP/1.1", &host], 401),
        (vec!["GET /v1/stats HTTP/1.1", &host, &half], 401),
        (vec!["GET /v1/stats HTTP/1.1", "Host: evil.example", &right], 421),
        (vec!["GET /v1/stats HTTP/1.1", &right], 421),
        (vec!["OPTIONS /v1/torrents HTTP/1.1", &host, "Origin: http://evil.example"], 401),
        (vec!["OPTIONS /v1/torrents HTTP/1.1", &host, &right, "Origin: http://evil.example"], 405),
    ] {
        let (found, body) = ask(&lines.join("\r\n"));
        assert_eq!(found, status, "{lines:?}: {body}");
        assert!(!body.contains(&token));
    }
    let mut stream = TcpStream::connect(address).expect("it listens");
    let request =
        format!("GET /v1/stats HTTP/1.1\r\n{host}\r\n{right}\r\nOrigin: http://evil.example\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    assert!(!answer.to_ascii_lowercase().contains("access-control"), "{answer}");
    // Those who say nothing take no place from others.
    let idle: Vec<TcpStream> = (0..100).filter_map(|_| TcpStream::connect(address).ok()).collect();
    let mut slow = TcpStream::connect(address).expect("the kernel queues it");
    slow.write_all(b"GET /v1/st").expect("sent");
    assert_eq!(daemon.ask(&["stats"])[0]["torrents"], 0);
    drop((idle, slow));
    let place = ["--connect", &address.to_string(), "--token-file", token_file.to_str().expect("plain")];
    let (code, text, error) = ccbt([&["stats", "--json"][..], &place].concat());
    assert_eq!(code, 0, "{error}");
    assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON")["pid"], daemon.ask(&["stats"])[0]["pid"]);
    let wrong = lab.file("wrong", "0".repeat(64).as_bytes());
    let place = ["--connect", &address.to_string(), "--token-file", wrong.to_str().expect("plain")];
    let (code, _, error) = ccbt([&["stats"][..], &place].concat());
    assert!(code == 2 && error.contains("token"), "{error}");
    daemon.stop();
    // Others cannot reach it, and a token that others can read is none.
    let (code, _, error) = ccbt(["daemon", "--listen", "0.0.0.0:1"]);
    assert!(code == 2 && error.contains("loopback"), "{error}");
    fs::set_permissions(&token_file, fs::Permissions::from_mode(0o644)).expect("set");
    let mut open = DaemonCommand::new(&lab).args(["--listen", &address.to_string()]).launch();
    assert_eq!(open.wait_exit().code(), Some(2));
    assert!(open.words().contains("chmod 600"), "{}", open.words());
}

#[test]
fn clients_name_folders_that_are_allowed_and_no_others() {
    let lab = Lab::open();
    let (one, two) = (torrent(&lab, "one.bin", MIB, false), torrent(&lab, "two.bin", MIB, false));
    let (mine, outside, out) = (lab.dir("mine"), lab.dir("outside"), lab.dir("out"));
    symlink(&outside, mine.join("away")).expect("linked");
    symlink(&mine, outside.join("home")).expect("linked");
    symlink(outside.join("nothing"), mine.join("dangling")).expect("linked");
    let config = lab.file("allowed.toml", format!("[daemon]\nallowed_folders = [{mine:?}]\n").as_bytes());
    let address: SocketAddr = (Ipv4Addr::LOCALHOST, free_port()).into();
    let command = DaemonCommand::new(&lab).args(["--config", config.to_str().expect("plain")]);
    let mut daemon = command.args(["--listen", &address.to_string()]).start();
    let token = fs::read_to_string(lab.dir("state").join("daemon/token")).expect("made");
    let add = |made: &Published, folder: &Path| {
        let body = json!({ "torrent": base64(made.torrent.bytes()), "output": folder, "paused": true });
        daemon.http("POST", "/v1/torrents", &body.to_string())
    };
    let beside = PathBuf::from(format!("{}x", mine.display()));
    let bad =
        ["../outside", "away", "away/new", "new/../../outside", "dangling/new"].map(|end| mine.join(end));
    for folder in bad.iter().chain([&outside, &beside]) {
        let (status, answer) = add(&one, folder);
        assert_eq!((status, &answer["code"]), (403, &json!("folder_not_allowed")), "{folder:?}: {answer}");
        let message = answer["message"].as_str().expect("a text");
        for part in [mine.to_str().expect("plain"), out.to_str().expect("plain"), "daemon.allowed_folders"] {
            assert!(message.contains(part), "{part}: {message}");
        }
        let magnet = json!({ "magnet": format!("magnet:?xt=urn:btih:{}", "7".repeat(40)), "output": folder });
        let (status, answer) = daemon.http("POST", "/v1/torrents", &magnet.to_string());
        assert_eq!((status, &answer["code"]), (403, &json!("folder_not_allowed")), "{folder:?}: {answer}");
        // And over TCP.
        let body = json!({ "torrent": base64(one.torrent.bytes()), "output": folder }).to_string();
        let head = format!(
            "POST /v1/torrents HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n",
            token.trim(),
            body.len()
        );
        let stream = TcpStream::connect(address).expect("it listens");
        let (status, answer) = exchange(stream, (head + &body).as_bytes());
        assert!(status == 403 && answer.contains("folder_not_allowed"), "{status} {answer}");
    }
    assert_eq!(daemon.list().len(), 0);
    // Links that lead inside, folders that are not there yet, and the configuration's own folder.
    let (status, answer) = add(&one, &outside.join("home/new/er"));
    assert_eq!(status, 201, "{answer}");
    assert_eq!(add(&two, &out.join("sub")).0, 201);
    let path = format!("/v1/torrents/{}/move", one.torrent.info_hash_hex());
    let to =
        |daemon: &Daemon, folder: &Path| daemon.http("POST", &path, &json!({ "to": folder }).to_string());
    for folder in &bad {
        let (status, answer) = to(&daemon, folder);
        assert_eq!((status, &answer["code"]), (403, &json!("folder_not_allowed")), "{folder:?}: {answer}");
    }
    assert_eq!(to(&daemon, &mine.join("moved")).0, 202);
    let names: Vec<_> =
        fs::read_dir(&outside).expect("there").map(|entry| entry.expect("read").file_name()).collect();
    assert_eq!(names, ["home"], "nothing is there but what was");
    // Another list counts at once.
    fs::write(&config, "[daemon]\nallowed_folders = \"any\"\n").expect("written");
    daemon.signal(Signal::HUP);
    daemon.wait_said("allowed_folders");
    wait_until(PATIENCE, "the end of the move", || {
        (to(&daemon, &outside.join("free")).0 == 202).then_some(())
    });
    daemon.stop();
}

#[test]
fn a_client_that_stalls_is_cut_off() {
    let lab = Lab::open();
    let daemon = DaemonCommand::new(&lab).start();
    let mut stalls = UnixStream::connect(daemon.socket()).expect("it listens");
    stalls.write_all(b"GET /v1/stats HT").expect("sent");
    stalls.set_read_timeout(Some(PATIENCE)).expect("set");
    let mut rest = Vec::new();
    // The head has ten seconds; what matters is that it ends at all.
    assert!(stalls.read_to_end(&mut rest).is_ok(), "the connection stays");
    assert!(!String::from_utf8_lossy(&rest).contains(" 200 "));
    daemon.stop();
}

/// Half of a listener's connections is for others, however many read events.
#[test]
fn readers_of_events_keep_nobody_out() {
    let lab = Lab::open();
    let daemon = DaemonCommand::new(&lab).start();
    let request = b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let (mut readers, mut refused) = (Vec::new(), 0);
    for _ in 0..70 {
        let mut stream = UnixStream::connect(daemon.socket()).expect("the daemon listens");
        stream.write_all(request).expect("it reads");
        let mut status = [0; 12];
        stream.read_exact(&mut status).expect("it answers");
        match &status[9..] {
            b"200" => readers.push(stream),
            b"503" => refused += 1,
            other => panic!("{}", String::from_utf8_lossy(other)),
        }
    }
    assert_eq!((readers.len(), refused), (32, 38));
    assert_eq!(daemon.list().len(), 0, "and others are heard");
    let (status, body) = daemon.http("GET", "/v1/events", "");
    assert_eq!((status, &body["code"]), (503, &json!("too_many_readers")));
    readers.truncate(31);
    wait_until(PATIENCE, "room for another reader", || {
        let mut stream = UnixStream::connect(daemon.socket()).expect("the daemon listens");
        stream.write_all(request).expect("it reads");
        let mut status = [0; 12];
        stream.read_exact(&mut status).expect("it answers");
        (&status[9..] == b"200").then_some(())
    });
    drop(readers);
    daemon.stop();
}
