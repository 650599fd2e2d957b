//! Lists, shows, cleans and deletes checkpoints: the "Checkpoint Management" of the Python client. No session is needed.
//!
//! `checkpoint_management CHECKPOINTS`

use std::collections::BTreeSet;
use std::error::Error;
use std::path::Path;
use std::time::Duration;

use ccbt_fast::checkpoints::{Retention, Store};

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args().nth(1).ok_or("usage: checkpoint_management CHECKPOINTS")?;
    run(dir.as_ref()).map(drop)
}

/// Removes what is older than a week, and the first of the others. Says how many went in each of both ways.
pub fn run(dir: &Path) -> Result<(usize, usize), Box<dyn Error>> {
    let store = Store::new(dir);
    let checkpoints = store.list()?;
    println!("found {} checkpoints", checkpoints.len());
    for entry in &checkpoints {
        match &entry.loaded {
            Ok(loaded) => {
                let checkpoint = &loaded.checkpoint;
                println!("torrent: {}", checkpoint.name);
                println!("progress: {}/{}", checkpoint.have.count(), checkpoint.have.len());
                println!("can resume: {}", store.torrent_of(checkpoint).is_some());
            }
            Err(error) => println!("{}: {error}", entry.info_hash),
        }
    }
    let week = Retention { older_than: Some(Duration::from_secs(7 * 86_400)), completed: false };
    let cleaned = store.clean(week, &BTreeSet::new())?;
    println!("cleaned {} old checkpoints", cleaned.len());
    let mut deleted = 0;
    if let Some(info_hash) = store.hashes()?.first() {
        deleted = usize::from(store.delete(*info_hash)?);
        println!("deleted the checkpoint of {info_hash}");
    }
    Ok((cleaned.len(), deleted))
}
