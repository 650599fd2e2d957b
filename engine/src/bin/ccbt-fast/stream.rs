//! `ccbt-fast stream`: a download whose file is served over HTTP while it comes.

use std::net::SocketAddr;

use ccbt_fast::choosing::choose;
use ccbt_fast::{Metainfo, Priority};
use ccbt_protocol::metainfo::escape_for_terminal;

use crate::args::StreamArgs;
use crate::download;
use crate::failure::Failure;
use crate::transfer::Kind;

/// Serves until it is stopped.
pub fn run(args: &StreamArgs) -> Result<(), Failure> {
    let listen = SocketAddr::new(args.http_bind, args.http_port);
    download::run_as(&args.download, None, |plan| {
        let file = chosen(&plan.metainfo, args.file.as_deref())?;
        let options = &mut plan.effect.torrent;
        // Nothing else is wanted, unless options name it.
        let unsaid = || vec![Priority::Skip; plan.metainfo.files.len()];
        let is_only = options.file_priorities.is_none();
        let priorities = options.file_priorities.get_or_insert_with(unsaid);
        if priorities[file] == Priority::Skip {
            priorities[file] = Priority::Normal;
        }
        // Before a player comes: from the beginning on.
        options.streaming |= is_only;
        Ok(Kind::Stream { file, listen })
    })
}

/// The file that is meant: one that is named, or the largest.
fn chosen(metainfo: &Metainfo, name: Option<&str>) -> Result<usize, Failure> {
    let stored = |index: usize| {
        let file = &metainfo.files[index];
        !file.pad && file.symlink.is_none() && file.len > 0
    };
    let Some(name) = name else {
        let files = (0..metainfo.files.len()).rev().filter(|index| stored(*index));
        let largest = files.max_by_key(|index| metainfo.files[*index].len);
        return largest.ok_or_else(|| Failure::Usage("the torrent has no file to serve".to_owned()));
    };
    let failed = |text: String| Failure::Usage(escape_for_terminal(&text).into_owned());
    let found = choose(metainfo, name).map_err(|error| failed(error.to_string()))?;
    match found[..] {
        [file] if stored(file as usize) => Ok(file as usize),
        [_] | [] => Err(failed(format!("--file {name}: it has no bytes to serve"))),
        _ => Err(failed(format!("--file {name}: {} files fit, and one is served", found.len()))),
    }
}
