//! Fuzz target: the checks of `entry/scatter.rs`, which ordinary tests run over the corpus too.
#![no_main]

#[path = "../entry/scatter.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::run(data));
