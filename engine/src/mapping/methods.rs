//! One round of mapping by one of the ways, and taking mappings back.
//!
//! Caller: the thread of [`super`]. Invariant: what a router has mapped is in `held` from then on, whatever follows.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use ccbt_shards::binding::Binding;
use crab_nat::{
    InternetProtocol, PortMapping as Mapping, PortMappingOptions, PortMappingType, TimeoutConfig,
};
use crab_nat::{natpmp, pcp};
use igd_next::{AddPortError, Gateway, PortMappingProtocol, SearchOptions, search_gateway};

use super::gateway::{client_for, gateways};
use super::{LIFETIME, Mapped, PortMapping, Wanted};

/// Of PCP and NAT-PMP: four packets, 3.75 s.
const PATIENCE: TimeoutConfig = TimeoutConfig {
    initial_timeout: Duration::from_millis(250),
    max_retries: 3,
    max_retry_timeout: Some(Duration::from_secs(2)),
};
/// A search for UPnP routers.
const SEARCH: Duration = Duration::from_secs(4);
/// What lists of routers show.
const NAME: &str = "ccbt-fast";

/// A mapping that is to be removed.
pub(super) enum Held {
    Pmp(Mapping),
    Upnp { gateway: Box<Gateway>, protocol: PortMappingProtocol, internal: u16, external: u16 },
}

impl Held {
    pub fn by(&self) -> PortMapping {
        match self {
            Self::Pmp(mapping) => match mapping.mapping_type() {
                PortMappingType::NatPmp => PortMapping::NatPmp,
                PortMappingType::Pcp { .. } => PortMapping::Pcp,
            },
            Self::Upnp { .. } => PortMapping::Upnp,
        }
    }
}

fn text(error: impl Display) -> String {
    error.to_string()
}

/// By PCP or NAT-PMP, of the first gateway that does.
pub(super) async fn map_pmp(
    how: PortMapping,
    wanted: &Wanted,
    held: &mut Vec<Held>,
) -> Result<Mapped, String> {
    let mut reasons = Vec::new();
    for (gateway, client) in gateways(wanted.bind.as_ref()).map_err(text)? {
        match map_at(how, wanted, (gateway, client), held).await {
            Ok(mapped) => return Ok(mapped),
            Err(reason) => reasons.push(format!("{gateway} says: {reason}")),
        }
    }
    Err(reasons.join(", "))
}

async fn map_at(
    how: PortMapping,
    wanted: &Wanted,
    (gateway, client): (Ipv4Addr, IpAddr),
    held: &mut Vec<Held>,
) -> Result<Mapped, String> {
    let lifetime = Duration::from_secs(LIFETIME.into());
    let mut mapped = Mapped { by: how, ip: None, tcp: None, udp: Vec::new(), lifetime };
    for (is_tcp, port) in wanted.ports() {
        let protocol = if is_tcp { InternetProtocol::Tcp } else { InternetProtocol::Udp };
        let is_it = |held: &Held| match held {
            Held::Pmp(old) => {
                let same_kind = matches!(old.protocol(), InternetProtocol::Tcp) == is_tcp;
                old.internal_port() == port && same_kind && old.gateway() == gateway.into()
            }
            Held::Upnp { .. } => false,
        };
        let at = held.iter().position(is_it);
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
            pcp::port_mapping(base, nonce, None, options).await.map_err(text)?
        } else {
            natpmp::port_mapping(gateway.into(), protocol, port, options).await.map_err(text)?
        };
        mapped.lifetime = mapped.lifetime.min(Duration::from_secs(new.lifetime().into()));
        let external = new.external_port().get();
        if is_tcp {
            mapped.tcp = Some(external);
        } else {
            mapped.udp.push((port.get(), external));
        }
        if let PortMappingType::Pcp { external_ip, .. } = new.mapping_type() {
            mapped.ip = Some(external_ip);
        }
        match at {
            Some(at) => held[at] = Held::Pmp(new),
            None => held.push(Held::Pmp(new)),
        }
    }
    if how == PortMapping::NatPmp {
        mapped.ip = natpmp::external_address(gateway.into(), Some(PATIENCE)).await.ok().map(IpAddr::from);
    }
    Ok(mapped)
}

/// By UPnP, of the first router that answers.
pub(super) fn map_upnp(wanted: &Wanted, held: &mut Vec<Held>) -> Result<Mapped, String> {
    let mut options = SearchOptions::default();
    (options.timeout, options.single_search_timeout) = (Some(SEARCH), Some(SEARCH));
    options.gateway_ip_version = igd_next::GatewayIpVersion::V4;
    if let Some(bind) = &wanted.bind {
        if bind.interfaces().next().is_some() {
            return Err("it cannot be kept to an interface; name its address in bind_address".to_owned());
        }
        options.bind_addr = SocketAddr::new(own_address(bind)?, 0);
    }
    let gateway = search_gateway(options).map_err(text)?;
    let client = client_for(gateway.addr, wanted.bind.as_ref()).map_err(text)?;
    let ip = gateway.get_external_ip().ok();
    let lifetime = Duration::from_secs(LIFETIME.into());
    let mut mapped = Mapped { by: PortMapping::Upnp, ip, tcp: None, udp: Vec::new(), lifetime };
    for (is_tcp, port) in wanted.ports() {
        let (protocol, port) =
            (if is_tcp { PortMappingProtocol::TCP } else { PortMappingProtocol::UDP }, port.get());
        let is_it = |held: &Held| match held {
            Held::Upnp { protocol: p, internal, .. } => (*p, *internal) == (protocol, port),
            Held::Pmp(_) => false,
        };
        let at = held.iter().position(is_it);
        let old =
            at.and_then(|at| if let Held::Upnp { external, .. } = held[at] { Some(external) } else { None });
        let external = add_upnp(&gateway, protocol, old.unwrap_or(port), SocketAddr::new(client, port))?;
        if is_tcp {
            mapped.tcp = Some(external);
        } else {
            mapped.udp.push((port, external));
        }
        let new = Held::Upnp { gateway: Box::new(gateway.clone()), protocol, internal: port, external };
        match at {
            Some(at) => held[at] = new,
            None => held.push(new),
        }
    }
    Ok(mapped)
}

/// The address of `bind` that IPv4 leaves from.
fn own_address(bind: &Binding) -> Result<IpAddr, String> {
    let found = gateways(Some(bind)).map_err(text)?;
    Ok(found[0].1)
}

/// Maps `external` if it can be, else another port; for ever where the router knows nothing else.
fn add_upnp(
    gateway: &Gateway,
    protocol: PortMappingProtocol,
    external: u16,
    ours: SocketAddr,
) -> Result<u16, String> {
    for lifetime in [LIFETIME, 0] {
        match gateway.add_port(protocol, external, ours, lifetime, NAME) {
            Ok(()) => return Ok(external),
            Err(AddPortError::OnlyPermanentLeasesSupported) => {}
            Err(AddPortError::PortInUse) => {
                return gateway.add_any_port(protocol, ours, lifetime, NAME).map_err(text);
            }
            Err(error) => return Err(text(error)),
        }
    }
    Err("the router takes no lifetime at all".to_owned())
}

/// Takes all back. What cannot be removed ends by itself.
pub(super) fn remove(runtime: &tokio::runtime::Runtime, held: Vec<Held>) {
    for held in held {
        match held {
            Held::Pmp(mapping) => drop(runtime.block_on(mapping.try_drop())),
            Held::Upnp { gateway, protocol, external, .. } => drop(gateway.remove_port(protocol, external)),
        }
    }
}
