//! A table: what is changed of a torrent that does well, and what is found then.

use std::time::Duration;

use ccbt_protocol::candidates::Source;
use ccbt_protocol::metadata::{FetchProgress, FetchTrouble};
use ccbt_shards::diagnosis::{MetadataLook, TrackerLook};
use proptest::prelude::*;

use super::*;
use crate::State;

/// Downloads from two peers, nothing is wrong.
fn well() -> Snapshot {
    let serving = PeerFacts { down_rate: 500_000, am_interested: true, seed: true, ..PeerFacts::default() };
    Snapshot {
        state: State::Downloading,
        metadata: None,
        rest: None,
        error: None,
        bytes_left: 1 << 30,
        down_rate: 1_000_000,
        up_rate: 0,
        total_rates: (1_000_000, 0),
        limits: Default::default(),
        global_limits: (0, 0),
        peers: vec![serving; 2],
        peer_count: 2,
        connections: 2,
        half_open: 0,
        max_peers: 50,
        process_connections: (2, 500),
        sources: vec![(Source::Tracker, 20), (Source::Dht, 5)],
        banned: 0,
        trackers: vec![tracker(0, None)],
        dht: true,
        dht_nodes: 200,
        lsd: true,
        private: false,
        endings: Default::default(),
        must_encrypt: false,
        filtered: 0,
        missing: 100,
        unavailable: 0,
        starved: false,
        behind: false,
        backlog: 0,
        hash_queue: 0,
        disk_queue: (0, 1),
        web_seeds: 0,
        listen_port: 6881,
        accepted: 9,
        accepted_ago: Some(Duration::from_secs(30)),
        uptime: Duration::from_secs(3600),
    }
}

/// Seeds to one peer that wants something.
fn seeding() -> Snapshot {
    let peer = PeerFacts { peer_interested: true, am_choking: false, up_rate: 9000, ..PeerFacts::default() };
    Snapshot {
        state: State::Seeding,
        bytes_left: 0,
        down_rate: 0,
        up_rate: 9000,
        total_rates: (0, 9000),
        peers: vec![peer],
        peer_count: 1,
        missing: 0,
        ..well()
    }
}

fn tracker(failures: u32, problem: Option<&str>) -> TrackerLook {
    TrackerLook {
        url: "http://tracker.example/announce".to_owned(),
        announcing: false,
        answered: (failures == 0).then(|| Duration::from_secs(60)),
        failures,
        problem: problem.map(str::to_owned),
        peers: Some((3, 4)),
    }
}

fn alone(mut snapshot: Snapshot) -> Snapshot {
    snapshot.peers.clear();
    (snapshot.peer_count, snapshot.connections) = (0, 0);
    (snapshot.down_rate, snapshot.up_rate, snapshot.total_rates) = (0, 0, (0, 0));
    snapshot
}

type Change = fn(&mut Snapshot);

fn found(base: Snapshot, change: Change) -> Vec<Finding> {
    let mut snapshot = base;
    change(&mut snapshot);
    explain(&snapshot)
}

#[test]
fn each_cause_is_found() {
    use Cause::*;
    use Severity::{Fine, Hint, Slows, Stops};
    let down: Vec<(Change, Cause, Severity, &str)> = vec![
        (|_| (), PeersSlow, Fine, "2 peers serve us and send 976.6 KiB/s"),
        (|s| s.rest = Some(Rest::Paused), Paused, Stops, "paused"),
        (|s| s.rest = Some(Rest::Queued { position: 7, running: 3 }), Queued, Stops, "place 7, and 3"),
        (|s| s.rest = Some(Rest::GoalReached), GoalReached, Stops, "goal"),
        (|s| s.state = State::Checking, Busy, Stops, "hashed"),
        (
            |s| s.error = Some(("cannot write a: no space left on the device".to_owned(), true)),
            DiskFull,
            Stops,
            "no space left",
        ),
        (|s| s.error = Some(("bad\u{1b} file".to_owned(), false)), Error, Stops, "bad\\u{1b} file"),
        (
            |s| (*s = alone(s.clone()), s.endings.unreachable = 25).1,
            NoPeers,
            Stops,
            "of 25 addresses: 25 attempts",
        ),
        (|s| (*s = alone(s.clone()), s.sources.clear()).1, NoAddresses, Stops, "1 of 1 trackers answered"),
        (
            |s| {
                *s = alone(s.clone());
                (s.must_encrypt, s.endings.unencrypted) = (true, 4);
            },
            EncryptionRefused,
            Stops,
            "4 peers",
        ),
        (|s| s.filtered = 12, IpFilter, Hint, "12 connections"),
        (
            |s| s.trackers = vec![tracker(3, Some("not registered"))],
            TrackerError,
            Hint,
            "3 times in a row: not registered",
        ),
        (|s| s.unavailable = 7, PiecesMissing, Slows, "7 of the 100"),
        (|s| s.unavailable = 100, PiecesMissing, Stops, "100 of the 100"),
        (
            |s| {
                s.peers.iter_mut().for_each(|peer| (peer.peer_choking, peer.down_rate) = (true, 0));
                s.down_rate = 0;
            },
            AllChoked,
            Stops,
            "all 2 peers",
        ),
        (|s| s.peers[0].snubbed = true, Snubbed, Slows, "1 of the 2"),
        (|s| s.global_limits.0 = 1_050_000, GlobalLimit, Slows, "receiving 976.6 KiB/s of 1.0 MiB/s"),
        (|s| s.limits.down = 1_000_000, TorrentLimit, Slows, "this torrent"),
        (|s| s.limits.peer_down = 500_000, PeerLimit, Slows, "at 2 peers"),
        (
            |s| (s.behind, s.backlog, s.disk_queue) = (true, 40, (60, 8)),
            Disk,
            Slows,
            "40 complete pieces wait for the disk",
        ),
        (|s| (s.behind, s.backlog, s.hash_queue) = (true, 40, 30), Hash, Slows, "30 jobs"),
        (|s| s.starved = true, Memory, Slows, "memory"),
        (|s| s.connections = 50, ConnectionLimit, Hint, "all the 50"),
        (|s| s.process_connections.0 = 500, ConnectionLimit, Hint, "all torrents together have the 500"),
        (|s| s.accepted_ago = Some(Duration::from_secs(1200)), PortUnreachable, Hint, "20 minutes"),
        (|s| (s.accepted, s.accepted_ago) = (0, None), PortUnreachable, Hint, "60 minutes"),
        (|s| s.listen_port = 0, NotListening, Hint, "no port"),
    ];
    let up: Vec<(Change, Cause, Severity, &str)> = vec![
        (|_| (), Nothing, Fine, "1 peers, receiving 0 B/s, sending 8.8 KiB/s"),
        (|s| s.peers[0].peer_interested = false, NobodyInterested, Slows, "none of the 1"),
        (|s| *s = alone(s.clone()), NoPeers, Slows, "nobody is connected"),
        (|s| s.limits.up = 9000, TorrentLimit, Slows, "sending"),
        (|s| s.global_limits.1 = 9000, GlobalLimit, Slows, "sending"),
        (
            |s| (s.up_rate, s.total_rates, s.accepted_ago) = (0, (0, 0), None),
            PortUnreachable,
            Slows,
            "60 minutes",
        ),
    ];
    for (base, rows) in [(well(), down), (seeding(), up)] {
        for (change, cause, severity, words) in rows {
            let findings = found(base.clone(), change);
            let finding = findings.iter().find(|finding| finding.cause == cause);
            let finding = finding.unwrap_or_else(|| panic!("no {cause:?} in {findings:#?}"));
            assert_eq!(finding.severity, severity, "{finding:#?}");
            assert!(finding.text.contains(words), "{words}: {finding:#?}");
            assert!(!finding.advice.is_empty() && !finding.evidence.is_empty(), "{finding:#?}");
            let others = findings.iter().filter(|other| other.severity < Severity::Hint);
            assert!(others.clone().count() <= 2, "{cause:?} brings along {findings:#?}");
            if severity < Hint {
                assert_eq!(others.clone().next().map(|first| first.cause), Some(cause), "{findings:#?}");
            }
        }
    }
}

#[test]
fn what_is_fine_is_not_found() {
    let is_found = |change: Change, cause| found(well(), change).iter().any(|finding| finding.cause == cause);
    assert!(!is_found(|s| s.limits.down = 2_000_000, Cause::TorrentLimit), "half of it flows");
    assert!(!is_found(|s| s.endings.unencrypted = 9, Cause::EncryptionRefused), "plain ones may follow");
    assert!(!is_found(|s| s.disk_queue = (900, 8), Cause::Disk), "others' requests");
    assert!(!is_found(|s| (s.behind, s.starved) = (true, true), Cause::Memory), "the disk is what holds it");
    assert!(!is_found(|s| (s.unavailable, s.web_seeds) = (9, 1), Cause::PiecesMissing), "a server has all");
    assert!(!is_found(|s| s.limits.up = 1, Cause::TorrentLimit), "nothing is sent");
    let paused = found(well(), |s| (s.rest, s.unavailable) = (Some(Rest::Paused), 5));
    assert_eq!(paused.len(), 1, "what rests has no swarm: {paused:#?}");
    let private = found(alone(well()), |s| (s.private, s.dht, s.sources) = (true, false, Vec::new()));
    assert!(private[0].text.contains("private") && !private[0].text.contains("DHT"), "{private:#?}");
}

#[test]
fn findings_are_told_as_json() {
    let finding = &found(well(), |s| s.unavailable = 7)[0];
    let json = serde_json::to_value(finding).expect("JSON");
    assert_eq!((&json["cause"], &json["severity"]), (&"pieces_missing".into(), &"slows".into()));
    assert_eq!(json["evidence"]["unavailable"], 7);
    assert_eq!(serde_json::from_value::<Finding>(json).expect("the same"), *finding);
}

proptest! {
    #[test]
    fn there_is_always_a_finding_and_the_worst_comes_first(
        seeds: bool,
        numbers in prop::array::uniform12(prop_oneof![Just(0u64), 1u64..100, any::<u64>()]),
        flags in prop::array::uniform8(any::<bool>()),
    ) {
        let mut snapshot = if seeds { seeding() } else { well() };
        let [a, b, c, d, e, f, g, h, i, j, k, l] = numbers;
        (snapshot.down_rate, snapshot.up_rate, snapshot.total_rates) = (a, b, (c, d));
        (snapshot.limits.down, snapshot.limits.up, snapshot.global_limits) = (e, f, (g, h));
        (snapshot.limits.peer_down, snapshot.limits.peer_up) = (i, j);
        (snapshot.unavailable, snapshot.hash_queue) = (k as u32 % 101, l);
        let [one, two, three, four, five, six, seven, eight] = flags;
        (snapshot.starved, snapshot.behind, snapshot.must_encrypt, snapshot.private) = (one, two, three, four);
        if five { snapshot = alone(snapshot); }
        if six { snapshot.sources.clear(); }
        if seven { snapshot.trackers = vec![tracker(a as u32, None)]; }
        if eight { snapshot.peers.iter_mut().for_each(|peer| peer.peer_choking = true); }
        let findings = explain(&snapshot);
        prop_assert!(!findings.is_empty());
        prop_assert!(findings.is_sorted_by_key(|finding| finding.severity));
        prop_assert!(findings.iter().all(|finding| !finding.evidence.is_empty() && !finding.advice.is_empty()));
    }
}

/// The first finding of a magnet link that does well, after `change`.
fn of_magnet(change: impl FnOnce(&mut Snapshot, &mut MetadataLook)) -> Finding {
    let progress = FetchProgress { received: 16384, total: 40_000, peers: 2 };
    let mut look = MetadataLook { connected: 3, progress, ..MetadataLook::default() };
    let mut snapshot = Snapshot { state: State::Opening, peers: Vec::new(), peer_count: 3, ..well() };
    change(&mut snapshot, &mut look);
    snapshot.peer_count = look.connected;
    snapshot.metadata = Some(look);
    explain(&snapshot).remove(0)
}

#[test]
fn each_reason_why_metadata_is_not_there_is_found() {
    let nowhere = |snapshot: &mut Snapshot, look: &mut MetadataLook| {
        (look.connected, look.progress) = (0, FetchProgress::default());
        snapshot.sources = Vec::new();
    };
    let without = |trouble: FetchTrouble, without: u64| {
        move |_: &mut Snapshot, look: &mut MetadataLook| {
            (look.progress, look.trouble, look.without) = (FetchProgress::default(), trouble, without);
        }
    };
    let rejects = FetchTrouble { rejects: 3, ..FetchTrouble::default() };
    let timeouts = FetchTrouble { timeouts: 2, ..FetchTrouble::default() };
    let corrupt = FetchTrouble { mismatches: 1, liars: 1, rejects: 9, ..FetchTrouble::default() };
    let cases = [
        (of_magnet(|_, _| {}), Cause::Nothing, Severity::Fine, "16384 of 40000 bytes, from 2 peers"),
        (of_magnet(nowhere), Cause::NoAddresses, Severity::Stops, "the DHT (200 nodes)"),
        (
            of_magnet(|snapshot, look| {
                nowhere(snapshot, look);
                snapshot.sources = vec![(Source::Dht, 4)];
                snapshot.endings.unreachable = 4;
            }),
            Cause::NoPeers,
            Severity::Stops,
            "4 attempts found nobody",
        ),
        (of_magnet(without(FetchTrouble::default(), 0)), Cause::NoMetadata, Severity::Stops, "(3)"),
        (of_magnet(without(FetchTrouble::default(), 7)), Cause::NoMetadata, Severity::Stops, "7 connections"),
        (of_magnet(without(rejects, 1)), Cause::MetadataRefused, Severity::Stops, "3 requests were rejected"),
        (of_magnet(without(timeouts, 1)), Cause::MetadataRefused, Severity::Stops, "2 not answered"),
        (of_magnet(without(corrupt, 1)), Cause::MetadataCorrupt, Severity::Stops, "1 addresses that lied"),
        (
            of_magnet(|_, look| look.trouble = corrupt),
            Cause::MetadataCorrupt,
            Severity::Slows,
            "SHA-1 is not the info-hash",
        ),
        (
            of_magnet(|snapshot, _| snapshot.rest = Some(Rest::Paused)),
            Cause::Paused,
            Severity::Stops,
            "paused",
        ),
        (
            of_magnet(|snapshot, _| snapshot.error = Some(("it is no torrent".into(), false))),
            Cause::Error,
            Severity::Stops,
            "it is no torrent",
        ),
    ];
    for (found, cause, severity, words) in cases {
        assert_eq!((found.cause, found.severity), (cause, severity), "{found:?}");
        assert!(found.text.contains(words) && !found.advice.is_empty(), "{found:?}");
        assert!(!found.evidence.is_empty(), "{found:?}");
    }
}
