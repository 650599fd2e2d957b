//! Files that are read while they are fetched.
//!
//! Role: tells the picker what readers need next ([`Playback`]), and readers what is there. Owner: the torrent's home
//! shard; a torrent that is read has no satellites, since they would not know what is urgent. Invariant: a reader that
//! asked is answered once: when its next byte is verified and written, or will not be fetched at all. It hears a hang-up
//! when the torrent goes.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use ccbt_protocol::ids::{PieceIndex, TorrentKey};
use ccbt_protocol::metainfo::Metainfo;
use ccbt_protocol::picker::Priority;
use ccbt_protocol::playback::Playback;
use ccbt_protocol::selection::Selection;
use ccbt_protocol::torrent::Torrent;
use ccbt_storage::layout::LayoutSpec;
use crossbeam_channel::Sender;

use crate::shard::Shard;

/// Bytes that a reader is told of at a time at most: so often it says where it is.
const TOLD_MAX: u64 = 1 << 20;
/// The reader that stands for a file nobody reads yet.
const NOBODY: u64 = u64::MAX;

/// A reader says where it is.
#[derive(Debug)]
pub struct Play {
    /// Its number, its own among all readers of the session.
    pub reader: u64,
    /// The file, as bytes of the torrent.
    pub file: Range<u64>,
    /// The byte of the torrent that it needs next, within the file.
    pub at: u64,
    /// Where it waits for the answer.
    pub reply: Sender<Playable>,
}

/// The answer.
#[derive(Clone, Debug)]
pub struct Playable {
    /// Bytes from there on that are verified and written; 0: they are not to be fetched.
    pub bytes: u64,
    /// Where the files are.
    pub spec: Arc<LayoutSpec>,
}

/// The readers of one torrent.
#[derive(Debug, Default)]
pub(crate) struct Playing {
    playback: Playback,
    waiting: BTreeMap<u64, Play>,
    /// How many pieces were there when the picker was told; `None`: readers have moved since.
    told: Option<u32>,
}

impl Playing {
    /// The largest file that is wanted is to be played.
    pub fn expecting(meta: &Metainfo, selection: &Selection) -> Self {
        let files = meta.files.iter().enumerate().filter(|(_, file)| !file.pad);
        let wanted = files.filter(|(index, _)| selection.of(*index) != Priority::Skip);
        let mut playback = Playback::default();
        // The first of equals.
        if let Some((_, file)) = wanted.rev().max_by_key(|(_, file)| file.len) {
            playback.expect(NOBODY, file.offset..file.offset + file.len);
        }
        Self { playback, ..Self::default() }
    }

    fn tell(&mut self, torrent: &mut Torrent, now: std::time::Instant) {
        let count = torrent.picker().have().count();
        if self.told.replace(count) != Some(count) {
            let order = self.playback.order(torrent.geometry(), torrent.picker().have());
            torrent.set_urgent(now, order);
        }
    }

    fn answer(&mut self, torrent: &Torrent, spec: &Arc<LayoutSpec>) {
        let (picker, geometry) = (torrent.picker(), torrent.geometry());
        let piece_len = u64::from(geometry.piece_len());
        self.waiting.retain(|_, play| {
            let end = play.file.end.min(play.at + TOLD_MAX);
            let mut to = play.at;
            while to < end && picker.have().has(PieceIndex((to / piece_len) as u32)) {
                to = (to / piece_len + 1) * piece_len;
            }
            let bytes = to.min(end) - play.at;
            let missing = PieceIndex((play.at / piece_len) as u32);
            if bytes == 0 && picker.priority(missing) != Priority::Skip {
                return true;
            }
            // One that does not wait any more is none of our business.
            let _ = play.reply.try_send(Playable { bytes, spec: spec.clone() });
            false
        });
    }
}

impl Shard {
    /// A reader moved, and waits.
    pub(crate) fn on_play(&mut self, key: TorrentKey, play: Play) {
        let Some(&index) = self.by_key.get(&key) else { return };
        let home = &mut self.homes[index];
        if home.part.is_satellite() || self.is_ending(index) {
            return;
        }
        let home = &mut self.homes[index];
        let playing = home.playing.get_or_insert_default();
        playing.playback.read(play.reader, play.file.clone(), play.at);
        playing.waiting.insert(play.reader, play);
        playing.told = None;
        if std::mem::take(&mut home.spread) {
            self.stop_satellites(index);
        }
        self.touch(index);
    }

    /// A reader is gone.
    pub(crate) fn stop_playing(&mut self, key: TorrentKey, reader: u64) {
        let Some(&index) = self.by_key.get(&key) else { return };
        if let Some(playing) = &mut self.homes[index].playing {
            playing.playback.stop(reader);
            playing.waiting.remove(&reader);
            playing.told = None;
        }
        self.touch(index);
    }

    /// Brings what readers need to the picker, and what is there to readers.
    pub(crate) fn play(&mut self, index: usize) {
        let now = self.now;
        let home = &mut self.homes[index];
        let (Some(playing), Some(torrent)) = (&mut home.playing, &mut home.torrent) else { return };
        playing.tell(torrent, now);
        playing.answer(torrent, &home.spec);
        if playing.playback.is_empty() && playing.waiting.is_empty() {
            home.playing = None;
        }
    }
}
