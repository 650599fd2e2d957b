//! What must hold for any text that is taken for a magnet link. Run by the fuzz target and over the corpus by tests.

use ccbt_protocol::magnet::{MAX_MAGNET_LEN, MAX_PEERS, MAX_RANGES, Magnet};
use ccbt_protocol::metainfo::MAX_URLS;

/// Panics when an invariant breaks.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(magnet) = Magnet::parse(text) else { return };
    assert!(Magnet::is_magnet(text.trim()) && text.len() <= MAX_MAGNET_LEN);
    assert!(magnet.trackers.len() <= MAX_URLS && magnet.trackers.iter().all(|tier| tier.len() == 1));
    assert!(magnet.web_seeds.len() <= MAX_URLS);
    assert!(magnet.peers.len() + magnet.hosts.len() <= MAX_PEERS);
    assert!(magnet.peers.iter().all(|peer| peer.port() != 0));
    assert!(magnet.name.as_ref().is_none_or(|name| !name.is_empty() && !name.chars().any(char::is_control)));
    assert!(magnet.select.len() <= MAX_RANGES);
    assert!(magnet.select.windows(2).all(|pair| *pair[0].end() + 1 < *pair[1].start()));
    let written = magnet.to_string();
    if written.len() <= MAX_MAGNET_LEN {
        assert_eq!(Magnet::parse(&written), Ok(magnet), "what is written is read");
    }
}
