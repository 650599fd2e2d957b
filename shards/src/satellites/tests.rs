//! A torrent on three shards that the test turns by hand, with real sockets, files and seeds: what can go wrong on the
//! way, one thing at a time.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ccbt_protocol::candidates::Source;
use ccbt_storage::error::Op;
use ccbt_storage::messages::StorageDone;
use ccbt_storage::relocate::MoveOptions;
use ccbt_storage::{Completion, StorageConfig, StorageService};
use crossbeam_channel::{Receiver, unbounded};

use super::*;
use crate::cache::ExtentKey;
use crate::inbox::Inbox;
use crate::messages::{AddTorrent, Event, FromShard};
use crate::shard::Links;
use crate::testing::{KEY, PATIENCE, PIECE, Rig, bytes, config, publish};

const HOME: usize = 0;
const SHARDS: usize = 3;
/// Two files, sixty pieces.
const SIZES: [usize; 2] = [30 * PIECE + 77, 29 * PIECE];
const PIECES: u32 = 60;
/// Bytes per second of a seed: a test can step in between.
const SLOW: u64 = 128 << 10;

/// The home, its satellites, and who they download from.
struct Team {
    shards: Vec<Shard>,
    told: Receiver<FromShard>,
    events: Vec<Event>,
    _storage: StorageService,
    folder: tempfile::TempDir,
    root: PathBuf,
    seeds: Vec<(Rig, SocketAddr)>,
    /// The next write of this shard fails so.
    failing: Option<(usize, i32)>,
}

/// A socket that listens at an address of its own.
fn listener(octet: u8) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 41, octet], 0))).unwrap();
    listener.set_nonblocking(true).unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// Connections of a shard, half-open ones included.
fn open(shard: &Shard) -> usize {
    shard.conns.iter().flatten().count()
}

impl Team {
    /// Shards without a torrent; `accepts`: the one that hears who calls at the address.
    fn new(accepts: Option<usize>) -> (Self, SocketAddr) {
        let storage = StorageService::start(StorageConfig::default()).unwrap();
        let (control, told) = unbounded();
        let bells: Vec<_> = (0..SHARDS).map(|_| ccbt_storage::doorbell::Doorbell::new().unwrap()).collect();
        let (inboxes, receivers): (Vec<_>, Vec<_>) =
            bells.iter().map(|bell| Inbox::new(bell.clone())).unzip();
        let (socket, addr) = listener(250);
        let mut socket = Some(socket);
        let connections = Arc::<std::sync::atomic::AtomicUsize>::default();
        let mut shards = Vec::new();
        for (index, (bell, inbox)) in bells.into_iter().zip(receivers).enumerate() {
            let (others, control) = (inboxes.clone(), control.clone());
            let (lines, connections) = (Arc::default(), connections.clone());
            let links = Links {
                bell,
                inbox,
                others,
                control,
                lines,
                connections,
                discovery: None,
                utp_ends: Default::default(),
                trackers: crate::trackers::Trackers::unheard(),
                webseeds: None,
            };
            let mut config = config();
            config.index = index;
            config.listeners =
                socket.take_if(|_| accepts == Some(index)).into_iter().map(Into::into).collect();
            shards.push(Shard::new(config, links, &storage).unwrap());
        }
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("copy");
        let (events, seeds, failing) = (Vec::new(), Vec::new(), None);
        (Self { shards, told, events, _storage: storage, folder, root, seeds, failing }, addr)
    }

    /// A team that has begun: nobody to download from yet.
    fn begun() -> Self {
        let (mut team, _) = Self::new(None);
        team.add(|_| {});
        team
    }

    fn add(&mut self, change: impl FnOnce(&mut AddTorrent)) {
        let mut add = publish(&self.folder.path().join("source"), KEY, &SIZES);
        add.root.clone_from(&self.root);
        add.max_peers = 30;
        change(&mut add);
        let hash = add.metainfo.info_hash;
        self.shards.iter_mut().for_each(|shard| shard.on_message(ToShard::Route(hash, Some(HOME))));
        self.shards[HOME].on_message(ToShard::Add { torrent: Box::new(add), spread: true });
        self.until("three parts", |team| team.parts() == SHARDS);
    }

    /// One more seed, not connected yet, with an address of its own and this `id`: not 1, which is ours.
    fn seed(&mut self, rate: u64, id: u8) -> SocketAddr {
        let octet = self.seeds.len() as u8 + 1;
        let (socket, addr) = listener(octet);
        let mut rig = Rig::new(|config| {
            config.peer_id = PeerId([id; 20]);
            config.listeners = vec![socket.into()];
            config.bind = Some(addr.ip().into());
        });
        rig.add(&SIZES, |add| add.seed_only = true);
        rig.wait(&Event::Finished);
        rig.shard.on_message(ToShard::Limits { down: 0, up: rate });
        self.seeds.push((rig, addr));
        addr
    }

    fn dial(&mut self, addr: SocketAddr) {
        self.shards[HOME].on_message(ToShard::AddPeers(KEY, vec![addr], Source::User));
    }

    /// A team in the middle of its download: every part has a slow seed and has written something.
    fn midway() -> Self {
        let mut team = Self::begun();
        for nth in 0..SHARDS as u8 {
            let addr = team.seed(SLOW, 100 + nth);
            team.dial(addr);
        }
        team.until("pieces from every part", |team| {
            let parts = 0..SHARDS;
            parts.filter(|at| team.shards[*at].stats.received > 2 * PIECE as u64).count() == SHARDS
        });
        assert!(!team.events.contains(&Event::Finished), "there is something left to do");
        team
    }

    fn hurry(&mut self) {
        self.seeds.iter_mut().for_each(|(rig, _)| rig.shard.on_message(ToShard::Limits { down: 0, up: 0 }));
    }

    fn turn(&mut self) {
        if let Some((shard, errno)) = self.failing {
            self.fail_a_write(shard, errno);
        }
        for shard in self.shards.iter_mut().chain(self.seeds.iter_mut().map(|(rig, _)| &mut rig.shard)) {
            shard.turn();
        }
        std::thread::sleep(Duration::from_micros(200));
        self.events.extend(self.told.try_iter().filter_map(|message| match message {
            FromShard::Event(KEY, event) => Some(event),
            _ => None,
        }));
        self.check();
    }

    /// In at most one picker a piece is anything but Elsewhere or ours.
    fn check(&self) {
        use ccbt_protocol::picker::PieceState::{Elsewhere, Have};
        for piece in (0..PIECES).map(PieceIndex) {
            let torrents = (0..SHARDS).filter_map(|at| self.part(at)?.torrent.as_ref());
            let fetching =
                torrents.filter(|torrent| !matches!(torrent.picker().state(piece), Elsewhere | Have));
            assert!(fetching.count() <= 1, "{piece} is fetched twice");
        }
    }

    /// As the disk would: takes the next write's answer for the shard, and makes it a failure.
    fn fail_a_write(&mut self, shard: usize, errno: i32) {
        let shard = &mut self.shards[shard];
        while let Some(completion) = shard.storage.poll() {
            match completion {
                Completion::Storage(StorageDone::Written { torrent, piece, buf, .. })
                    if self.failing.is_some() =>
                {
                    let result = Err(StorageError::from_errno(Op::Write, "f0".as_ref(), errno));
                    shard.on_storage(StorageDone::Written { torrent, piece, buf, result });
                    self.failing = None;
                }
                Completion::Storage(done) => shard.on_storage(done),
                Completion::Hash(verdict) => shard.on_verdict(verdict),
                Completion::Relocated(done) => shard.on_relocated(done),
            }
        }
    }

    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < end, "no {what}; told: {:?}", self.events);
            self.turn();
        }
    }

    fn wait(&mut self, what: &str, wanted: impl Fn(&Event) -> bool) {
        self.until(what, |team| team.events.iter().any(&wanted));
    }

    fn part(&self, shard: usize) -> Option<&Home> {
        let index = self.shards[shard].by_key.get(&KEY)?;
        Some(&self.shards[shard].homes[*index])
    }

    fn parts(&self) -> usize {
        (0..SHARDS).filter(|shard| self.part(*shard).is_some_and(Home::is_running)).count()
    }

    /// Peers that each part is connected to.
    fn peers(&self) -> Vec<usize> {
        (0..SHARDS).map(|shard| self.part(shard).map_or(0, |part| part.sockets.len())).collect()
    }

    /// Everything is fetched and right.
    fn finish(&mut self) {
        self.hurry();
        self.wait("end of the download", |event| *event == Event::Finished);
        for (at, len) in SIZES.iter().enumerate() {
            assert!(fs::read(self.root.join(format!("t/f{at}"))).unwrap() == bytes(at, *len), "file {at}");
        }
    }
}

#[test]
fn every_part_gets_its_share_of_peers_and_pieces() {
    let mut team = Team::midway();
    assert_eq!(team.peers(), [1; SHARDS]);
    team.finish();
    let told: u64 = team.shards.iter().map(|shard| shard.stats.lease_messages).sum();
    assert!(told > 0 && team.shards.iter().all(|shard| shard.stats.messages >= shard.stats.lease_messages));
}

#[test]
fn whoever_accepts_them_connections_are_shared_out() {
    let (mut team, addr) = Team::new(Some(1));
    team.add(|_| {});
    for nth in 0..6 {
        team.seed(SLOW, 100 + nth);
    }
    for (rig, _) in &mut team.seeds {
        rig.shard.on_message(ToShard::AddPeers(KEY, vec![addr], Source::User));
    }
    team.until("six peers", |team| team.peers().iter().sum::<usize>() == 6);
    assert_eq!(team.peers(), [2; SHARDS]);
    let stats = |of: fn(&Shard) -> u64| team.shards.iter().map(of).collect::<Vec<_>>();
    assert_eq!(stats(|shard| shard.stats.accepted), [0, 6, 0]);
    assert_eq!(team.shards[HOME].homes[0].all_conns(), 6);
    // Room is given back where it was taken.
    team.seeds.truncate(3);
    team.until("three that are gone", |team| team.shards[HOME].homes[0].all_conns() == 3);
    assert_eq!(team.peers().iter().sum::<usize>(), 3);
    team.finish();
}

#[test]
fn a_peer_is_connected_to_one_part_only() {
    for first_at_home in [true, false] {
        let mut team = Team::begun();
        let (other, one, again) = (team.seed(SLOW, 51), team.seed(SLOW, 57), team.seed(SLOW, 57));
        if !first_at_home {
            team.dial(other);
            team.until("another peer at home", |team| team.peers()[HOME] == 1);
        }
        team.dial(one);
        team.dial(again);
        // Long enough for both handshakes, and for who came second to be sent away.
        let mut closed = 0;
        team.until("one that is sent away", |team| {
            let open: usize = team.seeds[1..].iter().map(|(rig, _)| open(&rig.shard)).sum();
            let met: u64 = team.seeds[1..].iter().map(|(rig, _)| rig.shard.stats.accepted).sum();
            closed = met as usize - open;
            met >= 2 && closed >= 1
        });
        assert_eq!(team.peers().iter().sum::<usize>(), 1 + usize::from(!first_at_home));
        team.finish();
    }
}

#[test]
fn what_the_disk_refuses_a_satellite_stops_the_torrent_until_it_takes_it() {
    const EIO: i32 = 5;
    const ENOSPC: i32 = 28;
    for errno in [ENOSPC, EIO] {
        let mut team = Team::midway();
        team.failing = Some((2, errno));
        team.wait(
            "failure",
            |event| matches!(event, Event::Failed { message, retry: true } if message.contains("f0")),
        );
        team.until("the satellites' end", |team| team.shards[1..].iter().all(|shard| shard.homes.is_empty()));
        for shard in &team.shards[1..] {
            assert_eq!(shard.pieces, 0, "its memory came back");
        }
        team.wait("recovery", |event| *event == Event::Recovered);
        team.until("three parts again", |team| team.parts() == SHARDS);
        team.finish();
    }
}

#[test]
fn a_liar_at_a_satellite_is_banned_by_all_parts() {
    let mut team = Team::begun();
    let (honest, liar) = (team.seed(SLOW, 51), team.seed(0, 52));
    // It has checked its files by now.
    for (at, size) in SIZES.into_iter().enumerate() {
        fs::write(team.seeds[1].0.path(at), vec![0xee; size]).unwrap();
    }
    team.dial(honest);
    team.until("a peer at home", |team| team.peers()[HOME] == 1);
    team.dial(liar);
    team.until("the ban of all", |team| {
        (0..SHARDS).all(|shard| team.part(shard).is_some_and(|part| part.candidates.is_banned(liar.ip())))
    });
    team.until("its end", |team| team.peers() == [1, 0, 0]);
    assert!(team.events.contains(&Event::Banned(liar.ip())));
    team.finish();
}

#[test]
fn peers_that_vanish_leave_no_piece_behind() {
    let mut team = Team::midway();
    team.seeds.truncate(1);
    team.until("one peer", |team| team.peers().iter().sum::<usize>() == 1);
    team.finish();
}

#[test]
fn a_pause_ends_all_parts_and_they_come_back() {
    let mut team = Team::midway();
    team.shards[HOME].on_message(ToShard::Pause(KEY));
    team.until("the satellites' end", |team| team.shards[1..].iter().all(|shard| shard.homes.is_empty()));
    team.until("no connection", |team| team.shards.iter().all(|shard| open(shard) == 0));
    // At once again, and again: nothing of the first time is left.
    for _ in 0..3 {
        team.shards[HOME].on_message(ToShard::Resume(KEY));
        team.turn();
        team.shards[HOME].on_message(ToShard::Pause(KEY));
    }
    team.shards[HOME].on_message(ToShard::Resume(KEY));
    team.until("three parts", |team| team.parts() == SHARDS);
    team.finish();
}

#[test]
fn a_recheck_finds_what_all_parts_wrote() {
    let mut team = Team::midway();
    let have = team.shards[HOME].homes[0].torrent.as_ref().unwrap().picker().have().count();
    team.events.clear();
    team.shards[HOME].on_message(ToShard::Recheck(KEY));
    team.wait("check", |event| matches!(event, Event::Checked { good, .. } if *good >= have));
    team.until("three parts", |team| team.parts() == SHARDS);
    team.finish();
}

#[test]
fn a_move_takes_along_what_all_parts_wrote() {
    let mut team = Team::midway();
    let root = team.folder.path().join("moved");
    team.shards[HOME].on_message(ToShard::Move {
        key: KEY,
        root: root.clone(),
        options: MoveOptions::default(),
    });
    team.wait("move", |event| matches!(event, Event::Moved { .. }));
    assert!(!team.root.join("t/f0").exists());
    team.root = root;
    team.until("three parts", |team| team.parts() == SHARDS);
    team.finish();
}

#[test]
fn removed_while_spread_nothing_of_it_is_left() {
    let mut team = Team::midway();
    team.shards[HOME].on_message(ToShard::Remove { key: KEY, delete_data: true });
    team.wait("end", |event| *event == Event::Removed);
    for shard in &team.shards {
        assert!(shard.homes.is_empty() && shard.by_key.is_empty() && shard.by_hash.is_empty());
        assert_eq!((shard.pieces, open(shard)), (0, 0), "memory and connections");
    }
    assert!(!team.root.join("t/f0").exists());
}

#[test]
fn a_shutdown_waits_for_what_satellites_write() {
    let mut team = Team::midway();
    for shard in 0..SHARDS {
        team.shards[shard].on_message(ToShard::Shutdown);
        team.turn();
    }
    team.until("end of all", |team| {
        team.shards.iter().all(|shard| shard.homes.is_empty() && !shard.has_outbox())
    });
    assert!(team.shards.iter().all(|shard| (shard.pieces, open(shard)) == (0, 0)), "memory and connections");
}

#[test]
fn an_address_given_to_a_satellite_that_has_ended_is_free_again() {
    let mut team = Team::begun();
    let addr: SocketAddr = "127.0.41.199:9".parse().unwrap();
    let home = &mut team.shards[HOME];
    home.homes[0].candidates.add(addr, Source::User);
    let now = Instant::now();
    assert_eq!(home.homes[0].candidates.next(now, &mut home.rng), Some(addr));
    assert_eq!(home.homes[0].candidates.next_ready(now), None, "it counts as connected");
    team.shards[1].on_message(ToShard::StopSatellite(KEY));
    team.until("its end", |team| team.shards[1].homes.is_empty());
    team.shards[1].on_message(ToShard::Dial { key: KEY, addr, home: HOME, record: Default::default() });
    team.until("the answer", |team| team.shards[HOME].homes[0].candidates.next_ready(now).is_some());
}

#[test]
fn what_is_known_of_a_peer_goes_where_it_goes() {
    let mut team = Team::begun();
    let bad = Record { connect_failures: 2, ..Record::default() };
    for nth in 0..SHARDS as u8 {
        let addr = team.seed(SLOW, 100 + nth);
        let candidates = &mut team.shards[HOME].homes[0].candidates;
        candidates.add(addr, Source::User);
        candidates.learn(addr, bad);
        team.dial(addr);
    }
    team.until("a peer at each part", |team| team.peers() == [1; SHARDS]);
    for at in 0..SHARDS {
        let part = team.part(at).unwrap();
        let (torrent, key) = (part.torrent.as_ref().unwrap(), *part.sockets.keys().next().unwrap());
        let (blocks, past) = (torrent.peer(key).record(), bad.and(torrent.peer(key).record()));
        assert_eq!(torrent.peer(key).reliability(), past.reliability(), "part {at}, {blocks:?}");
        assert_ne!(past.reliability(), blocks.reliability());
    }
    // Nothing is kept of who is gone.
    team.seeds.clear();
    team.until("their end", |team| team.peers() == [0; SHARDS]);
    let kept = |part: &Part| matches!(part, Part::Satellite { records, .. } if !records.is_empty());
    assert!((0..SHARDS).filter_map(|at| team.part(at)).all(|home| !kept(&home.part)));
}

#[test]
fn a_piece_found_damaged_leaves_every_cache() {
    let mut team = Team::midway();
    team.finish();
    let extent = ExtentKey { torrent: KEY, piece: PieceIndex(4), nth: 0 };
    for finder in 0..SHARDS {
        for shard in &mut team.shards {
            assert!(shard.cache.admit(extent, (0, true), &[1; PIECE], &mut Vec::new()));
        }
        let index = team.shards[finder].by_key[&KEY];
        let error = StorageError::from_errno(Op::Read, "f0".as_ref(), 5);
        team.shards[finder].read_failed(index, extent.piece, &error);
        team.until("news of it", |team| team.shards.iter().all(|shard| !shard.cache.contains(extent)));
        team.until("repair", |team| {
            let have =
                |shard| team.part(shard).and_then(|part| part.torrent.as_ref()).map(|t| t.is_finished());
            (0..SHARDS).all(|shard| have(shard) == Some(true))
        });
    }
}

#[test]
fn a_file_with_a_second_name_is_copied_before_a_satellite_writes_to_it() {
    let (mut team, _) = Team::new(None);
    let theirs = team.folder.path().join("theirs");
    fs::create_dir_all(team.root.join("t")).unwrap();
    fs::write(&theirs, vec![5; SIZES[0]]).unwrap();
    fs::hard_link(&theirs, team.root.join("t/f0")).unwrap();
    team.add(|_| {});
    for nth in 0..SHARDS as u8 {
        let addr = team.seed(0, 100 + nth);
        team.dial(addr);
    }
    team.finish();
    assert!(fs::read(&theirs).unwrap() == vec![5; SIZES[0]], "what others call it is as it was");
}
