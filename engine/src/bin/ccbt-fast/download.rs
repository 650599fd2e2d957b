//! `ccbt-fast download`.

use std::fs;

use crate::args::DownloadArgs;
use crate::failure::Failure;
use crate::transfer::{self, Kind, Plan};

/// Downloads until everything is verified and on disk, and seeds as long as was asked for.
pub fn run(args: &DownloadArgs) -> Result<(), Failure> {
    let plan = Plan::new(&args.transfer, args.settings.given())?;
    let output = &plan.effect.torrent.output;
    // Only now: a torrent that is refused leaves nothing behind.
    fs::create_dir_all(output).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => Failure::folder(output, "it is not a folder"),
        _ => Failure::folder(output, &format!("cannot be created: {error}")),
    })?;
    let kind = Kind::Download { move_completed: plan.effect.move_completed.clone() };
    transfer::run(kind, &args.transfer, plan)
}
