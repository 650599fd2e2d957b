//! The commands `doctor`, `tune`, `completions` and `man`.

use std::path::PathBuf;

use ccbt_fast::tuning::Profile;
use clap::{Args, ValueEnum};

/// Options of `doctor`.
#[derive(Args, Clone, Debug)]
pub struct DoctorArgs {
    /// Folder that torrents will be in; can be repeated
    #[arg(long = "folder", value_name = "DIR", default_value = ".")]
    pub folders: Vec<PathBuf>,
    /// Port that peers connect to; 0: any free one is tried
    #[arg(long, value_name = "PORT", default_value_t = 0, hide_default_value = true)]
    pub port: u16,
    /// Ask the router, too, whether it forwards ports (PCP, NAT-PMP, UPnP); nothing is mapped
    #[arg(long)]
    pub router: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Options of `tune`.
#[derive(Args, Clone, Debug)]
pub struct TuneArgs {
    /// What this machine is
    #[arg(long, value_name = "PROFILE", value_parser = profile)]
    pub profile: Profile,
    /// Write the files and set the kernel's settings; without it only the difference is printed
    #[arg(long)]
    pub apply: bool,
    /// Folder that stands for /, for images and containers; the running kernel is left alone
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
}

/// Options of `completions`.
#[derive(Args, Clone, Debug)]
pub struct CompletionsArgs {
    /// For which shell
    #[arg(value_name = "SHELL")]
    pub shell: ShellArg,
}

/// Shells that packages have completions for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ShellArg {
    Bash,
    Zsh,
    Fish,
}

/// Options of `man`.
#[derive(Args, Clone, Debug)]
pub struct ManArgs {
    /// Folder for the pages; it is made if it is not there
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

fn profile(text: &str) -> Result<Profile, String> {
    text.parse().map_err(|error: ccbt_fast::tuning::UnknownProfile| error.to_string())
}
