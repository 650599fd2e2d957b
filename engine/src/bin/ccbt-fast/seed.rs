//! `ccbt-fast seed`.

use crate::args::SeedArgs;
use crate::failure::Failure;
use crate::transfer::{self, Kind};

/// Checks what is there and serves it until stopped, or as long as was asked for.
pub fn run(args: &SeedArgs) -> Result<(), Failure> {
    let metainfo = transfer::load(&args.transfer)?;
    let output = args.transfer.output();
    match output.metadata() {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return Err(Failure::folder(output, "it is not a folder")),
        Err(error) => return Err(Failure::folder(output, &error.to_string())),
    }
    transfer::run(Kind::Seed, &args.transfer, metainfo, args.add_options(), &[], |files| {
        args.transfer.settings(files)
    })
}
