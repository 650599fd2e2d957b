//! Tracker tiers (BEP 3, BEP 12), web seeds (BEP 19) and DHT nodes (BEP 5).
//!
//! Old torrents carry dead and exotic URLs in many shapes, so what cannot be used is dropped rather than refused.
//! Invariant: what is kept is bounded by [`MAX_URLS`] and [`MAX_URL_LEN`] and never there twice.

use super::{MAX_NODES, MAX_URL_LEN, MAX_URLS};
use crate::bencode::{Dict, Node};
use std::collections::HashSet;

const TRACKER_SCHEMES: &[&str] = &["http://", "https://", "udp://"];
const WEB_SEED_SCHEMES: &[&str] = &["http://", "https://"];

/// Whether `url` is one that a tracker tier keeps.
pub(crate) fn is_tracker_url(url: &str) -> bool {
    is_url(url, TRACKER_SCHEMES)
}

/// Whether `url` is one that the web seed list keeps.
pub(crate) fn is_web_seed_url(url: &str) -> bool {
    is_url(url, WEB_SEED_SCHEMES)
}

fn is_url(url: &str, schemes: &[&str]) -> bool {
    let starts = |scheme: &&str| {
        url.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
            && url.len() > scheme.len()
    };
    url.len() <= MAX_URL_LEN
        && schemes.iter().any(starts)
        && !url.chars().any(|c| c.is_whitespace() || c.is_control())
}

/// Picks usable URLs and remembers what it has given.
struct Sieve<'a> {
    seen: HashSet<&'a str>,
    schemes: &'static [&'static str],
}

impl<'a> Sieve<'a> {
    fn new(schemes: &'static [&'static str]) -> Self {
        Self { seen: HashSet::new(), schemes }
    }

    /// The URL in `node` if it is usable, new, and there is room.
    fn take(&mut self, node: Node<'_, 'a>) -> Option<String> {
        let url = node.as_str()?.trim();
        let usable = self.seen.len() < MAX_URLS && is_url(url, self.schemes) && self.seen.insert(url);
        usable.then(|| url.to_owned())
    }
}

/// The tiers of `announce-list`, or of `announce` when that list is absent or holds nothing usable.
pub(super) fn trackers(root: Dict<'_, '_>) -> Vec<Vec<String>> {
    let mut sieve = Sieve::new(TRACKER_SCHEMES);
    let mut tiers: Vec<Vec<String>> = Vec::new();
    for tier in root.get_list(b"announce-list").into_iter().flatten() {
        let urls: Vec<String> = match tier.as_list() {
            Some(list) => list.iter().filter_map(|url| sieve.take(url)).collect(),
            // Some makers forget the inner lists.
            None => sieve.take(tier).into_iter().collect(),
        };
        if !urls.is_empty() {
            tiers.push(urls);
        }
    }
    if tiers.is_empty() {
        tiers.extend(root.get(b"announce").and_then(|url| sieve.take(url)).map(|url| vec![url]));
    }
    tiers
}

/// The URLs of `url-list`, which is one string or a list of them.
pub(super) fn web_seeds(root: Dict<'_, '_>) -> Vec<String> {
    let mut sieve = Sieve::new(WEB_SEED_SCHEMES);
    match root.get(b"url-list") {
        None => Vec::new(),
        Some(node) => match node.as_list() {
            Some(list) => list.iter().filter_map(|url| sieve.take(url)).collect(),
            None => sieve.take(node).into_iter().collect(),
        },
    }
}

/// Hosts and ports under `nodes` that can be used.
pub(super) fn nodes(root: Dict<'_, '_>) -> Vec<(String, u16)> {
    let mut nodes = Vec::new();
    for node in root.get_list(b"nodes").into_iter().flatten().take(MAX_NODES) {
        let mut parts = node.as_list().into_iter().flatten();
        let host = parts.next().and_then(|host| host.as_str());
        let port = parts.next().and_then(|port| u16::try_from(port.as_int()?).ok());
        let is_host = |host: &&str| {
            (1..=253).contains(&host.len()) && !host.chars().any(|c| c.is_whitespace() || c.is_control())
        };
        if let (Some(host), Some(port)) = (host.filter(is_host), port.filter(|port| *port != 0)) {
            nodes.push((host.to_owned(), port));
        }
    }
    nodes
}
