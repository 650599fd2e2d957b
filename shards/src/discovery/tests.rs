//! Discovery threads on loopback that find each other.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use ccbt_protocol::candidates::Source;
use crossbeam_channel::{Receiver, Sender, unbounded};

use super::*;
use crate::messages::ToShard;

/// Bounds a hang; never a measure of speed.
const PATIENCE: Duration = Duration::from_secs(60);
const HASH: InfoHash = InfoHash([0x5a; 20]);

/// A node on loopback that takes connections at `tcp`.
fn start(tcp: u16, change: impl FnOnce(&mut DhtSettings)) -> DiscoveryThread {
    let mut dht = DhtSettings { bootstrap: Vec::new(), ..DhtSettings::default() };
    change(&mut dht);
    let listen = vec![SocketAddr::from(([127, 0, 0, 1], tcp)).into()];
    let bind = Some(IpAddr::from([127, 0, 0, 1]).into());
    let config = DiscoveryConfig {
        dht: Some(DhtSettings { port: Some(0), ..dht }),
        lsd: true,
        listen,
        bind,
        proxy: None,
    };
    DiscoveryThread::start(config, None).expect("a thread")
}

fn addr(thread: &DiscoveryThread) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], thread.handle().dht_port()))
}

/// A torrent, and where its shard would hear of peers.
fn interest(key: u32) -> (Interest, Receiver<ToShard>) {
    let (home, found) = Inbox::new(Doorbell::new().expect("a descriptor"));
    let key = TorrentKey(key);
    (Interest { info_hash: HASH, key, home, private: false, seed: false, dht: true, lsd: true }, found)
}

fn wait_peer(found: &Receiver<ToShard>, key: u32, wanted: SocketAddr) {
    let end = Instant::now() + PATIENCE;
    loop {
        let message =
            found.recv_timeout(end.saturating_duration_since(Instant::now())).expect("a peer in time");
        let ToShard::AddPeers(of, peers, Source::Dht) = message else { panic!("{message:?}") };
        assert_eq!(of, TorrentKey(key));
        if peers.contains(&wanted) {
            return;
        }
    }
}

fn wait(thread: &DiscoveryThread, what: &str, wanted: impl Fn(&DiscoveryStats) -> bool) {
    let end = Instant::now() + PATIENCE;
    while !wanted(&thread.handle().stats()) {
        assert!(Instant::now() < end, "{what}: {:#?}", thread.handle().stats());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn two_sessions_find_each_other_through_a_third_and_remember_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let state = folder.path().join("dht.state");
    let hub = start(0, |_| {});
    let bootstrap = vec![addr(&hub).to_string()];
    let first = start(1001, |dht| dht.bootstrap.clone_from(&bootstrap));
    let (wanted, _found) = interest(1);
    assert!(first.handle().add(wanted));
    wait(&first, "an announce that is stored", |stats| stats.announced > 0);
    let second = start(1002, |dht| {
        dht.bootstrap = bootstrap;
        dht.state_file = Some(state.clone());
    });
    let (wanted, found) = interest(2);
    assert!(second.handle().add(wanted));
    wait_peer(&found, 2, SocketAddr::from(([127, 0, 0, 1], 1001)));
    wait(&second, "nodes", |stats| stats.dht.nodes[0] > 0);
    second.stop();
    assert!(state.exists(), "nodes are saved");
    let again = start(1003, |dht| dht.state_file = Some(state.clone()));
    let (wanted, found) = interest(3);
    assert!(again.handle().add(wanted));
    wait_peer(&found, 3, SocketAddr::from(([127, 0, 0, 1], 1001)));
    for thread in [again, first, hub] {
        thread.stop();
    }
}

#[test]
fn a_node_that_a_peer_tells_of_is_enough() {
    let (first, second) = (start(1001, |_| {}), start(1002, |_| {}));
    second.handle().node(addr(&first));
    wait(&second, "a node", |stats| stats.dht.nodes[0] == 1);
    let (wanted, _found) = interest(1);
    assert!(first.handle().add(wanted));
    first.handle().hosts(vec![("127.0.0.1".to_owned(), second.handle().dht_port())]);
    wait(&first, "an announce that is stored", |stats| stats.announced > 0);
    let (wanted, found) = interest(2);
    assert!(second.handle().add(wanted));
    wait_peer(&found, 2, SocketAddr::from(([127, 0, 0, 1], 1001)));
    assert!(second.handle().remove(TorrentKey(2)));
    wait(&second, "no torrent", |stats| stats.torrents == 0);
    first.stop();
    second.stop();
}

#[test]
fn private_torrents_are_refused() {
    let hub = start(0, |_| {});
    let first = start(1001, |dht| dht.bootstrap = vec![addr(&hub).to_string()]);
    let (mut wanted, _found) = interest(1);
    wanted.private = true;
    assert!(first.handle().add(wanted), "there is no need to come again");
    // A public one beside it has been announced: the private one had its turn.
    let (mut public, _found) = interest(2);
    public.info_hash = InfoHash([1; 20]);
    assert!(first.handle().add(public));
    wait(&first, "the announce of the other", |stats| stats.announced > 0);
    assert_eq!(first.handle().stats().torrents, 1);
    assert_eq!(hub.handle().stats().dht.stored[0], 1);
    first.stop();
    hub.stop();
}

struct Taker(Sender<(Vec<u8>, SocketAddr, SocketAddr)>);

impl Strays for Taker {
    fn take(&mut self, stray: Stray<'_>) {
        self.0.send((stray.bytes.to_vec(), stray.from, stray.to.addr)).expect("the test listens");
    }
}

#[test]
fn what_is_not_of_the_dht_goes_to_whoever_wants_it_and_the_port_is_shared() {
    let (told, strays) = unbounded();
    let bind = Some(IpAddr::from([127, 0, 0, 1]).into());
    let dht = DhtSettings { bootstrap: Vec::new(), port: Some(0), ..DhtSettings::default() };
    let listen = vec![SocketAddr::from(([127, 0, 0, 1], 0)).into()];
    let config = DiscoveryConfig { dht: Some(dht), lsd: false, listen, bind, proxy: None };
    let thread = DiscoveryThread::start(config, Some(Box::new(Taker(told)))).expect("a thread");
    let ours = addr(&thread);
    let peer = UdpSocket::bind("127.0.0.1:0").expect("loopback has a free port");
    let from = peer.local_addr().expect("bound");
    peer.send_to(b"\x41\0some uTP", ours).expect("sent");
    assert_eq!(strays.recv_timeout(PATIENCE), Ok((b"\x41\0some uTP".to_vec(), from, ours)));
    // A connection of its own at the same port takes what is meant for it.
    let shared = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).expect("a socket");
    shared.set_reuse_port(true).expect("set");
    shared.bind(&ours.into()).expect("the port is shared");
    shared.connect(&from.into()).expect("connected");
    let shared = UdpSocket::from(shared);
    shared.set_read_timeout(Some(PATIENCE)).expect("set");
    peer.send_to(b"\x01\0more", ours).expect("sent");
    let mut bytes = [0; 16];
    assert_eq!(shared.recv(&mut bytes).expect("received"), 6);
    assert!(strays.is_empty());
    peer.set_read_timeout(Some(PATIENCE)).expect("set");
    drop(shared);
    peer.send_to(b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe", ours).expect("sent");
    let mut bytes = [0; 300];
    let len = peer.recv(&mut bytes).expect("answered");
    assert!(bytes[..len].starts_with(b"d2:ip6:"), "{}", bytes[..len].escape_ascii());
    thread.stop();
}
