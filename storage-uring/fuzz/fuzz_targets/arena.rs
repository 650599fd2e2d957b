//! See `entry/arena.rs`.
#![no_main]

#[path = "../entry/arena.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::run(data));
