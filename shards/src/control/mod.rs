//! The control plane of a shard: glommio tasks that talk to trackers.

use std::net::IpAddr;
use std::time::Duration;

use ccbt_protocol::tracker::{AnnounceRequest, AnnounceResponse};

/// How trackers are asked.
#[derive(Clone, Debug)]
pub struct TrackerClientConfig {
    /// Sent as User-Agent.
    pub user_agent: String,
    /// Time one HTTP announce may take, from name look-up to the last byte.
    pub http_timeout: Duration,
    /// Announces leave from here.
    pub bind: Option<IpAddr>,
}

/// Why an announce failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not built yet")]
pub struct TrackerError;

/// Asks trackers; one per shard, shared by its torrents.
pub struct TrackerClient {}

#[allow(unused_variables, missing_docs, async_fn_in_trait)]
impl TrackerClient {
    pub fn new(config: TrackerClientConfig) -> Self { todo!() }
    pub async fn announce(&self, url: &str, request: &AnnounceRequest) -> Result<AnnounceResponse, TrackerError> { todo!() }
}
