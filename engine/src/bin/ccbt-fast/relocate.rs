//! `ccbt-fast move --from`: a torrent's files to another folder, without a running session.

use std::path::{Path, PathBuf};

use ccbt_fast::checkpoints::{Checkpoint, Format, Store};
use ccbt_fast::{Metainfo, MoveOptions, TorrentSource};
use ccbt_storage::layout::LayoutSpec;
use ccbt_storage::relocate::{MoveProgress, MoveReport, RelocateError, relocate};
use serde::Serialize;

use crate::args::MoveArgs;
use crate::console::{Console, print_line};
use crate::failure::Failure;
use crate::resume::{checkpoint_of, renames_of};
use crate::signals::Signals;
use crate::{control, gauge, json, units};

/// The object of `--json`. Counts of files, and bytes.
#[derive(Serialize)]
struct Report {
    renamed: u64,
    copied: u64,
    adopted: u64,
    done_before: u64,
    missing: u64,
    bytes: u64,
    /// Sources that could not be removed.
    left: Vec<String>,
}

/// Moves, and fails with everything where it was.
pub fn run(args: &MoveArgs) -> Result<(), Failure> {
    let Some(folder) = &args.from else { return control::move_files(args) };
    let metainfo = TorrentSource::from(args.torrent.as_path()).load()?;
    let dir = match &args.checkpoint_dir {
        Some(dir) => Some(dir.clone()),
        None => args.control.sources.sources(&[]).load()?.effect(None).checkpoint_folder(),
    };
    let store = dir.map(Store::new);
    let checkpoint = checkpoint_of(store.as_ref(), &metainfo, folder);
    let renames = match &checkpoint {
        Some(checkpoint) if args.rename.renames.is_empty() => renames_of(checkpoint),
        _ => args.rename.renames.clone(),
    };
    let from = layout(&metainfo, folder, &renames)?;
    let to = from.with_root(args.to.clone());
    let signals = Signals::install().map_err(Failure::system("handle signals"))?;
    let mut console = Console::new(args.control.json);
    let options = MoveOptions { overwrite: args.overwrite };
    let report = watched(&from, &to, options, &signals, &mut console)?;
    if report.renamed + report.copied + report.adopted + report.done_before == 0 {
        let problem = format!("there is no file of the torrent in {}; --from names another folder?", {
            ccbt_protocol::metainfo::escape_for_terminal(&folder.to_string_lossy()).into_owned()
        });
        return Err(Failure::Usage(problem));
    }
    if let (Some(store), Some(checkpoint)) = (store, checkpoint) {
        follow(&store, checkpoint, &args.to, &console);
    }
    tell(report, args.control.json, &console);
    Ok(())
}

/// The checkpoint's files are in another folder now. Without it they would be hashed again.
fn follow(store: &Store, checkpoint: Checkpoint, to: &Path, console: &Console) {
    let moved = std::path::absolute(to)
        .and_then(|output| store.save(&Checkpoint { output, ..checkpoint }, Format::default()));
    if let Err(error) = moved {
        console.words(&format!("its checkpoint still names the old folder: {error}"));
    }
}

/// The files of `metainfo` in the folder `dir`.
pub fn layout(metainfo: &Metainfo, dir: &Path, renames: &[(u32, PathBuf)]) -> Result<LayoutSpec, Failure> {
    let spec = LayoutSpec::from_metainfo(dir.to_owned(), metainfo);
    spec.and_then(|spec| spec.with_renames(renames)).map_err(|error| Failure::Usage(error.to_string()))
}

/// Moves with a display beside it; a signal undoes it.
pub fn watched(
    from: &LayoutSpec,
    to: &LayoutSpec,
    options: MoveOptions,
    signals: &Signals,
    console: &mut Console,
) -> Result<MoveReport, Failure> {
    let progress = MoveProgress::default();
    let work = || relocate(from, to, options, &progress);
    match (gauge::watch("moving", &progress, signals, console, work)?, signals.received()) {
        (Err(RelocateError::Cancelled), Some(signal)) => Err(Failure::Interrupted(signal)),
        (result, _) => Ok(result?),
    }
}

fn tell(report: MoveReport, is_json: bool, console: &Console) {
    let MoveReport { renamed, copied, adopted, done_before, missing, bytes, left } = report;
    let left: Vec<String> =
        left.into_iter().map(|left| format!("{}: {}", left.path.display(), left.reason)).collect();
    if is_json {
        print_line(&json::to_line(&Report { renamed, copied, adopted, done_before, missing, bytes, left }));
        return;
    }
    for left in &left {
        console.words(&ccbt_protocol::metainfo::escape_for_terminal(&format!("still there: {left}")));
    }
    let counts = [(renamed, "renamed"), (copied, "copied"), (adopted, "there already, sources removed")];
    let more = [(done_before, "moved before"), (missing, "missing")];
    let words = counts.iter().chain(&more).filter(|(count, _)| *count > 0);
    let words: Vec<String> = words.map(|(count, what)| format!("{count} {what}")).collect();
    console.words(&format!("moved {}: {} files", units::bytes(bytes), words.join(", ")));
}
