//! Entry point of `ccbt-bench`: parses the command line and hands over to the subcommand.

use std::process::ExitCode;

use ccbt_bench::error::BenchError;
use ccbt_bench::picker::{self, PickerArgs};
use ccbt_bench::transfer::{self, TransferArgs};
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
    /// Download and seed with each installed client; print MB/s, CPU seconds per GiB, memory and latencies
    Transfer(TransferArgs),
    /// Choose blocks in torrents and swarms of several sizes; print nanoseconds per block
    Picker(PickerArgs),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Transfer(args) => transfer::run(&args),
        Command::Picker(args) => picker::run(&args),
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
