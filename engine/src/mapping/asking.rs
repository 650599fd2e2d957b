//! Whether a router would map ports: it is asked, and nothing is mapped.
//!
//! Called by [`crate::doctor`]. PCP is asked by an ANNOUNCE (RFC 6887, 14.1), NAT-PMP for the router's address (RFC 6886,
//! 3.2), UPnP by a search and, of the router that answers, for its address.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use crab_nat::{GATEWAY_PORT, TimeoutConfig, natpmp};
use igd_next::{SearchOptions, search_gateway};

use super::gateway::gateways;

/// Two packets, a second and a half.
const PATIENCE: TimeoutConfig = TimeoutConfig {
    initial_timeout: Duration::from_millis(500),
    max_retries: 1,
    max_retry_timeout: Some(Duration::from_secs(1)),
};
const SEARCH: Duration = Duration::from_secs(2);
const PCP_VERSION: u8 = 2;
/// Length of a header of PCP, which is all that an ANNOUNCE has.
const PCP_HEADER: usize = 24;
/// The highest bit of the opcode: an answer.
const PCP_ANSWER: u8 = 0x80;

/// The way out: a default gateway of IPv4, and our address there. Sends nothing. The error is in words.
pub(crate) fn gateway() -> Result<(Ipv4Addr, IpAddr), String> {
    gateways(None).map(|found| found[0]).map_err(|error| error.to_string())
}

/// What a router said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answers {
    /// Those it speaks, by their names.
    pub speaks: Vec<&'static str>,
    /// Its own address to the outside, if it told.
    pub outside: Option<IpAddr>,
}

/// Asks the router at `gateway`, from `ours`, by all three ways. Five seconds at most.
pub(crate) fn ask(gateway: Ipv4Addr, ours: IpAddr) -> Answers {
    let mut answers = Answers::default();
    if speaks_pcp(gateway, ours) {
        answers.speaks.push("PCP");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let address = runtime
        .ok()
        .and_then(|runtime| runtime.block_on(natpmp::external_address(gateway.into(), Some(PATIENCE))).ok());
    if let Some(address) = address {
        answers.speaks.push("NAT-PMP");
        answers.outside = Some(address.into());
    }
    let mut options = SearchOptions::default();
    (options.timeout, options.single_search_timeout) = (Some(SEARCH), Some(SEARCH));
    options.gateway_ip_version = igd_next::GatewayIpVersion::V4;
    options.bind_addr = SocketAddr::new(ours, 0);
    if let Ok(router) = search_gateway(options) {
        answers.speaks.push("UPnP");
        answers.outside = answers.outside.or_else(|| router.get_external_ip().ok());
    }
    answers
}

fn speaks_pcp(gateway: Ipv4Addr, ours: IpAddr) -> bool {
    let asked = || {
        let socket = UdpSocket::bind((ours, 0))?;
        socket.connect((gateway, GATEWAY_PORT))?;
        let mut waits = PATIENCE.initial_timeout;
        for _ in 0..=PATIENCE.max_retries {
            socket.send(&announce(ours))?;
            socket.set_read_timeout(Some(waits))?;
            let mut answer = [0; 1100];
            match socket.recv(&mut answer) {
                Ok(len) => return Ok(is_pcp(&answer[..len])),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => waits *= 2,
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    };
    asked().unwrap_or(false)
}

fn announce(ours: IpAddr) -> [u8; PCP_HEADER] {
    let mut request = [0; PCP_HEADER];
    request[0] = PCP_VERSION;
    let mapped = match ours {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    request[8..].copy_from_slice(&mapped.octets());
    request
}

/// One that speaks NAT-PMP alone answers with its version, 0.
fn is_pcp(answer: &[u8]) -> bool {
    answer.len() >= PCP_HEADER && answer[0] == PCP_VERSION && answer[1] == PCP_ANSWER
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announce_is_a_header_and_its_answer_is_told_from_nat_pmp() {
        let request = announce([192, 0, 2, 1].into());
        assert_eq!(request[..8], [2, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(request[18..], [255, 255, 192, 0, 2, 1]);
        let mut answer = [0; PCP_HEADER];
        (answer[0], answer[1]) = (2, 0x80);
        assert!(is_pcp(&answer) && !is_pcp(&answer[..23]) && !is_pcp(&request));
        // Result 1 of NAT-PMP: no such version.
        assert!(!is_pcp(&[0, 0x80, 0, 1, 0, 0, 0, 9]));
    }
}
