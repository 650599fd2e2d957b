//! `ccbt-fast tune`: what the settings of a server should be.

use std::path::Path;

use ccbt_fast::tuning::Plan;
use ccbt_protocol::metainfo::escape_for_terminal;

use crate::args::TuneArgs;
use crate::console::print_line;
use crate::failure::Failure;

/// See the module.
pub fn run(args: &TuneArgs) -> Result<(), Failure> {
    let root = args.root.as_deref().unwrap_or(Path::new("/"));
    if !root.is_dir() {
        return Err(Failure::Usage(format!("--root {}: it is no folder", root.display())));
    }
    let plan = Plan::of(args.profile, root);
    let difference = plan.difference();
    if difference.is_empty() {
        print_line(&format!("everything is as the profile {} has it", args.profile));
        return Ok(());
    }
    if !args.apply {
        difference.lines().for_each(|line| print_line(&escape_for_terminal(line)));
        print_line("nothing was changed: add --apply to do so");
        return Ok(());
    }
    let written = plan.apply()?;
    written.files.iter().for_each(|path| print_line(&format!("written: {}", path.display())));
    written.set.iter().for_each(|name| print_line(&format!("set: {name}")));
    for (name, error) in &written.refused {
        print_line(&format!(
            "not set now: {name} ({error}); the file sets it at the next start of the machine"
        ));
    }
    print_line(
        "limits count from the next login on; a running daemon takes ccbt.toml on SIGHUP, most of it when started anew",
    );
    Ok(())
}
