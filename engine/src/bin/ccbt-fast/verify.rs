//! `ccbt-fast verify`: checks files against a torrent; nothing is changed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ccbt_fast::checkpoints::Store;
use ccbt_fast::hashing::verify::{
    FileReport, FileState, PieceState, Target, VerifyOptions, VerifyReport, verify_all,
};
use ccbt_fast::{Metainfo, TorrentSource};
use ccbt_protocol::metainfo::escape_for_terminal;
use serde::Serialize;

use crate::args::VerifyArgs;
use crate::console::{Console, print_line};
use crate::failure::Failure;
use crate::gauge;
use crate::json;
use crate::limits;
use crate::resume::{checkpoint_of, renames_of};
use crate::signals::Signals;

/// The object of `--json` for one torrent. Lengths in bytes.
#[derive(Serialize)]
struct Report {
    complete: bool,
    pieces_ok: u32,
    pieces_bad: u32,
    pieces_missing: u32,
    pieces_total: u32,
    files: Vec<File>,
}

/// The object of `--json` for several torrents.
#[derive(Serialize)]
struct Reports<'a> {
    complete: bool,
    torrents: Vec<Named<'a>>,
}

#[derive(Serialize)]
struct Named<'a> {
    /// Path of the torrent file, as given.
    torrent: String,
    info_hash: String,
    #[serde(flatten)]
    report: &'a Report,
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
    let load = |path: &PathBuf| TorrentSource::from(path.as_path()).load();
    let torrents = args.torrents.iter().map(load).collect::<Result<Vec<_>, _>>()?;
    let signals = Signals::install().map_err(Failure::system("handle signals"))?;
    // Many lanes have a file open each, on every thread.
    limits::raise();
    let mut console = Console::new(args.json);
    let options = VerifyOptions {
        hash: args.hash.options(),
        resume: args.resume_file.clone(),
        // To where no JSON is.
        notify: Some(|text| eprintln!("ccbt-fast: {text}")),
        ..VerifyOptions::default()
    };
    let renames = renames(args, &torrents)?;
    let target = |(metainfo, renames)| Target { metainfo, root: &args.output, renames };
    let targets: Vec<Target<'_>> = torrents
        .iter()
        .map(|metainfo| &**metainfo)
        .zip(renames.iter().map(Vec::as_slice))
        .map(target)
        .collect();
    let progress = Arc::clone(&options.progress);
    let work = || verify_all(&targets, &options);
    let found = gauge::watch("verifying", &progress, &signals, &mut console, work)??;
    let reports: Vec<Report> = torrents
        .iter()
        .zip(&found)
        .map(|(metainfo, found)| Report::of(metainfo, found, &args.output))
        .collect();
    if args.json {
        print_json(args, &torrents, &reports);
    } else {
        for ((path, metainfo), report) in args.torrents.iter().zip(&torrents).zip(&reports) {
            if reports.len() > 1 {
                let path = path.to_string_lossy();
                console.words(&escape_for_terminal(&format!("{path} ({}):", metainfo.name)));
            }
            report.print(&console);
        }
    }
    if reports.iter().all(|report| report.complete) {
        return Ok(());
    }
    let sum = |of: fn(&Report) -> u32| reports.iter().map(|report| u64::from(of(report))).sum();
    Err(Failure::Incomplete { ok: sum(|report| report.pieces_ok), total: sum(|report| report.pieces_total) })
}

/// Other paths of each torrent's files: those that were given, else those of its checkpoint if that is of this folder.
fn renames(args: &VerifyArgs, torrents: &[Arc<Metainfo>]) -> Result<Vec<Vec<(u32, PathBuf)>>, Failure> {
    if !args.rename.renames.is_empty() {
        return match torrents {
            [_] => Ok(vec![args.rename.renames.clone()]),
            _ => {
                Err(Failure::Usage("--rename is for one torrent: verify the others by themselves".to_owned()))
            }
        };
    }
    let store = args.checkpoints.dir()?.map(Store::new);
    let of = |metainfo: &Arc<Metainfo>| {
        checkpoint_of(store.as_ref(), metainfo, &args.output).as_ref().map(renames_of).unwrap_or_default()
    };
    Ok(torrents.iter().map(of).collect())
}

fn print_json(args: &VerifyArgs, torrents: &[Arc<Metainfo>], reports: &[Report]) {
    if let [report] = reports {
        print_line(&json::to_line(report));
        return;
    }
    let named = args.torrents.iter().zip(torrents).zip(reports).map(|((path, metainfo), report)| Named {
        torrent: path.to_string_lossy().into_owned(),
        info_hash: metainfo.info_hash.to_string(),
        report,
    });
    let complete = reports.iter().all(|report| report.complete);
    print_line(&json::to_line(&Reports { complete, torrents: named.collect() }));
}

impl Report {
    fn of(metainfo: &Metainfo, found: &VerifyReport, root: &Path) -> Self {
        Self {
            complete: found.is_complete(),
            pieces_ok: found.count(PieceState::Ok),
            pieces_bad: found.count(PieceState::Bad),
            pieces_missing: found.count(PieceState::Missing),
            pieces_total: metainfo.geometry.piece_count(),
            files: found.files.iter().map(|file| File::of(file, root)).collect(),
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
    fn of(file: &FileReport, root: &Path) -> Self {
        let (state, found, reason) = match &file.state {
            FileState::Complete => ("complete", None, None),
            FileState::Damaged => ("damaged", None, None),
            FileState::WrongSize { found } => ("wrong_size", Some(*found), None),
            FileState::Missing => ("missing", None, None),
            FileState::Unreadable(reason) => ("unreadable", None, Some(reason.clone())),
        };
        let path = file.path.strip_prefix(root).unwrap_or(&file.path).to_string_lossy().into_owned();
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
