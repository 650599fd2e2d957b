//! One request of a torrent on its way: from a run of pieces to their bytes.
//!
//! Owner: the web seed thread. Stages: queued until its server has room, then name, connection, TLS, request and head
//! for each file of the run, and its data straight into the pieces. Invariant: `at` is how much of the first piece is
//! there, and complete pieces leave at once.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use ccbt_protocol::webseed::http::{Body, HEAD_MAX, Head, HttpFault, Verdict, Wanted};
use ccbt_protocol::webseed::urls::file_url;
use ccbt_protocol::webseed::{Failure, Source};
use url::Url;

use super::Fetch;
use super::conn::Conn;
use crate::binding::Binding;

/// Redirects of one request.
const REDIRECTS_MAX: u32 = 5;
/// Bytes of one job in a turn: others get theirs.
const BURST: u64 = 4 << 20;
/// Bytes read at a time where they are not wanted, or between chunks.
const SCRATCH: usize = 64 * 1024;
/// How long a server may take to begin an answer.
pub(super) const HEAD_TIME: Duration = Duration::from_secs(20);
/// How long a connection may take to one address.
pub(super) const CONNECT_TIME: Duration = Duration::from_secs(8);
/// So many bytes have to come in each of these times.
pub(super) const SLOW: (u64, Duration) = (16 * 1024, Duration::from_secs(15));

/// The place of an answer from the name server.
pub(super) type Names = Arc<OnceLock<Result<Vec<std::net::IpAddr>, String>>>;

/// A server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host {
    pub secure: bool,
    pub name: String,
    pub port: u16,
    /// Only at a public address.
    pub guarded: bool,
    /// Connections of different places are not shared.
    pub bind: Option<Binding>,
}

pub(super) enum Stage {
    /// Its server, or the thread, has too many requests under way.
    Queued,
    /// The name is looked up.
    Name(Names),
    /// A connect is under way; further addresses to try.
    Connecting(Conn, Vec<SocketAddr>),
    /// The certificates of the system are read.
    Certificates(Conn),
    /// The request goes out and the head comes in.
    Head(Conn, Vec<u8>),
    /// Data comes in.
    Body(Conn, Body),
    /// Between two files, with a connection that can be used again, or without one.
    Between(Option<Conn>),
}

pub(super) struct Job {
    pub fetch: Fetch,
    pub stage: Stage,
    pub url: Url,
    pub host: Host,
    /// Bytes of the first piece that are there.
    pub at: usize,
    pub redirects: u32,
    /// Until when the present stage has to be over.
    pub deadline: Instant,
    /// Bytes since the deadline was set, and in all, and not told yet.
    pub since: u64,
    pub bytes: u64,
    pub untold: u64,
    pub begun: Instant,
    pub ranged: Option<bool>,
    /// It waits for an allowance.
    pub held: bool,
    /// The connection had served before: when it fails at once, a new one is tried.
    pub reused: bool,
    /// Its socket, or something else, has news.
    pub ready: bool,
}

/// How far a turn got.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing more can be done now.
    Wait,
    /// More may be there.
    More,
    /// A piece is complete.
    Piece,
    /// A file is complete, or a redirect came: another request has to be sent.
    Next,
}

impl Job {
    #[expect(clippy::result_large_err, reason = "its memory has to go back")]
    pub fn new(now: Instant, fetch: Fetch, allow_local: bool) -> Result<Self, (Fetch, Failure)> {
        let guarded = !fetch.site.trusted && !allow_local;
        let dummy = Url::parse("http://unset/").expect("a URL");
        let host = Host { secure: false, name: String::new(), port: 0, guarded, bind: None };
        let mut job = Self {
            fetch,
            stage: Stage::Queued,
            url: dummy,
            host,
            at: 0,
            redirects: 0,
            deadline: now + HEAD_TIME,
            since: 0,
            bytes: 0,
            untold: 0,
            begun: now,
            ranged: None,
            held: false,
            reused: false,
            ready: true,
        };
        match job.aim() {
            Ok(()) => Ok(job),
            Err(failure) => Err((job.fetch, failure)),
        }
    }

    /// Sets the URL of the next file. Padding before it is made.
    pub fn aim(&mut self) -> Result<(), Failure> {
        let Some(segment) = self.fetch.segments.front() else { return Ok(()) };
        let Source::File { index, .. } = segment.source else { return Ok(()) };
        let site = &self.fetch.site;
        let path = site.paths.get(index).map_or("", String::as_str);
        let text = file_url(&site.url, site.is_multi_file, path);
        let url = Url::parse(&text).map_err(|error| Failure::BadUrl(error.to_string()))?;
        self.redirects = 0;
        let guarded = !site.trusted && self.host.guarded;
        self.go_to(url, guarded)
    }

    fn go_to(&mut self, url: Url, guarded: bool) -> Result<(), Failure> {
        let name = match url.host_str() {
            Some(name) if matches!(url.scheme(), "http" | "https") => name.to_owned(),
            _ => return Err(Failure::BadUrl("only http and https can be asked".to_owned())),
        };
        let port = url.port_or_known_default().unwrap_or(0);
        self.host =
            Host { secure: url.scheme() == "https", name, port, guarded, bind: self.fetch.site.bind.clone() };
        self.url = url;
        Ok(())
    }

    /// Follows a redirect, which may not lead into the local network unless that is allowed.
    fn redirect(&mut self, to: &str, allow_local: bool) -> Result<(), Failure> {
        self.redirects += 1;
        if self.redirects > REDIRECTS_MAX {
            return Err(Failure::BadUrl("too many redirects".to_owned()));
        }
        let url = self.url.join(to).map_err(|error| Failure::BadUrl(error.to_string()))?;
        self.go_to(url, !allow_local)
    }

    /// The file that is asked for, and its bytes.
    fn wanted(&self) -> Option<(usize, Wanted)> {
        let segment = self.fetch.segments.front()?;
        let Source::File { index, start, file_len } = segment.source else { return None };
        Some((index, Wanted { start, end: start + segment.len, file_len }))
    }

    /// The request for the next file.
    pub fn request(&self, agent: &str) -> Vec<u8> {
        let (_, wanted) = self.wanted().expect("a file is asked for");
        let mut target = self.url.path().to_owned();
        if let Some(query) = self.url.query() {
            target = format!("{target}?{query}");
        }
        let host = match self.url.port() {
            Some(port) => format!("{}:{port}", self.host.name),
            None => self.host.name.clone(),
        };
        let (first, last) = (wanted.start, wanted.end - 1);
        format!(
            "GET {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {agent}\r\nAccept: */*\r\n\
             Accept-Encoding: identity\r\nRange: bytes={first}-{last}\r\nConnection: keep-alive\r\n\r\n"
        )
        .into_bytes()
    }

    /// Makes the padding at the front of what is left. Returns whether a piece is complete.
    pub fn make_zeroes(&mut self) -> bool {
        while let Some(segment) = self.fetch.segments.front_mut() {
            if segment.source != Source::Zeroes {
                return false;
            }
            let place =
                &mut self.fetch.pieces.front_mut().expect("padding has a place").as_mut_slice()[self.at..];
            let len = (place.len() as u64).min(segment.len);
            place[..len as usize].fill(0);
            segment.len -= len;
            if segment.len == 0 {
                self.fetch.segments.pop_front();
            }
            self.at += len as usize;
            if self.is_piece_complete() {
                return true;
            }
        }
        false
    }

    pub fn is_piece_complete(&self) -> bool {
        self.fetch.pieces.front().is_some_and(|piece| self.at >= piece.len())
    }

    /// Reads the head of an answer. `Ok(None)`: there is more to come.
    pub fn read_head(&mut self, now: Instant, allow_local: bool) -> Result<Step, Failure> {
        let Stage::Head(conn, head) = &mut self.stage else { return Ok(Step::Wait) };
        conn.flush().map_err(unreachable)?;
        let mut bytes = [0; 4096];
        let len = match conn.read(&mut bytes) {
            Ok(0) if head.is_empty() => return Err(unreachable(ErrorKind::UnexpectedEof.into())),
            Ok(0) => return Err(HttpFault::Truncated.into()),
            Ok(len) => len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Step::Wait),
            Err(error) => return Err(unreachable(error)),
        };
        head.extend_from_slice(&bytes[..len]);
        let Some((answer, used)) = Head::parse(head)? else { return Ok(Step::More) };
        head.drain(..used);
        if answer.is_interim() {
            // What was read behind it is looked at again.
            conn.ahead.splice(0..0, std::mem::take(head));
            return Ok(Step::More);
        }
        let (index, wanted) = self.wanted().expect("a file is asked for");
        match answer.judge(wanted, SystemTime::now())? {
            Verdict::Data(body) => {
                let Stage::Head(mut conn, rest) = std::mem::replace(&mut self.stage, Stage::Between(None))
                else {
                    unreachable!("looked at above")
                };
                conn.ahead.splice(0..0, rest);
                self.ranged = Some(body.is_ranged());
                self.stage = Stage::Body(conn, body);
                (self.deadline, self.since) = (now + SLOW.1, 0);
                Ok(Step::More)
            }
            Verdict::Redirect(to) => {
                self.stage = Stage::Between(None);
                self.redirect(&to, allow_local)?;
                Ok(Step::Next)
            }
            Verdict::Refused(status @ (403 | 404 | 410), _) => Err(Failure::Lacks { file: index, status }),
            Verdict::Refused(status, retry) => Err(Failure::Refused { status, retry }),
        }
    }

    /// Receives data, `allowance` bytes at most. Returns how far it got, and the bytes.
    pub fn read_body(&mut self, allowance: u64) -> Result<(Step, u64), Failure> {
        let mut got = 0;
        let step = loop {
            if self.is_piece_complete() {
                break Step::Piece;
            }
            let Stage::Body(conn, body) = &mut self.stage else { break Step::Wait };
            let segment_left = self.fetch.segments.front().map_or(0, |segment| segment.len);
            if segment_left == 0 {
                self.fetch.segments.pop_front();
                self.end_body()?;
                break Step::Next;
            }
            if body.left() == 0 {
                return Err(HttpFault::Truncated.into());
            }
            if got >= BURST.min(allowance) {
                break Step::More;
            }
            let ahead = body.data_ahead();
            let read = if ahead == 0 {
                control(conn, body)
            } else if body.skip() > 0 {
                let mut scratch = [0; SCRATCH];
                let most = body.skip().min(ahead).min(SCRATCH as u64).min(allowance - got) as usize;
                conn.read(&mut scratch[..most]).inspect(|len| body.took(*len as u64))
            } else {
                let most = ahead.min(segment_left).min(BURST.min(allowance) - got);
                let read = conn.read_pieces(&mut self.fetch.pieces, self.at, most);
                read.inspect(|len| {
                    body.took(*len as u64);
                    self.at += len;
                    self.fetch.segments.front_mut().expect("looked at").len -= *len as u64;
                })
            };
            match read {
                Ok(0) => return Err(HttpFault::Truncated.into()),
                Ok(len) => {
                    got += len as u64;
                    self.since += len as u64;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break Step::Wait,
                Err(error) if error.kind() == ErrorKind::InvalidData => {
                    return Err(HttpFault::BadChunk.into());
                }
                Err(error) => return Err(unreachable(error)),
            }
        };
        Ok((step, got))
    }

    /// All that is wanted of a file is here: the connection is kept if the answer ends here, too.
    fn end_body(&mut self) -> Result<(), Failure> {
        let Stage::Body(mut conn, mut body) = std::mem::replace(&mut self.stage, Stage::Between(None)) else {
            return Ok(());
        };
        if body.left() == 0 && !body.is_over() {
            // The end of the chunks is likely here already; if not, the connection is not worth waiting for.
            let mut tries = 0;
            while tries < 4 && !body.is_over() && control(&mut conn, &mut body).is_ok_and(|len| len > 0) {
                tries += 1;
            }
        }
        self.stage = Stage::Between(body.is_reusable().then_some(conn));
        Ok(())
    }
}

/// Takes what is between two chunks. `InvalidData`: it is not what should be there.
fn control(conn: &mut Conn, body: &mut Body) -> io::Result<usize> {
    let mut bytes = [0; 128];
    let len = conn.read(&mut bytes)?;
    let used = body.control(&bytes[..len]).map_err(|fault| io::Error::new(ErrorKind::InvalidData, fault))?;
    conn.ahead.splice(0..0, bytes[used..len].iter().copied());
    Ok(if len == 0 { 0 } else { used.max(1) })
}

pub(super) fn unreachable(error: io::Error) -> Failure {
    Failure::Unreachable(error.to_string())
}

/// Heads are bounded where they are parsed.
const _: () = assert!(HEAD_MAX >= 4096);
