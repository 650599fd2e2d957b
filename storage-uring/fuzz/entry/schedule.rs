//! What must hold of a device's queue whatever is asked of it, ends, would block or is tuned, in any order: each part
//! and task comes out once, joined parts are neighbours, the bounds hold, and when everything ends the queue is idle.
//! Run by the fuzz target and over the corpus by tests.
//!
//! The input: the depth, then operations of five bytes each: which one, and its arguments.

use std::collections::HashSet;

use ccbt_protocol::ids::TorrentKey;
use ccbt_storage::layout::Class;
use ccbt_storage::ring::Direction;
use ccbt_storage::schedule::{
    BATCH_BYTES_MAX, BATCH_PARTS_MAX, BLOCKING_MAX, Batch, DeviceQueue, Mode, Next, Part, SEAMS_MAX,
    TASKS_MAX,
};

const UNIT: u32 = 4096;

struct Model {
    queue: DeviceQueue<u32>,
    depth: u32,
    batch_bytes: u32,
    /// Requests of parts that are in the queue.
    waiting: HashSet<u32>,
    tasks: HashSet<u32>,
    running: Vec<Batch>,
    tasks_running: u32,
    number: u32,
}

/// See the module.
pub fn run(data: &[u8]) {
    let Some((&depth, data)) = data.split_first() else { return };
    let depth = u32::from(depth % 40) + 1;
    let mut model = Model {
        queue: DeviceQueue::new(depth),
        depth,
        batch_bytes: BATCH_BYTES_MAX,
        waiting: HashSet::new(),
        tasks: HashSet::new(),
        running: Vec::new(),
        tasks_running: 0,
        number: 0,
    };
    for op in data.chunks_exact(5) {
        model.step(op[0], [op[1], op[2], op[3], op[4]]);
    }
    model.drain();
}

impl Model {
    fn step(&mut self, op: u8, [a, b, c, d]: [u8; 4]) {
        self.number += 1;
        match op % 10 {
            0..=3 => self.push(a, b, c, d),
            4 | 5 => drop(self.start()),
            6 => self.end(a),
            7 => self.block(a, b % 8 > 0),
            8 if a % 2 == 0 => {
                self.tasks.insert(self.number);
                self.queue.push_task(self.number);
            }
            8 => self.end_task(),
            _ => {
                (self.depth, self.batch_bytes) = (u32::from(a % 40) + 1, (u32::from(b) + 1) * UNIT);
                self.queue.tune(self.depth, self.batch_bytes);
                assert_eq!(self.queue.batch_bytes(), self.batch_bytes);
            }
        }
        assert_eq!(self.queue.waiting(), self.waiting.len());
        assert_eq!(self.queue.saturated(), !self.waiting.is_empty());
        assert_eq!(self.queue.in_flight(), self.running.len() as u32 + self.tasks_running);
    }

    fn push(&mut self, a: u8, b: u8, c: u8, d: u8) {
        self.waiting.insert(self.number);
        self.queue.push(Part {
            request: self.number,
            torrent: TorrentKey(u32::from(d & 1)),
            file: u32::from(d >> 1 & 1),
            offset: u64::from(a) * u64::from(UNIT),
            at: 0,
            len: (u32::from(b % 70) + 1) * UNIT,
            direction: if c & 1 == 0 { Direction::Read } else { Direction::Write },
            class: if c & 2 == 0 { Class::Direct } else { Class::Seam },
            solo: c & 12 == 12,
            retries: 0,
        });
    }

    /// Takes the next work; whether there was any.
    fn start(&mut self) -> bool {
        let (ready, before) = (self.queue.ready(), self.queue.in_flight());
        let next = self.queue.next_work();
        assert_eq!(next.is_some(), ready, "what was announced");
        match next {
            None => return false,
            Some(Next::Task(task)) => {
                assert!(self.tasks.remove(&task), "task {task} twice");
                self.tasks_running += 1;
                assert!(self.tasks_running <= TASKS_MAX);
            }
            Some(Next::Batch(batch)) => {
                self.check(&batch);
                self.running.push(batch);
            }
        }
        assert!(before < self.depth, "beyond the depth");
        let of = |class| {
            self.running
                .iter()
                .filter(|batch| batch.head().class == class && batch.mode == Mode::Worker)
                .count()
        };
        assert!(of(Class::Direct) as u32 <= BLOCKING_MAX, "kernel workers");
        let seams = self
            .running
            .iter()
            .filter(|batch| batch.head().class == Class::Seam && batch.head().direction == Direction::Write);
        assert!(seams.count() as u32 <= SEAMS_MAX, "buffered writes");
        true
    }

    fn check(&mut self, batch: &Batch) {
        let head = *batch.head();
        let mut offset = head.offset;
        for part in &batch.parts {
            assert!(self.waiting.remove(&part.request), "part {} twice", part.request);
            assert_eq!(
                (part.torrent, part.file, part.offset),
                (head.torrent, head.file, offset),
                "neighbours"
            );
            assert_eq!((part.class, part.direction), (head.class, head.direction), "one way");
            assert!(!part.solo || batch.parts.len() == 1, "alone");
            offset += u64::from(part.len);
        }
        assert_eq!(offset - head.offset, u64::from(batch.len));
        // What blocked before keeps the length that it was joined with.
        assert!(batch.parts.len() == 1 || batch.len <= BATCH_BYTES_MAX, "{} bytes", batch.len);
        assert!(batch.parts.len() == 1 || batch.mode != Mode::Try || batch.len <= self.batch_bytes);
        assert!(batch.parts.len() <= BATCH_PARTS_MAX);
    }

    fn end(&mut self, which: u8) {
        if !self.running.is_empty() {
            let batch = self.running.swap_remove(usize::from(which) % self.running.len());
            self.queue.ended(&batch);
        }
    }

    fn block(&mut self, which: u8, supported: bool) {
        let tries: Vec<usize> =
            (0..self.running.len()).filter(|at| self.running[*at].mode == Mode::Try).collect();
        if !tries.is_empty() {
            let batch = self.running.swap_remove(tries[usize::from(which) % tries.len()]);
            self.waiting.extend(batch.parts.iter().map(|part| part.request));
            self.queue.would_block(batch, supported);
        }
    }

    fn end_task(&mut self) {
        if self.tasks_running > 0 {
            self.tasks_running -= 1;
            self.queue.task_ended();
        }
    }

    /// Everything comes out once what runs ends.
    fn drain(&mut self) {
        while !self.queue.is_idle() {
            if !self.start() {
                assert!(
                    !self.running.is_empty() || self.tasks_running > 0,
                    "work waits and nothing is given out"
                );
                self.end(0);
                self.end_task();
            }
        }
        assert!(self.waiting.is_empty() && self.tasks.is_empty() && self.running.is_empty());
    }
}
