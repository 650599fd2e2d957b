//! What a magnet leaves to its torrent: candidates, announces, and the connections over which it fetched.
//!
//! Owner: the shard. The torrent is opened and checked first; meanwhile [`Home::fetching`](crate::home::Home) keeps what
//! peers say. When it runs, each connection goes on as one of its peers, with no new handshake.

use std::net::SocketAddr;

use ccbt_protocol::candidates::{Candidates, Source};
use ccbt_protocol::ids::TorrentKey;
use ccbt_protocol::peer::PeerInfo;
use ccbt_protocol::picker::PeerKey;

use crate::announce::Announces;
use crate::conns::End;
use crate::messages::ToShard;
use crate::ring::SocketKey;
use crate::satellites::Part;
use crate::shard::{Conn, Shard, Stage};
use crate::transfer::Input;

/// Pieces told one by one over a connection that is taken over; a torrent that has more dials anew.
const MAX_HAVES: u32 = 1000;

impl Shard {
    /// What a magnet leaves to its torrent `key`, which is about to be added with `trackers`: candidates, and announces if
    /// they are to the same trackers. Its connections are [`Self::hand_down`]'s.
    pub(crate) fn take_fetcher(
        &mut self,
        key: TorrentKey,
        trackers: &[Vec<String>],
    ) -> Option<(usize, Candidates, Option<Announces>)> {
        let at = self.fetcher_by_key(key)?;
        let fetcher = &mut self.fetchers[at];
        let candidates = std::mem::take(&mut fetcher.candidates);
        let announces = fetcher.announces.take().filter(|_| fetcher.trackers == trackers && !fetcher.paused);
        Some((at, candidates, announces))
    }

    /// Gives the connections of the magnet `at` to the torrent at `index`, which has its candidates already. Those of a
    /// private or paused torrent end: who is at the other end may not be for it.
    pub(crate) fn hand_down(&mut self, at: usize, index: usize) {
        let fetcher = self.fetchers.remove(at);
        if let (true, Some(discovery)) = (fetcher.finding, &self.discovery) {
            // The torrent tells for itself what it wants, and a private one wants nothing.
            discovery.remove(fetcher.key);
        }
        let home = &mut self.homes[index];
        home.fetching = Some(fetcher.fetching);
        home.conns += fetcher.conns;
        let ends = home.paused || home.meta.private;
        if home.meta.private {
            home.candidates.set_private();
        }
        let mut ended = Vec::new();
        for conn in self.conns.iter_mut().flatten().filter(|conn| conn.fetch == Some(at)) {
            (conn.fetch, conn.home) = (None, Some(index));
            if ends || !matches!(conn.stage, Stage::Fetching(_) | Stage::Closing) {
                conn.again = true;
                ended.push(conn.socket);
            }
        }
        ended.into_iter().for_each(|key| self.end(key, End::Ours));
    }

    /// The torrent runs: takes over the connections that its magnet left. One whose receive is under way follows when that
    /// is cancelled.
    pub(crate) fn adopt_all(&mut self, index: usize) {
        if self.homes[index].fetching.is_none() {
            return;
        }
        let left = |conn: &&Conn| conn.home == Some(index) && matches!(conn.stage, Stage::Fetching(_));
        let keys: Vec<SocketKey> = self.conns.iter().flatten().filter(left).map(|conn| conn.socket).collect();
        for key in keys {
            if self.ring.is_receiving(key) {
                self.ring.cancel_recv(key);
            } else {
                self.adopt(key);
            }
        }
    }

    pub(super) fn adopt(&mut self, key: SocketKey) {
        let now = self.now;
        let Some(conn) = self.conns[key.index()].as_mut() else { return };
        let (Stage::Fetching(old), Some(index)) = (&conn.stage, conn.home) else { return };
        let home = &mut self.homes[index];
        let taken = home.fetching.as_mut().and_then(|fetching| fetching.take(*old));
        let Some(torrent) = &mut home.torrent else { return };
        let fits = torrent.picker().have().count() <= MAX_HAVES;
        let welcome = |info: &PeerInfo| !torrent.has_id(info.id) && !home.part.has_guest(info.id);
        let Some((info, said)) = taken.filter(|(info, _)| fits && welcome(info)) else {
            conn.again = true;
            return self.end(key, End::Ours);
        };
        let peer = torrent.adopted(now, info);
        self.ring.receiver(key).set_max_message_len(torrent.message_len_max());
        if self.ring.is_utp(key) {
            torrent.over_utp(peer);
        }
        home.sockets.insert(peer, key);
        conn.peer = Some(peer);
        conn.stage = Stage::Open(peer);
        self.stats.peers += 1;
        // What it said while its metadata was fetched was shown then.
        let trace = conn.trace.take();
        if trace.is_none() && !self.taps.is_empty() {
            self.tap_new(key, None);
        }
        let result = self.hear(key, Input::Said(&said));
        if let (Some(mut trace), Some(conn)) = (trace, self.conn(key)) {
            trace.note("the metadata is there and the torrent runs");
            conn.trace = Some(trace);
        }
        if let Some((_, Err(fault))) = result {
            self.end(key, End::Fault(fault));
        }
        self.touch(index);
        self.queue(key);
    }

    /// A connection of a torrent ends that has not been taken over.
    pub(crate) fn leave_fetching(&mut self, index: usize, peer: PeerKey) {
        let now = self.now;
        let place = &mut self.homes[index].fetching;
        if let Some(fetching) = place {
            fetching.gone(now, peer);
            if fetching.peer_count() == 0 {
                *place = None;
            }
        }
    }

    /// A peer of a torrent told of others.
    pub(crate) fn heard_of(&mut self, index: usize, peers: Vec<SocketAddr>) {
        let home = &mut self.homes[index];
        if let Part::Satellite { home: shard, .. } = &home.part {
            let (shard, key) = (*shard, home.key);
            return self.post(shard, ToShard::AddPeers(key, peers, Source::Pex));
        }
        if home.candidates.add_all(&peers, Source::Pex) > 0 {
            self.dial(index);
            self.stir(index);
        }
    }
}
