//! Magnet links end to end: metadata from and for libtorrent and aria2, peers through PEX alone, hostile peers, private
//! torrents, and going on without any peer.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ccbt_tests::PATIENCE;
use ccbt_tests::aria2::Aria2Peer;
use ccbt_tests::binary::ccbt_fast;
use ccbt_tests::ccbt::{Ccbt, CcbtCommand};
use ccbt_tests::daemon::DaemonCommand;
use ccbt_tests::lab::{Lab, Published};
use ccbt_tests::libtorrent::LibtorrentPeer;
use ccbt_tests::payload::Payload;
use ccbt_tests::process::wait_until;
use ccbt_tests::raw_peer::{RawPeer, handshake_bytes, id};
use ccbt_tests::torrent::{TorrentSpec, info_of};
use ccbt_tests::tracker::Tracker;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// Metadata of more than a MiB: 74 pieces.
const FILLER: usize = 1_200_000;

fn link(made: &Published, rest: &str) -> String {
    format!("magnet:?xt=urn:btih:{}{rest}", made.torrent.info_hash_hex())
}

fn spec() -> TorrentSpec {
    TorrentSpec::pieces_of(64 * KIB)
}

fn we_seed(made: &Published) -> Ccbt {
    let mut seed = CcbtCommand::seed(&made.torrent_path, &made.data).start();
    seed.wait_ready();
    seed
}

#[test]
fn metadata_comes_from_libtorrent_and_is_kept_for_the_next_time() {
    let lab = Lab::open();
    let made = lab.publish(Payload::straddling("tree", 2 * MIB), spec().filler(FILLER));
    let seed = LibtorrentPeer::start(&made.torrent_path, &made.data);
    let (copy, kept) = (lab.dir("ours"), lab.dir("kept"));
    let with_peer = link(&made, &format!("&dn=a%20name&x.pe={}", seed.address()));
    let mut ours = CcbtCommand::magnet(&with_peer, &copy).checkpoints(&kept).start();
    ours.wait_done();
    made.payload.assert_equal_in(&copy);
    let found = &ours.events("metadata")[0];
    assert_eq!((&found["name"], found["len"].as_u64()), (&"tree".into(), Some(info_len(&made, FILLER))));
    let last = ours.events("fetching").pop().expect("told at the end at least");
    assert_eq!((last["received"].as_u64(), &last["total"]), (found["len"].as_u64(), &found["len"]));
    drop(seed);
    // Nobody is there to ask.
    let mut again = CcbtCommand::magnet(&link(&made, ""), &copy).checkpoints(&kept).flag("--resume").start();
    again.wait_done();
    assert!(again.events("fetching").is_empty() && again.events("metadata").is_empty());
    assert_eq!(again.events("resumed")[0]["pieces"], made.torrent.piece_count());
}

fn info_len(made: &Published, filler: usize) -> u64 {
    info_of(&made.payload, &spec().filler(filler)).encode().len() as u64
}

#[test]
fn libtorrent_aria2_and_we_ourselves_fetch_metadata_from_us() {
    let (lab, tracker) = (Lab::open(), Tracker::start());
    let made =
        lab.publish(Payload::tree("tree", &[("a", 300 * KIB), ("b", 400 * KIB)]), spec().filler(FILLER));
    let seed = we_seed(&made);
    let by_tracker = link(&made, &format!("&tr={}", tracker.url()));
    tracker.add_peer(made.torrent.info_hash(), seed.address());

    let theirs = lab.dir("libtorrent");
    let mut leech = LibtorrentPeer::start(Path::new(&link(&made, "")), &theirs);
    leech.connect(seed.address());
    leech.wait_finished();
    made.payload.assert_equal_in(&theirs);

    let theirs = lab.dir("aria2");
    Aria2Peer::leech(&lab, Path::new(&by_tracker), &theirs).wait_finished();
    made.payload.assert_equal_in(&theirs);

    // The first file alone (BEP 53), with `download`, over a tracker.
    let ours = lab.dir("ours");
    let mut leech = CcbtCommand::download(Path::new(&format!("{by_tracker}&so=0")), &ours).trackers().start();
    leech.wait_done();
    let a = std::fs::read(ours.join("tree/a")).expect("the chosen file is there");
    assert!(a == made.payload.files().next().expect("a file").bytes[..]);
    let b = std::fs::metadata(ours.join("tree/b"));
    let shared = 64 * KIB as u64;
    assert!(
        b.is_err() || std::os::unix::fs::MetadataExt::blocks(&b.unwrap()) * 512 <= shared,
        "the other is not"
    );
}

#[test]
fn a_magnet_finds_the_seed_through_pex_alone() {
    let lab = Lab::open();
    let made = lab.publish(Payload::single("one.bin", 3 * MIB), spec());
    let seed = LibtorrentPeer::start(&made.torrent_path, &made.data);
    // Both have next to nothing to give themselves, and know the seed.
    let mut theirs = LibtorrentPeer::start(&made.torrent_path, &lab.dir("between"));
    theirs.limit(2000);
    theirs.connect(seed.address());
    let copy = lab.dir("ours");
    let only_them = link(&made, &format!("&x.pe={}", theirs.address()));
    CcbtCommand::magnet(&only_them, &copy).start().wait_done();
    made.payload.assert_equal_in(&copy);

    let between = CcbtCommand::download(&made.torrent_path, &lab.dir("ours between"));
    let mut between = between.option("--down-limit", "2K").peer(seed.address()).start();
    between.wait_json("peer", |event| (event["peers"].as_u64() > Some(0)).then_some(()));
    let copy = lab.dir("theirs");
    let mut leech = LibtorrentPeer::start(Path::new(&link(&made, "")), &copy);
    leech.connect(between.address());
    leech.wait_finished();
    made.payload.assert_equal_in(&copy);
    between.assert_alive();
}

#[test]
fn the_daemon_takes_magnet_links_and_keeps_them_over_a_restart() {
    let lab = Lab::open();
    let made = lab.publish(Payload::single("one.bin", MIB), spec());
    let daemon = DaemonCommand::new(&lab).start();
    let waits = |row: &serde_json::Value| {
        assert_eq!(
            (row["state"].as_str(), row["name"].as_str()),
            (Some("fetching_metadata"), Some("it waits"))
        );
    };
    let link = link(&made, "&dn=it+waits");
    waits(&daemon.ask(&["add", &link])[0]);
    let (code, _, problem) = daemon.run(&["add", &link]);
    assert!(code != 0 && problem.contains("here already"), "{problem}");
    let hash = made.torrent.info_hash_hex();
    let (code, _, problem) = daemon.run(&["pause", &hash]);
    assert!(code != 0 && problem.contains("metadata"), "{problem}");
    daemon.ask(&["remove", &hash]);
    assert!(daemon.list().is_empty());
    daemon.ask(&["add", &link]);
    // Nothing of it is lost.
    daemon.kill();
    let daemon = DaemonCommand::new(&lab).start();
    waits(&daemon.list()[0]);
    let mut events = UnixStream::connect(daemon.socket()).expect("the daemon listens");
    events.write_all(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n").expect("asked");
    let mut seed = LibtorrentPeer::start(&made.torrent_path, &made.data);
    seed.connect(daemon.address());
    wait_until(PATIENCE, "a seeding daemon", || (daemon.list()[0]["state"] == "seeding").then_some(()));
    assert_eq!(daemon.list()[0]["name"], "one.bin");
    made.payload.assert_equal_in(&lab.dir("out"));
    daemon.stop();
    let mut told = String::new();
    events.read_to_string(&mut told).expect("it ends");
    assert!(told.contains("\"event\":\"status\""), "{told}");
    assert!(!told.contains("\"event\":\"added\""), "a link is told as added once, when it comes: {told}");
    let daemon = DaemonCommand::new(&lab).start();
    assert_eq!(daemon.list().len(), 1, "the torrent has taken the link's place");
    daemon.stop();
}

/// How a peer with metadata behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Honest,
    /// Names a size that no metadata has.
    Huge,
    /// Names another size, and sends bytes for that.
    OtherSize,
    Garbage,
    Rejects,
    /// Sends pieces that nobody asked for.
    Endless,
    Silent,
    /// Hangs up at every request.
    Flaps,
}

/// Why metadata is not there yet, and what is said with who should have it.
#[test]
fn a_link_is_explained_and_its_peers_are_listened_to() {
    let lab = Lab::open();
    let made = lab.publish(Payload::single("why.bin", MIB), spec());
    let hash = made.torrent.info_hash_hex();
    let daemon = DaemonCommand::new(&lab).start();
    let first = |cause: &str| {
        wait_until(PATIENCE, cause, || {
            let found = daemon.ask(&["explain", &hash[..8]]).remove(0);
            (found["findings"][0]["cause"] == cause).then(|| found["findings"][0].clone())
        })
    };
    daemon.ask(&["add", &link(&made, "")]);
    first("no_addresses");
    daemon.ask(&["remove", &hash]);
    // It gets no answer before somebody listens.
    let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 93), 0)).expect("a free port");
    let address = listener.local_addr().expect("bound");
    daemon.ask(&["add", &link(&made, &format!("&x.pe={address}"))]);
    let mut reader = Command::new(ccbt_fast())
        .args(["trace", &hash, &address.ip().to_string(), "--lines", "10", "--socket"])
        .arg(daemon.socket())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut said = String::new();
    BufReader::new(reader.stderr.take().expect("piped")).read_line(&mut said).expect("it says something");
    assert!(said.starts_with("waiting for messages"), "{said}");
    let info: Vec<u8> = info_of(&made.payload, &spec()).encode();
    let info_hash = made.torrent.info_hash();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut peer = RawPeer::new(stream.expect("a connection"));
            serve(&mut peer, 93, info_hash, &info, Manner::Rejects, None, &mut |_| {});
        }
    });
    let found = first("metadata_refused");
    assert!(found["evidence"]["rejects"].as_u64() >= Some(1), "{found}");
    assert_eq!(found["severity"], "stops");
    let done = reader.wait_with_output().expect("it ends by itself");
    let text = String::from_utf8(done.stdout).expect("UTF-8");
    for part in [
        "connected over TCP",
        "-> handshake",
        "<- extended handshake",
        "-> extended ut_metadata",
        "<- extended ut_metadata",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    daemon.stop();
}

/// A peer without data. Each has an address of its own, so that bans can be told apart.
struct MetaPeer {
    address: SocketAddr,
    /// What the client under test said in extended handshakes: connection, payload.
    hellos: Arc<Mutex<Vec<(usize, String)>>>,
    connections: Arc<AtomicUsize>,
}

impl MetaPeer {
    /// `gossip` is sent as ut_pex after an extended handshake that names a metadata size.
    fn start(
        host: u8,
        made: &Published,
        spec: &TorrentSpec,
        manner: Manner,
        gossip: Option<SocketAddr>,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 0, host), 0)).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let hellos = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(AtomicUsize::new(0));
        let info: Arc<[u8]> = info_of(&made.payload, spec).encode().into();
        let (said, count, info_hash) = (hellos.clone(), connections.clone(), made.torrent.info_hash());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let number = count.fetch_add(1, Ordering::SeqCst);
                let (said, info) = (said.clone(), info.clone());
                let mut peer = RawPeer::new(stream.expect("a connection"));
                std::thread::spawn(move || {
                    serve(&mut peer, host, info_hash, &info, manner, gossip, &mut |hello| {
                        said.lock().expect("no panic").push((number, hello));
                    });
                });
            }
        });
        Self { address, hellos, connections }
    }

    fn hellos(&self) -> Vec<(usize, String)> {
        self.hellos.lock().expect("no panic").clone()
    }
}

/// The number behind `key` in a bencoded text.
fn number(text: &str, key: &str) -> Option<usize> {
    let rest = &text[text.find(key)? + key.len()..];
    rest.strip_prefix('i')?.split('e').next()?.parse().ok()
}

fn serve(
    peer: &mut RawPeer,
    host: u8,
    info_hash: [u8; 20],
    info: &[u8],
    manner: Manner,
    gossip: Option<SocketAddr>,
    heard: &mut dyn FnMut(String),
) {
    let own_id = format!("-MP0001-{host:012}");
    let reserved = [0, 0, 0, 0, 0, 0x10, 0, 0];
    peer.send_bytes(&handshake_bytes(info_hash, reserved, own_id.as_bytes().try_into().expect("20 bytes")));
    if peer.read_handshake().is_none() {
        return;
    }
    let size = match manner {
        Manner::Huge => 33 << 20,
        Manner::OtherSize => 50_000,
        _ => info.len(),
    };
    let hello = format!("d1:md11:ut_metadatai3e6:ut_pexi4ee13:metadata_sizei{size}ee");
    peer.send(id::EXTENDED, &[b"\0", hello.as_bytes()].concat());
    let mut theirs = 0;
    while let Some(message) = peer.recv() {
        if message.id != id::EXTENDED {
            continue;
        }
        let text = String::from_utf8_lossy(&message.payload[1..]).into_owned();
        if message.payload[0] == 0 {
            theirs = number(&text, "11:ut_metadata").unwrap_or(0) as u8;
            if let (Some(SocketAddr::V4(addr)), true) = (gossip, text.contains("metadata_size")) {
                let compact = [&addr.ip().octets()[..], &addr.port().to_be_bytes()].concat();
                let pex = [b"\x01d5:added6:", &compact[..], b"7:added.f1:\0e"].concat();
                peer.send(id::EXTENDED, &pex);
            }
            heard(text);
            continue;
        }
        let Some(piece) = number(&text, "5:piece") else { continue };
        let data = |piece: usize, wrong: bool| {
            let start = (piece * 16 * KIB).min(size);
            let mut bytes = info.to_vec();
            bytes.resize(size.min(MIB * 4), 0);
            let mut part = bytes[start..(start + 16 * KIB).min(bytes.len())].to_vec();
            part.first_mut().into_iter().for_each(|byte| *byte ^= u8::from(wrong));
            let head = format!("d8:msg_typei1e5:piecei{piece}e10:total_sizei{size}ee");
            [&[theirs], head.as_bytes(), &part].concat()
        };
        let alive = match manner {
            Manner::Honest => peer.send(id::EXTENDED, &data(piece, false)),
            Manner::Garbage | Manner::OtherSize => peer.send(id::EXTENDED, &data(piece, true)),
            Manner::Rejects => {
                let reject = format!("d8:msg_typei2e5:piecei{piece}ee");
                peer.send(id::EXTENDED, &[&[theirs], reject.as_bytes()].concat())
            }
            Manner::Endless => (0..5000).all(|_| peer.send(id::EXTENDED, &data(0, true))),
            Manner::Huge | Manner::Silent => true,
            Manner::Flaps => false,
        };
        if !alive {
            return;
        }
    }
}

#[test]
fn hostile_peers_neither_stop_a_magnet_nor_harm_others() {
    let lab = Lab::open();
    let spec = spec().filler(200_000);
    let made = lab.publish(Payload::single("one.bin", MIB), spec.clone());
    let manners = [
        Manner::Huge,
        Manner::OtherSize,
        Manner::Garbage,
        Manner::Rejects,
        Manner::Endless,
        Manner::Silent,
        Manner::Flaps,
    ];
    let start = |(at, manner): (usize, &Manner)| MetaPeer::start(10 + at as u8, &made, &spec, *manner, None);
    let hostile: Vec<MetaPeer> = manners.iter().enumerate().map(start).collect();
    let copy = lab.dir("ours");
    // The only one that has everything is known by the tracker, so it comes a moment after the others.
    let tracker = Tracker::start();
    let seed = LibtorrentPeer::start(&made.torrent_path, &made.data);
    tracker.add_peer(made.torrent.info_hash(), seed.address());
    let mut command = CcbtCommand::magnet(&link(&made, &format!("&tr={}", tracker.url())), &copy).trackers();
    for peer in &hostile {
        command = command.peer(peer.address);
    }
    let mut ours = command.start();
    ours.wait_done();
    made.payload.assert_equal_in(&copy);
    let banned: BTreeSet<String> =
        ours.events("banned").iter().filter_map(|event| Some(event["ip"].as_str()?.to_owned())).collect();
    // Another size, garbage, and the endless one, whose pieces are false too.
    let liars = [11, 12, 14].map(|host| format!("127.0.0.{host}"));
    assert!(banned.iter().all(|ip| liars.contains(ip)), "only who lied is banned: {banned:?}");
    assert!(hostile.iter().all(|peer| peer.connections.load(Ordering::SeqCst) > 0), "all had their chance");
}

#[test]
fn the_torrent_goes_on_over_the_same_connection_and_hears_of_peers() {
    let lab = Lab::open();
    let made = lab.publish(Payload::single("one.bin", MIB), spec());
    let seed = LibtorrentPeer::start(&made.torrent_path, &made.data);
    // It has the metadata alone, and tells of the seed only when the torrent itself speaks.
    let knows = MetaPeer::start(30, &made, &spec(), Manner::Honest, Some(seed.address()));
    let copy = lab.dir("ours");
    CcbtCommand::magnet(&link(&made, &format!("&x.pe={}", knows.address)), &copy).start().wait_done();
    made.payload.assert_equal_in(&copy);
    let hellos = knows.hellos();
    let first: Vec<&String> =
        hellos.iter().filter(|(number, _)| *number == 0).map(|(_, hello)| hello).collect();
    assert!(first.len() >= 2, "a second handshake over the first connection: {hellos:?}");
    assert!(!first[0].contains("metadata_size") && first[1].contains("metadata_size"), "{hellos:?}");
    assert!(first.iter().all(|hello| hello.contains("ut_pex")));
}

#[test]
fn a_private_torrent_neither_offers_pex_nor_follows_it() {
    let lab = Lab::open();
    let spec = TorrentSpec { private: true, ..spec() };
    let made = lab.publish(Payload::single("one.bin", MIB), spec.clone());
    let trap = TcpListener::bind("127.0.0.41:0").expect("a free port");
    let knows = MetaPeer::start(40, &made, &spec, Manner::Honest, trap.local_addr().ok());
    let copy = lab.dir("ours");
    let command = CcbtCommand::magnet(&link(&made, ""), &copy).peer(knows.address);
    let mut ours = command.option("--seed-time", "1h").start();
    ours.wait_event("metadata");
    let said = |hello: &String| hello.contains("metadata_size");
    wait_until(PATIENCE, "a handshake of the torrent", || {
        knows.hellos().iter().any(|(_, hello)| said(hello)).then_some(())
    });
    // The seed is met afterwards: by then the gossip has long been heard.
    let mut seed = LibtorrentPeer::start(&made.torrent_path, &made.data);
    seed.connect(ours.address());
    ours.wait_event("finished");
    let hellos = knows.hellos();
    let (of_torrent, before): (Vec<_>, Vec<_>) = hellos.iter().partition(|(_, hello)| said(hello));
    assert!(of_torrent.iter().all(|(number, hello)| *number > 0 && !hello.contains("ut_pex")), "{hellos:?}");
    assert!(
        before.iter().all(|(number, _)| *number == 0),
        "nobody knew before that it is private: {hellos:?}"
    );
    trap.set_nonblocking(true).expect("a listener can be non-blocking");
    std::thread::sleep(Duration::from_millis(1500));
    assert!(trap.accept().is_err(), "nobody follows what a peer says of a private torrent");
    ours.stop();
}
