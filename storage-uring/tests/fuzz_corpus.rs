//! Runs the fuzz corpora, and changed files of them, through the functions that the fuzz targets call, so that findings
//! stay fixed on machines without a fuzzer.

use std::fs;
use std::path::Path;

#[path = "../fuzz/entry/arena.rs"]
mod arena;
#[path = "../fuzz/entry/schedule.rs"]
mod schedule;

/// Feeds each file of the corpus to `run`, and some fifty damaged copies of it.
fn run_corpus(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = fs::read_dir(&folder).expect("the corpus is part of the repository");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("listed").path()).collect();
    paths.sort();
    assert!(paths.len() >= 5, "{} files in {}", paths.len(), folder.display());
    let mut state = 1u64;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    for path in paths {
        println!("{}", path.display());
        let bytes = fs::read(&path).expect("the corpus can be read");
        run(&bytes);
        for _ in 0..50 {
            let mut changed = bytes.clone();
            for _ in 0..1 + next() % 16 {
                let at = next() % changed.len();
                changed[at] = next() as u8;
            }
            run(&changed);
        }
    }
}

#[test]
fn arena_corpus() {
    run_corpus("arena", arena::run);
}

#[test]
fn schedule_corpus() {
    run_corpus("schedule", schedule::run);
}
