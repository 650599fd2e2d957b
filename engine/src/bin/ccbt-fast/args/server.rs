//! The commands `doctor` and `tune`.

use std::path::PathBuf;

use ccbt_fast::tuning::Profile;
use clap::Args;

/// Options of `doctor`.
#[derive(Args, Clone, Debug)]
pub struct DoctorArgs {
    /// Folder that torrents will be in; can be repeated
    #[arg(long = "folder", value_name = "DIR", default_value = ".")]
    pub folders: Vec<PathBuf>,
    /// Port that peers connect to; 0: any free one is tried
    #[arg(long, value_name = "PORT", default_value_t = 0, hide_default_value = true)]
    pub port: u16,
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

fn profile(text: &str) -> Result<Profile, String> {
    text.parse().map_err(|error: ccbt_fast::tuning::UnknownProfile| error.to_string())
}
