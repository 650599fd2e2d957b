//! Web seeds (BEP 19) end to end: torrents that only HTTP servers have, good ones and bad ones, local ones, limits.

use std::path::Path;
use std::process::Command;

use ccbt_tests::PATIENCE;
use ccbt_tests::ccbt::{Ccbt, CcbtCommand, ccbt};
use ccbt_tests::daemon::DaemonCommand;
use ccbt_tests::lab::{Lab, Published};
use ccbt_tests::libtorrent::python;
use ccbt_tests::payload::Payload;
use ccbt_tests::process::{Process, wait_until};
use ccbt_tests::torrent::TorrentSpec;
use ccbt_tests::web_server::{Answer, WebServer};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

fn publish(lab: &Lab) -> Published {
    let files = [("a b#.bin", 3 * MIB + 7), ("sub/\u{e9}?.x", 300 * KIB), ("z", 5)];
    lab.publish(Payload::tree("t%", &files).padded(64 * KIB), TorrentSpec::pieces_of(64 * KIB))
}

fn download(made: &Published, lab: &Lab, name: &str, urls: &[String]) -> CcbtCommand {
    let start = CcbtCommand::download(&made.torrent_path, &lab.dir(name));
    urls.iter().fold(start, |command, url| command.option("--web-seed", url))
}

fn finishes(made: &Published, lab: &Lab, name: &str, urls: &[String]) -> Ccbt {
    let mut ours = download(made, lab, name, urls).start();
    ours.wait_done();
    made.payload.assert_equal_in(&lab.dir(name));
    ours
}

#[test]
fn torrents_finish_from_web_seeds_alone() {
    let lab = Lab::open();
    let made = publish(&lab);
    for (name, answer) in [
        ("ranges", Answer::Ranges),
        ("chunked", Answer::Chunked),
        ("whole", Answer::Whole),
        ("busy", Answer::BusyOnce(503)),
        ("truncated", Answer::TruncatedOnce),
    ] {
        let server = WebServer::start(&made.data, answer.clone());
        let ours = finishes(&made, &lab, name, &[server.url()]);
        let told = ours.events("web_seed");
        let is_busy = matches!(answer, Answer::BusyOnce(_) | Answer::TruncatedOnce);
        assert!(told.is_empty() || is_busy, "{name}: {told:?}");
        assert!(ours.events("banned").is_empty(), "{name}");
        let requests = server.requests();
        assert!(requests.iter().any(|path| path == "/t%25/sub/%C3%A9%3F.x"), "{name}: {requests:?}");
        assert!(!requests.iter().any(|path| path.contains("pad")), "{name}: padding is made: {requests:?}");
        if answer == Answer::Ranges {
            assert!(server.connections() < requests.len(), "connections are kept: {requests:?}");
        }
    }
}

/// They are remembered: the torrent rests until the daemon has been started again.
#[test]
fn a_daemon_fetches_from_them_too() {
    let lab = Lab::open();
    let made = publish(&lab);
    let server = WebServer::start(&made.data, Answer::Ranges);
    let daemon = DaemonCommand::new(&lab).start();
    let torrent = made.torrent_path.to_str().expect("a plain path");
    let (copy, url) = (lab.dir("daemon"), server.url());
    let copy = copy.to_str().expect("a plain path");
    let (code, _, said) = daemon.run(&["add", torrent, "--output", copy, "--web-seed", &url, "--paused"]);
    assert_eq!(code, 0, "{said}");
    let link = format!("magnet:?xt=urn:btih:{}", "01".repeat(20));
    let body = format!(r#"{{"magnet":"{link}","web_seeds":["ftp://x"]}}"#);
    let bad = daemon.http("POST", "/v1/torrents", &body);
    assert_eq!(bad.0, 400, "{}", bad.1);
    daemon.stop();
    let daemon = DaemonCommand::new(&lab).start();
    let (code, _, said) = daemon.run(&["resume", &made.torrent.info_hash_hex()]);
    assert_eq!(code, 0, "{said}");
    daemon.wait_for(&made, "state", "seeding");
    made.payload.assert_equal_in(&lab.dir("daemon"));
    daemon.stop();
}

#[test]
fn a_liar_is_banned_and_broken_servers_are_left_for_a_good_one() {
    let lab = Lab::open();
    let made = lab.publish(Payload::single("one.bin", 6 * MIB), TorrentSpec::pieces_of(64 * KIB));
    let bad = [Answer::Wrong, Answer::WrongRange, Answer::Loris, Answer::Status(404), Answer::Status(500)];
    let bad: Vec<WebServer> = bad.into_iter().map(|answer| WebServer::start(&made.data, answer)).collect();
    let good = WebServer::start(&made.data, Answer::Ranges);
    let mut urls: Vec<String> = bad.iter().map(WebServer::url).collect();
    urls.push(good.url());
    let mut ours = download(&made, &lab, "copy", &urls).start();
    let reason = |event: &serde_json::Value, server: &WebServer| {
        (event["url"] == server.url().as_str()).then(|| event["reason"].to_string())
    };
    for (server, wanted) in
        [(&bad[0], "wrong hash"), (&bad[1], "another range"), (&bad[3], "404"), (&bad[4], "500")]
    {
        wait_until(PATIENCE, wanted, || {
            let told = ours.events("web_seed");
            told.iter()
                .filter_map(|event| reason(event, server))
                .any(|why| why.contains(wanted))
                .then_some(())
        });
    }
    ours.wait_done();
    made.payload.assert_equal_in(&lab.dir("copy"));
    let again = |event: &&serde_json::Value| {
        event["reason"].as_str().is_some_and(|why| why.contains("not asked again"))
    };
    let told = ours.events("web_seed");
    let banned: Vec<_> = told.iter().filter(again).map(|event| event["url"].as_str()).collect();
    assert_eq!(banned, [Some(bad[0].url().as_str())], "{told:?}");
}

#[test]
fn a_server_that_trickles_is_given_up() {
    let lab = Lab::open();
    let made = lab.publish(Payload::single("one.bin", MIB), TorrentSpec::pieces_of(64 * KIB));
    let loris = WebServer::start(&made.data, Answer::Loris);
    let mut ours = download(&made, &lab, "copy", &[loris.url()]).start();
    let told = ours.wait_event("web_seed")["reason"].to_string();
    assert!(told.contains("too slow"), "{told}");
    ours.stop();
}

#[test]
fn what_torrents_and_redirects_name_may_not_be_local() {
    let lab = Lab::open();
    let made = lab.publish(Payload::single("one.bin", MIB), TorrentSpec::pieces_of(64 * KIB));
    let good = WebServer::start(&made.data, Answer::Ranges);
    let leads_here = WebServer::start(&made.data, Answer::Redirect(good.url()));
    // In the torrent, as our own maker writes it, and as libtorrent reads it.
    let torrent = lab.path().join("web.torrent");
    let file = made.data.join("one.bin");
    let (out, input) = (torrent.to_str().expect("text"), file.to_str().expect("text"));
    let (code, _, errors) = ccbt(["create", input, "--output", out, "--web-seed", &good.url()]);
    assert_eq!(code, 0, "{errors}");
    let read = "import sys, libtorrent as lt; print([s['url'] for s in lt.torrent_info(sys.argv[1]).web_seeds()][0])";
    let seen = Command::new(python()).args(["-c", read, out]).output().expect("python runs");
    assert_eq!(String::from_utf8_lossy(&seen.stdout).trim(), good.url(), "libtorrent reads it");
    let named = CcbtCommand::download(&torrent, &lab.dir("named"));
    let redirected = download(&made, &lab, "redirected", &[leads_here.url()]);
    let by_name = lab.dir("by-name");
    for mut ours in [named.start(), redirected.start()] {
        let told = ours.wait_event("web_seed")["reason"].to_string();
        assert!(told.contains("127.0.0.1 is a local address"), "{told}");
        ours.stop();
    }
    assert_eq!(good.connections(), 0, "nothing was sent there");
    // With the setting both go.
    let mut named = CcbtCommand::download(&torrent, &by_name).flag("--web-seed-local").start();
    named.wait_done();
    made.payload.assert_equal_in(&by_name);
    let mut redirected =
        download(&made, &lab, "followed", &[leads_here.url()]).flag("--web-seed-local").start();
    redirected.wait_done();
    made.payload.assert_equal_in(&lab.dir("followed"));
}

/// The server's certificate is checked against the system's authorities, here those of a file.
#[test]
fn certificates_of_web_seeds_are_checked() {
    let lab = Lab::open();
    let made = publish(&lab);
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let [trusted, key] = ["trusted.pem", "key.pem"].map(|name| lab.path().join(name));
    std::fs::write(&trusted, certified.cert.pem()).expect("written");
    std::fs::write(&key, certified.signing_key.serialize_pem()).expect("written");
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let untrusting = lab.path().join("other.pem");
    std::fs::write(&untrusting, other.cert.pem()).expect("written");
    let mut server = Command::new(python());
    server.args(["-c", include_str!("../src/https_server.py")]).args([&trusted, &key, &made.data]);
    let mut server = Process::start("HTTPS server", &mut server);
    let port: u16 = server.wait_line(PATIENCE, "its port", |line| line.parse().ok());
    let url = format!("https://localhost:{port}/");
    let trusting = |name: &str, roots: &Path| {
        download(&made, &lab, name, std::slice::from_ref(&url)).variable("SSL_CERT_FILE", roots)
    };
    let mut ours = trusting("wary", &untrusting).start();
    let told = ours.wait_event("web_seed")["reason"].to_string();
    assert!(told.contains("certificate"), "{told}");
    ours.stop();
    let mut ours = trusting("copy", &trusted).start();
    ours.wait_done();
    made.payload.assert_equal_in(&lab.dir("copy"));
}

#[test]
fn limits_hold_for_web_seeds_and_a_torrent_can_be_stopped_meanwhile() {
    let lab = Lab::open();
    let made = lab.publish(Payload::single("one.bin", 8 * MIB), TorrentSpec::pieces_of(256 * KIB));
    let good = WebServer::start(&made.data, Answer::Ranges);
    let mut ours = download(&made, &lab, "copy", &[good.url()]).option("--down-limit", "1MiB").start();
    ours.wait_progress("web_downloaded", MIB as u64);
    let rates: Vec<u64> =
        ours.events("progress").iter().filter_map(|event| event["down_rate"].as_u64()).collect();
    assert!(rates.iter().all(|rate| *rate < 3 * MIB as u64), "{rates:?}");
    ours.stop();
    let last = ours.events("progress").pop().expect("told at the end");
    assert!(last["web_downloaded"].as_u64() < Some(8 * MIB as u64), "{last}");
}
