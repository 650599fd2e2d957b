//! The commands that look closely at a torrent of a daemon: `explain`, `peers` and `trace`.
//!
//! Invariant: as with [`crate::control`], what a stranger named is escaped, in words and in JSON.

use std::fmt::Write as _;
use std::io::{self, Write};

use ccbt_fast::daemon::api::{self, Connection, Explanation, Traced, Way};
use ccbt_fast::explain::Severity;
use ccbt_protocol::metainfo::escape_for_terminal;
use jiff::{Timestamp, tz::TimeZone};

use crate::args::{PickArgs, TraceArgs};
use crate::control::{NO_BODY, client, path_of, tell};
use crate::failure::Failure;
use crate::{json, units};

/// Characters of a client's name in a list.
const CLIENT_CHARS: usize = 24;

/// Says why torrents do what they do.
pub fn explain(args: &PickArgs) -> Result<(), Failure> {
    let client = client(&args.control)?;
    for prefix in &args.info_hashes {
        let found: Explanation = client.call("GET", &path_of(prefix, "/explain"), NO_BODY)?;
        tell(args.control.json, &found, || findings(&found));
    }
    Ok(())
}

fn findings(explanation: &Explanation) -> String {
    let digits = &explanation.info_hash[..8.min(explanation.info_hash.len())];
    let mut text = format!("{digits}  {}", escape_for_terminal(&explanation.name));
    for finding in &explanation.findings {
        let severity = match finding.severity {
            Severity::Stops => "STOPS",
            Severity::Slows => "SLOWS",
            Severity::Hint => "hint",
            Severity::Fine => "fine",
        };
        let advice = finding.advice.replace("HASH", digits);
        let (words, advice) = (escape_for_terminal(&finding.text), escape_for_terminal(&advice));
        write!(text, "\n{severity:5}  {words}\n       -> {advice}").expect("a String takes every write");
    }
    text
}

/// Lists connections, the best first.
pub fn peers(args: &PickArgs) -> Result<(), Failure> {
    let client = client(&args.control)?;
    for prefix in &args.info_hashes {
        let mut detail: api::TorrentDetail = client.call("GET", &path_of(prefix, ""), NO_BODY)?;
        detail.connections.sort_by_key(|peer| std::cmp::Reverse(peer.quality));
        let total = detail.pieces_total;
        tell(args.control.json, &detail.connections, || list(&detail.connections, total));
    }
    Ok(())
}

fn list(peers: &[Connection], pieces: u32) -> String {
    if peers.is_empty() {
        return "nobody is connected; `ccbt-fast explain` says why".to_owned();
    }
    let mut text = format!(
        "{:>4}  {:>4}  {:22}  {:5}  {:>5}  {:>12}  {:>12}  {:>7}  {:>5}  {:>5}  CLIENT",
        "QUAL", "RELY", "PEER", "FLAGS", "HAS", "DOWN", "UP", "RTT", "SNUBS", "LATE"
    );
    for peer in peers {
        let rtt = peer.round_trip_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms"));
        let client: String = peer.client.chars().take(CLIENT_CHARS).collect();
        write!(
            text,
            "\n{:>4}  {:>4}  {:22}  {:5}  {:>3} %  {:>12}  {:>12}  {:>7}  {:>5}  {:>5}  {}",
            peer.quality,
            peer.reliability,
            peer.addr.to_string(),
            flags(peer),
            u64::from(peer.pieces) * 100 / u64::from(pieces.max(1)),
            units::rate(peer.down_rate),
            units::rate(peer.up_rate),
            rtt,
            peer.snubs,
            peer.timeouts,
            escape_for_terminal(&client),
        )
        .expect("a String takes every write");
    }
    text += "\nflags: D/d we want something and it serves us/not, U/u it wants something and we serve it/not, \
             I it connected to us, P uTP, S it owes blocks";
    text
}

fn flags(peer: &Connection) -> String {
    let down = match (peer.am_interested, peer.peer_choking) {
        (true, false) => "D",
        (true, true) => "d",
        (false, _) => "",
    };
    let up = match (peer.peer_interested, peer.am_choking) {
        (true, false) => "U",
        (true, true) => "u",
        (false, _) => "",
    };
    let rest = [(peer.incoming, "I"), (peer.utp, "P"), (peer.snubbed, "S")];
    let rest: String = rest.into_iter().filter(|(on, _)| *on).map(|(_, flag)| flag).collect();
    format!("{down}{up}{rest}")
}

/// Prints what is said with a peer until somebody ends it.
pub fn trace(args: &TraceArgs) -> Result<(), Failure> {
    let path = path_of(&args.info_hash, &format!("/trace?peer={}", args.peer));
    let mut left = args.lines.unwrap_or(u64::MAX);
    let mut rest = Vec::new();
    let client = client(&args.control)?;
    client.follow(&path, |bytes| {
        if bytes.is_empty() && !args.control.json {
            // Nobody may be there to read it.
            let _ = writeln!(io::stderr(), "waiting for messages to and from {}; ^C ends it", args.peer);
        }
        rest.extend_from_slice(bytes);
        let Some(end) = rest.iter().rposition(|byte| *byte == b'\n') else { return true };
        let lines: Vec<u8> = rest.drain(..=end).collect();
        let mut out = io::stdout().lock();
        for line in String::from_utf8_lossy(&lines).lines() {
            let words = match args.control.json {
                true => json::escaped(line.to_owned()),
                false => match serde_json::from_str::<Traced>(line) {
                    Ok(traced) => said(&traced),
                    Err(_) => continue,
                },
            };
            // An error: nobody reads any more.
            if left == 0 || writeln!(out, "{words}").is_err() {
                return false;
            }
            left -= 1;
        }
        out.flush().is_ok() && left > 0
    })?;
    Ok(())
}

fn said(traced: &Traced) -> String {
    let way = match traced.direction {
        Some(Way::In) => "<-",
        Some(Way::Out) => "->",
        None => "--",
    };
    let at = Timestamp::from_millisecond(i64::try_from(traced.at_ms).unwrap_or(i64::MAX)).unwrap_or_default();
    let clock = at.to_zoned(TimeZone::system()).strftime("%H:%M:%S%.3f").to_string();
    let missed = match traced.dropped {
        0 => String::new(),
        lines => format!("{clock}  ({lines} lines were dropped here)\n"),
    };
    format!("{missed}{clock}  {}  {way} {}", traced.peer, escape_for_terminal(&traced.message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ccbt_fast::explain::{Cause, Finding};

    #[test]
    fn what_strangers_wrote_is_escaped() {
        let evil = "\x1b[2J\u{202e}\n";
        let finding = Finding {
            cause: Cause::TrackerError,
            severity: Severity::Slows,
            text: evil.to_owned(),
            advice: "resume HASH".to_owned(),
            evidence: Default::default(),
        };
        let explanation =
            Explanation { info_hash: "ab".repeat(20), name: evil.to_owned(), findings: vec![finding] };
        let text = findings(&explanation);
        assert!(text.contains("resume abababab") && text.contains("SLOWS"), "{text}");
        let traced = Traced {
            at_ms: 1,
            peer: "127.0.0.1:1".parse().expect("an address"),
            direction: Some(Way::In),
            message: evil.to_owned(),
            dropped: 2,
        };
        for text in [text, said(&traced)] {
            let is_safe = |c: char| c == '\n' || !ccbt_protocol::metainfo::is_unsafe_to_show(c);
            assert!(text.chars().all(is_safe), "{text:?}");
        }
    }
}
