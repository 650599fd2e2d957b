//! `ccbt-fast download`.

use std::fs;

use crate::args::DownloadArgs;
use crate::failure::Failure;
use crate::resume;
use crate::transfer::{self, Kind};

/// Downloads until everything is verified and on disk, and seeds as long as was asked for.
pub fn run(args: &DownloadArgs) -> Result<(), Failure> {
    let metainfo = transfer::load(&args.transfer)?;
    let mut options = args.add_options();
    let found = resume::find(args, &metainfo)?;
    if let Some(checkpoint) = found.checkpoint {
        if args.transfer.output.is_none() && args.checkpoint.resume {
            options.output.clone_from(&checkpoint.output);
        }
        if options.renames.is_empty() {
            let renames = checkpoint.renames.iter().map(|rename| (rename.file, rename.path.clone()));
            options.renames = renames.collect();
        }
        options.resume = Some(checkpoint);
    }
    let output = &options.output;
    // Only now: a torrent that is refused leaves nothing behind.
    fs::create_dir_all(output).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => Failure::folder(output, "it is not a folder"),
        _ => Failure::folder(output, &format!("cannot be created: {error}")),
    })?;
    let kind = Kind::Download { move_completed: args.move_completed.clone() };
    transfer::run(kind, &args.transfer, metainfo, options, &found.notes, |files| args.settings(files))
}
