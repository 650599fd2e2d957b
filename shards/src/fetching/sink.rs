//! Where the messages of a connection go that speaks of metadata.
//!
//! Role: gives them to the magnet's [`Fetching`], which takes no block. Used by [`super`] for each receive.

use ccbt_protocol::fetching::Fetching;
use ccbt_protocol::geometry::Block;
use ccbt_protocol::peer::PeerFault;
use ccbt_protocol::picker::PeerKey;
use ccbt_protocol::wire::message::Message;
use ccbt_protocol::wire::receiver::Sink;

/// Takes what one peer sent.
pub(super) struct FetchSink<'a> {
    pub fetching: &'a mut Fetching,
    pub peer: PeerKey,
    pub now: std::time::Instant,
}

impl Sink for FetchSink<'_> {
    type Error = PeerFault;

    fn begin_block(&mut self, _block: Block) -> Result<bool, PeerFault> {
        self.fetching.block(self.peer).map(|()| false)
    }

    fn write(&mut self, _block: Block, _offset: u32, _bytes: &[u8]) {
        unreachable!("no block is accepted")
    }

    fn placed(&self, _block: Block, _offset: u32, _len: u32) -> &[u8] {
        unreachable!("no block is planned")
    }

    fn end_block(&mut self, _block: Block, _accepted: bool) -> Result<(), PeerFault> {
        Ok(())
    }

    fn message(&mut self, message: Message<'_>) -> Result<(), PeerFault> {
        self.fetching.message(self.now, self.peer, message)
    }
}
