//! What must hold of piece memory whatever is taken, cut and given back, in any order: no two buffers share a byte, the
//! pages that are counted are those of the live buffers, and all come back in the end. Run by the fuzz target and over the
//! corpus by tests.
//!
//! The input: operations of four bytes each: which one, and its arguments.

use ccbt_storage::arena::{PAGE, Partition, PieceBuf};

const PAGES: usize = 64;

/// A live buffer, filled with its tag.
struct Held {
    buf: PieceBuf,
    tag: u8,
}

impl Held {
    fn check(&self) {
        assert!(
            self.buf.as_slice().iter().all(|byte| *byte == self.tag),
            "somebody else wrote to {:?}",
            self.buf
        );
    }

    fn pages(&self) -> usize {
        (self.buf.phase() as usize + self.buf.capacity()).div_ceil(PAGE)
    }
}

/// See the module.
pub fn run(data: &[u8]) {
    let mut part = Partition::new(PAGES * PAGE + 1).expect("a quarter of a MiB");
    assert_eq!(part.capacity(), PAGES * PAGE);
    let mut held: Vec<Held> = Vec::new();
    for (nth, op) in data.chunks_exact(4).enumerate() {
        let (long, tag) = (u32::from(op[1]) * 251 + u32::from(op[2]), nth as u8);
        match op[0] % 4 {
            0 | 1 => take(&mut part, &mut held, long % 40_000 + 1, u32::from(op[3]) * 16, tag),
            _ if held.is_empty() => {}
            2 => {
                let one = held.swap_remove(usize::from(op[3]) % held.len());
                one.check();
                part.free(one.buf);
            }
            _ => {
                let one = held.swap_remove(usize::from(op[3]) % held.len());
                // Every second time where a cut is possible at all.
                let whole_pages = (u32::from(op[1]) * PAGE as u32).saturating_sub(one.buf.phase());
                cut(&mut held, one, if op[2] % 2 == 0 { whole_pages } else { long });
            }
        }
        assert_eq!(part.used(), held.iter().map(Held::pages).sum::<usize>() * PAGE, "pages that count");
    }
    for one in held {
        one.check();
        part.free(one.buf);
    }
    assert_eq!(part.used(), 0);
    assert!(part.alloc((PAGES * PAGE) as u32, 0).is_some(), "all of it in one piece again");
}

fn take(part: &mut Partition, held: &mut Vec<Held>, len: u32, phase: u32, tag: u8) {
    let Some(mut buf) = part.alloc(len, phase) else {
        assert!(part.used() > 0, "an empty region has room");
        return;
    };
    assert_eq!((buf.len(), buf.capacity(), buf.phase()), (len as usize, len as usize, phase));
    buf.as_mut_slice().fill(tag);
    held.push(Held { buf, tag });
}

fn cut(held: &mut Vec<Held>, one: Held, at: u32) {
    let (phase, len, tag) = (one.buf.phase(), one.buf.len(), one.tag);
    match one.buf.split(at) {
        Ok((front, rest)) => {
            assert!((phase + at).is_multiple_of(PAGE as u32) && rest.phase() == 0);
            assert_eq!((front.len(), front.len() + rest.len()), (at as usize, len));
            held.extend([front, rest].map(|buf| Held { buf, tag }));
        }
        Err(buf) => {
            assert!(at == 0 || at as usize >= len || !(phase + at).is_multiple_of(PAGE as u32));
            held.push(Held { buf, tag });
        }
    }
}
