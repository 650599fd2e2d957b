//! One address that takes all the places: it makes way for the others.
//!
//! Role: while there is room, an address may have as many connections as it likes, for many peers may be behind it. When
//! there is none (in the session, or in a torrent), somebody who has no connection yet takes the place of one from the
//! address that has the most, if that has several. So one machine that opens thousands keeps nobody out. Owner: the
//! shard; asked where a connection would be refused. Invariants: nobody over whose connection something goes is ended;
//! at most one in [`EVERY`], which bounds both the work and by how much the session's limit is passed meanwhile.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::conns::End;
use crate::ring::SocketKey;
use crate::shard::{Conn, Shard, Stage};

/// Between two that make way.
const EVERY: Duration = Duration::from_millis(20);
/// Between two times at which torrents hear that the session is full.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// What one machine can have addresses of: an IPv4 address, or 64 bits of an IPv6 one.
fn source(addr: SocketAddr) -> IpAddr {
    match addr.ip().to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() >> 64 << 64).into()),
        ip => ip,
    }
}

impl Shard {
    /// There is no place for `addr`, in torrent `home` or in the session. Whether somebody made way for it.
    pub(crate) fn crowd_out(&mut self, addr: SocketAddr, home: Option<usize>) -> bool {
        if self.crowded_at.is_some_and(|at| self.now.saturating_duration_since(at) < EVERY) {
            return false;
        }
        self.crowded_at = Some(self.now);
        let newcomer = source(addr);
        let counts = |conn: &&Conn| {
            conn.incoming && !matches!(conn.stage, Stage::Closing) && (home.is_none() || conn.home == home)
        };
        let mut sources: HashMap<IpAddr, usize> = HashMap::new();
        for conn in self.conns.iter().flatten().filter(counts) {
            *sources.entry(source(conn.addr)).or_default() += 1;
        }
        let most = sources.iter().max_by_key(|(_, count)| **count).map(|(ip, count)| (*ip, *count));
        let Some((crowd, _)) = most.filter(|(_, count)| *count > 1 && !sources.contains_key(&newcomer))
        else {
            return false;
        };
        let theirs = self.conns.iter().flatten().filter(counts).filter(|conn| source(conn.addr) == crowd);
        let theirs: Vec<SocketKey> = theirs.map(|conn| conn.socket).collect();
        let Some(idle) = theirs.into_iter().find(|key| self.is_idle(*key)) else { return false };
        self.end(idle, End::Idle);
        true
    }

    /// Whether nothing goes over a connection.
    fn is_idle(&mut self, key: SocketKey) -> bool {
        let now = self.now;
        let Some(conn) = self.conn(key) else { return false };
        let (Some(peer), Some(index)) = (conn.peer, conn.home) else { return true };
        self.homes[index].torrent.as_mut().is_none_or(|torrent| torrent.flow(now, peer) == 0)
    }

    /// Somebody was turned away because the session is full: torrents make room as if it had been by them.
    pub(crate) fn session_is_full(&mut self) {
        if self.refused_at.is_some_and(|at| self.now.saturating_duration_since(at) < TELL_EVERY) {
            return;
        }
        self.refused_at = Some(self.now);
        let busy: Vec<usize> =
            self.homes.iter().filter(|(_, home)| home.conns > 0).map(|(index, _)| index).collect();
        for index in busy {
            self.homes[index].turned_away = true;
            self.stir(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixty_four_bits_of_ipv6_are_one_source() {
        let of = |text: &str| source(text.parse().expect("an address"));
        assert_eq!(of("[2001:db8::1]:5"), of("[2001:db8::ffff:2]:6"));
        assert_ne!(of("[2001:db8::1]:5"), of("[2001:db8:0:1::1]:5"));
        assert_eq!(of("[::ffff:10.0.0.1]:5"), of("10.0.0.1:7"));
        assert_ne!(of("10.0.0.1:5"), of("10.0.0.2:5"));
    }
}
