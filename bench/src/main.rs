//! Entry point of `ccbt-bench`: parses the command line and hands over to the subcommand.

use std::process::ExitCode;

use ccbt_bench::capacity::{self, BoxArgs};
use ccbt_bench::checking::{self, HashingArgs, Task};
use ccbt_bench::compare::{self, CompareArgs};
use ccbt_bench::error::BenchError;
use ccbt_bench::filter::{self, FilterArgs};
use ccbt_bench::floor::{self, FloorArgs};
use ccbt_bench::kernels::{self, HashArgs};
use ccbt_bench::limits::{self, LimitsArgs};
use ccbt_bench::picker::{self, PickerArgs};
use ccbt_bench::scale::{self, ScaleArgs};
use ccbt_bench::shards::{self, ShardsArgs};
use ccbt_bench::storage::{self, StorageArgs, child::ChildArgs};
use ccbt_bench::trackers::{self, TrackersArgs};
use ccbt_bench::transfer::{self, ReportArgs, TransferArgs};
use clap::{Parser, Subcommand};

/// Measures BitTorrent clients against a synthetic load on loopback.
#[derive(Parser)]
#[command(name = "ccbt-bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Test disk, CPU and network stack for a minute; say what line rate this machine holds, and which part is the limit
    Box(BoxArgs),
    /// Download and seed with each installed client; print MB/s, CPU seconds per GiB, memory and latencies
    Transfer(TransferArgs),
    /// Make the page and the charts of a result file of `transfer` again
    Report(ReportArgs),
    /// Move bytes with bare loops of one thread; print the CPU seconds per GiB that no client goes below
    Floor(FloorArgs),
    /// One measurement of `floor`
    #[command(hide = true)]
    FloorChild(floor::child::ChildArgs),
    /// Hash with each kernel, other libraries and sha1sum; print GB/s per core and whether the dispatch is right
    Hash(HashArgs),
    /// Write and read past the page cache with the storage service and with fio; print MB/s, CPU and latencies
    Storage(StorageArgs),
    /// One measurement of `storage`
    #[command(hide = true)]
    StorageChild(ChildArgs),
    /// Check a complete file with each installed program; print MB/s, CPU seconds per GiB, memory and ratios
    Verify(HashingArgs),
    /// Make a torrent with each installed program; print the same
    Create(HashingArgs),
    /// Set rate limits from 64 KiB/s to 2 GB/s; print what was measured, the deviation and CPU seconds per GiB
    Limits(LimitsArgs),
    /// Let connections and torrents idle; print memory, CPU time and wake-ups of each installed client
    Scale(ScaleArgs),
    /// Our engine with many torrents, for `scale`
    #[command(hide = true)]
    ScaleChild(scale::child::ChildArgs),
    /// Show what changed between two result files; exit code 1 when something got worse
    Compare(CompareArgs),
    /// Choose blocks in torrents and swarms of several sizes; print nanoseconds per block
    Picker(PickerArgs),
    /// Read an IP filter of a million ranges and look addresses up; print seconds, bytes and nanoseconds
    Filter(FilterArgs),
    /// Move one torrent with 1, 2, 4 … shards; print CPU seconds per GiB of each, balance, messages and rates
    Shards(ShardsArgs),
    /// Let many torrents announce to one opentracker; print when, over how many connections, and what it costs
    Trackers(TrackersArgs),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Box(args) => capacity::run(&args),
        Command::Transfer(args) => transfer::run(&args),
        Command::Report(args) => transfer::report(&args),
        Command::Floor(args) => floor::run(&args),
        Command::FloorChild(args) => floor::child::run(&args),
        Command::Hash(args) => kernels::run(&args),
        Command::Storage(args) => storage::run(&args),
        Command::StorageChild(args) => storage::child::run(&args),
        Command::Limits(args) => limits::run(&args),
        Command::Scale(args) => scale::run(&args),
        Command::ScaleChild(args) => scale::child::run(&args),
        Command::Verify(args) => checking::run(Task::Verify, &args),
        Command::Create(args) => checking::run(Task::Create, &args),
        Command::Compare(args) => compare::run(&args),
        Command::Picker(args) => picker::run(&args),
        Command::Filter(args) => filter::run(&args),
        Command::Shards(args) => shards::run(&args),
        Command::Trackers(args) => trackers::run(&args),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(BenchError::Interrupted) => {
            eprintln!("ccbt-bench: interrupted");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("ccbt-bench: {error}");
            ExitCode::from(2)
        }
    }
}
