//! Two network namespaces joined by a veth pair, for what loopback does not show: other machines, multicast.
//!
//! Owner: the test function, whose thread is in one of them from then on. Needs root.

use std::net::Ipv4Addr;
use std::process::Command;

use rustix::thread::UnshareFlags;

use crate::SOON;
use crate::process::{Process, run};

/// Our end.
pub const NEAR: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The other end.
pub const FAR: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

/// Our end of the second pair.
pub const NEAR_SIDE: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);
/// The other end of it.
pub const FAR_SIDE: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 2);

fn must(mut ip: Command, args: &str) {
    let (code, _, stderr) = run("ip", ip.args(args.split(' ')), SOON);
    assert_eq!(code, 0, "ip {args}: {stderr}");
}

/// Two network namespaces joined by a veth pair: ours (this thread's), and that of a process that sleeps.
pub struct Veth {
    far: Process,
}

impl Veth {
    /// Errors: why it cannot be made here. To be called on a thread that may stay in the namespace.
    pub fn new() -> Result<Self, String> {
        #[expect(deprecated, reason = "only UnshareFlags::FILES makes it unsafe")]
        rustix::thread::unshare(UnshareFlags::NEWNET)
            .map_err(|error| format!("a network namespace needs CAP_SYS_ADMIN: {error}"))?;
        let mut far =
            Process::start("far end", Command::new("unshare").args(["--net", "sh", "-c", "echo up; cat"]));
        far.wait_line(SOON, "namespace", |line| (line == "up").then_some(()));
        let this = Self { far };
        let ip = |args: &str| {
            let (code, _, stderr) = run("ip", Command::new("ip").args(args.split(' ')), SOON);
            if code == 0 { Ok(()) } else { Err(format!("ip {args}: {stderr}")) }
        };
        ip("link set lo up")?;
        this.make_near();
        Ok(this)
    }

    /// A second pair beside the first, [`NEAR_SIDE`] and [`FAR_SIDE`], which everything goes to that no route leads elsewhere.
    /// Nothing passes it unasked.
    pub fn add_side(&self) {
        let pid = self.far.pid().to_string();
        must(Command::new("ip"), &format!("link add side type veth peer name farside netns {pid}"));
        let quiet = "echo 1 > /proc/sys/net/ipv6/conf/side/disable_ipv6";
        let (code, _, stderr) = run("sh", Command::new("sh").args(["-c", quiet]), SOON);
        assert_eq!(code, 0, "{stderr}");
        must(Command::new("ip"), &format!("address add {NEAR_SIDE}/24 dev side"));
        must(Command::new("ip"), "link set side up");
        must(self.over_there("ip"), &format!("address add {FAR_SIDE}/24 dev farside"));
        must(self.over_there("ip"), "link set farside up");
        must(Command::new("ip"), &format!("route add default via {FAR_SIDE}"));
    }

    /// Packets that have left through our end of the second pair, ARP's included.
    pub fn left_by_side(&self) -> u64 {
        let command = &mut Command::new("ip");
        let (code, stdout, stderr) =
            run("ip", command.args(["-s", "-j", "link", "show", "dev", "side"]), SOON);
        assert_eq!(code, 0, "{stderr}");
        let links: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
        links[0]["stats64"]["tx"]["packets"].as_u64().expect("a number of packets")
    }

    /// Takes the first pair away.
    pub fn remove_near(&self) {
        must(Command::new("ip"), "link del near");
    }

    /// Makes it again after [`Self::remove_near`].
    pub fn make_near(&self) {
        let pid = self.far.pid().to_string();
        must(Command::new("ip"), &format!("link add near type veth peer name far netns {pid}"));
        must(Command::new("ip"), &format!("address add {NEAR}/24 dev near"));
        must(Command::new("ip"), "link set near up");
        must(self.over_there("ip"), &format!("address add {FAR}/24 dev far"));
        must(self.over_there("ip"), "link set far up");
    }

    /// Takes [`NEAR`] from our end of the first pair.
    pub fn remove_address(&self) {
        must(Command::new("ip"), &format!("address del {NEAR}/24 dev near"));
    }

    /// Gives it back.
    pub fn restore_address(&self) {
        must(Command::new("ip"), &format!("address add {NEAR}/24 dev near"));
    }

    /// A command that runs at the far end.
    pub fn over_there(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &self.far.pid().to_string(), program]);
        command
    }
}
