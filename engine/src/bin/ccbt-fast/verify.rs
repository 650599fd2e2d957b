//! `ccbt-fast verify`: checks files against a torrent; nothing is changed.

use std::sync::Arc;

use ccbt_fast::hashing::HashOptions;
use ccbt_fast::hashing::verify::{FileReport, FileState, PieceState, VerifyOptions, VerifyReport, verify};
use ccbt_fast::{Metainfo, TorrentSource};
use ccbt_protocol::metainfo::escape_for_terminal;
use serde::Serialize;

use crate::args::VerifyArgs;
use crate::console::{Console, print_line};
use crate::failure::Failure;
use crate::gauge;
use crate::json;
use crate::signals::Signals;

/// The object of `--json`. Lengths in bytes.
#[derive(Serialize)]
struct Report {
    complete: bool,
    pieces_ok: u32,
    pieces_bad: u32,
    pieces_missing: u32,
    pieces_total: u32,
    files: Vec<File>,
}

#[derive(Serialize)]
struct File {
    path: String,
    length: u64,
    state: &'static str,
    /// Length it has, where that is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    found: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    pieces: u32,
    pieces_not_ok: u32,
}

/// Hashes and compares; fails when anything is not as it should be.
pub fn run(args: &VerifyArgs) -> Result<(), Failure> {
    let metainfo = TorrentSource::from(args.torrent.as_path()).load()?;
    let signals = Signals::install().map_err(Failure::system("handle signals"))?;
    let mut console = Console::new(args.json);
    let hash = HashOptions { threads: args.threads.into(), ..HashOptions::default() };
    let options = VerifyOptions { hash, ..VerifyOptions::default() };
    let progress = Arc::clone(&options.progress);
    let work = || verify(&metainfo, &args.output, &options);
    let found = gauge::watch("verifying", &progress, &signals, &mut console, work)??;
    let report = Report::of(&metainfo, &found);
    if args.json {
        print_line(&json::to_line(&report));
    } else {
        report.print(&console);
    }
    if report.complete {
        Ok(())
    } else {
        Err(Failure::Incomplete { ok: report.pieces_ok, total: report.pieces_total })
    }
}

impl Report {
    fn of(metainfo: &Metainfo, found: &VerifyReport) -> Self {
        Self {
            complete: found.is_complete(),
            pieces_ok: found.count(PieceState::Ok),
            pieces_bad: found.count(PieceState::Bad),
            pieces_missing: found.count(PieceState::Missing),
            pieces_total: metainfo.geometry.piece_count(),
            files: found.files.iter().map(|file| File::of(metainfo, file)).collect(),
        }
    }

    /// Only what is wrong, then the sum.
    fn print(&self, console: &Console) {
        for file in self.files.iter().filter(|file| file.state != "complete") {
            console.words(&escape_for_terminal(&file.words()));
        }
        console.words(&format!(
            "{} of {} pieces ok, {} bad, {} missing",
            self.pieces_ok, self.pieces_total, self.pieces_bad, self.pieces_missing
        ));
    }
}

impl File {
    fn of(metainfo: &Metainfo, file: &FileReport) -> Self {
        let (state, found, reason) = match &file.state {
            FileState::Complete => ("complete", None, None),
            FileState::Damaged => ("damaged", None, None),
            FileState::WrongSize { found } => ("wrong_size", Some(*found), None),
            FileState::Missing => ("missing", None, None),
            FileState::Unreadable(reason) => ("unreadable", None, Some(reason.clone())),
        };
        let path = metainfo.files[file.index].path.join("/");
        let (pieces, pieces_not_ok) = (file.pieces, file.pieces_not_ok);
        Self { path, length: file.len, state, found, reason, pieces, pieces_not_ok }
    }

    fn words(&self) -> String {
        let pieces = format!("{} of {} pieces are not ok", self.pieces_not_ok, self.pieces);
        match (self.state, self.found, &self.reason) {
            (_, Some(found), _) => {
                format!("{}: has {found} bytes instead of {}; {pieces}", self.path, self.length)
            }
            (_, _, Some(reason)) => format!("{}: {reason}; {pieces}", self.path),
            (state, ..) => format!("{}: {state}; {pieces}", self.path),
        }
    }
}
