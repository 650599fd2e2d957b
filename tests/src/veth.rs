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
        let pid = this.far.pid().to_string();
        let ip = |args: &str| {
            let (code, _, stderr) = run("ip", Command::new("ip").args(args.split(' ')), SOON);
            if code == 0 { Ok(()) } else { Err(format!("ip {args}: {stderr}")) }
        };
        ip("link set lo up")?;
        ip(&format!("link add near type veth peer name far netns {pid}"))?;
        ip(&format!("address add {NEAR}/24 dev near"))?;
        ip("link set near up")?;
        for args in [format!("address add {FAR}/24 dev far"), "link set far up".to_owned()] {
            let (code, _, stderr) = run("ip", this.over_there("ip").args(args.split(' ')), SOON);
            assert_eq!(code, 0, "{stderr}");
        }
        Ok(this)
    }

    /// A command that runs at the far end.
    pub fn over_there(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &self.far.pid().to_string(), program]);
        command
    }
}
