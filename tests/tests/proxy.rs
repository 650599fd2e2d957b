//! A proxy: everything goes through it, and nothing else leaves. The client runs in a network namespace of its own,
//! and every packet that comes out of it is looked at.

use std::collections::HashMap;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ccbt_tests::binary::ccbt_fast;
use ccbt_tests::lab::Lab;
use ccbt_tests::payload::Payload;
use ccbt_tests::process::{Process, run, wait_until};
use ccbt_tests::proxy::{CREDENTIALS, Proxy};
use ccbt_tests::raw_seeder::{Manner, RawSeeder};
use ccbt_tests::torrent::TorrentSpec;
use ccbt_tests::tracker::Tracker;
use ccbt_tests::veth::{FAR, NEAR, Veth};
use ccbt_tests::{PATIENCE, SOON};
use socket2::{Domain, Protocol, Socket, Type};

const KIB: usize = 1 << 10;
/// A peer as the proxy knows it; nobody has this address here.
const PEER: &str = "10.9.9.9:7000";

/// What comes out of the namespace and is not for the proxy: each kind of packet, in words.
#[derive(Clone)]
struct Watch(Arc<Mutex<Vec<String>>>);

impl Watch {
    fn start(proxies: &[SocketAddr]) -> Self {
        // ETH_P_ALL, in the order of the network.
        let all = Protocol::from(i32::from(3u16.to_be()));
        let mut socket = Socket::new(Domain::PACKET, Type::RAW, Some(all)).expect("root may watch");
        let (this, allowed) = (Self(Arc::default()), proxies.to_vec());
        let seen = this.0.clone();
        std::thread::spawn(move || {
            let mut frame = [0; 2048];
            while let Ok(len) = socket.read(&mut frame) {
                if let Some(leak) = leak(&frame[..len], &allowed) {
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
fn leak(frame: &[u8], proxies: &[SocketAddr]) -> Option<String> {
    let (kind, packet) = (frame.get(12..14)?, frame.get(14..)?);
    match kind {
        [0x08, 0x00] if packet.get(12..16)? == FAR.octets() => {
            let to = Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(16..20)?).ok()?);
            let at = usize::from(packet[0] & 15) * 4 + 2;
            let port = u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?);
            let is_tcp = packet[9] == 6;
            let for_proxy = is_tcp && proxies.contains(&SocketAddr::new(IpAddr::V4(to), port));
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
    let tracker = Tracker::start();
    let name = "http://tracker.example:8000/announce".to_owned();
    let spec = TorrentSpec::pieces_of(64 * KIB).tier(name).tier("udp://10.9.9.8:80/announce".to_owned());
    let made = lab.publish(Payload::straddling("tree", 1 << 20), spec);
    let seeder =
        RawSeeder::start(Ipv4Addr::new(127, 0, 61, 1), &made, Manner::slow(Duration::from_millis(20)));
    let tracker_addr: SocketAddr =
        tracker.url()["http://".len()..].trim_end_matches("/announce").parse().expect("an address");
    let places: HashMap<_, _> =
        [(PEER.to_owned(), seeder.address()), ("tracker.example:8000".to_owned(), tracker_addr)].into();
    let proxies = [false, true].map(|is_http| Proxy::start(NEAR, is_http, places.clone()));
    let watch = Watch::start(&proxies.each_ref().map(Proxy::address));
    let secret = lab.file("secret", format!("{}:{}\n", CREDENTIALS.0, CREDENTIALS.1).as_bytes());
    let command = |copy: &str, proxy: Option<(&str, &Proxy)>| {
        let mut command = veth.over_there(ccbt_fast().to_str().expect("a plain path"));
        command.arg("download").arg(&made.torrent_path).arg("--output").arg(lab.dir(copy));
        command.args(["--json", "--no-config", "--no-checkpoint", "--log-level", "debug", "--peer", PEER]);
        command.args(["--dht-bootstrap", "10.9.9.7:6881", "--set", "network.enable_utp=true"]);
        command.args(["--port-mapping", "auto"]);
        if let Some((kind, proxy)) = proxy {
            command.args(["--set", &format!("proxy.type={kind}")]);
            command.args(["--set", &format!("proxy.address={}", proxy.address())]);
            command.args(["--set", &format!("proxy.credentials_file={}", secret.display())]);
        }
        Process::start(copy, &mut command)
    };
    for (kind, proxy) in [("socks5", &proxies[0]), ("http", &proxies[1])] {
        let mut client = command(kind, Some((kind, proxy)));
        client.wait_exit(PATIENCE);
        made.payload.assert_equal_in(&lab.dir(kind));
        let asked = proxy.asked();
        assert!(
            asked.iter().any(|to| to == PEER) && asked.iter().any(|to| to == "tracker.example:8000"),
            "{asked:?}"
        );
        let (stdout, stderr) = (client.stdout(), client.stderr());
        assert!(!stdout.contains(CREDENTIALS.1) && !stderr.contains(CREDENTIALS.1), "the password is told");
    }
    let heard = tracker.announces();
    assert!(heard.iter().any(|announce| announce.event == "completed"), "{heard:?}");
    assert_eq!(watch.leaks(), [""; 0]);
    // The same without a proxy shows that what would leave is seen.
    let mut client = command("none", None);
    let udp = |leaks: &[String]| leaks.iter().any(|leak| leak.starts_with("protocol 17 "));
    wait_until(PATIENCE, "packets past the proxy", || {
        let leaks = watch.leaks();
        (leaks.iter().any(|leak| leak.contains(PEER)) && udp(&leaks)).then_some(())
    });
    client.signal(rustix::process::Signal::KILL);
    client.wait_exit(PATIENCE + Duration::from_secs(1));
}
