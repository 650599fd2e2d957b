//! Names to addresses, with a short memory.
//!
//! Owner: one [`Resolver`] per [`super::TrackerClient`]. Invariant: one look-up per name at a time, however many
//! torrents share a tracker; the memory is bounded. `getaddrinfo` decides the order (RFC 6724).

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

use url::{Host, Url};

use super::address;
use super::error::{TrackerError, chain, shown};
use super::helper::{self, Slot};

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
}

impl Resolver {
    /// The addresses of `url`'s host that can be reached from `bind`, in the order to try them; at least one.
    pub async fn addresses(
        &self,
        url: &Url,
        port: u16,
        bind: Option<IpAddr>,
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
        usable.truncate(ADDRESSES_MAX);
        if usable.is_empty() {
            return Err(TrackerError::WrongFamily { host: shown(url.host_str().unwrap_or_default()) });
        }
        Ok(usable.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
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
        let owned = name.to_owned();
        let slot = helper::start(move || get_address_info(&owned))?;
        names.insert(name.to_owned(), (now, slot.clone()));
        Some(slot)
    }
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
