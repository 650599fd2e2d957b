//! See `entry/schedule.rs`.
#![no_main]

#[path = "../entry/schedule.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::run(data));
