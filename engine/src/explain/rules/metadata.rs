//! A magnet link whose metadata is still looked for (BEP 9).

use ccbt_shards::diagnosis::MetadataLook;
use serde_json::{Value, json};

use super::{
    Rule, connection_limit, encryption_refused, finding, ip_filter, no_addresses, no_peers, port, rest,
    trackers,
};
use crate::explain::{Cause, Finding, Severity, Snapshot};

/// What stands in the way of peers; the first is told.
const WAYS: [Rule; 3] = [no_addresses, encryption_refused, no_peers];
const MORE: [Rule; 3] = [ip_filter, connection_limit, port];

pub(super) fn apply(snapshot: &Snapshot, look: &MetadataLook) -> Vec<Finding> {
    if let Some(rests) = rest(snapshot) {
        return vec![rests];
    }
    let mut findings: Vec<Finding> =
        [corrupt(look), refused(look), nobody(look)].into_iter().flatten().collect();
    if findings.is_empty() {
        findings.extend(WAYS.iter().find_map(|rule| rule(snapshot)));
    }
    findings.extend(MORE.iter().filter_map(|rule| rule(snapshot)));
    findings.extend(trackers(snapshot));
    if findings.iter().all(|finding| finding.severity == Severity::Hint) {
        findings.push(nothing(look));
    }
    findings
}

fn evidence(look: &MetadataLook) -> [(&'static str, Value); 9] {
    let (progress, trouble) = (look.progress, look.trouble);
    [
        ("connected", json!(look.connected)),
        ("have_metadata", json!(progress.peers)),
        ("received", json!(progress.received)),
        ("total", json!(progress.total)),
        ("without", json!(look.without)),
        ("rejects", json!(trouble.rejects)),
        ("timeouts", json!(trouble.timeouts)),
        ("mismatches", json!(trouble.mismatches)),
        ("liars", json!(trouble.liars)),
    ]
}

fn corrupt(look: &MetadataLook) -> Option<Finding> {
    let trouble = look.trouble;
    if trouble.mismatches == 0 {
        return None;
    }
    let text = format!(
        "what peers gave was not the metadata, {} times: its SHA-1 is not the info-hash; {} addresses that lied are \
         banned",
        trouble.mismatches, trouble.liars
    );
    let advice = "it is fetched anew from others; if it stays so, look whether the link is right";
    let severity = if look.progress.peers == 0 { Severity::Stops } else { Severity::Slows };
    Some(finding((Cause::MetadataCorrupt, severity), text, advice, &evidence(look)))
}

fn refused(look: &MetadataLook) -> Option<Finding> {
    let (trouble, progress) = (look.trouble, look.progress);
    if trouble.rejects + trouble.timeouts == 0 || progress.received > 0 {
        return None;
    }
    let text = format!(
        "peers say that they have the metadata and give none of it: {} requests were rejected, {} not answered in \
         time; {} such peers are connected",
        trouble.rejects, trouble.timeouts, progress.peers
    );
    let advice = "they may be busy, and are asked again; more peers help: `ccbt-fast add LINK --peer ADDRESS`, \
                  trackers in the link, enable_dht";
    Some(finding((Cause::MetadataRefused, Severity::Stops), text, advice, &evidence(look)))
}

fn nobody(look: &MetadataLook) -> Option<Finding> {
    if look.progress.peers > 0 || look.connected == 0 && look.without == 0 {
        return None;
    }
    let text = format!(
        "no connected peer ({}) has the metadata; {} connections have ended because the peer had none, or gave none",
        look.connected, look.without
    );
    let advice = "wait for one that has it, as every seed does: others may have only the link, too. A .torrent file \
                  needs nobody";
    Some(finding((Cause::NoMetadata, Severity::Stops), text, advice, &evidence(look)))
}

fn nothing(look: &MetadataLook) -> Finding {
    let progress = look.progress;
    let text = format!(
        "metadata is being fetched: {} of {} bytes, from {} peers that have it",
        progress.received, progress.total, progress.peers
    );
    finding(
        (Cause::Nothing, Severity::Fine),
        text,
        "wait: the torrent begins when it is there",
        &evidence(look),
    )
}
