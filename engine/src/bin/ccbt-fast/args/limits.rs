//! Options of rate limits.

use ccbt_fast::TorrentLimits;
use clap::Args;
use clap::builder::RangedU64ValueParser;

/// Largest limit in KiB/s: 4 TiB/s.
const LIMIT_MAX_KIB: u64 = 1 << 32;

/// How fast bytes may go.
#[derive(Args, Clone, Debug)]
pub struct LimitArgs {
    /// Receive at most this many KiB per second; 0: no limit
    #[arg(long, value_name = "KIB", default_value_t = 0, value_parser = limit_kib())]
    pub down_limit: u64,
    /// Send at most this many KiB per second; 0: no limit
    #[arg(long, value_name = "KIB", default_value_t = 0, value_parser = limit_kib())]
    pub up_limit: u64,
    /// Receive at most this many KiB per second from each peer; 0: no limit
    #[arg(long, value_name = "KIB", default_value_t = 0, value_parser = limit_kib())]
    pub peer_down_limit: u64,
    /// Send at most this many KiB per second to each peer; 0: no limit
    #[arg(long, value_name = "KIB", default_value_t = 0, value_parser = limit_kib())]
    pub peer_up_limit: u64,
    /// Let limits count the headers of IP and TCP and acknowledgements, too, as estimated
    #[arg(long)]
    pub count_overhead: bool,
}

impl LimitArgs {
    /// Of the torrent: what the process has one of is limited for all torrents.
    pub fn of_torrent(&self) -> TorrentLimits {
        let (peer_down, peer_up) = (self.peer_down_limit << 10, self.peer_up_limit << 10);
        TorrentLimits { peer_down, peer_up, ..TorrentLimits::default() }
    }
}

fn limit_kib() -> RangedU64ValueParser<u64> {
    RangedU64ValueParser::new().range(..=LIMIT_MAX_KIB)
}
