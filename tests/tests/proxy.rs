//! A proxy: everything goes through it, and nothing else leaves. The client runs in a network namespace of its own,
//! and every packet that comes out of it is looked at.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ccbt_tests::binary::ccbt_fast;
use ccbt_tests::ccbt::CcbtCommand;
use ccbt_tests::daemon::DaemonCommand;
use ccbt_tests::lab::Lab;
use ccbt_tests::payload::Payload;
use ccbt_tests::process::{Process, run, wait_until};
use ccbt_tests::proxy::{CREDENTIALS, Proxy, Speech};
use ccbt_tests::raw_seeder::{Manner, RawSeeder};
use ccbt_tests::torrent::TorrentSpec;
use ccbt_tests::tracker::Tracker;
use ccbt_tests::udp_tracker::UdpTracker;
use ccbt_tests::veth::{FAR, NEAR, Veth};
use ccbt_tests::{PATIENCE, SOON};
use socket2::{Domain, Protocol, Socket, Type};

const KIB: usize = 1 << 10;
/// A peer as the proxy knows it; nobody has this address here.
const PEER: &str = "10.9.9.9:7000";
/// A node of the DHT, as the proxy knows its name and its address.
const NODE: (&str, &str) = ("router.example:6881", "10.9.9.7:6881");

/// What comes out of the namespace and is not for the proxy: each kind of packet, in words.
#[derive(Clone)]
struct Watch(Arc<Mutex<Vec<String>>>);

impl Watch {
    fn start(proxies: Arc<[Proxy]>) -> Self {
        // ETH_P_ALL, in the order of the network.
        let all = Protocol::from(i32::from(3u16.to_be()));
        let mut socket = Socket::new(Domain::PACKET, Type::RAW, Some(all)).expect("root may watch");
        let this = Self(Arc::default());
        let seen = this.0.clone();
        std::thread::spawn(move || {
            let mut frame = [0; 2048];
            while let Ok(len) = socket.read(&mut frame) {
                if let Some(leak) = leak(&frame[..len], &proxies) {
                    seen.lock().expect("no holder panics").push(leak);
                }
            }
        });
        this
    }

    fn leaks(&self) -> Vec<String> {
        self.0.lock().expect("no holder panics").clone()
    }
}

/// A frame of the far end that is neither for one of the proxies nor what the kernel sends by itself.
fn leak(frame: &[u8], proxies: &[Proxy]) -> Option<String> {
    let (kind, packet) = (frame.get(12..14)?, frame.get(14..)?);
    match kind {
        [0x08, 0x00] if packet.get(12..16)? == FAR.octets() => {
            let to = Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(16..20)?).ok()?);
            let at = usize::from(packet[0] & 15) * 4 + 2;
            let port = u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?);
            let for_proxy = to == NEAR
                && match packet[9] {
                    // The kernel's answer to a datagram that comes too late.
                    1 => true,
                    6 => proxies.iter().any(|proxy| proxy.address().port() == port),
                    17 => proxies.iter().any(|proxy| proxy.udp_ports().contains(&port)),
                    _ => false,
                };
            // IGMP is the kernel's; joining a group would show up in what is sent to it.
            (!for_proxy).then(|| format!("protocol {} to {to}:{port}", packet[9]))
        }
        // Neighbours and groups of IPv6 are the kernel's; frames of loopback have no address.
        [0x86, 0xdd] if frame[6..12] != [0; 6] && !matches!(packet[6], 0 | 58) => {
            Some(format!("IPv6, protocol {}", packet[6]))
        }
        _ => None,
    }
}

#[test]
fn everything_goes_through_the_proxy_and_nothing_else_leaves() {
    // Built before the thread loses its network.
    ccbt_fast();
    let lab = Lab::open();
    let veth = match Veth::new() {
        Ok(veth) => veth,
        Err(why) => return println!("skipped: {why}"),
    };
    let route = format!("route add default via {NEAR}");
    let (code, _, stderr) = run("ip", veth.over_there("ip").args(route.split(' ')), SOON);
    assert_eq!(code, 0, "{stderr}");
    let (tracker, udp_tracker) = (Tracker::start(), UdpTracker::start(&[PEER.parse().expect("an address")]));
    let tiers = ["http://tracker.example:8000/announce", "udp://tracker.example:80/announce"];
    let spec = tiers.iter().fold(TorrentSpec::pieces_of(64 * KIB), |spec, url| spec.tier((*url).to_owned()));
    let made = lab.publish(Payload::straddling("tree", 1 << 20), spec);
    let seeder =
        RawSeeder::start(Ipv4Addr::new(127, 0, 61, 1), &made, Manner::slow(Duration::from_millis(30)));
    // Only the DHT knows of this one.
    let hub = DaemonCommand::new(&lab).dht("none").start();
    let mut seed = CcbtCommand::seed(&made.torrent_path, &made.data).dht(hub.address()).start();
    seed.wait_ready();
    wait_until(PATIENCE, "the seed's announce", || (hub.stat("dht_stored") > 0).then_some(()));
    let at = |url: &str| -> SocketAddr {
        let rest = url.split_once("://").expect("a URL").1;
        rest.trim_end_matches("/announce").parse().expect("an address")
    };
    let places: HashMap<_, _> = [
        (PEER.to_owned(), seeder.address()),
        (seed.address().to_string(), seed.address()),
        ("tracker.example:8000".to_owned(), at(&tracker.url())),
        ("tracker.example:80".to_owned(), at(&udp_tracker.url())),
        ("10.9.9.8:80".to_owned(), at(&udp_tracker.url())),
        (NODE.0.to_owned(), hub.address()),
        (NODE.1.to_owned(), hub.address()),
    ]
    .into();
    let speeches = [Speech::Socks, Speech::SocksWithoutUdp, Speech::Http];
    let proxies: Arc<[Proxy]> =
        speeches.map(|speech| Proxy::start(NEAR, speech, places.clone())).into_iter().collect();
    let watch = Watch::start(proxies.clone());
    let secret = lab.file("secret", format!("{}:{}\n", CREDENTIALS.0, CREDENTIALS.1).as_bytes());
    let command = |what: [&OsStr; 2], copy: &str, proxy: Option<(&str, &Proxy)>| {
        let mut command = veth.over_there(ccbt_fast().to_str().expect("a plain path"));
        command.args(what).arg("--output").arg(lab.dir(copy));
        command.args(["--json", "--no-config", "--no-checkpoint", "--log-level", "debug"]);
        // Without a proxy nobody knows the name.
        let node = if proxy.is_some() { NODE.0 } else { NODE.1 };
        command.args(["--dht-bootstrap", node, "--set", "network.enable_utp=true"]);
        command.args(["--port-mapping", "auto"]);
        if let Some((kind, proxy)) = proxy {
            command.args(["--set", &format!("proxy.type={kind}")]);
            command.args(["--set", &format!("proxy.address={}", proxy.address())]);
            command.args(["--set", &format!("proxy.credentials_file={}", secret.display())]);
        }
        command
    };
    let download = ["download".as_ref(), made.torrent_path.as_os_str()];
    let finish = |name: &str, mut client: Process| {
        client.wait_exit(PATIENCE);
        made.payload.assert_equal_in(&lab.dir(name));
        let (stdout, stderr) = (client.stdout(), client.stderr());
        assert!(!stdout.contains(CREDENTIALS.1) && !stderr.contains(CREDENTIALS.1), "the password is told");
        stderr
    };
    let asked = |proxy: &Proxy, wanted: &[&str]| {
        let asked = proxy.asked();
        wanted.iter().for_each(|to| assert!(asked.iter().any(|asked| asked == to), "{to} in {asked:?}"));
    };
    // The peer is the UDP tracker's word; the association ends meanwhile, and is opened again.
    let socks = &proxies[0];
    let mut udp = command(download, "udp", Some(("socks5", socks)));
    let client = Process::start("udp", udp.arg("--no-dht"));
    udp_tracker.wait_announce("its start", |announce| announce.event == 2);
    wait_until(PATIENCE, "the tracker's peer", || socks.asked().iter().any(|to| to == PEER).then_some(()));
    socks.end_associations();
    finish("udp", client);
    udp_tracker.wait_announce("its end", |announce| announce.event == 1 && announce.left == 0);
    assert!(socks.udp_ports().len() > 1, "opened again");
    asked(socks, &["tracker.example:8000", PEER, "udp tracker.example:80"]);
    // Found by the DHT alone.
    let link = format!("magnet:?xt=urn:btih:{}", made.torrent.info_hash_hex());
    let magnet = ["magnet".as_ref(), link.as_ref()];
    finish("dht", Process::start("dht", &mut command(magnet, "dht", Some(("socks5", socks)))));
    asked(socks, &[&*seed.address().to_string(), &format!("udp {}", NODE.0), &format!("udp {}", NODE.1)]);
    // No datagrams: said once for each who wants them, and all the rest works.
    for (kind, proxy) in [("socks5", &proxies[1]), ("http", &proxies[2])] {
        let mut command = command(download, kind, Some((kind, proxy)));
        let stderr = finish(kind, Process::start(kind, command.args(["--peer", PEER])));
        let told =
            |what: &str| stderr.matches(&format!("no {what}: the proxy passes no datagrams on")).count();
        let expected = if kind == "http" { 0 } else { 1 };
        assert_eq!((told("DHT"), told("UDP trackers")), (expected, expected), "{stderr}");
        assert!(proxy.udp_ports().is_empty());
        asked(proxy, &["tracker.example:8000", PEER]);
    }
    let heard = tracker.announces();
    assert!(heard.iter().any(|announce| announce.event == "completed"), "{heard:?}");
    assert_eq!(watch.leaks(), [""; 0]);
    // The same without a proxy shows that what would leave is seen.
    let mut command = command(download, "none", None);
    let mut client = Process::start("none", command.args(["--peer", PEER]));
    let udp = |leaks: &[String]| leaks.iter().any(|leak| leak.starts_with("protocol 17 "));
    wait_until(PATIENCE, "packets past the proxy", || {
        let leaks = watch.leaks();
        (leaks.iter().any(|leak| leak.contains(PEER)) && udp(&leaks)).then_some(())
    });
    client.signal(rustix::process::Signal::KILL);
    client.wait_exit(PATIENCE + Duration::from_secs(1));
    seed.stop();
    hub.stop();
}
