//! Options of `stream`.

use std::net::IpAddr;

use clap::Args;

use super::DownloadArgs;

/// Options of `stream`: all of `download`, and where the file is served.
#[derive(Args, Clone, Debug)]
#[command(mut_arg("streaming", |arg| arg.hide(true)))]
pub struct StreamArgs {
    #[command(flatten)]
    pub download: DownloadArgs,
    /// File to serve: its number as `info` prints it, or its name with * and ? [default: the largest]
    #[arg(long, value_name = "NUMBER|GLOB")]
    pub file: Option<String>,
    /// Address to serve HTTP at; whoever reaches it can read the file
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    pub http_bind: IpAddr,
    /// Port to serve HTTP at; 0: a free one
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub http_port: u16,
}
