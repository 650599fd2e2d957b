//! A [`Report`] as Markdown: the page with everything, and the headline for the README.

use std::fmt::Write;

use super::charts::{title, window_text};
use super::report::{Medians, Report, Rows, Summary};
use crate::clients::Direction;

/// The page; `charts` are files beside it.
pub(super) fn page(report: &Report, charts: &[&str]) -> String {
    let mut out =
        String::from("# ccbt-fast and other clients\n\nMade by `ccbt-bench`; not edited by hand.\n\n");
    out.push_str(&circumstances(report));
    out.push_str("\n## Charts\n\n");
    charts.iter().for_each(|chart| out += &format!("![{chart}]({chart})\n\n"));
    for mode in [Direction::Download, Direction::Seed] {
        for group in titles(report, mode) {
            let _ = writeln!(out, "## {group}\n");
            out.push_str(&table(report, mode, &group));
            out.push('\n');
        }
    }
    out.push_str(&failures(report));
    out.push_str("## What the columns say\n\n");
    out.push_str(&explanation());
    out
}

fn circumstances(report: &Report) -> String {
    let (setting, machine) = (&report.setting, &report.setting.machine);
    let features = if machine.hash_features.is_empty() {
        String::new()
    } else {
        format!(" ({})", machine.hash_features.join(", "))
    };
    let mut out = format!(
        "* Machine: {} × {}{features}, {:.1} GiB of memory, Linux {}; {}\n",
        machine.cpus,
        machine.cpu_model,
        machine.ram_mib as f64 / 1024.0,
        machine.kernel,
        setting.date
    );
    let _ = writeln!(
        out,
        "* Load: up to {} MiB in pieces of {} KiB, a synthetic load generator on loopback, {}",
        setting.size_mib,
        setting.piece_kib,
        window_text()
    );
    let _ = writeln!(
        out,
        "* Runs: one interleaved run of everything, {} rounds in rotating order after a warm-up, {:.0} minutes; \
         medians. Clients too slow for the time got a smaller payload or fewer runs, as the tables say",
        report.rounds(),
        setting.elapsed_s / 60.0
    );
    for client in &report.clients {
        let _ = writeln!(out, "* {}: {}; {}", client.name, client.version, client.settings);
    }
    out
}

fn titles(report: &Report, mode: Direction) -> Vec<String> {
    let mut titles: Vec<String> = Vec::new();
    for group in report.groups().iter().filter(|group| group.mode == mode) {
        let title = title(group.mode, group.file_system);
        if !titles.contains(&title) {
            titles.push(title);
        }
    }
    titles
}

fn table(report: &Report, mode: Direction, wanted: &str) -> String {
    let groups = report.groups();
    let groups: Vec<&Rows<'_>> = groups
        .iter()
        .filter(|group| group.mode == mode && title(group.mode, group.file_system) == wanted)
        .collect();
    let is_disk = groups
        .iter()
        .flat_map(|group| &group.rows)
        .any(|row| row.medians.as_ref().is_some_and(|medians| medians.durable_mb_per_s.is_some()));
    let mut columns = vec!["connections", "client", "MB/s", "min..max"];
    if is_disk {
        columns.extend(["MB/s, synced", "min..max"]);
    }
    columns.push("CPU s/GiB");
    if is_disk {
        columns.push("machine s/GiB");
    }
    columns.extend(["RSS MiB", "anon MiB"]);
    if mode == Direction::Seed {
        columns.push("p50 / p99 / p99.9 ms");
    }
    columns.extend(["payload MiB", "runs"]);
    let mut out = format!("| {} |\n|---|---{}|\n", columns.join(" | "), "|--:".repeat(columns.len() - 2));
    for group in groups {
        for (nth, row) in group.rows.iter().enumerate() {
            let connections = if nth == 0 { group.connections.to_string() } else { String::new() };
            let mut cells = vec![connections, row.task.client.clone()];
            cells.extend(figures(report, row, mode, is_disk, columns.len() - 4));
            cells.push(row.task.payload_mib.to_string());
            cells.push(match row.failed {
                0 => row.runs.to_string(),
                failed => format!("{} of {}", row.runs - failed, row.runs),
            });
            let _ = writeln!(out, "| {} |", cells.join(" | "));
        }
    }
    out
}

fn figures(report: &Report, row: &Summary, mode: Direction, is_disk: bool, columns: usize) -> Vec<String> {
    let Some(medians) = &row.medians else {
        return std::iter::once("failed".into()).chain(vec![String::new(); columns - 1]).collect();
    };
    let star = if report.generator_bound(medians) { "\\*" } else { "" };
    let range = |low: f64, high: f64| format!("{low:.0}..{high:.0}");
    let mut cells =
        vec![format!("{:.0}{star}", medians.mb_per_s), range(medians.mb_per_s_min, medians.mb_per_s_max)];
    if is_disk {
        let figure = |rate: Option<f64>| rate.unwrap_or(0.0);
        cells.push(format!("{:.0}", figure(medians.durable_mb_per_s)));
        cells.push(range(figure(medians.durable_mb_per_s_min), figure(medians.durable_mb_per_s_max)));
    }
    cells.push(format!("{:.2}", medians.cpu_s_per_gib));
    if is_disk {
        cells.push(format!("{:.2}", medians.machine_cpu_s_per_gib));
    }
    cells.extend([format!("{:.0}", medians.peak_rss_mib), format!("{:.0}", medians.peak_anon_mib)]);
    if mode == Direction::Seed {
        let ms = |us: u64| format!("{:.1}", us as f64 / 1e3);
        let latency = &medians.latency;
        cells.push(format!("{} / {} / {}", ms(latency.p50_us), ms(latency.p99_us), ms(latency.p999_us)));
    }
    cells
}

fn failures(report: &Report) -> String {
    let mut lines: Vec<String> =
        report.missing.iter().map(|name| format!("* {name}: not installed")).collect();
    lines.extend(report.runs.iter().filter(|run| run.error.is_some()).map(|run| format!("* {}", run.line())));
    if report.summary.iter().filter_map(|row| row.medians.as_ref()).any(|row| report.generator_bound(row)) {
        lines.push("* \\* the load generator was busy and may be the limit".into());
    }
    if lines.is_empty() { String::new() } else { format!("## Notes\n\n{}\n\n", lines.join("\n")) }
}

fn explanation() -> String {
    [
        "* MB/s: from the first request to the client's own word that it is done (download), from the first dial to \
         the last block (seed).",
        "* synced: until `syncfs` returns, so that what waits in the page cache counts.",
        "* CPU: user and system time of the whole client process, for a download to its end. machine: of everything \
         but the load generator, the kernel's own threads included.",
        "* RSS: peak of the resident memory, mapped files included; anon: its part that is no file.",
        "* Latency: from a request to the last byte of its block. At full speed it is mostly the time in the queue.",
    ]
    .join("\n")
        + "\n"
}

/// The headline: both directions in memory at the middle number of connections. `folder` is where the page and the
/// charts are, as a link.
pub(super) fn headline(report: &Report, folder: &str, charts: &[&str]) -> String {
    let connections = report.headline_connections();
    let (setting, machine) = (&report.setting, &report.setting.machine);
    let plural = if connections == 1 { "" } else { "s" };
    let mut out = format!(
        "Medians of {} interleaved runs on loopback, up to {} MiB in pieces of {} KiB, the same for all clients of \
         a column (\\* far too slow: one run, perhaps with less), {connections} \
         connection{plural} to a synthetic load generator, in memory; {} × {}, Linux {}, {}.\n\n",
        report.rounds(),
        setting.size_mib,
        setting.piece_kib,
        machine.cpus,
        machine.cpu_model,
        machine.kernel,
        setting.date
    );
    out += "| | download MB/s | CPU s/GiB | peak RSS MiB | seed MB/s | CPU s/GiB | peak RSS MiB |\n";
    out += "|---|--:|--:|--:|--:|--:|--:|\n";
    for client in &report.clients {
        let cells = [Direction::Download, Direction::Seed].map(|mode| {
            let Some((row, medians)) = of(report, mode, connections, &client.name) else {
                return " – | – | –".to_owned();
            };
            let mark = if row.runs < report.rounds() { "\\*" } else { "" };
            format!(
                " {:.0}{mark} | {:.2} | {:.0}",
                medians.mb_per_s, medians.cpu_s_per_gib, medians.peak_rss_mib
            )
        });
        let _ = writeln!(out, "| {} |{} |{} |", client.version, cells[0], cells[1]);
    }
    out.push('\n');
    if let Some(chart) = charts.first() {
        let _ = writeln!(out, "![Throughput by client and connections]({folder}/{chart})\n");
    }
    let _ = writeln!(
        out,
        "[All figures]({folder}/transfer.md): other numbers of connections, downloads to a disk, latencies."
    );
    out
}

type Row<'a> = (&'a Summary, &'a Medians);

fn of<'a>(report: &'a Report, mode: Direction, connections: u32, client: &str) -> Option<Row<'a>> {
    // The first group of a kind is the one in the first folder.
    let groups = report.groups();
    let group = groups.iter().find(|group| group.mode == mode && group.connections == connections)?;
    let name = client;
    let row = group.rows.iter().find(|row| row.task.client == name)?;
    row.medians.as_ref().map(|medians| (*row, medians))
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    /// Number of cells of each line of the tables.
    fn widths(text: &str) -> Vec<usize> {
        text.lines().filter(|line| line.starts_with('|')).map(|line| line.matches('|').count()).collect()
    }

    #[test]
    fn the_page_has_every_table_chart_and_failure() {
        let text = page(&report(), &["a.svg", "b.svg"]);
        for part in [
            "2 × Some CPU (sha_ni), 23.5 GiB of memory, Linux 6.18.1; 2026-01-31",
            "## Download to memory",
            "## Seed from memory",
            "## Download to ext4, synced",
            "![b.svg](b.svg)",
            "| 1 | ccbt | 1074 | 537..2147 | 1.50 | 10 | 1 | 2048 | 3 |",
            "|  | other | failed |",
            "0 of 3",
            "* third: not installed",
            "FAILED: no luck",
            "3.5 / 6.9 / 7.0",
            "other 1.0; as it comes",
        ] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        assert!(text.lines().all(|line| !line.ends_with(' ')), "{text}");
    }

    #[test]
    fn tables_are_rectangular() {
        let text = page(&report(), &[]);
        for part in text.split("## ").filter(|part| part.contains("|---|")) {
            let widths = widths(part);
            assert!(widths.len() > 3 && widths.iter().all(|width| *width == widths[0]), "{part}");
        }
        let widths = widths(&headline(&report(), "bench/results", &[]));
        assert_eq!(widths, [8; 4]);
    }

    #[test]
    fn the_headline_is_the_middle_number_of_connections() {
        let text = headline(&report(), "bench/results", &["transfer-throughput.svg"]);
        // Third task of the downloads, fifth and seventh of all: 2 s × 3 and 2 s × 7.
        assert!(text.contains("| ccbt 1.0 | 358 | 1.50 | 10 | 153 | 1.50 | 10 |"), "{text}");
        assert!(
            text.contains("20 connections to") && text.contains("(bench/results/transfer-throughput.svg)"),
            "{text}"
        );
    }
}
