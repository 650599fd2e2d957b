//! The command `dht`.

use std::net::SocketAddr;
use std::path::PathBuf;

use ccbt_fast::InfoHash;
use clap::{Args, Subcommand};

use super::settings::SourceArgs;

/// Options of `dht`.
#[derive(Args, Clone, Debug)]
pub struct DhtArgs {
    #[command(subcommand)]
    pub command: DhtCommand,
    /// Node to begin with; can be repeated [default: discovery.dht_bootstrap]
    #[arg(long = "node", value_name = "HOST:PORT", global = true)]
    pub nodes: Vec<String>,
    /// Seconds after which it ends with what it has
    #[arg(long, value_name = "SECONDS", default_value_t = 30, global = true,
          value_parser = clap::value_parser!(u64).range(1..=600))]
    pub timeout: u64,
    /// Print one JSON object
    #[arg(long, global = true)]
    pub json: bool,
    #[command(flatten)]
    pub sources: SourceArgs,
}

#[derive(Clone, Debug, Subcommand)]
pub enum DhtCommand {
    /// Ask a node whether it is there
    Ping {
        #[arg(value_name = "IP:PORT")]
        node: SocketAddr,
    },
    /// Look for peers of a torrent; nothing is announced
    Lookup {
        #[arg(value_name = "INFO_HASH", value_parser = info_hash)]
        info_hash: InfoHash,
    },
    /// Estimate how many seeds and other peers a torrent has (BEP 33)
    Scrape {
        #[arg(value_name = "INFO_HASH", value_parser = info_hash)]
        info_hash: InfoHash,
    },
    /// Show info-hashes that nodes store (BEP 51), on the way to a place
    Sample {
        /// 40 hexadecimal digits [default: anywhere]
        #[arg(value_name = "PLACE", value_parser = info_hash)]
        place: Option<InfoHash>,
    },
    /// Read a value (BEP 44): an immutable one by its name, or a mutable one by the key that signs it
    Get {
        /// 40 hexadecimal digits of a name, or 64 of a public key
        #[arg(value_name = "NAME|KEY", value_parser = name_or_key)]
        name: Name,
        /// Salt of a mutable value
        #[arg(long, value_name = "TEXT", default_value = "")]
        salt: String,
    },
    /// Store a text (BEP 44) for two hours: an immutable one, or with --key a mutable one
    Put {
        #[arg(value_name = "TEXT")]
        text: String,
        /// File with the secret key, 64 hexadecimal digits; made if it is not there
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
        /// Salt of a mutable value, so that one key has many
        #[arg(long, value_name = "TEXT", default_value = "", requires = "key")]
        salt: String,
        /// Counts the changes; a higher one replaces a lower one [default: seconds since 1970]
        #[arg(long, value_name = "N", requires = "key")]
        seq: Option<i64>,
        /// Only where the present value has this number
        #[arg(long, value_name = "N", requires = "key")]
        cas: Option<i64>,
    },
}

/// What `get` is given.
#[derive(Clone, Copy, Debug)]
pub enum Name {
    Target([u8; 20]),
    Key([u8; 32]),
}

/// The bytes that `text` says in hexadecimal digits.
pub fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    if digits.len() == 2 * N { bytes.try_into().ok() } else { None }
}

fn info_hash(text: &str) -> Result<InfoHash, String> {
    hex(text).map(InfoHash).ok_or_else(|| "needs 40 hexadecimal digits".to_owned())
}

fn name_or_key(text: &str) -> Result<Name, String> {
    let name = hex(text).map(Name::Target).or_else(|| hex(text).map(Name::Key));
    name.ok_or_else(|| "needs 40 hexadecimal digits of a name, or 64 of a public key".to_owned())
}
