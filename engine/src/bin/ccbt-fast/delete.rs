//! `ccbt-fast delete`: removes a torrent's files, and nothing else.

use std::io::{self, IsTerminal, Write};

use ccbt_fast::TorrentSource;
use ccbt_fast::checkpoints::Store;
use ccbt_protocol::metainfo::escape_for_terminal;
use ccbt_storage::relocate::delete;
use serde::Serialize;

use crate::args::DeleteArgs;
use crate::console::{Console, print_line};
use crate::failure::Failure;
use crate::relocate::layout;
use crate::resume::{checkpoint_of, renames_of};
use crate::{json, units};

/// The object of `--json`.
#[derive(Serialize)]
struct Report {
    files: u64,
    /// Their bytes.
    bytes: u64,
    /// What stays, and why.
    left: Vec<String>,
}

/// Asks unless told not to, and removes.
pub fn run(args: &DeleteArgs) -> Result<(), Failure> {
    let metainfo = TorrentSource::from(args.torrent.as_path()).load()?;
    let renames = if args.rename.renames.is_empty() {
        let store = args.checkpoints.dir()?.map(Store::new);
        checkpoint_of(store.as_ref(), &metainfo, &args.dir).as_ref().map(renames_of).unwrap_or_default()
    } else {
        args.rename.renames.clone()
    };
    let spec = layout(&metainfo, &args.dir, &renames)?;
    let shown = escape_for_terminal(&args.dir.to_string_lossy()).into_owned();
    if !args.dir.is_dir() {
        return Err(Failure::Usage(format!("--dir {shown}: it is not a folder")));
    }
    if !args.yes && !confirmed(&metainfo.name, &shown)? {
        return Err(Failure::Usage("nothing was removed".to_owned()));
    }
    let report = delete(&spec)?;
    let left: Vec<String> =
        report.left.iter().map(|left| format!("{}: {}", left.path.display(), left.reason)).collect();
    let many = left.len();
    if args.json {
        print_line(&json::to_line(&Report { files: report.files, bytes: report.bytes, left }));
    } else {
        let console = Console::new(false);
        for left in &left {
            console.words(&escape_for_terminal(&format!("stays: {left}")));
        }
        console.words(&format!("removed {} files, {}", report.files, units::bytes(report.bytes)));
    }
    if many == 0 { Ok(()) } else { Err(Failure::Left(many)) }
}

/// Asks on the terminal. Without one nobody can have meant it.
fn confirmed(name: &str, dir: &str) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::Usage("not asked on a terminal: give --yes to remove the files".to_owned()));
    }
    let mut error = io::stderr().lock();
    let _ = write!(error, "remove the files of {name} in {dir}? [y/N] ").and_then(|()| error.flush());
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(Failure::system("read the answer"))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
