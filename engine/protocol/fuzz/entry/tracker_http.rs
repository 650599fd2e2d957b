//! What must hold for any body of an HTTP tracker's answer. Run by the fuzz target and over the corpus by tests.

use std::collections::HashSet;

use ccbt_protocol::ids::InfoHash;
use ccbt_protocol::tracker::http::{ReplyError, parse_response, parse_scrape};
use ccbt_protocol::tracker::{
    AnnounceResponse, INTERVAL_MAX, INTERVAL_MIN, PEERS_MAX, RetryIn, TEXT_LEN_MAX, TRACKER_ID_LEN_MAX,
};

/// Panics when an invariant breaks.
pub fn run(data: &[u8]) {
    if let Ok(entries) = parse_scrape(data, &[InfoHash([b'a'; 20]), InfoHash([0; 20])]) {
        assert_eq!(entries.len(), 2);
    }
    match parse_response(data) {
        Ok(response) => check(&response),
        Err(ReplyError::Malformed) => {}
        Err(ReplyError::Refused(failure)) => {
            check_text(&failure.reason);
            if let Some(RetryIn::After(wait)) = failure.retry_in {
                assert!(!wait.is_zero() && wait <= INTERVAL_MAX);
            }
        }
    }
}

fn check(response: &AnnounceResponse) {
    assert!((INTERVAL_MIN..=INTERVAL_MAX).contains(&response.interval));
    assert!(response.min_interval.is_none_or(|wait| wait <= INTERVAL_MAX));
    assert!(response.peers.len() <= PEERS_MAX);
    assert!(response.peers.iter().all(|peer| peer.port() != 0 && !peer.ip().is_unspecified()));
    assert_eq!(response.peers.iter().collect::<HashSet<_>>().len(), response.peers.len());
    response.warning.iter().for_each(|text| check_text(text));
    assert!(response.tracker_id.as_ref().is_none_or(|id| (1..=TRACKER_ID_LEN_MAX).contains(&id.len())));
}

fn check_text(text: &str) {
    assert!(text.len() <= TEXT_LEN_MAX && !text.chars().any(char::is_control));
}
