//! Runs the fuzz corpus, and changed files of it, through the function that the fuzz target calls, so that findings
//! stay fixed on machines without a fuzzer.

use std::fs;
use std::path::{Path, PathBuf};

#[path = "../fuzz/entry/config.rs"]
mod config;

fn corpus() -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/config");
    let entries = fs::read_dir(&folder).expect("the corpus is part of the repository");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("listed").path()).collect();
    paths.sort();
    assert!(paths.len() >= 5, "{} files in {}", paths.len(), folder.display());
    paths.into_iter().map(|path| (path.clone(), fs::read(&path).expect("the corpus can be read"))).collect()
}

#[test]
fn config_corpus() {
    for (path, bytes) in corpus() {
        println!("{}", path.display());
        config::run(&bytes);
    }
}

/// Without a fuzzer a few thousand changed files are better than none.
#[test]
fn changed_files() {
    let mut state = 1u64;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    let words: Vec<Vec<u8>> =
        ["[", "]", "\"", "=", "\n", ".", "0", "-1", "{", "}", "#", "'", "torrent", "é", "24:00"]
            .map(|word| word.as_bytes().to_vec())
            .to_vec();
    let all = corpus();
    for (_, seed) in &all {
        for _ in 0..1000 {
            let mut bytes = seed.clone();
            for _ in 0..1 + next() % 6 {
                let at = next() % (bytes.len() + 1);
                match next() % 4 {
                    0 if at < bytes.len() => drop(bytes.remove(at)),
                    1 => bytes.truncate(at),
                    2 => drop(bytes.splice(at..at, words[next() % words.len()].iter().copied())),
                    _ => {
                        let other = &all[next() % all.len()].1;
                        let from = next() % (other.len() + 1);
                        let to = (from + next() % 200).min(other.len());
                        drop(bytes.splice(at..at, other[from..to].iter().copied()));
                    }
                }
            }
            config::run(&bytes);
        }
    }
}
