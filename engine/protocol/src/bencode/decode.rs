//! The decoder: one pass over the bytes, an explicit stack of at most [`DEPTH_MAX`] open containers, no recursion.
//!
//! Invariant: every byte is looked at a bounded number of times; keys of a dictionary are sorted for the duplicate check
//! only when they did not arrive in order.

use super::view::{Document, Token};

/// Most lists and dictionaries that may be open at once; torrents need about 6.
pub const DEPTH_MAX: usize = 64;

/// Tokens a document may have unless [`Limits`] says otherwise; 12 bytes of memory each.
pub const TOKENS_MAX_DEFAULT: usize = 8_000_000;

/// Bounds on what one decode may build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most values, keys and containers in the document; each costs 12 bytes of memory.
    pub tokens: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { tokens: TOKENS_MAX_DEFAULT }
    }
}

/// The input is not bencode, or more of it than the limits allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not valid bencode at byte {offset}: {kind}")]
pub struct DecodeError {
    /// Zero-based offset in the input of the first byte that is wrong, or the input's length when it ends too early.
    pub offset: usize,
    /// What is wrong there.
    pub kind: DecodeErrorKind,
}

/// What is wrong with the input (BEP 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeErrorKind {
    /// The input ends inside a value.
    #[error("the data ends too early")]
    UnexpectedEnd,
    /// A byte that starts no value.
    #[error("unexpected byte 0x{0:02x}")]
    UnexpectedByte(u8),
    /// An integer without digits, or with another byte where a digit or `e` belongs.
    #[error("malformed integer")]
    BadInt,
    /// `i-0e`.
    #[error("the integer -0 is not allowed")]
    NegativeZero,
    /// An integer or string length with a leading zero.
    #[error("a number has a leading zero")]
    LeadingZero,
    /// An integer that does not fit 64 bits with sign.
    #[error("an integer does not fit 64 bits")]
    IntOverflow,
    /// A string length with a byte that is neither a digit nor `:`.
    #[error("malformed string length")]
    BadLength,
    /// A string that goes past the end of the input.
    #[error("a string of {0} bytes goes past the end of the data")]
    StringPastEnd(u64),
    /// Containers nested deeper than [`DEPTH_MAX`].
    #[error("lists and dictionaries are nested deeper than {DEPTH_MAX}")]
    TooDeep,
    /// More values than [`Limits::tokens`].
    #[error("more than {0} values")]
    TooManyTokens(usize),
    /// A dictionary key that is not a string.
    #[error("a dictionary key is not a string")]
    KeyNotString,
    /// The same key twice in one dictionary.
    #[error("a dictionary has the same key twice")]
    DuplicateKey,
    /// A dictionary that ends after a key.
    #[error("a dictionary key has no value")]
    MissingValue,
    /// Bytes after the end of the value.
    #[error("there is extra data after the end")]
    TrailingBytes,
    /// Input longer than the 32-bit offsets of the tokens.
    #[error("the data is longer than 4 GiB")]
    InputTooLong,
}

use DecodeErrorKind as Kind;

/// Decodes `input`, which must be exactly one value, with the default [`Limits`].
pub fn decode(input: &[u8]) -> Result<Document<'_>, DecodeError> {
    decode_with(input, Limits::default())
}

/// Decodes `input`, which must be exactly one value, with `limits`.
pub fn decode_with(input: &[u8], limits: Limits) -> Result<Document<'_>, DecodeError> {
    let (document, consumed) = decode_prefix(input, limits)?;
    if consumed != input.len() {
        return Err(DecodeError { offset: consumed, kind: Kind::TrailingBytes });
    }
    Ok(document)
}

/// Decodes the value that `input` starts with; also returns its length in bytes, after which anything may follow
/// (BEP 9 appends a metadata piece to a dictionary).
pub fn decode_prefix(input: &[u8], limits: Limits) -> Result<(Document<'_>, usize), DecodeError> {
    if u32::try_from(input.len()).is_err() {
        return Err(DecodeError { offset: u32::MAX as usize, kind: Kind::InputTooLong });
    }
    let mut decoder =
        Decoder { input, at: 0, tokens: Vec::new(), open: Vec::new(), tokens_max: limits.tokens };
    decoder.run()?;
    let consumed = decoder.at;
    Ok((Document::new(input, decoder.tokens), consumed))
}

/// A list or dictionary whose `e` has not come yet.
struct Open {
    /// Its token.
    token: usize,
    /// `None` for a list.
    dict: Option<OpenDict>,
}

/// What a dictionary has had so far.
struct OpenDict {
    /// A key has come and its value has not.
    awaits_value: bool,
    /// Payload range of the last key.
    last_key: Option<(usize, usize)>,
    /// Every key was greater than the one before, so none is there twice.
    sorted: bool,
}

struct Decoder<'a> {
    input: &'a [u8],
    at: usize,
    tokens: Vec<Token>,
    open: Vec<Open>,
    tokens_max: usize,
}

impl Decoder<'_> {
    /// Reads one whole value; on return `at` is its end.
    fn run(&mut self) -> Result<(), DecodeError> {
        loop {
            let byte = self.peek()?;
            if byte == b'e' && !self.open.is_empty() {
                self.close()?;
            } else if self.awaits_key() {
                self.key(byte)?;
                continue;
            } else {
                self.value(byte)?;
            }
            // An opened container sits on the stack; anything else was a complete value.
            if self.open.is_empty() {
                return Ok(());
            }
        }
    }

    fn error<T>(&self, offset: usize, kind: Kind) -> Result<T, DecodeError> {
        Err(DecodeError { offset, kind })
    }

    fn peek(&self) -> Result<u8, DecodeError> {
        match self.input.get(self.at) {
            Some(&byte) => Ok(byte),
            None => self.error(self.input.len(), Kind::UnexpectedEnd),
        }
    }

    fn awaits_key(&self) -> bool {
        let dict = self.open.last().and_then(|open| open.dict.as_ref());
        dict.is_some_and(|dict| !dict.awaits_value)
    }

    /// Appends the token of `start..end`; `link` is described at [`Token`].
    fn push(&mut self, start: usize, end: usize, link: usize) -> Result<(), DecodeError> {
        if self.tokens.len() >= self.tokens_max {
            return self.error(start, Kind::TooManyTokens(self.tokens_max));
        }
        // No truncation: the input's length fits u32, and there are fewer tokens than bytes.
        self.tokens.push(Token { start: start as u32, end: end as u32, link: link as u32 });
        Ok(())
    }

    /// Marks the innermost dictionary's awaited value as come.
    fn value_came(&mut self) {
        if let Some(dict) = self.open.last_mut().and_then(|open| open.dict.as_mut()) {
            dict.awaits_value = false;
        }
    }

    fn value(&mut self, byte: u8) -> Result<(), DecodeError> {
        match byte {
            b'i' => {
                let (start, end) = (self.at, self.int_end()?);
                self.push(start, end, 0)?;
                self.at = end;
                self.value_came();
            }
            b'0'..=b'9' => {
                self.string()?;
                self.value_came();
            }
            b'l' | b'd' => self.open_container(byte == b'd')?,
            _ => return self.error(self.at, Kind::UnexpectedByte(byte)),
        }
        Ok(())
    }

    fn open_container(&mut self, is_dict: bool) -> Result<(), DecodeError> {
        if self.open.len() >= DEPTH_MAX {
            return self.error(self.at, Kind::TooDeep);
        }
        self.value_came();
        self.push(self.at, self.at, 0)?;
        let dict = is_dict.then_some(OpenDict { awaits_value: false, last_key: None, sorted: true });
        self.open.push(Open { token: self.tokens.len() - 1, dict });
        self.at += 1;
        Ok(())
    }

    /// Takes the `e` of the innermost container.
    fn close(&mut self) -> Result<(), DecodeError> {
        let open = self.open.pop().expect("the caller saw an open container");
        if let Some(dict) = &open.dict {
            if dict.awaits_value {
                return self.error(self.at, Kind::MissingValue);
            }
            if !dict.sorted {
                self.refuse_duplicates(open.token)?;
            }
        }
        self.at += 1;
        let after = self.tokens.len() as u32;
        let token = &mut self.tokens[open.token];
        token.end = self.at as u32;
        token.link = after;
        Ok(())
    }

    /// Sorts the keys of the dictionary at `token`, whose entries are all read, and looks for equal neighbours.
    fn refuse_duplicates(&self, token: usize) -> Result<(), DecodeError> {
        let mut keys: Vec<(&[u8], u32)> = Vec::new();
        let mut at = token + 1;
        while at < self.tokens.len() {
            let key = self.tokens[at];
            keys.push((&self.input[key.link as usize..key.end as usize], key.start));
            at = self.tokens[at + 1].next(self.input, at + 1);
        }
        keys.sort_unstable();
        match keys.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            Some(pair) => self.error(pair[1].1 as usize, Kind::DuplicateKey),
            None => Ok(()),
        }
    }

    fn key(&mut self, byte: u8) -> Result<(), DecodeError> {
        if !byte.is_ascii_digit() {
            return self.error(self.at, Kind::KeyNotString);
        }
        let start = self.at;
        let (from, to) = self.string()?;
        let input = self.input;
        let dict = self.open.last_mut().and_then(|open| open.dict.as_mut()).expect("a key is awaited");
        let order = dict.last_key.map(|(a, b)| input[a..b].cmp(&input[from..to]));
        dict.last_key = Some((from, to));
        dict.awaits_value = true;
        match order {
            Some(std::cmp::Ordering::Equal) => return self.error(start, Kind::DuplicateKey),
            Some(std::cmp::Ordering::Greater) => dict.sorted = false,
            Some(std::cmp::Ordering::Less) | None => {}
        }
        Ok(())
    }

    /// Reads a string; returns the range of its payload.
    fn string(&mut self) -> Result<(usize, usize), DecodeError> {
        let start = self.at;
        let mut at = start;
        let mut len = 0u64;
        loop {
            match self.input.get(at) {
                None => return self.error(self.input.len(), Kind::UnexpectedEnd),
                Some(b':') => break,
                Some(digit @ b'0'..=b'9') => {
                    if at == start + 1 && self.input[start] == b'0' {
                        return self.error(start, Kind::LeadingZero);
                    }
                    len = len.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
                    if len > self.input.len() as u64 {
                        return self.error(start, Kind::StringPastEnd(len));
                    }
                }
                Some(_) => return self.error(at, Kind::BadLength),
            }
            at += 1;
        }
        let from = at + 1;
        if len > (self.input.len() - from) as u64 {
            return self.error(start, Kind::StringPastEnd(len));
        }
        let to = from + len as usize;
        self.push(start, to, from)?;
        self.at = to;
        Ok((from, to))
    }

    /// Checks the integer at `at`; returns the offset after its `e`.
    fn int_end(&self) -> Result<usize, DecodeError> {
        let start = self.at;
        let negative = self.input.get(start + 1) == Some(&b'-');
        let first = start + 1 + usize::from(negative);
        let mut at = first;
        let mut value = 0i64;
        loop {
            match self.input.get(at) {
                None => return self.error(self.input.len(), Kind::UnexpectedEnd),
                Some(b'e') if at > first => break,
                Some(digit @ b'0'..=b'9') => {
                    if at == first + 1 && self.input[first] == b'0' {
                        return self.error(start, Kind::LeadingZero);
                    }
                    let digit = i64::from(digit - b'0');
                    // Counted on the negative side, which reaches one further.
                    match value.checked_mul(10).and_then(|v| v.checked_sub(digit)) {
                        Some(next) => value = next,
                        None => return self.error(start, Kind::IntOverflow),
                    }
                }
                Some(_) => return self.error(at, Kind::BadInt),
            }
            at += 1;
        }
        if negative && value == 0 {
            return self.error(start, Kind::NegativeZero);
        }
        if !negative && value == i64::MIN {
            return self.error(start, Kind::IntOverflow);
        }
        Ok(at + 1)
    }
}
