//! Scrapes: how many peers a tracker knows of several torrents (BEP 15, BEP 48).
//!
//! Called by the tracker thread. A request carries at most [`HASHES_MAX`] hashes; more are asked for one request after the
//! other, over the same connection.

use ccbt_protocol::ids::InfoHash;
use ccbt_protocol::tracker::http::{parse_scrape, scrape_url};
use ccbt_protocol::tracker::udp::{SCRAPE_HASHES_MAX, ScrapeEntry};

use super::error::{TrackerError, shown};
use super::socket::within;
use super::{Target, TrackerClient};

/// Hashes of one HTTP request: a URL of 3 kB, which servers and proxies take.
const HASHES_MAX: usize = 40;

impl TrackerClient {
    /// What the tracker with the announce URL `url` knows of the torrents `hashes`, in their order; `None` of those that
    /// it does not tell of. Call on a glommio executor.
    ///
    /// # Errors
    /// As [`Self::announce`]; and [`TrackerError::NoScrape`] if its URL cannot be scraped (BEP 48).
    pub async fn scrape(
        &self,
        url: &str,
        hashes: &[InfoHash],
    ) -> Result<Vec<Option<ScrapeEntry>>, TrackerError> {
        let url = url.trim();
        let target = Target::parse(url)?;
        let mut entries = Vec::with_capacity(hashes.len());
        if target.is_udp {
            for part in hashes.chunks(SCRAPE_HASHES_MAX) {
                let told = self.scrape_udp(&target, part).await?;
                entries.extend((0..part.len()).map(|index| told.get(index).copied()));
            }
            return Ok(entries);
        }
        for part in hashes.chunks(HASHES_MAX) {
            let from = scrape_url(url, part).ok_or_else(|| TrackerError::NoScrape { url: shown(url) })?;
            let after = self.config.http_timeout;
            let answer = within(after, self.get(&from, None))
                .await
                .unwrap_or(Err(TrackerError::TimedOut { after }))?;
            entries.extend(parse_scrape(answer.success()?, part)?);
        }
        Ok(entries)
    }
}
