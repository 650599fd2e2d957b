//! Load that nobody honest makes: thousands of connections, floods of everything, and coming and going without end. Limits
//! hold, memory and descriptors come back, and honest peers are served meanwhile.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use ccbt_tests::ccbt::{Ccbt, CcbtCommand};
use ccbt_tests::daemon::{Daemon, DaemonCommand, base64, torrent};
use ccbt_tests::lab::{Lab, Published};
use ccbt_tests::payload::Payload;
use ccbt_tests::process::{POLL, wait_until};
use ccbt_tests::raw_peer::{RawPeer, full_bitfield, id};
use ccbt_tests::raw_seeder::{Manner, RawSeeder};
use ccbt_tests::torrent::TorrentSpec;
use ccbt_tests::{PATIENCE, SOON};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

const KIB: usize = 1 << 10;
const PIECE: usize = 64 * KIB;
/// Connections of a session unless it is told otherwise.
const CONNECTIONS_MAX: usize = 500;
/// Extended messages (BEP 10), and BEP 6.
const EXTENDED: [u8; 8] = [0, 0, 0, 0, 0, 0x10, 0, 0x04];
const PLAIN: [u8; 8] = [0; 8];

fn publish(lab: &Lab, pieces: usize) -> Published {
    lab.publish(Payload::single("target", pieces * PIECE - 77), TorrentSpec::pieces_of(PIECE))
}

/// This process may open as many descriptors as anybody lets it.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).expect("a soft limit can be raised");
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count()
}

/// Threads of the program's own: the kernel's workers for io_uring come and go as they like.
fn threads(pid: u32) -> usize {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| !name.starts_with("iou-")).count()
}

/// Memory that it has resident now, in KiB.
fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the kernel tells");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

fn frame(id: u8, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len() + 1).expect("short");
    [&len.to_be_bytes()[..], &[id], payload].concat()
}

fn words(id: u8, numbers: &[u32]) -> Vec<u8> {
    frame(id, &numbers.iter().flat_map(|number| number.to_be_bytes()).collect::<Vec<u8>>())
}

/// A connection through its handshake, as soon as there is a place for it.
fn meet(target: &Ccbt, made: &Published, from: Ipv4Addr) -> RawPeer {
    // Sooner than anybody would make way for having been idle.
    wait_until(SOON, "place for an honest peer", || {
        let mut peer = RawPeer::try_connect_from(from, target.address()).ok()?;
        peer.send_handshake(made.torrent.info_hash());
        peer.read_handshake().map(|_| peer)
    })
}

/// A block, as an honest peer that is unchoked asks for it.
fn assert_served(peer: &mut RawPeer, made: &Published) {
    let block = peer.fetch(3, 16_384, 16_384).expect("an honest peer is served");
    assert_eq!(block, made.payload.concatenated()[3 * PIECE + 16_384..][..16_384]);
}

#[test]
fn five_thousand_connections_from_one_address_and_from_many() {
    raise_descriptors();
    let lab = Lab::open();
    let made = publish(&lab, 8);
    let mut seed = CcbtCommand::seed(&made.torrent_path, &made.data).start();
    seed.wait_ready();
    let before = descriptors(seed.pid());
    let mut early = meet(&seed, &made, Ipv4Addr::new(127, 0, 31, 1));
    assert!(early.become_unchoked());
    let open = |count: usize, from: &dyn Fn(usize) -> Ipv4Addr, greets: bool| -> Vec<RawPeer> {
        let one = |nth| {
            // Refusing some of them is right.
            let mut peer = RawPeer::try_connect_from(from(nth), seed.address()).ok()?;
            if greets {
                peer.send_handshake(made.torrent.info_hash());
            }
            Some(peer)
        };
        (0..count).filter_map(one).collect()
    };
    // All places of the torrent, then all of the session are one machine's, which keeps nobody out.
    let mut crowd = open(1800, &|_| Ipv4Addr::new(127, 0, 30, 1), true);
    crowd.extend(open(700, &|_| Ipv4Addr::new(127, 0, 30, 1), false));
    let mut late = meet(&seed, &made, Ipv4Addr::new(127, 0, 31, 2));
    assert!(late.become_unchoked(), "one address has all the places");
    assert_served(&mut late, &made);
    assert_served(&mut early, &made);
    // Many machines: who was there before is still served.
    let low = |nth: usize| u8::try_from(nth % 250 + 1).expect("it is at most 250");
    let net = |nth: usize| u8::try_from(40 + nth / 250).expect("few");
    crowd.extend(open(2500, &|nth| Ipv4Addr::new(127, 0, net(nth), low(nth)), true));
    assert_served(&mut late, &made);
    assert_served(&mut early, &made);
    let most = descriptors(seed.pid());
    assert!(most <= before + CONNECTIONS_MAX + 20, "{most} descriptors, {before} before");
    drop((crowd, early, late));
    wait_until(PATIENCE, "descriptors that are given back", || {
        (descriptors(seed.pid()) <= before + 2).then_some(())
    });
    let mut again = meet(&seed, &made, Ipv4Addr::new(127, 0, 31, 3));
    assert!(again.become_unchoked());
    assert_served(&mut again, &made);
}

// ---- floods

/// One that says `hello`, then `flood` until the other side hangs up or it has said `most` bytes, and reads nothing; comes
/// back `times` times, and stays at the end.
struct Flooder {
    from: Ipv4Addr,
    reserved: [u8; 8],
    hello: Vec<u8>,
    flood: Vec<u8>,
    most: usize,
    times: usize,
}

impl Flooder {
    fn run(&self, address: SocketAddr, info_hash: [u8; 20], over: &AtomicBool) {
        for _ in 0..self.times {
            let Ok(mut peer) = RawPeer::try_connect_from(self.from, address) else { continue };
            peer.send_handshake_with(info_hash, self.reserved);
            let mut socket = peer.socket().expect("a socket can be cloned");
            socket.set_write_timeout(Some(POLL)).expect("it has a timeout");
            let is_open = write(&mut socket, &self.hello, over)
                && (0..self.most / self.flood.len().max(1)).all(|_| write(&mut socket, &self.flood, over));
            while is_open && !over.load(Ordering::Acquire) {
                thread::sleep(POLL);
            }
        }
    }
}

/// How many; the reserved bytes of their handshake; what they say once; what they repeat; bytes of it at most, and times.
type Kind = (usize, [u8; 8], Vec<u8>, Vec<u8>, usize, usize);

/// Sends all of `bytes`, however long that takes; `false`: it cannot any more.
fn write(socket: &mut TcpStream, mut bytes: &[u8], over: &AtomicBool) -> bool {
    while !bytes.is_empty() && !over.load(Ordering::Acquire) {
        match socket.write(bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock) => {}
            Err(_) => return false,
        }
    }
    !over.load(Ordering::Acquire)
}

fn flooders(pieces: usize) -> Vec<Flooder> {
    let all = frame(id::BITFIELD, &full_bitfield(pieces));
    // Peers that exist nowhere, at this machine.
    let peers: Vec<u8> = (0..50u8).flat_map(|n| [127, 66, n, 9, 0, 1]).collect();
    let gossip: Vec<u8> = (1..6u8)
        .flat_map(|ours| {
            let head = [&[ours][..], b"d5:added300:"].concat();
            frame(id::EXTENDED, &[&head, &peers[..], b"e"].concat())
        })
        .collect();
    let hello = frame(id::EXTENDED, b"\0d1:md6:ut_pexi1e11:ut_metadatai2eee");
    let flap = [frame(id::UNCHOKE, &[]), frame(id::CHOKE, &[])].concat();
    let taken_back = [words(id::REQUEST, &[0, 0, 16_384]), words(id::CANCEL, &[0, 0, 16_384])].concat();
    let metadata = frame(id::EXTENDED, b"\x02d8:msg_typei0e5:piecei0ee");
    // Without one that ends, as long as an extension's message may be and as long as none is.
    let unfinished = |len: usize| {
        let len_field = u32::try_from(len).expect("short").to_be_bytes();
        [&len_field[..], &[id::EXTENDED, 0], &vec![b'd'; len - 3]].concat()
    };
    let kinds: [Kind; 9] = [
        (120, EXTENDED, Vec::new(), unfinished(32 << 10), 1, 1),
        (120, EXTENDED, Vec::new(), unfinished((1 << 20) - 9), 1, 2),
        (4, PLAIN, all.clone(), flap.repeat(100), 128 << 10, 2),
        (4, EXTENDED, Vec::new(), taken_back.repeat(100), 4 << 20, 20),
        (4, EXTENDED, Vec::new(), words(id::REQUEST, &[0, 0, 16_384]).repeat(100), 4 << 20, 20),
        (4, PLAIN, Vec::new(), words(id::HAVE, &[1]).repeat(1000), 4 << 20, 20),
        (4, EXTENDED, Vec::new(), 100_000_000u32.to_be_bytes().to_vec(), 1 << 20, 20),
        (4, EXTENDED, hello.clone(), gossip, 1 << 20, 20),
        (4, EXTENDED, hello, metadata.repeat(1000), 4 << 20, 20),
    ];
    let mut flooders = Vec::new();
    for (kind, (count, reserved, hello, flood, most, times)) in kinds.into_iter().enumerate() {
        for nth in 0..count {
            let third = u8::try_from(80 + kind).expect("few kinds");
            let from = Ipv4Addr::new(127, 0, third, u8::try_from(nth + 1).expect("few of a kind"));
            let (hello, flood) = (hello.clone(), flood.clone());
            // What is said once is longer than `most`.
            let most = most.max(flood.len());
            flooders.push(Flooder { from, reserved, hello, flood, most, times });
        }
    }
    flooders
}

/// Queries of the DHT and SYNs of uTP, from many ports.
fn flood_datagrams(address: SocketAddr, over: &AtomicBool) {
    let sockets: Vec<UdpSocket> =
        (1..=200).filter_map(|n| UdpSocket::bind((Ipv4Addr::new(127, 0, 99, n), 0)).ok()).collect();
    for round in 0..400u16 {
        for (nth, socket) in (0u16..).zip(&sockets) {
            let mut hash = [7; 20];
            hash[..2].copy_from_slice(&round.to_be_bytes());
            hash[2..4].copy_from_slice(&nth.to_be_bytes());
            let ask =
                [&b"d1:ad2:id20:"[..], &hash, b"9:info_hash20:", &hash, b"e1:q9:get_peers1:t2:xy1:y1:qe"];
            let mut syn = vec![0x41, 0];
            syn.extend(round.to_be_bytes());
            syn.extend([0; 8]);
            syn.extend((1u32 << 20).to_be_bytes());
            syn.extend([0, 1, 0, 0]);
            for datagram in [ask.concat(), syn] {
                // A full buffer is the flood's own doing.
                let _ = socket.send_to(&datagram, address);
            }
        }
        if over.load(Ordering::Acquire) {
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn floods_of_everything_stay_below_the_ceiling() {
    const CEILING_MIB: u64 = 32;
    const BESIDES_MIB: u64 = 64;
    raise_descriptors();
    let lab = Lab::open();
    let pieces = 64;
    let made = publish(&lab, pieces);
    let command = CcbtCommand::download(&made.torrent_path, &lab.dir("copy"))
        .dht("127.0.0.1:9".parse().expect("an address"))
        .option("--memory", CEILING_MIB.to_string())
        .option("--max-peers", "400")
        .option("--seed-time", "30")
        .flag("--utp");
    let mut ours = command.start();
    ours.wait_ready();
    let (address, info_hash) = (ours.address(), made.torrent.info_hash());
    let over = AtomicBool::new(false);
    let flooders = flooders(pieces);
    let most = thread::scope(|scope| {
        for flooder in &flooders {
            scope.spawn(|| flooder.run(address, info_hash, &over));
        }
        scope.spawn(|| flood_datagrams(address, &over));
        let watched = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            // They have begun in earnest.
            thread::sleep(Duration::from_secs(5));
            let honest = RawSeeder::start(Ipv4Addr::new(127, 0, 98, 1), &made, Manner::default());
            ours.assert_alive();
            honest.dial(address);
            ours.wait_event("finished");
            ours.peak_memory_bytes().expect("it seeds for half an hour")
        }));
        over.store(true, Ordering::Release);
        watched.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    made.payload.assert_equal_in(&lab.dir("copy"));
    eprintln!("at most {} MiB resident", most >> 20);
    assert!(most <= (CEILING_MIB + BESIDES_MIB) << 20, "{most} bytes resident with --memory {CEILING_MIB}");
}

// ---- coming and going

/// What a process holds, once it is at rest.
#[derive(Clone, Copy, Debug)]
struct Held {
    descriptors: usize,
    threads: usize,
    resident_kib: u64,
}

impl Held {
    fn by(pid: u32) -> Self {
        Self { descriptors: descriptors(pid), threads: threads(pid), resident_kib: resident_kib(pid) }
    }

    /// No more than `self` but for what allocators and caches keep.
    fn wait_for_no_more(self, pid: u32, slack_kib: u64) {
        let is_back = |now: &Held| {
            now.descriptors <= self.descriptors
                && now.threads <= self.threads
                && now.resident_kib <= self.resident_kib + slack_kib
        };
        let mut last = self;
        let back = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_until(PATIENCE, "everything that is given back", || {
                last = Held::by(pid);
                is_back(&last).then_some(())
            });
        }));
        eprintln!("before: {self:?}, after: {last:?}");
        back.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
}

/// Connections that end at all stages: silent, within and after the handshake, interested, within a request, served.
fn come_and_go(cycles: usize) {
    let lab = Lab::open();
    let made = publish(&lab, 8);
    let mut seed = CcbtCommand::seed(&made.torrent_path, &made.data).start();
    seed.wait_ready();
    let info_hash = made.torrent.info_hash();
    let cycle = |nth: usize| {
        let from = Ipv4Addr::new(127, 0, 101, u8::try_from(nth % 200 + 1).expect("at most 200"));
        let Ok(mut peer) = RawPeer::try_connect_from(from, seed.address()) else { return };
        match nth % 6 {
            0 => {}
            1 => drop(peer.send_bytes(b"\x13BitTorrent pro")),
            2 => peer.send_handshake(info_hash),
            3 => {
                peer.send_handshake_with(info_hash, EXTENDED);
                peer.read_handshake();
            }
            4 => {
                peer.send_handshake(info_hash);
                peer.send_bytes(&frame(id::INTERESTED, &[]));
                peer.read_handshake();
                peer.send_bytes(&words(id::REQUEST, &[1, 0, 16_384])[..9]);
            }
            _ => {
                peer.send_handshake(info_hash);
                if peer.read_handshake().is_some() && peer.become_unchoked() {
                    peer.fetch(1, 0, 16_384);
                }
            }
        }
    };
    // What is allocated once is, before it is looked.
    (0..300).for_each(cycle);
    wait_until(PATIENCE, "a seed at rest", || {
        let before = descriptors(seed.pid());
        thread::sleep(Duration::from_millis(200));
        (descriptors(seed.pid()) == before).then_some(())
    });
    let before = Held::by(seed.pid());
    (0..cycles).for_each(cycle);
    before.wait_for_no_more(seed.pid(), 8 << 10);
    seed.assert_alive();
    let mut peer = meet(&seed, &made, Ipv4Addr::new(127, 0, 101, 222));
    assert!(peer.become_unchoked());
    assert_served(&mut peer, &made);
}

#[test]
fn connections_that_come_and_go_leave_nothing() {
    come_and_go(600);
}

/// Half a minute and more: `cargo test --workspace --test hostile_load -- --ignored`.
#[test]
#[ignore = "takes minutes"]
fn ten_thousand_connections_leave_nothing() {
    come_and_go(10_000);
}

/// Torrents that are removed while they rest, look at their files, download and seed.
fn add_and_remove(cycles: usize) {
    let lab = Lab::open();
    let daemon = DaemonCommand::new(&lab).start();
    let pid = u32::try_from(daemon.stat("pid")).expect("32 bits");
    let made: Vec<Published> =
        (0..4).map(|n| torrent(&lab, &format!("t{n}.bin"), 300_000 + n * 1000, n % 2 == 0)).collect();
    let cycle = |nth: usize| {
        let made = &made[nth % 4];
        let output = if nth % 8 < 4 { made.data.clone() } else { lab.dir("elsewhere") };
        let body = json!({
            "torrent": base64(made.torrent.bytes()),
            "output": output,
            "paused": nth.is_multiple_of(5),
            "peers": ["127.0.0.1:1"],
        });
        let (status, answer) = daemon.http("POST", "/v1/torrents", &body.to_string());
        assert!((200..300).contains(&status), "{status}: {answer}");
        if nth.is_multiple_of(3) {
            thread::sleep(Duration::from_millis(3));
        }
        let deletes = if output == made.data { "false" } else { "true" };
        let path = format!("/v1/torrents/{}?delete_data={deletes}", made.torrent.info_hash_hex());
        let (status, answer) = daemon.http("DELETE", &path, "");
        assert!((200..300).contains(&status), "{status}: {answer}");
        wait_until(PATIENCE, "a torrent that is gone", || {
            let (status, _) = daemon.http("GET", &path[..path.find('?').expect("a query")], "");
            (status == 404).then_some(())
        });
    };
    (0..24).for_each(cycle);
    let before = Held::by(pid);
    (0..cycles).for_each(cycle);
    before.wait_for_no_more(pid, 8 << 10);
    assert_eq!(daemon.stat("torrents"), 0);
    let left = |dir: &str| fs::read_dir(lab.dir(dir)).expect("it is there").count();
    assert_eq!(left("elsewhere"), 0, "files of torrents that are gone");
    assert_eq!(left("state/daemon/torrents"), 0, "records of torrents that are gone");
    daemon.stop();
}

#[test]
fn torrents_that_come_and_go_leave_nothing() {
    add_and_remove(60);
}

/// See [`ten_thousand_connections_leave_nothing`].
#[test]
#[ignore = "takes minutes"]
fn a_thousand_torrents_leave_nothing() {
    add_and_remove(1000);
}

// ---- many at once

/// Adds `count` torrents as fast as the daemon takes them: a third are there and are looked at, the others are looked for.
/// All come to rest, at a bounded cost; removed again, nothing of them is left.
fn many_at_once(count: usize) {
    const KIB_EACH: u64 = 64;
    let lab = Lab::open();
    let all: Vec<Published> =
        (0..count).map(|n| torrent(&lab, &format!("m{n}.bin"), 30_000 + n % 9 * 1000, n % 3 == 0)).collect();
    let set = |value: &str| ["--set".to_owned(), format!("daemon.active_{value}=unlimited")];
    let daemon = DaemonCommand::new(&lab).args(set("downloads")).args(set("seeds")).start();
    let pid = daemon.pid();
    let before = Held::by(pid);
    for (n, made) in all.iter().enumerate() {
        let output = if n % 3 == 0 { made.data.clone() } else { lab.dir("elsewhere") };
        let body =
            json!({ "torrent": base64(made.torrent.bytes()), "output": output, "peers": ["127.0.0.1:1"] });
        let (status, answer) = daemon.http("POST", "/v1/torrents", &body.to_string());
        assert_eq!(status, 201, "{answer}");
    }
    let there = count.div_ceil(3) as u64;
    wait_until(PATIENCE, "torrents at rest", || {
        (daemon.stat("seeding") == there && daemon.stat("downloading") == count as u64 - there).then_some(())
    });
    assert_eq!(daemon.stat("failed"), 0);
    let rest = Held::by(pid);
    let each = rest.resident_kib.saturating_sub(before.resident_kib) / count as u64;
    eprintln!("{count} torrents: {rest:?}, {each} KiB each");
    assert!(each <= KIB_EACH, "{each} KiB for each of {count} torrents");
    assert!(rest.descriptors <= 1024 && rest.threads <= before.threads + 1, "{rest:?}, {before:?}");
    for made in &all {
        let path = format!("/v1/torrents/{}?delete_data=true", made.torrent.info_hash_hex());
        let (status, answer) = daemon.http("DELETE", &path, "");
        assert_eq!(status, 200, "{answer}");
    }
    assert_nothing_is_left(&lab, &daemon, &["data", "elsewhere"]);
    assert!(threads(pid) <= before.threads + 1, "{:?}, {before:?}", Held::by(pid));
    daemon.stop();
}

fn assert_nothing_is_left(lab: &Lab, daemon: &Daemon, folders: &[&str]) {
    wait_until(PATIENCE, "an empty list", || (daemon.stat("torrents") == 0).then_some(()));
    for folder in folders.iter().chain(&["state/daemon/torrents"]) {
        let left: Vec<_> = fs::read_dir(lab.dir(folder)).expect("it is there").flatten().collect();
        assert!(left.is_empty(), "{} of {folder} are left, such as {:?}", left.len(), left[0].path());
    }
}

#[test]
fn hundreds_of_torrents_added_at_once_come_to_rest() {
    many_at_once(400);
}

/// See [`ten_thousand_connections_leave_nothing`].
#[test]
#[ignore = "takes minutes"]
fn ten_thousand_torrents_added_at_once_come_to_rest() {
    many_at_once(10_000);
}
