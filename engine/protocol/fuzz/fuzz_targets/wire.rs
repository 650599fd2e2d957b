//! Fuzz target: the checks of `entry/wire.rs`, which ordinary tests run over the corpus too.
#![no_main]

#[path = "../entry/wire.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::run(data));
