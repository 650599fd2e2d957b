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

#[test]
fn what_would_block_comes_again_for_a_worker_and_workers_are_few() {
    let mut queue = DeviceQueue::<u8>::new(64);
    for n in 0..200 {
        queue.push(part(n, 0, u64::from(n) * 1000, 10, Direction::Write));
    }
    let (mut tried, mut running) = (0, Vec::new());
    while let Some(batch) = batch(&mut queue) {
        if batch.mode == Mode::Try {
            tried += 1;
            queue.would_block(batch, true);
        } else {
            running.push(batch);
        }
    }
    assert_eq!((running.len() as u32, queue.in_flight()), (BLOCKING_MAX, BLOCKING_MAX));
    assert!(tried <= MISSES_MAX, "after {MISSES_MAX} the attempts stop for a while, not after {tried}");
    assert!(queue.saturated() && !queue.ready());
    // Reads that wait on the device alone pass by.
    queue.push(part(900, 0, 0, 10, Direction::Read));
    assert_eq!(batch(&mut queue).map(|batch| batch.mode), Some(Mode::Try));
    // The attempts come back, since what blocked once need not block again.
    let mut modes = Vec::new();
    while let Some(done) = running.pop() {
        queue.ended(&done);
        while let Some(batch) = batch(&mut queue) {
            modes.push(batch.mode);
            running.push(batch);
        }
    }
    assert_eq!(
        modes.iter().filter(|mode| **mode == Mode::Worker).count() as u32,
        STRAIGHT - BLOCKING_MAX + MISSES_MAX
    );
    assert_eq!(modes.last(), Some(&Mode::Try));
}

#[test]
fn file_systems_that_cannot_tell_are_asked_once() {
    let mut queue = DeviceQueue::<u8>::new(8);
    let seam = |n| Part { class: Class::Seam, ..part(n, 0, u64::from(n) * 1000, 10, Direction::Write) };
    (0..3).for_each(|n| queue.push(seam(n)));
    let first = batch(&mut queue).unwrap();
    assert_eq!(first.mode, Mode::Try);
    queue.would_block(first, false);
    for _ in 0..3 {
        let next = batch(&mut queue).unwrap();
        assert_eq!(next.mode, Mode::Worker);
        queue.ended(&next);
    }
    // Cached reads are tried once, and from then on are left to the kernel, which needs no worker for them.
    let read = |n| Part { class: Class::Seam, ..part(n, 0, u64::from(n) * 1000, 10, Direction::Read) };
    (0..3).for_each(|n| queue.push(read(n)));
    let first = batch(&mut queue).unwrap();
    assert_eq!(first.mode, Mode::Try);
    queue.would_block(first, true);
    for _ in 0..3 {
        let next = batch(&mut queue).unwrap();
        assert_eq!(next.mode, Mode::Plain);
        queue.ended(&next);
    }
    assert!(queue.is_idle());
}

#[test]
fn a_retuned_queue_joins_as_told() {
    let mut queue = DeviceQueue::<u8>::new(8);
    (0..16).for_each(|n| queue.push(part(n, 0, u64::from(n) << 18, 1 << 18, Direction::Write)));
    queue.tune(8, 1 << 20);
    assert_eq!(batch(&mut queue).unwrap().len, 1 << 20);
    queue.tune(2, 1 << 19);
    assert_eq!(batch(&mut queue).unwrap().len, 1 << 19);
    assert_eq!(batch(&mut queue), None, "the depth of 2 is used up");
    queue.tune(8, 128 << 10);
    assert_eq!(batch(&mut queue).unwrap().len, 1 << 18, "longer parts go alone");
}

proptest! {
    /// What a rotating device needs: the offsets of one way rise, until nothing further up waits.
    #[test]
    fn offsets_rise_across_turns(
        turns in prop::collection::vec((prop::collection::vec(0u64..200, 0..6), 0usize..4), 1..60),
        depth in 1u32..6,
    ) {
        let mut queue = DeviceQueue::<u8>::new(depth);
        let (mut waiting, mut running) = (std::collections::BTreeMap::<u64, u32>::new(), Vec::new());
        let mut last = 0;
        for (request, (offsets, ends)) in turns.into_iter().enumerate() {
            for offset in offsets {
                // Gaps between all, so that nothing is joined.
                queue.push(part(request as u32, 0, offset * 10, 4, Direction::Write));
                *waiting.entry(offset * 10).or_default() += 1;
            }
            for _ in 0..ends.min(running.len()) {
                let done: Batch = running.remove(0);
                queue.ended(&done);
            }
            while let Some(batch) = batch(&mut queue) {
                let offset = batch.head().offset;
                let further = waiting.keys().next_back().is_some_and(|most| *most > last);
                prop_assert!(offset >= last || !further, "{} after {} with {:?}", offset, last, waiting);
                let left = waiting.get_mut(&offset).expect("one that waits");
                *left -= 1;
                if *left == 0 {
                    waiting.remove(&offset);
                }
                last = offset;
                running.push(batch);
            }
        }
    }

    #[test]
    fn every_part_comes_out_once(
        parts in prop::collection::vec((0u32..3, 0u64..40, any::<[bool; 3]>()), 1..120),
        depth in 1u32..20,
        blocks in prop::collection::vec(any::<[bool; 2]>(), 1..30),
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
                Some(batch) if batch.mode == Mode::Try && blocks[step % blocks.len()][0] => {
                    queue.would_block(batch, blocks[step % blocks.len()][1]);
                    step += 1;
                }
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
                    let workers = running.iter().filter(|batch| batch.mode == Mode::Worker).count();
                    prop_assert!(workers as u32 <= BLOCKING_MAX + SEAMS_MAX);
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
