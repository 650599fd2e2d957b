//! Two hosts, each behind a NAT of its own, and the network between them: five network namespaces.
//!
//! Owner: the test function, whose thread is in the public one from then on. The NATs are Linux's: they keep ports where
//! they can, and let nothing in that was not asked for from within. Needs root, `ip` and `nft`.

use std::net::Ipv4Addr;
use std::process::Command;

use rustix::thread::UnshareFlags;

use crate::SOON;
use crate::process::{Process, run};

/// The rules of a NAT between `lan` and `wan`.
const RULES: &str = "
table ip nat {
  chain outward { type nat hook postrouting priority 100; oifname \"wan\" masquerade; }
}
table ip guard {
  chain through {
    type filter hook forward priority 0; policy drop;
    iifname \"lan\" accept
    ct state established,related accept
  }
  chain inward {
    type filter hook input priority 0; policy drop;
    iifname \"lan\" accept
    ct state established,related accept
  }
}";

/// See the module.
pub struct Nats {
    hosts: [Process; 2],
    _routers: [Process; 2],
}

pub(crate) fn namespace(name: &str) -> Process {
    let mut process =
        Process::start(name, Command::new("unshare").args(["--net", "sh", "-c", "echo up; cat"]));
    process.wait_line(SOON, "namespace", |line| (line == "up").then_some(()));
    process
}

pub(crate) fn within(process: &Process, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["--net", "--target", &process.pid().to_string(), program]);
    command
}

pub(crate) fn shell(mut command: Command, script: &str) -> Result<(), String> {
    let (code, _, stderr) = run("sh", command.args(["-ec", script]), SOON);
    if code == 0 { Ok(()) } else { Err(format!("{script}: {stderr}")) }
}

impl Nats {
    /// Errors: why they cannot be made here. To be called on a thread that may stay in the namespace.
    pub fn new() -> Result<Self, String> {
        #[expect(deprecated, reason = "only UnshareFlags::FILES makes it unsafe")]
        rustix::thread::unshare(UnshareFlags::NEWNET)
            .map_err(|error| format!("a network namespace needs CAP_SYS_ADMIN: {error}"))?;
        let forward = "echo 1 > /proc/sys/net/ipv4/ip_forward";
        shell(Command::new("sh"), &format!("ip link set lo up; {forward}"))?;
        let routers = [namespace("first NAT"), namespace("second NAT")];
        let hosts = [namespace("first host"), namespace("second host")];
        for (at, (router, host)) in routers.iter().zip(&hosts).enumerate() {
            let (n, router_pid, host_pid) = (at + 1, router.pid(), host.pid());
            shell(
                Command::new("sh"),
                &format!(
                    "ip link add to{n} type veth peer name wan netns {router_pid}
                     ip address add {}/24 dev to{n}; ip link set to{n} up",
                    Self::public(n)
                ),
            )?;
            shell(
                within(router, "sh"),
                &format!(
                    "ip address add {wan}/24 dev wan; ip link set wan up; ip route add default via {gate}
                     ip link add lan type veth peer name eth netns {host_pid}
                     ip address add 192.168.{n}.1/24 dev lan; ip link set lan up; {forward}
                     nft -f - <<'rules'\n{RULES}\nrules",
                    wan = Self::outside(n),
                    gate = Self::public(n),
                ),
            )?;
            shell(
                within(host, "sh"),
                &format!(
                    "ip link set lo up; ip address add {}/24 dev eth; ip link set eth up
                     ip route add default via 192.168.{n}.1",
                    Self::inside(n)
                ),
            )?;
        }
        Ok(Self { hosts, _routers: routers })
    }

    /// Our address in the public network, as NAT `n` (1 or 2) reaches it.
    pub fn public(n: usize) -> Ipv4Addr {
        Ipv4Addr::new(11, 77, n as u8, 1)
    }

    /// The address of NAT `n` in the public network.
    pub fn outside(n: usize) -> Ipv4Addr {
        Ipv4Addr::new(11, 77, n as u8, 2)
    }

    /// The address of the host behind NAT `n`.
    pub fn inside(n: usize) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, n as u8, 2)
    }

    /// A command that runs on the host behind NAT `n`.
    pub fn on_host(&self, n: usize, program: &str) -> Command {
        within(&self.hosts[n - 1], program)
    }
}
