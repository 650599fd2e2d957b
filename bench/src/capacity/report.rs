//! What was found out, in plain words.

use std::fmt::Write;

use super::Findings;
use super::model::{Costs, Verdict};

/// GB/s or MB/s.
fn rate(bytes_per_s: f64) -> String {
    match bytes_per_s {
        fast if fast >= 1e9 => format!("{:.1} GB/s", fast / 1e9),
        slow => format!("{:.0} MB/s", slow / 1e6),
    }
}

/// Gbit/s or Mbit/s.
fn line(mbit: f64) -> String {
    match mbit {
        fast if fast >= 1000.0 => format!("{} Gbit/s", (fast / 100.0).round() / 10.0),
        slow => format!("{slow:.0} Mbit/s"),
    }
}

fn costs(name: &str, costs: &Costs) -> String {
    let all = costs.shards_cpu_s + costs.storage_cpu_s + costs.hash_cpu_s + costs.other_cpu_s;
    format!(
        "{name} {} beside the load generator, {all:.2} CPU s/GiB (shards {:.2}, storage {:.2}, hash {:.2}, other {:.2})",
        rate(costs.measured),
        costs.shards_cpu_s,
        costs.storage_cpu_s,
        costs.hash_cpu_s,
        costs.other_cpu_s
    )
}

fn verdict(name: &str, verdict: &Verdict) -> String {
    let holds = match verdict.line_mbit {
        Some(mbit) => format!("holds a line of {}", line(mbit.into())),
        None => "holds no line of 50 Mbit/s".to_owned(),
    };
    let full = |rate: f64| line(rate * 8.0 / 1e6);
    let mut text = format!("{name}: {holds} ({} of payload with a fifth to spare).", full(verdict.rate));
    if let [first, rest @ ..] = verdict.limits.as_slice() {
        let _ =
            write!(text, "\n  The limit is {}, full at {}: {}.", first.part, full(first.rate), first.remedy);
        if let Some(second) = rest.first() {
            let _ = write!(text, "\n  Next would be {} at {}.", second.part, full(second.rate));
        }
    }
    text
}

/// The report.
pub(super) fn text(found: &Findings) -> String {
    let Findings { machine, disk, hashing, network, measures, judgement, .. } = found;
    let mut text = String::new();
    let mut say = |line: String| text.push_str(&(line + "\n"));
    say(format!(
        "machine   {} CPUs ({}), {} MiB, Linux {}; {}{}",
        machine.cpus,
        machine.cpu_model,
        machine.ram_mib,
        machine.kernel,
        found.file_system,
        if disk.is_rotating { ", which says that it has heads" } else { "" }
    ));
    say(format!(
        "disk      write {}, {} with the sync; read {}; a small sync {:.2} ms",
        rate(disk.write),
        rate(disk.write_synced),
        rate(disk.read),
        disk.sync_ms
    ));
    let depth =
        |depth: Option<u32>| depth.map_or(format!("found {}", disk.found_depth), |depth| depth.to_string());
    let depths =
        disk.depths.iter().map(|at| format!("{}: {} / {}", depth(at.depth), rate(at.write), rate(at.read)));
    say(format!("          write / read by queue depth: {}", depths.collect::<Vec<_>>().join(", ")));
    if disk.buffered_share > 0.5 {
        say("          this file system does not take O_DIRECT: what was measured is mostly memory"
            .to_owned());
    }
    say(format!(
        "hash      SHA-1 {} on one CPU, {} on all; SHA-256 {}",
        rate(hashing.sha1),
        rate(hashing.sha1_all),
        rate(hashing.sha256)
    ));
    say(format!(
        "network   one TCP connection on loopback {}; {:.2} CPU s/GiB to send, {:.2} to receive",
        rate(network.rate),
        network.send_cpu_s,
        network.receive_cpu_s
    ));
    say(costs("transfer  download", &measures.download));
    say(costs("          upload", &measures.upload));
    say(String::new());
    say(verdict("Download", &judgement.download));
    say(verdict("Upload", &judgement.upload));
    say(format!("Settings for such a machine: ccbt-fast tune --profile {}", judgement.profile));
    say("Not tested: the network card and the way to your peers. A card costs interrupts that loopback does not have, and \
         saves the copy to a peer that loopback has; runs on a busy machine say too little.".to_owned());
    text
}

#[cfg(test)]
mod tests {
    use super::super::model::Limit;
    use super::*;

    #[test]
    fn a_verdict_names_line_limit_and_what_is_next() {
        let limit = |part, gbit: f64| Limit { part, rate: gbit * 1e9 / 8.0, remedy: "buy one" };
        let limits = vec![limit("the disk", 3.0), limit("the CPUs", 4.2)];
        let text = verdict("Upload", &Verdict { line_mbit: Some(2500), rate: 2.4e9 / 8.0, limits });
        let expected = "Upload: holds a line of 2.5 Gbit/s (2.4 Gbit/s of payload with a fifth to spare).\n  \
                        The limit is the disk, full at 3 Gbit/s: buy one.\n  Next would be the CPUs at 4.2 Gbit/s.";
        assert_eq!(text, expected);
        let none = verdict("Upload", &Verdict { line_mbit: None, rate: 1e6, limits: Vec::new() });
        assert_eq!(none, "Upload: holds no line of 50 Mbit/s (8 Mbit/s of payload with a fifth to spare).");
    }
}
