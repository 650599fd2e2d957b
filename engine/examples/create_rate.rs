//! How fast torrents are made and verified: `cargo run --release -p ccbt-fast --example create_rate PATH THREADS [cached]`.
//!
//! Prints GB/s (10^9 bytes) of three rounds. `cached` reads through the page cache instead of past it.

use std::path::PathBuf;
use std::time::Instant;

use ccbt_fast::hashing::HashOptions;
use ccbt_fast::hashing::create::{CreateOptions, create_torrent};
use ccbt_fast::hashing::verify::{VerifyOptions, verify};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(path), Some(threads)) = (arguments.next(), arguments.next()) else {
        return Err("usage: create_rate PATH THREADS [cached]".into());
    };
    let path = PathBuf::from(path).canonicalize()?;
    let hash =
        HashOptions { threads: threads.parse()?, direct: arguments.next().as_deref() != Some("cached") };
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
