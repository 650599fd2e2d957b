//! `ccbt-fast download`.

use std::fs;
use std::path::PathBuf;

use crate::args::DownloadArgs;
use crate::failure::Failure;
use crate::resume;
use crate::transfer::{self, Kind, Plan};

/// Downloads until everything is verified and on disk, and seeds as long as was asked for.
pub fn run(args: &DownloadArgs) -> Result<(), Failure> {
    run_in(args, None)
}

/// As [`run`], with the files in `output` if that is given.
pub fn run_in(args: &DownloadArgs, output: Option<PathBuf>) -> Result<(), Failure> {
    run_as(args, output, |plan| Ok(Kind::Download { move_completed: plan.effect.move_completed.clone() }))
}

/// As [`run_in`], for what `kind` makes of the plan.
pub fn run_as(
    args: &DownloadArgs,
    output: Option<PathBuf>,
    kind: impl FnOnce(&mut Plan) -> Result<Kind, Failure>,
) -> Result<(), Failure> {
    let mut plan = Plan::new(&args.transfer, args.settings.given())?;
    let named = output.is_some() || args.names_output();
    if let Some(output) = output {
        plan.effect.torrent.output = output;
    }
    plan.effect.torrent.source = Some(args.transfer.torrent.clone());
    let own = args.files.priorities(&plan.metainfo)?;
    let configured = || plan.effect.files.priorities_if_fitting(&plan.metainfo);
    let file_priorities = own.or_else(configured);
    plan.effect.torrent.file_priorities = file_priorities;
    let kind = kind(&mut plan)?;
    let found = resume::find(args, &plan, named)?;
    plan.notes = found.notes;
    let options = &mut plan.effect.torrent;
    if let Some(checkpoint) = found.checkpoint {
        if !named && args.checkpoint.resume {
            options.output.clone_from(&checkpoint.output);
        }
        if options.renames.is_empty() {
            options.renames = resume::renames_of(&checkpoint);
        }
        options.resume = Some(checkpoint);
    }
    // It was decided just now.
    options.auto_resume = false;
    let output = &options.output;
    // Only now: a torrent that is refused leaves nothing behind.
    fs::create_dir_all(output).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => Failure::folder(output, "it is not a folder"),
        _ => Failure::folder(output, &format!("cannot be created: {error}")),
    })?;
    transfer::run(kind, &args.transfer, plan)
}
