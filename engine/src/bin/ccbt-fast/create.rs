//! `ccbt-fast create`: makes a torrent file.

use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use ccbt_fast::hashing::create::{CreateOptions, Created, create_torrent};
use ccbt_protocol::metainfo::escape_for_terminal;
use serde::Serialize;

use crate::args::{CreateArgs, DateArg};
use crate::console::{Console, print_line};
use crate::failure::Failure;
use crate::gauge;
use crate::info::Info;
use crate::json;
use crate::limits;
use crate::signals::Signals;

/// The object of `--json`.
#[derive(Serialize)]
struct Report<'a> {
    torrent: String,
    notes: &'a [String],
    #[serde(flatten)]
    info: Info<'a>,
}

/// Reads, hashes and writes. The torrent file appears whole or not at all.
pub fn run(args: &CreateArgs) -> Result<(), Failure> {
    if let Some(output) = &args.output {
        refuse_existing(output, args.force)?;
    }
    let signals = Signals::install().map_err(Failure::system("handle signals"))?;
    // Many lanes have a file open each, on every thread.
    limits::raise();
    let mut console = Console::new(args.json);
    let options = options(args)?;
    let progress = Arc::clone(&options.progress);
    let created = gauge::watch("hashing", &progress, &signals, &mut console, || create_torrent(options))??;
    let output = args.output.clone().unwrap_or_else(|| default_output(&created));
    write(&output, &created.bytes, args.force)?;
    if args.json {
        let torrent = output.to_string_lossy().into_owned();
        print_line(&json::to_line(&Report {
            torrent,
            notes: &created.notes,
            info: Info::of(&created.metainfo),
        }));
    } else {
        for note in &created.notes {
            console.words(&escape_for_terminal(note));
        }
        let geometry = &created.metainfo.geometry;
        let shown = output.to_string_lossy();
        console.words(&format!(
            "{}: {} pieces, info-hash {}",
            escape_for_terminal(&shown),
            geometry.piece_count(),
            created.metainfo.info_hash
        ));
    }
    Ok(())
}

fn options(args: &CreateArgs) -> Result<CreateOptions, Failure> {
    let now = || -> Result<i64, Failure> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now
            .map_err(|_| Failure::Usage("the clock is before 1970: set it, or give --date SECONDS".into()))?;
        Ok(i64::try_from(now.as_secs()).unwrap_or(i64::MAX))
    };
    let creation_date = match args.date {
        None => None,
        Some(DateArg::Now) => Some(now()?),
        Some(DateArg::Seconds(seconds)) => Some(seconds),
    };
    let tier = |urls: &String| urls.split(',').map(str::to_owned).collect();
    Ok(CreateOptions {
        name: args.name.clone(),
        piece_len: args.piece_size,
        align: args.align,
        private: args.private,
        trackers: args.trackers.iter().map(tier).collect(),
        web_seeds: args.web_seeds.clone(),
        comment: args.comment.clone(),
        created_by: args.created_by.clone(),
        creation_date,
        source: args.source.clone(),
        keep_executable: args.keep_executable,
        keep_symlinks: args.keep_symlinks,
        skip_special: args.skip_special,
        hash: args.hash.options(),
        ..CreateOptions::new(&args.path)
    })
}

/// `NAME.torrent` in the current folder.
fn default_output(created: &Created) -> PathBuf {
    format!("{}.torrent", created.metainfo.name).into()
}

/// Said before hashing for hours.
fn refuse_existing(output: &Path, force: bool) -> Result<(), Failure> {
    if output.symlink_metadata().is_ok() && !force {
        return Err(exists(output));
    }
    Ok(())
}

fn exists(output: &Path) -> Failure {
    Failure::Usage(format!(
        "{} is there already: choose another --output, or replace it with --force",
        escape_for_terminal(&output.to_string_lossy())
    ))
}

/// Writes through a temporary file beside `output`, so that nobody ever sees half a torrent.
fn write(output: &Path, bytes: &[u8], force: bool) -> Result<(), Failure> {
    let folder = match output.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let write = || -> io::Result<()> {
        let mut file = tempfile::Builder::new()
            .prefix(".ccbt-fast-")
            // What the umask leaves of it, as for any new file.
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        if force {
            file.persist(output)?
        } else {
            file.persist_noclobber(output)?
        };
        Ok(())
    };
    write().map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => exists(output),
        _ => Failure::system(format!("write {}", escape_for_terminal(&output.to_string_lossy())))(error),
    })
}
