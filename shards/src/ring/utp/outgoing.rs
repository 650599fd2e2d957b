//! The bytes of a connection that the peer may not have yet: send batches in stream order, until they are acknowledged.

use std::collections::VecDeque;
use std::ops::Range;

use super::super::send::SendBatch;

/// Batches, and where they are in the stream.
#[derive(Default)]
pub struct Outgoing {
    batches: VecDeque<SendBatch>,
    start: u64,
    end: u64,
}

impl Outgoing {
    pub fn push(&mut self, batch: SendBatch) {
        self.end += batch.len() as u64;
        self.batches.push_back(batch);
    }

    /// The stream's length so far.
    pub fn end(&self) -> u64 {
        self.end
    }

    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Lets go of the batches before `acked`; returns whether any had payload, and one to use again.
    pub fn release(&mut self, acked: u64, spare: &mut Vec<SendBatch>) -> bool {
        let mut released = false;
        while let Some(batch) = self.batches.front()
            && self.start + batch.len() as u64 <= acked
        {
            let mut batch = self.batches.pop_front().expect("seen just now");
            self.start += batch.len() as u64;
            released |= batch.has_payload();
            batch.clear();
            if spare.len() < super::SPARE_MAX {
                spare.push(batch);
            }
        }
        released
    }

    pub fn cursor(&self) -> Cursor<'_> {
        Cursor { outgoing: self, batch: 0, part: 0, at: self.start }
    }
}

/// Reads ranges of the stream; rising ones without looking twice.
pub struct Cursor<'a> {
    outgoing: &'a Outgoing,
    batch: usize,
    part: usize,
    /// Stream offset of the part.
    at: u64,
}

impl Cursor<'_> {
    /// Gives the bytes of `range` to `take`, piece by piece. Panics when they are not there.
    pub fn read(&mut self, range: &Range<u64>, take: &mut impl FnMut(&[u8])) {
        if range.is_empty() {
            return;
        }
        if range.start < self.at {
            (self.batch, self.part, self.at) = (0, 0, self.outgoing.start);
        }
        assert!(range.start >= self.at && range.end <= self.outgoing.end, "bytes that were let go of");
        let mut wanted = range.clone();
        while !wanted.is_empty() {
            let Some(bytes) = self.outgoing.batches[self.batch].part(self.part) else {
                (self.batch, self.part) = (self.batch + 1, 0);
                continue;
            };
            let end = self.at + bytes.len() as u64;
            if wanted.start < end {
                let upto = end.min(wanted.end);
                take(&bytes[(wanted.start - self.at) as usize..(upto - self.at) as usize]);
                wanted.start = upto;
            }
            if wanted.start >= end {
                (self.part, self.at) = (self.part + 1, end);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(bytes: &[&[u8]]) -> SendBatch {
        let mut batch = SendBatch::default();
        bytes.iter().for_each(|bytes| batch.bytes(bytes));
        batch
    }

    #[test]
    fn ranges_are_found_across_batches_and_let_go_of_in_order() {
        let mut outgoing = Outgoing::default();
        outgoing.push(batch(&[b"abc", b"def"]));
        outgoing.push(batch(&[b"ghij"]));
        let read = |cursor: &mut Cursor<'_>, range: Range<u64>| {
            let mut got = Vec::new();
            cursor.read(&range, &mut |bytes: &[u8]| got.extend_from_slice(bytes));
            String::from_utf8(got).unwrap()
        };
        let mut cursor = outgoing.cursor();
        assert_eq!(read(&mut cursor, 0..2), "ab");
        assert_eq!(read(&mut cursor, 2..8), "cdefgh");
        assert_eq!(read(&mut cursor, 1..3), "bc", "back again");
        assert_eq!(read(&mut cursor, 4..10), "efghij");
        assert_eq!(read(&mut cursor, 10..10), "");
        let mut spare = Vec::new();
        assert!(!outgoing.release(5, &mut spare) && spare.is_empty());
        assert!(!outgoing.release(6, &mut spare) && spare.len() == 1);
        assert_eq!(read(&mut outgoing.cursor(), 7..9), "hi");
        outgoing.release(10, &mut spare);
        assert!(outgoing.is_empty() && outgoing.end() == 10);
        assert_eq!(read(&mut outgoing.cursor(), 0..0), "", "of a packet without payload");
    }
}
