//! What is good enough. Pure.
//!
//! The bounds are arithmetic, not taste: one connection carries its buffer per round trip, so 16 MiB and 100 ms are
//! 160 MB/s; peers take a descriptor and, when dialled, a port each.

use ccbt_storage::ring::ProbeError;
use ccbt_storage::ring::features::{Feature, Features, VARIABLE};

use super::{Facts, Finding};

/// Largest buffer of a TCP connection that is enough for a gigabit and a half at 100 ms.
const TCP_BUFFER: u64 = 16 << 20;
/// Largest buffer of a UDP socket (uTP, DHT): a burst of a few milliseconds at 10 Gbit/s.
const UDP_BUFFER: u64 = 4 << 20;
/// Connections that may wait to be accepted.
const BACKLOG: u64 = 1024;
/// Descriptors: 500 peers, 512 files, and some.
const DESCRIPTORS: u64 = 2048;
/// What the rings of an engine lock, measured on Linux 6.18: 0.5 to 1 MiB with one shard, 1 to 2 with four; counted
/// per user.
const MEMLOCK: u64 = 1 << 20;
const MEMLOCK_PER_SHARD: u64 = 512 << 10;
/// Engines of one user that may run at a time: a daemon, and a command beside it.
const ENGINES: u64 = 2;
/// Ports for outgoing connections.
const PORTS: u64 = 20_000;
/// The oldest kernel that runs it, and the one from which all that is used is there.
const OLDEST: (u32, u32) = (5, 13);
const BEST: (u32, u32) = (6, 1);

/// Judges what the system says.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![kernel(facts.release.as_deref())];
    findings.extend(switch(facts));
    findings.push(memlock(facts.memlock, facts.shards));
    findings.push(descriptors(facts.descriptors));
    let tcp = "largest buffer of a TCP connection";
    findings.extend(buffer(facts, "tcp-receive", "net.ipv4.tcp_rmem", TCP_BUFFER, tcp));
    findings.extend(buffer(facts, "tcp-send", "net.ipv4.tcp_wmem", TCP_BUFFER, tcp));
    let udp = "largest buffer of a UDP socket";
    findings.extend(buffer(facts, "udp-receive", "net.core.rmem_max", UDP_BUFFER, udp));
    findings.extend(buffer(facts, "udp-send", "net.core.wmem_max", UDP_BUFFER, udp));
    findings.extend(backlog(facts, "accept-queue", "net.core.somaxconn"));
    findings.extend(backlog(facts, "syn-queue", "net.ipv4.tcp_max_syn_backlog"));
    findings.extend(ports(facts));
    findings.extend(congestion(facts));
    findings.extend(busy_poll(facts));
    findings.extend(clock(facts));
    findings.extend(huge_pages(facts));
    findings
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn kernel(release: Option<&str>) -> Finding {
    let Some((release, number)) = release.and_then(|text| Some((text, version(text)?))) else {
        return Finding::warn(
            "kernel",
            "the kernel does not tell its release",
            "look at `uname -r`: 6.1 or newer is best",
        );
    };
    let found = format!("Linux {release}");
    match number {
        _ if number < OLDEST => {
            Finding::fail("kernel", found, "install Linux 6.1 or newer; 5.13 is the oldest that runs")
        }
        _ if number < BEST => {
            Finding::warn("kernel", found, "Linux 6.1 or newer has rings that cost less and zero-copy sends")
        }
        _ => Finding::ok("kernel", found),
    }
}

fn switch(facts: &Facts) -> Option<Finding> {
    let value = facts.sysctls.get("kernel.io_uring_disabled")?;
    let found = format!("kernel.io_uring_disabled = {value}");
    Some(match value.as_str() {
        "0" => Finding::ok("io_uring-switch", found),
        _ => Finding::fail("io_uring-switch", found, "sysctl -w kernel.io_uring_disabled=0"),
    })
}

/// What trying io_uring gave.
pub(super) fn ring(probe: Result<(), ProbeError>) -> Finding {
    match probe {
        Ok(()) => Finding::ok("io_uring", "a ring with all operations that are needed was made"),
        Err(error) => Finding::fail("io_uring", "no ring could be made", error.to_string()),
    }
}

/// What rings do without: `there` is what the kernel has, `used` what is left of it.
pub(super) fn ring_features(there: Features, used: Features) -> Finding {
    let listed = |wanted: &dyn Fn(Feature) -> bool, named: &dyn Fn(Feature) -> String| {
        let all = Feature::ALL.into_iter().filter(|feature| wanted(*feature));
        all.map(named).collect::<Vec<_>>().join(", ")
    };
    let name = |feature: Feature| feature.name().to_owned();
    let since = |feature: Feature| format!("{} (Linux {})", feature.name(), feature.since());
    let has = listed(&|feature| used.has(feature), &name);
    let lacks = listed(&|feature| !there.has(feature), &since);
    let off = listed(&|feature| there.has(feature) && !used.has(feature), &name);
    let mut found =
        format!("rings use {}", if has.is_empty() { "nothing that can be done without" } else { &has });
    for (what, list) in [("the kernel lacks", &lacks), ("not to be used are", &off)] {
        if !list.is_empty() {
            found += &format!("; {what} {list}");
        }
    }
    let mut advice = Vec::new();
    if !lacks.is_empty() {
        advice.push(
            "what lacks is done without, at the cost of CPU time: Linux 6.1 or newer has all".to_owned(),
        );
    }
    if !off.is_empty() {
        advice.push(format!("unset {VARIABLE}"));
    }
    match advice.is_empty() {
        true => Finding::ok("io_uring-features", found),
        false => Finding::warn("io_uring-features", found, advice.join("; ")),
    }
}

fn words(bytes: Option<u64>) -> String {
    match bytes {
        None => "unlimited".to_owned(),
        Some(bytes) if bytes >= 1 << 20 => format!("{} MiB", bytes >> 20),
        Some(bytes) => format!("{} KiB", bytes >> 10),
    }
}

fn memlock(bytes: Option<u64>, shards: u64) -> Finding {
    let found = format!("{} may be locked", words(bytes));
    let wanted = ENGINES * (MEMLOCK + shards * MEMLOCK_PER_SHARD);
    if bytes.is_none_or(|bytes| bytes >= wanted) {
        return Finding::ok("memlock", found);
    }
    Finding::warn("memlock", found, "ulimit -l 65536 (LimitMEMLOCK=64M for systemd)")
}

fn descriptors((now, most): (Option<u64>, Option<u64>)) -> Finding {
    let shown = |count: Option<u64>| count.map_or_else(|| "any number".to_owned(), |count| count.to_string());
    let found = format!("{} descriptors, may be raised to {}", shown(now), shown(most));
    // The program raises what it may by itself.
    if most.is_none_or(|most| most >= DESCRIPTORS) {
        return Finding::ok("descriptors", found);
    }
    let advice = format!("one per peer and open file: ulimit -n {} (LimitNOFILE= for systemd)", 1 << 16);
    Finding::warn("descriptors", found, advice)
}

fn buffer(facts: &Facts, check: &'static str, name: &str, wanted: u64, what: &str) -> Option<Finding> {
    let most = facts.number(name)?;
    let found = format!("{what}: {}", words(Some(most)));
    if most >= wanted {
        return Some(Finding::ok(check, found));
    }
    let value = match facts.sysctls[name].split(' ').collect::<Vec<_>>()[..] {
        [least, usual, _] => format!("\"{least} {usual} {wanted}\""),
        _ => wanted.to_string(),
    };
    // What TCP may use is not bounded by rmem_max, and one connection carries a buffer per round trip.
    let at_100_ms = most / 100_000;
    let cost = if check.starts_with("tcp") {
        format!("over 100 ms a peer gets {at_100_ms} MB/s at most: ")
    } else {
        "bursts of uTP and DHT packets are lost: ".to_owned()
    };
    Some(Finding::warn(check, found, format!("{cost}sysctl -w {name}={value}")))
}

fn backlog(facts: &Facts, check: &'static str, name: &str) -> Option<Finding> {
    let most = facts.number(name)?;
    let found = format!("{most} connections may wait");
    Some(if most >= BACKLOG {
        Finding::ok(check, found)
    } else {
        Finding::warn(check, found, format!("sysctl -w {name}=4096"))
    })
}

fn ports(facts: &Facts) -> Option<Finding> {
    let text = facts.sysctls.get("net.ipv4.ip_local_port_range")?;
    let (first, last) = text.split_once(' ')?;
    let count = (last.parse::<u64>().ok()? + 1).saturating_sub(first.parse().ok()?);
    let found = format!("{count} ports for outgoing connections ({first} to {last})");
    Some(if count >= PORTS {
        Finding::ok("ports", found)
    } else {
        Finding::warn("ports", found, "sysctl -w net.ipv4.ip_local_port_range=\"10240 65535\"")
    })
}

fn congestion(facts: &Facts) -> Option<Finding> {
    let now = facts.sysctls.get("net.ipv4.tcp_congestion_control")?;
    let found = format!("{now} is the congestion control");
    let all = facts.sysctls.get("net.ipv4.tcp_available_congestion_control");
    let has_bbr = all.is_some_and(|all| all.split(' ').any(|name| name == "bbr"));
    let load = if has_bbr { "" } else { "modprobe tcp_bbr && " };
    Some(match now.as_str() {
        "bbr" | "cubic" => Finding::ok("congestion", found),
        _ => Finding::warn(
            "congestion",
            found,
            format!(
                "{load}sysctl -w net.ipv4.tcp_congestion_control=bbr (cubic on a network without losses)"
            ),
        ),
    })
}

fn busy_poll(facts: &Facts) -> Option<Finding> {
    let value = facts.sysctls.get("net.core.busy_poll")?;
    let found = format!("net.core.busy_poll = {value}");
    Some(if value == "0" {
        Finding::ok("busy-poll", found)
    } else {
        let advice =
            "it burns CPU time for latency, which transfers do not need: sysctl -w net.core.busy_poll=0";
        Finding::warn("busy-poll", found, advice)
    })
}

fn clock(facts: &Facts) -> Option<Finding> {
    let (now, all) = facts.clock.as_ref()?;
    let found = format!("time comes from {now}");
    // These are read without a system call.
    let is_cheap =
        |name: &str| matches!(name, "tsc" | "kvm-clock" | "hyperv_clocksource_tsc_page" | "arch_sys_counter");
    if is_cheap(now) {
        return Some(Finding::ok("clock", found));
    }
    let better = all.iter().find(|name| is_cheap(name));
    Some(match better {
        Some(better) => {
            let file = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
            Finding::warn("clock", found, format!("each look at it is a system call: echo {better} > {file}"))
        }
        None => Finding::warn(
            "clock",
            found,
            "each look at it is a system call; this machine offers no cheaper one",
        ),
    })
}

fn huge_pages(facts: &Facts) -> Option<Finding> {
    let now = facts.huge_pages.as_ref()?;
    let found = format!("transparent huge pages: {now}");
    Some(if now == "never" {
        let advice = "small pages cost time: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled";
        Finding::warn("huge-pages", found, advice)
    } else {
        Finding::ok("huge-pages", found)
    })
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    fn good() -> Facts {
        let sysctls = [
            ("kernel.io_uring_disabled", "0"),
            ("net.core.rmem_max", "4194304"),
            ("net.core.wmem_max", "4194304"),
            ("net.core.somaxconn", "4096"),
            ("net.core.busy_poll", "0"),
            ("net.ipv4.tcp_rmem", "4096 131072 16777216"),
            ("net.ipv4.tcp_wmem", "4096 16384 16777216"),
            ("net.ipv4.tcp_max_syn_backlog", "4096"),
            ("net.ipv4.tcp_congestion_control", "bbr"),
            ("net.ipv4.tcp_available_congestion_control", "reno cubic bbr"),
            ("net.ipv4.ip_local_port_range", "32768 60999"),
        ];
        Facts {
            release: Some("6.12.9-amd64".into()),
            sysctls: sysctls.map(|(name, value)| (name.into(), value.into())).into(),
            memlock: Some(8 << 20),
            shards: 2,
            descriptors: (Some(1024), Some(1 << 20)),
            clock: Some(("tsc".into(), vec!["tsc".into(), "hpet".into()])),
            huge_pages: Some("madvise".into()),
        }
    }

    /// The one finding that is not ok after `change`.
    fn odd(change: impl FnOnce(&mut Facts)) -> Finding {
        let mut facts = good();
        change(&mut facts);
        let odd: Vec<Finding> =
            judge(&facts).into_iter().filter(|finding| finding.verdict != Verdict::Ok).collect();
        assert!(odd.len() == 1 && odd[0].advice.is_some(), "{odd:?}");
        odd[0].clone()
    }

    #[test]
    fn a_good_machine_has_nothing_to_change() {
        let findings = judge(&good());
        assert!(
            findings.iter().all(|finding| finding.verdict == Verdict::Ok && finding.advice.is_none()),
            "{findings:?}"
        );
        assert_eq!(findings.len(), 15);
    }

    #[test]
    fn each_lack_is_named_with_what_to_type() {
        let set = |name: &'static str, value: &'static str| {
            odd(move |facts: &mut Facts| drop(facts.sysctls.insert(name.into(), value.into())))
        };
        let cases = [
            (odd(|facts| facts.release = Some("5.10.0".into())), "kernel", Verdict::Fail, "6.1"),
            (odd(|facts| facts.release = Some("5.15.0-1-amd64".into())), "kernel", Verdict::Warn, "6.1"),
            (set("kernel.io_uring_disabled", "2"), "io_uring-switch", Verdict::Fail, "io_uring_disabled=0"),
            (odd(|facts| facts.shards = 55), "memlock", Verdict::Warn, "ulimit -l"),
            (odd(|facts| facts.descriptors.1 = Some(1024)), "descriptors", Verdict::Warn, "ulimit -n"),
            (
                set("net.ipv4.tcp_rmem", "4096 131072 6291456"),
                "tcp-receive",
                Verdict::Warn,
                "62 MB/s at most: sysctl -w net.ipv4.tcp_rmem=\"4096 131072 16777216\"",
            ),
            (set("net.core.rmem_max", "212992"), "udp-receive", Verdict::Warn, "net.core.rmem_max=4194304"),
            (set("net.core.somaxconn", "128"), "accept-queue", Verdict::Warn, "somaxconn=4096"),
            (set("net.ipv4.ip_local_port_range", "60000 60999"), "ports", Verdict::Warn, "10240 65535"),
            (set("net.ipv4.tcp_congestion_control", "reno"), "congestion", Verdict::Warn, "=bbr"),
            (set("net.core.busy_poll", "50"), "busy-poll", Verdict::Warn, "busy_poll=0"),
            (
                odd(|facts| facts.clock.as_mut().unwrap().0 = "hpet".into()),
                "clock",
                Verdict::Warn,
                "echo tsc",
            ),
            (odd(|facts| facts.huge_pages = Some("never".into())), "huge-pages", Verdict::Warn, "madvise"),
        ];
        for (finding, check, verdict, advice) in cases {
            assert_eq!((finding.check, finding.verdict), (check, verdict), "{finding:?}");
            assert!(finding.advice.as_ref().unwrap().contains(advice), "{finding:?}");
        }
    }

    #[test]
    fn what_the_system_does_not_tell_is_not_judged() {
        let findings = judge(&Facts::default());
        let checks: Vec<_> = findings.iter().map(|finding| finding.check).collect();
        assert_eq!(checks, ["kernel", "memlock", "descriptors"]);
    }

    #[test]
    fn what_rings_do_without_is_listed_with_its_kernel() {
        let all = ccbt_storage::ring::features::of_kernel().expect("rings can be made");
        let old = ring_features(Features::NONE, Features::NONE);
        assert!(old.verdict == Verdict::Warn && old.found.contains("accept-multi (Linux 5.19)"), "{old:?}");
        let off = ring_features(all, Features::NONE);
        assert!(off.found.contains("not to be used are") && off.advice.unwrap().contains(VARIABLE));
        if Feature::ALL.into_iter().all(|feature| all.has(feature)) {
            assert_eq!(ring_features(all, all).verdict, Verdict::Ok);
        }
    }

    #[test]
    fn a_ring_that_cannot_be_made_says_why() {
        let finding = ring(Err(ProbeError::Forbidden));
        assert_eq!(finding.verdict, Verdict::Fail);
        assert!(finding.advice.unwrap().contains("seccomp"));
    }
}
