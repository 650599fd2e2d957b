//! `ccbt-fast download`.

use std::fs;

use crate::args::DownloadArgs;
use crate::failure::Failure;
use crate::transfer::{self, Kind};

/// Downloads until everything is verified and on disk, and seeds as long as was asked for.
pub fn run(args: &DownloadArgs) -> Result<(), Failure> {
    let metainfo = transfer::load(&args.transfer)?;
    let output = &args.transfer.output;
    // Only now: a torrent that is refused leaves nothing behind.
    fs::create_dir_all(output).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => Failure::folder(output, "it is not a folder"),
        _ => Failure::folder(output, &format!("cannot be created: {error}")),
    })?;
    let kind = Kind::Download { move_completed: args.move_completed.clone() };
    transfer::run(kind, &args.transfer, metainfo, args.add_options(), |files| args.settings(files))
}
