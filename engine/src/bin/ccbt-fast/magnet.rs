//! Magnet links: `ccbt-fast magnet URI`, and `download`, `stream` with a link in place of a torrent file.
//!
//! The engine is started first, finds the metadata, and then runs the torrent over the same connections. Where a checkpoint
//! kept the torrent's file, nothing has to be found.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ccbt_fast::checkpoints::Store;
use ccbt_fast::{
    Magnet, MagnetOptions, Metainfo, Received, Session, SessionEvent, TorrentEvent, TorrentSource,
};
use ccbt_protocol::metainfo::escape_for_terminal;

use crate::args::DownloadArgs;
use crate::download;
use crate::failure::Failure;
use crate::lines::Line;
use crate::transfer::{Configuration, Stage};

/// How often signals are looked at.
const TICK: Duration = Duration::from_millis(100);

/// `ccbt-fast magnet`.
pub fn run(args: &DownloadArgs) -> Result<(), Failure> {
    let text = args.transfer.torrent.to_string_lossy();
    if !Magnet::is_magnet(&text) {
        let shown = escape_for_terminal(&text);
        let problem =
            format!("{shown} is no magnet link; `ccbt-fast info TORRENT` shows that of a torrent file");
        return Err(Failure::Usage(problem));
    }
    download::run(args)
}

/// The link that is given in place of a torrent file, if it is one.
pub fn given(torrent: &Path) -> Result<Option<Magnet>, Failure> {
    let text = torrent.to_string_lossy();
    if !Magnet::is_magnet(&text) {
        return Ok(None);
    }
    let parsed = Magnet::parse(&text);
    parsed.map(Some).map_err(|error| Failure::Usage(format!("the magnet link cannot be used: {error}")))
}

/// The torrent of the link as a checkpoint kept it, with the link's trackers behind its own.
pub fn kept(magnet: &Magnet, dir: Option<&Path>) -> Option<Arc<Metainfo>> {
    let path = Store::new(dir?).torrent_path(magnet.info_hash);
    let found = TorrentSource::from(path.as_path()).load().ok();
    let mut metainfo = Arc::unwrap_or_clone(found.filter(|found| found.info_hash == magnet.info_hash)?);
    for tier in &magnet.trackers {
        if !metainfo.trackers.iter().flatten().any(|url| tier.contains(url)) {
            metainfo.trackers.push(tier.clone());
        }
    }
    Some(Arc::new(metainfo))
}

/// Starts the engine and finds the metadata.
pub fn fetch(
    magnet: &Magnet,
    args: &DownloadArgs,
    configuration: &Configuration,
) -> Result<(Stage, Arc<Metainfo>), Failure> {
    let name = magnet.name.clone().unwrap_or_else(|| magnet.info_hash.to_string());
    let effect = configuration.effect(&magnet.info_hash, &name);
    let mut stage = Stage::new(&args.transfer, &effect, configuration)?;
    let session = Session::start(&stage.settings)?;
    let info_hash = magnet.info_hash.to_string();
    stage.console.line(&Line::Listening { port: session.port(), info_hash, name: &name });
    let mut options = MagnetOptions::from(&effect.torrent);
    options.peers.clone_from(&args.transfer.peers);
    let found = wait(magnet, options, &session, &mut stage);
    stage.session = Some(session);
    match found {
        Ok(metainfo) => Ok((stage, metainfo)),
        Err(failure) => {
            stage.console.finish();
            Err(failure)
        }
    }
}

fn wait(
    magnet: &Magnet,
    options: MagnetOptions,
    session: &Session,
    stage: &mut Stage,
) -> Result<Arc<Metainfo>, Failure> {
    let events = session.events();
    let handle = session.add_magnet(magnet.clone(), options)?;
    let console = &mut stage.console;
    loop {
        if let Some(signal) = stage.signals.received() {
            return Err(Failure::Interrupted(signal));
        }
        match events.recv_timeout(TICK) {
            Received::Event(SessionEvent::EngineLost) | Received::Ended => return Err(Failure::EngineLost),
            Received::Event(SessionEvent::Torrent(_, TorrentEvent::PeerFault { addr, fault })) => {
                tracing::debug!("{addr} was disconnected: {fault}");
            }
            Received::Event(SessionEvent::Torrent(_, event)) => {
                if let Some(line) = Line::of(&event) {
                    console.line(&line);
                }
            }
            Received::Event(_) | Received::TimedOut => {}
        }
        if let Some(found) = handle.metainfo() {
            let metainfo = found.map_err(|error| Failure::Torrent(error.to_string()))?;
            console.line(&Line::Metadata {
                name: &metainfo.name,
                len: metainfo.raw_info().len(),
                files: metainfo.files.iter().filter(|file| !file.pad).count(),
                bytes_total: metainfo.geometry.total_len(),
            });
            return Ok(metainfo);
        }
    }
}
