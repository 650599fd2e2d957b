//! Connections at a limit: who waits, in which order they go on, and what becomes of tokens that were not needed.

use std::net::{TcpListener, TcpStream};

use super::*;
use crate::shard::{Conn, Stage};
use crate::testing::Rig;

/// A connection of the rig's torrent that never says anything; the other end has to be kept.
fn connection(rig: &mut Rig) -> (SocketKey, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, addr) = listener.accept().unwrap();
    let shard = &mut rig.shard;
    let key = shard.ring.add(ours.into());
    if shard.conns.len() <= key.index() {
        shard.conns.resize_with(key.index() + 1, || None);
    }
    shard.conns[key.index()] = Some(Conn::new(key, addr, true, Stage::Connecting, Some(0)));
    (key, theirs)
}

fn tokens(rig: &mut Rig, scope: Scope) -> u64 {
    rig.shard.gate(scope, Way::Down).expect("it is limited").quota.available()
}

fn give(rig: &mut Rig, bytes: u64) {
    rig.shard.gate(None, Way::Down).expect("it is limited").quota.give(bytes);
}

#[test]
fn whoever_comes_to_a_limit_stands_behind_those_who_wait() {
    let mut rig = Rig::finished();
    let ((first, _a), (second, _b), (third, _c)) =
        (connection(&mut rig), connection(&mut rig), connection(&mut rig));
    rig.shard.set_limits(1 << 20, 0);
    let need = 10_000;
    assert_eq!(rig.shard.admit(first, 0, Way::Down, need), 0, "a new limit begins without tokens");
    assert_eq!(rig.shard.admit(second, 0, Way::Down, need), 0);
    // There is enough for one now, and others have waited longer.
    give(&mut rig, need);
    assert_eq!(rig.shard.admit(third, 0, Way::Down, need), 0, "the third would jump the queue");
    let held = |rig: &Rig| [first, second, third].map(|key| rig.shard.is_held(key, Way::Down));
    assert_eq!(held(&rig), [true, true, true]);
    for (nth, key) in [first, second, third].into_iter().enumerate() {
        assert!(!rig.shard.let_first_go(None, Way::Down) || nth < 2, "nobody is left to wait for");
        let waiting = held(&rig);
        assert!(!waiting[nth] && waiting[nth + 1..].iter().all(|held| *held), "{nth}: {waiting:?}");
        // Its turn holds although others wait.
        assert_eq!(rig.shard.admit(key, 0, Way::Down, need), need);
        rig.shard.spend(key, 0, Way::Down, need);
        give(&mut rig, need);
    }
}

#[test]
fn tokens_that_a_receive_did_not_need_come_back() {
    let mut rig = Rig::finished();
    let (key, _theirs) = connection(&mut rig);
    let rates = TorrentLimits { down: 1 << 20, peer_down: 1 << 19, ..TorrentLimits::default() };
    rig.shard.set_limits(1 << 20, 0);
    rig.shard.set_torrent_limits(crate::testing::KEY, rates);
    let own = |rig: &mut Rig| {
        let now = rig.shard.now;
        let conn = rig.shard.conn(key).expect("it lives");
        conn.limits.bucket(now, Way::Down, 1 << 19).expect("it is limited").available(now)
    };
    give(&mut rig, 50_000);
    rig.shard.gate(Some(0), Way::Down).expect("it is limited").quota.give(60_000);
    own(&mut rig);
    rig.shard.now += std::time::Duration::from_secs(1);
    let before = own(&mut rig);
    for (got, cost) in [(0, 0), (1_000, 1_000), (20_000, 20_000)] {
        let at_hand = [tokens(&mut rig, None), tokens(&mut rig, Some(0))];
        rig.shard.spend(key, 0, Way::Down, 20_000);
        rig.shard.settle_receive(key, 0, 20_000, got);
        let left = [tokens(&mut rig, None), tokens(&mut rig, Some(0))];
        assert_eq!(left, at_hand.map(|tokens| tokens - cost), "{got} of 20000 came");
    }
    assert_eq!(own(&mut rig), before - 21_000, "of its own limit, too");
}
