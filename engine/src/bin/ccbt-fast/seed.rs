//! `ccbt-fast seed`.

use crate::args::SeedArgs;
use crate::failure::Failure;
use crate::resume::{self, renames_of};
use crate::transfer::{self, Kind, Plan};

/// Checks what is there and serves it until stopped, or as long as was asked for.
pub fn run(args: &SeedArgs) -> Result<(), Failure> {
    let mut plan = Plan::new(&args.transfer, args.settings.given())?;
    plan.effect.torrent.seed_only = true;
    let output = &plan.effect.torrent.output;
    match output.metadata() {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return Err(Failure::folder(output, "it is not a folder")),
        Err(error) => return Err(Failure::folder(output, &error.to_string())),
    }
    let found = resume::find_for_seed(&plan);
    plan.notes = found.notes;
    if found.keep_away {
        plan.effect.settings.checkpoints.dir = None;
    }
    let options = &mut plan.effect.torrent;
    if let Some(checkpoint) = found.checkpoint {
        if options.renames.is_empty() {
            options.renames = renames_of(&checkpoint);
        }
        options.resume = Some(checkpoint);
    }
    options.auto_resume = false;
    transfer::run(Kind::Seed, &args.transfer, plan)
}
