//! The choker over many rounds, with peers that come, go and change their minds.

use super::*;
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus as TestRng;
use std::collections::BTreeSet;

const ROUND: Duration = Duration::from_secs(10);

fn peer(key: u32, now: Instant) -> Candidate {
    Candidate {
        key: PeerKey(key),
        interested: true,
        unchoked: false,
        down_rate: 0,
        up_rate: 0,
        uploaded: 0,
        snubbed: false,
        upload_only: false,
        connected_at: now,
    }
}

fn config(slots: usize, optimistic: usize) -> ChokerConfig {
    ChokerConfig { slots, optimistic, ..ChokerConfig::default() }
}

fn apply(
    choker: &mut Choker,
    now: Instant,
    peers: &mut [Candidate],
    seeding: bool,
    rng: &mut TestRng,
) -> usize {
    let decisions = choker.run(now, peers, seeding, rng).to_vec();
    for decision in &decisions {
        let peer =
            peers.iter_mut().find(|peer| peer.key == decision.key).expect("a decision about a stranger");
        assert_ne!(peer.unchoked, decision.unchoke, "nothing changes");
        peer.unchoked = decision.unchoke;
    }
    decisions.len()
}

fn unchoked(peers: &[Candidate]) -> BTreeSet<u32> {
    peers.iter().filter(|peer| peer.unchoked).map(|peer| peer.key.0).collect()
}

#[test]
fn few_peers_are_all_served_at_once_and_stay() {
    let (now, mut rng) = (Instant::now(), TestRng::seed_from_u64(1));
    for seeding in [false, true] {
        let mut choker = Choker::new(ChokerConfig::default());
        let mut peers: Vec<_> = (0..64).map(|key| peer(key, now)).collect();
        peers[3].snubbed = true;
        assert_eq!(apply(&mut choker, now, &mut peers, seeding, &mut rng), 64);
        for round in 1..50 {
            peers[round % 64].down_rate += 1000;
            assert_eq!(apply(&mut choker, now + ROUND * round as u32, &mut peers, seeding, &mut rng), 0);
        }
    }
}

#[test]
fn the_fastest_earn_their_places() {
    let (now, mut rng) = (Instant::now(), TestRng::seed_from_u64(2));
    let mut choker = Choker::new(config(4, 1));
    let mut peers: Vec<_> = (0..20).map(|key| peer(key, now)).collect();
    for (peer, rate) in peers.iter_mut().zip([900, 800, 700, 650, 5000, 100]) {
        peer.down_rate = rate;
    }
    peers[4].snubbed = true;
    peers[0].interested = false;
    apply(&mut choker, now, &mut peers, false, &mut rng);
    let served = unchoked(&peers);
    assert!([1, 2, 3].iter().all(|key| served.contains(key)) && served.len() == 4, "{served:?}");
    // A little faster is not enough to take a place, much faster is.
    let loser = (5..20).find(|key| !served.contains(key)).unwrap();
    peers[loser as usize].down_rate = 660;
    apply(&mut choker, now + ROUND, &mut peers, false, &mut rng);
    assert_eq!(unchoked(&peers), served);
    peers[loser as usize].down_rate = 2000;
    apply(&mut choker, now + ROUND * 2, &mut peers, false, &mut rng);
    let served = unchoked(&peers);
    assert!(served.contains(&loser) && !served.contains(&3), "{served:?}");
}

#[test]
fn newcomers_are_drawn_three_times_as_often() {
    let (start, mut rng) = (Instant::now(), TestRng::seed_from_u64(3));
    let now = start + Duration::from_secs(1000);
    let mut newcomers = 0;
    for _ in 0..2000 {
        let mut choker = Choker::new(config(1, 1));
        let mut peers: Vec<_> = (0..10).map(|key| peer(key, if key < 5 { now } else { start })).collect();
        apply(&mut choker, now, &mut peers, false, &mut rng);
        newcomers += unchoked(&peers).iter().filter(|key| **key < 5).count();
    }
    assert!((1400..1600).contains(&newcomers), "{newcomers} of 2000, 1500 expected");
}

#[test]
fn optimistic_places_rotate_on_time_and_not_before() {
    let (start, mut rng) = (Instant::now(), TestRng::seed_from_u64(4));
    let mut choker = Choker::new(config(2, 1));
    let mut peers: Vec<_> = (0..12).map(|key| peer(key, start)).collect();
    peers[0].down_rate = 1000;
    let mut holder = None;
    let mut holders = BTreeSet::new();
    for second in 0..1200 {
        apply(&mut choker, start + Duration::from_secs(second), &mut peers, false, &mut rng);
        let served = unchoked(&peers);
        assert!(served.len() == 2 && served.contains(&0));
        let now_holder = *served.last().unwrap();
        assert_eq!(holder != Some(now_holder), second % 30 == 0, "{second}");
        holder = Some(now_holder);
        holders.insert(now_holder);
    }
    assert_eq!(holders.len(), 11, "somebody was never drawn: {holders:?}");
}

#[test]
fn seeds_serve_everybody_in_turn_and_the_fast_for_longer() {
    let (start, mut rng) = (Instant::now(), TestRng::seed_from_u64(5));
    let mut choker = Choker::new(config(8, 2));
    let mut peers: Vec<_> = (0..40).map(|key| peer(key, start)).collect();
    let mut rounds = [0u32; 40];
    for round in 0..600 {
        peers.iter_mut().for_each(|peer| {
            peer.up_rate = if peer.unchoked { 1000 * u64::from(peer.key.0 % 4 + 1) } else { 0 };
        });
        let changes = apply(&mut choker, start + ROUND * round, &mut peers, true, &mut rng);
        assert!(round == 0 || changes <= 4, "{changes} changes");
        let served = unchoked(&peers);
        assert_eq!(served.len(), 8);
        served.iter().for_each(|key| rounds[*key as usize] += 1);
    }
    assert!(rounds.iter().all(|rounds| *rounds >= 40), "{rounds:?}");
    let sum = |class: usize| rounds.iter().skip(class).step_by(4).sum::<u32>();
    assert!(sum(3) > sum(0), "fast {} slow {}", sum(3), sum(0));
}

#[test]
fn the_end_of_the_download_does_not_choke_everybody() {
    let (now, mut rng) = (Instant::now(), TestRng::seed_from_u64(6));
    let mut choker = Choker::new(config(4, 1));
    let mut peers: Vec<_> = (0..20).map(|key| peer(key, now)).collect();
    peers.iter_mut().for_each(|peer| peer.down_rate = u64::from(peer.key.0) * 100);
    apply(&mut choker, now, &mut peers, false, &mut rng);
    assert_eq!(apply(&mut choker, now + ROUND, &mut peers, true, &mut rng), 0);
    let mut none = Choker::new(config(0, 3));
    apply(&mut none, now, &mut peers, true, &mut rng);
    assert!(unchoked(&peers).is_empty());
}

proptest! {
    #[test]
    fn bounds_hold_and_nobody_starves(
        slots in 1usize..7,
        optimistic in 1usize..4,
        seeding: bool,
        seed: u64,
        peers in prop::collection::vec((0u64..3000, 0u8..10), 1..16),
        changes in prop::collection::vec((0usize..16, 0u8..6, 0u64..3000), 0..60),
    ) {
        let (start, mut rng) = (Instant::now(), TestRng::seed_from_u64(seed));
        let mut choker = Choker::new(config(slots, optimistic));
        let mut peers: Vec<Candidate> = peers.iter().enumerate().map(|(key, (rate, kind))| Candidate {
            down_rate: *rate,
            up_rate: *rate,
            snubbed: *kind == 0,
            upload_only: *kind == 1,
            interested: *kind != 2,
            ..peer(key as u32, start)
        }).collect();
        let mut now = start;
        let mut next_key = 1000;
        for (at, kind, rate) in changes {
            now += Duration::from_millis(rate * 5);
            let at = at % peers.len();
            match kind {
                0 => peers[at].interested = !peers[at].interested,
                1 => peers[at].snubbed = !peers[at].snubbed,
                2 => {
                    peers[at] = peer(next_key, now);
                    next_key += 1;
                }
                _ => peers[at].down_rate = rate,
            }
            apply(&mut choker, now, &mut peers, seeding, &mut rng);
            let wanting = peers.iter().filter(|peer| peer.wants()).count();
            prop_assert_eq!(unchoked(&peers).len(), slots.min(wanting));
            prop_assert!(peers.iter().all(|peer| !peer.unchoked || peer.wants()));
            prop_assert!(choker.memory.len() == peers.len());
        }
        // From here on nothing changes: everybody has a turn within a bounded number of rounds.
        let mut served = BTreeSet::new();
        for _ in 0..1500 {
            now += ROUND;
            apply(&mut choker, now, &mut peers, seeding, &mut rng);
            served.extend(unchoked(&peers));
        }
        let wanting: BTreeSet<u32> = peers.iter().filter(|peer| peer.wants()).map(|peer| peer.key.0).collect();
        prop_assert_eq!(served, wanting);
    }
}
