//! Ports of the session, mapped at the router: PCP (RFC 6887), NAT-PMP (RFC 6886) and UPnP-IGD.
//!
//! Role: asks for a mapping of each port, renews them at half of their lifetime, and removes them at the end. Owner:
//! [`crate::service::Service`]; a thread of its own, `ccbt-portmap`, only where mapping is switched on. The protocols are
//! `crab_nat`'s and `igd-next`'s, which bound what they read (1 MiB, 64 levels of XML), follow no redirect, and take a UPnP
//! device at the address alone that has answered. Invariants: nothing is asked of anybody but the default gateway and who
//! answers the search for one; a lifetime that the router tells is brought into [`RENEW`]; everything has a time limit.

use std::fmt::Display;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::thread::JoinHandle;
use std::time::Duration;

use crab_nat::{InternetProtocol, PortMapping as Mapping, PortMappingOptions, PortMappingType, TimeoutConfig};
use crab_nat::{natpmp, pcp};
use igd_next::aio::Gateway;
use igd_next::aio::tokio::{Tokio, search_gateway};
use igd_next::{AddPortError, PortMappingProtocol, SearchOptions};
use socket2::{Protocol, Type};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::binding::{Binding, socket_to};
use crate::control::is_public;

/// Seconds asked for.
const LIFETIME: u32 = 3600;
/// Renewed after half of the lifetime that was given, within these.
const RENEW: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(30 * 60));
/// After a failure: first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));
/// Four packets, 3.75 s.
const PATIENCE: TimeoutConfig = TimeoutConfig {
    initial_timeout: Duration::from_millis(250),
    max_retries: 3,
    max_retry_timeout: Some(Duration::from_secs(2)),
};
/// A search for UPnP routers.
const SEARCH: Duration = Duration::from_secs(5);
/// One request of UPnP.
const REQUEST: Duration = Duration::from_secs(5);
/// Removing all of them at the end.
const FAREWELL: Duration = Duration::from_secs(2);
/// What lists of routers show.
const NAME: &str = "ccbt-fast";

/// How ports are mapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PortMapping {
    /// Not at all.
    #[default]
    Off,
    /// By PCP, else NAT-PMP, else UPnP.
    Auto,
    /// By UPnP-IGD alone.
    Upnp,
    /// By NAT-PMP alone.
    NatPmp,
    /// By PCP alone.
    Pcp,
}

/// What the world sees of us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outside {
    /// The router's address, if it is one of the Internet.
    pub ip: Option<IpAddr>,
    /// The port that leads to our TCP port.
    pub tcp: Option<u16>,
}

/// What is mapped.
pub(crate) struct Wanted {
    pub how: PortMapping,
    /// TCP ports.
    pub tcp: Option<u16>,
    /// UDP ports.
    pub udp: Vec<u16>,
    pub bind: Option<Binding>,
}

impl Wanted {
    fn ports(&self) -> impl Iterator<Item = (bool, NonZeroU16)> + '_ {
        let tcp = self.tcp.iter().map(|port| (true, *port));
        let all = tcp.chain(self.udp.iter().map(|port| (false, *port)));
        all.filter_map(|(is_tcp, port)| Some((is_tcp, NonZeroU16::new(port)?)))
    }
}

/// A mapping that is to be removed.
enum Held {
    Pmp(Mapping),
    Upnp { gateway: Box<Gateway<Tokio>>, protocol: PortMappingProtocol, port: u16 },
}

/// The running thread; it ends with this value, and the mappings with it.
pub(crate) struct Mapper {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Mapper {
    /// `tell` hears of every success. Errors: no thread or descriptor is to be had.
    pub fn start(wanted: Wanted, tell: impl Fn(Outside) + Send + 'static) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("ccbt-portmap".to_owned())
            .spawn(move || runtime.block_on(run(&wanted, stopped, tell)))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }

    /// Begins to remove the mappings.
    pub fn stop(&mut self) {
        drop(self.stop.take());
    }
}

impl Drop for Mapper {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread for port mapping panicked");
        }
    }
}

async fn run(wanted: &Wanted, mut stop: oneshot::Receiver<()>, tell: impl Fn(Outside)) {
    let mut held = Vec::new();
    let mut pause = RETRY.0;
    let mut told = None;
    loop {
        let mapped = tokio::select! {
            _ = &mut stop => break,
            mapped = map_all(wanted, &mut held) => mapped,
        };
        let wait = match mapped {
            Ok((outside, lifetime)) => {
                if told != Some(true) {
                    tracing::info!(external = ?outside, "the router forwards our ports");
                }
                (told, pause) = (Some(true), RETRY.0);
                tell(outside);
                (lifetime / 2).clamp(RENEW.0, RENEW.1)
            }
            Err(reason) => {
                if told != Some(false) {
                    let (tcp, udp) = (wanted.tcp.unwrap_or(0), &wanted.udp);
                    tracing::warn!(
                        "ports are not mapped: {reason}; switch UPnP, NAT-PMP or PCP on at the router, or have it forward \
                         TCP {tcp} and UDP {udp:?} to this machine, or set network.port_mapping = \"off\""
                    );
                }
                told = Some(false);
                std::mem::replace(&mut pause, (pause * 2).min(RETRY.1))
            }
        };
        tokio::select! {
            _ = &mut stop => break,
            () = sleep(wait) => {}
        }
    }
    if timeout(FAREWELL, remove(held)).await.is_err() {
        tracing::warn!("the router did not take all mappings back; they end within {LIFETIME} s");
    }
}

/// Renews what is held, or maps everything; what is mapped when it is given up is in `held`.
async fn map_all(wanted: &Wanted, held: &mut Vec<Held>) -> Result<(Outside, Duration), String> {
    let methods: &[PortMapping] = match wanted.how {
        PortMapping::Off => &[],
        PortMapping::Auto => &[PortMapping::Pcp, PortMapping::NatPmp, PortMapping::Upnp],
        PortMapping::Upnp => &[PortMapping::Upnp],
        PortMapping::NatPmp => &[PortMapping::NatPmp],
        PortMapping::Pcp => &[PortMapping::Pcp],
    };
    // A method that has worked is asked first; it renews what is asked for again.
    let mut methods = methods.to_vec();
    if matches!(held.first(), Some(Held::Upnp { .. })) {
        methods.rotate_right(1);
    }
    let mut reasons = Vec::new();
    for how in methods {
        let mapped = match how {
            PortMapping::Upnp => map_upnp(wanted, held).await,
            _ => map_pmp(how, wanted, held).await,
        };
        match mapped {
            Ok(mapped) => return Ok(mapped),
            Err(reason) => reasons.push(reason),
        }
    }
    Err(reasons.join("; "))
}

async fn map_pmp(how: PortMapping, wanted: &Wanted, held: &mut Vec<Held>) -> Result<(Outside, Duration), String> {
    let name = if how == PortMapping::Pcp { "PCP" } else { "NAT-PMP" };
    let failed = |error: &dyn Display| format!("{name}: {error}");
    let (gateway, client) = gateway(wanted.bind.as_ref()).map_err(|error| failed(&error))?;
    let mut outside = Outside { ip: None, tcp: None };
    let mut lifetime = Duration::from_secs(LIFETIME.into());
    for (is_tcp, port) in wanted.ports() {
        let protocol = if is_tcp { InternetProtocol::Tcp } else { InternetProtocol::Udp };
        let same = |held: &Held| {
            matches!(held, Held::Pmp(old) if old.internal_port() == port && is_tcp_of(old.protocol()) == is_tcp)
        };
        let at = held.iter().position(same);
        let old = at.and_then(|at| if let Held::Pmp(old) = &held[at] { Some(old.clone()) } else { None });
        let options = PortMappingOptions {
            external_port: Some(old.as_ref().map_or(port, Mapping::external_port)),
            lifetime_seconds: Some(LIFETIME),
            timeout_config: Some(PATIENCE),
        };
        let new = if how == PortMapping::Pcp {
            let base = pcp::BaseMapRequest::new(gateway.into(), client, protocol, port);
            // The nonce shows that a mapping is ours.
            let nonce = old.as_ref().and_then(|old| match old.mapping_type() {
                PortMappingType::Pcp { nonce, .. } => Some(nonce),
                PortMappingType::NatPmp => None,
            });
            pcp::port_mapping(base, nonce, None, options).await.map_err(|error| failed(&error))?
        } else {
            natpmp::port_mapping(gateway.into(), protocol, port, options).await.map_err(|error| failed(&error))?
        };
        lifetime = lifetime.min(Duration::from_secs(new.lifetime().into()));
        if is_tcp {
            outside.tcp = Some(new.external_port().get());
        }
        if let PortMappingType::Pcp { external_ip, .. } = new.mapping_type() {
            outside.ip = Some(external_ip);
        }
        match at {
            Some(at) => held[at] = Held::Pmp(new),
            None => held.push(Held::Pmp(new)),
        }
    }
    if how == PortMapping::NatPmp {
        outside.ip = natpmp::external_address(gateway.into(), Some(PATIENCE)).await.ok().map(IpAddr::from);
    }
    outside.ip = outside.ip.map(|ip| ip.to_canonical()).filter(|ip| is_public(*ip));
    Ok((outside, lifetime))
}

fn is_tcp_of(protocol: InternetProtocol) -> bool {
    matches!(protocol, InternetProtocol::Tcp)
}

async fn map_upnp(wanted: &Wanted, held: &mut Vec<Held>) -> Result<(Outside, Duration), String> {
    let failed = |error: &dyn Display| format!("UPnP: {error}");
    let mut options = SearchOptions::default();
    (options.timeout, options.single_search_timeout) = (Some(SEARCH), Some(SEARCH));
    options.gateway_ip_version = igd_next::GatewayIpVersion::V4;
    if let Some(bind) = &wanted.bind {
        if bind.interfaces().next().is_some() {
            return Err("UPnP: it cannot be kept to an interface; name its address in bind_address".to_owned());
        }
        let (_, client) = gateway(Some(bind)).map_err(|error| failed(&error))?;
        options.bind_addr = SocketAddr::new(client, 0);
    }
    let gateway = search_gateway(options).await.map_err(|error| failed(&error))?;
    let client = client_for(gateway.addr, wanted.bind.as_ref()).map_err(|error| failed(&error))?;
    let ip = timeout(REQUEST, gateway.get_external_ip()).await.ok().and_then(Result::ok);
    let mut outside = Outside { ip: ip.filter(|ip| is_public(*ip)), tcp: None };
    for (is_tcp, port) in wanted.ports() {
        let protocol = if is_tcp { PortMappingProtocol::TCP } else { PortMappingProtocol::UDP };
        let ours = SocketAddr::new(client, port.get());
        let added = timeout(REQUEST, add_upnp(&gateway, protocol, ours)).await;
        let port = added.map_err(|_| failed(&"the router does not answer"))?.map_err(|error| failed(&error))?;
        if is_tcp {
            outside.tcp = Some(port);
        }
        held.retain(|held| !matches!(held, Held::Upnp { protocol: p, port: q, .. } if (*p, *q) == (protocol, port)));
        held.push(Held::Upnp { gateway: Box::new(gateway.clone()), protocol, port });
    }
    Ok((outside, Duration::from_secs(LIFETIME.into())))
}

/// Maps the same port, or another one where somebody has that; for ever where the router knows nothing else.
async fn add_upnp(gateway: &Gateway<Tokio>, protocol: PortMappingProtocol, ours: SocketAddr) -> Result<u16, String> {
    for lifetime in [LIFETIME, 0] {
        match gateway.add_port(protocol, ours.port(), ours, lifetime, NAME).await {
            Ok(()) => return Ok(ours.port()),
            Err(AddPortError::OnlyPermanentLeasesSupported) => {}
            Err(AddPortError::PortInUse) => {
                let any = gateway.add_any_port(protocol, ours, lifetime, NAME).await;
                return any.map_err(|error| error.to_string());
            }
            Err(error) => return Err(error.to_string()),
        }
    }
    Err("the router takes no lifetime at all".to_owned())
}

async fn remove(held: Vec<Held>) {
    for held in held {
        // What cannot be removed ends by itself.
        match held {
            Held::Pmp(mapping) => drop(mapping.try_drop().await),
            Held::Upnp { gateway, protocol, port } => drop(gateway.remove_port(protocol, port).await),
        }
    }
}

/// The router on the way to the Internet, and our address as it sees it.
fn gateway(bind: Option<&Binding>) -> io::Result<(Ipv4Addr, IpAddr)> {
    let routes = std::fs::read_to_string("/proc/thread-self/net/route")?;
    for (interface, gateway) in default_gateways(&routes) {
        let is_named = |bind: &Binding| bind.interfaces().next().is_none() || bind.interfaces().any(|name| name == interface);
        if bind.is_none_or(is_named)
            && let Ok(client) = client_for(SocketAddr::new(gateway.into(), crab_nat::GATEWAY_PORT), bind)
        {
            return Ok((gateway, client));
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "no route to a gateway (IPv4) from where this is bound to"))
}

/// Our address on the way to `router`. Sends nothing.
fn client_for(router: SocketAddr, bind: Option<&Binding>) -> io::Result<IpAddr> {
    let socket = socket_to(bind, (Type::DGRAM, Protocol::UDP), router, 0, |_| Ok(()))?;
    socket.connect(&router.into())?;
    let local = socket.local_addr()?.as_socket().map(|addr| addr.ip());
    local.filter(IpAddr::is_ipv4).ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

/// Interface and gateway of the default routes in `text`, of Linux's `net/route`, best first.
fn default_gateways(text: &str) -> Vec<(&str, Ipv4Addr)> {
    let mut found = Vec::new();
    for line in text.lines().skip(1) {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [interface, "00000000", gateway, flags, _, _, metric, "00000000", ..] = fields[..] else { continue };
        let number = |text| u32::from_str_radix(text, 16).ok();
        let (Some(gateway), Some(flags), Ok(metric)) = (number(gateway), number(flags), metric.parse::<u32>())
        else {
            continue;
        };
        // RTF_UP and RTF_GATEWAY; the kernel writes the address as its own words are.
        if flags & 3 == 3 {
            found.push((metric, interface, Ipv4Addr::from(gateway.to_ne_bytes())));
        }
    }
    found.sort_by_key(|(metric, ..)| *metric);
    found.into_iter().map(|(_, interface, gateway)| (interface, gateway)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_default_route_comes_first() {
        let text = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
            eth0\t00000000\t0100000A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
            tun0\t00000000\t00000000\t0001\t0\t0\t50\t00000000\t0\t0\t0\n\
            eth0\t0000000A\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n\
            eth0\t00000000\tnonsense\t0003\t0\t0\t1\t00000000\t0\t0\t0\n\
            short\n";
        if cfg!(target_endian = "little") {
            let expected = [("eth0", Ipv4Addr::new(10, 0, 0, 1)), ("wlan0", Ipv4Addr::new(192, 168, 1, 1))];
            assert_eq!(default_gateways(text), expected);
        }
        assert!(default_gateways("").is_empty());
    }
}
