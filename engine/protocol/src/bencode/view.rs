//! Cursors over a decoded document: [`Node`] is any value, [`List`] and [`Dict`] its containers.
//!
//! Two lifetimes: `'t` borrows the token vector, `'a` the input, so byte strings outlive the [`Document`].
//! Invariant: tokens are what the decoder wrote, so nothing here checks them again. Lookups are linear in the number of
//! entries of one dictionary (not of what is nested in them).

use std::fmt;

/// One value or key. `start..end` is its raw span. `link` is, for a string, the offset of its payload, and for a
/// container, the index of the first token after it.
#[derive(Clone, Copy)]
pub(super) struct Token {
    pub(super) start: u32,
    pub(super) end: u32,
    pub(super) link: u32,
}

const _: () = assert!(size_of::<Token>() == 12);

impl Token {
    /// Index of the token after this one and all it contains; `own` is this one's index.
    pub(super) fn next(&self, input: &[u8], own: usize) -> usize {
        match input[self.start as usize] {
            b'l' | b'd' => self.link as usize,
            _ => own + 1,
        }
    }
}

/// Decoded bencode: the input and its tokens.
pub struct Document<'a> {
    input: &'a [u8],
    tokens: Vec<Token>,
}

impl<'a> Document<'a> {
    pub(super) fn new(input: &'a [u8], tokens: Vec<Token>) -> Self {
        assert!(!tokens.is_empty(), "a document has a root");
        Self { input, tokens }
    }

    /// The outermost value.
    pub fn root(&self) -> Node<'_, 'a> {
        Node { document: self, index: 0 }
    }

    /// Number of values, keys and containers; each takes 12 bytes.
    pub fn token_count(&self) -> usize {
        self.tokens.len()
    }
}

impl fmt::Debug for Document<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.root().fmt(f)
    }
}

/// A value by its kind.
#[derive(Clone, Copy, Debug)]
pub enum Value<'t, 'a> {
    /// An integer.
    Int(i64),
    /// A byte string.
    Bytes(&'a [u8]),
    /// A list.
    List(List<'t, 'a>),
    /// A dictionary.
    Dict(Dict<'t, 'a>),
}

/// Any value inside a document.
#[derive(Clone, Copy)]
pub struct Node<'t, 'a> {
    document: &'t Document<'a>,
    index: usize,
}

impl<'t, 'a> Node<'t, 'a> {
    fn token(&self) -> Token {
        self.document.tokens[self.index]
    }

    fn kind(&self) -> u8 {
        self.document.input[self.token().start as usize]
    }

    /// The bytes this value was decoded from, exactly as they stand in the input.
    pub fn raw(&self) -> &'a [u8] {
        &self.document.input[self.token().start as usize..self.token().end as usize]
    }

    /// Offset of the value's first byte in the input.
    pub fn offset(&self) -> usize {
        self.token().start as usize
    }

    /// The value by its kind.
    pub fn value(&self) -> Value<'t, 'a> {
        match self.kind() {
            b'i' => Value::Int(self.int()),
            b'l' => Value::List(List { node: *self }),
            b'd' => Value::Dict(Dict { node: *self }),
            _ => Value::Bytes(self.bytes()),
        }
    }

    fn int(&self) -> i64 {
        let raw = self.raw();
        let digits = std::str::from_utf8(&raw[1..raw.len() - 1]).ok().and_then(|text| text.parse().ok());
        digits.expect("the decoder checked the integer")
    }

    fn bytes(&self) -> &'a [u8] {
        &self.document.input[self.token().link as usize..self.token().end as usize]
    }

    /// The integer, if it is one.
    pub fn as_int(&self) -> Option<i64> {
        (self.kind() == b'i').then(|| self.int())
    }

    /// The byte string, if it is one.
    pub fn as_bytes(&self) -> Option<&'a [u8]> {
        self.kind().is_ascii_digit().then(|| self.bytes())
    }

    /// The byte string as text, if it is one and valid UTF-8.
    pub fn as_str(&self) -> Option<&'a str> {
        std::str::from_utf8(self.as_bytes()?).ok()
    }

    /// The list, if it is one.
    pub fn as_list(&self) -> Option<List<'t, 'a>> {
        (self.kind() == b'l').then_some(List { node: *self })
    }

    /// The dictionary, if it is one.
    pub fn as_dict(&self) -> Option<Dict<'t, 'a>> {
        (self.kind() == b'd').then_some(Dict { node: *self })
    }

    /// The token after this value and all it contains.
    fn next_index(&self) -> usize {
        self.token().next(self.document.input, self.index)
    }
}

impl fmt::Debug for Node<'_, '_> {
    /// The raw bytes, escaped and cut: documents are hostile and may be large.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN_MAX: usize = 128;
        let raw = self.raw();
        write!(f, "{}", raw[..raw.len().min(SHOWN_MAX)].escape_ascii())?;
        if raw.len() > SHOWN_MAX { write!(f, "… ({} bytes)", raw.len()) } else { Ok(()) }
    }
}

/// A list inside a document.
#[derive(Clone, Copy, Debug)]
pub struct List<'t, 'a> {
    node: Node<'t, 'a>,
}

impl<'t, 'a> List<'t, 'a> {
    /// The elements in order.
    pub fn iter(&self) -> ListIter<'t, 'a> {
        ListIter { document: self.node.document, at: self.node.index + 1, end: self.node.next_index() }
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.node.index + 1 == self.node.next_index()
    }

    /// The bytes of the whole list, as they stand in the input.
    pub fn raw(&self) -> &'a [u8] {
        self.node.raw()
    }
}

impl<'t, 'a> IntoIterator for List<'t, 'a> {
    type Item = Node<'t, 'a>;
    type IntoIter = ListIter<'t, 'a>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Elements of a [`List`], in order.
#[derive(Clone)]
pub struct ListIter<'t, 'a> {
    document: &'t Document<'a>,
    at: usize,
    end: usize,
}

impl<'t, 'a> Iterator for ListIter<'t, 'a> {
    type Item = Node<'t, 'a>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.end {
            return None;
        }
        let node = Node { document: self.document, index: self.at };
        self.at = node.next_index();
        Some(node)
    }
}

/// A dictionary inside a document; no key is in it twice.
#[derive(Clone, Copy, Debug)]
pub struct Dict<'t, 'a> {
    node: Node<'t, 'a>,
}

impl<'t, 'a> Dict<'t, 'a> {
    /// The entries in the order of the input, which need not be sorted.
    pub fn iter(&self) -> DictIter<'t, 'a> {
        DictIter { inner: List { node: self.node }.iter() }
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        List { node: self.node }.is_empty()
    }

    /// The value of `key`.
    pub fn get(&self, key: &[u8]) -> Option<Node<'t, 'a>> {
        self.iter().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    /// The integer under `key`; `None` also when the value is of another kind.
    pub fn get_int(&self, key: &[u8]) -> Option<i64> {
        self.get(key)?.as_int()
    }

    /// The byte string under `key`; `None` also when the value is of another kind.
    pub fn get_bytes(&self, key: &[u8]) -> Option<&'a [u8]> {
        self.get(key)?.as_bytes()
    }

    /// The byte string under `key` as text; `None` also when it is of another kind or not UTF-8.
    pub fn get_str(&self, key: &[u8]) -> Option<&'a str> {
        self.get(key)?.as_str()
    }

    /// The list under `key`; `None` also when the value is of another kind.
    pub fn get_list(&self, key: &[u8]) -> Option<List<'t, 'a>> {
        self.get(key)?.as_list()
    }

    /// The dictionary under `key`; `None` also when the value is of another kind.
    pub fn get_dict(&self, key: &[u8]) -> Option<Dict<'t, 'a>> {
        self.get(key)?.as_dict()
    }

    /// The bytes of the whole dictionary, as they stand in the input.
    pub fn raw(&self) -> &'a [u8] {
        self.node.raw()
    }
}

impl<'t, 'a> IntoIterator for Dict<'t, 'a> {
    type Item = (&'a [u8], Node<'t, 'a>);
    type IntoIter = DictIter<'t, 'a>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Entries of a [`Dict`], in the order of the input.
#[derive(Clone)]
pub struct DictIter<'t, 'a> {
    inner: ListIter<'t, 'a>,
}

impl<'t, 'a> Iterator for DictIter<'t, 'a> {
    type Item = (&'a [u8], Node<'t, 'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let key = self.inner.next()?;
        let value = self.inner.next().expect("the decoder pairs keys with values");
        Some((key.bytes(), value))
    }
}
