//! The way into a shard: a bounded queue and the shard's doorbell.

use std::sync::Arc;

use ccbt_storage::doorbell::Doorbell;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::messages::ToShard;

/// Messages waiting at most. They come from the control thread (paced by its callers), from other parts of a
/// torrent (which keep what finds no room) and as hand-offs, which are dropped when the shard is that far behind: their
/// peers come again.
const CAPACITY: usize = 4096;

/// Sending side; cheap to clone.
#[derive(Clone, Debug)]
pub struct Inbox {
    queue: Sender<ToShard>,
    bell: Arc<Doorbell>,
}

impl Inbox {
    /// A new queue whose owner sleeps on `bell`.
    pub fn new(bell: Arc<Doorbell>) -> (Self, Receiver<ToShard>) {
        let (queue, receiver) = bounded(CAPACITY);
        (Self { queue, bell }, receiver)
    }

    /// Sends, waiting for room; only for threads that are not shards. Returns whether the shard still lives.
    pub fn send(&self, message: ToShard) -> bool {
        let sent = self.queue.send(message).is_ok();
        self.bell.ring();
        sent
    }

    /// Sends if there is room, for shards. Gives the message back otherwise.
    pub fn try_send(&self, message: ToShard) -> Result<(), TrySendError<ToShard>> {
        self.queue.try_send(message)?;
        self.bell.ring();
        Ok(())
    }
}
