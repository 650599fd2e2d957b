//! A file of a torrent over HTTP while it is fetched, for players such as mpv and VLC.
//!
//! Role: one file, read only, with byte ranges (RFC 9110 section 14). Owner: whoever started it; it has a thread of its own,
//! `ccbt-http`, with a runtime that nothing else uses, and one more for each answer that is being read. Invariants: at most
//! [`CONNECTIONS_MAX`] connections, of which each holds 256 KiB at most beyond what the kernel holds; a client that stops
//! reading holds up nobody else.
//!
//! Pages in a browser are kept out: an address in a Host header must be a number or `localhost`, so no name that somebody
//! points here (DNS rebinding) is served, and there are no CORS headers.

mod answer;
mod range;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};

use crate::TorrentHandle;
use answer::Served;

/// Connections at a time; others wait to be accepted.
pub const CONNECTIONS_MAX: usize = 32;
/// A connection without a request ends after this.
const IDLE: Duration = Duration::from_secs(30);
/// After an error of accept, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A server of one file. Dropping it ends it.
#[derive(Debug)]
pub struct StreamServer {
    addr: SocketAddr,
    url: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl StreamServer {
    /// Serves the file with this index at `listen`; port 0: the system chooses. Errors: there is no such file
    /// ([`io::ErrorKind::NotFound`]), or the address is taken.
    pub fn start(torrent: TorrentHandle, file: usize, listen: SocketAddr) -> io::Result<Self> {
        let served = Served::new(torrent, file).ok_or(io::ErrorKind::NotFound)?;
        let listener = std::net::TcpListener::bind(listen)?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let url = format!("http://{addr}/{}", served.encoded_name());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(CONNECTIONS_MAX)
            .thread_name("ccbt-http-read")
            .build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let main = move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, Arc::new(served)) => {}
                    _ = stopped => {}
                }
            });
            // Those that wait for a piece notice within a moment that nobody listens any more.
            runtime.shutdown_timeout(Duration::from_secs(2));
        };
        let thread = std::thread::Builder::new().name("ccbt-http".to_owned()).spawn(main)?;
        Ok(Self { addr, url, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What to give to a player.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for StreamServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the HTTP thread panicked");
        }
    }
}

async fn serve(listener: std::net::TcpListener, served: Arc<Served>) {
    let listener = TcpListener::from_std(listener).expect("it is non-blocking");
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("never closed");
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let served = Arc::clone(&served);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let served = Arc::clone(&served);
                async move { Ok::<_, Infallible>(served.answer(&request)) }
            });
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(IDLE);
            if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
                // Players hang up in the middle all the time.
                tracing::debug!(%error, "an HTTP connection ended");
            }
            drop(place);
        });
    }
}
