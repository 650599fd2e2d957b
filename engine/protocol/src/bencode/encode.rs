//! The encoder: canonical bencode into one growing buffer.
//!
//! Invariant, asserted: keys of a dictionary come strictly rising, each with one value, and every container is ended.
//! Breaking it is a bug of the caller, never an effect of outside input.

use std::ops::Range;

/// Writes one bencoded value. Containers are opened and ended by hand:
///
/// ```
/// use ccbt_protocol::bencode::Encoder;
/// let mut encoder = Encoder::new();
/// encoder.begin_dict();
/// encoder.key(b"a").int(1);
/// encoder.key(b"b").begin_list().bytes(b"x").bytes(b"y").end();
/// encoder.end();
/// assert_eq!(encoder.finish(), b"d1:ai1e1:bl1:x1:yee");
/// ```
#[derive(Debug, Default)]
pub struct Encoder {
    out: Vec<u8>,
    open: Vec<Open>,
}

#[derive(Debug)]
enum Open {
    List,
    /// `key` is where the last key's payload stands in `out`.
    Dict {
        key: Option<Range<usize>>,
        awaits_value: bool,
    },
}

impl Encoder {
    /// An empty encoder.
    pub fn new() -> Self {
        Self::default()
    }

    /// Checks that a value may stand here and notes that it does.
    fn before_value(&mut self) {
        match self.open.last_mut() {
            None => assert!(self.out.is_empty(), "a document is one value"),
            Some(Open::List) => {}
            Some(Open::Dict { awaits_value, .. }) => {
                assert!(*awaits_value, "a value in a dictionary needs a key");
                *awaits_value = false;
            }
        }
    }

    fn write_bytes(&mut self, bytes: &[u8]) -> Range<usize> {
        self.out.extend_from_slice(bytes.len().to_string().as_bytes());
        self.out.push(b':');
        let start = self.out.len();
        self.out.extend_from_slice(bytes);
        start..self.out.len()
    }

    /// Appends an integer.
    pub fn int(&mut self, value: i64) -> &mut Self {
        self.before_value();
        self.out.push(b'i');
        self.out.extend_from_slice(value.to_string().as_bytes());
        self.out.push(b'e');
        self
    }

    /// Appends a byte string.
    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.before_value();
        self.write_bytes(value);
        self
    }

    /// Appends a value that is bencoded already; the caller vouches for it.
    pub fn raw(&mut self, encoded: &[u8]) -> &mut Self {
        self.before_value();
        self.out.extend_from_slice(encoded);
        self
    }

    /// Opens a list, to be closed by [`Encoder::end`].
    pub fn begin_list(&mut self) -> &mut Self {
        self.before_value();
        self.out.push(b'l');
        self.open.push(Open::List);
        self
    }

    /// Opens a dictionary, to be closed by [`Encoder::end`].
    pub fn begin_dict(&mut self) -> &mut Self {
        self.before_value();
        self.out.push(b'd');
        self.open.push(Open::Dict { key: None, awaits_value: false });
        self
    }

    /// Appends a key to the open dictionary; its value must follow. Panics unless it is greater than the key before.
    pub fn key(&mut self, key: &[u8]) -> &mut Self {
        let written = self.write_bytes(key);
        let Some(Open::Dict { key: last, awaits_value }) = self.open.last_mut() else {
            panic!("a key outside a dictionary");
        };
        assert!(!*awaits_value, "a key instead of a value");
        if let Some(last) = last {
            assert!(self.out[last.clone()] < *key, "keys out of order at {}", key.escape_ascii());
        }
        *last = Some(written);
        *awaits_value = true;
        self
    }

    /// Closes the innermost open list or dictionary. Panics when there is none or a key lacks its value.
    pub fn end(&mut self) -> &mut Self {
        match self.open.pop().expect("end without begin") {
            Open::List => {}
            Open::Dict { awaits_value, .. } => assert!(!awaits_value, "a key without a value"),
        }
        self.out.push(b'e');
        self
    }

    /// The document. Panics when a container is open or nothing was written.
    pub fn finish(self) -> Vec<u8> {
        assert!(self.open.is_empty() && !self.out.is_empty(), "the document is not complete");
        self.out
    }
}
