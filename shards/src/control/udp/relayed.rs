//! UDP trackers through a SOCKS5 proxy: one association for all of them.
//!
//! Owner: [`super::Channels`]. The association begins with the first UDP tracker that is to be asked; when it ends, the
//! exchanges under way fail and the next one waits for another. Invariant: a packet is given to the exchange with its
//! transaction id only if it comes from the address that was asked, where that is known here.

use std::cell::{OnceCell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ccbt_protocol::proxy::ProxyKind;
use ccbt_protocol::proxy::datagram::{self, HEADER_LEN_MAX};
use ccbt_protocol::tracker::udp::{AddressFamily, transaction_of};
use futures_lite::{AsyncRead, future};
use glommio::Task;
use glommio::net::TcpStream;

use super::{JUNK_PAUSE, PACKET_MAX, Waiting};
use crate::association::{Association, Relay, State};
use crate::control::{TrackerClient, TrackerError};
use crate::executor;

/// How often an association is looked for that is being opened.
const LOOK: Duration = Duration::from_millis(50);

/// Who may answer an exchange.
#[derive(Clone, Copy)]
pub(super) enum Expected {
    Any,
    From(SocketAddr),
}

/// What all trackers' packets go by.
pub(super) struct Link {
    pub relay: Arc<Relay>,
    pub waiting: Waiting,
    _reader: Task<()>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Relayed {
    association: OnceCell<Association>,
    link: RefCell<Option<Rc<Link>>>,
}

impl Relayed {
    /// The link that [`Self::prepare`] has found; `None` without a proxy.
    pub fn link(&self) -> Option<Rc<Link>> {
        self.link.borrow().clone()
    }

    /// Waits until the proxy, if there is one, passes datagrams on. Errors: it never will.
    pub async fn prepare(&self, client: &TrackerClient) -> Result<(), TrackerError> {
        let Some(proxy) = &client.config.proxy else { return Ok(()) };
        if proxy.kind != ProxyKind::Socks5 {
            let reason = "an HTTP proxy passes no datagrams on".to_owned();
            return Err(TrackerError::NotThroughProxy { reason });
        }
        if self.association.get().is_none() {
            let bind = client.config.bind.clone();
            let association = Association::start(proxy.clone(), bind, "UDP trackers", || {});
            let association = association.map_err(|error| TrackerError::proxy(&error))?;
            let _ = self.association.set(association);
        }
        loop {
            match self.association.get().expect("set above").state() {
                State::Refused(reason) => return Err(TrackerError::NotThroughProxy { reason }),
                State::Up(relay) if !relay.is_over() => {
                    return self.attach(client, relay).map_err(|error| TrackerError::proxy(&error));
                }
                _ => glommio::timer::sleep(LOOK).await,
            }
        }
    }

    fn attach(&self, client: &TrackerClient, relay: Arc<Relay>) -> io::Result<()> {
        if self.link().is_some_and(|link| Arc::ptr_eq(&link.relay, &relay)) {
            return Ok(());
        }
        // Trackers gave their connection ids to another address.
        client.udp.clear();
        let stream = executor::stream(relay.socket().try_clone()?.into());
        let waiting = Waiting::default();
        let reader = glommio::spawn_local(read(stream, relay.clone(), waiting.clone()));
        *self.link.borrow_mut() = Some(Rc::new(Link { relay, waiting, _reader: reader }));
        Ok(())
    }
}

/// Hands packets out until the association ends, which is told to all.
async fn read(mut stream: TcpStream, relay: Arc<Relay>, waiting: Waiting) {
    let mut bytes = vec![0; HEADER_LEN_MAX + PACKET_MAX];
    loop {
        let received = future::poll_fn(|cx| Pin::new(&mut stream).poll_read(cx, &mut bytes)).await;
        if relay.is_over() {
            for (_, sender) in waiting.borrow().values() {
                let _ = sender.try_send(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            return;
        }
        let sent = received.ok().and_then(|len| deliver(&bytes[..len], &waiting));
        if sent.is_none() {
            // Others go first: a flood of such packets must not keep the thread busy.
            glommio::timer::sleep(JUNK_PAUSE).await;
        }
    }
}

/// `None`: nobody waits for it.
fn deliver(bytes: &[u8], waiting: &Waiting) -> Option<()> {
    let (from, packet) = datagram::unwrap(bytes)?;
    let waiting = waiting.borrow();
    let (expected, sender) = waiting.get(&transaction_of(packet)?)?;
    match (expected, from) {
        (Expected::From(addr), from)
            if from != Some(SocketAddr::new(addr.ip().to_canonical(), addr.port())) =>
        {
            None
        }
        _ => {
            let family = from.map(|from| AddressFamily::of(&from.ip()));
            sender.try_send(Ok((family, packet.to_vec()))).ok()
        }
    }
}
