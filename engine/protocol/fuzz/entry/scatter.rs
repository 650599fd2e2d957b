//! What must hold for any stream that arrives along any plans, with blocks asked for and given up at any time: what is seen
//! is what feeding the bytes one by one shows, and no byte outside of the places of wanted blocks changes. Run by the fuzz
//! target and over the corpus by tests.
//!
//! The input: how many blocks, their lengths, scratch, segments; then operations, a byte and its arguments each.

use std::collections::HashMap;

use ccbt_protocol::geometry::Block;
use ccbt_protocol::ids::PieceIndex;
use ccbt_protocol::wire::receiver::{MIN_SCRATCH_LEN, Segment};
use ccbt_protocol::wire::{Message, Receiver, Sink, WireError};

const MAX_MESSAGE_LEN: u32 = 300;
const GUARD: u8 = 0xee;
const GAP: usize = 5;

/// The places of blocks with guards between them, and what one parser showed.
struct Side {
    receiver: Receiver,
    memory: Vec<u8>,
    starts: HashMap<Block, usize>,
    outstanding: Vec<Block>,
    current: Option<Block>,
    done: HashMap<Block, Vec<u8>>,
    seen: Vec<String>,
}

/// A [`Side`] without its receiver, which calls it.
struct View<'a> {
    memory: &'a mut Vec<u8>,
    starts: &'a HashMap<Block, usize>,
    outstanding: &'a mut Vec<Block>,
    current: &'a mut Option<Block>,
    done: &'a mut HashMap<Block, Vec<u8>>,
    seen: &'a mut Vec<String>,
}

impl View<'_> {
    fn range(&self, block: Block, offset: u32, len: usize) -> std::ops::Range<usize> {
        assert!(offset as usize + len <= block.len as usize, "outside of the place");
        let start = self.starts[&block] + offset as usize;
        start..start + len
    }
}

impl Sink for View<'_> {
    type Error = WireError;

    fn begin_block(&mut self, block: Block) -> Result<bool, WireError> {
        let wanted = self.outstanding.contains(&block);
        if wanted {
            self.outstanding.retain(|other| *other != block);
            *self.current = Some(block);
        }
        self.seen.push(format!("begin {block:?} {wanted}"));
        Ok(wanted)
    }

    fn write(&mut self, block: Block, offset: u32, bytes: &[u8]) {
        assert_eq!(*self.current, Some(block), "a write to a block that is not arriving");
        let range = self.range(block, offset, bytes.len());
        self.memory[range].copy_from_slice(bytes);
    }

    fn placed(&self, block: Block, offset: u32, len: u32) -> &[u8] {
        &self.memory[self.range(block, offset, len as usize)]
    }

    fn end_block(&mut self, block: Block, accepted: bool) -> Result<(), WireError> {
        let bytes = accepted.then(|| {
            assert_eq!(self.current.take(), Some(block));
            self.memory[self.range(block, 0, block.len as usize)].to_vec()
        });
        self.seen.push(format!("end {block:?} {bytes:?}"));
        self.done.extend(bytes.map(|bytes| (block, bytes)));
        Ok(())
    }

    fn message(&mut self, message: Message<'_>) -> Result<(), WireError> {
        self.seen.push(format!("{message:?}"));
        Ok(())
    }
}

impl Side {
    fn new(blocks: &[Block], scratch: usize) -> Self {
        let (mut memory, mut starts) = (vec![GUARD; GAP], HashMap::new());
        for block in blocks {
            starts.insert(*block, memory.len());
            memory.resize(memory.len() + block.len as usize + GAP, GUARD);
        }
        Self {
            receiver: Receiver::new(scratch, MAX_MESSAGE_LEN),
            memory,
            starts,
            outstanding: Vec::new(),
            current: None,
            done: HashMap::new(),
            seen: Vec::new(),
        }
    }

    fn parts(&mut self) -> (&mut Receiver, View<'_>) {
        let Self { receiver, memory, starts, outstanding, current, done, seen } = self;
        (receiver, View { memory, starts, outstanding, current, done, seen })
    }

    fn ask(&mut self, block: Block) {
        if !self.outstanding.contains(&block) && self.current != Some(block) {
            self.outstanding.push(block);
            self.done.remove(&block);
        }
    }

    fn retract(&mut self, block: Block) {
        self.outstanding.retain(|other| *other != block);
        self.current.take_if(|current| *current == block);
        self.receiver.retract(block);
    }

    /// Copies bytes of `stream` along the next plan, as the kernel would; returns how many.
    fn receive(&mut self, stream: &[u8], segments: usize) -> usize {
        let expected = self.outstanding.clone();
        let plan = self.receiver.plan(expected, segments).to_vec();
        assert!((1..=segments).contains(&plan.len()));
        let mut taken = 0;
        for segment in plan {
            assert!(!segment.is_empty());
            let now = &stream[taken..stream.len().min(taken + segment.len() as usize)];
            match segment {
                Segment::Scratch { start, .. } => self.receiver.write_scratch(start as usize, now),
                Segment::Block { block, offset, .. } => {
                    assert!(!self.done.contains_key(&block), "a finished block was planned");
                    let range = self.parts().1.range(block, offset, now.len());
                    self.memory[range].copy_from_slice(now);
                }
            }
            taken += now.len();
        }
        taken
    }

    fn check_memory(&mut self) {
        let done = self.done.clone();
        for (block, bytes) in done {
            let range = self.parts().1.range(block, 0, block.len as usize);
            assert_eq!(self.memory[range], bytes, "a finished block changed");
        }
        let mut guarded = vec![true; self.memory.len()];
        for (block, start) in &self.starts {
            guarded[*start..start + block.len as usize].fill(false);
        }
        let intact = |(byte, guarded): (&u8, &bool)| !guarded || *byte == GUARD;
        assert!(self.memory.iter().zip(&guarded).all(intact), "a write outside of all places");
    }
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> usize {
        let Some((&byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        usize::from(byte)
    }
}

/// What the peer sends next.
fn send(input: &mut Input<'_>, blocks: &[Block], stream: &mut Vec<u8>) {
    let (what, nth) = (input.byte(), input.byte());
    let block = blocks[nth % blocks.len()];
    let body: Vec<u8> = (0..256u32).map(|at| (at as usize * 7 + nth * 31) as u8).collect();
    match what % 8 {
        0..4 => {
            let data = &body[..block.len as usize];
            Message::Piece { piece: block.piece, begin: block.begin, data }.encode(stream);
        }
        4 => Message::Piece { piece: block.piece, begin: block.begin + 1, data: &body[..nth] }.encode(stream),
        5 => Message::Have(PieceIndex(nth as u32)).encode(stream),
        6 => Message::Bitfield(&body[..nth]).encode(stream),
        _ => {
            let (raw, rest) = input.0.split_at(input.0.len().min(nth % 32));
            stream.extend_from_slice(raw);
            input.0 = rest;
        }
    }
}

/// Panics when an invariant breaks.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let blocks: Vec<Block> = (0..1 + input.byte() as u32 % 12)
        .map(|nth| Block {
            piece: PieceIndex(nth / 3),
            begin: nth % 3 * 1000,
            len: 1 + input.byte() as u32 % 200,
        })
        .collect();
    let scratch = MIN_SCRATCH_LEN + input.byte();
    let segments = 2 + input.byte() % 12;
    let (mut scattered, mut fed) = (Side::new(&blocks, scratch), Side::new(&blocks, scratch));
    let (mut stream, mut spill) = (Vec::new(), Vec::new());
    for _ in 0..400 {
        if input.0.is_empty() {
            break;
        }
        let (what, nth) = (input.byte(), input.byte());
        let block = blocks[nth % blocks.len()];
        let taken = match what % 10 {
            0..3 => {
                send(&mut input, &blocks, &mut stream);
                continue;
            }
            3 | 4 => {
                scattered.ask(block);
                fed.ask(block);
                continue;
            }
            5 => {
                scattered.retract(block);
                fed.retract(block);
                continue;
            }
            what => {
                let len = stream.len().min(if nth == 255 { usize::MAX } else { 1 + nth * 3 });
                let taken = scattered.receive(&stream[..len], segments);
                // What happens while a receive is under way.
                if what == 8 {
                    scattered.retract(block);
                    fed.retract(block);
                } else if what == 9 {
                    scattered.ask(block);
                    fed.ask(block);
                }
                taken
            }
        };
        let (receiver, mut view) = scattered.parts();
        let result = receiver.commit(taken, &mut spill, &mut view);
        let (receiver, mut view) = fed.parts();
        let wanted = stream.drain(..taken).try_for_each(|byte| receiver.feed(&[byte], &mut view));
        assert_eq!(result, wanted);
        assert_eq!(scattered.seen, fed.seen);
        scattered.check_memory();
        if result.is_err() {
            return;
        }
    }
}
