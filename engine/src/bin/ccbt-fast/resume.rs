//! Going on from checkpoints: `ccbt-fast resume`, and what `download` does when it finds one.
//!
//! `resume` asks the daemon first, where one runs: a torrent that it has is in use there. Only what it does not have is
//! downloaded by this process.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use ccbt_fast::checkpoints::{Checkpoint, LoadError, Store, now};
use ccbt_fast::config::AutoResume;
use ccbt_fast::{InfoHash, Metainfo, TorrentSource};
use ccbt_protocol::metainfo::escape_for_terminal;

use crate::args::{ControlArgs, DownloadArgs, HashPrefix, PickArgs, ResumeArgs};
use crate::failure::Failure;
use crate::transfer::Plan;
use crate::{control, download, units};

/// What `download` goes on from.
#[derive(Debug, Default)]
pub struct Found {
    /// The checkpoint, if it is to be used.
    pub checkpoint: Option<Box<Checkpoint>>,
    /// Things worth telling.
    pub notes: Vec<String>,
    /// The checkpoint that is there is of other files, and not to be replaced.
    pub keep_away: bool,
}

/// Other paths of files that a checkpoint remembers.
pub fn renames_of(checkpoint: &Checkpoint) -> Vec<(u32, PathBuf)> {
    checkpoint.renames.iter().map(|rename| (rename.file, rename.path.clone())).collect()
}

/// The torrent's checkpoint, if there is one whose files are in the folder `dir`.
pub fn checkpoint_of(store: Option<&Store>, metainfo: &Metainfo, dir: &Path) -> Option<Checkpoint> {
    let checkpoint = store?.load(metainfo.info_hash).ok()?.checkpoint;
    let is_it = checkpoint.fits(metainfo).is_ok() && same_folder(dir, &checkpoint.output);
    is_it.then_some(checkpoint)
}

/// Looks for a checkpoint of the torrent. Asks on a terminal unless options say what to do; elsewhere a good one is
/// used. `named`: the command line says where files go.
pub fn find(args: &DownloadArgs, plan: &Plan, named: bool) -> Result<Found, Failure> {
    let mut found = Found::default();
    let checkpoint = load(plan, &mut found.notes);
    if args.checkpoint.resume && checkpoint.is_none() && found.notes.is_empty() {
        let text = "there is no checkpoint of the torrent: what is in its folder is looked at";
        found.notes.push(text.to_owned());
    }
    if let Some(checkpoint) = checkpoint
        && is_wanted(args, plan, named, &checkpoint, &mut found.notes)?
    {
        found.checkpoint = Some(Box::new(checkpoint));
    }
    Ok(found)
}

/// As [`find`] for what is only served: nobody is asked, and a checkpoint of files elsewhere is left alone.
pub fn find_for_seed(plan: &Plan) -> Found {
    let mut found = Found::default();
    let Some(checkpoint) = load(plan, &mut found.notes) else { return found };
    if !same_folder(&plan.effect.torrent.output, &checkpoint.output) {
        let place = shown(&checkpoint.output.to_string_lossy());
        found.notes.push(format!("the checkpoint of files in {place} stays as it is; none is kept of these"));
        found.keep_away = true;
    } else if plan.effect.auto_resume != AutoResume::Never {
        found.checkpoint = Some(Box::new(checkpoint));
    }
    found
}

/// The checkpoint of the plan's torrent, if it is good. Why it is not used becomes a note.
fn load(plan: &Plan, notes: &mut Vec<String>) -> Option<Checkpoint> {
    let metainfo = &plan.metainfo;
    let Some(dir) = &plan.effect.settings.checkpoints.dir else {
        if plan.effect.checkpoint_folder().is_none() {
            notes.push("no checkpoints: there is no home folder; name one with --checkpoint-dir".to_owned());
        }
        return None;
    };
    let loaded = match Store::new(dir).load(metainfo.info_hash) {
        Ok(loaded) => loaded,
        Err(LoadError::Missing(_)) => return None,
        Err(error) => {
            notes.push(shown(&error.to_string()));
            return None;
        }
    };
    if let Some(reason) = loaded.fell_back {
        notes.push(format!("the newest checkpoint is not used, but the one before it: {}", shown(&reason)));
    }
    if let Err(mismatch) = loaded.checkpoint.fits(metainfo) {
        notes.push(format!("the checkpoint is not used: {mismatch}"));
        return None;
    }
    Some(loaded.checkpoint)
}

fn is_wanted(
    args: &DownloadArgs,
    plan: &Plan,
    named: bool,
    checkpoint: &Checkpoint,
    notes: &mut Vec<String>,
) -> Result<bool, Failure> {
    let is_there = |dir: &Path| same_folder(dir, &checkpoint.output);
    let places = [Some(&plan.effect.torrent.output), plan.effect.move_completed.as_ref()];
    let goes_there = args.checkpoint.resume && !named;
    if !goes_there && !places.into_iter().flatten().any(|dir| is_there(dir)) {
        let place = shown(&checkpoint.output.to_string_lossy());
        notes.push(format!(
            "there is a checkpoint of files in {place}: `ccbt-fast resume {}` goes on there",
            checkpoint.info_hash
        ));
        // Files that were moved by hand keep their times, and then it is as good as before.
        return Ok(args.checkpoint.resume);
    }
    if !args.checkpoint.resume && plan.effect.auto_resume == AutoResume::Never {
        let text = "there is a checkpoint, but disk.auto_resume is false: what is there is hashed";
        notes.push(text.to_owned());
        return Ok(false);
    }
    let is_asked = !args.checkpoint.resume && plan.effect.auto_resume == AutoResume::Ask;
    let asks = is_asked && !args.transfer.json && is_terminal();
    Ok(!asks || confirmed(&format!("{}\ngo on from it?", describe(checkpoint)))?)
}

/// Whether both name the same folder.
pub fn same_folder(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().or_else(|_| std::path::absolute(path));
    one == other || matches!((real(one), real(other)), (Ok(one), Ok(other)) if one == other)
}

/// Whether somebody can be asked.
pub fn is_terminal() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

fn shown(text: &str) -> String {
    escape_for_terminal(text).into_owned()
}

/// A checkpoint in words.
fn describe(checkpoint: &Checkpoint) -> String {
    format!(
        "a checkpoint of {} was found: {} of {} ({} of {} pieces) in {}, written {}",
        shown(&checkpoint.name),
        units::bytes(checkpoint.bytes_done()),
        units::bytes(checkpoint.total_len),
        checkpoint.have.count(),
        checkpoint.have.len(),
        shown(&checkpoint.output.to_string_lossy()),
        age(checkpoint.saved_at),
    )
}

/// How long ago a second since 1970 was.
pub fn age(second: i64) -> String {
    match u64::try_from(now() - second) {
        Ok(0) => "just now".to_owned(),
        Ok(seconds) => format!("{} ago", units::duration(std::time::Duration::from_secs(seconds))),
        Err(_) => "in the future".to_owned(),
    }
}

fn confirmed(question: &str) -> Result<bool, Failure> {
    Ok(!matches!(ask(&format!("{question} [Y/n] "))?.as_str(), "n" | "N" | "no"))
}

/// Asks on the terminal.
fn ask(question: &str) -> Result<String, Failure> {
    let mut error = io::stderr().lock();
    // Nobody may be there to read it.
    let _ = write!(error, "{question}").and_then(|()| error.flush());
    let mut answer = String::new();
    let read = io::stdin().read_line(&mut answer).map_err(Failure::system("read the answer"))?;
    if read == 0 {
        return Err(Failure::Usage("the question was not answered".to_owned()));
    }
    Ok(answer.trim().to_owned())
}

/// The one torrent of `store` that is meant.
pub fn resolve(store: &Store, prefix: &HashPrefix) -> Result<InfoHash, Failure> {
    let entries = store.list().map_err(Failure::system(format!("list {}", store.dir().display())))?;
    let mut fitting = entries.iter().map(|entry| entry.info_hash).filter(|hash| prefix.matches(*hash));
    match (fitting.next(), fitting.next()) {
        (Some(hash), None) => Ok(hash),
        (Some(_), Some(_)) => {
            Err(Failure::Usage(format!("several info-hashes begin with {}: give more digits", prefix.0)))
        }
        (None, _) => Err(Failure::Usage(format!(
            "there is no checkpoint of {} in {}; `ccbt-fast checkpoints list` shows all",
            prefix.0,
            shown(&store.dir().to_string_lossy())
        ))),
    }
}

/// Goes on with the torrent that has this info-hash.
pub fn run(args: &ResumeArgs) -> Result<(), Failure> {
    let text = args.download.transfer.torrent.to_string_lossy();
    let prefix: HashPrefix =
        text.parse().map_err(|problem| Failure::Usage(format!("{}: {problem}", shown(&text))))?;
    if !args.no_daemon && resume_in_daemon(args, &prefix)? {
        return Ok(());
    }
    if args.interactive && !is_terminal() {
        return Err(Failure::Usage("--interactive needs a terminal".to_owned()));
    }
    let sources = args.download.transfer.sources.sources(args.download.settings.given());
    let store = open(sources.load()?.effect(None).checkpoint_folder())?;
    let info_hash = resolve(&store, &prefix)?;
    let checkpoint =
        store.load(info_hash).map_err(|error| Failure::Usage(shown(&error.to_string())))?.checkpoint;
    let mut download = args.download.clone();
    if args.interactive && !confirmed(&format!("{}\ngo on?", describe(&checkpoint)))? {
        return Err(Failure::Usage("nothing was done".to_owned()));
    }
    download.checkpoint.resume = true;
    download.transfer.torrent = find_torrent(&store, &checkpoint, args.interactive)?;
    let mut output = None;
    if !download.names_output() && !checkpoint.output.is_dir() {
        let place = shown(&checkpoint.output.to_string_lossy());
        if !args.interactive {
            let problem = format!("its folder {place} is not there; name another one with --output");
            return Err(Failure::Usage(problem));
        }
        let answer = ask(&format!("its folder {place} is not there; folder that holds its files now: "))?;
        output = Some(answer.into());
    }
    download::run_in(&download, output)
}

/// Resumes the torrent in the daemon if that has it: its files are in use there.
fn resume_in_daemon(args: &ResumeArgs, prefix: &HashPrefix) -> Result<bool, Failure> {
    let transfer = &args.download.transfer;
    let place = args.place.clone();
    let is_named = place.socket.is_some() || place.connect.is_some();
    let control = ControlArgs { place, sources: transfer.sources.clone(), json: transfer.json };
    let client = control::client(&control)?;
    match control::is_in_daemon(&client, prefix)? {
        true if args.has_other_options() => Err(Failure::Usage(
            "the daemon has this torrent, and takes no options of a download; `ccbt-fast limit` changes its limits"
                .to_owned(),
        )),
        true => control::resume(&PickArgs { info_hashes: vec![prefix.clone()], control }).map(|()| true),
        false if is_named => Err(Failure::Usage(format!("no daemon there has a torrent {}", prefix.0))),
        false => Ok(false),
    }
}

/// The folder of checkpoints that was named, or the default one.
pub fn open(dir: Option<PathBuf>) -> Result<Store, Failure> {
    let none =
        || Failure::Usage("there is no home folder: name the checkpoints' one with --checkpoint-dir".into());
    Ok(Store::new(dir.ok_or_else(none)?))
}

/// The torrent's own file, or the copy that was kept.
fn find_torrent(store: &Store, checkpoint: &Checkpoint, interactive: bool) -> Result<PathBuf, Failure> {
    let is_it = |path: &Path| {
        TorrentSource::from(path).load().is_ok_and(|metainfo| checkpoint.fits(&metainfo).is_ok())
    };
    if let Some(path) = store.torrent_of(checkpoint) {
        return Ok(path);
    }
    if !interactive {
        let problem =
            "its torrent file is gone: `ccbt-fast download TORRENT --resume` goes on with another copy";
        return Err(Failure::Usage(problem.to_owned()));
    }
    let answer = PathBuf::from(ask("its torrent file is gone; path of another copy: ")?);
    if is_it(&answer) {
        Ok(answer)
    } else {
        Err(Failure::Usage(format!("{} is not its torrent file", shown(&answer.to_string_lossy()))))
    }
}
