//! An HTTP server that serves a folder, and misbehaves on request, in threads of the test.
//!
//! Owner: the test; dropped means stopped. Invariant: every request is in the list before its answer begins.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// How it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// As it should, with ranges.
    Ranges,
    /// The same, in chunks.
    Chunked,
    /// Whole files, whatever is asked for.
    Whole,
    /// The right length, wrong bytes.
    Wrong,
    /// The first half of each answer, and then the connection ends. Later requests are answered as they should be.
    TruncatedOnce,
    /// Another range than was asked for.
    WrongRange,
    /// A head that never ends, one byte at a time.
    Loris,
    /// To the same path below this URL.
    Redirect(String),
    /// This status, and `Retry-After: 1`, at first; later requests are answered as they should be.
    BusyOnce(u16),
    /// This status, always.
    Status(u16),
}

struct Shared {
    root: PathBuf,
    answer: Answer,
    requests: Mutex<Vec<String>>,
    connections: AtomicUsize,
    stop: AtomicBool,
}

/// A running server.
pub struct WebServer {
    shared: Arc<Shared>,
    addr: SocketAddr,
}

impl WebServer {
    /// Serves what is below `root` at a free port of 127.0.0.1.
    pub fn start(root: &Path, answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            root: root.to_owned(),
            answer,
            requests: Mutex::default(),
            connections: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        });
        let of_thread = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if of_thread.stop.load(Ordering::Relaxed) {
                    return;
                }
                of_thread.connections.fetch_add(1, Ordering::Relaxed);
                let shared = Arc::clone(&of_thread);
                thread::spawn(move || shared.serve(stream));
            }
        });
        Self { shared, addr }
    }

    /// Its URL, a folder.
    pub fn url(&self) -> String {
        format!("http://{}/", self.addr)
    }

    /// Paths that were asked for, each as often as it was, as they came.
    pub fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().expect("no holder panics").clone()
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.addr));
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) {
        let mut out = stream.try_clone().expect("a descriptor");
        let mut lines = BufReader::new(stream).lines();
        loop {
            let head: Vec<String> =
                lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
            if head.is_empty() || self.stop.load(Ordering::Relaxed) || self.answer(&head, &mut out).is_none()
            {
                return;
            }
        }
    }

    /// `None`: the connection ends.
    fn answer(&self, head: &[String], out: &mut TcpStream) -> Option<()> {
        let path = head[0].split(' ').nth(1)?.to_owned();
        assert!(head.iter().any(|field| field == "Accept-Encoding: identity"), "{head:?}");
        let first = {
            let mut requests = self.requests.lock().expect("no holder panics");
            requests.push(path.clone());
            requests.len() == 1
        };
        let send = |out: &mut TcpStream, bytes: &[u8]| out.write_all(bytes).ok();
        match &self.answer {
            Answer::Redirect(to) => {
                let to = format!("{}{}", to.trim_end_matches('/'), path);
                return send(
                    out,
                    format!("HTTP/1.1 302 x\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n").as_bytes(),
                );
            }
            Answer::Status(status) => {
                return send(out, format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n").as_bytes());
            }
            Answer::BusyOnce(status) if first => {
                let head = format!("HTTP/1.1 {status} x\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n");
                return send(out, head.as_bytes());
            }
            Answer::Loris => {
                // A good head as far as it comes.
                send(out, b"HTTP/1.1 206 x\r\nX: ")?;
                loop {
                    send(out, b"x")?;
                    thread::sleep(Duration::from_millis(200));
                }
            }
            _ => {}
        }
        let Ok(mut file) = fs::read(self.root.join(decoded(path.trim_start_matches('/')))) else {
            return send(out, b"HTTP/1.1 404 x\r\nContent-Length: 0\r\n\r\n");
        };
        if self.answer == Answer::Wrong {
            file.iter_mut().for_each(|byte| *byte ^= 1);
        }
        let range =
            head.iter().find_map(|field| field.strip_prefix("Range: bytes=")).expect("a range is asked for");
        let (start, last) = range.split_once('-').expect("a range");
        let (start, last): (usize, usize) =
            (start.parse().expect("a number"), last.parse().expect("a number"));
        let total = file.len();
        if self.answer == Answer::Whole {
            send(out, format!("HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n\r\n").as_bytes())?;
            return send(out, &file);
        }
        let told = if self.answer == Answer::WrongRange { start + 1 } else { start };
        let data = &file[start..=last];
        let head = format!("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {told}-{last}/{total}\r\n");
        match self.answer {
            Answer::Chunked => {
                send(out, format!("{head}Transfer-Encoding: chunked\r\n\r\n").as_bytes())?;
                for chunk in data.chunks(10_007) {
                    send(out, format!("{:x}\r\n", chunk.len()).as_bytes())?;
                    send(out, chunk)?;
                    send(out, b"\r\n")?;
                }
                send(out, b"0\r\n\r\n")
            }
            _ => {
                send(out, format!("{head}Content-Length: {}\r\n\r\n", data.len()).as_bytes())?;
                if self.answer == Answer::TruncatedOnce && first {
                    send(out, &data[..data.len() / 2])?;
                    return None;
                }
                send(out, data)
            }
        }
    }
}

fn decoded(path: &str) -> String {
    let bytes = path.as_bytes();
    let (mut at, mut plain) = (0, Vec::new());
    while at < bytes.len() {
        let code =
            (bytes[at] == b'%').then(|| u8::from_str_radix(path.get(at + 1..at + 3)?, 16).ok()).flatten();
        plain.push(code.unwrap_or(bytes[at]));
        at += if code.is_some() { 3 } else { 1 };
    }
    String::from_utf8(plain).expect("names of the test are text")
}
