//! Requests for the file, and what is answered.

use std::io::{self, Seek, SeekFrom};
use std::net::IpAddr;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use tokio::sync::mpsc;

use super::range::{Asked, asked};
use crate::{FileReader, TorrentHandle};

/// Bytes read at a time, and such pieces that wait to be sent.
const CHUNK: usize = 64 << 10;
const CHUNKS_MAX: usize = 2;

type Body = BoxBody<Bytes, io::Error>;

/// The file, and what is said of it.
#[derive(Debug)]
pub(super) struct Served {
    torrent: TorrentHandle,
    file: usize,
    len: u64,
    name: String,
    etag: String,
}

impl Served {
    /// `None`: there is no such file.
    pub fn new(torrent: TorrentHandle, file: usize) -> Option<Self> {
        let len = torrent.reader(file)?.len();
        let name = torrent.metainfo().files[file].path.last()?.clone();
        let etag = format!("\"{}-{file}\"", torrent.info_hash());
        Some(Self { torrent, file, len, name, etag })
    }

    /// The file's own name as the end of a URL.
    pub fn encoded_name(&self) -> String {
        let encode = |byte: u8| match byte {
            b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
            byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        };
        self.name.bytes().map(encode).collect()
    }

    /// Answers one request. The body of a GET is read by a thread of its own.
    pub fn answer<B>(&self, request: &Request<B>) -> Response<Body> {
        if let Some(refusal) = refusal_of_host(request.uri(), request.headers()) {
            return refusal;
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            refusal.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refusal;
        }
        let path = request.uri().path();
        if path != "/" && decoded(path.trim_start_matches('/')) != self.name.as_bytes() {
            return text(StatusCode::NOT_FOUND, "there is one file here: /\n");
        }
        let (status, range) = match self.asked(request.headers()) {
            Asked::Whole => (StatusCode::OK, 0..self.len),
            Asked::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
            Asked::Unsatisfiable => {
                let mut refusal = text(StatusCode::RANGE_NOT_SATISFIABLE, "the file ends before that\n");
                let all = format!("bytes */{}", self.len);
                refusal.headers_mut().insert(header::CONTENT_RANGE, value(&all));
                return refusal;
            }
        };
        let body = if *request.method() == Method::HEAD { empty() } else { self.body(range.clone()) };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type(&self.name)));
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(header::ETAG, value(&self.etag));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if status == StatusCode::PARTIAL_CONTENT {
            let range = format!("bytes {}-{}/{}", range.start, range.end - 1, self.len);
            headers.insert(header::CONTENT_RANGE, value(&range));
        }
        response
    }

    fn asked(&self, headers: &HeaderMap) -> Asked {
        let range = headers.get(header::RANGE).and_then(|range| range.to_str().ok());
        // Another file, or a date, which we do not know: the whole file then (RFC 9110 section 13.1.5).
        let same = headers.get(header::IF_RANGE).is_none_or(|tag| tag.as_bytes() == self.etag.as_bytes());
        range.filter(|_| same).map_or(Asked::Whole, |range| asked(range, self.len))
    }

    fn body(&self, range: Range<u64>) -> Body {
        let (chunks, receiver) = mpsc::channel(CHUNKS_MAX);
        let reader = self.torrent.reader(self.file).expect("it was there at the start");
        tokio::task::spawn_blocking(move || feed(reader, range, &chunks));
        BodyExt::boxed(StreamBody::new(Chunks(receiver)))
    }
}

type Chunk = io::Result<Frame<Bytes>>;

/// Reads the range and hands it over, as fast as it is fetched and taken. Ends when nobody takes it any more.
fn feed(mut reader: FileReader, range: Range<u64>, chunks: &mpsc::Sender<Chunk>) {
    let mut left = range.end - range.start;
    if let Err(error) = reader.seek(SeekFrom::Start(range.start)) {
        let _ = chunks.blocking_send(Err(error));
        return;
    }
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK);
        let mut chunk = vec![0; most];
        let sent = match reader.read_while(&mut chunk, || !chunks.is_closed()) {
            Ok(None) => return,
            Ok(Some(count)) => {
                chunk.truncate(count);
                left -= count as u64;
                chunks.blocking_send(Ok(Frame::data(chunk.into())))
            }
            Err(error) => {
                tracing::warn!("the stream ends: {error}");
                left = 0;
                chunks.blocking_send(Err(error))
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

struct Chunks(mpsc::Receiver<Chunk>);

impl Stream for Chunks {
    type Item = Chunk;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Chunk>> {
        self.0.poll_recv(context)
    }
}

/// Refuses names other than `localhost`: whoever owns a name can let it point here, and a page of that name could read the
/// answers (DNS rebinding).
fn refusal_of_host(uri: &Uri, headers: &HeaderMap) -> Option<Response<Body>> {
    let mut all = headers.get_all(header::HOST).iter();
    let authority = match (uri.authority(), all.next(), all.next()) {
        (Some(authority), _, None) => authority.as_str(),
        (None, Some(host), None) => host.to_str().unwrap_or_default(),
        _ => return Some(text(StatusCode::BAD_REQUEST, "one Host header is needed\n")),
    };
    let problem = "use the address as a number (such as 127.0.0.1), or localhost\n";
    (!is_local_name(authority)).then(|| text(StatusCode::FORBIDDEN, problem))
}

/// Whether a `host[:port]` is an IP address or `localhost`.
fn is_local_name(authority: &str) -> bool {
    let host = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, _)) => return host.parse::<std::net::Ipv6Addr>().is_ok(),
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    };
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok()
}

/// The bytes that percent-encoding stands for.
fn decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, others @ ..] = rest {
        let digit = |at: usize| others.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high << 4 | low) as u8);
                rest = &others[2..];
            }
            _ => {
                bytes.push(*first);
                rest = others;
            }
        }
    }
    bytes
}

/// By the end of the name, for what players and browsers play; everything else is just bytes.
fn content_type(name: &str) -> &'static str {
    let extension = name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
    match extension.as_deref().unwrap_or_default() {
        "mp4" | "m4v" => "video/mp4",
        "mkv" => "video/x-matroska",
        "webm" => "video/webm",
        "avi" => "video/x-msvideo",
        "mov" => "video/quicktime",
        "mpg" | "mpeg" => "video/mpeg",
        "ts" | "m2ts" => "video/mp2t",
        "ogv" => "video/ogg",
        "mp3" => "audio/mpeg",
        "m4a" => "audio/mp4",
        "flac" => "audio/flac",
        "ogg" | "oga" | "opus" => "audio/ogg",
        "wav" => "audio/wav",
        "srt" | "txt" | "nfo" => "text/plain; charset=utf-8",
        "vtt" => "text/vtt",
        "pdf" => "application/pdf",
        "jpg" | "jpeg" => "image/jpeg",
        "png" => "image/png",
        _ => "application/octet-stream",
    }
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("digits and punctuation")
}

fn empty() -> Body {
    Full::new(Bytes::new()).map_err(|never| match never {}).boxed()
}

fn text(status: StatusCode, words: &'static str) -> Response<Body> {
    let mut response = Response::new(
        Full::new(Bytes::from_static(words.as_bytes())).map_err(|never| match never {}).boxed(),
    );
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_can_be_pointed_here_are_refused() {
        for local in
            ["127.0.0.1", "127.0.0.1:80", "localhost", "LocalHost:8080", "[::1]:80", "[::1]", "192.168.1.7:1"]
        {
            assert!(is_local_name(local), "{local}");
        }
        for other in [
            "",
            "evil.example",
            "evil.example:80",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "[evil]",
            "1",
        ] {
            assert!(!is_local_name(other), "{other}");
        }
    }

    #[test]
    fn percent_encoding() {
        assert_eq!(decoded("a%20b%2Fc%C3%A9%zz%4"), "a b/c\u{e9}%zz%4".as_bytes());
    }
}
