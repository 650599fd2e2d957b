//! Announces by IPv4 and by IPv6, where a tracker has both (BEP 7).
//!
//! Called by [`TrackerClient::announce`]. A tracker knows a peer by the address that its announce comes from, so one that
//! is reached by one family alone tells peers of the other family nothing of us. As in libtorrent there is an announce for
//! each; the tracker thread counts both as one request. Where there is only one, our public address of the other family is
//! told with it, if the tracker is one of the Internet. Invariants: through a proxy neither is done; a family that does not answer costs [`GRACE`], and is left
//! alone for [`SILENCE`].

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::time::{Duration, Instant};

use ccbt_protocol::tracker::udp::AddressFamily;
use ccbt_protocol::tracker::{AnnounceRequest, AnnounceResponse, Event};
use futures_lite::future;
use socket2::{Protocol, Type};

use super::address::is_public;
use super::error::TrackerError;
use super::socket::within;
use super::{Target, TrackerClient};
use crate::binding::{Binding, socket_to};

/// Time for the answer by the second family after that by the first.
const GRACE: Duration = Duration::from_secs(3);
/// As [`GRACE`], when we leave.
const STOP_GRACE: Duration = Duration::from_millis(300);
/// How long a family is left alone that did not answer while the other one did.
const SILENCE: Duration = Duration::from_secs(600);
/// Hosts with such a family that are remembered; then all are forgotten.
const SILENT_MAX: usize = 512;

/// Families of hosts that did not answer, and when.
#[derive(Default)]
pub(super) struct Silent(RefCell<HashMap<(String, AddressFamily), Instant>>);

impl Silent {
    fn remember(&self, host: &str, family: AddressFamily) {
        let mut hosts = self.0.borrow_mut();
        if hosts.len() >= SILENT_MAX {
            hosts.clear();
        }
        hosts.insert((host.to_owned(), family), Instant::now());
    }

    fn holds(&self, host: &str, family: AddressFamily) -> bool {
        let hosts = self.0.borrow();
        hosts.get(&(host.to_owned(), family)).is_some_and(|since| since.elapsed() < SILENCE)
    }

    fn forget(&self, host: &str) {
        self.0.borrow_mut().retain(|(of, _), _| of != host);
    }
}

type Answer = Result<AnnounceResponse, TrackerError>;

/// How a tracker can be reached.
#[derive(Default)]
struct Ways {
    /// The one that the system prefers first.
    families: Vec<AddressFamily>,
    /// Its first address is one of the Internet.
    is_public: bool,
}

impl TrackerClient {
    /// One announce, or two.
    pub(super) async fn announce_by_families(
        &self,
        url: &str,
        target: &Target,
        request: &AnnounceRequest,
    ) -> Answer {
        let Ways { families, is_public } = self.ways(target).await;
        let speaks = |family: &&AddressFamily| !self.silent.holds(target.host(), **family);
        let (first, second) = match *families.iter().filter(speaks).collect::<Vec<_>>() {
            [first, second, ..] => (*first, *second),
            [only] if families.len() > 1 => {
                let answer = self.announce_once(url, &target.by(*only), request).await;
                if answer.is_err() {
                    self.silent.forget(target.host());
                }
                return answer;
            }
            [only] => {
                let other_ip = own_address(*only, self.config.bind.as_ref()).filter(|_| is_public);
                let request = AnnounceRequest { other_ip, ..request.clone() };
                return self.announce_once(url, target, &request).await;
            }
            [] => return self.announce_once(url, target, request).await,
        };
        let grace = if request.event == Event::Stopped { STOP_GRACE } else { GRACE };
        let (one, two) = (target.by(first), target.by(second));
        let (one, two) = (self.announce_once(url, &one, request), self.announce_once(url, &two, request));
        let results = both(pin!(one), pin!(two), grace).await;
        for (result, family) in results.iter().zip([first, second]) {
            // A refusal is an answer; one that is given up, or an error, is not.
            let answered = matches!(result, Some(Ok(_) | Err(TrackerError::Refused(_))));
            if !answered && results.iter().flatten().any(Result::is_ok) {
                self.silent.remember(target.host(), family);
            }
        }
        combined(results)
    }

    /// Families that the tracker has, and we too. None through a proxy, or when its name has no address now: what is
    /// wrong, the announce itself tells.
    async fn ways(&self, target: &Target) -> Ways {
        if self.config.proxy.is_some() {
            return Ways::default();
        }
        let look_up = self.resolver.addresses(&target.url, target.port, self.config.bind.as_ref());
        let found = within(self.config.http_timeout, look_up).await.and_then(Result::ok).unwrap_or_default();
        let mut families: Vec<AddressFamily> = Vec::new();
        for family in found.iter().map(|addr| AddressFamily::of(&addr.ip())) {
            if !families.contains(&family) {
                families.push(family);
            }
        }
        Ways { families, is_public: found.first().is_some_and(|addr| is_public(addr.ip())) }
    }
}

/// What both give, or `None` of one that does not within `grace` of the other's success.
async fn both(
    mut one: Pin<&mut impl Future<Output = Answer>>,
    mut two: Pin<&mut impl Future<Output = Answer>>,
    grace: Duration,
) -> [Option<Answer>; 2] {
    let (first, is_one) = {
        let one = async { (one.as_mut().await, true) };
        let two = async { (two.as_mut().await, false) };
        future::or(one, two).await
    };
    let other = async { if is_one { two.await } else { one.await } };
    let second = if first.is_ok() { within(grace, other).await } else { Some(other.await) };
    if is_one { [Some(first), second] } else { [second, Some(first)] }
}

/// The answers as one; where there is none, the error that came furthest.
fn combined(results: [Option<Answer>; 2]) -> Answer {
    let mut whole: Option<Answer> = None;
    for result in results.into_iter().flatten() {
        whole = Some(match (whole, result) {
            (None, result) => result,
            (Some(Ok(mut one)), Ok(other)) => {
                one.merge(other);
                Ok(one)
            }
            (Some(Ok(one)), Err(_)) => Ok(one),
            (Some(Err(_)), Ok(other)) => Ok(other),
            (Some(Err(TrackerError::Connect { .. })), Err(other)) => Err(other),
            (Some(error), Err(_)) => error,
        });
    }
    whole.expect("one of them has ended")
}

/// Our address of the other family than `family`, if it is one of the Internet. No packet is sent: the system says which
/// one it would use.
fn own_address(family: AddressFamily, bind: Option<&Binding>) -> Option<IpAddr> {
    // Addresses of documentation, which the default route is for.
    let far = match family {
        AddressFamily::V4 => "[2001:db8::1]:9",
        AddressFamily::V6 => "192.0.2.1:9",
    };
    let far = far.parse().expect("an address");
    let socket = socket_to(bind, (Type::DGRAM, Protocol::UDP), far, 0, |_| Ok(())).ok()?;
    socket.connect(&far.into()).ok()?;
    let own = socket.local_addr().ok()?.as_socket()?.ip();
    is_public(own).then_some(own)
}

#[cfg(test)]
mod tests;
