//! Names to addresses, with a short memory.
//!
//! Owner: one [`Resolver`] per [`super::TrackerClient`]. Invariant: one look-up per name at a time, however
//! many torrents share a tracker; the memory is bounded. `getaddrinfo` decides the order (RFC 6724).

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::rc::Rc;
use std::time::{Duration, Instant};

use ccbt_protocol::ipfilter::{self, is_blocked};
use url::{Host, Url};

use super::address;
use super::error::{TrackerError, chain, shown};
use super::helper::{self, Slot};
use crate::binding::Binding;

/// `getaddrinfo` tells no time to live, so a short one is assumed.
const LIFE: Duration = Duration::from_secs(60);
/// A name that failed may be asked for again after this.
const FAILURE_LIFE: Duration = Duration::from_secs(5);
/// Names remembered.
const NAMES_MAX: usize = 512;
/// Addresses used of one name.
const ADDRESSES_MAX: usize = 8;

type Answer = Result<Vec<IpAddr>, String>;

/// Looks names up.
#[derive(Default)]
pub(super) struct Resolver {
    names: RefCell<HashMap<String, (Instant, Slot<Answer>)>>,
    /// Of all clients of the process.
    filter: Rc<RefCell<ipfilter::Shared>>,
}

impl Resolver {
    /// With names of its own, and the filter of `self`.
    pub fn beside(&self) -> Self {
        Self { filter: self.filter.clone(), ..Self::default() }
    }

    /// Addresses that are not asked from now on, for all who have the filter of `self`.
    pub fn set_filter(&self, filter: ipfilter::Shared) {
        *self.filter.borrow_mut() = filter;
    }

    /// Whether `ip` is one of them.
    pub fn is_filtered(&self, ip: IpAddr) -> bool {
        is_blocked(&self.filter.borrow(), ip)
    }

    /// The addresses of `url`'s host that can be reached from `bind` and are not filtered, in the order to try them; at least
    /// one.
    pub async fn addresses(
        &self,
        url: &Url,
        port: u16,
        bind: Option<&Binding>,
    ) -> Result<Vec<SocketAddr>, TrackerError> {
        let ips = match url.host() {
            Some(Host::Ipv4(ip)) => vec![ip.into()],
            Some(Host::Ipv6(ip)) => vec![ip.into()],
            Some(Host::Domain(name)) => self.look_up(name).await?,
            None => {
                return Err(TrackerError::BadUrl { url: shown(url.as_str()), why: "it has no host".into() });
            }
        };
        let mut usable = address::in_turn(&ips, bind);
        let is_reachable = !usable.is_empty();
        usable.retain(|ip| !self.is_filtered(*ip));
        usable.truncate(ADDRESSES_MAX);
        if usable.is_empty() && is_reachable {
            return Err(TrackerError::Filtered { host: shown(url.host_str().unwrap_or_default()) });
        }
        if usable.is_empty() {
            return Err(TrackerError::WrongFamily { host: shown(url.host_str().unwrap_or_default()) });
        }
        Ok(usable.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
    }

    /// A name that need not be looked up.
    #[cfg(test)]
    pub fn know(&self, name: &str, ips: &[IpAddr]) {
        let answer = std::sync::Arc::new(std::sync::OnceLock::from(Ok(ips.to_vec())));
        self.names.borrow_mut().insert(name.to_owned(), (Instant::now(), answer));
    }

    async fn look_up(&self, name: &str) -> Result<Vec<IpAddr>, TrackerError> {
        let slot = self.slot(name, Instant::now()).ok_or(TrackerError::Busy)?;
        helper::wait(&slot)
            .await
            .clone()
            .map_err(|reason| TrackerError::NameLookup { host: shown(name), reason })
    }

    /// The place of a look-up under way or remembered, or of a new one. `None` when there is no room for it.
    fn slot(&self, name: &str, now: Instant) -> Option<Slot<Answer>> {
        let mut names = self.names.borrow_mut();
        let is_current = |(asked, slot): &(Instant, Slot<Answer>)| {
            let life = match slot.get() {
                None => return true,
                Some(Ok(_)) => LIFE,
                Some(Err(_)) => FAILURE_LIFE,
            };
            now.saturating_duration_since(*asked) < life
        };
        if let Some(entry) = names.get(name).filter(|entry| is_current(entry)) {
            return Some(entry.1.clone());
        }
        if names.len() >= NAMES_MAX {
            names.retain(|_, entry| is_current(entry));
        }
        if names.len() >= NAMES_MAX {
            return None;
        }
        let slot = look_up(name)?;
        names.insert(name.to_owned(), (now, slot.clone()));
        Some(slot)
    }
}

/// Has a name looked up by another thread: the place of the answer, or `None` when too many wait.
pub(crate) fn look_up(name: &str) -> Option<Slot<Answer>> {
    let owned = name.to_owned();
    helper::start(move || get_address_info(&owned))
}

fn get_address_info(name: &str) -> Answer {
    // The port plays no role in the look-up.
    let found = (name, 0).to_socket_addrs().map_err(|error| {
        let text = chain(&error);
        text.strip_prefix("failed to lookup address information: ").unwrap_or(&text).to_owned()
    })?;
    let mut ips: Vec<IpAddr> = Vec::new();
    for ip in found.map(|address| address.ip()) {
        if !ips.contains(&ip) {
            ips.push(ip);
        }
    }
    if ips.is_empty() { Err("the name has no address".to_owned()) } else { Ok(ips) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, OnceLock};

    fn finish(slot: &Slot<Answer>) {
        while slot.get().is_none() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn one_look_up_serves_all_for_a_while() {
        let resolver = Resolver::default();
        let now = Instant::now();
        let first = resolver.slot("localhost", now).unwrap();
        finish(&first);
        let fresh = resolver.slot("localhost", now + LIFE / 2).unwrap();
        let stale = resolver.slot("localhost", now + LIFE).unwrap();
        assert!(Arc::ptr_eq(&first, &fresh) && !Arc::ptr_eq(&first, &stale));
        assert!(first.get().unwrap().as_ref().unwrap().iter().all(IpAddr::is_loopback));
    }

    #[test]
    fn a_look_up_under_way_is_shared_however_long_it_takes() {
        let resolver = Resolver::default();
        let now = Instant::now();
        let pending = Slot::default();
        resolver.names.borrow_mut().insert("slow".to_owned(), (now, pending.clone()));
        let joined = resolver.slot("slow", now + 100 * LIFE).unwrap();
        assert!(Arc::ptr_eq(&pending, &joined));
    }

    #[test]
    fn failures_are_forgotten_sooner() {
        let resolver = Resolver::default();
        let now = Instant::now();
        let failed: Slot<Answer> = Arc::new(OnceLock::from(Err("no".to_owned())));
        resolver.names.borrow_mut().insert("localhost".to_owned(), (now, failed.clone()));
        let second = resolver.slot("localhost", now + FAILURE_LIFE / 2).unwrap();
        let third = resolver.slot("localhost", now + FAILURE_LIFE).unwrap();
        assert!(Arc::ptr_eq(&failed, &second) && !Arc::ptr_eq(&failed, &third));
    }

    #[test]
    fn memory_is_bounded() {
        let resolver = Resolver::default();
        let now = Instant::now();
        let done: Slot<Answer> = Arc::new(OnceLock::from(Ok(vec![])));
        for n in 0..NAMES_MAX {
            resolver.names.borrow_mut().insert(n.to_string(), (now, done.clone()));
        }
        assert!(resolver.slot("localhost", now).is_none(), "no room, and nothing is old");
        assert!(resolver.slot("localhost", now + LIFE).is_some());
        assert_eq!(resolver.names.borrow().len(), 1);
    }
}
