//! From what was measured to the line rate that a machine holds: pure arithmetic.
//!
//! The engine's threads work at the same time, so each part has a rate of its own at which it is full, and the machine
//! holds the least of them: the disk with its syncs, each kind of thread on as many CPUs as it may use, and all threads
//! together on the CPUs there are. Of that [`HEADROOM`] is left free, since lines and disks are not even.

use serde::Serialize;

const GIB: f64 = (1u64 << 30) as f64;
/// What a machine does for hours, of what it does for a moment.
const HEADROOM: f64 = 0.8;
/// Payload, of what a line carries: Ethernet, IP and TCP headers with 1500 bytes a packet, and BitTorrent's.
const PAYLOAD_SHARE: f64 = 0.94;
/// Usual lines, Mbit/s.
const LINES: [u32; 11] = [50, 100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 40_000, 100_000];
/// No disk with heads reads faster, bytes per second.
const HEADS_MAX: f64 = 0.6e9;
/// Memory of a machine that has little, MiB.
const SMALL_RAM_MIB: u64 = 1536;

/// What one way of a transfer costs the engine.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Costs {
    /// Payload as measured on loopback beside the load generator, bytes per second.
    pub measured: f64,
    /// CPU seconds per GiB: all shards together.
    pub shards_cpu_s: f64,
    /// The storage thread.
    pub storage_cpu_s: f64,
    /// All hash threads.
    pub hash_cpu_s: f64,
    /// The rest of the process, and the kernel's workers.
    pub other_cpu_s: f64,
}

/// What a machine was measured to do. Rates in bytes per second.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measures {
    /// CPUs that may be used.
    pub cpus: usize,
    /// Threads of the engine as it lays itself out here.
    pub shards: usize,
    /// The same for hashing.
    pub hash_threads: usize,
    /// Main memory.
    pub ram_mib: u64,
    /// The device says that it has heads that move; virtual disks often do.
    pub is_rotating: bool,
    /// Writing with the sync behind it.
    pub disk_write: f64,
    /// Reading past the page cache.
    pub disk_read: f64,
    /// SHA-1 on one CPU.
    pub sha1: f64,
    /// Sending TCP on loopback, CPU seconds per GiB.
    pub tcp_send_cpu_s: f64,
    /// Receiving it.
    pub tcp_receive_cpu_s: f64,
    /// What downloading costs.
    pub download: Costs,
    /// What uploading costs.
    pub upload: Costs,
}

/// A part and the payload rate at which it is full, bytes per second.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Limit {
    /// Its name.
    pub part: &'static str,
    /// Bytes per second.
    pub rate: f64,
    /// What to do about it.
    pub remedy: &'static str,
}

/// What a machine holds in one direction.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// The largest usual line that it fills, Mbit/s; `None`: not even the smallest.
    pub line_mbit: Option<u32>,
    /// Payload that it holds, bytes per second: the first limit less the headroom.
    pub rate: f64,
    /// The parts, the one that is full first at the front.
    pub limits: Vec<Limit>,
}

/// Both directions, and what to call this machine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judgement {
    /// One way.
    pub download: Verdict,
    /// The other.
    pub upload: Verdict,
    /// A profile of `ccbt-fast tune`.
    pub profile: &'static str,
}

/// Judges. See the module.
pub fn judge(measures: &Measures) -> Judgement {
    let download = verdict(measures, &measures.download, true);
    let upload = verdict(measures, &measures.upload, false);
    let profile = profile(measures, download.rate.max(upload.rate));
    Judgement { download, upload, profile }
}

fn verdict(measures: &Measures, costs: &Costs, is_download: bool) -> Verdict {
    // With nothing measured a part is no limit.
    let full = |cpus: f64, cpu_s: f64| if cpu_s > 0.0 { cpus * GIB / cpu_s } else { f64::INFINITY };
    let cpus = measures.cpus as f64;
    let threads = |count: usize| (count as f64).min(cpus);
    let all = costs.shards_cpu_s + costs.storage_cpu_s + costs.hash_cpu_s + costs.other_cpu_s;
    let disk = if is_download {
        Limit { part: "the disk (writing, with syncs)", rate: measures.disk_write, remedy: "a faster device" }
    } else {
        Limit {
            part: "the disk (reading what nobody asked for before)",
            rate: measures.disk_read,
            remedy: "a faster device; what is asked for often comes from memory",
        }
    };
    let mut limits = vec![
        disk,
        Limit { part: "the CPUs together", rate: full(cpus, all), remedy: "more or faster CPUs" },
        Limit {
            part: "the shards (peers' connections)",
            rate: full(threads(measures.shards), costs.shards_cpu_s),
            remedy: "more CPUs, or engine.shards",
        },
        Limit {
            part: "the storage thread",
            rate: full(1.0, costs.storage_cpu_s),
            remedy: "files on a disk with O_DIRECT instead of in memory; a faster CPU",
        },
    ];
    if is_download {
        let threads = threads(measures.hash_threads);
        let measured = full(threads, costs.hash_cpu_s);
        let rate = if measured.is_finite() { measured } else { threads * measures.sha1 };
        limits.push(Limit { part: "the hash threads", rate, remedy: "engine.hash_cpus with more CPUs" });
    }
    limits.retain(|limit| limit.rate.is_finite());
    limits.sort_by(|one, other| one.rate.total_cmp(&other.rate));
    let rate = HEADROOM * limits.first().map_or(0.0, |limit| limit.rate);
    let fills = |mbit: &u32| rate * 8.0 / 1e6 >= f64::from(*mbit) * PAYLOAD_SHARE;
    Verdict { line_mbit: LINES.into_iter().filter(fills).max(), rate, limits }
}

fn profile(measures: &Measures, rate: f64) -> &'static str {
    let gbit = rate * 8.0 / 1e9 / PAYLOAD_SHARE;
    match () {
        () if measures.ram_mib < SMALL_RAM_MIB => "vps-small",
        () if measures.is_rotating && measures.disk_read < HEADS_MAX => "hdd",
        () if gbit >= 25.0 => "bulk-25g+",
        () if gbit >= 10.0 => "seedbox-10g",
        // A fast disk behind a slow line, or too few CPUs for more.
        () => "seedbox-1g",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Measures {
        let costs =
            Costs { measured: 1e9, shards_cpu_s: 0.4, storage_cpu_s: 0.1, hash_cpu_s: 0.2, other_cpu_s: 0.1 };
        Measures {
            cpus: 8,
            shards: 6,
            hash_threads: 1,
            ram_mib: 32_768,
            is_rotating: false,
            disk_write: 3e9,
            disk_read: 6e9,
            sha1: 5e9,
            tcp_send_cpu_s: 0.1,
            tcp_receive_cpu_s: 0.2,
            download: costs,
            upload: Costs { hash_cpu_s: 0.0, ..costs },
        }
    }

    #[test]
    fn the_part_that_is_full_first_decides() {
        let judged = judge(&machine());
        assert_eq!(judged.download.limits[0].part, "the disk (writing, with syncs)");
        assert_eq!(judged.download.rate, 2.4e9, "less the headroom");
        assert_eq!(judged.download.line_mbit, Some(10_000), "19.2 Gbit/s of payload");
        let parts: Vec<f64> = judged.download.limits.iter().map(|limit| (limit.rate / 1e8).round()).collect();
        assert_eq!(parts, [30.0, 54.0, 107.0, 107.0, 161.0], "disk, hash, all CPUs, storage, shards");
        assert_eq!(judged.upload.rate, 0.8 * 6e9);
        assert_eq!((judged.upload.line_mbit, judged.profile), (Some(40_000), "bulk-25g+"));
    }

    #[test]
    fn threads_use_no_more_cpus_than_there_are() {
        let one = Measures { cpus: 1, shards: 1, disk_write: 1e12, disk_read: 1e12, ..machine() };
        let judged = judge(&one);
        let first = judged.download.limits[0];
        assert_eq!((first.part, first.rate.round()), ("the CPUs together", (GIB / 0.8).round()));
        assert_eq!(judged.profile, "seedbox-10g", "an upload costs no hashes");
        assert!(!judged.upload.limits.iter().any(|limit| limit.part.contains("hash")));
    }

    #[test]
    fn a_line_is_held_only_with_its_headers_and_headroom() {
        let at = |gbit: f64| {
            let write = gbit * PAYLOAD_SHARE * 1e9 / 8.0 / HEADROOM;
            judge(&Measures { disk_write: write, ..machine() }).download.line_mbit
        };
        assert_eq!((at(1.001), at(0.999)), (Some(1000), Some(500)));
        assert_eq!((at(0.0501), at(0.04)), (Some(50), None));
    }

    #[test]
    fn little_memory_and_moving_heads_have_profiles_of_their_own() {
        assert_eq!(judge(&Measures { ram_mib: 1024, ..machine() }).profile, "vps-small");
        let slow_heads = Measures { is_rotating: true, disk_read: 0.2e9, ..machine() };
        assert_eq!(judge(&slow_heads).profile, "hdd");
        let so_it_says = Measures { is_rotating: true, ..machine() };
        assert_eq!(judge(&so_it_says).profile, "bulk-25g+", "a virtual disk");
        let slow = Measures { disk_write: 2e9, disk_read: 2e9, ..machine() };
        assert_eq!(judge(&slow).profile, "seedbox-10g");
    }

    #[test]
    fn what_was_not_seen_to_cost_anything_is_no_limit_but_hashing_is() {
        let free =
            Costs { shards_cpu_s: 0.0, storage_cpu_s: 0.0, hash_cpu_s: 0.0, other_cpu_s: 0.0, measured: 1.0 };
        let judged = judge(&Measures { download: free, disk_write: 9e9, ..machine() });
        let parts: Vec<&str> = judged.download.limits.iter().map(|limit| limit.part).collect();
        assert_eq!(parts, ["the hash threads", "the disk (writing, with syncs)"]);
    }

    #[test]
    fn profiles_are_those_of_tune() {
        use ccbt_fast::tuning::Profile;
        let all = ["vps-small", "hdd", "bulk-25g+", "seedbox-10g", "seedbox-1g"];
        assert!(all.iter().all(|name| name.parse::<Profile>().is_ok()));
    }
}
