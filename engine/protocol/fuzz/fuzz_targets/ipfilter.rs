//! Fuzz target: the checks of `entry/ipfilter.rs`, which ordinary tests run over the corpus too.
#![no_main]

#[path = "../entry/ipfilter.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::run(data));
