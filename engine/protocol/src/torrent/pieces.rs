//! What becomes of complete pieces: verdicts, blame, written.

use std::cmp::Reverse;

use super::{MAX_PAST, Torrent, TorrentEvent, peer_of};
use crate::blame::PeerIdent;
use crate::geometry::Block;
use crate::ids::PieceIndex;
use crate::peer::PeerFault;
use crate::picker::PeerKey;

impl Torrent {
    /// Gives up `block` of `key` although its answer may be arriving. See [`TorrentEvent::Retract`].
    pub(super) fn retract(&mut self, key: PeerKey, block: Block, release: bool) {
        self.events.push_back(TorrentEvent::Retract { peer: key, block, release });
    }

    /// A retracted block can no longer be written by `key`: others may ask for it.
    pub fn released(&mut self, key: PeerKey, block: Block) {
        self.picker.request_failed(key, block);
        self.wake_idle();
    }

    /// The hash pool has looked at `piece`. `digests` makes the SHA-1 of every block, in order; it is called only when
    /// the piece is or was corrupt. Returns whether the piece goes to disk; otherwise its memory is free.
    pub fn verdict(&mut self, piece: PieceIndex, ok: bool, digests: impl FnOnce() -> Vec<[u8; 20]>) -> bool {
        if ok {
            if self.blame.suspects(piece) {
                let guilty = self.blame.on_success(piece, digests().into_iter());
                guilty.into_iter().for_each(|ident| self.punish(ident));
            }
            self.picker.piece_verified(piece);
            return true;
        }
        self.stats.hash_failures += 1;
        self.stats.wasted += u64::from(self.geometry.piece_size(piece));
        let senders: Vec<(u32, PeerKey)> = self.picker.senders(piece).collect();
        self.suspect(&senders);
        let digests = digests();
        let blocks =
            senders.iter().map(|(nth, key)| (*nth, PeerIdent(u64::from(key.0)), digests[*nth as usize]));
        let guilty = self.blame.record_failure(piece, blocks);
        let mut honest: Vec<PeerKey> = self
            .peer_keys()
            .filter(|key| self.peer(*key).has(piece) && !self.peer(*key).peer_choking)
            .filter(|key| Some(PeerIdent(u64::from(key.0))) != guilty)
            .collect();
        // Of those that are as little suspect the most reliable is asked, so that the piece comes soon.
        honest.sort_by_key(|key| Reverse(self.peer(*key).reliability()));
        let honest: Vec<PeerIdent> = honest.into_iter().map(|key| PeerIdent(u64::from(key.0))).collect();
        // Also after a conviction: the mixture before it may hide another liar.
        let only_from = self.blame.refetch_from(piece, &honest).map(|ident| PeerKey(ident.0 as u32));
        self.picker.piece_failed(piece, only_from);
        if let Some(ident) = guilty {
            self.punish(ident);
        }
        self.wake_idle();
        false
    }

    /// These have sent a piece together that is corrupt; one of them may have lied.
    fn suspect(&mut self, senders: &[(u32, PeerKey)]) {
        let mut keys: Vec<PeerKey> = senders.iter().map(|(_, key)| *key).collect();
        keys.sort_unstable();
        keys.dedup();
        for key in keys {
            if self.get(key).is_some() {
                let failures = &mut peer_of(&mut self.slots, key).failures;
                failures.suspicions = failures.suspicions.saturating_add(1);
                self.judge_peer(key);
            }
        }
    }

    fn punish(&mut self, ident: PeerIdent) {
        let key = PeerKey(ident.0 as u32);
        if let Some(ip) = self.ip_of(key)
            && !self.banned.contains(&ip)
        {
            if self.banned.len() == MAX_PAST {
                self.banned.pop_front();
            }
            self.banned.push_back(ip);
            self.stats.banned += 1;
            self.events.push_back(TorrentEvent::Ban(ip));
        }
        if self.get(key).is_some() {
            self.fault(key, PeerFault::Corrupt);
        }
    }

    /// `piece` is on disk: it is ours from now on, and everybody hears of it.
    pub fn written(&mut self, piece: PieceIndex) {
        self.picker.piece_written(piece);
        self.restless = true;
        self.note_fresh(piece);
        self.announce_piece(piece);
    }

    /// Writing `piece` failed: it is missing again, its memory is free.
    pub fn write_failed(&mut self, piece: PieceIndex) {
        self.picker.write_failed(piece);
        let keys: Vec<PeerKey> = self.peer_keys().collect();
        keys.into_iter().for_each(|key| self.update_interest(key));
    }

    /// Gives up one unfinished piece that nobody is being asked for, so that its memory can serve another torrent.
    /// Returns it, with its memory now the caller's to free.
    pub fn abandon_one(&mut self) -> Option<PieceIndex> {
        let piece = self.picker.idle_active().next()?;
        self.picker.abandon(piece).then_some(piece)
    }
}
