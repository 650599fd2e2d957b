//! The HTTP server: a thread of its own that turns requests into calls of the daemon's thread.
//!
//! Role: listeners, connections and their bounds. What is answered is in [`routes`], who may ask in [`guard`]. Owner:
//! [`super::Daemon`]. Invariant: no client makes the daemon wait or grow: connections, heads and bodies are bounded, a
//! connection has [`DEADLINE`] to ask and take its answer, and one that reads events is cut off by
//! [`super::subscribers`] when it is slow.

mod guard;
mod routes;

use std::convert::Infallible;
use std::io;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::response::{IntoResponse, Response};
use crossbeam_channel::Sender;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time;

use super::core::Message;
use super::start::Tcp;
use guard::Guard;

/// Connections of each listener at a time; more wait to be accepted.
pub(super) const CONNECTIONS_MAX: usize = 64;
/// For the head of a request.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// For a request and its answer, and for what is left of a stream that has ended.
const DEADLINE: Duration = Duration::from_secs(60);
/// How often deadlines are looked at.
const TICK: Duration = Duration::from_secs(2);
/// Bytes of a request's head and of what is read ahead at most.
const BUFFER_BYTES: usize = 32 << 10;
/// For readers of events to hear that the daemon stops.
const FAREWELL: Duration = Duration::from_millis(500);

/// A stream of events: as long as it is there, its connection has no deadline.
#[derive(Debug, Default)]
pub(super) struct Streaming(Arc<AtomicUsize>);

impl Streaming {
    fn begin(streams: &Arc<AtomicUsize>) -> Self {
        streams.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(streams))
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        // A test's own has none to count.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1));
    }
}

/// The running server.
pub(super) struct Server {
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

impl Server {
    /// Serves `unix`, whose clients may do everything, and `tcp`, whose clients must show the token.
    pub fn start(unix: StdUnixListener, tcp: Option<Tcp>, tell: Sender<Message>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = watch::channel(false);
        unix.set_nonblocking(true)?;
        let entered = runtime.enter();
        let unix = UnixListener::from_std(unix)?;
        let tcp = tcp.map(|tcp| {
            tcp.listener.set_nonblocking(true)?;
            io::Result::Ok((TcpListener::from_std(tcp.listener)?, Guard::tcp(tcp.address, tcp.token)))
        });
        let tcp = tcp.transpose()?;
        drop(entered);
        let router = routes::router(tell);
        let run = move || {
            runtime.block_on(async move {
                let local = listen(unix, router.clone(), Arc::new(Guard::Trusted), stopped.clone());
                match tcp {
                    Some((tcp, guard)) => {
                        tokio::join!(local, listen(tcp, router, Arc::new(guard), stopped));
                    }
                    None => local.await,
                }
            });
        };
        let thread = std::thread::Builder::new().name("ccbt-http".to_owned()).spawn(run)?;
        Ok(Self { stop, thread })
    }

    /// Hears nobody any more, and ends.
    pub fn stop(self) {
        // The thread may have ended.
        let _ = self.stop.send(true);
        if self.thread.join().is_err() {
            tracing::error!("the HTTP thread panicked");
        }
    }
}

/// Something that accepts connections.
trait Listener {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    async fn next(&self) -> io::Result<Self::Stream>;
}

impl Listener for UnixListener {
    type Stream = tokio::net::UnixStream;
    async fn next(&self) -> io::Result<Self::Stream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

impl Listener for TcpListener {
    type Stream = tokio::net::TcpStream;
    async fn next(&self) -> io::Result<Self::Stream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

async fn listen(listener: impl Listener, router: Router, guard: Arc<Guard>, mut stop: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = stop.changed() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.next(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok(stream) => drop(connections.spawn(serve(stream, router.clone(), Arc::clone(&guard)))),
                // No descriptors: others may be closed.
                Err(_) => time::sleep(Duration::from_millis(100)).await,
            },
        }
    }
    let all = async { while connections.join_next().await.is_some() {} };
    // What is not done by then ends with the runtime.
    let _ = time::timeout(FAREWELL, all).await;
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, router: Router, guard: Arc<Guard>) {
    let streams = Arc::new(AtomicUsize::new(0));
    let (routed, counted) = (TowerToHyperService::new(router), Arc::clone(&streams));
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(Arc::clone(&counted));
        let allowed = guard.check(&request);
        let routed = routed.clone();
        async move {
            let response = match allowed {
                Err(error) => error.into_response(),
                Ok(()) => routed.call(request).await?,
            };
            Ok::<Response, Infallible>(response)
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_DEADLINE);
    builder.max_buf_size(BUFFER_BYTES).keep_alive(false);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut spent = Duration::ZERO;
    while spent < DEADLINE {
        tokio::select! {
            // Whatever a client does wrong ends its connection only.
            _ = &mut connection => return,
            () = time::sleep(TICK) => {
                spent = if streams.load(Ordering::Relaxed) > 0 { Duration::ZERO } else { spent + TICK };
            }
        }
    }
}
