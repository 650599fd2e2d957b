//! Our engine with many torrents in this process: `ccbt-bench scale-child` (hidden).
//!
//! Prints `READY SECONDS` once all torrents are checked and run, with the time since the first was added, and then
//! waits to be ended.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ccbt_fast::{AddOptions, Received, Session, SessionEvent, Settings, TorrentEvent};
use clap::Args;

use super::torrents;
use crate::error::BenchError;

/// Connections that must find room: more than the bench makes.
const CONNECTIONS: usize = 12_000;
/// Memory for pieces: little, since how much of it the checks of the start have touched is no cost of a torrent.
const MEMORY: usize = 16 << 20;

/// Options of the hidden subcommand.
#[derive(Args, Debug, Clone)]
pub struct ChildArgs {
    /// Folder of torrent files
    #[arg(long)]
    torrents: PathBuf,
    /// Folder of their data
    #[arg(long)]
    data: PathBuf,
    #[arg(long)]
    port: u16,
    /// Ask the torrents' trackers
    #[arg(long)]
    trackers: bool,
}

/// Runs until it is killed.
pub fn run(args: &ChildArgs) -> Result<bool, BenchError> {
    let failed = |error: &dyn std::fmt::Display| BenchError::Client(error.to_string());
    let paths = torrents::list(&args.torrents)?;
    let settings = Settings {
        port: Some(args.port),
        bind: Some(std::net::Ipv4Addr::LOCALHOST.into()),
        max_connections: CONNECTIONS,
        memory_bytes: MEMORY,
        ..Settings::default()
    };
    let session = Session::start(&settings).map_err(|error| failed(&error))?;
    let events = session.events();
    let start = Instant::now();
    for path in &paths {
        let options = AddOptions {
            use_trackers: args.trackers,
            seed_only: true,
            max_peers: CONNECTIONS,
            ..AddOptions::new(&args.data)
        };
        session.add_torrent(path.as_path(), options).map_err(|error| failed(&error))?;
    }
    let mut waiting = paths.len();
    while waiting > 0 {
        match events.recv_timeout(Duration::from_secs(60)) {
            Received::Event(SessionEvent::Torrent(_, TorrentEvent::Finished)) => waiting -= 1,
            Received::Event(SessionEvent::Torrent(_, TorrentEvent::Failed { message, .. })) => {
                return Err(failed(&message));
            }
            Received::Event(_) => {}
            Received::TimedOut | Received::Ended => return Err(failed(&format!("{waiting} do not seed"))),
        }
    }
    println!("READY {}", start.elapsed().as_secs_f64());
    std::io::stdout().flush().map_err(BenchError::file("write", "standard output".as_ref()))?;
    // Nobody reads events from here on, as in a program without a display.
    drop(events);
    loop {
        std::thread::park();
    }
}
