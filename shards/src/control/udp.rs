//! Announces and scrapes over UDP (BEP 15 with the URL data of BEP 41).
//!
//! Called by [`TrackerClient::announce`] and [`TrackerClient::scrape`]. Each tracker address has one connected socket (so
//! the kernel drops packets of any other source) and one connection id, which all exchanges use for its minute; a task
//! gives each packet to the exchange with its transaction id, and the rest is [`Exchange`]'s decision. Through a SOCKS5
//! proxy all share the association's socket ([`relayed`]). Invariants: one exchange at a time asks for a connection id; at
//! most [`CHANNELS_MAX`] sockets are kept; with a proxy nothing is sent but through it.

mod relayed;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::UdpSocket;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ccbt_protocol::proxy::Target as To;
use ccbt_protocol::tracker::udp::{
    AddressFamily, CONNECTION_LIFE, Connection, Exchange, Outcome, Query, RetryPlan, ScrapeEntry,
    transaction_of, url_data,
};
use ccbt_protocol::tracker::{AnnounceRequest, AnnounceResponse, Event};
use futures_lite::{AsyncRead, future};
use glommio::Task;
use glommio::channels::local_channel::{LocalReceiver, LocalSender, new_bounded};
use glommio::net::TcpStream;
use glommio::sync::Semaphore;
use url::Host;

use super::error::TrackerError;
use super::socket::{connect_udp, within};
use super::{Target, TrackerClient};
use crate::association::Relay;
use relayed::{Expected, Relayed};

/// Sockets kept; each is of use for a minute.
const CHANNELS_MAX: usize = 256;
/// Longest packet read; the rest of a longer one is dropped. A full Ethernet frame holds 240 IPv4 peers.
const PACKET_MAX: usize = 16 * 1024;
/// Packets that wait for one exchange: it awaits one at a time, and what is repeated may be answered twice.
const PACKETS_MAX: usize = 4;
/// Pause after a packet that is no answer; the kernel drops what comes meanwhile beyond its buffer.
const JUNK_PAUSE: Duration = Duration::from_millis(1);
/// Addresses asked: the first of each family, since silence costs a whole schedule.
const ADDRESSES_MAX: usize = 2;

/// Sockets of UDP trackers by where they are.
#[derive(Default)]
pub(super) struct Channels {
    open: RefCell<HashMap<To, Rc<Channel>>>,
    /// The proxy's association, once it was needed.
    relayed: Relayed,
}

/// A packet of a tracker, and the family of its address, where that tells something new.
type Packet = (Option<AddressFamily>, Vec<u8>);

/// Exchanges by transaction id: where their packets go, or the socket's error; and who may send them, where the socket
/// takes those of others, too.
type Waiting = Rc<RefCell<HashMap<u32, (Expected, LocalSender<io::Result<Packet>>)>>>;

/// How packets get to a tracker.
enum Way {
    Direct(UdpSocket),
    Proxy(Arc<Relay>),
}

/// One tracker address.
struct Channel {
    to: To,
    way: Way,
    waiting: Waiting,
    connection: Cell<Option<Connection>>,
    /// Held by the exchange that asks for a connection id.
    connecting: Semaphore,
    used: Cell<Instant>,
    /// Reads the socket, if it is this one's own; ends with this.
    _reader: Option<Task<()>>,
}

impl Channel {
    fn fresh(&self) -> Option<Connection> {
        self.connection.get().filter(|connection| connection.is_fresh(Instant::now()))
    }

    fn send(&self, packet: &[u8]) -> io::Result<()> {
        match &self.way {
            Way::Direct(socket) => socket.send(packet).map(drop),
            Way::Proxy(relay) => relay.send(&self.to, packet),
        }
    }

    /// Of the packets; of a name it is not known before the first.
    fn family(&self) -> AddressFamily {
        match &self.to {
            To::Addr(addr) => AddressFamily::of(&addr.ip()),
            To::Name(..) => AddressFamily::V4,
        }
    }
}

/// An exchange's place in the list, given up when it ends in whatever way.
struct Place<'a> {
    channel: &'a Channel,
    transaction: u32,
    packets: LocalReceiver<io::Result<Packet>>,
}

impl<'a> Place<'a> {
    fn new(channel: &'a Channel) -> Self {
        let (sender, packets) = new_bounded(PACKETS_MAX);
        let mut waiting = channel.waiting.borrow_mut();
        let mut transaction = rand::random();
        while waiting.contains_key(&transaction) {
            transaction = rand::random();
        }
        let expected = match (&channel.way, &channel.to) {
            (Way::Proxy(_), To::Addr(addr)) => Expected::From(*addr),
            // The kernel has seen to it, or only the proxy knows.
            _ => Expected::Any,
        };
        waiting.insert(transaction, (expected, sender));
        Self { channel, transaction, packets }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.channel.waiting.borrow_mut().remove(&self.transaction);
    }
}

impl Channels {
    fn get(&self, client: &TrackerClient, tracker: &To) -> io::Result<Rc<Channel>> {
        let mut open = self.open.borrow_mut();
        if let Some(channel) = open.get(tracker) {
            channel.used.set(Instant::now());
            return Ok(channel.clone());
        }
        if open.len() >= CHANNELS_MAX {
            open.retain(|_, channel| Rc::strong_count(channel) > 1);
        }
        let (way, waiting, reader) = match (tracker, self.relayed.link()) {
            (_, Some(link)) => (Way::Proxy(link.relay.clone()), link.waiting.clone(), None),
            (To::Addr(addr), None) if client.config.proxy.is_none() => {
                let (socket, stream) = connect_udp(*addr, client.config.bind.as_ref())?;
                let waiting = Waiting::default();
                let reader = glommio::spawn_local(read(stream, waiting.clone()));
                (Way::Direct(socket), waiting, Some(reader))
            }
            _ => return Err(io::ErrorKind::NotConnected.into()),
        };
        let channel = Rc::new(Channel {
            to: tracker.clone(),
            way,
            waiting,
            connection: Cell::new(None),
            connecting: Semaphore::new(1),
            used: Cell::new(Instant::now()),
            _reader: reader,
        });
        open.insert(tracker.clone(), channel.clone());
        Ok(channel)
    }

    fn is_fresh(&self, tracker: &To) -> bool {
        self.open.borrow().get(tracker).is_some_and(|channel| channel.fresh().is_some())
    }

    /// Closes what nobody has used for as long as a connection id lives.
    fn sweep(&self) {
        self.open.borrow_mut().retain(|_, channel| {
            Rc::strong_count(channel) > 1 || channel.used.get().elapsed() < CONNECTION_LIFE
        });
    }

    /// A socket that failed is of no more use.
    fn close(&self, tracker: &To) {
        self.open.borrow_mut().remove(tracker);
    }

    /// Forgets all: they were of an association that has ended.
    fn clear(&self) {
        self.open.borrow_mut().clear();
    }

    /// Number of sockets.
    pub fn len(&self) -> usize {
        self.open.borrow().len()
    }
}

/// Hands packets out until the channel ends.
async fn read(mut stream: TcpStream, waiting: Waiting) {
    let mut packet = vec![0; PACKET_MAX];
    loop {
        let received = future::poll_fn(|cx| Pin::new(&mut stream).poll_read(cx, &mut packet)).await;
        let sent = match received {
            Ok(len) => {
                let transaction = transaction_of(&packet[..len]);
                let waiting = waiting.borrow();
                let sender = transaction.and_then(|transaction| waiting.get(&transaction));
                sender.is_some_and(|(_, sender)| sender.try_send(Ok((None, packet[..len].to_vec()))).is_ok())
            }
            Err(error) => {
                // What an earlier packet met with (nobody listens there): all hear of it.
                for (_, sender) in waiting.borrow().values() {
                    let _ = sender.try_send(Err(error.kind().into()));
                }
                false
            }
        };
        if !sent {
            // Others go first: a flood of such packets must not keep the thread busy.
            glommio::timer::sleep(JUNK_PAUSE).await;
        }
    }
}

impl TrackerClient {
    pub(super) async fn announce_udp(
        &self,
        url: &str,
        target: &Target,
        request: &AnnounceRequest,
    ) -> Result<AnnounceResponse, TrackerError> {
        let query = Query::Announce(Box::new(request.clone()), url_data(url).to_vec());
        match self.ask_udp(target, query, request.event == Event::Stopped).await? {
            Outcome::Announced(response) => Ok(response),
            _ => unreachable!("an announce's exchange takes announces"),
        }
    }

    /// A scrape of as many hashes as one packet takes.
    pub(super) async fn scrape_udp(
        &self,
        target: &Target,
        hashes: &[ccbt_protocol::ids::InfoHash],
    ) -> Result<Vec<ScrapeEntry>, TrackerError> {
        match self.ask_udp(target, Query::Scrape(hashes.to_vec()), false).await? {
            Outcome::Scraped(entries) => Ok(entries),
            _ => unreachable!("a scrape's exchange takes scrapes"),
        }
    }

    /// Asks the tracker's addresses in turn. `Ok` is what was asked for.
    async fn ask_udp(&self, target: &Target, query: Query, is_brief: bool) -> Result<Outcome, TrackerError> {
        self.udp.sweep();
        // Packets have their schedule; what comes before them has HTTP's limit.
        let after = self.config.http_timeout;
        let prepare = async {
            self.udp.relayed.prepare(self).await?;
            self.places(target).await
        };
        let mut addresses = within(after, prepare).await.unwrap_or(Err(TrackerError::TimedOut { after }))?;
        addresses.truncate(ADDRESSES_MAX);
        // One that answered a moment ago is likely to do so again.
        addresses.sort_by_key(|address| !self.udp.is_fresh(address));
        let started = Instant::now();
        // Where a family has no address any more.
        let mut failure = addresses
            .is_empty()
            .then(|| TrackerError::WrongFamily { host: super::error::shown(target.host()) });
        for (index, address) in addresses.iter().enumerate() {
            let plan = self.plan(is_brief, index + 1 == addresses.len());
            match self.exchange_udp(address, plan, query.clone()).await {
                Ok(Outcome::Refused(refusal)) => return Err(TrackerError::Refused(refusal)),
                Ok(Outcome::TimedOut) => {
                    let after = Duration::from_millis(started.elapsed().as_millis() as u64);
                    failure = Some(TrackerError::TimedOut { after });
                }
                Ok(answer) => return Ok(answer),
                Err(error) if self.config.proxy.is_some() => failure = Some(TrackerError::proxy(&error)),
                Err(error) => failure = Some(TrackerError::connect(target.host(), &error)),
            }
        }
        Err(failure.expect("there is at least one address, and each either answers or fails"))
    }

    /// A `stopped` has little time, so its packets follow each other faster; an address that is not the last
    /// one may be of a family without a route, so it gets one packet.
    fn plan(&self, is_brief: bool, is_last: bool) -> RetryPlan {
        let mut plan = self.config.udp_retry;
        plan.tries_max = if is_last { plan.tries_max.max(1) } else { 1 };
        if is_brief {
            plan.base = plan.base.min(self.config.stop_timeout / 4);
        }
        plan
    }

    /// Where the tracker is; a name only for a proxy that looks it up.
    async fn places(&self, target: &Target) -> Result<Vec<To>, TrackerError> {
        let proxy = self.config.proxy.as_ref();
        if let (Some(Host::Domain(name)), true) =
            (target.url.host(), proxy.is_some_and(|proxy| proxy.hostnames))
        {
            return Ok(vec![To::Name(name.to_owned(), target.port)]);
        }
        // Where a proxy leads from, it knows best.
        let bind = self.config.bind.as_ref().filter(|_| proxy.is_none());
        let addresses = self.resolver.addresses(&target.url, target.port, bind).await?;
        let mut places: Vec<To> =
            addresses.into_iter().filter(|addr| target.admits(&addr.ip())).map(To::Addr).collect();
        if target.family.is_some() {
            // The other family has the same time.
            places.truncate(1);
        }
        Ok(places)
    }

    async fn exchange_udp(&self, tracker: &To, plan: RetryPlan, query: Query) -> io::Result<Outcome> {
        let channel = self.udp.get(self, tracker)?;
        let place = Place::new(&channel);
        let result = drive(&channel, &place, plan, query).await;
        if result.is_err() {
            self.udp.close(tracker);
        }
        result
    }
}

/// One exchange over `channel`.
async fn drive(channel: &Channel, place: &Place<'_>, plan: RetryPlan, query: Query) -> io::Result<Outcome> {
    // Whoever finds no id waits here for the one who asks for it, but not for a tracker that does not answer.
    let mut gate = match channel.fresh() {
        Some(_) => None,
        None => within(plan.base, channel.connecting.acquire_permit(1)).await.and_then(Result::ok),
    };
    let cached = channel.fresh();
    if cached.is_some() {
        gate = None;
    }
    let mut exchange =
        Exchange::new(plan, channel.family(), place.transaction, query, cached, Instant::now());
    loop {
        if let Some(request) = exchange.poll_transmit(Instant::now()) {
            match channel.send(&request) {
                // The kernel has no room: the packet is as good as lost, and repeated.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => drop(sent?),
            }
        }
        let Some(deadline) = exchange.deadline() else { break };
        let wait = deadline.saturating_duration_since(Instant::now());
        if wait.is_zero() {
            continue;
        }
        let Some(packet) = within(wait, place.packets.recv()).await else { continue };
        let Some(packet) = packet else { return Err(io::ErrorKind::BrokenPipe.into()) };
        let (family, packet) = packet?;
        if let Some(family) = family {
            exchange.set_family(family);
        }
        if !exchange.handle_packet(Instant::now(), &packet) {
            glommio::timer::sleep(JUNK_PAUSE).await;
        }
        if let Some(connection) = exchange.connection() {
            gate = None;
            if channel.connection.get().is_none_or(|known| known.received < connection.received) {
                channel.connection.set(Some(connection));
            }
        }
    }
    drop(gate);
    if exchange.connection().is_none() && channel.connection.get() == cached {
        // It was found out to be of no use.
        channel.connection.set(None);
    }
    Ok(exchange.outcome().expect("an exchange without a deadline has ended").clone())
}
