//! A host behind a home router that maps ports, and the public network before it: three network namespaces.
//!
//! Owner: the test function, whose thread is in the public one from then on. The router is Linux's NAT with miniupnpd,
//! which speaks PCP, NAT-PMP and UPnP-IGD. Needs root, `ip`, `nft` and `miniupnpd`.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use rustix::thread::UnshareFlags;

use crate::SOON;
use crate::nat::{namespace, shell, within};
use crate::process::{Process, run};

/// Our address in the public network.
pub const PUBLIC: Ipv4Addr = Ipv4Addr::new(11, 77, 1, 1);
/// The router's address there: one of the Internet, or miniupnpd would not map.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(11, 77, 1, 2);
/// The host's address behind it.
pub const INSIDE: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);

/// What miniupnpd fills with mappings, in a NAT that lets nothing else in.
const RULES: &str = "
table inet filter {
  chain forward {
    type filter hook forward priority 0; policy drop;
    jump miniupnpd
    iifname \"lan\" accept
    ct state established,related accept
  }
  chain miniupnpd { }
  chain prerouting { type nat hook prerouting priority -100; jump prerouting_miniupnpd; }
  chain prerouting_miniupnpd { }
  chain postrouting {
    type nat hook postrouting priority 100;
    jump postrouting_miniupnpd
    oifname \"wan\" masquerade
  }
  chain postrouting_miniupnpd { }
}";

/// See the module.
pub struct Router {
    host: Process,
    router: Process,
    _daemon: Process,
}

impl Router {
    /// A router whose external port `taken` is not to be had; its files go to `dir`. Errors: why it cannot be made here. To
    /// be called on a thread that may stay in the namespace.
    pub fn new(dir: &Path, taken: u16) -> Result<Self, String> {
        let has = |program: &str| {
            run("sh", Command::new("sh").args(["-c", &format!("command -v {program}")]), SOON).0
        };
        if has("miniupnpd") != 0 || has("nft") != 0 {
            return Err("it takes miniupnpd and nft".to_owned());
        }
        #[expect(deprecated, reason = "only UnshareFlags::FILES makes it unsafe")]
        rustix::thread::unshare(UnshareFlags::NEWNET)
            .map_err(|error| format!("a network namespace needs CAP_SYS_ADMIN: {error}"))?;
        let (router, host) = (namespace("router"), namespace("host"));
        let (router_pid, host_pid) = (router.pid(), host.pid());
        shell(
            Command::new("sh"),
            &format!(
                "ip link set lo up; ip link add public type veth peer name wan netns {router_pid}
                 ip address add {PUBLIC}/24 dev public; ip link set public up"
            ),
        )?;
        shell(
            within(&router, "sh"),
            &format!(
                "ip link set lo up; ip address add {OUTSIDE}/24 dev wan; ip link set wan up
                 ip link add lan type veth peer name eth netns {host_pid}
                 ip address add 192.168.1.1/24 dev lan; ip link set lan up
                 echo 1 > /proc/sys/net/ipv4/ip_forward
                 nft -f - <<'rules'\n{RULES}\nrules"
            ),
        )?;
        shell(
            within(&host, "sh"),
            &format!(
                "ip link set lo up; ip address add {INSIDE}/24 dev eth; ip link set eth up
                 ip route add default via 192.168.1.1"
            ),
        )?;
        let settings = format!(
            "ext_ifname=wan\nlistening_ip=lan\nport=0\nenable_natpmp=yes\nenable_upnp=yes\nsecure_mode=yes\n\
             uuid=5359d0da-4c55-4f06-a0c4-75c048f76224\nmin_lifetime=120\nmax_lifetime=86400\n\
             deny {taken} 0.0.0.0/0 0-65535\nallow 1024-65535 0.0.0.0/0 1024-65535\n\
             deny 0-65535 0.0.0.0/0 0-65535\n"
        );
        let path = dir.join("miniupnpd.conf");
        std::fs::write(&path, settings).map_err(|error| error.to_string())?;
        let mut command = within(&router, "miniupnpd");
        command.arg("-d").arg("-f").arg(path).arg("-P").arg(dir.join("miniupnpd.pid"));
        let daemon = Process::start("miniupnpd", &mut command);
        Ok(Self { host, router, _daemon: daemon })
    }

    /// A command that runs on the host.
    pub fn on_host(&self, program: &str) -> Command {
        within(&self.host, program)
    }

    /// How many rules of the router are about `port`.
    pub fn mappings_of(&self, port: u16) -> usize {
        let (_, rules, _) = run("nft", within(&self.router, "nft").args(["list", "ruleset"]), SOON);
        let wanted = format!("dnat ip to {INSIDE}:{port}");
        rules.lines().filter(|line| line.contains(&wanted)).count()
    }
}
