//! `ccbt-bench compare OLD.json NEW.json`: what got better or worse between two result files.
//!
//! Role: works on the files of every command of `ccbt-bench`, and on any other of their shape: an object with
//! lists of rows (`summary` and the like; `runs` are single measurements and left out). A row is known by its
//! words (`"client": "ccbt"`) and its settings (`"piece_kib": 1024`); its figures are numbers, nested objects
//! included, whose names tell which way is better (`direction`), unless the file's own `better` object says
//! (`"better": {"depth": "higher"}`). Numbers whose direction is not known are settings at the row's top and
//! ignored below. Pure but for reading the two files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Map, Value};

use crate::error::BenchError;

/// Lists that are no results.
const NO_RESULTS: [&str; 4] = ["runs", "clients", "programs", "missing"];
/// Numbers that count runs: neither figures nor settings.
const COUNTS: [&str; 4] = ["runs", "round", "rounds", "count"];
/// What a row moved: chosen by the time there was, so neither a figure nor part of its name; a difference is told.
const PAYLOAD: &str = "payload_mib";
/// Smaller values than these are noise however much they change: a microsecond, a thousandth of a second.
const NOISE: f64 = 1e-3;

/// Options of `ccbt-bench compare`.
#[derive(Debug, Clone, Args)]
pub struct CompareArgs {
    /// Results from before
    #[arg(value_name = "OLD.json")]
    old: PathBuf,
    /// Results from after
    #[arg(value_name = "NEW.json")]
    new: PathBuf,
    /// By how many percent a figure may be worse
    #[arg(long, value_name = "PERCENT", default_value_t = 10.0, value_parser = percent)]
    tolerance: f64,
    /// Compare only figures with one of these texts in their names, such as mb_per_s
    #[arg(long, value_delimiter = ',')]
    figures: Vec<String>,
    /// Show figures that did not change beyond the tolerance too
    #[arg(long)]
    all: bool,
}

fn percent(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(percent) if percent.is_finite() && percent >= 0.0 => Ok(percent),
        _ => Err("must be a number from 0 on".into()),
    }
}

/// Which way a figure is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Better {
    Higher,
    Lower,
}

/// By the last part of a figure's name. Extremes (`_min`, `_max`) and spreads are noise and have none.
fn direction(name: &str) -> Option<Better> {
    let last = name.rsplit('.').next().unwrap_or(name);
    if ["_min", "_max"].iter().any(|end| last.ends_with(end)) {
        return None;
    }
    let is_cpu = last.starts_with("cpu_") && last.ends_with("_s");
    let is_cost = is_cpu || last.ends_with("s_per_gib") || last.contains("rss");
    if is_cost {
        return Some(Better::Lower);
    }
    let is_rate = last.contains("per_s") || last.contains("iops") || last.starts_with("ratio");
    if is_rate || last.ends_with("hit_rate") || last.ends_with("_share_hit") {
        return Some(Better::Higher);
    }
    let ends = ["_us", "_ms", "_ns", "_anon_mib", "punts", "failed", "protocol_errors", "seconds"];
    ends.iter().any(|end| last.ends_with(end)).then_some(Better::Lower)
}

/// Rows by name, each with its figures by name.
type Rows = BTreeMap<String, BTreeMap<String, f64>>;

/// A result file, taken apart.
#[derive(Debug, Default)]
struct Results {
    rows: Rows,
    /// Payloads of rows that have one.
    payloads: BTreeMap<String, u64>,
    better: BTreeMap<String, Better>,
}

impl Results {
    fn read(path: &Path) -> Result<Self, BenchError> {
        let text = std::fs::read_to_string(path).map_err(BenchError::file("read", path))?;
        Self::parse(&text).map_err(|what| BenchError::Usage(format!("{}: {what}", path.display())))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(text).map_err(|error| format!("no JSON: {error}"))?;
        let Value::Object(top) = value else { return Err("no object of results".into()) };
        let mut results = Self::default();
        for (name, way) in top.get("better").and_then(Value::as_object).into_iter().flatten() {
            let way = match way.as_str() {
                Some("higher") => Better::Higher,
                Some("lower") => Better::Lower,
                _ => return Err(format!("better.{name} must be \"higher\" or \"lower\"")),
            };
            results.better.insert(name.clone(), way);
        }
        for (list, rows) in top.iter().filter(|(name, _)| !NO_RESULTS.contains(&name.as_str())) {
            for row in rows.as_array().into_iter().flatten().filter_map(Value::as_object) {
                results.add(list, row);
            }
        }
        if results.rows.is_empty() { Err("no list of rows with figures in it".into()) } else { Ok(results) }
    }

    fn better(&self, figure: &str) -> Option<Better> {
        let last = figure.rsplit('.').next().unwrap_or(figure);
        let told = self.better.get(figure).or_else(|| self.better.get(last));
        told.copied().or_else(|| direction(figure))
    }

    fn add(&mut self, list: &str, row: &Map<String, Value>) {
        let mut name = vec![list.to_owned()];
        let mut figures = BTreeMap::new();
        let payload = row.get(PAYLOAD).and_then(Value::as_u64);
        for (key, value) in row.iter().filter(|(key, _)| *key != PAYLOAD) {
            match value {
                Value::String(text) => name.push(text.clone()),
                Value::Bool(flag) => name.push(format!("{key}={flag}")),
                Value::Number(number) if self.better(key).is_none() => {
                    // Whole numbers are settings; others are results that nobody said how to judge.
                    if number.is_u64() && !COUNTS.contains(&key.as_str()) {
                        name.push(format!("{key}={number}"));
                    }
                }
                value => self.collect(key, value, &mut figures),
            }
        }
        if !figures.is_empty() {
            let name = name.join(" ");
            self.payloads.extend(payload.map(|mib| (name.clone(), mib)));
            self.rows.entry(name).or_default().extend(figures);
        }
    }

    fn collect(&self, name: &str, value: &Value, figures: &mut BTreeMap<String, f64>) {
        match value {
            Value::Object(parts) => {
                parts.iter().for_each(|(key, value)| self.collect(&format!("{name}.{key}"), value, figures));
            }
            Value::Number(number) if self.better(name).is_some() => {
                figures.extend(number.as_f64().map(|number| (name.to_owned(), number)));
            }
            _ => {}
        }
    }
}

/// One figure of one row, before and after.
#[derive(Debug, Clone, PartialEq)]
struct Change {
    row: String,
    figure: String,
    old: f64,
    new: f64,
    /// By how many percent it is worse; negative when it is better.
    worse: f64,
}

impl Change {
    fn new(row: &str, figure: &str, (old, new): (f64, f64), better: Better) -> Self {
        let worse = match better {
            _ if (old - new).abs() < NOISE => 0.0,
            // From nothing to something is as bad as can be, not a division by zero.
            Better::Lower if old == 0.0 => 100.0 * (new / NOISE).clamp(-1e6, 1e6),
            Better::Lower => (new - old) / old * 100.0,
            Better::Higher if new == 0.0 => f64::INFINITY,
            Better::Higher => (old - new) / new.abs().max(NOISE) * 100.0,
        };
        Self { row: row.to_owned(), figure: figure.to_owned(), old, new, worse }
    }
}

/// What two files have in common, and rows that only the old one has.
fn compare(old: &Results, new: &Results, figures: &[String]) -> (Vec<Change>, Vec<String>) {
    let mut changes = Vec::new();
    let mut gone = Vec::new();
    let is_wanted =
        |name: &str| figures.is_empty() || figures.iter().any(|part| name.contains(part.as_str()));
    for (row, before) in &old.rows {
        let Some(after) = new.rows.get(row) else {
            gone.push(row.clone());
            continue;
        };
        for (figure, &was) in before.iter().filter(|(figure, _)| is_wanted(figure)) {
            match (after.get(figure), new.better(figure)) {
                (Some(&is), Some(better)) => changes.push(Change::new(row, figure, (was, is), better)),
                _ => gone.push(format!("{row}: {figure}")),
            }
        }
    }
    (changes, gone)
}

/// Rows that moved another amount than before, with both in MiB.
fn other_payloads<'a>(old: &'a Results, new: &Results) -> Vec<(&'a str, u64, u64)> {
    let payload = |row: &String| new.payloads.get(row).copied();
    old.payloads
        .iter()
        .filter_map(|(row, &was)| Some((row.as_str(), was, payload(row)?)))
        .filter(|(_, was, is)| was != is)
        .collect()
}

/// Prints what changed; false when a figure is worse than the tolerance.
///
/// Errors: a file that cannot be read or has no results, or two files that share no figure.
pub fn run(args: &CompareArgs) -> Result<bool, BenchError> {
    let (old, new) = (Results::read(&args.old)?, Results::read(&args.new)?);
    let (mut changes, gone) = compare(&old, &new, &args.figures);
    if changes.is_empty() {
        return Err(BenchError::Usage("the two files share no figure: are they of the same command?".into()));
    }
    changes.sort_by(|a, b| b.worse.total_cmp(&a.worse));
    for change in changes.iter().filter(|change| args.all || change.worse.abs() > args.tolerance) {
        let word = match change.worse {
            worse if worse > args.tolerance => "WORSE",
            worse if worse < -args.tolerance => "better",
            _ => "same",
        };
        let Change { row, figure, old, new, worse } = change;
        println!("{word:<6} {:>7.1} %  {row}: {figure} {old:.3} -> {new:.3}", worse.abs());
    }
    gone.iter().for_each(|name| println!("gone              {name}"));
    for (row, was, is) in other_payloads(&old, &new) {
        println!("note              {row}: payload {was} -> {is} MiB; short transfers are slower");
    }
    let worse = changes.iter().filter(|change| change.worse > args.tolerance).count();
    println!("{} figures, {worse} worse by more than {} %", changes.len(), args.tolerance);
    Ok(worse == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(text: &str) -> Results {
        Results::parse(text).expect("results")
    }

    fn worse(old: &str, new: &str) -> BTreeMap<String, f64> {
        let (changes, _) = compare(&results(old), &results(new), &[]);
        changes.into_iter().map(|change| (change.figure, change.worse)).collect()
    }

    #[test]
    fn names_tell_the_direction() {
        for higher in ["mb_per_s", "medians.mb_per_s", "gb_per_s", "iops", "ratio_to_limit", "read.hit_rate"]
        {
            assert_eq!(direction(higher), Some(Better::Higher), "{higher}");
        }
        for lower in ["cpu_s_per_gib", "cpu_user_s", "peak_rss_mib", "latency.p99_us", "failed", "seconds"] {
            assert_eq!(direction(lower), Some(Better::Lower), "{lower}");
        }
        for neither in ["mb_per_s_min", "latency.max_us_max", "piece_kib", "threads", "schema", "limit_mb_s"]
        {
            assert_eq!(direction(neither), None, "{neither}");
        }
    }

    #[test]
    fn rows_are_matched_by_words_and_settings() {
        let old = results(
            r#"{"summary": [{"client": "a", "mode": "seed", "runs": 3, "medians": {"mb_per_s": 100.0}},
                {"tool": "x", "piece_kib": 16, "write": {"mb_per_s": 1}}],
                "runs": [{"client": "a", "mb_per_s": 7}], "better": {}}"#,
        );
        let names: Vec<&str> = old.rows.keys().map(String::as_str).collect();
        assert_eq!(names, ["summary a seed", "summary piece_kib=16 x"]);
        let new = results(
            r#"{"summary": [{"client": "a", "mode": "seed", "runs": 5, "medians": {"mb_per_s": 80}}]}"#,
        );
        let (changes, gone) = compare(&old, &new, &[]);
        assert_eq!(changes.len(), 1);
        assert_eq!((changes[0].figure.as_str(), changes[0].worse), ("medians.mb_per_s", 25.0));
        assert_eq!(gone, ["summary piece_kib=16 x"]);
        assert!(compare(&old, &new, &["rss".into()]).0.is_empty());
    }

    #[test]
    fn rows_of_a_matrix_are_told_apart_but_not_by_their_payload() {
        let row = |connections: u32, payload: u32, rate: u32| {
            format!(
                r#"{{"client": "a", "mode": "seed", "connections": {connections}, "file_system": "tmpfs",
                    "payload_mib": {payload}, "runs": 5, "failed": 0, "medians": {{"mb_per_s": {rate}}}}}"#
            )
        };
        let file = |rows: [String; 2]| results(&format!(r#"{{"summary": [{}]}}"#, rows.join(",")));
        let old = file([row(1, 512, 100), row(200, 2048, 50)]);
        let new = file([row(200, 2048, 50), row(1, 1024, 200)]);
        let (changes, gone) = compare(&old, &new, &["mb_per_s".into()]);
        assert!(gone.is_empty(), "{gone:?}");
        let worse: Vec<_> = changes.iter().map(|change| (change.row.as_str(), change.worse)).collect();
        assert_eq!(
            worse,
            [("summary a connections=1 tmpfs seed", -50.0), ("summary a connections=200 tmpfs seed", 0.0)]
        );
        assert_eq!(other_payloads(&old, &new), [("summary a connections=1 tmpfs seed", 512, 1024)]);
    }

    #[test]
    fn worse_is_worse_both_ways() {
        let old = r#"{"rows": [{"name": "a", "mb_per_s": 100, "cpu_s": 2.0, "failed": 0, "depth": 8}]}"#;
        let new = r#"{"rows": [{"name": "a", "mb_per_s": 125, "cpu_s": 3.0, "failed": 1, "depth": 8}]}"#;
        let found = worse(old, new);
        assert_eq!((found["mb_per_s"], found["cpu_s"]), (-20.0, 50.0));
        assert!(found["failed"] > 1000.0, "from nothing to something");
        assert!(!found.contains_key("depth"));
        assert!(worse(new, old)["failed"] < 0.0);
        assert!(worse(old, old).values().all(|worse| *worse == 0.0));
        let none = r#"{"rows": [{"name": "a", "mb_per_s": 0, "cpu_s": 2.0, "failed": 0, "depth": 8}]}"#;
        assert_eq!(worse(old, none)["mb_per_s"], f64::INFINITY);
    }

    #[test]
    fn a_file_may_say_the_direction() {
        let old = r#"{"better": {"depth": "higher"}, "rows": [{"name": "a", "depth": 8}]}"#;
        let new = r#"{"better": {"depth": "higher"}, "rows": [{"name": "a", "depth": 4}]}"#;
        assert_eq!(worse(old, new)["depth"], 100.0);
        let (_, gone) = compare(&results(old), &results(r#"{"rows": [{"name": "a", "cpu_s": 4}]}"#), &[]);
        assert_eq!(gone, ["rows a: depth"]);
    }

    #[test]
    fn what_is_no_result_is_refused() {
        for text in
            ["", "[]", "{}", r#"{"rows": []}"#, r#"{"runs": [{"mb_per_s": 1}]}"#, r#"{"better": {"x": 1}}"#]
        {
            assert!(Results::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_result_files_of_the_repository_are_understood() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
        let mut files = 0;
        for entry in std::fs::read_dir(folder).expect("the folder is there") {
            let path = entry.expect("it can be listed").path();
            // Records kept by hand have no version of their layout.
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            if path.extension().is_some_and(|ending| ending == "json") && text.contains(r#""schema""#) {
                let results = Results::read(&path).expect("a result file");
                assert!(compare(&results, &results, &[]).0.iter().all(|change| change.worse == 0.0));
                files += 1;
            }
        }
        assert!(files >= 3, "{files} files");
    }
}
