//! Which files of a torrent are wanted, while it runs.
//!
//! Role: brings a new [`Selection`] into the pickers of all parts. Owner: the shard. Invariant: the priorities in the
//! home's picker are those of its selection, and a seed that fetches nothing wants only what it has.

use ccbt_protocol::ids::{PieceIndex, TorrentKey};
use ccbt_protocol::picker::Priority;
use ccbt_protocol::selection::Selection;
use ccbt_protocol::torrent::Torrent;

use crate::messages::{Event, FromShard};
use crate::shard::Shard;
use crate::torrents::Home;

impl Home {
    /// Sets the priorities of pieces that are not as the selection has them; which ones they were.
    pub fn set_priorities(&mut self) -> Vec<(PieceIndex, Priority)> {
        let Some(torrent) = &mut self.torrent else { return Vec::new() };
        let picker = torrent.picker();
        let geometry = self.meta.geometry;
        let changes: Vec<(PieceIndex, Priority)> = if self.seed_only {
            let missing = geometry.pieces().filter(|piece| !picker.have().has(*piece));
            missing.map(|piece| (piece, Priority::Skip)).collect()
        } else {
            let wanted = geometry.pieces().zip(self.selection.pieces(&self.meta));
            wanted.filter(|(piece, priority)| picker.priority(*piece) != *priority).collect()
        };
        for (piece, priority) in &changes {
            torrent.picker_mut().set_priority(*piece, *priority);
        }
        torrent.priorities_changed();
        changes
    }
}

impl Shard {
    /// Other files are wanted from now on.
    pub(crate) fn select(&mut self, key: TorrentKey, selection: Selection) {
        let Some(&index) = self.by_key.get(&key) else { return };
        let home = &mut self.homes[index];
        if home.part.is_satellite() || self.is_ending(index) {
            return;
        }
        let home = &mut self.homes[index];
        let was_finished = home.torrent.as_ref().is_some_and(Torrent::is_finished);
        home.bytes_wanted = selection.wanted_len(&home.meta);
        home.selection = selection;
        let changes = home.set_priorities();
        self.spread_priorities(index, &changes);
        self.tell(FromShard::Event(key, Event::Selected));
        // What is finished by this says so itself.
        let is_finished = self.homes[index].torrent.as_ref().is_some_and(Torrent::is_finished);
        if was_finished && is_finished {
            self.on_finished(index);
        }
        // Memory of what is not wanted any more, as far as nothing of it is on the way.
        self.drop_unwanted(index);
        if let Some(torrent) = &mut self.homes[index].torrent {
            torrent.mark_hungry();
        }
        self.note_change(index);
        self.dial(index);
        self.touch(index);
    }
}
