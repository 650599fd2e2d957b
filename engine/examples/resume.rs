//! Goes on with an interrupted download, then adds another torrent: the "Resume Functionality" of the Python client.
//!
//! `resume CHECKPOINTS NEW-TORRENT FOLDER [PEER…]`

use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use ccbt_fast::checkpoints::CheckpointSettings;
use ccbt_fast::{AddOptions, InfoHash, Session, Settings};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(dir), Some(torrent), Some(folder)) = (args.next(), args.next(), args.next()) else {
        return Err("usage: resume CHECKPOINTS NEW-TORRENT FOLDER [IP:PORT…]".into());
    };
    let peers = args.map(|peer| peer.parse()).collect::<Result<_, _>>()?;
    run(Settings::default(), dir.as_ref(), torrent.as_ref(), folder.as_ref(), peers).map(drop)
}

/// Goes on from the first checkpoint in `dir`, if there is one, and downloads `torrent` into `folder`. Says what was
/// resumed.
pub fn run(
    settings: Settings,
    dir: &Path,
    torrent: &Path,
    folder: &Path,
    peers: Vec<SocketAddr>,
) -> Result<Option<InfoHash>, Box<dyn Error>> {
    let checkpoints = CheckpointSettings {
        dir: Some(dir.to_owned()),
        interval: Duration::from_secs(30),
        ..CheckpointSettings::default()
    };
    let session = Session::new(Settings { checkpoints, ..settings })?;
    let resumable = session.list_resumable_checkpoints()?;
    println!("found {} resumable checkpoints", resumable.len());
    let mut resumed = None;
    if let Some(checkpoint) = resumable.into_iter().next() {
        // Its torrent file is where it was; another one could be given in the place of None.
        let handle = session.resume_from_checkpoint(checkpoint, None)?;
        session.add_peers(&handle, peers.clone());
        println!("resumed {}", handle.info_hash());
        resumed = Some(handle.info_hash());
    }
    // A torrent that is added goes on from its checkpoint by itself (`auto_resume`). `source` lets the next run find it.
    let source = Some(torrent.to_owned());
    session.add_torrent(torrent, AddOptions { peers, source, ..AddOptions::new(folder) })?;
    for handle in session.torrents() {
        handle.wait_finished(None)?;
        println!("finished {}", handle.metainfo().name);
    }
    session.stop()?;
    Ok(resumed)
}
