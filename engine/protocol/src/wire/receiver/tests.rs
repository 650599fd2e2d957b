//! Scatter receive against a naive parser, over a fake kernel and guarded fake memory.

use std::collections::HashMap;

use proptest::prelude::*;

use super::super::message::{MAX_PIECE_BODY_LEN, Message, WireError, be32};
use super::*;
use crate::geometry::MAX_REQUEST_LEN;
use crate::ids::PieceIndex;

const GUARD: u8 = 0xee;
const GAP: usize = 7;

/// What a sink saw, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Event {
    Begin(Block, bool),
    /// With the place's bytes, if accepted.
    End(Block, Option<Vec<u8>>),
    Message(String),
    Error(WireError),
}

fn event_of(message: Message<'_>) -> Event {
    Event::Message(format!("{message:?}"))
}

/// Block places with guard bytes between them, and what the shard would know of them.
#[derive(Clone, Default)]
struct Shard {
    memory: Vec<u8>,
    places: HashMap<Block, usize>,
    outstanding: Vec<Block>,
    current: Option<Block>,
    /// Bytes of accepted blocks that were not asked for again: nothing may change them.
    done: HashMap<Block, Vec<u8>>,
    events: Vec<Event>,
}

impl Shard {
    fn new(blocks: &[Block]) -> Self {
        let mut this = Self::default();
        for block in blocks {
            this.memory.resize(this.memory.len() + GAP, GUARD);
            this.places.insert(*block, this.memory.len());
            this.memory.resize(this.memory.len() + block.len as usize, GUARD);
        }
        this.memory.resize(this.memory.len() + GAP, GUARD);
        this
    }

    fn ask(&mut self, block: Block) {
        if !self.outstanding.contains(&block) && self.current != Some(block) {
            self.outstanding.push(block);
            self.done.remove(&block);
        }
    }

    fn retract(&mut self, block: Block) {
        self.outstanding.retain(|other| *other != block);
        if self.current == Some(block) {
            self.current = None;
        }
    }

    fn range(&self, block: Block, offset: u32, len: u32) -> std::ops::Range<usize> {
        assert!(offset + len <= block.len, "outside of the place");
        let start = self.places[&block] + offset as usize;
        start..start + len as usize
    }

    /// Guards and finished blocks are untouched.
    fn check_memory(&self) {
        let mut outside = vec![true; self.memory.len()];
        for block in self.places.keys() {
            outside[self.range(*block, 0, block.len)].fill(false);
        }
        let intact = |(byte, outside): (&u8, &bool)| !outside || *byte == GUARD;
        assert!(self.memory.iter().zip(&outside).all(intact), "a write outside of all places");
        for (block, bytes) in &self.done {
            assert_eq!(&self.memory[self.range(*block, 0, block.len)], bytes, "a finished block changed");
        }
    }
}

impl Sink for Shard {
    type Error = WireError;

    fn begin_block(&mut self, block: Block) -> Result<bool, WireError> {
        let wanted = self.outstanding.contains(&block);
        if wanted {
            self.outstanding.retain(|other| *other != block);
            self.current = Some(block);
        }
        self.events.push(Event::Begin(block, wanted));
        Ok(wanted)
    }

    fn write(&mut self, block: Block, offset: u32, bytes: &[u8]) {
        assert_eq!(self.current, Some(block), "a write to a block that is not arriving");
        let range = self.range(block, offset, bytes.len() as u32);
        self.memory[range].copy_from_slice(bytes);
    }

    fn placed(&self, block: Block, offset: u32, len: u32) -> &[u8] {
        &self.memory[self.range(block, offset, len)]
    }

    fn end_block(&mut self, block: Block, accepted: bool) -> Result<(), WireError> {
        let bytes = accepted.then(|| {
            assert_eq!(self.current.take(), Some(block));
            self.memory[self.range(block, 0, block.len)].to_vec()
        });
        if let Some(bytes) = &bytes {
            self.done.insert(block, bytes.clone());
        }
        self.events.push(Event::End(block, bytes));
        Ok(())
    }

    fn message(&mut self, message: Message<'_>) -> Result<(), WireError> {
        self.events.push(event_of(message));
        Ok(())
    }
}

/// Copies `bytes` along the segments of the plan, as the kernel would; `shard` has the places.
fn fake_kernel(receiver: &mut Receiver, shard: &mut Shard, bytes: &[u8]) {
    let mut rest = bytes;
    for segment in &receiver.planned {
        let (now, later) = rest.split_at(rest.len().min(segment.len() as usize));
        match *segment {
            Segment::Scratch { start, .. } => {
                receiver.scratch[start as usize..start as usize + now.len()].copy_from_slice(now);
            }
            Segment::Block { block, offset, .. } => {
                assert!(!shard.done.contains_key(&block), "a finished block was planned");
                let range = shard.range(block, offset, now.len() as u32);
                shard.memory[range].copy_from_slice(now);
            }
        }
        rest = later;
    }
    assert!(rest.is_empty());
}

/// The obvious parser: gathers every frame byte by byte.
struct Naive {
    max_message_len: u32,
    frame: Vec<u8>,
    accepted: bool,
    retracted: bool,
    failed: bool,
}

impl Naive {
    fn new(max_message_len: u32) -> Self {
        Self { max_message_len, frame: Vec::new(), accepted: false, retracted: false, failed: false }
    }

    fn block(&self) -> Option<Block> {
        let header = self.frame.len() >= 13 && self.frame[4] == 7;
        header.then(|| Block {
            piece: PieceIndex(be32(&self.frame[5..])),
            begin: be32(&self.frame[9..]),
            len: be32(&self.frame) - 9,
        })
    }

    fn retract(&mut self, block: Block) {
        self.retracted |= self.block() == Some(block);
    }

    fn push(&mut self, bytes: &[u8], shard: &mut Shard) {
        for byte in bytes {
            self.frame.push(*byte);
            if let Err(error) = self.step(shard) {
                shard.events.push(Event::Error(error));
                self.failed = true;
                return;
            }
        }
    }

    fn step(&mut self, shard: &mut Shard) -> Result<(), WireError> {
        let have = self.frame.len();
        if have < 4 {
            return Ok(());
        }
        let len = be32(&self.frame);
        let longest = self.max_message_len.max(MAX_PIECE_BODY_LEN);
        if len > longest {
            return Err(WireError::TooLong { len, max: longest });
        }
        let id = self.frame.get(4).copied();
        let unknown = id.is_some_and(|id| !matches!(id, 0..=9 | 13..=17 | 20));
        if have == 5 {
            let id = self.frame[4];
            super::super::message::check_len(id, len)?;
            if id != 7 && len > self.max_message_len {
                return Err(WireError::TooLong { len, max: self.max_message_len });
            }
            if unknown {
                shard.message(Message::Unknown { id, len: len - 1 })?;
            }
        }
        if have == 13 && id == Some(7) {
            (self.accepted, self.retracted) = (shard.begin_block(self.block().unwrap())?, false);
        }
        if have == 4 + len as usize {
            if let Some(block) = self.block() {
                let accepted = self.accepted && !self.retracted;
                if accepted {
                    shard.write(block, 0, &self.frame[13..]);
                }
                shard.end_block(block, accepted)?;
            } else if !unknown {
                shard.message(Message::decode(&self.frame[4..])?)?;
            }
            self.frame.clear();
        }
        Ok(())
    }
}

/// What the peer sends.
#[derive(Clone, Debug)]
enum Sent {
    Block(usize),
    /// A PIECE that nobody asked for.
    Stray(u32, u8),
    Small(u8),
    Bitfield(u16),
    Unknown(u8),
}

/// What happens next at our side.
#[derive(Clone, Debug)]
enum Step {
    Receive(u16),
    Feed(u8),
    Ask(usize),
    Retract(usize),
    /// Both between a plan and its commit.
    ReceiveAndRetract(u16, usize),
    ReceiveAndAsk(u16, usize),
}

#[derive(Clone, Debug)]
struct Case {
    lens: Vec<u32>,
    sent: Vec<Sent>,
    /// Swaps that make the order in which we asked differ from the one in which the peer answers.
    swaps: Vec<(usize, usize)>,
    steps: Vec<Step>,
    scratch: usize,
    segments: usize,
    flips: Vec<(usize, u8)>,
}

const MAX_MESSAGE_LEN: u32 = 300;

fn pick(blocks: &[Block], index: usize) -> Block {
    blocks[index % blocks.len()]
}

fn blocks_of(lens: &[u32]) -> Vec<Block> {
    // Several blocks a piece, so that begins differ too.
    let nth = |n: usize, len: u32| Block { piece: PieceIndex(n as u32 / 3), begin: n as u32 % 3 * 1000, len };
    lens.iter().enumerate().map(|(n, len)| nth(n, *len)).collect()
}

fn stream_of(sent: &[Sent], blocks: &[Block]) -> Vec<u8> {
    let mut out = Vec::new();
    for (at, item) in sent.iter().enumerate() {
        let bytes = |len: u32| -> Vec<u8> { (0..len).map(|n| (n as usize * 7 + at * 31) as u8).collect() };
        match item {
            Sent::Block(index) => {
                let block = pick(blocks, *index);
                let data = &bytes(block.len);
                Message::Piece { piece: block.piece, begin: block.begin, data }.encode(&mut out);
            }
            Sent::Stray(begin, len) => {
                let data = &bytes(u32::from(*len));
                Message::Piece { piece: PieceIndex(0), begin: *begin, data }.encode(&mut out);
            }
            Sent::Small(n) => {
                let block = blocks[0];
                let small = [
                    Message::Have(PieceIndex(5)),
                    Message::KeepAlive,
                    Message::Choke,
                    Message::Reject(block),
                ];
                small[usize::from(*n) % small.len()].encode(&mut out);
            }
            Sent::Bitfield(len) => Message::Bitfield(&bytes(u32::from(*len))).encode(&mut out),
            Sent::Unknown(len) => Message::Unknown { id: 99, len: u32::from(*len) }.encode(&mut out),
        }
    }
    out
}

/// Runs both parsers over the same fragments, and compares.
fn run(case: &Case) -> Counters {
    let blocks = blocks_of(&case.lens);
    let mut stream = stream_of(&case.sent, &blocks);
    for (at, flip) in &case.flips {
        if !stream.is_empty() {
            let at = at % stream.len();
            stream[at] ^= flip;
        }
    }
    let mut wanted: Vec<Block> = Vec::new();
    wanted.extend(case.sent.iter().filter_map(|sent| match sent {
        Sent::Block(index) => Some(pick(&blocks, *index)),
        _ => None,
    }));
    let len = wanted.len().max(1);
    for (a, b) in case.swaps.iter().filter(|(a, b)| a % len != b % len) {
        wanted.swap(a % len, b % len);
    }
    let (mut shard, mut model) = (Shard::new(&blocks), Shard::new(&blocks));
    let mut receiver = Receiver::new(case.scratch, MAX_MESSAGE_LEN);
    let mut naive = Naive::new(MAX_MESSAGE_LEN);
    wanted.iter().for_each(|block| {
        shard.ask(*block);
        model.ask(*block);
    });
    let mut spill = Vec::new();
    let mut rest = &stream[..];
    for step in case.steps.iter().cycle() {
        if rest.is_empty() || naive.failed {
            break;
        }
        let mut result = Ok(());
        match step {
            Step::Ask(index) => {
                shard.ask(pick(&blocks, *index));
                model.ask(pick(&blocks, *index));
            }
            Step::Retract(index) => {
                let block = pick(&blocks, *index);
                retract_both(block, &mut receiver, &mut shard, &mut naive, &mut model);
            }
            Step::Feed(n) => {
                let (now, later) = rest.split_at(rest.len().min(usize::from(*n)));
                naive.push(now, &mut model);
                result = receiver.feed(now, &mut shard);
                rest = later;
            }
            Step::Receive(n) | Step::ReceiveAndRetract(n, _) | Step::ReceiveAndAsk(n, _) => {
                let planned = receiver.plan(shard.outstanding.iter().copied(), case.segments);
                check_plan(planned, case.segments);
                let room: usize = planned.iter().map(|segment| segment.len() as usize).sum();
                let (now, later) = rest.split_at(rest.len().min(room).min(usize::from(*n).max(1)));
                fake_kernel(&mut receiver, &mut shard, now);
                match step {
                    Step::ReceiveAndRetract(_, index) => {
                        let block = pick(&blocks, *index);
                        retract_both(block, &mut receiver, &mut shard, &mut naive, &mut model);
                    }
                    Step::ReceiveAndAsk(_, index) => {
                        shard.ask(pick(&blocks, *index));
                        model.ask(pick(&blocks, *index));
                    }
                    _ => {}
                }
                naive.push(now, &mut model);
                result = receiver.commit(now.len(), &mut spill, &mut shard);
                rest = later;
            }
        }
        if let Err(error) = result {
            shard.events.push(Event::Error(error));
        }
        assert_eq!(shard.events, model.events);
        shard.check_memory();
        assert!(receiver.stream.buffered_capacity() <= 2 * (MAX_MESSAGE_LEN as usize + 4));
    }
    receiver.counters()
}

fn retract_both(
    block: Block,
    receiver: &mut Receiver,
    shard: &mut Shard,
    naive: &mut Naive,
    model: &mut Shard,
) {
    shard.retract(block);
    receiver.retract(block);
    model.retract(block);
    naive.retract(block);
}

fn check_plan(planned: &[Segment], segments: usize) {
    assert!((1..=segments).contains(&planned.len()));
    assert!(planned.iter().all(|segment| !segment.is_empty()));
    assert!(matches!(planned.last(), Some(Segment::Scratch { .. })));
}

fn sent() -> impl Strategy<Value = Sent> {
    prop_oneof![
        8 => any::<usize>().prop_map(Sent::Block),
        1 => (0u32..3000, any::<u8>()).prop_map(|(begin, len)| Sent::Stray(begin, len)),
        2 => any::<u8>().prop_map(Sent::Small),
        1 => (0u16..290).prop_map(Sent::Bitfield),
        1 => any::<u8>().prop_map(Sent::Unknown),
    ]
}

fn amount() -> impl Strategy<Value = u16> {
    prop_oneof![Just(1), 1u16..40, 1u16..600, Just(u16::MAX)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => amount().prop_map(Step::Receive),
        1 => any::<u8>().prop_map(Step::Feed),
        1 => any::<usize>().prop_map(Step::Ask),
        1 => any::<usize>().prop_map(Step::Retract),
        1 => (amount(), any::<usize>()).prop_map(|(n, index)| Step::ReceiveAndRetract(n, index)),
        1 => (amount(), any::<usize>()).prop_map(|(n, index)| Step::ReceiveAndAsk(n, index)),
    ]
}

fn pairs() -> impl Strategy<Value = Vec<(usize, usize)>> {
    prop::collection::vec((any::<usize>(), any::<usize>()), 0..4)
}

fn case(flips: std::ops::Range<usize>) -> impl Strategy<Value = Case> {
    let first_receive = amount().prop_map(Step::Receive);
    (
        prop::collection::vec(1u32..200, 1..12),
        prop::collection::vec(sent(), 0..30),
        pairs(),
        (first_receive, prop::collection::vec(step(), 0..20)),
        MIN_SCRATCH_LEN..400,
        2usize..14,
        prop::collection::vec((any::<usize>(), 1u8..), flips),
    )
        .prop_map(|(lens, sent, swaps, (first, mut steps), scratch, segments, flips)| {
            steps.push(first);
            Case { lens, sent, swaps, steps, scratch, segments, flips }
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn scatter_is_the_naive_parser(case in case(0..1)) {
        run(&case);
    }

    #[test]
    fn and_so_it_is_for_damaged_streams(case in case(1..6)) {
        run(&case);
    }

    #[test]
    fn random_bytes_are_bounded(bytes in prop::collection::vec(prop_oneof![Just(0u8), 0u8..22, any::<u8>()], 0..2000),
                                sizes in prop::collection::vec(1usize..100, 1..10)) {
        let blocks = blocks_of(&[100; 6]);
        let (mut shard, mut model) = (Shard::new(&blocks), Shard::new(&blocks));
        let (mut receiver, mut naive) = (Receiver::new(128, 1 << 23), Naive::new(1 << 23));
        let (mut spill, mut rest) = (Vec::new(), &bytes[..]);
        for size in sizes.iter().cycle() {
            receiver.plan(blocks.iter().copied(), 8);
            let (now, later) = rest.split_at(rest.len().min(*size));
            fake_kernel(&mut receiver, &mut shard, now);
            naive.push(now, &mut model);
            let result = receiver.commit(now.len(), &mut spill, &mut shard);
            shard.events.extend(result.err().map(Event::Error));
            prop_assert_eq!(&shard.events, &model.events);
            prop_assert!(receiver.stream.buffered_capacity() <= 2 * bytes.len() + 8);
            if later.is_empty() || result.is_err() {
                break;
            }
            rest = later;
        }
    }
}

fn plain_case(lens: Vec<u32>, steps: Vec<Step>) -> Case {
    Case { lens, sent: Vec::new(), swaps: Vec::new(), steps, scratch: 256, segments: 16, flips: Vec::new() }
}

/// The peer answers in this order what was asked in rising order.
fn answers(order: &[usize], len: u32, steps: Vec<Step>) -> Case {
    let mut case = plain_case(vec![len; order.len()], steps);
    case.sent = order.iter().map(|nth| Sent::Block(*nth)).collect();
    case
}

#[test]
fn predicted_blocks_are_never_copied() {
    for n in [1, 7, 13, 113, 500, u16::MAX] {
        let counters = run(&answers(&[0, 1, 2, 3, 4, 5], 100, vec![Step::Receive(n)]));
        assert_eq!(counters, Counters { in_place: 600, ..Counters::default() }, "{n} bytes at a time");
    }
}

#[test]
fn two_segments_are_enough_to_copy_nothing() {
    let mut case = answers(&[3, 1, 0, 2], 100, vec![Step::Receive(u16::MAX)]);
    case.segments = 2;
    assert_eq!(run(&case), Counters { in_place: 400, ..Counters::default() });
}

#[test]
fn another_order_costs_one_copy_of_that_receive() {
    let mut case = answers(&[0, 1, 2, 3], 100, vec![Step::Receive(u16::MAX)]);
    case.swaps = vec![(1, 2)];
    assert_eq!(run(&case), Counters { in_place: 100, copied: 300, discarded: 0, mispredictions: 1 });
}

#[test]
fn a_have_in_between_costs_the_rest_of_that_receive_only() {
    // 113 bytes of block 0; then HAVE, and 20 bytes of block 1, of which 7 are payload; then the rest in place.
    let mut case = answers(&[0, 1], 100, vec![Step::Receive(113 + 9 + 20), Step::Receive(u16::MAX)]);
    case.sent.insert(1, Sent::Small(0));
    assert_eq!(run(&case), Counters { in_place: 193, copied: 7, discarded: 0, mispredictions: 1 });
}

#[test]
fn retracted_in_flight_is_not_accepted() {
    let steps = vec![Step::Receive(50), Step::ReceiveAndRetract(u16::MAX, 0)];
    let counters = run(&answers(&[0, 1], 100, steps));
    assert_eq!(counters, Counters { in_place: 137, copied: 0, discarded: 63, mispredictions: 0 });
    let counters = run(&answers(&[0, 1], 100, vec![Step::ReceiveAndRetract(u16::MAX, 1)]));
    assert_eq!(counters, Counters { in_place: 100, copied: 0, discarded: 100, mispredictions: 0 });
}

#[test]
fn a_long_discard_is_planned_over_and_over_the_same_scratch() {
    let mut case = answers(&[0, 1], 100, vec![Step::Receive(13), Step::Retract(0), Step::Receive(999)]);
    case.scratch = 64;
    assert_eq!(run(&case), Counters { in_place: 100, copied: 0, discarded: 100, mispredictions: 0 });
}

#[test]
fn the_right_place_with_another_length_is_not_ours() {
    let blocks = blocks_of(&[100]);
    let mut shard = Shard::new(&blocks);
    shard.ask(blocks[0]);
    let mut receiver = Receiver::new(256, MAX_MESSAGE_LEN);
    receiver.plan(blocks.iter().copied(), 8);
    assert!(receiver.in_flight() && receiver.is_planned(blocks[0]));
    let mut bytes = Vec::new();
    Message::Piece { piece: blocks[0].piece, begin: blocks[0].begin, data: &[1; 60] }.encode(&mut bytes);
    fake_kernel(&mut receiver, &mut shard, &bytes);
    receiver.commit(bytes.len(), &mut Vec::new(), &mut shard).unwrap();
    let other = Block { len: 60, ..blocks[0] };
    assert_eq!(shard.events, [Event::Begin(other, false), Event::End(other, None)]);
    assert_eq!(shard.outstanding, blocks);
    assert!(!receiver.in_flight() && !receiver.is_planned(blocks[0]));
}

#[test]
fn long_announcements_fail_at_once_and_allocate_nothing() {
    let mut shard = Shard::default();
    let mut receiver = Receiver::new(64, 1 << 23);
    assert_eq!(
        receiver.feed(&[0x00, 0x80, 0x00, 0x01], &mut shard),
        Err(WireError::TooLong { len: (1 << 23) + 1, max: 1 << 23 })
    );
    let mut receiver = Receiver::new(64, 1 << 23);
    receiver.feed(&[0x00, 0x80, 0x00, 0x00, 5, 1, 2, 3], &mut shard).unwrap();
    assert!(receiver.stream.buffered_capacity() < 64);
    let mut receiver = Receiver::new(64, 1000);
    let piece = (10 + MAX_REQUEST_LEN).to_be_bytes();
    assert!(matches!(receiver.feed(&piece, &mut shard), Err(WireError::TooLong { .. })));
    let mut receiver = Receiver::new(64, 1000);
    let bitfield = [0, 0, 0x04, 0x00, 5];
    assert_eq!(receiver.feed(&bitfield, &mut shard), Err(WireError::TooLong { len: 1024, max: 1000 }));
    assert!(shard.events.is_empty());
}

#[test]
fn scratch_stays_where_it_is() {
    let mut receiver = Receiver::new(64, 1000);
    let before = receiver.scratch_ptr();
    let mut moved = vec![receiver];
    moved.reserve(100);
    assert_eq!(moved[0].scratch_ptr(), before);
}
