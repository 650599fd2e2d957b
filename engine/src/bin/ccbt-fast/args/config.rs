//! The command `config`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::settings::SourceArgs;

/// Options of `config`.
#[derive(Args, Clone, Debug)]
pub struct ConfigArgs {
    #[command(subcommand)]
    pub command: ConfigCommand,
}

#[derive(Clone, Debug, Subcommand)]
pub enum ConfigCommand {
    /// Show the value of every key
    Show(ShowArgs),
    /// Say what is wrong with a configuration file
    Check(CheckArgs),
    /// Print the default ccbt.toml: every key with its default, commented
    Default,
}

/// Options of `config show`.
#[derive(Args, Clone, Debug)]
pub struct ShowArgs {
    /// Tell where each value comes from
    #[arg(long)]
    pub origin: bool,
    /// Show the values that count for this torrent file
    #[arg(long, value_name = "TORRENT")]
    pub torrent: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub sources: SourceArgs,
}

/// Options of `config check`.
#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    /// File to check, read as --config would read it
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}
