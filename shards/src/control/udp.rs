//! Announces over UDP (BEP 15 with the URL data of BEP 41).
//!
//! Called by [`TrackerClient::announce`]. Each exchange has a connected socket of its own, so the kernel
//! drops packets of any other source; the rest is [`Exchange`]'s decision. Connection ids are remembered per
//! tracker address with the port they were given to, since some trackers take them from that port only.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::{Duration, Instant};

use ccbt_protocol::tracker::udp::{AddressFamily, Connection, Exchange, Outcome, Query, RetryPlan, url_data};
use ccbt_protocol::tracker::{AnnounceRequest, AnnounceResponse, Event};
use futures_lite::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;

use super::error::TrackerError;
use super::socket::{connect_udp, within};
use super::{Target, TrackerClient};
use crate::binding::Binding;

/// Connection ids remembered; each is of use for a minute.
const CONNECTIONS_MAX: usize = 512;
/// Longest packet read; the rest of a longer one is dropped. A full Ethernet frame holds 240 IPv4 peers.
const PACKET_MAX: usize = 16 * 1024;
/// Pause after a packet that is no answer; the kernel drops what comes meanwhile beyond its buffer.
const JUNK_PAUSE: Duration = Duration::from_millis(1);
/// Addresses asked: the first of each family, since silence costs a whole schedule.
const ADDRESSES_MAX: usize = 2;

/// A tracker's address, and where we are bound to when we ask it: an id is of use from the address that it was given to.
type Place = (SocketAddr, Option<Binding>);

/// Connection ids of trackers.
#[derive(Default)]
pub(super) struct Connections {
    known: RefCell<HashMap<Place, Known>>,
}

/// A connection id, and our port that it was given to.
#[derive(Clone, Copy)]
struct Known {
    connection: Connection,
    port: u16,
}

impl Connections {
    fn get(&self, place: &Place, now: Instant) -> Option<Known> {
        self.known.borrow().get(place).copied().filter(|known| known.connection.is_fresh(now))
    }

    fn set(&self, place: Place, connection: Option<Known>, now: Instant) {
        let mut known = self.known.borrow_mut();
        let Some(connection) = connection else {
            known.remove(&place);
            return;
        };
        if known.len() >= CONNECTIONS_MAX {
            known.retain(|_, known| known.connection.is_fresh(now));
        }
        if known.len() < CONNECTIONS_MAX || known.contains_key(&place) {
            known.insert(place, connection);
        }
    }
}

impl TrackerClient {
    pub(super) async fn announce_udp(
        &self,
        bind: Option<&Binding>,
        url: &str,
        target: &Target,
        request: &AnnounceRequest,
    ) -> Result<AnnounceResponse, TrackerError> {
        // Packets have their schedule; the look-up before them has HTTP's limit.
        let after = self.config.http_timeout;
        let look_up = self.resolver.addresses(&target.url, target.port, bind);
        let mut addresses = within(after, look_up).await.unwrap_or(Err(TrackerError::TimedOut { after }))?;
        addresses.truncate(ADDRESSES_MAX);
        // One that answered a moment ago is likely to do so again.
        addresses.sort_by_key(|address| self.udp.get(&(*address, bind.cloned()), Instant::now()).is_none());
        let started = Instant::now();
        let mut failure = None;
        for (index, address) in addresses.iter().enumerate() {
            let plan = self.plan(request.event, index + 1 == addresses.len());
            match self.exchange(bind, url, *address, plan, request).await {
                Ok(Outcome::Announced(response)) => return Ok(response),
                Ok(Outcome::Refused(refusal)) => return Err(TrackerError::Refused(refusal)),
                Ok(Outcome::TimedOut) => {
                    let after = Duration::from_millis(started.elapsed().as_millis() as u64);
                    failure = Some(TrackerError::TimedOut { after });
                }
                Ok(Outcome::Scraped(_)) => unreachable!("an announce's exchange takes no scrape"),
                Err(error) => failure = Some(TrackerError::connect(target.host(), &error)),
            }
        }
        Err(failure.expect("there is at least one address, and each either answers or fails"))
    }

    /// A `stopped` has little time, so its packets follow each other faster; an address that is not the last
    /// one may be of a family without a route, so it gets one packet.
    fn plan(&self, event: Event, is_last: bool) -> RetryPlan {
        let mut plan = self.config.udp_retry;
        plan.tries_max = if is_last { plan.tries_max.max(1) } else { 1 };
        if event == Event::Stopped {
            plan.base = plan.base.min(self.config.stop_timeout / 4);
        }
        plan
    }

    async fn exchange(
        &self,
        bind: Option<&Binding>,
        url: &str,
        tracker: SocketAddr,
        plan: RetryPlan,
        request: &AnnounceRequest,
    ) -> io::Result<Outcome> {
        let now = Instant::now();
        let place = (tracker, bind.cloned());
        let known = self.udp.get(&place, now);
        // The port may be taken, by another announce to the same tracker above all: then everything is new.
        let again = known.and_then(|known| Some((connect_udp(tracker, bind, known.port).ok()?, known)));
        let (mut socket, cached) = match again {
            Some((socket, known)) => (socket, Some(known.connection)),
            None => (connect_udp(tracker, bind, 0)?, None),
        };
        let port = socket.local_addr()?.port();
        let query = Query::Announce(Box::new(request.clone()), url_data(url).to_vec());
        let family = AddressFamily::of(&tracker.ip());
        let mut exchange = Exchange::new(plan, family, rand::random(), query, cached, now);
        let mut packet = vec![0; PACKET_MAX];
        loop {
            if let Some(request) = exchange.poll_transmit(Instant::now()) {
                send(&mut socket, &request).await?;
            }
            let Some(deadline) = exchange.deadline() else { break };
            let wait = deadline.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                continue;
            }
            let Some(len) = within(wait, receive(&mut socket, &mut packet)).await else { continue };
            if !exchange.handle_packet(Instant::now(), &packet[..len?]) {
                // Others go first: a flood of such packets must not keep the shard busy.
                glommio::timer::sleep(JUNK_PAUSE).await;
            }
        }
        let connection = exchange.connection().map(|connection| Known { connection, port });
        self.udp.set(place, connection, Instant::now());
        Ok(exchange.outcome().expect("an exchange without a deadline has ended").clone())
    }
}

async fn send(socket: &mut TcpStream, packet: &[u8]) -> io::Result<()> {
    poll_fn(|cx| Pin::new(&mut *socket).poll_write(cx, packet)).await.map(drop)
}

async fn receive(socket: &mut TcpStream, packet: &mut [u8]) -> io::Result<usize> {
    poll_fn(|cx| Pin::new(&mut *socket).poll_read(cx, packet)).await
}
