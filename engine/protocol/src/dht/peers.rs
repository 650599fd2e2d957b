//! What others have announced to us: peers by info-hash.
//!
//! Invariant: bounded per address, per info-hash and in all; what was not announced again is forgotten.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::{Rng, RngExt};

use super::bloom::Bloom;
use crate::ids::InfoHash;

/// Info-hashes at most.
pub const HASHES_MAX: usize = 4096;
/// Peers of one info-hash and family at most; a new one takes the place of the one that announced first.
pub const SWARM_MAX: usize = 500;
/// Peers of all info-hashes at most: 64 bytes each.
pub const PEERS_MAX: usize = 50_000;
/// Ports of one address in one swarm at most.
const PORTS_MAX: usize = 4;
/// A peer that did not announce for so long is gone: clients announce every 15 to 30 minutes.
const LIFE: Duration = Duration::from_secs(45 * 60);
/// Peers in one answer at most, by family: 400 and 840 bytes.
const ANSWERED: [usize; 2] = [50, 40];
/// How long a choice of info-hashes stays the same (BEP 51), in seconds.
pub const SAMPLE_INTERVAL: u32 = 300;
/// Info-hashes in one answer.
const SAMPLES: usize = 20;

#[derive(Clone, Copy, Debug)]
struct Peer {
    addr: SocketAddr,
    seed: bool,
    at: Instant,
}

/// See the module.
#[derive(Debug, Default)]
pub struct PeerStore {
    /// IPv4 and IPv6 apart.
    swarms: BTreeMap<InfoHash, [Vec<Peer>; 2]>,
    peers: usize,
    samples: Option<(Instant, Vec<InfoHash>)>,
}

impl PeerStore {
    /// Info-hashes.
    pub fn len(&self) -> usize {
        self.swarms.len()
    }

    /// Whether nothing is stored.
    pub fn is_empty(&self) -> bool {
        self.swarms.is_empty()
    }

    /// Peers of all of them.
    pub fn peers(&self) -> usize {
        self.peers
    }

    /// A node with a good token says that `addr` has the torrent.
    pub fn announce(&mut self, now: Instant, hash: InfoHash, addr: SocketAddr, seed: bool) {
        if !self.swarms.contains_key(&hash) && self.swarms.len() >= HASHES_MAX {
            self.drop_quietest();
        }
        let swarm = &mut self.swarms.entry(hash).or_default()[usize::from(addr.is_ipv6())];
        let before = swarm.len();
        swarm.retain(|peer| peer.addr != addr);
        let newcomer = swarm.len() == before;
        let theirs = swarm.iter().filter(|peer| peer.addr.ip() == addr.ip()).count();
        if theirs >= PORTS_MAX
            && let Some(at) = swarm.iter().position(|peer| peer.addr.ip() == addr.ip())
        {
            swarm.remove(at);
        } else if swarm.len() >= SWARM_MAX {
            swarm.remove(0);
        }
        // In the order of their announces.
        swarm.push(Peer { addr, seed, at: now });
        self.peers = self.peers + swarm.len() - before;
        if newcomer && self.peers > PEERS_MAX {
            self.drop_quietest();
        }
    }

    /// Forgets the swarm in which the last announce is the longest ago.
    fn drop_quietest(&mut self) {
        let last = |swarm: &[Vec<Peer>; 2]| {
            swarm.iter().filter_map(|family| family.last()).map(|peer| peer.at).max()
        };
        let quietest = self.swarms.iter().min_by_key(|(_, swarm)| last(swarm)).map(|(hash, _)| *hash);
        if let Some(swarm) = quietest.and_then(|hash| self.swarms.remove(&hash)) {
            self.peers -= swarm.iter().map(Vec::len).sum::<usize>();
        }
    }

    /// Forgets who did not come back. Call it about once a minute.
    pub fn expire(&mut self, now: Instant) {
        self.swarms.retain(|_, swarm| {
            for family in swarm.iter_mut() {
                let before = family.len();
                family.retain(|peer| now.saturating_duration_since(peer.at) < LIFE);
                self.peers -= before - family.len();
            }
            swarm.iter().any(|family| !family.is_empty())
        });
    }

    /// A random choice of the peers of one family, as many as an answer has room for.
    pub fn choose(&self, hash: &InfoHash, v6: bool, no_seeds: bool, rng: &mut impl Rng) -> Vec<SocketAddr> {
        let Some(swarm) = self.swarms.get(hash) else { return Vec::new() };
        let family = &swarm[usize::from(v6)];
        let mut peers: Vec<SocketAddr> =
            family.iter().filter(|peer| !(no_seeds && peer.seed)).map(|peer| peer.addr).collect();
        let wanted = peers.len().min(ANSWERED[usize::from(v6)]);
        for at in 0..wanted {
            let other = rng.random_range(at..peers.len());
            peers.swap(at, other);
        }
        peers.truncate(wanted);
        peers
    }

    /// Seeds and other peers of one family (BEP 33).
    pub fn blooms(&self, hash: &InfoHash, v6: bool) -> Option<(Bloom, Bloom)> {
        let mut blooms = (Bloom::default(), Bloom::default());
        for peer in &self.swarms.get(hash)?[usize::from(v6)] {
            let bloom = if peer.seed { &mut blooms.0 } else { &mut blooms.1 };
            bloom.insert(peer.addr.ip());
        }
        Some(blooms)
    }

    /// A choice of info-hashes (BEP 51), the same for [`SAMPLE_INTERVAL`] seconds.
    pub fn samples(&mut self, now: Instant, rng: &mut impl Rng) -> Vec<InfoHash> {
        let life = Duration::from_secs(u64::from(SAMPLE_INTERVAL));
        if let Some((made, samples)) = &self.samples
            && now.saturating_duration_since(*made) < life
        {
            return samples.clone();
        }
        // Reservoir sampling: each with the same chance, in one pass.
        let mut chosen: Vec<InfoHash> = Vec::new();
        for (seen, hash) in self.swarms.keys().enumerate() {
            if chosen.len() < SAMPLES {
                chosen.push(*hash);
            } else if let Some(place) = chosen.get_mut(rng.random_range(0..=seen)) {
                *place = *hash;
            }
        }
        self.samples = Some((now, chosen.clone()));
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;
    use std::net::IpAddr;

    fn hash(n: u32) -> InfoHash {
        let mut hash = [0; 20];
        hash[..4].copy_from_slice(&n.to_be_bytes());
        InfoHash(hash)
    }

    fn addr(n: u32) -> SocketAddr {
        SocketAddr::new(IpAddr::V4((0x0800_0000 + n).into()), 7)
    }

    fn counted(store: &PeerStore) -> usize {
        store.swarms.values().flatten().map(Vec::len).sum()
    }

    #[test]
    fn who_announced_is_told_by_family_and_forgotten_in_time() {
        let (mut store, mut rng, now) = (PeerStore::default(), SmallRng::seed_from_u64(1), Instant::now());
        let six: SocketAddr = "[2001:db8::1]:9".parse().expect("an address");
        store.announce(now, hash(1), addr(1), false);
        store.announce(now, hash(1), six, true);
        store.announce(now + LIFE / 2, hash(1), addr(2), true);
        assert_eq!(store.choose(&hash(1), true, false, &mut rng), [six]);
        assert!(store.choose(&hash(1), true, true, &mut rng).is_empty());
        assert_eq!(store.choose(&hash(1), false, true, &mut rng), [addr(1)]);
        assert_eq!(store.choose(&hash(1), false, false, &mut rng).len(), 2);
        store.expire(now + LIFE);
        assert_eq!((store.len(), store.peers()), (1, 1));
        store.expire(now + 2 * LIFE);
        assert!(store.is_empty() && store.peers() == 0);
    }

    #[test]
    fn bounded_per_address_swarm_and_in_all() {
        let (mut store, now) = (PeerStore::default(), Instant::now());
        for port in 1..100 {
            store.announce(now, hash(0), SocketAddr::new(addr(0).ip(), port), false);
        }
        assert_eq!(store.peers(), PORTS_MAX);
        for n in 0..2 * SWARM_MAX as u32 {
            store.announce(now, hash(0), addr(n), false);
        }
        assert_eq!(store.peers(), SWARM_MAX);
        for n in 0..2 * HASHES_MAX as u32 {
            store.announce(now + Duration::from_secs(u64::from(n)), hash(n), addr(n), false);
        }
        assert_eq!(store.len(), HASHES_MAX);
        for n in 0..120_000 {
            store.announce(now + Duration::from_secs(9999), hash(n / 400), addr(n), false);
        }
        assert!(store.peers() <= PEERS_MAX && store.peers() > PEERS_MAX / 2, "{}", store.peers());
        assert_eq!(store.peers(), counted(&store));
    }

    #[test]
    fn samples_are_bounded_and_stay_the_same_for_a_while() {
        let (mut store, mut rng, now) = (PeerStore::default(), SmallRng::seed_from_u64(1), Instant::now());
        (0..100).for_each(|n| store.announce(now, hash(n), addr(n), false));
        let first = store.samples(now, &mut rng);
        assert_eq!(first.len(), SAMPLES);
        assert_eq!(store.samples(now + Duration::from_secs(299), &mut rng), first);
        assert_ne!(store.samples(now + Duration::from_secs(300), &mut rng), first);
    }

    #[test]
    fn blooms_tell_seeds_from_others() {
        let (mut store, now) = (PeerStore::default(), Instant::now());
        (0..60).for_each(|n| store.announce(now, hash(1), addr(n), n < 20));
        let (seeds, peers) = store.blooms(&hash(1), false).expect("stored");
        assert!((seeds.estimate() - 20.0).abs() < 3.0 && (peers.estimate() - 40.0).abs() < 5.0);
        assert!(store.blooms(&hash(2), false).is_none());
    }
}
