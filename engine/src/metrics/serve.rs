//! The metrics over HTTP: one thread, a few connections, one path.
//!
//! Owner: [`crate::Session`]. Invariants: at most [`CONNECTIONS_MAX`] connections, each for one request and
//! [`DEADLINE`]; on loopback only requests that name this address are answered, so that no page in a browser of this
//! machine reads them under a name of its own (DNS rebinding).

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::body::Body;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time;

use super::Collector;

/// Connections at a time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 8;
/// For a request and its answer.
const DEADLINE: Duration = Duration::from_secs(10);
/// Bytes of a request's head at most.
const BUFFER_BYTES: usize = 16 << 10;
/// What Prometheus expects.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The running server; ends when it is dropped.
pub(crate) struct MetricsServer {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl MetricsServer {
    /// Listens on `address`.
    pub fn start(address: SocketAddr, collector: Collector) -> io::Result<Self> {
        let listener = StdTcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = watch::channel(false);
        let listener = {
            let _entered = runtime.enter();
            TcpListener::from_std(listener)?
        };
        let asked = Arc::new(Asked { collector, hosts: hosts(address) });
        let run = move || runtime.block_on(listen(listener, asked, stopped));
        let thread = std::thread::Builder::new().name("ccbt-metrics".to_owned()).spawn(run)?;
        Ok(Self { address, stop, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        // The thread may have ended.
        let _ = self.stop.send(true);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the metrics thread panicked");
        }
    }
}

struct Asked {
    collector: Collector,
    /// What `Host` may be; empty: anything.
    hosts: Vec<String>,
}

fn hosts(address: SocketAddr) -> Vec<String> {
    match address.ip().is_loopback() {
        true => vec![address.to_string(), format!("localhost:{}", address.port())],
        false => Vec::new(),
    }
}

async fn listen(listener: TcpListener, asked: Arc<Asked>, mut stop: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = stop.changed() => return,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => drop(connections.spawn(serve(stream, Arc::clone(&asked)))),
                // No descriptors: others may be closed.
                Err(_) => time::sleep(Duration::from_millis(100)).await,
            },
        }
    }
}

async fn serve(stream: TcpStream, asked: Arc<Asked>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = asked.answer(&request);
        async move { Ok::<_, Infallible>(response) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(DEADLINE);
    builder.max_buf_size(BUFFER_BYTES).keep_alive(false);
    // Whatever a client does wrong ends its connection only.
    let _ = time::timeout(DEADLINE, builder.serve_connection(TokioIo::new(stream), service)).await;
}

impl Asked {
    fn answer<B>(&self, request: &Request<B>) -> Response<Body> {
        let plain = |status: StatusCode, text: &'static str| {
            let mut response = Response::new(Body::from(text));
            *response.status_mut() = status;
            response
        };
        let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
        let is_ours = |host: &str| self.hosts.iter().any(|ours| ours.eq_ignore_ascii_case(host));
        if !self.hosts.is_empty() && !host.is_some_and(is_ours) {
            return plain(StatusCode::MISDIRECTED_REQUEST, "no other name is answered for (Host)\n");
        }
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/metrics") => {
                let mut response = Response::new(Body::from(self.collector.text()));
                response.headers_mut().insert(CONTENT_TYPE, TEXT.parse().expect("a header's value"));
                response
            }
            (_, "/metrics") => plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n"),
            _ => plain(StatusCode::NOT_FOUND, "the metrics are at /metrics\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Picture;
    use super::*;
    use std::io::{Read, Write};

    fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = std::net::TcpStream::connect(address).expect("connected");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("read");
        text
    }

    #[test]
    fn only_one_path_under_its_own_name_is_answered() {
        let collector = Collector::new(0, Picture::default);
        let server = MetricsServer::start(([127, 0, 0, 1], 0).into(), collector).expect("started");
        let address = server.address();
        let get =
            |path: &str, host: &str| ask(address, &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        let (own, name) = (address.to_string(), format!("localhost:{}", address.port()));
        for host in [&own, &name] {
            let text = get("/metrics", host);
            assert!(text.starts_with("HTTP/1.1 200") && text.contains("version=0.0.4"), "{text}");
            assert!(text.contains("\nccbt_connected_peers 0\n"), "{text}");
        }
        assert!(get("/", &own).starts_with("HTTP/1.1 404"));
        assert!(get("/metrics", "evil.example").starts_with("HTTP/1.1 421"));
        let post = format!("POST /metrics HTTP/1.1\r\nHost: {own}\r\nContent-Length: 0\r\n\r\n");
        assert!(ask(address, &post).starts_with("HTTP/1.1 405"));
        drop(server);
        assert!(std::net::TcpStream::connect(address).is_err(), "it ends when it is dropped");
    }
}
