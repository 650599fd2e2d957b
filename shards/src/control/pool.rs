//! Connections to HTTP trackers that are kept for the next request.
//!
//! Owner: one [`Pool`] per [`super::TrackerClient`]. Called by `http`. Invariants: at most [`IDLE_MAX`] connections idle,
//! none for longer than about [`LIFE`]; a connection serves one request at a time; what is dropped is closed, whatever its
//! other end does.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ccbt_protocol::tracker::udp::AddressFamily;
use glommio::Task;
use http_body_util::Empty;
use hyper::client::conn::http1::{Builder, SendRequest};
use url::{Position, Url};

use super::error::TrackerError;
use super::socket::{Duplex, HyperIo};

/// How long a connection is kept for the next request; many servers keep it for longer.
const LIFE: Duration = Duration::from_secs(15);
/// Connections that idle.
const IDLE_MAX: usize = 64;
/// Largest head of an answer in bytes.
const HEAD_MAX: usize = 64 * 1024;

/// A connection on which no request is under way.
pub(super) struct Connection {
    pub sender: SendRequest<Empty<Bytes>>,
    /// Where it leads; with a proxy that looks names up, unknown.
    pub address: Option<IpAddr>,
    /// Bytes read for the request under way.
    read: Rc<Cell<usize>>,
    /// Moves the bytes; ends with this.
    _driver: Task<()>,
}

impl Connection {
    /// HTTP/1.1 over `stream`.
    pub async fn new(stream: Box<dyn Duplex>, address: Option<IpAddr>) -> Result<Self, TrackerError> {
        let read = Rc::new(Cell::new(0));
        let (sender, connection) = Builder::new()
            .title_case_headers(true)
            .allow_obsolete_multiline_headers_in_responses(true)
            .max_buf_size(HEAD_MAX)
            .handshake(HyperIo::new(stream, read.clone()))
            .await
            .map_err(|error| TrackerError::lost(&error))?;
        // How it ends, the request learns by itself.
        let driver = glommio::spawn_local(async move { drop(connection.await) });
        Ok(Self { sender, address, read, _driver: driver })
    }
}

/// A server: scheme, host and port, and the family that its address had to be of.
type Server = (String, Option<AddressFamily>);

/// Idle connections.
#[derive(Default)]
pub(super) struct Pool {
    idle: RefCell<HashMap<Server, Vec<(Instant, Connection)>>>,
    sweeping: Cell<bool>,
}

impl Pool {
    /// A connection to the server of `url` that idles.
    pub fn take(&self, url: &Url, family: Option<AddressFamily>) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        let kept = idle.get_mut(&server(url, family))?;
        while let Some((since, connection)) = kept.pop() {
            if since.elapsed() < LIFE && connection.sender.is_ready() {
                connection.read.set(0);
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection to the server of `url`, whose answer has been read.
    pub fn put(self: &Rc<Self>, url: &Url, family: Option<AddressFamily>, connection: Connection) {
        let mut idle = self.idle.borrow_mut();
        if connection.sender.is_closed() || idle.values().map(Vec::len).sum::<usize>() >= IDLE_MAX {
            return;
        }
        idle.entry(server(url, family)).or_default().push((Instant::now(), connection));
        if !self.sweeping.replace(true) {
            let pool = Rc::downgrade(self);
            glommio::spawn_local(async move {
                loop {
                    glommio::timer::sleep(LIFE).await;
                    let Some(pool) = pool.upgrade() else { return };
                    if pool.sweep() {
                        return pool.sweeping.set(false);
                    }
                }
            })
            .detach();
        }
    }

    /// Number of connections that idle.
    pub fn len(&self) -> usize {
        self.idle.borrow().values().map(Vec::len).sum()
    }

    /// Closes what is old; whether nothing is left.
    fn sweep(&self) -> bool {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|_, kept| {
            kept.retain(|(since, connection)| since.elapsed() < LIFE && !connection.sender.is_closed());
            !kept.is_empty()
        });
        idle.is_empty()
    }
}

fn server(url: &Url, family: Option<AddressFamily>) -> Server {
    (url[..Position::AfterPort].to_owned(), family)
}
