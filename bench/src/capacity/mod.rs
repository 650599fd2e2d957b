//! `ccbt-bench box`: what line rate this machine holds, in about a minute, for whoever runs it.
//!
//! Role: options, the order of the measurements ([`probe`], and a short transfer of the real program), and the words
//! ([`report`]). What follows from the numbers is a pure function ([`model`]). Invariant: only loopback and the folder
//! that was named are touched, and nothing is left there.

pub mod model;
mod probe;
mod report;

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use ccbt_fast::layout::{Overrides, allowed_cpus, layout};

use crate::clients::Direction;
use crate::error::BenchError;
use crate::machine::{Machine, file_system};
use crate::shards;
use model::{Costs, Judgement, Measures, judge};

/// Files that lie there at the same time, in sizes of the payload: what is seeded and what is downloaded.
const FILES: u64 = 2;

/// Options of `ccbt-bench box`.
#[derive(Debug, Clone, Args)]
pub struct BoxArgs {
    /// Folder on the disk that torrents will be on; needs room for two files of --size-mib
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Bytes of each file; more than the disk's own cache makes it honest
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(64..=65_536))]
    size_mib: u32,
    /// Path of ccbt-fast [default: beside this program]
    #[arg(long)]
    ccbt: Option<PathBuf>,
    /// Print JSON instead of words
    #[arg(long)]
    json: bool,
}

/// Everything that was measured, and what follows.
#[derive(Debug, Serialize)]
struct Findings {
    machine: Machine,
    file_system: String,
    disk: probe::Disk,
    hashing: probe::Hashing,
    network: probe::Network,
    measures: Measures,
    judgement: Judgement,
}

/// Measures and prints.
///
/// Errors: a folder without room or rights, a program that is not there or fails, an interruption.
pub fn run(args: &BoxArgs) -> Result<bool, BenchError> {
    let (free, need) = (probe::free_bytes(&args.dir)?, FILES * (u64::from(args.size_mib) << 20));
    if free < need {
        let dir = args.dir.display();
        let text = format!(
            "{dir} has {} MiB free, {} are needed: a smaller --size-mib, or another --dir",
            free >> 20,
            need >> 20
        );
        return Err(BenchError::Usage(text));
    }
    let cpus = allowed_cpus();
    let plan = layout(&cpus, &Overrides::default());
    let machine = Machine::this();
    let tell = |what: &str| eprintln!("measuring {what} …");
    tell("the disk");
    let disk = probe::disk(&args.dir, args.size_mib)?;
    tell("hashing");
    let hashing = probe::hashing(machine.cpus);
    tell("the network stack");
    let network = probe::network()?;
    let transfer = |direction| -> Result<Costs, BenchError> {
        let told = shards::once(
            direction,
            plan.shards.len() as u32,
            args.size_mib,
            &args.dir,
            args.ccbt.as_deref(),
        )?;
        Ok(Costs {
            measured: told.mb_per_s * 1e6,
            shards_cpu_s: told.shards_cpu_s_per_gib,
            storage_cpu_s: told.storage_cpu_s_per_gib,
            hash_cpu_s: told.hash_cpu_s_per_gib,
            other_cpu_s: told.other_cpu_s_per_gib,
        })
    };
    tell("a download");
    let download = transfer(Direction::Download)?;
    tell("an upload");
    let upload = transfer(Direction::Seed)?;
    let measures = Measures {
        cpus: machine.cpus,
        shards: plan.shards.len(),
        hash_threads: plan.hash.len(),
        ram_mib: machine.ram_mib,
        is_rotating: disk.is_rotating,
        disk_write: disk.write_synced,
        disk_read: disk.read,
        sha1: hashing.sha1,
        tcp_send_cpu_s: network.send_cpu_s,
        tcp_receive_cpu_s: network.receive_cpu_s,
        download,
        upload,
    };
    let judgement = judge(&measures);
    let file_system = file_system(&args.dir);
    let findings = Findings { machine, file_system, disk, hashing, network, measures, judgement };
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&findings).expect("plain data serialises")),
        false => print!("{}", report::text(&findings)),
    }
    Ok(true)
}
