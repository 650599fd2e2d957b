//! `ccbt-fast checkpoints`: lists, shows, compares, removes, exports and imports them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ccbt_fast::checkpoints::import::{ImportOptions, candidates, import};
use ccbt_fast::checkpoints::{self, Checkpoint, Entry, Retention, Store, write_atomically};
use ccbt_fast::{InfoHash, TorrentSource};
use ccbt_protocol::metainfo::escape_for_terminal;
use serde::Serialize;
use serde_json::{Value, json};

use crate::args::{CheckpointsArgs, CheckpointsCommand, HashPrefix};
use crate::console::print_line;
use crate::failure::Failure;
use crate::resume::{age, open, resolve};
use crate::{json, units};

/// Does what was asked for.
pub fn run(args: &CheckpointsArgs) -> Result<(), Failure> {
    let store = open(args.dir.dir()?)?;
    let is_json = args.json;
    match &args.command {
        CheckpointsCommand::List => list(&store, is_json),
        CheckpointsCommand::Show { info_hash } => show(&store, info_hash, is_json),
        CheckpointsCommand::Verify { info_hashes } => verify(&store, info_hashes, is_json),
        CheckpointsCommand::Clean { days, completed } => {
            let older_than = days.map(|days| Duration::from_secs(u64::from(days) * 86_400));
            clean(&store, Retention { older_than, completed: *completed }, is_json)
        }
        CheckpointsCommand::Delete { info_hashes } => delete(&store, info_hashes, is_json),
        CheckpointsCommand::Export { info_hash, file, format } => {
            let checkpoint = load(&store, resolve(&store, info_hash)?)?;
            write_atomically(file, &checkpoint.encode((*format).into()))
                .map_err(Failure::system(format!("write {}", shown_path(file))))?;
            tell(is_json, json!({ "exported": checkpoint.info_hash.to_string() }), || {
                format!("exported {}", checkpoint.info_hash)
            });
            Ok(())
        }
        CheckpointsCommand::Import { paths, torrent, output } => {
            let options = ImportOptions { torrent: torrent.clone(), output: output.clone() };
            take_over(&store, paths, &options, is_json)
        }
    }
}

fn shown(text: &str) -> String {
    escape_for_terminal(text).into_owned()
}

fn shown_path(path: &Path) -> String {
    shown(&path.to_string_lossy())
}

fn tell(is_json: bool, value: Value, words: impl FnOnce() -> String) {
    print_line(&if is_json { value.to_string() } else { words() });
}

fn entries(store: &Store) -> Result<Vec<Entry>, Failure> {
    store.list().map_err(Failure::system(format!("list {}", shown_path(store.dir()))))
}

fn load(store: &Store, info_hash: InfoHash) -> Result<Checkpoint, Failure> {
    let loaded = store.load(info_hash);
    loaded.map(|loaded| loaded.checkpoint).map_err(|error| Failure::Usage(shown(&error.to_string())))
}

/// A line of `list`. Bytes, counts, and seconds since 1970.
#[derive(Serialize)]
struct Listed {
    info_hash: String,
    name: Option<String>,
    output: Option<String>,
    pieces_done: Option<u32>,
    pieces_total: Option<u32>,
    bytes_done: Option<u64>,
    bytes_total: Option<u64>,
    saved_at: Option<i64>,
    /// Bytes that it takes.
    size: u64,
    /// Why the newest or all cannot be used.
    problem: Option<String>,
}

impl Listed {
    fn of(entry: &Entry) -> Self {
        let checkpoint = entry.loaded.as_ref().ok().map(|loaded| &loaded.checkpoint);
        let problem = match &entry.loaded {
            Ok(loaded) => loaded.fell_back.clone(),
            Err(error) => Some(error.to_string()),
        };
        Self {
            info_hash: entry.info_hash.to_string(),
            name: checkpoint.map(|checkpoint| checkpoint.name.clone()),
            output: checkpoint.map(|checkpoint| checkpoint.output.to_string_lossy().into_owned()),
            pieces_done: checkpoint.map(|checkpoint| checkpoint.have.count()),
            pieces_total: checkpoint.map(|checkpoint| checkpoint.have.len()),
            bytes_done: checkpoint.map(Checkpoint::bytes_done),
            bytes_total: checkpoint.map(|checkpoint| checkpoint.total_len),
            saved_at: checkpoint.map(|checkpoint| checkpoint.saved_at),
            size: entry.bytes,
            problem,
        }
    }

    fn row(&self) -> String {
        let Self { info_hash, problem, .. } = self;
        let (Some(done), Some(total), Some(saved), Some(name)) =
            (self.bytes_done, self.bytes_total, self.saved_at, &self.name)
        else {
            return format!("{info_hash}  {}", shown(problem.as_deref().unwrap_or_default()));
        };
        let percent =
            (done as f64 * 100.0 / total.max(1) as f64).min(if done < total { 99.9 } else { 100.0 });
        let total = units::bytes(total);
        let warning = problem.as_ref().map_or("", |_| "  (the one before the newest)");
        format!("{info_hash}  {percent:5.1} %  {total:>10}  {:>14}  {}{warning}", age(saved), shown(name))
    }
}

fn list(store: &Store, is_json: bool) -> Result<(), Failure> {
    let listed: Vec<Listed> = entries(store)?.iter().map(Listed::of).collect();
    if is_json {
        print_line(&json::to_line(&json!({ "dir": store.dir().to_string_lossy(), "checkpoints": listed })));
        return Ok(());
    }
    if listed.is_empty() {
        print_line(&format!("there are no checkpoints in {}", shown_path(store.dir())));
        return Ok(());
    }
    print_line(&format!("{:40}  {:>7}  {:>10}  {:>14}  NAME", "INFO-HASH", "DONE", "SIZE", "WRITTEN"));
    listed.iter().for_each(|entry| print_line(&entry.row()));
    Ok(())
}

fn show(store: &Store, prefix: &HashPrefix, is_json: bool) -> Result<(), Failure> {
    let checkpoint = load(store, resolve(store, prefix)?)?;
    if is_json {
        print_line(&json::to_line(&checkpoint));
        return Ok(());
    }
    let source = match (&checkpoint.source.torrent, &checkpoint.source.magnet) {
        (Some(path), _) => path.to_string_lossy().into_owned(),
        (None, Some(magnet)) => magnet.clone(),
        (None, None) => "unknown".to_owned(),
    };
    let marked = checkpoint.files.iter().flatten().count();
    let lines = [
        ("name", checkpoint.name.clone()),
        ("info-hash", checkpoint.info_hash.to_string()),
        ("source", source),
        ("folder", checkpoint.output.to_string_lossy().into_owned()),
        ("written", age(checkpoint.saved_at)),
        ("added", age(checkpoint.added_at)),
        ("pieces", format!("{} of {}", checkpoint.have.count(), checkpoint.have.len())),
        (
            "bytes",
            format!("{} of {}", units::bytes(checkpoint.bytes_done()), units::bytes(checkpoint.total_len)),
        ),
        (
            "begun",
            format!("{} of {} pieces", units::bytes(checkpoint.bytes_partial()), checkpoint.partial.len()),
        ),
        ("files", format!("{} ({marked} with length and time)", checkpoint.files.len())),
        ("renamed", checkpoint.renames.len().to_string()),
        ("received", units::bytes(checkpoint.totals.downloaded)),
        ("sent", units::bytes(checkpoint.totals.uploaded)),
        ("trackers", checkpoint.trackers.iter().flatten().count().to_string()),
        ("peers", checkpoint.peers.len().to_string()),
    ];
    for (name, value) in lines {
        print_line(&format!("{name:>9}  {}", shown(&value)));
    }
    Ok(())
}

/// What is found when a checkpoint is compared with what it is of. Counts of pieces.
#[derive(Serialize)]
struct Verified {
    info_hash: String,
    name: Option<String>,
    /// Taken for there without a look.
    trusted: u32,
    /// Said to be there, but to be hashed: their files have changed.
    doubtful: u32,
    problem: Option<String>,
}

fn compare(store: &Store, entry: &Entry) -> Verified {
    let info_hash = entry.info_hash.to_string();
    let loaded = match &entry.loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            let problem = Some(error.to_string());
            return Verified { info_hash, name: None, trusted: 0, doubtful: 0, problem };
        }
    };
    let checkpoint = &loaded.checkpoint;
    let metainfo = store.torrent_of(checkpoint).and_then(|path| TorrentSource::from(path).load().ok());
    let mut problem = loaded.fell_back.clone();
    let trusted = match &metainfo {
        Some(metainfo) => checkpoints::trusted(checkpoint, metainfo),
        None => {
            problem.get_or_insert_with(|| "its torrent file is gone".to_owned());
            0
        }
    };
    let doubtful = checkpoint.have.count() - trusted;
    Verified { info_hash, name: Some(checkpoint.name.clone()), trusted, doubtful, problem }
}

fn verify(store: &Store, prefixes: &[HashPrefix], is_json: bool) -> Result<(), Failure> {
    let wanted = prefixes.iter().map(|prefix| resolve(store, prefix)).collect::<Result<BTreeSet<_>, _>>()?;
    let mut all = entries(store)?;
    all.retain(|entry| wanted.is_empty() || wanted.contains(&entry.info_hash));
    let found: Vec<Verified> = all.iter().map(|entry| compare(store, entry)).collect();
    if is_json {
        print_line(&json::to_line(&json!({ "checkpoints": found })));
    } else {
        for Verified { info_hash, name, trusted, doubtful, problem } in &found {
            let name = name.as_deref().unwrap_or("?");
            let problem = problem.as_ref().map_or_else(String::new, |problem| format!(": {problem}"));
            let text = format!("{info_hash}  {trusted} pieces as they were, {doubtful} to be hashed  {name}");
            print_line(&shown(&(text + &problem)));
        }
    }
    let bad = found.iter().filter(|one| one.problem.is_some() || one.doubtful > 0).count();
    if bad == 0 { Ok(()) } else { Err(Failure::Checkpoints { bad, all: found.len() }) }
}

fn clean(store: &Store, retention: Retention, is_json: bool) -> Result<(), Failure> {
    let gone = store
        .clean(retention, &BTreeSet::new())
        .map_err(Failure::system(format!("clean {}", shown_path(store.dir()))))?;
    let hashes: Vec<String> = gone.iter().map(InfoHash::to_string).collect();
    tell(is_json, json!({ "removed": hashes }), || format!("removed {} checkpoints", hashes.len()));
    Ok(())
}

fn delete(store: &Store, prefixes: &[HashPrefix], is_json: bool) -> Result<(), Failure> {
    let hashes = prefixes.iter().map(|prefix| resolve(store, prefix)).collect::<Result<Vec<_>, _>>()?;
    for hash in &hashes {
        store.delete(*hash).map_err(Failure::system(format!("remove the checkpoint of {hash}")))?;
    }
    let hashes: Vec<String> = hashes.iter().map(InfoHash::to_string).collect();
    tell(is_json, json!({ "removed": hashes }), || format!("removed {}", hashes.join(" ")));
    Ok(())
}

fn take_over(
    store: &Store,
    paths: &[PathBuf],
    options: &ImportOptions,
    is_json: bool,
) -> Result<(), Failure> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            let found = candidates(path).map_err(Failure::system(format!("list {}", shown_path(path))))?;
            files.extend(found);
        } else {
            files.push(path.clone());
        }
    }
    let (mut told, mut bad) = (Vec::new(), 0);
    for file in &files {
        let result = import(file, options).map_err(|error| error.to_string()).and_then(|imported| {
            let keep = || {
                if let Some(bytes) = &imported.torrent {
                    store.save_torrent(imported.checkpoint.info_hash, bytes)?;
                }
                store.save(&imported.checkpoint, checkpoints::Format::Binary)
            };
            keep().map(|()| imported).map_err(|error| error.to_string())
        });
        bad += usize::from(result.is_err());
        match result {
            Ok(imported) => {
                let made = &imported.checkpoint;
                let words = format!(
                    "{}  {} of {} pieces without hashing, {} to be hashed  {} in {}",
                    made.info_hash,
                    made.have.count(),
                    made.have.len(),
                    imported.doubtful,
                    made.name,
                    made.output.display()
                );
                told.push(json!({
                    "file": file.to_string_lossy(), "info_hash": made.info_hash.to_string(), "name": made.name,
                    "output": made.output.to_string_lossy(), "pieces_done": made.have.count(),
                    "pieces_total": made.have.len(), "doubtful": imported.doubtful, "notes": imported.notes,
                }));
                if !is_json {
                    print_line(&shown(&words));
                    imported.notes.iter().for_each(|note| print_line(&shown(&format!("note: {note}"))));
                }
            }
            Err(problem) => {
                told.push(json!({ "file": file.to_string_lossy(), "error": problem }));
                if !is_json {
                    print_line(&format!("{}: {}", shown_path(file), shown(&problem)));
                }
            }
        }
    }
    if is_json {
        print_line(&json::to_line(&json!({ "imported": told })));
    }
    match (bad, files.len()) {
        (_, 0) => Err(Failure::Usage("there is no resume file; name one, or a folder of them".to_owned())),
        (0, _) => Ok(()),
        (bad, all) => Err(Failure::Checkpoints { bad, all }),
    }
}
