//! `ccbt-fast demo`: the whole loop on this machine, without the internet.
//!
//! Role: makes a file and its torrent, runs a tracker, two seeders and a downloader (child processes of this
//! program, on loopback), compares what arrived and prints rates. Invariant: everything it makes lies in one
//! temporary folder, which is gone at the end whatever happened (but for `kill -9` and a second Ctrl-C).

mod client;
mod payload;
mod tracker;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ccbt_fast::hashing::HashOptions;
use ccbt_fast::hashing::create::{CreateOptions, create_torrent};

use crate::args::DemoArgs;
use crate::console::Console;
use crate::failure::Failure;
use crate::lines::{Line, Progress};
use crate::signals::Signals;
use crate::units;

use client::Client;
use tracker::Tracker;

/// Name of the file that is shared.
const FILE_NAME: &str = "demo.bin";
/// Seeders.
const SEEDERS: usize = 2;
/// Room left free on the disk, in bytes.
const SPARE_BYTES: u64 = 64 << 20;

/// What the downloader achieved.
struct Measured {
    took: Duration,
    cpu: Duration,
}

/// Where everything is.
struct Places {
    source: PathBuf,
    result: PathBuf,
    torrent: PathBuf,
}

/// Runs the demonstration.
pub fn run(args: &DemoArgs) -> Result<(), Failure> {
    let signals = Signals::install().map_err(Failure::system("handle signals"))?;
    let mut console = Console::new(false);
    let base = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    check_space(&base, args.size_mib)?;
    let folder = tempfile::Builder::new().prefix("ccbt-fast-demo-").tempdir_in(&base);
    let folder = folder.map_err(|error| Failure::Usage(format!("--dir {}: {error}", base.display())))?;
    let outcome = run_in(folder.path(), args, &signals, &mut console);
    console.finish();
    let cleaned = folder.close().map_err(Failure::system("remove the temporary folder"));
    let summary = outcome?;
    cleaned?;
    console.words(&summary);
    Ok(())
}

fn run_in(
    folder: &Path,
    args: &DemoArgs,
    signals: &Signals,
    console: &mut Console,
) -> Result<String, Failure> {
    let places = Places {
        source: folder.join("source"),
        result: folder.join("result"),
        torrent: folder.join("demo.torrent"),
    };
    for dir in [&places.source, &places.result] {
        fs::create_dir(dir).map_err(Failure::system(format!("create {}", dir.display())))?;
    }
    let size = args.size_mib << 20;
    console.words(&format!("demo: making {} of noise in {}", units::bytes(size), folder.display()));
    let file = places.source.join(FILE_NAME);
    payload::write(&file, args.size_mib, rand::random()).map_err(Failure::system("write the demo's data"))?;

    let tracker = Tracker::start().map_err(Failure::system("start a tracker on 127.0.0.1"))?;
    console.words(&format!("demo: hashing it into a torrent; its tracker is {}", tracker.url()));
    let created = create_torrent(CreateOptions {
        trackers: vec![vec![tracker.url()]],
        // It is in the page cache still.
        hash: HashOptions { reading: ccbt_fast::hashing::Reading::Buffered, ..HashOptions::default() },
        ..CreateOptions::new(&file)
    })?;
    fs::write(&places.torrent, &created.bytes).map_err(Failure::system("write the demo's torrent"))?;

    console.words(&format!("demo: starting {SEEDERS} seeders, which check their data first"));
    let seeders = start_seeders(&places, signals)?;
    let measured = download(&places, signals, console)?;
    for seeder in seeders {
        seeder.stop()?;
    }
    console.words("demo: comparing the SHA-256 of both files");
    let (sent, received) = payload::sha256_both(&file, &places.result.join(FILE_NAME))
        .map_err(Failure::system("read the files to compare"))?;
    if sent != received {
        return Err(Failure::Demo(format!("SHA-256 differ: sent {sent}, received {received}")));
    }
    console.words(&format!("demo: SHA-256 {received} on both sides"));
    Ok(summary(size, &measured))
}

/// Two copies of the data, the torrent and some room must fit.
fn check_space(base: &Path, size_mib: u64) -> Result<(), Failure> {
    let disk = rustix::fs::statvfs(base)
        .map_err(|error| Failure::Usage(format!("--dir {}: {error}", base.display())))?;
    let (free, needed) = (disk.f_bavail.saturating_mul(disk.f_frsize), (size_mib << 21) + SPARE_BYTES);
    if free < needed {
        return Err(Failure::Usage(format!(
            "{} has {} free and the demo needs {}: choose another folder with --dir, or less data with \
             --size-mib",
            base.display(),
            units::bytes(free),
            units::bytes(needed)
        )));
    }
    Ok(())
}

fn arguments(command: &str, torrent: &Path, output: &Path) -> Vec<OsString> {
    let mut args: Vec<OsString> = vec![command.into(), torrent.into(), "--output".into(), output.into()];
    // What is thrown away afterwards needs no checkpoint.
    args.extend(["--bind", "127.0.0.1", "--port", "0", "--no-checkpoint"].map(OsString::from));
    args
}

fn start_seeders(places: &Places, signals: &Signals) -> Result<Vec<Client>, Failure> {
    let start =
        |nth| Client::start(&format!("seeder {nth}"), arguments("seed", &places.torrent, &places.source));
    let mut seeders = (1..=SEEDERS).map(start).collect::<Result<Vec<_>, _>>()?;
    for seeder in &mut seeders {
        seeder.wait_for("seeding", signals)?;
    }
    Ok(seeders)
}

fn download(places: &Places, signals: &Signals, console: &mut Console) -> Result<Measured, Failure> {
    console.words("demo: downloading");
    let started = Instant::now();
    let mut client = Client::start("downloader", arguments("download", &places.torrent, &places.result))?;
    let mut took = None;
    while let Some(event) = client.next(signals)? {
        client.check(&event)?;
        if event["event"] == "finished" {
            took.get_or_insert_with(|| started.elapsed());
        } else if event["event"] == "progress"
            && let Ok(progress) = serde_json::from_value::<Progress>(event)
        {
            console.line(&Line::Progress(progress));
        }
    }
    console.finish();
    let (status, cpu) = client.finish()?;
    match took {
        Some(took) if status.success() => Ok(Measured { took, cpu }),
        _ => Err(Failure::Demo(format!("the downloader ended with {status} before everything was there"))),
    }
}

fn summary(size: u64, measured: &Measured) -> String {
    let seconds = measured.took.as_secs_f64().max(0.001);
    let gib = size as f64 / f64::from(1 << 30);
    format!(
        "demo: ok: {} from {SEEDERS} seeders in {seconds:.2} s, verified and on disk: {:.0} MB/s, \
         {:.2} CPU seconds per GiB",
        units::bytes(size),
        size as f64 / 1e6 / seconds,
        measured.cpu.as_secs_f64() / gib
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_has_rate_and_cost() {
        let measured = Measured { took: Duration::from_secs(2), cpu: Duration::from_millis(750) };
        let expected = "demo: ok: 512.0 MiB from 2 seeders in 2.00 s, verified and on disk: 268 MB/s, \
                        1.50 CPU seconds per GiB";
        assert_eq!(summary(512 << 20, &measured), expected);
    }

    #[test]
    fn a_full_disk_is_noticed_before_anything_is_made() {
        let refused = check_space(&std::env::temp_dir(), 1 << 40).expect_err("no disk is that large");
        assert!(refused.to_string().contains("--size-mib") && refused.exit_code() == 2);
        assert!(check_space(Path::new("/nonexistent"), 1).is_err());
    }
}
