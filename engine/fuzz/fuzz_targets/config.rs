//! See `entry/config.rs`.
#![no_main]

#[path = "../entry/config.rs"]
mod config;

libfuzzer_sys::fuzz_target!(|data: &[u8]| config::run(data));
