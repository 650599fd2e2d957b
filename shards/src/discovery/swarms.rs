//! Which torrent is looked up next, and which one is told to the local network. Pure.
//!
//! Owner: the discovery thread. Invariant: a torrent is in `due` exactly when no look-up of it runs. As many entries as
//! the session has torrents.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ccbt_protocol::dht::{Announce, Goal, SearchId};
use ccbt_protocol::ids::{InfoHash, TorrentKey};
use rand::{Rng, RngExt};

use super::Interest;
use crate::inbox::Inbox;

/// Between two look-ups of a torrent: others forget our announce after 30 minutes or more.
const INTERVAL: Duration = Duration::from_secs(15 * 60);
/// Added at random, so that torrents that were added together do not stay together.
const JITTER_SECS: u64 = 120;
/// After a look-up in which nobody answered: the node may only just have started.
const RETRY_FIRST: Duration = Duration::from_secs(2);
/// After a look-up without peers, of a torrent that is not complete; doubles.
const RETRY_FRUITLESS: Duration = Duration::from_secs(20);
/// Between two announces of a torrent in the local network (BEP 14).
pub(super) const LSD_INTERVAL: Duration = Duration::from_secs(300);

#[derive(Debug)]
struct Swarm {
    interest: Interest,
    due: Instant,
    search: Option<SearchId>,
    /// Look-ups in a row in which nobody answered.
    failures: u32,
    /// Look-ups in a row that found no peers, though somebody answered.
    fruitless: u32,
    /// The one that runs has found some.
    has_found: bool,
    lsd_due: Instant,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Swarms {
    swarms: HashMap<TorrentKey, Swarm>,
    by_hash: HashMap<InfoHash, TorrentKey>,
    searches: HashMap<SearchId, TorrentKey>,
    due: BTreeSet<(Instant, TorrentKey)>,
    lsd_due: BTreeSet<(Instant, TorrentKey)>,
}

impl Swarms {
    /// Torrents.
    pub fn len(&self) -> usize {
        self.swarms.len()
    }

    /// Adds a torrent, or replaces what was said of it. One that has become a seed is announced again when it is due.
    pub fn add(&mut self, now: Instant, interest: Interest) -> Option<SearchId> {
        let (key, hash) = (interest.key, interest.info_hash);
        if let Some(swarm) = self.swarms.get_mut(&key)
            && swarm.interest.info_hash == hash
            && (swarm.interest.dht, swarm.interest.lsd) == (interest.dht, interest.lsd)
        {
            swarm.interest = interest;
            return None;
        }
        let cancelled = self.remove(key);
        if interest.dht {
            self.due.insert((now, key));
        }
        if interest.lsd {
            self.lsd_due.insert((now, key));
        }
        self.by_hash.insert(hash, key);
        self.swarms.insert(
            key,
            Swarm {
                interest,
                due: now,
                search: None,
                failures: 0,
                fruitless: 0,
                has_found: false,
                lsd_due: now,
            },
        );
        cancelled
    }

    /// Removes a torrent; the look-up to be cancelled.
    pub fn remove(&mut self, key: TorrentKey) -> Option<SearchId> {
        let swarm = self.swarms.remove(&key)?;
        self.due.remove(&(swarm.due, key));
        self.lsd_due.remove(&(swarm.lsd_due, key));
        if self.by_hash.get(&swarm.interest.info_hash) == Some(&key) {
            self.by_hash.remove(&swarm.interest.info_hash);
        }
        let search = swarm.search?;
        self.searches.remove(&search);
        Some(search)
    }

    /// The next torrent to look up, if one is due, and what for. `port`: where we take connections; 0 = nowhere.
    pub fn next(&self, now: Instant, port: u16) -> Option<(TorrentKey, Goal)> {
        let (at, key) = *self.due.first()?;
        let interest = &self.swarms[&key].interest;
        let announce = (port != 0).then_some(Announce { port: Some(port), seed: interest.seed });
        (at <= now).then_some((key, Goal::Peers { info_hash: interest.info_hash, announce }))
    }

    /// A look-up of this torrent has begun.
    pub fn started(&mut self, key: TorrentKey, search: SearchId) {
        let swarm = self.swarms.get_mut(&key).expect("it was next");
        self.due.remove(&(swarm.due, key));
        swarm.search = Some(search);
        swarm.has_found = false;
        self.searches.insert(search, key);
    }

    /// A look-up has found peers: who wants them.
    pub fn found(&mut self, search: SearchId) -> Option<(TorrentKey, &Inbox)> {
        let key = *self.searches.get(&search)?;
        let swarm = self.swarms.get_mut(&key)?;
        swarm.has_found = true;
        Some((key, &swarm.interest.home))
    }

    /// A look-up is over; `nodes` answered. Returns whether it was one of a torrent.
    pub fn ended(&mut self, now: Instant, search: SearchId, nodes: usize, rng: &mut impl Rng) -> bool {
        let Some(key) = self.searches.remove(&search) else { return false };
        let swarm = self.swarms.get_mut(&key).expect("a search belongs to a torrent");
        swarm.search = None;
        swarm.failures = if nodes == 0 { swarm.failures.saturating_add(1) } else { 0 };
        let jitter = Duration::from_millis(rng.random_range(0..JITTER_SECS * 1000));
        // Others may be about to announce what we have just looked for.
        let is_fruitless = nodes > 0 && !swarm.has_found && !swarm.interest.seed;
        swarm.fruitless = if is_fruitless { swarm.fruitless.saturating_add(1) } else { 0 };
        let wait = match swarm.failures {
            0 if is_fruitless => {
                (RETRY_FRUITLESS * 2u32.saturating_pow(swarm.fruitless.min(8) - 1)).min(INTERVAL)
            }
            0 => INTERVAL + jitter,
            // All of them wait for the same thing.
            failures => (RETRY_FIRST * 2u32.saturating_pow(failures.min(12) - 1)).min(INTERVAL),
        };
        swarm.due = now + wait;
        self.due.insert((swarm.due, key));
        true
    }

    /// When the next torrent is due, in the DHT and in the local network.
    pub fn next_due(&self) -> (Option<Instant>, Option<Instant>) {
        (self.due.first().map(|(at, _)| *at), self.lsd_due.first().map(|(at, _)| *at))
    }

    /// Up to `most` torrents that are due to be told to the local network; they count as told.
    pub fn take_lsd(&mut self, now: Instant, most: usize) -> Vec<InfoHash> {
        let mut hashes = Vec::new();
        while hashes.len() < most
            && let Some((at, key)) = self.lsd_due.first().copied()
            && at <= now
        {
            self.lsd_due.pop_first();
            let swarm = self.swarms.get_mut(&key).expect("one that is gone is not due");
            swarm.lsd_due = now + LSD_INTERVAL;
            self.lsd_due.insert((swarm.lsd_due, key));
            hashes.push(swarm.interest.info_hash);
        }
        hashes
    }

    /// Who wants peers of this swarm that the local network told of.
    pub fn wanting(&self, hash: &InfoHash) -> Option<(TorrentKey, &Inbox)> {
        let key = self.by_hash.get(hash)?;
        let interest = &self.swarms[key].interest;
        interest.lsd.then_some((*key, &interest.home))
    }
}

/// The addresses without repeats, as they came.
pub(super) fn unique(mut peers: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let mut seen = std::collections::HashSet::new();
    peers.retain(|peer| seen.insert(*peer));
    peers
}

#[cfg(test)]
mod tests {
    use super::*;
    use ccbt_storage::doorbell::Doorbell;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    fn interest(n: u32) -> Interest {
        let (home, _) = Inbox::new(Doorbell::new().expect("a descriptor"));
        let mut hash = [0; 20];
        hash[..4].copy_from_slice(&n.to_be_bytes());
        let (info_hash, key) = (InfoHash(hash), TorrentKey(n));
        Interest { info_hash, key, home, private: false, seed: false, dht: true, lsd: true }
    }

    #[test]
    fn each_once_then_again_after_a_while_sooner_when_nobody_answered() {
        let (mut swarms, mut rng, now) = (Swarms::default(), SmallRng::seed_from_u64(1), Instant::now());
        assert_eq!(swarms.add(now, interest(1)), None);
        let (key, goal) = swarms.next(now, 7).expect("due at once");
        let Goal::Peers { announce: Some(Announce { port: Some(7), seed: false }), .. } = goal else {
            panic!("{goal:?}");
        };
        swarms.started(key, SearchId(5));
        assert!(swarms.next(now, 7).is_none() && swarms.found(SearchId(5)).is_some());
        assert!(swarms.ended(now, SearchId(5), 0, &mut rng));
        assert!(swarms.next(now, 7).is_none() && swarms.next(now + RETRY_FIRST, 7).is_some());
        swarms.started(key, SearchId(6));
        assert!(swarms.found(SearchId(6)).is_some());
        assert!(swarms.ended(now, SearchId(6), 3, &mut rng) && !swarms.ended(now, SearchId(6), 3, &mut rng));
        let at = swarms.next_due().0.expect("later");
        assert!(at >= now + INTERVAL && at <= now + INTERVAL + Duration::from_secs(JITTER_SECS));
        swarms.started(key, SearchId(99));
        assert!(swarms.ended(now, SearchId(99), 3, &mut rng));
        assert_eq!(swarms.next_due().0, Some(now + RETRY_FRUITLESS), "nobody there yet");
        for search in 7..40 {
            swarms.started(key, SearchId(search));
            swarms.ended(now, SearchId(search), 0, &mut rng);
            assert!(swarms.next_due().0.expect("later") <= now + INTERVAL);
        }
    }

    #[test]
    fn what_is_removed_is_neither_looked_up_nor_told() {
        let (mut swarms, now) = (Swarms::default(), Instant::now());
        swarms.add(now, interest(1));
        swarms.started(TorrentKey(1), SearchId(5));
        assert_eq!(swarms.add(now, interest(1)), None, "said again");
        assert_eq!(swarms.remove(TorrentKey(1)), Some(SearchId(5)));
        assert!(swarms.found(SearchId(5)).is_none() && swarms.next(now, 1).is_none());
        assert!(swarms.take_lsd(now, 10).is_empty() && swarms.wanting(&interest(1).info_hash).is_none());
        assert_eq!((swarms.len(), swarms.next_due()), (0, (None, None)));
    }

    #[test]
    fn without_a_port_nothing_is_announced_and_a_seed_says_so() {
        let (mut swarms, now) = (Swarms::default(), Instant::now());
        swarms.add(now, interest(1));
        assert!(matches!(swarms.next(now, 0), Some((_, Goal::Peers { announce: None, .. }))));
        swarms.add(now, Interest { seed: true, ..interest(1) });
        let (_, goal) = swarms.next(now, 7).expect("still due");
        assert!(matches!(goal, Goal::Peers { announce: Some(Announce { seed: true, .. }), .. }));
    }

    #[test]
    fn the_local_network_hears_of_each_once_in_five_minutes_in_batches() {
        let (mut swarms, now) = (Swarms::default(), Instant::now());
        for n in 0..30 {
            swarms.add(now, interest(n));
        }
        swarms.add(now, Interest { lsd: false, ..interest(99) });
        assert_eq!(swarms.take_lsd(now, 20).len(), 20);
        assert_eq!(swarms.take_lsd(now, 20).len(), 10);
        assert!(swarms.take_lsd(now + LSD_INTERVAL / 2, 20).is_empty());
        assert_eq!(swarms.take_lsd(now + LSD_INTERVAL, 100).len(), 30);
        assert!(
            swarms.wanting(&interest(99).info_hash).is_none()
                && swarms.wanting(&interest(9).info_hash).is_some()
        );
    }
}
