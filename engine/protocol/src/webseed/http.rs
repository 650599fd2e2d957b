//! What an HTTP server answers to a request for a range of a file (RFC 9110, 9112).
//!
//! Role: [`Head::parse`] reads the head of an answer, [`Head::judge`] compares it with what was asked for, and [`Body`]
//! finds the data in what follows, chunked or not. Owner: the web seed thread, one [`Body`] per request under way.
//! Invariant: a body that is taken has exactly the bytes that were asked for at a known place: whoever answers with
//! another range, another length or an encoding is at fault.

use std::time::{Duration, SystemTime};

/// Bytes of a head at most.
pub const HEAD_MAX: usize = 16 * 1024;
/// Fields of a head at most.
const FIELDS_MAX: usize = 64;
/// Bytes of a chunk's size line, extensions included, and of all trailers.
const CHUNK_LINE_MAX: usize = 1024;
/// Longest wait that a server may ask for.
const RETRY_MAX: Duration = Duration::from_secs(3600);

/// What is wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum HttpFault {
    #[error("the answer is not HTTP")]
    NotHttp,
    #[error("the head of the answer is longer than 16 KiB")]
    HeadTooLong,
    #[error("the answer has a length that contradicts itself")]
    BadLength,
    #[error("the answer is compressed, which was not asked for")]
    Encoded,
    #[error("the server sends another range than was asked for")]
    WrongRange,
    #[error("the file has another length there")]
    WrongLength,
    #[error("the chunks of the answer are broken")]
    BadChunk,
    #[error("the answer ends too early")]
    Truncated,
    #[error("a redirect without a place to go")]
    BadRedirect,
}

/// Bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The first byte.
    pub start: u64,
    /// Behind the last byte; more than `start`.
    pub end: u64,
    /// Bytes of the whole file.
    pub file_len: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ContentRange {
    first: u64,
    last: u64,
    total: Option<u64>,
}

/// The head of an answer, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The status code.
    pub status: u16,
    len: Option<u64>,
    range: Option<Result<ContentRange, HttpFault>>,
    chunked: bool,
    keep_alive: bool,
    encoded: bool,
    retry_after: Option<RetryAfter>,
    location: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RetryAfter {
    In(Duration),
    At(SystemTime),
}

/// What an answer means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The data follows.
    Data(Body),
    /// It is elsewhere.
    Redirect(String),
    /// There is none, for this reason; again after so long, if the server says.
    Refused(u16, Option<Duration>),
}

impl Head {
    /// Reads the head at the front of `bytes`, and how long it is. `None`: there is more to come.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, HttpFault> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut response = httparse::Response::new(&mut fields);
        let len = match response.parse(&bytes[..bytes.len().min(HEAD_MAX)]) {
            Ok(httparse::Status::Complete(len)) => len,
            Ok(httparse::Status::Partial) if bytes.len() < HEAD_MAX => return Ok(None),
            Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
                return Err(HttpFault::HeadTooLong);
            }
            Err(_) => return Err(HttpFault::NotHttp),
        };
        let mut head = Self {
            status: response.code.ok_or(HttpFault::NotHttp)?,
            len: None,
            range: None,
            chunked: false,
            keep_alive: response.version == Some(1),
            encoded: false,
            retry_after: None,
            location: None,
        };
        for field in response.headers.iter() {
            head.take(field.name, std::str::from_utf8(field.value).unwrap_or_default().trim())?;
        }
        if head.chunked && head.len.take().is_some() {
            // A request smuggler's favourite (RFC 9112, 6.3): the chunks count, and the connection is not used again.
            head.keep_alive = false;
        }
        Ok(Some((head, len)))
    }

    fn take(&mut self, name: &str, value: &str) -> Result<(), HttpFault> {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        let has_word = |word: &str| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(word));
        if is("content-length") {
            let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
            let len = value.parse().ok().filter(|_| digits).ok_or(HttpFault::BadLength)?;
            if self.len.is_some_and(|before| before != len) {
                return Err(HttpFault::BadLength);
            }
            self.len = Some(len);
        } else if is("transfer-encoding") {
            if !value.eq_ignore_ascii_case("chunked") || self.chunked {
                return Err(HttpFault::Encoded);
            }
            self.chunked = true;
        } else if is("content-encoding") {
            self.encoded |= !value.is_empty() && !value.eq_ignore_ascii_case("identity");
        } else if is("content-range") {
            self.range = Some(content_range(value).ok_or(HttpFault::WrongRange));
        } else if is("connection") {
            self.keep_alive = !has_word("close") && (self.keep_alive || has_word("keep-alive"));
        } else if is("retry-after") {
            let seconds = value.parse().ok().map(|seconds| RetryAfter::In(Duration::from_secs(seconds)));
            let date = || httpdate::parse_http_date(value).ok().map(RetryAfter::At);
            self.retry_after = seconds.or_else(date);
        } else if is("location") && !value.is_empty() {
            self.location = Some(value.to_owned());
        }
        Ok(())
    }

    /// Whether another head follows (100 Continue, 103 Early Hints).
    pub fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }

    /// Compares the answer with what was asked for.
    pub fn judge(self, wanted: Wanted, now: SystemTime) -> Result<Verdict, HttpFault> {
        let len = wanted.end - wanted.start;
        match self.status {
            200 | 206 if self.encoded => Err(HttpFault::Encoded),
            206 => {
                // Without a range it is a list of them, which was not asked for.
                let range = self.range.unwrap_or(Err(HttpFault::WrongRange))?;
                if range.total.is_some_and(|total| total != wanted.file_len) {
                    return Err(HttpFault::WrongLength);
                }
                if (range.first, range.last) != (wanted.start, wanted.end - 1) {
                    return Err(HttpFault::WrongRange);
                }
                if self.len.is_some_and(|told| told != len) {
                    return Err(HttpFault::BadLength);
                }
                Ok(Verdict::Data(Body::new(&self, 0, len)))
            }
            200 => match self.len {
                Some(told) if told != wanted.file_len => Err(HttpFault::WrongLength),
                _ => Ok(Verdict::Data(Body::new(&self, wanted.start, wanted.file_len - wanted.start))),
            },
            301 | 302 | 303 | 307 | 308 => self.location.map(Verdict::Redirect).ok_or(HttpFault::BadRedirect),
            status => {
                let wait = self.retry_after.map(|retry| match retry {
                    RetryAfter::In(wait) => wait,
                    RetryAfter::At(at) => at.duration_since(now).unwrap_or_default(),
                });
                Ok(Verdict::Refused(status, wait.map(|wait| wait.min(RETRY_MAX))))
            }
        }
    }
}

/// `bytes FIRST-LAST/TOTAL`, or `*` for the total.
fn content_range(value: &str) -> Option<ContentRange> {
    let (unit, rest) = value.split_once(' ')?;
    let (range, total) = rest.trim().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let number = |text: &str| text.parse::<u64>().ok().filter(|_| !text.starts_with('+'));
    let total = match total {
        "*" => None,
        total => Some(number(total)?),
    };
    let range = ContentRange { first: number(first)?, last: number(last)?, total };
    (unit.eq_ignore_ascii_case("bytes") && range.first <= range.last).then_some(range)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// So many bytes are left on the wire.
    Length(u64),
    /// So many bytes of the present chunk are left.
    Chunk(u64),
    /// Between two chunks: a size line, or first the end of a chunk's line.
    Size { after_data: bool },
    /// Behind the last chunk.
    Trailers,
    /// Until the server hangs up.
    Close,
    /// Nothing follows.
    Over,
}

/// The data of an answer within the bytes that follow its head.
///
/// Call order: while [`Body::left`] is not 0, read up to [`Body::data_ahead`] bytes of data and say [`Body::took`];
/// when that is 0, hand what comes to [`Body::control`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    framing: Framing,
    /// Bytes of data before those that are wanted: the server began at 0.
    skip: u64,
    /// Bytes of data from the wanted place on.
    left: u64,
    keep_alive: bool,
    /// The server began where it was asked to.
    ranged: bool,
    /// A size line or trailers so far.
    line: Vec<u8>,
}

impl Body {
    fn new(head: &Head, skip: u64, left: u64) -> Self {
        let framing = match head.len {
            _ if head.chunked => Framing::Size { after_data: false },
            Some(len) => Framing::Length(len),
            None => Framing::Close,
        };
        let ranged = head.status == 206;
        Self { framing, skip, left, keep_alive: head.keep_alive, ranged, line: Vec::new() }
    }

    /// Bytes that come before what is wanted, to be thrown away first.
    pub fn skip(&self) -> u64 {
        self.skip
    }

    /// Bytes of data from the wanted place to the end of the answer.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Whether the server can begin in the middle of a file.
    pub fn is_ranged(&self) -> bool {
        self.ranged
    }

    /// How many of the next bytes are data; 0: control bytes come first.
    pub fn data_ahead(&self) -> u64 {
        let here = match self.framing {
            Framing::Length(left) | Framing::Chunk(left) => left,
            Framing::Close => u64::MAX,
            Framing::Size { .. } | Framing::Trailers | Framing::Over => 0,
        };
        here.min(self.skip + self.left)
    }

    /// So many bytes of data were taken; no more than [`Body::data_ahead`].
    pub fn took(&mut self, bytes: u64) {
        assert!(bytes <= self.data_ahead(), "more data than there is");
        let skipped = bytes.min(self.skip);
        self.skip -= skipped;
        self.left -= bytes - skipped;
        match &mut self.framing {
            Framing::Length(left) => *left -= bytes,
            Framing::Chunk(left) => {
                *left -= bytes;
                if *left == 0 {
                    self.framing = Framing::Size { after_data: true };
                }
            }
            _ => {}
        }
        if self.framing == Framing::Length(0) {
            self.framing = Framing::Over;
        }
    }

    /// Takes control bytes off the front of `bytes`; returns how many. To be called while [`Body::data_ahead`] is 0,
    /// also when all data is here, until [`Body::is_over`]: then the connection is free.
    pub fn control(&mut self, bytes: &[u8]) -> Result<usize, HttpFault> {
        let mut used = 0;
        while let Framing::Size { .. } | Framing::Trailers = self.framing
            && let Some(byte) = bytes.get(used)
        {
            used += 1;
            self.line.push(*byte);
            if self.line.len() > CHUNK_LINE_MAX {
                return Err(HttpFault::BadChunk);
            }
            if *byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                self.end_line(&line)?;
            }
        }
        if self.framing == Framing::Over && self.left > 0 {
            return Err(HttpFault::Truncated);
        }
        Ok(used)
    }

    fn end_line(&mut self, line: &[u8]) -> Result<(), HttpFault> {
        let line = line.strip_suffix(b"\r\n").ok_or(HttpFault::BadChunk)?;
        self.framing = match self.framing {
            Framing::Size { after_data: true } if line.is_empty() => Framing::Size { after_data: false },
            Framing::Size { after_data: true } => return Err(HttpFault::BadChunk),
            Framing::Size { .. } => match chunk_size(line).ok_or(HttpFault::BadChunk)? {
                0 => Framing::Trailers,
                // More than was asked for, or than the file has.
                size if size > self.skip + self.left => return Err(HttpFault::WrongLength),
                size => Framing::Chunk(size),
            },
            _ if line.is_empty() => Framing::Over,
            other => other,
        };
        Ok(())
    }

    /// Whether the answer has ended and the connection may serve another request.
    pub fn is_reusable(&self) -> bool {
        self.keep_alive && self.framing == Framing::Over && self.left == 0
    }

    /// Whether nothing of the answer follows, as far as it says so.
    pub fn is_over(&self) -> bool {
        self.framing == Framing::Over
    }
}

fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.split(|byte| *byte == b';').next()?.trim_ascii();
    let text = std::str::from_utf8(digits).ok().filter(|text| (1..=15).contains(&text.len()))?;
    u64::from_str_radix(text, 16).ok().filter(|_| !text.starts_with('+'))
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
