//! Runs every file of the fuzz corpora through the function that its fuzz target calls, so that findings stay fixed on
//! machines without a fuzzer.

use std::path::Path;

#[path = "../fuzz/entry/bencode.rs"]
mod bencode;
#[path = "../fuzz/entry/metainfo.rs"]
mod metainfo;

/// Feeds each file of `fuzz/corpus/<target>` to `run`; says which one it was when that panics.
fn run_corpus(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&folder).expect("the corpus is part of the repository");
    let mut count = 0;
    for entry in entries {
        let path = entry.expect("the corpus can be listed").path();
        let bytes = std::fs::read(&path).expect("the corpus can be read");
        println!("{}", path.display());
        run(&bytes);
        count += 1;
    }
    assert!(count >= 5, "{count} files in {}", folder.display());
}

#[test]
fn bencode_corpus() {
    run_corpus("bencode", bencode::run);
}

#[test]
fn metainfo_corpus() {
    run_corpus("metainfo", metainfo::run);
}
