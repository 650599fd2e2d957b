//! Trackers of every kind, good and bad, asked over real sockets on a real executor.

#[path = "trackers/announces.rs"]
mod announces;
#[path = "trackers/dispatch.rs"]
mod dispatch;
#[path = "trackers/http.rs"]
mod http;
#[path = "trackers/tls.rs"]
mod tls;
#[path = "trackers/udp.rs"]
mod udp;

use std::future::Future;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use ccbt_protocol::ids::{InfoHash, PeerId};
use ccbt_protocol::tracker::{AnnounceRequest, AnnounceResponse, Event};
use ccbt_shards::control::{TrackerClient, TrackerClientConfig, TrackerError};

/// No test takes this long, however slow the machine, unless something hangs.
const HANG: Duration = Duration::from_secs(60);

/// Runs `main` on an executor of its own and gives its result.
fn run<T: Send + 'static, F: Future<Output = T> + 'static>(main: impl FnOnce() -> F + Send + 'static) -> T {
    let (tell, told) = channel();
    let thread = ccbt_shards::executor::spawn("test-tracker", None, move || async move {
        tell.send(main().await).unwrap();
    })
    .unwrap();
    let result = told.recv_timeout(HANG).expect("the executor hangs or died");
    thread.join().unwrap();
    result
}

fn request() -> AnnounceRequest {
    AnnounceRequest {
        info_hash: InfoHash([0xab; 20]),
        peer_id: PeerId(*b"-CF0001-abcdefghijkl"),
        port: 6881,
        uploaded: 1,
        downloaded: 2,
        left: 3,
        event: Event::Started,
        numwant: Some(50),
        key: 0x1234_5678,
        tracker_id: None,
        ip: None,
        other_ip: None,
    }
}

fn ask(config: TrackerClientConfig, url: &str) -> Result<AnnounceResponse, TrackerError> {
    let url = url.to_owned();
    run(move || async move { TrackerClient::new(config).announce(&url, &request()).await })
}

fn ask_default(url: &str) -> Result<AnnounceResponse, TrackerError> {
    ask(TrackerClientConfig::default(), url)
}

/// Whether `error` has a text that can be shown.
fn assert_showable(error: &TrackerError) {
    assert!(!error.to_string().contains(char::is_control), "{error:?}");
}

/// A server that reads one request head per connection, then lets `answer` do the rest. Gives the heads.
struct WebServer {
    addr: SocketAddr,
    heads: Receiver<String>,
}

impl WebServer {
    fn start(answer: impl Fn(&str, &mut TcpStream) + Send + 'static) -> Self {
        Self::start_on("127.0.0.1:0", answer).unwrap()
    }

    fn start_on(addr: &str, answer: impl Fn(&str, &mut TcpStream) + Send + 'static) -> std::io::Result<Self> {
        let listener = TcpListener::bind(addr)?;
        let addr = listener.local_addr()?;
        let (tell, heads) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let head = read_head(&mut stream);
                let _ = tell.send(head.clone());
                answer(&head, &mut stream);
                let _ = stream.shutdown(Shutdown::Write);
            }
        });
        Ok(Self { addr, heads })
    }

    fn url(&self) -> String {
        format!("http://{}/announce", self.addr)
    }

    fn head(&self) -> String {
        self.heads.recv_timeout(HANG).unwrap()
    }
}

fn read_head(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|len| len == 1) {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// An HTTP answer with a length.
fn respond(stream: &mut impl Write, status: &str, headers: &str, body: &[u8]) {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(body);
}

/// An answer with the peers 1.2.3.4:6881 and 5.6.7.8:6882.
const COMPACT: &[u8] = b"d8:completei7e10:incompletei3e8:intervali1800e\
    5:peers12:\x01\x02\x03\x04\x1a\xe1\x05\x06\x07\x08\x1a\xe2e";

fn compact_peers() -> Vec<SocketAddr> {
    vec!["1.2.3.4:6881".parse().unwrap(), "5.6.7.8:6882".parse().unwrap()]
}
