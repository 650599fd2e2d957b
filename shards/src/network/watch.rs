//! What listens at interfaces and addresses that come and go.
//!
//! Role: [`Entrances`] compares what is open with what should be, each time that [`crate::network`]'s loop hears of a
//! change from the kernel (rtnetlink), and opens what is missing. A socket that is bound to an interface stays with
//! it: when it is gone, nothing leaves by another one, and when one of its name comes, it is a new one. Invariant:
//! what is closed here was bound to an interface that does not exist any more.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

use crate::binding::{Binding, Door, addresses_of, is_ours};
use crate::discovery::Discovery;
use crate::inbox::Inbox;
use crate::messages::ToShard;
use crate::service::parts::bind_listener;
use crate::trackers::Trackers;
use crate::utp_acceptor::{self, Renewer};

/// RTMGRP_LINK, RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR (`linux/rtnetlink.h`).
const GROUPS: u32 = 0x1 | 0x10 | 0x100;
/// What could not be opened is tried again after this time.
const RETRY: Duration = Duration::from_secs(5);

/// A descriptor that is readable when links or addresses have changed.
pub(super) fn subscribe() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
    Ok(socket)
}

/// Takes off all that has come. What it says is not looked at: the state as it is now counts, also when messages were
/// lost.
pub(super) fn drain(news: &OwnedFd) {
    let mut bytes = [0; 8192];
    while recv(news, &mut bytes, RecvFlags::empty()).is_ok() {}
}

/// A socket that accepts, and the number of the interface that its door had when it was opened.
pub(crate) struct Listener {
    pub door: Door,
    pub index: u32,
    pub socket: OwnedFd,
}

impl Listener {
    /// Errors: see [`Door::bind`]; or the port is taken.
    pub fn open(door: Door, accepts: bool) -> io::Result<Self> {
        let socket = OwnedFd::from(bind_listener(&door, accepts)?);
        let index = door.device.as_deref().map_or(0, index_of);
        Ok(Self { door, index, socket })
    }
}

/// See the module.
pub(crate) struct Entrances {
    pub binding: Binding,
    pub port: u16,
    pub has_ipv6: bool,
    /// Over TCP; otherwise listeners only keep the port.
    pub accepts: bool,
    pub listeners: Vec<Arc<Listener>>,
    pub shards: Vec<Inbox>,
    pub discovery: Option<Discovery>,
    pub trackers: Trackers,
    pub utp: Option<Renewer>,
    /// Number of each interface (of an address: 0) and whether it could be used when it was last looked at.
    pub seen: HashMap<String, (u32, bool)>,
}

impl Entrances {
    /// Compares, opens, tells. When it is to be called again though nothing changes; `None`: not at all.
    pub fn look(&mut self) -> Option<Instant> {
        let is_first = self.seen.is_empty();
        let (changed, is_back) = self.compare();
        let failed = (changed || is_first) && self.reopen(is_first);
        if failed {
            // So that the next look is one of all.
            self.seen.values_mut().for_each(|seen| seen.0 = u32::MAX);
        }
        if is_back {
            // Before the shards, which ask them.
            self.trackers.forgive();
            for shard in &self.shards {
                shard.send(ToShard::NetworkBack);
            }
        }
        failed.then(|| Instant::now() + RETRY)
    }

    /// Closes and opens what listens at interfaces. Whether something could not be opened.
    fn reopen(&mut self, is_first: bool) -> bool {
        let doors = Binding::doors(Some(&self.binding), self.port, self.has_ipv6);
        self.close_dead(&doors);
        let mut failed = false;
        for door in &doors {
            if self.listeners.iter().any(|listener| listener.door == *door) {
                continue;
            }
            match Listener::open(door.clone(), self.accepts).and_then(|new| self.give(new)) {
                Ok(()) => tracing::info!(%door, "listening"),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::warn!(%door, %error, "cannot listen there; trying again");
                    failed = true;
                }
            }
        }
        if is_first {
            return failed;
        }
        if let Some(discovery) = &self.discovery {
            discovery.renew(doors.clone());
        }
        if let Some(utp) = &self.utp {
            match utp_acceptor::rebind(&doors) {
                Ok(sockets) => failed |= !utp.renew(sockets),
                Err(error) => tracing::warn!(%error, "no uTP connections are accepted"),
            }
        }
        failed
    }

    /// Looks at what is named, and says what has gone or come back: whether an interface is another one than before, and
    /// whether something is back. A socket bound to an address stays with it, whether the address is there or not.
    fn compare(&mut self) -> (bool, bool) {
        let (mut changed, mut is_back) = (false, false);
        for name in self.binding.interfaces() {
            let index = index_of(name);
            let now = (index, index != 0 && !addresses_of(name).is_empty());
            let before = self.seen.insert(name.to_owned(), now);
            changed |= before != Some(now);
            is_back |= tell(("network interface", " or has no address"), name, before, now.1);
        }
        for ip in self.binding.addresses() {
            let now = is_ours(ip);
            let before = self.seen.insert(ip.to_string(), (0, now));
            is_back |= tell(("address", ""), &ip.to_string(), before, now);
        }
        (changed, is_back)
    }

    /// Closes what listens at an interface that is gone, or at an address of it that it has no more.
    fn close_dead(&mut self, doors: &[Door]) {
        let is_alive = |listener: &Arc<Listener>| {
            let index = listener.door.device.as_deref().map_or(0, index_of);
            doors.contains(&listener.door) && index == listener.index
        };
        self.listeners.retain(|listener| {
            let stays = is_alive(listener);
            if !stays {
                // Ends the accepts of all shards; they drop theirs then.
                let _ = rustix::net::shutdown(listener.socket.as_fd(), rustix::net::Shutdown::Both);
            }
            stays
        });
    }

    fn give(&mut self, listener: Listener) -> io::Result<()> {
        for shard in self.shards.iter().filter(|_| self.accepts) {
            shard.send(ToShard::Listen(listener.socket.try_clone()?));
        }
        self.listeners.push(Arc::new(listener));
        Ok(())
    }
}

/// Says that what is bound to has gone, or has come back; whether it has come back.
fn tell((what, or): (&str, &str), name: &str, before: Option<(u32, bool)>, is_there: bool) -> bool {
    match (before.is_none_or(|(_, was_there)| was_there), is_there) {
        (true, false) => tracing::warn!(
            name,
            "the {what} is not there{or}: what is bound to it connects to nobody until it is back"
        ),
        (false, true) => tracing::warn!(name, "the {what} is back"),
        _ => {}
    }
    !before.is_none_or(|(_, was_there)| was_there) && is_there
}

/// The kernel's number of an interface; 0: there is none of this name.
fn index_of(name: &str) -> u32 {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
    socket.and_then(|socket| rustix::net::netdevice::name_to_index(socket, name)).unwrap_or(0)
}
