//! `security.sandbox`: entered by commands that run the engine, before their first thread is started.

use std::path::Path;

use ccbt_fast::config::{Effect, Sources};
use ccbt_fast::daemon::folders_in_use;
use ccbt_fast::sandbox::{Policy, Sandbox};

use crate::args::TransferArgs;
use crate::console::Console;
use crate::failure::Failure;
use crate::lines::Line;

fn files(sources: &Sources) -> impl Iterator<Item = &Path> {
    sources.files().iter().map(|source| source.path.as_path())
}

/// For one torrent.
pub fn of_transfer(
    args: &TransferArgs,
    effect: &Effect,
    sources: &Sources,
    console: &mut Console,
) -> Result<(), Failure> {
    let mut policy = Policy::of(effect, files(sources));
    policy.read.push(args.torrent.clone());
    // Files are linked from there.
    policy.write.extend(args.link.folders.iter().cloned());
    enter(&policy, effect, console).map(drop)
}

/// For the daemon with the torrents that it has.
pub fn of_daemon(
    effect: &Effect,
    sources: &Sources,
    console: &mut Console,
) -> Result<Option<Sandbox>, Failure> {
    let in_use = effect.daemon.state_path().map(|state| folders_in_use(&state)).unwrap_or_default();
    enter(&Policy::of_daemon(effect, files(sources), in_use), effect, console)
}

fn enter(policy: &Policy, effect: &Effect, console: &mut Console) -> Result<Option<Sandbox>, Failure> {
    let sandbox = policy.enter(effect.sandbox.mode)?;
    for message in sandbox.iter().flat_map(|sandbox| &sandbox.notes) {
        console.line(&Line::Note { message });
    }
    Ok(sandbox)
}
