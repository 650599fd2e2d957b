use super::*;
use proptest::prelude::*;

fn part(request: u32, file: u32, offset: u64, len: u32, direction: Direction) -> Part {
    Part {
        request,
        torrent: TorrentKey(1),
        file,
        offset,
        at: 0,
        len,
        direction,
        class: Class::Direct,
        solo: false,
        retries: 0,
    }
}

fn batch(queue: &mut DeviceQueue<u8>) -> Option<Batch> {
    match queue.next_work()? {
        Next::Batch(batch) => Some(batch),
        Next::Task(task) => panic!("task {task}"),
    }
}

fn requests(batch: &Batch) -> Vec<u32> {
    batch.parts.iter().map(|part| part.request).collect()
}

#[test]
fn neighbours_are_joined_in_rising_order() {
    let mut queue = DeviceQueue::<u8>::new(8);
    for (request, offset) in [(0, 3 << 20), (1, 0), (2, 1 << 20), (3, 9 << 20), (4, 2 << 20)] {
        queue.push(part(request, 0, offset, 1 << 20, Direction::Write));
    }
    queue.push(part(5, 1, 4 << 20, 1 << 20, Direction::Write));
    let first = batch(&mut queue).unwrap();
    assert_eq!((requests(&first), first.len), (vec![1, 2, 4, 0], 4 << 20));
    // The cursor goes on from there, a lower offset waits for the next round.
    queue.push(part(6, 0, 0, 1 << 20, Direction::Write));
    assert_eq!(requests(&batch(&mut queue).unwrap()), [3]);
    assert_eq!(requests(&batch(&mut queue).unwrap()), [5]);
    assert_eq!(requests(&batch(&mut queue).unwrap()), [6]);
    assert_eq!(batch(&mut queue), None);
}

#[test]
fn a_part_that_failed_once_goes_alone() {
    let mut queue = DeviceQueue::<u8>::new(8);
    for request in 0..3 {
        let solo = request == 1;
        queue.push(Part { solo, ..part(request, 0, u64::from(request) * 100, 100, Direction::Write) });
    }
    for request in 0..3 {
        assert_eq!(requests(&batch(&mut queue).unwrap()), [request]);
    }
}

#[test]
fn reads_come_first_but_never_alone_for_ever() {
    let mut queue = DeviceQueue::<u8>::new(1);
    for n in 0..20 {
        queue.push(part(n, 0, u64::from(n) * 1000, 10, Direction::Read));
        queue.push(part(n, 0, u64::from(n) * 1000, 10, Direction::Write));
    }
    let mut order = String::new();
    while let Some(batch) = batch(&mut queue) {
        order.push(if batch.head().direction == Direction::Read { 'r' } else { 'w' });
        queue.ended(&batch);
    }
    assert_eq!(&order[..15], "rrrrwrrrrwrrrrw");
    assert_eq!(order.len(), 40);
}

#[test]
fn neither_kind_takes_the_whole_depth_and_blocking_work_takes_little() {
    let mut queue = DeviceQueue::new(8);
    for n in 0..20 {
        queue.push(part(n, 0, u64::from(n) * 1000, 10, Direction::Write));
        queue.push(Part { class: Class::Seam, ..part(n, 1, u64::from(n) * 1000, 10, Direction::Write) });
        queue.push_task(n);
    }
    let mut counts = (0, 0, 0);
    while let Some(next) = queue.next_work() {
        match next {
            Next::Task(_) => counts.0 += 1,
            Next::Batch(batch) if batch.head().class == Class::Seam => counts.1 += 1,
            Next::Batch(_) => counts.2 += 1,
        }
    }
    assert_eq!(counts, (4, 2, 2), "tasks, seams and direct writes fill the depth of 8");
    let mut queue = DeviceQueue::<u8>::new(8);
    for n in 0..20 {
        queue.push(part(n, 0, u64::from(n) * 1000, 10, Direction::Write));
    }
    assert_eq!(std::iter::from_fn(|| batch(&mut queue)).count(), 6);
    queue.push(part(99, 0, 0, 10, Direction::Read));
    assert_eq!(requests(&batch(&mut queue).unwrap()), [99], "a read finds its place beside waiting writes");
}

proptest! {
    #[test]
    fn every_part_comes_out_once(
        parts in prop::collection::vec((0u32..3, 0u64..40, any::<[bool; 3]>()), 1..120),
        depth in 1u32..20,
        ends in prop::collection::vec(any::<u8>(), 1..50),
    ) {
        let mut queue = DeviceQueue::<u8>::new(depth);
        let mut waiting = parts.len();
        for (request, (file, page, [read, seam, solo])) in parts.into_iter().enumerate() {
            let direction = if read { Direction::Read } else { Direction::Write };
            let class = if seam { Class::Seam } else { Class::Direct };
            queue.push(Part { class, solo, ..part(request as u32, file, page * 4096, 4096, direction) });
        }
        let mut running: Vec<Batch> = Vec::new();
        let mut seen = std::collections::BTreeSet::new();
        let mut step = 0;
        while waiting > 0 || !running.is_empty() {
            match batch(&mut queue) {
                Some(batch) => {
                    prop_assert!(batch.len <= BATCH_BYTES_MAX && batch.parts.len() <= BATCH_PARTS_MAX);
                    let mut offset = batch.head().offset;
                    for part in &batch.parts {
                        prop_assert_eq!(part.offset, offset);
                        prop_assert_eq!((part.file, part.class, part.direction), {
                            let head = batch.head();
                            (head.file, head.class, head.direction)
                        });
                        prop_assert!(batch.parts.len() == 1 || !part.solo);
                        prop_assert!(seen.insert(part.request), "twice");
                        offset += u64::from(part.len);
                        waiting -= 1;
                    }
                    running.push(batch);
                    prop_assert!(queue.in_flight() <= depth);
                }
                None => {
                    prop_assert!(!running.is_empty(), "parts wait and nothing is given out");
                    let at = usize::from(ends[step % ends.len()]) % running.len();
                    queue.ended(&running.swap_remove(at));
                    step += 1;
                }
            }
        }
        prop_assert!(queue.is_idle());
    }
}
