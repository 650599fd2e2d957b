use super::*;
use rand::SeedableRng;

fn rng() -> impl Rng {
    rand::rngs::SmallRng::seed_from_u64(7)
}

fn addr(n: u32) -> SocketAddr {
    SocketAddr::new(IpAddr::V4((0x0a00_0000 + n).into()), 6881)
}

#[test]
fn hands_out_each_once_and_backs_off() {
    let (mut list, mut rng, now) = (Candidates::default(), rng(), Instant::now());
    assert!(list.add(addr(1), Source::Tracker));
    assert!(!list.add(addr(1), Source::Tracker));
    assert_eq!(list.next(now, &mut rng), Some(addr(1)));
    assert_eq!(list.next(now, &mut rng), None);
    list.gone(now, addr(1), false);
    assert_eq!(list.next(now, &mut rng), None);
    assert_eq!(list.next(now + BACK_OFF, &mut rng), Some(addr(1)));
    list.gone(now, addr(1), false);
    assert_eq!(list.next(now + BACK_OFF, &mut rng), None, "the wait doubles");
    assert_eq!(list.next_ready(now), Some(now + BACK_OFF * 2));
}

#[test]
fn forgets_the_hopeless_but_never_the_users() {
    let (mut list, mut rng, mut now) = (Candidates::default(), rng(), Instant::now());
    list.add(addr(1), Source::Tracker);
    list.add(addr(2), Source::User);
    assert_eq!(list.next(now, &mut rng), Some(addr(2)), "the user's first");
    list.gone(now, addr(2), false);
    for _ in 0..40 {
        now += MAX_BACK_OFF;
        while let Some(addr) = list.next(now, &mut rng) {
            list.gone(now, addr, false);
        }
    }
    assert_eq!(list.len(), 1);
    assert_eq!(list.next(now + MAX_BACK_OFF, &mut rng), Some(addr(2)));
}

#[test]
fn bans_every_port_and_refuses_useless_addresses() {
    let mut list = Candidates::default();
    list.add(addr(1), Source::User);
    list.ban(addr(1).ip());
    assert!(list.is_empty());
    assert!(!list.add(SocketAddr::new(addr(1).ip(), 1), Source::Tracker));
    assert!(!list.add(SocketAddr::new(addr(2).ip(), 0), Source::Tracker));
    list.add(addr(3), Source::User);
    let (now, mut rng) = (Instant::now(), rng());
    assert_eq!(list.next(now, &mut rng), Some(addr(3)));
    list.ban(addr(3).ip());
    list.gone(now, addr(3), true);
    assert_eq!(list.next(now + MAX_BACK_OFF, &mut rng), None, "one that was connected when it was banned");
    assert!(!list.add("224.0.0.1:5".parse().unwrap(), Source::Tracker));
    assert!(!list.add("0.0.0.0:5".parse().unwrap(), Source::Tracker));
}

#[test]
fn bounded_and_replaces_the_worst() {
    let (mut list, mut rng, now) = (Candidates::default(), rng(), Instant::now());
    for n in 0..MAX_CANDIDATES as u32 {
        assert!(list.add(addr(n), Source::Tracker));
    }
    assert!(!list.add(addr(9999), Source::Tracker), "nothing to replace");
    let failed = list.next(now, &mut rng).unwrap();
    list.gone(now, failed, false);
    assert!(list.add(addr(9999), Source::Tracker));
    assert_eq!(list.len(), MAX_CANDIDATES);
}

#[test]
fn endless_hearsay_displaces_nobody_and_only_takes_turns() {
    let (mut list, mut rng, now) = (Candidates::default(), rng(), Instant::now());
    for n in 0..5000 {
        list.add(addr(n), Source::Pex);
    }
    assert_eq!((list.len(), list.held(Source::Pex)), (MAX_CANDIDATES, MAX_CANDIDATES));
    let tracker: Vec<SocketAddr> = (100_000..100_300).map(addr).collect();
    assert!(tracker.iter().all(|addr| list.add(*addr, Source::Tracker)), "they have a share of their own");
    for n in 200_000..205_000 {
        list.add(addr(n), Source::Dht);
        list.add(addr(n + 10_000), Source::Pex);
    }
    assert_eq!(list.held(Source::Tracker), 300, "nobody pushes them out");
    assert_eq!(list.held(Source::Dht), SHARES[Source::Dht as usize]);
    assert_eq!(list.len(), MAX_CANDIDATES);
    let dialled: Vec<SocketAddr> = (0..900).map(|_| list.next(now, &mut rng).unwrap()).collect();
    let of_tracker = dialled.iter().filter(|addr| tracker.contains(addr)).count();
    assert_eq!(of_tracker, 300, "every third attempt is theirs");
}

#[test]
fn a_late_source_takes_turns_from_then_on_and_not_all_of_them() {
    let (mut list, mut rng, now) = (Candidates::default(), rng(), Instant::now());
    (0..200).for_each(|n| assert!(list.add(addr(n), Source::Tracker)));
    (0..100).for_each(|_| assert!(list.next(now, &mut rng).is_some()));
    (1000..1100).for_each(|n| assert!(list.add(addr(n), Source::Dht)));
    let next: Vec<_> = (0..40).map(|_| list.next(now, &mut rng).unwrap()).collect();
    let late = next.iter().filter(|found| (1000..1100).any(|n| addr(n) == **found)).count();
    assert!((19..=21).contains(&late), "{late} of 40");
}

#[test]
fn the_better_source_of_an_address_counts() {
    let mut list = Candidates::default();
    list.add(addr(1), Source::Pex);
    assert!(!list.add(addr(1), Source::Tracker));
    assert_eq!((list.held(Source::Pex), list.held(Source::Tracker)), (0, 1));
    list.add(addr(1), Source::Dht);
    assert_eq!((list.held(Source::Dht), list.held(Source::Tracker)), (0, 1));
    list.ban(addr(1).ip());
    assert_eq!(list.held(Source::Tracker), 0);
}

#[test]
fn strangers_name_few_ports_of_one_machine() {
    let mut list = Candidates::default();
    let at = |port| SocketAddr::new([1, 2, 3, 4].into(), port);
    let taken = (1..50).filter(|port| list.add(at(*port), Source::Pex)).count();
    assert_eq!(taken, MAX_PORTS);
    assert!(list.add(at(60), Source::Tracker) && !list.add(at(61), Source::Dht));
    let mapped = "[::ffff:1.2.3.4]:60".parse().unwrap();
    assert!(!list.add(mapped, Source::User), "the same address in other words");
    assert_eq!(list.held(Source::User), 1);
}

#[test]
fn private_torrents_hear_of_peers_from_trackers_and_users_alone() {
    let (mut list, mut rng, now) = (Candidates::default(), rng(), Instant::now());
    list.add(addr(1), Source::Dht);
    let connected = list.next(now, &mut rng).unwrap();
    list.add(addr(2), Source::Magnet);
    list.add(addr(3), Source::Tracker);
    assert_eq!(list.set_private(), [connected]);
    for (n, source) in [(4, Source::Dht), (5, Source::Pex), (6, Source::Lsd), (7, Source::Magnet)] {
        assert!(!list.add(addr(n), source));
    }
    assert!(list.add(addr(8), Source::User) && list.add(addr(9), Source::Tracker));
    list.gone(now, connected, true);
    assert_eq!(list.len(), 3);
}

#[test]
fn canonical_priority_orders_once_our_address_is_known() {
    let (mut list, mut rng, now) = (Candidates::new(6881), rng(), Instant::now());
    let ours = IpAddr::from([123, 213, 32, 10]);
    (1..60).for_each(|n| assert!(list.add(addr(n << 16), Source::Tracker)));
    list.told_own_address([1, 1, 1, 1].into(), ours);
    list.told_own_address([2, 2, 2, 2].into(), ours);
    (60..90).for_each(|n| assert!(list.add(addr(n << 16), Source::Tracker)));
    let order: Vec<_> = std::iter::from_fn(|| list.next(now, &mut rng)).collect();
    let priority = |addr: &SocketAddr| canonical_priority(SocketAddr::new(ours, 6881), *addr).unwrap();
    assert_eq!(order.len(), 89);
    assert!(order.is_sorted_by_key(|addr| Reverse(priority(addr))));
}

#[test]
fn one_that_was_ended_for_our_sake_is_tried_again_at_once() {
    let (mut list, mut rng, now) = (Candidates::default(), rng(), Instant::now());
    list.add(addr(1), Source::Magnet);
    list.next(now, &mut rng);
    list.gone(now, addr(1), false);
    assert_eq!(list.next(now, &mut rng), None);
    list.retry_now(addr(1));
    assert_eq!(list.next(now, &mut rng), Some(addr(1)));
}

#[test]
fn the_reliable_come_first_and_the_unreliable_last() {
    let (mut list, mut rng, now) = (Candidates::default(), rng(), Instant::now());
    (1..=3).for_each(|n| assert!(list.add(addr(n), Source::Tracker)));
    list.learn(addr(1), Record { snubs: 5, timeouts: 80, ..Record::default() });
    list.learn(addr(3), Record { blocks: 1000, ..Record::default() });
    list.learn(addr(9), Record { blocks: 1, ..Record::default() });
    assert_eq!((list.record(addr(3)).blocks, list.record(addr(9))), (1000, Record::default()));
    let order: Vec<_> = std::iter::from_fn(|| list.next(now, &mut rng)).collect();
    assert_eq!(order, [addr(3), addr(2), addr(1)]);
    // What they did since counts, too.
    for _ in 0..3 {
        list.learn(addr(3), Record { snubs: 50, ..Record::default() });
    }
    list.learn(addr(1), Record { blocks: 4000, ..Record::default() });
    (1..=3).for_each(|n| list.gone(now, addr(n), true));
    let order: Vec<_> = std::iter::from_fn(|| list.next(now + MAX_BACK_OFF, &mut rng)).collect();
    assert_eq!(order, [addr(1), addr(2), addr(3)]);
}
