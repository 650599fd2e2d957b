//! The house rules that a machine can check, over every source file of the workspace.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use ccbt_tests::process::repository;

/// Folders with Rust sources.
const SOURCES: [&str; 5] = ["engine", "shards", "storage-uring", "bench", "tests"];
/// Columns of a line's text, indentation and comment marker apart: rustfmt keeps code to 110, prose may be wider.
const COLUMNS_MAX: usize = 120;
/// Lines of a file: what is longer does more than one thing.
const LINES_MAX: usize = 500;
/// Lines of a file of unit tests, which are a list.
const TEST_LINES_MAX: usize = 600;
/// Where `unsafe` may stand: rings, memory pools, hash kernels and what places a thread on a CPU.
const UNSAFE_PLACES: [&str; 6] = ["/ring/", "/ring.rs", "/arena.rs", "/hash/", "/executor.rs", "/arena/"];

/// Rows of docs/reliability.md.
const FAULTS: usize = 57;

struct Source {
    /// Relative to the repository, with a slash in front.
    name: String,
    text: String,
}

/// Every file with one of these endings that is part of the repository.
fn sources(endings: &[&str]) -> Vec<Source> {
    let mut paths = Vec::new();
    for folder in SOURCES {
        collect(&repository().join(folder), endings, &mut paths);
    }
    paths.sort();
    assert!(paths.len() > 20, "the sources are found: {paths:?}");
    let read = |path: PathBuf| {
        let name = path.strip_prefix(repository()).expect("it lies in the repository");
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Source { name: format!("/{}", name.display()), text }
    };
    paths.into_iter().map(read).collect()
}

fn collect(dir: &Path, endings: &[&str], paths: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries {
        let path = entry.expect("a source folder can be listed").path();
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default().to_owned();
        // Built by cargo-fuzz, not written.
        if path.is_dir() && !matches!(name.as_str(), "target" | "artifacts" | "coverage" | "__pycache__") {
            collect(&path, endings, paths);
        } else if path.extension().and_then(OsStr::to_str).is_some_and(|ending| endings.contains(&ending)) {
            paths.push(path);
        }
    }
}

/// Panics with every finding at once.
fn assert_none(rule: &str, findings: &[String]) {
    assert!(findings.is_empty(), "{rule}:\n{}", findings.join("\n"));
}

fn lines(source: &Source) -> impl Iterator<Item = (usize, &str)> {
    source.text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

/// Width of what a line says.
fn columns(line: &str) -> usize {
    let text = line.trim_start();
    let prose = ["//! ", "/// ", "// "].iter().find_map(|marker| text.strip_prefix(marker));
    prose.unwrap_or(text).chars().count()
}

fn is_unit_test(source: &Source) -> bool {
    source.name.ends_with("/tests.rs") || source.name.ends_with("_tests.rs")
}

#[test]
fn lines_are_short() {
    let mut findings = Vec::new();
    for source in sources(&["rs", "py", "toml"]) {
        let long = |&(_, line): &(usize, &str)| columns(line) > COLUMNS_MAX;
        findings.extend(lines(&source).filter(long).map(|(number, _)| format!("{}:{number}", source.name)));
    }
    assert_none(&format!("lines of more than {COLUMNS_MAX} columns"), &findings);
}

#[test]
fn files_are_short() {
    let long = |source: &Source| {
        let most = if is_unit_test(source) { TEST_LINES_MAX } else { LINES_MAX };
        source.text.lines().count() > most
    };
    let describe = |source: Source| format!("{}: {} lines", source.name, source.text.lines().count());
    let findings: Vec<String> = sources(&["rs"]).into_iter().filter(long).map(describe).collect();
    assert_none(&format!("files of more than {LINES_MAX} lines"), &findings);
}

#[test]
fn every_module_says_what_it_is_for() {
    let mut findings = Vec::new();
    for source in sources(&["rs"]) {
        let first = source.text.lines().find(|line| !line.starts_with("#!")).unwrap_or_default();
        let said = first.strip_prefix("//! ").is_some_and(|text| text.len() >= 12);
        if !said && !is_unit_test(&source) {
            findings.push(format!("{} starts with {first:?}", source.name));
        }
    }
    assert_none("modules that do not open with their documentation", &findings);
}

#[test]
fn unsafe_stays_in_its_places_and_is_argued() {
    let (mut outside, mut unargued) = (Vec::new(), Vec::new());
    for source in sources(&["rs"]) {
        let all: Vec<&str> = source.text.lines().collect();
        for (number, line) in lines(&source) {
            let code = line.split("//").next().unwrap_or_default();
            if !is_unsafe(code) {
                continue;
            }
            if !UNSAFE_PLACES.iter().any(|place| source.name.contains(place)) {
                outside.push(format!("{}:{number}: {}", source.name, line.trim()));
            }
            // An argument stands above, perhaps over several lines, attributes and a signature.
            let above = &all[number.saturating_sub(16)..number];
            if !above.iter().any(|line| line.contains("SAFETY") || line.contains("# Safety")) {
                unargued.push(format!("{}:{number}: {}", source.name, line.trim()));
            }
        }
    }
    assert_none("unsafe outside of rings, arenas, hash kernels and the executor", &outside);
    assert_none("unsafe without a SAFETY comment", &unargued);
}

/// Whether the line has an unsafe block, function, implementation or extern.
fn is_unsafe(code: &str) -> bool {
    let forms = ["{", "fn ", "impl", "extern", "trait"].map(|after| format!("unsafe {after}"));
    !code.contains('"') && forms.iter().any(|form| code.contains(form.as_str()))
}

#[test]
fn no_path_of_a_machine_and_no_leftover() {
    // Put together here, so that this file does not find itself.
    let home = ["/ho", "me/"].concat();
    let words = [
        home,
        ["/ro", "ot/"].concat(),
        ["/wo", "rk/"].concat(),
        ["/Us", "ers/"].concat(),
        ["TO", "DO"].concat(),
        ["FIX", "ME"].concat(),
        ["XX", "X:"].concat(),
        ["to", "do!("].concat(),
        ["unimple", "mented!("].concat(),
        ["db", "g!("].concat(),
    ];
    let mut findings = Vec::new();
    let top = ["README.md", "tuning.md", "ccbt.toml", "Makefile", "Cargo.toml", ".ci/run", ".ci/setup.sh"];
    let top = top.iter().filter_map(|name| {
        let text = fs::read_to_string(repository().join(name)).ok()?;
        Some(Source { name: format!("/{name}"), text })
    });
    for source in sources(&["rs", "py", "toml", "md"]).into_iter().chain(top) {
        for (number, line) in lines(&source) {
            if let Some(word) = words.iter().find(|word| line.contains(word.as_str())) {
                findings.push(format!("{}:{number}: {word}", source.name));
            }
        }
    }
    assert_none("paths of one machine and work left undone", &findings);
}

#[test]
fn every_fault_has_a_row_and_every_test_it_names_exists() {
    let table = fs::read_to_string(repository().join("docs/reliability.md")).expect("it is there");
    let all = sources(&["rs"]);
    let (mut row, mut shown, mut findings, mut named) = (0, 0, Vec::new(), 0);
    for line in table.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        if let Ok(number) = cells[0].parse::<usize>() {
            assert_eq!(number, row + 1, "rows are in order");
            row = number;
        } else if let Some(number) = cells[0].strip_prefix("row ") {
            let number: usize = number.parse().expect("the number of a fault");
            assert!((shown + 1..=FAULTS).contains(&number), "what was shown is in order: row {number}");
            shown = number;
        } else {
            continue;
        }
        for name in cells[2..].join("|").split('`').skip(1).step_by(2).filter(|name| name.contains("::")) {
            named += 1;
            let (place, test) = name.split_once("::").expect("seen just now");
            let (file, function) = (format!("/{place}.rs"), format!("fn {test}("));
            let has = |source: &Source| source.name.ends_with(&file) && source.text.contains(&function);
            if !all.iter().any(has) {
                findings.push(format!("{}: {name}", cells[0]));
            }
        }
    }
    assert_eq!(row, FAULTS, "a row for each fault");
    assert!(named > 60, "only {named} tests are named");
    assert_none("tests of docs/reliability.md that do not exist", &findings);
}

/// Files whose generator decides nothing that a stranger must not foresee: which piece comes next, who is unchoked, how
/// announces are spread. All others draw from the system's source, or from a cipher seeded by it.
const FORESEEABLE: &[&str] =
    &["/shards/src/shard.rs", "/shards/src/trackers/thread.rs", "/shards/src/announce.rs"];

#[test]
fn secrets_are_drawn_from_the_system() {
    let mut findings = Vec::new();
    for source in sources(&["rs"]) {
        let is_engine = ["/engine/src/", "/shards/src/", "/engine/protocol/src/", "/storage-uring/src/"]
            .iter()
            .any(|folder| source.name.starts_with(folder));
        if !is_engine || source.name.contains("test") || source.name.ends_with("/sim.rs") {
            continue;
        }
        let text = source.text.split("#[cfg(test)]").next().unwrap_or_default();
        for weak in ["SmallRng", "Xoshiro", "seed_from_u64", "from_seed", "ChaCha8", "fastrand", "Pcg"] {
            if text.contains(weak) && !FORESEEABLE.contains(&source.name.as_str()) {
                findings.push(format!("{}: {weak}", source.name));
            }
        }
    }
    assert_none("generators that can be foreseen", &findings);
}

#[test]
fn the_protocol_crate_is_pure() {
    let mut findings = Vec::new();
    for source in sources(&["rs"]).iter().filter(|source| source.name.starts_with("/engine/protocol/src/")) {
        if source.name.contains("tests") {
            continue;
        }
        // What follows the first unit test may read clocks and files.
        let text = source.text.split("#[cfg(test)]").next().unwrap_or_default();
        for impure in
            ["std::fs", "std::thread", "std::net::Tcp", "std::net::Udp", "Instant::now", "SystemTime::now"]
        {
            if text.contains(impure) {
                findings.push(format!("{}: {impure}", source.name));
            }
        }
    }
    assert_none("files, threads, sockets or clocks in the protocol crate", &findings);
}
