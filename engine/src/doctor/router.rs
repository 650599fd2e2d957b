//! Whether peers can reach us past the router, as far as it tells.

use std::net::IpAddr;

use ccbt_protocol::candidates::is_global;

use super::Finding;
use crate::mapping::asking::{Answers, ask, gateway};

/// The way out; and, if the router may be asked, whether it maps ports. `port`: the one that peers connect to, or 0.
pub fn examine(asks: bool, port: u16) -> Vec<Finding> {
    let (router, ours) = match gateway() {
        Ok(found) => found,
        Err(reason) => return vec![no_gateway(&reason)],
    };
    let found = format!("packets leave through {router}, from {ours}");
    let mut findings = vec![Finding::ok("gateway", found)];
    if is_global(ours) {
        let found = format!("{ours} is an address of the Internet: no router has to forward a port");
        findings.push(Finding::ok("port-mapping", found));
    } else if asks {
        findings.push(judge(&ask(router, ours), port));
    } else {
        let found =
            format!("{ours} is a private address; the router was not asked whether it forwards ports");
        let advice = "ccbt-fast doctor --router asks it (PCP, NAT-PMP, UPnP) and maps nothing";
        findings.push(Finding::warn("port-mapping", found, advice));
    }
    findings
}

fn no_gateway(reason: &str) -> Finding {
    Finding::warn("gateway", reason, "without a way out only the local network is reached: ip route")
}

fn judge(answers: &Answers, port: u16) -> Finding {
    let check = "port-mapping";
    let named = |port: u16| if port == 0 { "the port".to_owned() } else { format!("port {port}") };
    if answers.speaks.is_empty() {
        let advice = format!(
            "switch one of them on at the router, or have it forward {} (TCP and UDP) to this machine",
            named(port)
        );
        return Finding::warn(check, "the router answers neither PCP nor NAT-PMP nor UPnP", advice);
    }
    let speaks = answers.speaks.join(", ");
    match answers.outside {
        Some(outside) if !is_public(outside) => Finding::warn(
            check,
            format!(
                "the router speaks {speaks}, and its own address {outside} is no address of the Internet"
            ),
            "another router lies behind it (CGNAT): ask the provider for a public address, or use IPv6",
        ),
        outside => {
            let at = outside.map_or_else(String::new, |ip| format!("; its address is {ip}"));
            let what = named(port);
            let found = format!(
                "the router speaks {speaks}{at}: network.port_mapping = \"auto\" has {what} forwarded (TCP and UDP)"
            );
            Finding::ok(check, found)
        }
    }
}

fn is_public(ip: IpAddr) -> bool {
    is_global(ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn what_a_router_says_is_judged() {
        let none = judge(&Answers::default(), 6881);
        assert!(none.verdict == Verdict::Warn && none.advice.unwrap().contains("forward port 6881"));
        let speaks = vec!["PCP", "UPnP"];
        let good = Answers { speaks: speaks.clone(), outside: Some([11, 77, 1, 2].into()) };
        let good = judge(&good, 0);
        assert!(good.verdict == Verdict::Ok && good.found.contains("PCP, UPnP; its address is 11.77.1.2"));
        let silent = judge(&Answers { speaks: speaks.clone(), outside: None }, 6881);
        assert!(silent.verdict == Verdict::Ok && silent.found.contains("port 6881"));
        let shared = judge(&Answers { speaks, outside: Some([100, 64, 3, 4].into()) }, 0);
        assert!(
            shared.verdict == Verdict::Warn && shared.advice.as_ref().unwrap().contains("CGNAT"),
            "{shared:?}"
        );
    }

    #[test]
    fn a_machine_without_a_way_out_is_told_so() {
        let finding = no_gateway("there is no route");
        assert!(finding.verdict == Verdict::Warn && finding.advice.unwrap().contains("ip route"));
    }
}
