//! Downloads a torrent and tells how far it is: the "Basic Download" of the Python client.
//!
//! `basic_download TORRENT FOLDER [PEER…]`, a peer being `IP:PORT`.

use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use ccbt_fast::{AddOptions, Session, Settings, WaitError};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(torrent), Some(folder)) = (args.next(), args.next()) else {
        return Err("usage: basic_download TORRENT FOLDER [IP:PORT…]".into());
    };
    let peers = args.map(|peer| peer.parse()).collect::<Result<_, _>>()?;
    run(Settings::default(), torrent.as_ref(), folder.as_ref(), peers)
}

/// Downloads `torrent` into `folder`.
pub fn run(
    settings: Settings,
    torrent: &Path,
    folder: &Path,
    peers: Vec<SocketAddr>,
) -> Result<(), Box<dyn Error>> {
    let session = Session::new(settings)?;
    let torrent = session.add_torrent(torrent, AddOptions { peers, ..AddOptions::new(folder) })?;
    // Until everything is verified and on disk.
    while let Err(error) = torrent.wait_finished(Some(Duration::from_secs(1))) {
        if !matches!(error, WaitError::TimedOut(_)) {
            return Err(error.into());
        }
        if let Some(status) = torrent.status() {
            let percent = status.bytes_done as f64 * 100.0 / status.bytes_total.max(1) as f64;
            println!("{percent:.1} %, {} KiB/s from {} peers", status.down_rate >> 10, status.peer_count);
        }
    }
    println!("finished");
    session.stop()?;
    Ok(())
}
