//! Tokens: who shows one can receive at the address that it sends from (BEP 5).
//!
//! Invariant: a token is good for the address and target it was made for, for five to ten minutes.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use rand::Rng;
use sha1::{Digest, Sha1};

use super::id::NodeId;

/// How long a secret is used for new tokens; those of the one before are still taken.
const LIFE: Duration = Duration::from_secs(300);

/// Makes and checks tokens.
#[derive(Debug)]
pub struct Tokens {
    secrets: [[u8; 20]; 2],
    made: Instant,
}

impl Tokens {
    /// With secrets from `rng`, which should not be predictable.
    pub fn new(now: Instant, rng: &mut impl Rng) -> Self {
        Self { secrets: [secret(rng), secret(rng)], made: now }
    }

    /// Changes the secret when it is due.
    pub fn rotate(&mut self, now: Instant, rng: &mut impl Rng) {
        let age = now.saturating_duration_since(self.made);
        if age >= LIFE {
            // Nobody was given one of the last secret in the second half of a long pause.
            let before = if age >= 2 * LIFE { secret(rng) } else { self.secrets[0] };
            self.secrets = [secret(rng), before];
            self.made = now;
        }
    }

    /// The token of a node at `ip` for `target`.
    pub fn make(&self, ip: IpAddr, target: &NodeId) -> Vec<u8> {
        digest(&self.secrets[0], ip, target).to_vec()
    }

    /// Whether it is one of ours.
    pub fn accepts(&self, ip: IpAddr, target: &NodeId, token: &[u8]) -> bool {
        self.secrets.iter().any(|secret| digest(secret, ip, target) == token)
    }
}

fn secret(rng: &mut impl Rng) -> [u8; 20] {
    let mut secret = [0; 20];
    rng.fill_bytes(&mut secret);
    secret
}

fn digest(secret: &[u8; 20], ip: IpAddr, target: &NodeId) -> [u8; 8] {
    let mut hash = Sha1::new().chain_update(secret).chain_update(target.0);
    match ip {
        IpAddr::V4(ip) => hash.update(ip.octets()),
        IpAddr::V6(ip) => hash.update(ip.octets()),
    }
    let hash = hash.finalize();
    std::array::from_fn(|at| hash[at])
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn good_for_one_address_and_target_for_a_while() {
        let (mut rng, now) = (rand::rngs::SmallRng::seed_from_u64(1), Instant::now());
        let mut tokens = Tokens::new(now, &mut rng);
        let (ip, target) = (IpAddr::from([1, 2, 3, 4]), NodeId([5; 20]));
        let token = tokens.make(ip, &target);
        assert!(tokens.accepts(ip, &target, &token));
        assert!(!tokens.accepts(IpAddr::from([1, 2, 3, 5]), &target, &token));
        assert!(!tokens.accepts(ip, &NodeId([6; 20]), &token));
        assert!(!tokens.accepts(ip, &target, &token[..7]) && !tokens.accepts(ip, &target, b""));
        tokens.rotate(now + LIFE, &mut rng);
        assert!(tokens.accepts(ip, &target, &token), "the secret before");
        assert_ne!(tokens.make(ip, &target), token);
        tokens.rotate(now + 2 * LIFE, &mut rng);
        assert!(!tokens.accepts(ip, &target, &token));
    }

    #[test]
    fn nothing_survives_a_long_pause() {
        let (mut rng, now) = (rand::rngs::SmallRng::seed_from_u64(1), Instant::now());
        let mut tokens = Tokens::new(now, &mut rng);
        let (ip, target) = (IpAddr::from([1, 2, 3, 4]), NodeId([5; 20]));
        let token = tokens.make(ip, &target);
        tokens.rotate(now + 5 * LIFE, &mut rng);
        assert!(!tokens.accepts(ip, &target, &token));
    }
}
