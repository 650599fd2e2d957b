//! One answer to a scrape while it is written.
//!
//! Role: gauges and counters go through the recorder of `metrics-exporter-prometheus`; what that cannot hold, seconds
//! with fractions and histograms that were counted elsewhere, is written beside it in the same format. Owner:
//! [`super::Collector`], which makes one for each answer, so that what is gone leaves no series behind.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ccbt_storage::stats::{LATENCY_BUCKETS, LatencyStats};
use metrics::{Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

use super::catalogue::{self, Kind};

const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

/// Names and values of labels.
pub(super) type Labels<'a> = &'a [(&'static str, &'a str)];

/// See the module.
pub(super) struct Sheet {
    recorder: PrometheusRecorder,
    /// By name: the lines of the recorder's stepchildren.
    lines: BTreeMap<&'static str, String>,
}

impl Sheet {
    pub fn new() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        for (name, kind, text) in catalogue::METRICS {
            match kind {
                Kind::Gauge => recorder.describe_gauge((*name).into(), None, (*text).into()),
                Kind::Counter => recorder.describe_counter((*name).into(), None, (*text).into()),
                Kind::Seconds | Kind::Histogram => {}
            }
        }
        Self { recorder, lines: BTreeMap::new() }
    }

    pub fn gauge(&self, name: &'static str, labels: Labels<'_>, value: f64) {
        debug_assert!(catalogue::find(name).is_some_and(|(kind, _)| kind == Kind::Gauge), "{name}");
        self.recorder.register_gauge(&key(name, labels), &METADATA).set(value);
    }

    pub fn counter(&self, name: &'static str, labels: Labels<'_>, value: u64) {
        debug_assert!(catalogue::find(name).is_some_and(|(kind, _)| kind == Kind::Counter), "{name}");
        self.recorder.register_counter(&key(name, labels), &METADATA).absolute(value);
    }

    /// A counter of seconds.
    pub fn seconds(&mut self, name: &'static str, labels: Labels<'_>, value: f64) {
        let line = format!("{name}{} {value}\n", braces(labels, None));
        self.lines_of(name, Kind::Seconds, "counter").push_str(&line);
    }

    /// A histogram of seconds.
    pub fn latency(&mut self, name: &'static str, labels: Labels<'_>, stats: &LatencyStats) {
        let (mut text, mut count) = (String::new(), 0);
        for (bucket, in_it) in stats.buckets.iter().enumerate() {
            count += in_it;
            // The last one has no upper bound.
            let bound = match bucket < LATENCY_BUCKETS - 1 {
                true => ((1u64 << bucket) as f64 / 1e6).to_string(),
                false => "+Inf".to_owned(),
            };
            let _ = writeln!(text, "{name}_bucket{} {count}", braces(labels, Some(&bound)));
        }
        let labels = braces(labels, None);
        let _ = writeln!(text, "{name}_sum{labels} {}", stats.sum_us as f64 / 1e6);
        let _ = writeln!(text, "{name}_count{labels} {count}");
        self.lines_of(name, Kind::Histogram, "histogram").push_str(&text);
    }

    fn lines_of(&mut self, name: &'static str, kind: Kind, word: &str) -> &mut String {
        self.lines.entry(name).or_insert_with(|| {
            let found = catalogue::find(name).filter(|(known, _)| *known == kind);
            debug_assert!(found.is_some(), "{name}");
            let text = found.map_or("", |(_, text)| text);
            format!("# HELP {name} {text}\n# TYPE {name} {word}\n")
        })
    }

    /// The text of Prometheus, format 0.0.4.
    pub fn text(self) -> String {
        let mut text = self.recorder.handle().render();
        self.lines.values().for_each(|lines| text.push_str(lines));
        text
    }
}

fn key(name: &'static str, labels: Labels<'_>) -> Key {
    let labels: Vec<Label> =
        labels.iter().map(|(name, value)| Label::new(*name, (*value).to_owned())).collect();
    Key::from_parts(name, labels)
}

/// The labels of a line, with the bound of a bucket as the last one.
fn braces(labels: Labels<'_>, bound: Option<&str>) -> String {
    let all = labels.iter().copied().chain(bound.map(|bound| ("le", bound)));
    let escape = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let all: Vec<String> = all.map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
    if all.is_empty() { String::new() } else { format!("{{{}}}", all.join(",")) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn histograms_are_cumulative_and_labels_escaped() {
        let mut stats = LatencyStats::default();
        for us in [3, 3, 900, u64::MAX / 4] {
            stats.record(Duration::from_micros(us));
        }
        let mut sheet = Sheet::new();
        sheet.latency("ccbt_disk_latency_seconds", &[("device", "a\"\\\n")], &stats);
        sheet.seconds("process_cpu_seconds_total", &[], 1.5);
        let text = sheet.text();
        let labels = "device=\"a\\\"\\\\\\n\"";
        for (le, count) in [("0.000002", 0), ("0.000004", 2), ("0.000512", 2), ("0.001024", 3), ("+Inf", 4)] {
            let line = format!("\nccbt_disk_latency_seconds_bucket{{{labels},le=\"{le}\"}} {count}\n");
            assert!(text.contains(&line), "{line}{text}");
        }
        assert!(
            text.contains(&format!("_count{{{labels}}} 4\n"))
                && text.contains("# TYPE ccbt_disk_latency_seconds hist")
        );
        assert!(
            text.contains("\n# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total 1.5\n"),
            "{text}"
        );
    }
}
