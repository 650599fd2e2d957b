//! The HTTP tracker protocol: the announce URL, and the bencoded answer (BEP 3, 7, 23, 24, 31).
//!
//! Called by the control plane, which does the transport. Invariant: an answer that is a dictionary is always usable;
//! a field of the wrong type or with nonsense in it counts as absent, since real trackers send all of that.

use super::udp::ScrapeEntry;
use super::{
    AnnounceRequest, AnnounceResponse, Event, INTERVAL_MAX, PEERS_MAX, PeerCollector, RetryIn,
    TRACKER_ID_LEN_MAX, TrackerFailure, clamp_interval, clean_text,
};
use crate::bencode::{self, Dict, Limits, Value};
use crate::ids::InfoHash;
use std::fmt::Write;
use std::net::IpAddr;
use std::time::Duration;

/// Most bencode values in an answer: room for far more dictionary peers than are kept, and 2.4 MB of memory at most.
const VALUES_MAX: usize = 200_000;

/// Why a body is no usable answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// Not bencode, or a value other than a dictionary.
    #[error("the tracker's answer is not a bencoded dictionary; is this an announce URL?")]
    Malformed,
    /// The tracker refused.
    #[error(transparent)]
    Refused(#[from] TrackerFailure),
}

/// The URL of an announce: `base`, which may have a query of its own, without its fragment, followed by the parameters
/// of BEP 3 and 7, `compact` and `no_peer_id` (BEP 23) and the customary `key` and `numwant`.
pub fn announce_url(base: &str, request: &AnnounceRequest) -> String {
    let mut url = base.split('#').next().unwrap_or(base).to_owned();
    if !url.contains('?') {
        url.push('?');
    } else if !url.ends_with(['?', '&']) {
        url.push('&');
    }
    url.push_str("info_hash=");
    percent_encode(&request.info_hash.0, &mut url);
    url.push_str("&peer_id=");
    percent_encode(&request.peer_id.0, &mut url);
    let AnnounceRequest { port, uploaded, downloaded, left, key, .. } = request;
    push(
        &mut url,
        format_args!(
            "&port={port}&uploaded={uploaded}&downloaded={downloaded}&left={left}&compact=1&no_peer_id=1&key={key:08X}"
        ),
    );
    if let Some(numwant) = request.peers_wanted() {
        push(&mut url, format_args!("&numwant={numwant}"));
    }
    match request.event {
        Event::None => {}
        Event::Started => url.push_str("&event=started"),
        Event::Completed => url.push_str("&event=completed"),
        Event::Stopped => url.push_str("&event=stopped"),
    }
    if let Some(ip) = request.ip {
        url.push_str("&ip=");
        percent_encode(ip.to_string().as_bytes(), &mut url);
    }
    if let Some(ip) = request.other_ip {
        url.push_str(if ip.is_ipv4() { "&ipv4=" } else { "&ipv6=" });
        percent_encode(ip.to_string().as_bytes(), &mut url);
    }
    if let Some(id) = &request.tracker_id {
        url.push_str("&trackerid=");
        percent_encode(id, &mut url);
    }
    url
}

/// The URL that scrapes of the torrents `hashes` go to (BEP 48): that of announces with "scrape" in place of "announce" in
/// the last part of its path. `None` when that does not begin so: then the tracker cannot be scraped.
pub fn scrape_url(base: &str, hashes: &[InfoHash]) -> Option<String> {
    let base = base.split('#').next().unwrap_or(base);
    let (path, query) = base.split_once('?').map_or((base, None), |(path, query)| (path, Some(query)));
    let (folder, last) = path.rsplit_once('/')?;
    let mut url = format!("{folder}/scrape{}?", last.strip_prefix("announce")?);
    if let Some(query) = query.filter(|query| !query.is_empty()) {
        push(&mut url, format_args!("{query}&"));
    }
    for (index, hash) in hashes.iter().enumerate() {
        url.push_str(if index == 0 { "info_hash=" } else { "&info_hash=" });
        percent_encode(&hash.0, &mut url);
    }
    Some(url)
}

/// Reads the body of a scrape's answer: counts of `hashes`, in their order; `None` for those that it does not tell of.
///
/// # Errors
/// As [`parse_response`].
pub fn parse_scrape(body: &[u8], hashes: &[InfoHash]) -> Result<Vec<Option<ScrapeEntry>>, ReplyError> {
    let (document, _) =
        bencode::decode_prefix(body, Limits { tokens: VALUES_MAX }).map_err(|_| ReplyError::Malformed)?;
    let dict = document.root().as_dict().ok_or(ReplyError::Malformed)?;
    if let Some(reason) = dict.get_bytes(b"failure reason") {
        return Err(TrackerFailure { reason: clean_text(reason), retry_in: retry_in(&dict) }.into());
    }
    let Some(files) = dict.get_dict(b"files") else { return Ok(vec![None; hashes.len()]) };
    let entry = |hash: &InfoHash| {
        let file = files.get_dict(&hash.0)?;
        let count = |key: &[u8]| file.get_int(key).and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
        Some(ScrapeEntry {
            seeders: count(b"complete"),
            completed: count(b"downloaded"),
            leechers: count(b"incomplete"),
        })
    };
    Ok(hashes.iter().map(entry).collect())
}

fn push(url: &mut String, arguments: std::fmt::Arguments<'_>) {
    url.write_fmt(arguments).expect("writing to a string cannot fail");
}

/// Everything but the unreserved characters of RFC 3986 as %XX.
fn percent_encode(bytes: &[u8], out: &mut String) {
    for byte in bytes {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(*byte))
            }
            _ => push(out, format_args!("%{byte:02X}")),
        }
    }
}

/// Reads the body of an answer. Bytes after the dictionary are ignored.
///
/// # Errors
/// [`ReplyError::Refused`] when there is a `failure reason`, [`ReplyError::Malformed`] when it is no dictionary.
pub fn parse_response(body: &[u8]) -> Result<AnnounceResponse, ReplyError> {
    let (document, _) =
        bencode::decode_prefix(body, Limits { tokens: VALUES_MAX }).map_err(|_| ReplyError::Malformed)?;
    let dict = document.root().as_dict().ok_or(ReplyError::Malformed)?;
    if let Some(reason) = dict.get_bytes(b"failure reason") {
        return Err(TrackerFailure { reason: clean_text(reason), retry_in: retry_in(&dict) }.into());
    }
    let count = |key: &[u8]| dict.get_int(key).and_then(|n| u32::try_from(n).ok());
    Ok(AnnounceResponse {
        interval: clamp_interval(dict.get_int(b"interval").unwrap_or(0)),
        min_interval: dict
            .get_int(b"min interval")
            .filter(|seconds| (1..1 << 31).contains(seconds))
            .map(|seconds| Duration::from_secs(seconds.unsigned_abs()).min(INTERVAL_MAX)),
        seeders: count(b"complete"),
        leechers: count(b"incomplete"),
        peers: peers(&dict),
        warning: dict.get_bytes(b"warning message").map(clean_text).filter(|text| !text.is_empty()),
        tracker_id: dict
            .get_bytes(b"tracker id")
            .filter(|id| !id.is_empty() && id.len() <= TRACKER_ID_LEN_MAX)
            .map(<[u8]>::to_vec),
        external_ip: dict.get_bytes(b"external ip").and_then(ip_from_bytes),
    })
}

/// BEP 31: minutes, or "never".
fn retry_in(dict: &Dict<'_, '_>) -> Option<RetryIn> {
    match dict.get(b"retry in")?.value() {
        Value::Int(minutes) if minutes > 0 => {
            let seconds = minutes.unsigned_abs().saturating_mul(60);
            Some(RetryIn::After(Duration::from_secs(seconds).min(INTERVAL_MAX)))
        }
        Value::Bytes(b"never") => Some(RetryIn::Never),
        _ => None,
    }
}

fn ip_from_bytes(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    let v6 = || <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from);
    v4().or_else(v6).map(|ip| ip.to_canonical()).filter(|ip| !ip.is_unspecified())
}

fn peers(dict: &Dict<'_, '_>) -> Vec<std::net::SocketAddr> {
    let mut peers = PeerCollector::default();
    // Half of the room is IPv6's if there is any: a long IPv4 list must not push the other family out.
    let v6 = dict.get_bytes(b"peers6").unwrap_or_default();
    peers.push_compact_v6(&v6[..v6.len().min(18 * (PEERS_MAX / 2))]);
    match dict.get(b"peers").map(|node| node.value()) {
        Some(Value::Bytes(compact)) => peers.push_compact_v4(compact),
        Some(Value::List(list)) => {
            for peer in list.iter().filter_map(|node| node.as_dict()) {
                if peers.is_full() {
                    break;
                }
                // Host names are not looked up: one answer could name thousands.
                let ip = peer.get_str(b"ip").and_then(|text| text.parse().ok());
                let port = peer.get_int(b"port").and_then(|port| u16::try_from(port).ok());
                if let (Some(ip), Some(port)) = (ip, port) {
                    peers.push(ip, port);
                }
            }
        }
        _ => {}
    }
    peers.push_compact_v6(v6);
    peers.peers
}

#[cfg(test)]
mod tests;
