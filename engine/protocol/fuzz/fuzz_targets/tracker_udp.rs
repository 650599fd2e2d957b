//! Fuzz target: the checks of `entry/tracker_udp.rs`, which ordinary tests run over the corpus too.
#![no_main]

#[path = "../entry/tracker_udp.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::run(data));
