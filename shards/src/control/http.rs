//! Announces over HTTP and HTTPS: connect, ask, follow redirects, read a bounded answer.
//!
//! Called by [`TrackerClient::announce`], which limits the time of it all. Invariants: no more than
//! [`BODY_MAX`] bytes of an answer are kept, neither packed nor unpacked; at most [`REDIRECTS_MAX`] redirects
//! are followed, none of them from the Internet into the user's own network and none from https to http.

use std::io::Read;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use ccbt_protocol::tracker::http::{ReplyError, announce_url, parse_response};
use ccbt_protocol::tracker::udp::AddressFamily;
use ccbt_protocol::tracker::{AnnounceRequest, AnnounceResponse, INTERVAL_MAX, RetryIn};
use glommio::net::TcpStream;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode};
use url::{Position, Url};

use super::address::may_redirect;
use super::error::{TrackerError, clean, shown};
use super::pool::Connection;
use super::socket::{Duplex, connect_tcp, within};
use super::{Target, TrackerClient};

/// Longest answer in bytes. The 2000 peers that are kept are 200 kB even as dictionaries.
pub(super) const BODY_MAX: usize = 2 * 1024 * 1024;
/// Redirects followed.
const REDIRECTS_MAX: usize = 5;
/// Time for a connection to one address, while there are others to try.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

impl TrackerClient {
    /// An announce over HTTP, without a time limit of its own.
    pub(super) async fn announce_http(
        &self,
        url: &str,
        family: Option<AddressFamily>,
        request: &AnnounceRequest,
    ) -> Result<AnnounceResponse, TrackerError> {
        let answer = self.get(&announce_url(url, request), family).await?;
        read_announce(&answer)
    }

    /// Fetches `url` from addresses of `family`, following redirects.
    pub(super) async fn get(&self, url: &str, family: Option<AddressFamily>) -> Result<Answer, TrackerError> {
        let mut target = Target::parse(url)?.by(family);
        let mut origin = None;
        for _ in 0..=REDIRECTS_MAX {
            match self.fetch(&target, &mut origin).await? {
                Fetched::Answer(answer) => return Ok(answer),
                Fetched::Redirect(location) => target = redirected(&target, &location)?.by(family),
            }
        }
        Err(TrackerError::Redirect { to: shown(target.url.as_str()), why: "there are too many in a row" })
    }

    /// Connects to the first address of `target` that lets us. `origin` is the address the first request went
    /// to, when this is a redirect.
    async fn connect(
        &self,
        target: &Target,
        origin: Option<IpAddr>,
    ) -> Result<(TcpStream, Option<IpAddr>), TrackerError> {
        if let Some(proxy) = &self.config.proxy {
            return self.connect_through(proxy, target, origin).await;
        }
        let bind = self.config.bind.as_ref();
        let addresses = self.resolver.addresses(&target.url, target.port, bind).await?;
        let allowed: Vec<_> = addresses
            .into_iter()
            .filter(|address| target.admits(&address.ip()))
            .filter(|address| origin.is_none_or(|origin| may_redirect(origin, address.ip())))
            .collect();
        let mut failure = match origin {
            None => TrackerError::WrongFamily { host: shown(target.host()) },
            Some(_) => TrackerError::Redirect {
                to: shown(&target.url[..Position::AfterPort]),
                why: "it leads from the Internet into a private network, or to another family of addresses",
            },
        };
        for (index, address) in allowed.iter().enumerate() {
            let attempt = connect_tcp(*address, bind);
            let result = if index + 1 == allowed.len() {
                attempt.await
            } else {
                let late = || Err(std::io::Error::from(std::io::ErrorKind::TimedOut));
                within(CONNECT_TIMEOUT, attempt).await.unwrap_or_else(late)
            };
            match result {
                Ok(stream) => return Ok((stream, Some(address.ip()))),
                Err(error) => failure = TrackerError::connect(target.host(), &error),
            }
        }
        Err(failure)
    }

    /// One request and its answer, over a connection that is kept if there is one.
    async fn fetch(&self, target: &Target, origin: &mut Option<IpAddr>) -> Result<Fetched, TrackerError> {
        if let Some(kept) = self.pool.take(&target.url, target.family)
            && kept.address.zip(*origin).is_none_or(|(to, origin)| may_redirect(origin, to))
            && kept.address.is_none_or(|to| !self.resolver.is_filtered(to))
        {
            let address = kept.address;
            // The server may have closed it a moment ago; announces may be repeated.
            if let Ok(fetched) = self.exchange(target, kept).await? {
                *origin = origin.or(address);
                return Ok(fetched);
            }
        }
        let (stream, address) = self.connect(target, *origin).await?;
        *origin = origin.or(address);
        let stream: Box<dyn Duplex> = if target.url.scheme() == "https" {
            Box::new(self.tls.connect(&target.url, stream).await?)
        } else {
            Box::new(stream)
        };
        self.exchange(target, Connection::new(stream, address).await?).await?
    }

    /// One request over `connection`. The inner error: there was no answer at all.
    async fn exchange(
        &self,
        target: &Target,
        mut connection: Connection,
    ) -> Result<Result<Fetched, TrackerError>, TrackerError> {
        let request = self.request(&target.url)?;
        let response = match connection.sender.send_request(request).await {
            Ok(response) => response,
            Err(error) => return Ok(Err(TrackerError::lost(&error))),
        };
        let fetched = read(response).await?;
        if matches!(fetched, Fetched::Answer(_)) {
            self.pool.put(&target.url, target.family, connection);
        }
        Ok(Ok(fetched))
    }

    fn request(&self, url: &Url) -> Result<Request<Empty<Bytes>>, TrackerError> {
        Request::get(&url[Position::BeforePath..Position::AfterQuery])
            .header(header::HOST, &url[Position::BeforeHost..Position::AfterPort])
            .header(header::USER_AGENT, &*self.config.user_agent)
            .header(header::ACCEPT_ENCODING, "gzip")
            .body(Empty::new())
            .map_err(|error| TrackerError::BadUrl {
                url: shown(url.as_str()),
                why: clean(&error.to_string()),
            })
    }
}

enum Fetched {
    Answer(Answer),
    Redirect(HeaderValue),
}

/// What a server answered.
pub(super) struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    /// At most [`BODY_MAX`] bytes, unpacked.
    pub body: Result<Vec<u8>, TrackerError>,
}

impl Answer {
    /// The body of a success. A status says little; the tracker's own words, if there are any, say more.
    pub fn success(&self) -> Result<&[u8], TrackerError> {
        if self.status.is_success() {
            return self.body.as_deref().map_err(Clone::clone);
        }
        match self.body.as_deref().map(parse_response) {
            Ok(Err(ReplyError::Refused(failure))) => Err(TrackerError::Refused(failure)),
            _ => Err(status_error(self.status, &self.headers)),
        }
    }
}

async fn read(response: Response<Incoming>) -> Result<Fetched, TrackerError> {
    let (head, body) = response.into_parts();
    if matches!(head.status.as_u16(), 301 | 302 | 303 | 307 | 308)
        && let Some(location) = head.headers.get(header::LOCATION)
    {
        return Ok(Fetched::Redirect(location.clone()));
    }
    let body = bounded(body).await.and_then(|packed| unpack(&head.headers, packed));
    Ok(Fetched::Answer(Answer { status: head.status, headers: head.headers, body }))
}

fn read_announce(answer: &Answer) -> Result<AnnounceResponse, TrackerError> {
    parse_response(answer.success()?).map_err(TrackerError::from)
}

fn status_error(status: StatusCode, headers: &HeaderMap) -> TrackerError {
    // A date, the header's other form, is left to the back-off.
    let seconds = text_of(headers, header::RETRY_AFTER).and_then(|text| text.trim().parse::<u64>().ok());
    let retry_in = seconds.map(|seconds| RetryIn::After(Duration::from_secs(seconds).min(INTERVAL_MAX)));
    TrackerError::Status { status: status.to_string(), retry_in }
}

fn text_of(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// The body, if it is not larger than [`BODY_MAX`].
async fn bounded(mut body: Incoming) -> Result<Vec<u8>, TrackerError> {
    let too_large = TrackerError::TooLarge { max: BODY_MAX };
    if body.size_hint().lower() > BODY_MAX as u64 {
        return Err(too_large);
    }
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| TrackerError::lost(&error))?;
        let Some(data) = frame.data_ref() else { continue };
        if data.len() > BODY_MAX - bytes.len() {
            return Err(too_large);
        }
        bytes.extend_from_slice(data);
    }
    Ok(bytes)
}

/// Undoes the content encoding.
fn unpack(headers: &HeaderMap, body: Vec<u8>) -> Result<Vec<u8>, TrackerError> {
    let encoding = text_of(headers, header::CONTENT_ENCODING).unwrap_or("identity").trim();
    let is = |name: &str| encoding.eq_ignore_ascii_case(name);
    if is("gzip") || is("x-gzip") {
        return gunzip(&body);
    }
    if !is("identity") && !encoding.is_empty() {
        return Err(TrackerError::Encoding { reason: format!("{} was not asked for", clean(encoding)) });
    }
    Ok(body)
}

/// Unpacks gzip into at most [`BODY_MAX`] bytes.
fn gunzip(packed: &[u8]) -> Result<Vec<u8>, TrackerError> {
    let mut body = Vec::new();
    flate2::read::MultiGzDecoder::new(packed)
        .take(BODY_MAX as u64 + 1)
        .read_to_end(&mut body)
        .map_err(|error| TrackerError::Encoding { reason: clean(&error.to_string()) })?;
    if body.len() > BODY_MAX {
        return Err(TrackerError::TooLarge { max: BODY_MAX });
    }
    Ok(body)
}

/// Where `location`, read at `from`, leads.
fn redirected(from: &Target, location: &HeaderValue) -> Result<Target, TrackerError> {
    let text = String::from_utf8_lossy(location.as_bytes());
    let refuse = |why| Err(TrackerError::Redirect { to: shown(&text), why });
    let Ok(mut url) = from.url.join(&text) else { return refuse("it is no URL") };
    url.set_fragment(None);
    if !matches!(url.scheme(), "http" | "https") {
        return refuse("only http and https can be redirected to");
    }
    if from.url.scheme() == "https" && url.scheme() == "http" {
        return refuse("it leads from https to http");
    }
    Target::parse(url.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redirect(from: &str, to: &str) -> Result<String, TrackerError> {
        let to = HeaderValue::from_bytes(to.as_bytes()).unwrap();
        redirected(&Target::parse(from).unwrap(), &to).map(|target| target.url.to_string())
    }

    #[test]
    fn redirects_are_resolved_or_refused() {
        let from = "https://t.example:8443/a/announce?info_hash=%01";
        assert_eq!(redirect(from, "b?x=%02").unwrap(), "https://t.example:8443/a/b?x=%02");
        assert_eq!(redirect(from, "/c#d").unwrap(), "https://t.example:8443/c");
        assert_eq!(redirect(from, "//u.example/c").unwrap(), "https://u.example/c");
        assert_eq!(redirect("http://t.example/", "https://t.example/").unwrap(), "https://t.example/");
        for to in
            ["http://t.example/", "udp://t.example:80/", "file:///etc/passwd", "http://[", "https://t:0/"]
        {
            assert!(redirect(from, to).is_err(), "{to}");
        }
    }

    /// The check is on the address connected to, so a name that resolves to an inner address is refused as
    /// well.
    #[test]
    fn redirects_from_the_internet_do_not_reach_inner_addresses() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tell, told) = std::sync::mpsc::channel();
        let ask = move || async move {
            let client = TrackerClient::new(super::super::TrackerClientConfig::default());
            for origin in ["1.1.1.1", "127.0.0.1"] {
                for host in ["127.0.0.1", "localhost", "2130706433"] {
                    let target = Target::parse(&format!("http://{host}:{port}/")).unwrap();
                    let result = client.connect(&target, Some(origin.parse().unwrap())).await;
                    tell.send(result.map(|(_, ip)| ip.unwrap().is_loopback())).unwrap();
                }
            }
        };
        crate::executor::spawn("test", None, ask).unwrap().join().unwrap();
        let results: Vec<_> = told.iter().collect();
        for refused in &results[..3] {
            assert!(matches!(refused, Err(TrackerError::Redirect { .. })), "{refused:?}");
        }
        assert_eq!(results[3..], [Ok(true), Ok(true), Ok(true)]);
        let connections = std::iter::from_fn(|| listener.accept().ok()).count();
        assert_eq!(connections, 3, "nothing was sent to the inner address on the stranger's behalf");
    }

    #[test]
    fn gzip_is_bounded_and_checked() {
        let pack = |bytes: &[u8]| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            std::io::Write::write_all(&mut encoder, bytes).unwrap();
            encoder.finish().unwrap()
        };
        assert_eq!(gunzip(&pack(b"de")).unwrap(), b"de");
        assert_eq!(gunzip(&pack(&vec![0; BODY_MAX])).unwrap().len(), BODY_MAX);
        let bomb = pack(&vec![0; BODY_MAX + 1]);
        assert!(bomb.len() < 10_000);
        assert_eq!(gunzip(&bomb), Err(TrackerError::TooLarge { max: BODY_MAX }));
        let packed = pack(b"de");
        assert!(matches!(gunzip(&packed[..packed.len() - 3]), Err(TrackerError::Encoding { .. })));
        assert!(matches!(gunzip(b"nonsense"), Err(TrackerError::Encoding { .. })));
    }
}
