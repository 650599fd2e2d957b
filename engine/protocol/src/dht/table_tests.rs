//! The table against its invariants, whatever happens to it.

use super::*;
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::SmallRng;

const OWN: NodeId = NodeId([0x55; 20]);

fn contact(n: u32, id: NodeId) -> Contact {
    Contact { id, addr: SocketAddr::new(IpAddr::V4((0x0800_0000 + n).into()), 6881) }
}

fn fitting(n: u32, rng: &mut SmallRng) -> Contact {
    let odd = contact(n, OWN);
    Contact { id: NodeId::for_ip(odd.addr.ip(), rng), ..odd }
}

fn check(table: &Table) {
    let mut places = 0;
    for (index, bucket) in table.buckets.iter().enumerate() {
        assert!(bucket.live.len() <= BUCKET && bucket.spare.len() <= BUCKET);
        let is_last = index + 1 == table.buckets.len();
        for node in bucket.live.iter().chain(&bucket.spare) {
            let bits = table.own.shared_bits(&node.contact.id);
            assert!(bits == index || is_last && bits > index, "{bits} bits in bucket {index}");
            assert_eq!(table.places.get(&place(node.contact.addr)), Some(&node.contact.id));
            places += 1;
        }
    }
    assert_eq!(table.places.len(), places, "each place once");
    assert!(table.buckets.len() <= 160);
}

#[test]
fn splits_only_around_our_name() {
    let (mut rng, now) = (SmallRng::seed_from_u64(3), Instant::now());
    let mut table = Table::new(OWN, now);
    for n in 0..5000 {
        table.answered(now, contact(n, NodeId::random(&mut rng)));
    }
    check(&table);
    // 5000 random names: about log2(5000 / 8) full buckets and some.
    assert!((9..=20).contains(&table.buckets.len()), "{}", table.buckets.len());
    assert!((70..=160).contains(&table.len()), "{}", table.len());
    assert!(
        table.buckets[..8].iter().all(|bucket| bucket.live.len() == BUCKET && bucket.spare.len() == BUCKET)
    );
}

#[test]
fn names_that_fit_push_out_those_that_do_not() {
    let (mut rng, now) = (SmallRng::seed_from_u64(3), Instant::now());
    let mut table = Table::new(OWN, now);
    for n in 0..400 {
        table.answered(now, contact(n, OWN.random_sharing(0, &mut rng)));
    }
    let odd = |table: &Table| table.buckets[0].live.iter().filter(|node| !node.fits).count();
    assert!(odd(&table) > 0);
    for n in 1000..1100 {
        table.answered(now, fitting(n, &mut rng));
    }
    check(&table);
    assert_eq!(odd(&table), 0);
}

#[test]
fn a_spare_takes_the_place_of_who_does_not_answer() {
    let (mut rng, now) = (SmallRng::seed_from_u64(3), Instant::now());
    let mut table = Table::new(OWN, now);
    for n in 0..200 {
        table.answered(now, fitting(n, &mut rng));
    }
    let bad = table.buckets[0].live[0].contact;
    let later = now + FRESH;
    let checked = table.next_check(later).expect("all are questionable");
    assert!(!table.buckets[0].live[0].is_good(later));
    assert_ne!(Some(checked), table.next_check(later), "each once in a while");
    table.failed(bad);
    assert_eq!(table.buckets[0].live[0].contact, bad, "once is nothing");
    table.failed(bad);
    assert!(table.contacts().all(|contact| contact != bad));
    check(&table);
    assert_eq!(table.buckets[0].live.len(), BUCKET);
    assert!(!table.asked(later, bad));
}

#[test]
fn our_own_outage_does_not_empty_the_table() {
    let (mut rng, now) = (SmallRng::seed_from_u64(3), Instant::now());
    let mut table = Table::new(OWN, now);
    (0..6).for_each(|n| table.answered(now, fitting(n, &mut rng)));
    let all: Vec<Contact> = table.contacts().collect();
    for _ in 0..3 {
        all.iter().for_each(|contact| table.failed(*contact));
    }
    assert_eq!((table.len(), table.contacts().count()), (6, 0), "kept, and told to nobody");
    all.iter().for_each(|contact| table.answered(now, *contact));
    assert_eq!(table.contacts().count(), 6);
}

#[test]
fn a_machine_has_one_node_and_a_name_one_machine() {
    let (mut rng, now) = (SmallRng::seed_from_u64(3), Instant::now());
    let mut table = Table::new(OWN, now);
    let first = fitting(1, &mut rng);
    table.answered(now, first);
    let mut second = fitting(1, &mut rng);
    second.addr.set_port(7);
    table.answered(now, second);
    table.answered(now, contact(2, first.id));
    assert_eq!(table.contacts().collect::<Vec<_>>(), [first], "whoever was first stays");
    table.failed(first);
    table.answered(now, second);
    assert_eq!(table.contacts().collect::<Vec<_>>(), [second], "unless it does not answer");
    let renamed = Contact { id: NodeId::random(&mut rng), ..second };
    table.answered(now, renamed);
    assert_eq!(table.contacts().collect::<Vec<_>>(), [renamed], "started anew");
    check(&table);
    for port in 1..10 {
        let addr = SocketAddr::from(([127, 0, 0, 1], port));
        table.answered(now, Contact { id: NodeId::random(&mut rng), addr });
    }
    assert!(table.len() > 5, "local ones by port");
    check(&table);
}

#[test]
fn stale_buckets_are_looked_up_once() {
    let (mut rng, now) = (SmallRng::seed_from_u64(3), Instant::now());
    let mut table = Table::new(OWN, now);
    for n in 0..100 {
        table.answered(now, fitting(n, &mut rng));
    }
    assert_eq!(table.next_refresh(now, &mut rng), None);
    let later = now + FRESH;
    for index in 0..table.buckets.len() {
        let target = table.next_refresh(later, &mut rng).expect("stale");
        assert_eq!(table.index(&target), index);
    }
    assert_eq!(table.next_refresh(later, &mut rng), None);
}

#[derive(Clone, Debug)]
enum Op {
    Answer(u8, u8),
    Fail(u8),
    Ask(u8),
    Rename,
    Check,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (any::<u8>(), 0u8..3).prop_map(|(n, id)| Op::Answer(n, id)),
        3 => any::<u8>().prop_map(Op::Fail),
        1 => any::<u8>().prop_map(Op::Ask),
        1 => Just(Op::Rename),
        1 => Just(Op::Check),
    ]
}

proptest! {
    #[test]
    fn invariants_hold_and_closest_is_what_a_search_through_all_finds(
        ops in prop::collection::vec(op(), 1..400), seed: u64,
    ) {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut now = Instant::now();
        let mut table = Table::new(OWN, now);
        // Every node has a few names, some near ours, some that it may have.
        let named = |n: u8, id: u8| {
            let mut rng = SmallRng::seed_from_u64(u64::from(n) << 8 | u64::from(id));
            let id = match id {
                0 => return fitting(u32::from(n), &mut rng),
                1 => OWN.random_sharing(usize::from(n) % 40, &mut rng),
                // Shared with another machine.
                _ => OWN.random_sharing(usize::from(n) % 7, &mut SmallRng::seed_from_u64(u64::from(n / 2))),
            };
            contact(u32::from(n), id)
        };
        for op in ops {
            now += Duration::from_secs(5);
            match op {
                Op::Answer(n, id) => table.answered(now, named(n, id)),
                Op::Fail(n) => (0..3).for_each(|id| table.failed(named(n, id))),
                Op::Ask(n) => drop(table.asked(now, named(n, 0))),
                Op::Rename => table.set_own(NodeId::random(&mut rng), now),
                Op::Check => drop(table.next_check(now + FRESH)),
            }
            check(&table);
        }
        let target = NodeId::random(&mut rng);
        let nearest = table.closest(&target, 8);
        let count = nearest.len();
        let farthest = nearest.last().map(|contact| contact.id.distance(&target));
        let all = table.buckets.iter().flat_map(|bucket| &bucket.live).filter(|node| node.failures < BAD);
        let nearer = all.filter(|node| Some(node.contact.id.distance(&target)) <= farthest).count();
        prop_assert_eq!(nearer, count);
        prop_assert!(count == 8 || count == table.contacts().count());
    }
}
