//! Writes what is published: the JSON, the page, the charts, and the headline in a README. `ccbt-bench report` makes all
//! but the JSON again from the JSON.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

use super::report::Report;
use super::{charts, page};
use crate::error::BenchError;

/// Around the headline.
const BEGIN: &str = "<!-- bench: made by `ccbt-bench`, not edited by hand -->";
const END: &str = "<!-- /bench -->";

/// Options of `ccbt-bench report`.
#[derive(Debug, Clone, Args)]
pub struct ReportArgs {
    /// Result file of `transfer`
    #[arg(value_name = "RESULTS.json")]
    json: PathBuf,
    /// Put the headline between the marks in this file, too
    #[arg(long, value_name = "FILE")]
    readme: Option<PathBuf>,
}

/// Makes the page and the charts beside the result file.
///
/// Errors: a file that cannot be read or is of another layout, or a folder that cannot be written.
pub fn run(args: &ReportArgs) -> Result<bool, BenchError> {
    let report = read(&args.json)?;
    let folder = args.json.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    write_pages(&report, folder, args.readme.as_deref())?;
    Ok(true)
}

fn read(json: &Path) -> Result<Report, BenchError> {
    let text = fs::read_to_string(json).map_err(BenchError::file("read", json))?;
    Report::parse(&text).map_err(|what| BenchError::Usage(format!("{}: {what}", json.display())))
}

/// Writes everything to `folder`.
pub(super) fn write(report: &Report, folder: &Path, readme: Option<&Path>) -> Result<(), BenchError> {
    fs::create_dir_all(folder).map_err(BenchError::file("create", folder))?;
    save(&folder.join("transfer.json"), &report.json())?;
    write_pages(report, folder, readme)
}

fn write_pages(report: &Report, folder: &Path, readme: Option<&Path>) -> Result<(), BenchError> {
    for (name, text) in pages(report) {
        save(&folder.join(name), &text)?;
    }
    if let Some(readme) = readme {
        let before = fs::read_to_string(readme).map_err(BenchError::file("read", readme))?;
        let after = with_headline(&before, report, &link(folder, readme)?)
            .map_err(|what| BenchError::Usage(format!("{}: {what}", readme.display())))?;
        save(readme, &after)?;
    }
    Ok(())
}

fn save(path: &Path, text: &str) -> Result<(), BenchError> {
    fs::write(path, text).map_err(BenchError::file("write", path))
}

/// Names and contents of the files beside the JSON.
fn pages(report: &Report) -> Vec<(String, String)> {
    let charts = charts::charts(report);
    let names: Vec<&str> = charts.iter().map(|(name, _)| *name).collect();
    let page = ("transfer.md".to_owned(), page::page(report, &names));
    std::iter::once(page)
        .chain(charts.iter().map(|(name, chart)| ((*name).to_owned(), chart.svg())))
        .collect()
}

/// `folder` as seen from the README's folder.
fn link(folder: &Path, readme: &Path) -> Result<String, BenchError> {
    let absolute = |path: &Path| path.canonicalize().map_err(BenchError::file("resolve", path));
    let (folder, readme) = (absolute(folder)?, absolute(readme)?);
    let below = readme.parent().and_then(|home| folder.strip_prefix(home).ok());
    let below = below.filter(|below| !below.as_os_str().is_empty()).ok_or_else(|| {
        BenchError::Usage(format!("{}: must be below the folder of {}", folder.display(), readme.display()))
    })?;
    Ok(below.to_string_lossy().into_owned())
}

/// `text` with the headline between the marks.
fn with_headline(text: &str, report: &Report, folder: &str) -> Result<String, String> {
    let missing = || format!("has no line {BEGIN:?} with {END:?} behind it");
    let (before, rest) = text.split_once(BEGIN).ok_or_else(missing)?;
    let (_, after) = rest.split_once(END).ok_or_else(missing)?;
    let charts = charts::charts(report);
    let names: Vec<&str> = charts.iter().map(|(name, _)| *name).collect();
    Ok(format!("{before}{BEGIN}\n{}{END}{after}", page::headline(report, folder, &names)))
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_changes_and_only_once() {
        let text = format!("# Title\n{BEGIN}\nold\n{END}\nrest\n");
        let once = with_headline(&text, &report(), "r").expect("has the marks");
        assert!(
            once.starts_with("# Title\n") && once.ends_with("\nrest\n") && !once.contains("old"),
            "{once}"
        );
        assert_eq!(with_headline(&once, &report(), "r").expect("still has them"), once);
        assert!(with_headline("# Title", &report(), "r").is_err());
        assert!(with_headline(BEGIN, &report(), "r").is_err());
    }

    #[test]
    fn one_call_writes_everything() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let readme = dir.path().join("README.md");
        fs::write(&readme, format!("{BEGIN}\n{END}\n")).expect("written");
        let folder = dir.path().join("a/results");
        write(&report(), &folder, Some(&readme)).expect("can be written");
        for name in [
            "transfer.json",
            "transfer.md",
            "transfer-throughput.svg",
            "transfer-cpu.svg",
            "transfer-latency.svg",
        ] {
            assert!(folder.join(name).exists(), "{name}");
        }
        assert!(fs::read_to_string(&readme).expect("read").contains("](a/results/transfer.md)"));
        // From the JSON alone the same pages come again.
        let before = fs::read(folder.join("transfer.md")).expect("read");
        fs::remove_file(folder.join("transfer.md")).expect("removed");
        run(&ReportArgs { json: folder.join("transfer.json"), readme: None }).expect("can be read");
        assert_eq!(fs::read(folder.join("transfer.md")).expect("made again"), before);
        assert!(link(dir.path(), &readme).is_err(), "not below it");
    }

    /// What is in the repository is what its JSON says.
    #[test]
    fn published_pages_are_made_from_the_published_json() {
        let home = Path::new(env!("CARGO_MANIFEST_DIR"));
        let json = home.join("results/transfer.json");
        let readme = fs::read_to_string(home.join("../README.md")).expect("the README");
        if !json.exists() {
            assert!(readme.contains(&format!("{BEGIN}\n{END}")), "README.md: a headline without results");
            return;
        }
        let report = read(&json).expect("the published results");
        let again = "run: cargo run -p ccbt-bench -- report bench/results/transfer.json --readme README.md";
        for (name, text) in pages(&report) {
            let published = fs::read_to_string(home.join("results").join(&name)).unwrap_or_default();
            assert!(published == text, "{name} is not made from transfer.json; {again}");
        }
        let fresh = with_headline(&readme, &report, "bench/results").expect("the README has the marks");
        assert!(readme == fresh, "README.md's headline is not made from transfer.json; {again}");
    }
}
