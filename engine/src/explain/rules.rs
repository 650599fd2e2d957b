//! The rules: each looks at the snapshot and finds one cause or none.

mod limits;
mod metadata;

use std::time::Duration;

use ccbt_protocol::candidates::Source;
use ccbt_protocol::metainfo::escape_for_terminal;
use serde_json::{Value, json};

use limits::{global_limit, peer_limit, torrent_limit};

use super::{Cause, Finding, PeerFacts, Rest, Severity, Snapshot};
use crate::State;

/// So long nobody may connect to us before it is worth a word.
const UNREACHED: Duration = Duration::from_secs(600);
/// Jobs that wait before the hash threads count as busy.
const HASH_QUEUE: u64 = 4;

type Rule = fn(&Snapshot) -> Option<Finding>;

/// For every torrent; what one of these finds is all there is to say.
const RESTING: [Rule; 2] = [rest, busy];
/// In the order in which findings of one severity are told.
const RUNNING: [Rule; 16] = [
    no_addresses,
    encryption_refused,
    no_peers,
    ip_filter,
    pieces_missing,
    all_choked,
    snubbed,
    global_limit,
    torrent_limit,
    peer_limit,
    hash,
    disk,
    memory,
    nobody_interested,
    connection_limit,
    port,
];

pub(super) fn apply(snapshot: &Snapshot) -> Vec<Finding> {
    let mut findings: Vec<Finding> = error(snapshot).into_iter().collect();
    if let Some(look) = &snapshot.metadata {
        findings.extend(metadata::apply(snapshot, look));
        return findings;
    }
    findings.extend(RESTING.iter().find_map(|rule| rule(snapshot)));
    if !findings.is_empty() && (snapshot.rest.is_some() || !runs(snapshot)) {
        return findings;
    }
    findings.extend(RUNNING.iter().filter_map(|rule| rule(snapshot)));
    findings.extend(trackers(snapshot));
    if findings.iter().all(|finding| finding.severity == Severity::Hint) {
        findings.push(nothing(snapshot));
    }
    findings
}

fn runs(snapshot: &Snapshot) -> bool {
    matches!(snapshot.state, State::Downloading | State::Seeding)
}

fn downloads(snapshot: &Snapshot) -> bool {
    snapshot.state == State::Downloading || snapshot.metadata.is_some()
}

fn finding(
    (cause, severity): (Cause, Severity),
    text: impl Into<String>,
    advice: &str,
    evidence: &[(&str, Value)],
) -> Finding {
    let evidence = evidence.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    Finding { cause, severity, text: text.into(), advice: advice.to_owned(), evidence }
}

fn rate(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B/s"),
        1024..1_048_576 => format!("{:.1} KiB/s", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB/s", bytes as f64 / 1_048_576.0),
    }
}

fn error(snapshot: &Snapshot) -> Option<Finding> {
    let (message, retries) = snapshot.error.as_ref()?;
    let message = escape_for_terminal(message);
    let full = ["no space left", "quota is used up"].iter().any(|word| message.to_lowercase().contains(word));
    let evidence = [("message", json!(message)), ("retries", json!(retries))];
    Some(match full {
        true => finding(
            (Cause::DiskFull, Severity::Stops),
            format!("the disk has no room: {message}"),
            "make room, or move the torrent (`ccbt-fast move HASH --to DIR`); it goes on by itself",
            &evidence,
        ),
        false => finding(
            (Cause::Error, Severity::Stops),
            format!("it has failed: {message}"),
            if *retries {
                "remove the cause; it tries again by itself, `ccbt-fast resume HASH` at once"
            } else {
                "remove the cause, then `ccbt-fast resume HASH`"
            },
            &evidence,
        ),
    })
}

fn rest(snapshot: &Snapshot) -> Option<Finding> {
    Some(match snapshot.rest? {
        Rest::Paused => finding(
            (Cause::Paused, Severity::Stops),
            "it is paused",
            "`ccbt-fast resume HASH`",
            &[("paused", json!(true))],
        ),
        Rest::GoalReached => finding(
            (Cause::GoalReached, Severity::Stops),
            "it has reached its goal of seeding and rests",
            "`ccbt-fast resume HASH` seeds on; `ccbt-fast limit HASH --ratio off --time off` takes the goal away",
            &[("goal_reached", json!(true))],
        ),
        Rest::Queued { position, running } => finding(
            (Cause::Queued, Severity::Stops),
            format!("it waits in the queue at place {position}, and {running} torrents run"),
            "`ccbt-fast queue top HASH`, raise daemon.active_downloads or daemon.active_seeds, or \
             `ccbt-fast limit HASH --force true`",
            &[("position", json!(position)), ("running", json!(running))],
        ),
    })
}

fn busy(snapshot: &Snapshot) -> Option<Finding> {
    let what = match snapshot.state {
        State::Opening => "its files are being opened",
        State::Checking => "what is on disk is being hashed",
        State::Moving => "its files are being moved",
        _ => return None,
    };
    let evidence = [("state", json!(format!("{:?}", snapshot.state).to_lowercase()))];
    Some(finding((Cause::Busy, Severity::Stops), what, "wait until that is done", &evidence))
}

fn addresses(snapshot: &Snapshot) -> usize {
    snapshot.sources.iter().map(|(_, count)| count).sum()
}

/// Who was asked for peers, and what came of it.
fn asked(snapshot: &Snapshot) -> (String, Value) {
    let of = |source: Source| {
        snapshot.sources.iter().find(|(known, _)| *known == source).map_or(0, |(_, count)| *count)
    };
    let answered = snapshot.trackers.iter().filter(|tracker| tracker.answered.is_some()).count();
    let mut parts = vec![match snapshot.trackers.len() {
        0 => "it has no trackers".to_owned(),
        all => format!("{answered} of {all} trackers answered and told of {}", of(Source::Tracker)),
    }];
    parts.push(match (snapshot.private, snapshot.dht) {
        (true, _) => "it is private, so only trackers tell of peers (BEP 27)".to_owned(),
        (false, true) => format!("the DHT ({} nodes) told of {}", snapshot.dht_nodes, of(Source::Dht)),
        (false, false) => "the DHT is off".to_owned(),
    });
    if !snapshot.private {
        parts.push(match snapshot.lsd {
            true => format!("the local network told of {}", of(Source::Lsd)),
            false => "local discovery is off".to_owned(),
        });
        parts.push(format!("peers told of {}", of(Source::Pex)));
    }
    let value = json!({
        "trackers": of(Source::Tracker), "dht": of(Source::Dht), "lsd": of(Source::Lsd), "pex": of(Source::Pex),
        "user": of(Source::User), "magnet": of(Source::Magnet),
    });
    (parts.join("; "), value)
}

fn no_addresses(snapshot: &Snapshot) -> Option<Finding> {
    if snapshot.peer_count > 0 || addresses(snapshot) > 0 || snapshot.web_seeds > 0 {
        return None;
    }
    let (asked, sources) = asked(snapshot);
    let severity = if downloads(snapshot) { Severity::Stops } else { Severity::Slows };
    let advice = match snapshot.private {
        true => "see what its trackers say below; a private torrent has no other source",
        false => "enable_dht, add trackers, or name a peer with `ccbt-fast add --peer`",
    };
    let text = format!("no address of a peer is known: {asked}");
    Some(finding((Cause::NoAddresses, severity), text, advice, &[("addresses", sources)]))
}

fn no_peers(snapshot: &Snapshot) -> Option<Finding> {
    let known = addresses(snapshot);
    if snapshot.peer_count > 0 || known == 0 {
        return None;
    }
    let (asked, sources) = asked(snapshot);
    let ends = snapshot.endings;
    let severity =
        if downloads(snapshot) && snapshot.web_seeds == 0 { Severity::Stops } else { Severity::Slows };
    let text = format!(
        "nobody is connected, of {known} addresses: {} attempts found nobody, {} handshakes failed, {} peers were ended for \
         what they did, {} attempts are under way; {asked}",
        ends.unreachable,
        ends.no_handshake + ends.unencrypted,
        ends.faults,
        snapshot.half_open
    );
    let advice = if ends.unreachable > 0 {
        "peers are gone or behind NATs: forward the port so that they can connect to you, or enable_utp for hole punching"
    } else {
        "wait for the attempts under way; a firewall may keep connections from leaving"
    };
    let evidence = [
        ("addresses", sources),
        ("unreachable", json!(ends.unreachable)),
        ("no_handshake", json!(ends.no_handshake)),
        ("faults", json!(ends.faults)),
        ("banned", json!(snapshot.banned)),
        ("half_open", json!(snapshot.half_open)),
    ];
    Some(finding((Cause::NoPeers, severity), text, advice, &evidence))
}

fn trackers(snapshot: &Snapshot) -> Vec<Finding> {
    let failing = snapshot.trackers.iter().filter(|tracker| tracker.failures > 0);
    let severity = match (snapshot.peer_count, snapshot.trackers.iter().any(|t| t.answered.is_some())) {
        (0, false) => Severity::Slows,
        _ => Severity::Hint,
    };
    let told = |tracker: &ccbt_shards::diagnosis::TrackerLook| {
        let reason = escape_for_terminal(tracker.problem.as_deref().unwrap_or("no answer")).into_owned();
        let text = format!("tracker {} failed {} times in a row: {reason}", tracker.url, tracker.failures);
        let evidence = [
            ("url", json!(tracker.url)),
            ("failures", json!(tracker.failures)),
            ("reason", json!(reason)),
            ("answered_seconds_ago", json!(tracker.answered.map(|ago| ago.as_secs()))),
        ];
        let advice = "if it says that you may not use it, register there or take it out; if it does not answer, others \
                      (DHT, PEX, further trackers) have to do";
        finding((Cause::TrackerError, severity), text, advice, &evidence)
    };
    failing.map(told).collect()
}

fn encryption_refused(snapshot: &Snapshot) -> Option<Finding> {
    let refused = snapshot.endings.unencrypted;
    if !snapshot.must_encrypt || refused == 0 {
        return None;
    }
    let severity =
        if snapshot.peer_count == 0 && downloads(snapshot) { Severity::Stops } else { Severity::Slows };
    let text =
        format!("{refused} peers did not take an encrypted connection, and encryption_out requires one");
    let advice = "set network.encryption_out = \"prefer\"";
    Some(finding((Cause::EncryptionRefused, severity), text, advice, &[("refused", json!(refused))]))
}

fn ip_filter(snapshot: &Snapshot) -> Option<Finding> {
    let filtered = snapshot.filtered;
    let severity = if snapshot.peer_count == 0 { Severity::Slows } else { Severity::Hint };
    let text = format!("the IP filter has kept {filtered} connections of all torrents from coming about");
    let advice = "look whether the list means these addresses";
    let evidence = [("filtered", json!(filtered))];
    (filtered > 0).then(|| finding((Cause::IpFilter, severity), text, advice, &evidence))
}

fn wanted(snapshot: &Snapshot) -> impl Iterator<Item = &PeerFacts> {
    snapshot.peers.iter().filter(|peer| peer.am_interested)
}

fn pieces_missing(snapshot: &Snapshot) -> Option<Finding> {
    let Snapshot { unavailable, missing, peer_count, .. } = *snapshot;
    if !downloads(snapshot) || peer_count == 0 || unavailable == 0 || snapshot.web_seeds > 0 {
        return None;
    }
    let stuck = unavailable == missing || wanted(snapshot).next().is_none();
    let severity = if stuck { Severity::Stops } else { Severity::Slows };
    let text = format!(
        "none of the {peer_count} connected peers has {unavailable} of the {missing} missing pieces (availability below 1)"
    );
    let advice = "wait for a seed, name one (`ccbt-fast add --peer`), add a web seed, or look for the same files elsewhere";
    let evidence =
        [("missing", json!(missing)), ("unavailable", json!(unavailable)), ("peers", json!(peer_count))];
    Some(finding((Cause::PiecesMissing, severity), text, advice, &evidence))
}

fn all_choked(snapshot: &Snapshot) -> Option<Finding> {
    let of_use = wanted(snapshot).count();
    let choking = wanted(snapshot).filter(|peer| peer.peer_choking).count();
    if !downloads(snapshot) || of_use == 0 || choking < of_use {
        return None;
    }
    let severity = if snapshot.down_rate == 0 { Severity::Stops } else { Severity::Slows };
    let text = format!("all {of_use} peers that have what is missing choke us: they serve others first");
    let advice = "wait for an optimistic unchoke; raise what you upload (limits.global_up_kib), since peers serve those \
                  who serve them";
    let evidence = [
        ("interesting_peers", json!(of_use)),
        ("choking_peers", json!(choking)),
        ("up_rate", json!(snapshot.up_rate)),
    ];
    Some(finding((Cause::AllChoked, severity), text, advice, &evidence))
}

fn snubbed(snapshot: &Snapshot) -> Option<Finding> {
    let serving = wanted(snapshot).filter(|peer| !peer.peer_choking);
    let (all, snubs) =
        serving.fold((0, 0), |(all, snubs), peer| (all + 1, snubs + usize::from(peer.snubbed)));
    if !downloads(snapshot) || snubs == 0 || 2 * snubs < all {
        return None;
    }
    let severity = if snubs == all { Severity::Stops } else { Severity::Slows };
    let text = format!("{snubs} of the {all} peers that serve us owe blocks for too long");
    let advice = "others are asked for the same blocks; if that is so with all torrents, the line or a VPN loses packets";
    Some(finding(
        (Cause::Snubbed, severity),
        text,
        advice,
        &[("snubbed", json!(snubs)), ("serving", json!(all))],
    ))
}

fn hash(snapshot: &Snapshot) -> Option<Finding> {
    let waits = snapshot.hash_queue >= HASH_QUEUE && snapshot.hash_queue > snapshot.disk_queue.0;
    if !snapshot.behind || !waits {
        return None;
    }
    let text = format!(
        "{} complete pieces wait, {} jobs of them for hash threads: pieces come faster than they are hashed",
        snapshot.backlog, snapshot.hash_queue
    );
    let advice =
        "more hash threads (disk.hash_workers, engine.hash_cpus), or fewer other loads on these CPUs";
    let evidence = [("backlog", json!(snapshot.backlog)), ("hash_queue", json!(snapshot.hash_queue))];
    Some(finding((Cause::Hash, Severity::Slows), text, advice, &evidence))
}

fn disk(snapshot: &Snapshot) -> Option<Finding> {
    let waits = snapshot.hash_queue < HASH_QUEUE || snapshot.hash_queue <= snapshot.disk_queue.0;
    if !snapshot.behind || !waits {
        return None;
    }
    let (waiting, in_flight) = snapshot.disk_queue;
    let text = format!(
        "{} complete pieces wait for the disk ({waiting} requests wait, {in_flight} under way): peers send faster than it \
         writes",
        snapshot.backlog
    );
    let advice = "a faster disk, fewer torrents at a time on this one, or fewer other loads; `ccbt-bench` says what it can";
    let evidence = [
        ("backlog", json!(snapshot.backlog)),
        ("disk_waiting", json!(waiting)),
        ("disk_in_flight", json!(in_flight)),
    ];
    Some(finding((Cause::Disk, Severity::Slows), text, advice, &evidence))
}

fn memory(snapshot: &Snapshot) -> Option<Finding> {
    if !snapshot.starved || snapshot.behind {
        return None;
    }
    let text = "it was refused memory for another piece: all of engine.memory is in use";
    let advice = "raise engine.memory (--memory), or run fewer torrents at a time";
    let evidence = [("starved", json!(true)), ("backlog", json!(snapshot.backlog))];
    Some(finding((Cause::Memory, Severity::Slows), text, advice, &evidence))
}

fn nobody_interested(snapshot: &Snapshot) -> Option<Finding> {
    let peers = snapshot.peer_count;
    if snapshot.state != State::Seeding
        || peers == 0
        || snapshot.peers.iter().any(|peer| peer.peer_interested)
    {
        return None;
    }
    let text = format!("none of the {peers} connected peers wants anything of it");
    let advice = "there is nothing to do: they have what they want, or only part of it is wanted";
    Some(finding((Cause::NobodyInterested, Severity::Slows), text, advice, &[("peers", json!(peers))]))
}

fn connection_limit(snapshot: &Snapshot) -> Option<Finding> {
    let (process, process_max) = snapshot.process_connections;
    let (text, advice) = if snapshot.connections >= snapshot.max_peers {
        (
            format!("it has all the {} connections that it may have", snapshot.max_peers),
            "raise network.max_peers_per_torrent; more connections are seldom faster",
        )
    } else if process >= process_max {
        (
            format!("all torrents together have the {process_max} connections that they may have"),
            "raise network.max_global_peers, and the limit of open files (ulimit -n)",
        )
    } else {
        return None;
    };
    let evidence = [
        ("connections", json!(snapshot.connections)),
        ("max_peers", json!(snapshot.max_peers)),
        ("process_connections", json!(process)),
        ("process_connections_max", json!(process_max)),
    ];
    Some(finding((Cause::ConnectionLimit, Severity::Hint), text, advice, &evidence))
}

fn port(snapshot: &Snapshot) -> Option<Finding> {
    if snapshot.listen_port == 0 {
        let text = "no port is listened on: nobody can connect to us";
        let advice = "set network.listen_port (--port); a proxy for peers excludes it";
        let evidence = [("listen_port", json!(0))];
        return Some(finding((Cause::NotListening, Severity::Hint), text, advice, &evidence));
    }
    let silent = snapshot.accepted_ago.unwrap_or(snapshot.uptime);
    if silent < UNREACHED {
        return None;
    }
    let port = snapshot.listen_port;
    let text = format!("nobody has connected to port {port} for {} minutes", silent.as_secs() / 60);
    let advice = "forward the port (TCP and UDP) to this machine and open it in its firewall: only then peers behind NATs \
                  reach you";
    let severity = if snapshot.state == State::Seeding && snapshot.up_rate == 0 {
        Severity::Slows
    } else {
        Severity::Hint
    };
    let evidence = [
        ("listen_port", json!(port)),
        ("accepted", json!(snapshot.accepted)),
        ("silent_seconds", json!(silent.as_secs())),
    ];
    Some(finding((Cause::PortUnreachable, severity), text, advice, &evidence))
}

/// No rule has found what holds it back.
fn nothing(snapshot: &Snapshot) -> Finding {
    let evidence = [
        ("peers", json!(snapshot.peer_count)),
        ("down_rate", json!(snapshot.down_rate)),
        ("up_rate", json!(snapshot.up_rate)),
        ("bytes_left", json!(snapshot.bytes_left)),
    ];
    let serving = wanted(snapshot).filter(|peer| !peer.peer_choking).count();
    if downloads(snapshot) && serving > 0 {
        let text = format!(
            "no limit of ours is reached: {serving} peers serve us and send {} together",
            rate(snapshot.down_rate)
        );
        let advice = "that is what they and the line give; more peers may give more";
        return finding((Cause::PeersSlow, Severity::Fine), text, advice, &evidence);
    }
    let text = format!(
        "nothing holds it back: {} peers, receiving {}, sending {}",
        snapshot.peer_count,
        rate(snapshot.down_rate),
        rate(snapshot.up_rate)
    );
    finding((Cause::Nothing, Severity::Fine), text, "there is nothing to do", &evidence)
}
