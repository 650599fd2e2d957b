//! How fast torrents are made and verified.
//!
//! `create_rate PATH THREADS [auto|direct|buffered [sequential|parallel]]`, built with `--release`. Prints GB/s
//! (10^9 bytes) of three rounds. Without a third argument or with `auto`, what is in the page cache is read from there.

use std::path::PathBuf;
use std::time::Instant;

use ccbt_fast::hashing::create::{CreateOptions, create_torrent};
use ccbt_fast::hashing::verify::{VerifyOptions, verify};
use ccbt_fast::hashing::{HashOptions, Order, Reading};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(path), Some(threads)) = (arguments.next(), arguments.next()) else {
        return Err("usage: create_rate PATH THREADS [auto|direct|buffered [sequential|parallel]]".into());
    };
    let path = PathBuf::from(path).canonicalize()?;
    let reading = match arguments.next().as_deref() {
        None | Some("auto") => Reading::Auto,
        Some("direct") => Reading::Direct,
        Some("buffered") => Reading::Buffered,
        Some(other) => return Err(format!("unknown way of reading: {other}").into()),
    };
    let order = match arguments.next().as_deref() {
        None => Order::Auto,
        Some("sequential") => Order::Sequential,
        Some("parallel") => Order::Parallel,
        Some(other) => return Err(format!("unknown order: {other}").into()),
    };
    let hash = HashOptions { threads: threads.parse()?, reading, order, ..HashOptions::default() };
    for _ in 0..3 {
        let start = Instant::now();
        let created = create_torrent(CreateOptions { hash, ..CreateOptions::new(&path) })?;
        let create = start.elapsed();
        let start = Instant::now();
        let options = VerifyOptions { hash, ..VerifyOptions::default() };
        let root = path.parent().ok_or("a path with a parent folder is needed")?;
        let report = verify(&created.metainfo, root, &options)?;
        let verified = start.elapsed();
        let bytes = created.metainfo.geometry.total_len() as f64 / 1e9;
        let (create, verified) = (bytes / create.as_secs_f64(), bytes / verified.as_secs_f64());
        println!("create {create:6.3} GB/s, verify {verified:6.3} GB/s, complete: {}", report.is_complete());
    }
    Ok(())
}
