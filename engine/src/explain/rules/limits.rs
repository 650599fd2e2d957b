//! Limits that are reached: of all torrents, of one, and of each peer.

use serde_json::{Value, json};

use super::{downloads, finding, rate};
use crate::explain::{Cause, Finding, Severity, Snapshot};

/// A limit of which so many hundredths flow is reached: buckets fill in steps.
const REACHED_PERCENT: u64 = 90;

/// The first direction in which `rate` has reached its limit: name, rate, limit.
fn reached(snapshot: &Snapshot, rates: (u64, u64), limits: (u64, u64)) -> Option<(&'static str, u64, u64)> {
    let is_reached = |rate: u64, limit: u64| {
        limit > 0 && rate.saturating_mul(100) >= limit.saturating_mul(REACHED_PERCENT)
    };
    let down = downloads(snapshot).then_some(("receiving", rates.0, limits.0));
    let all = down.into_iter().chain([("sending", rates.1, limits.1)]);
    all.into_iter().find(|(_, rate, limit)| is_reached(*rate, *limit))
}

fn limit(
    cause: Cause,
    whose: &str,
    found: (&'static str, u64, u64),
    advice: &str,
    more: &[(&str, Value)],
) -> Finding {
    let (way, now, most) = found;
    let text = format!("the limit {whose} is reached: {way} {} of {}", rate(now), rate(most));
    let mut evidence = vec![("direction", json!(way)), ("rate", json!(now)), ("limit", json!(most))];
    evidence.extend_from_slice(more);
    finding((cause, Severity::Slows), text, advice, &evidence)
}

pub(super) fn global_limit(snapshot: &Snapshot) -> Option<Finding> {
    let found = reached(snapshot, snapshot.total_rates, snapshot.global_limits)?;
    let advice = "`ccbt-fast limit --down RATE` and `--up RATE` change it, 0 takes it away; the configuration's are \
                  limits.global_down_kib and limits.global_up_kib, and a schedule may lower them";
    Some(limit(Cause::GlobalLimit, "of all torrents together", found, advice, &[]))
}

pub(super) fn torrent_limit(snapshot: &Snapshot) -> Option<Finding> {
    let limits = (snapshot.limits.down, snapshot.limits.up);
    let found = reached(snapshot, (snapshot.down_rate, snapshot.up_rate), limits)?;
    let advice = "`ccbt-fast limit HASH --down RATE` and `--up RATE` change it, 0 takes it away";
    Some(limit(Cause::TorrentLimit, "of this torrent", found, advice, &[]))
}

pub(super) fn peer_limit(snapshot: &Snapshot) -> Option<Finding> {
    let limits = (snapshot.limits.peer_down, snapshot.limits.peer_up);
    let at_limit: Vec<_> = snapshot
        .peers
        .iter()
        .filter_map(|peer| reached(snapshot, (peer.down_rate, peer.up_rate), limits))
        .collect();
    let found = *at_limit.first()?;
    let advice = "`ccbt-fast limit HASH --peer-down RATE` and `--peer-up RATE` change it, 0 takes it away";
    let whose = format!("of each peer (at {} peers)", at_limit.len());
    Some(limit(Cause::PeerLimit, &whose, found, advice, &[("peers_at_limit", json!(at_limit.len()))]))
}
