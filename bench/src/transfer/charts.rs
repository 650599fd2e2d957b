//! Which figures of a [`Report`] go into which chart.

use super::report::{Medians, Report, Rows};
use crate::clients::Direction;
use crate::plot::{Chart, Group, Panel, Series, Style, Value};

/// Colours told apart by most colour-blind people (Okabe and Ito); a client has the same one in every chart.
const COLOURS: [(&str, &str); 5] = [
    ("ccbt", "#d55e00"),
    ("libtorrent", "#0072b2"),
    ("aria2", "#009e73"),
    ("transmission", "#cc79a7"),
    ("rqbit", "#e69f00"),
];

/// File names and charts: throughput, CPU time and latency; a chart for which nothing was measured is left out.
pub(super) fn charts(report: &Report) -> Vec<(&'static str, Chart)> {
    let groups = report.groups();
    let machine = &report.setting.machine;
    let load = format!(
        "pieces of {} KiB, median of {} interleaved runs, {} × {}, Linux {}",
        report.setting.piece_kib,
        report.rounds(),
        machine.cpus,
        machine.cpu_model,
        machine.kernel
    );
    let rate = |medians: &Medians| match (
        medians.durable_mb_per_s_min,
        medians.durable_mb_per_s,
        medians.durable_mb_per_s_max,
    ) {
        (Some(low), Some(middle), Some(high)) => Value { low, middle, high },
        _ => Value { low: medians.mb_per_s_min, middle: medians.mb_per_s, high: medians.mb_per_s_max },
    };
    let cpu = |medians: &Medians| Value {
        low: medians.cpu_s_per_gib_min,
        middle: medians.cpu_s_per_gib,
        high: medians.cpu_s_per_gib_max,
    };
    let latency = |medians: &Medians| {
        let ms = |us: u64| us as f64 / 1e3;
        let quantiles = &medians.latency;
        Value { low: ms(quantiles.p50_us), middle: ms(quantiles.p99_us), high: ms(quantiles.p999_us) }
    };
    let seeds: Vec<_> = groups.iter().filter(|group| group.mode == Direction::Seed).collect();
    let all: Vec<_> = groups.iter().collect();
    let chart = |title: &str, subtitle: String, style, decimals, panels| Chart {
        title: title.into(),
        subtitle,
        style,
        decimals,
        series: series(report),
        panels,
    };
    let charts = [
        (
            "transfer-throughput.svg",
            chart(
                "Throughput, MB/s (higher is better)",
                format!("whiskers: slowest and fastest run; {load}"),
                Style::Bars,
                0,
                panels(report, &all, &rate),
            ),
        ),
        (
            "transfer-cpu.svg",
            chart(
                "CPU time of the client, seconds per GiB (lower is better)",
                format!("user and system; whiskers: least and most; {load}"),
                Style::Bars,
                2,
                panels(report, &all, &cpu),
            ),
        ),
        (
            "transfer-latency.svg",
            chart(
                "Latency while seeding at full speed, ms (lower is better)",
                format!("from request to the block's last byte, {}", window_text()),
                Style::Quantiles,
                0,
                panels(report, &seeds, &latency),
            ),
        ),
    ];
    charts.into_iter().filter(|(_, chart)| !chart.panels.is_empty()).collect()
}

/// How deep the leechers' queues are, which is most of the latency.
pub(super) fn window_text() -> &'static str {
    "64 requests outstanding on each connection (transmission: up to 500)"
}

fn series(report: &Report) -> Vec<Series> {
    let colour = |name: &str| {
        COLOURS.iter().find(|(known, _)| *known == name).map_or("#7f7f7f", |(_, colour)| *colour)
    };
    report
        .clients
        .iter()
        .map(|client| Series { name: client.name.clone(), colour: colour(&client.name) })
        .collect()
}

/// One panel per direction and file system, one group per number of connections.
fn panels(report: &Report, groups: &[&Rows<'_>], value: &dyn Fn(&Medians) -> Value) -> Vec<Panel> {
    let mut panels: Vec<Panel> = Vec::new();
    for group in groups {
        let title = title(group.mode, group.file_system);
        let of = |name: &str| group.rows.iter().find(|row| row.task.client == name)?.medians.as_ref();
        let values = report.clients.iter().map(|client| of(&client.name).map(value)).collect();
        let plural = if group.connections == 1 { "" } else { "s" };
        let group = Group { label: format!("{} connection{plural}", group.connections), values };
        match panels.iter_mut().find(|panel| panel.title == title) {
            Some(panel) => panel.groups.push(group),
            None => panels.push(Panel { title, groups: vec![group] }),
        }
    }
    panels
}

/// A heading for people.
pub(super) fn title(mode: Direction, file_system: &str) -> String {
    match (mode, file_system) {
        (Direction::Download, "tmpfs") => "Download to memory".into(),
        (Direction::Download, disk) => format!("Download to {disk}, synced"),
        (Direction::Seed, "tmpfs") => "Seed from memory".into(),
        (Direction::Seed, disk) => format!("Seed from {disk}, cached"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn panels_groups_and_values_are_those_of_the_report() {
        let charts = charts(&report());
        let names: Vec<_> = charts.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["transfer-throughput.svg", "transfer-cpu.svg", "transfer-latency.svg"]);
        let rates = &charts[0].1;
        let titles: Vec<_> = rates.panels.iter().map(|panel| panel.title.as_str()).collect();
        assert_eq!(titles, ["Download to memory", "Seed from memory", "Download to ext4, synced"]);
        assert_eq!(rates.panels[0].groups[0].label, "1 connection");
        assert_eq!(rates.panels[0].groups[1].label, "20 connections");
        let first = rates.panels[0].groups[0].values.clone();
        assert!(first[0].is_some_and(|value| value.low < value.middle && value.middle < value.high));
        assert_eq!(first[1], None, "failed");
        let disk = rates.panels[2].groups[0].values[0].expect("measured").middle;
        assert_eq!(disk, (2u64 << 30) as f64 / 4e6, "until synced: the middle one of 8, 2 and 4 s");
        assert_eq!(charts[1].1.panels[0].groups[0].values[0].map(|value| value.middle), Some(1.5));
        assert_eq!(charts[2].1.panels.len(), 1, "only seeds");
        let median_ms = charts[2].1.panels[0].groups[0].values[0].expect("measured").low;
        assert!((median_ms - 3.5).abs() < 0.01, "{median_ms}: the histogram has three digits");
    }

    #[test]
    fn colours_are_constant_and_what_was_not_measured_has_no_chart() {
        let mut report = report();
        report.summary.retain(|row| row.task.mode == Direction::Download);
        let charts = charts(&report);
        assert_eq!(charts.len(), 2);
        assert_eq!(charts[0].1.series[0].colour, "#d55e00");
        assert_eq!(charts[0].1.series[1].colour, "#7f7f7f");
    }
}
