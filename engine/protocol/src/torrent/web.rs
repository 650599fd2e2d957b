//! What web seeds bring: the calls that a torrent's home makes for [`crate::webseed`].

use std::time::Instant;

use rand::Rng;

use super::Torrent;
use crate::ids::PieceIndex;

impl Torrent {
    /// As [`crate::picker::Picker::lend_run`].
    pub fn lend_run(
        &mut self,
        max: u32,
        lowest: bool,
        rng: &mut impl Rng,
        usable: impl Fn(PieceIndex) -> bool,
        acquire: impl FnMut(PieceIndex) -> bool,
    ) -> Vec<PieceIndex> {
        self.picker.lend_run(max, lowest, rng, usable, acquire)
    }

    /// Bytes of payload have come from a web seed.
    pub fn web_received(&mut self, now: Instant, bytes: u64) {
        self.down.add(now, bytes);
        self.stats.downloaded += bytes;
        self.stats.web_downloaded += bytes;
    }

    /// Bytes that a web seed sent are thrown away.
    pub fn web_wasted(&mut self, bytes: u64) {
        self.stats.wasted += bytes;
    }

    /// All of a lent piece is here: hash it, then call [`Torrent::verdict`].
    pub fn web_arrived(&mut self, piece: PieceIndex) {
        self.picker.arrived(piece);
    }
}
