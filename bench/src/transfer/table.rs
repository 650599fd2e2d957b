//! The table for a terminal: what a [`Report`] says, with what failed.

use std::fmt::Write;

use super::report::{Medians, Report, Rows, Summary};
use crate::clients::Direction;

/// The whole report as text.
pub(super) fn table(report: &Report) -> String {
    let mut out = String::new();
    let mut line = |text: std::fmt::Arguments<'_>| writeln!(out, "{text}").expect("strings take all");
    let setting = &report.setting;
    line(format_args!(
        "\n{} MiB in pieces of {} KiB, {} runs; {} CPUs, Linux {}; {:.0} s",
        setting.size_mib,
        setting.piece_kib,
        report.rounds(),
        setting.machine.cpus,
        setting.machine.kernel,
        setting.elapsed_s
    ));
    for client in &report.clients {
        line(format_args!("{}: {}", client.name, client.version));
    }
    for group in report.groups() {
        line(format_args!("\n{}", head(&group)));
        group.rows.iter().for_each(|row| line(format_args!("{}", text_of(report, row))));
    }
    report.missing.iter().for_each(|name| line(format_args!("{name}: not installed")));
    for run in report.runs.iter().filter(|run| run.error.is_some()) {
        line(format_args!("{}", run.line()));
    }
    if report.summary.iter().filter_map(|row| row.medians.as_ref()).any(|row| report.generator_bound(row)) {
        line(format_args!("* the load generator was busy: it may be the limit; try --generator-threads"));
    }
    out
}

fn head(group: &Rows<'_>) -> String {
    let latency = match group.mode {
        Direction::Download => "us between requests",
        Direction::Seed => "us request to block",
    };
    let durable = if group.rows.iter().any(|row| durable(row).is_some()) { "  synced" } else { "" };
    let title = format!("{}, {} connections, {}", group.mode.name(), group.connections, group.file_system);
    format!(
        "{title}\n{:<13} {:>4} {:>5} {:>7} {:>13} {:>9} {:>8} {:>8} {:>8}{durable}  {latency}",
        "", "MiB", "ok", "MB/s", "min..max", "CPU s/GiB", "RSS MiB", "anon MiB", "gen busy"
    )
}

fn durable(row: &Summary) -> Option<f64> {
    row.medians.as_ref()?.durable_mb_per_s
}

fn text_of(report: &Report, row: &Summary) -> String {
    let ok = format!("{}/{}", row.runs - row.failed, row.runs);
    let start = format!("{:<13} {:>4} {ok:>5}", row.task.client, row.task.payload_mib);
    let Some(medians) = &row.medians else { return format!("{start} {:>7}", "FAILED") };
    let Medians { mb_per_s, mb_per_s_min, mb_per_s_max, .. } = medians;
    let range = format!("{mb_per_s_min:.0}..{mb_per_s_max:.0}");
    let star = if report.generator_bound(medians) { "*" } else { " " };
    let durable = durable(row).map(|rate| format!(" {rate:>6.0}")).unwrap_or_default();
    let latency = &medians.latency;
    format!(
        "{start} {mb_per_s:>7.0} {range:>13} {:>9.2} {:>8.0} {:>8.0} {:>7.0}%{star}{durable} p50 {} p99 {} p99.9 {}",
        medians.cpu_s_per_gib,
        medians.peak_rss_mib,
        medians.peak_anon_mib,
        medians.generator_busy * 100.0,
        latency.p50_us,
        latency.p99_us,
        latency.p999_us
    )
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn shows_failures_groups_and_a_busy_generator() {
        let mut report = report();
        let text = table(&report);
        assert!(text.contains("FAILED: no luck") && text.contains("0/3") && text.contains("3/3"), "{text}");
        assert!(text.contains("third: not installed") && !text.contains('*'), "{text}");
        assert!(text.contains("download, 20 connections, ext4") && text.contains("synced"), "{text}");
        report.summary[0].medians.as_mut().expect("has good runs").generator_busy = 0.97;
        assert!(table(&report).contains("97%*"));
    }
}
