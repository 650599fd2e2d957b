//! Ports of the session, mapped at the router: PCP (RFC 6887), NAT-PMP (RFC 6886) and UPnP-IGD.
//!
//! Role: asks for a mapping of each port, renews it at half of its lifetime, and removes it at the end. Owner: the
//! session; a thread of its own, `ccbt-portmap`, only where mapping is switched on. The protocols are `crab_nat`'s and
//! `igd-next`'s (both MIT), which bound what they read (1 MiB), follow no redirect, and take a UPnP device at the address
//! alone that has answered. Invariants: nothing is asked of anybody but default gateways and who answers the search for
//! one, and nothing where the session is bound to loopback; a lifetime that the router tells is brought into [`RENEW`];
//! every request has a time limit, and the session's end waits for [`FAREWELL`] at most.

pub(crate) mod asking;
mod gateway;
mod methods;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ccbt_protocol::candidates::is_global;
use ccbt_shards::binding::Binding;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use methods::Held;

/// Seconds asked for.
const LIFETIME: u32 = 3600;
/// Renewed after half of the lifetime that was given, within these.
const RENEW: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(30 * 60));
/// After a failure: first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));
/// The end of a session waits so long for the mappings to be removed; others end with their lifetime.
const FAREWELL: Duration = Duration::from_secs(3);

/// How ports are mapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PortMapping {
    /// Not at all.
    #[default]
    Off,
    /// By PCP, else NAT-PMP, else UPnP.
    Auto,
    /// By PCP alone.
    Pcp,
    /// By NAT-PMP alone.
    NatPmp,
    /// By UPnP-IGD alone.
    Upnp,
}

impl PortMapping {
    /// The ways to try, in their order: the cheapest first.
    fn methods(self) -> Vec<Self> {
        match self {
            Self::Off => Vec::new(),
            Self::Auto => vec![Self::Pcp, Self::NatPmp, Self::Upnp],
            one => vec![one],
        }
    }
}

impl fmt::Display for PortMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Auto => "auto",
            Self::Pcp => "PCP",
            Self::NatPmp => "NAT-PMP",
            Self::Upnp => "UPnP",
        })
    }
}

/// What a router has mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// By which of the ways.
    pub by: PortMapping,
    /// The router's address, if it is one of the Internet; otherwise there may be another router behind it.
    pub ip: Option<IpAddr>,
    /// The port that leads to our TCP port.
    pub tcp: Option<u16>,
    /// Our UDP ports and those that lead there.
    pub udp: Vec<(u16, u16)>,
    /// How long it lasts unless it is renewed.
    lifetime: Duration,
}

/// How mapping does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum MappingStatus {
    /// It is off, or there is nothing to map.
    #[default]
    Off,
    /// The first answer is waited for.
    Asking,
    /// Ports are mapped.
    Mapped(Mapped),
    /// They are not; it is tried again.
    Failed(String),
}

impl fmt::Display for MappingStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("ports are not mapped: that is off"),
            Self::Asking => f.write_str("the router is asked to forward ports"),
            Self::Mapped(mapped) => {
                write!(f, "the router forwards our ports ({})", mapped.by)?;
                if let Some(ip) = mapped.ip {
                    write!(f, ", at {ip}")?;
                }
                if let Some(port) = mapped.tcp {
                    write!(f, ", TCP {port}")?;
                }
                mapped.udp.iter().try_for_each(|(_, port)| write!(f, ", UDP {port}"))
            }
            Self::Failed(reason) => write!(f, "ports are not mapped: {reason}"),
        }
    }
}

/// What is mapped.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// By which way.
    pub how: PortMapping,
    /// The TCP port; 0 = none.
    pub tcp: u16,
    /// UDP ports.
    pub udp: Vec<u16>,
    /// Where the session is bound to.
    pub bind: Option<Binding>,
}

impl Wanted {
    /// Whether each is TCP's, and the port.
    fn ports(&self) -> Vec<(bool, std::num::NonZeroU16)> {
        let udp = self.udp.iter().map(|port| (false, *port));
        let all = std::iter::once((true, self.tcp)).chain(udp);
        all.filter_map(|(is_tcp, port)| Some((is_tcp, std::num::NonZeroU16::new(port)?))).collect()
    }

    /// Whether there is anything to do.
    pub fn is_needed(&self) -> bool {
        let is_local = self.bind.as_ref().is_some_and(Binding::is_loopback);
        self.how != PortMapping::Off && !is_local && !self.ports().is_empty()
    }
}

/// The running thread; its mappings end with this value.
pub struct Mapper {
    stop: Option<Sender<()>>,
    ended: Receiver<()>,
    status: Arc<Mutex<MappingStatus>>,
}

impl Mapper {
    /// `tell` hears of every success. Errors: no thread or descriptor is to be had.
    pub fn start(wanted: Wanted, tell: impl Fn(&Mapped) + Send + 'static) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = bounded(0);
        let (hang_up, ended) = bounded::<()>(0);
        let status = Arc::new(Mutex::new(MappingStatus::Asking));
        let shared = Arc::clone(&status);
        let body = move || {
            run(&wanted, &runtime, &stopped, &shared, &tell);
            drop(hang_up);
        };
        std::thread::Builder::new().name("ccbt-portmap".to_owned()).spawn(body)?;
        Ok(Self { stop: Some(stop), ended, status })
    }

    /// How it does.
    pub fn status(&self) -> MappingStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Begins to remove the mappings.
    pub fn stop(&mut self) {
        drop(self.stop.take());
    }
}

impl Drop for Mapper {
    /// Waits a while for the router; a request that is under way then is left alone.
    fn drop(&mut self) {
        self.stop();
        if self.ended.recv_timeout(FAREWELL) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("the router has not taken all mappings back; they end within {LIFETIME} s");
        }
    }
}

/// The thread's body, until the other side hangs up.
fn run(
    wanted: &Wanted,
    runtime: &tokio::runtime::Runtime,
    stopped: &Receiver<()>,
    status: &Mutex<MappingStatus>,
    tell: &dyn Fn(&Mapped),
) {
    let mut held = Vec::new();
    let mut pause = RETRY.0;
    loop {
        let mapped = map_all(wanted, runtime, &mut held);
        let (wait, now) = match mapped {
            Ok(mut mapped) => {
                mapped.ip = mapped.ip.map(|ip| ip.to_canonical()).filter(|ip| is_global(*ip));
                pause = RETRY.0;
                tell(&mapped);
                ((mapped.lifetime / 2).clamp(RENEW.0, RENEW.1), MappingStatus::Mapped(mapped))
            }
            Err(reason) => {
                let wait = pause;
                pause = (pause * 2).min(RETRY.1);
                (wait, MappingStatus::Failed(reason))
            }
        };
        let mut before = status.lock().unwrap_or_else(PoisonError::into_inner);
        if *before != now {
            match &now {
                MappingStatus::Failed(_) => tracing::warn!(
                    "{now}; switch PCP, NAT-PMP or UPnP on at the router, or have it forward TCP {} and UDP {:?} to this \
                     machine, or set network.port_mapping = \"off\"",
                    wanted.tcp,
                    wanted.udp
                ),
                _ => tracing::info!("{now}"),
            }
        }
        *before = now;
        drop(before);
        if stopped.recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
            break;
        }
    }
    methods::remove(runtime, held);
}

/// Renews what is held, or maps everything; what is mapped is in `held`, also when others are not.
fn map_all(
    wanted: &Wanted,
    runtime: &tokio::runtime::Runtime,
    held: &mut Vec<Held>,
) -> Result<Mapped, String> {
    let mut methods = wanted.how.methods();
    // What has worked is asked first: it renews.
    if let Some(by) = held.first().map(Held::by) {
        methods.sort_by_key(|how| *how != by);
    }
    let mut reasons = Vec::new();
    for how in methods {
        let mapped = match how {
            PortMapping::Upnp => methods::map_upnp(wanted, held),
            _ => runtime.block_on(methods::map_pmp(how, wanted, held)),
        };
        match mapped {
            Ok(mapped) => return Ok(mapped),
            Err(reason) => reasons.push(format!("{how}: {reason}")),
        }
    }
    Err(reasons.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_done_where_there_is_nothing_to_map() {
        let wanted = Wanted { how: PortMapping::Auto, tcp: 6881, udp: vec![6881], bind: None };
        assert!(wanted.is_needed());
        assert!(!Wanted { how: PortMapping::Off, ..wanted.clone() }.is_needed());
        assert!(!Wanted { bind: Some("127.0.0.1".parse().unwrap()), ..wanted.clone() }.is_needed());
        assert!(!Wanted { tcp: 0, udp: vec![0], ..wanted.clone() }.is_needed());
        assert_eq!(wanted.ports().len(), 2);
    }
}
