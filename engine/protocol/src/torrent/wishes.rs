//! What we want, towards the peers: when it changes, and how they hear of it.

use super::{Torrent, key_index};
use crate::peer::Peer;
use crate::picker::PeerKey;
use crate::wire::extension::ExtensionHandshake;
use crate::wire::message::Message;

impl Torrent {
    /// To be called after priorities were changed: whether we are finished, and what is interesting, may have changed.
    pub fn priorities_changed(&mut self) {
        self.want_again();
        self.check_finished();
        let keys: Vec<PeerKey> = self.peer_keys().collect();
        keys.into_iter().for_each(|key| self.update_interest(key));
    }

    /// Something is missing after all: who was told that we only upload (BEP 21) would never unchoke us.
    pub(super) fn want_again(&mut self) {
        if self.finished_told && !self.picker.is_finished() {
            self.finished_told = false;
            self.tell_all();
        }
    }

    /// The port that peers are told of in handshakes to come.
    pub fn set_listen_port(&mut self, port: u16) {
        self.config.listen_port = port;
    }

    /// Tells what we want now. When everything is here, a super-seed, which hears of no piece that it showed, can let us go
    /// (BEP 21).
    pub(super) fn tell_all(&mut self) {
        let keys: Vec<PeerKey> = self.peer_keys().collect();
        keys.into_iter().for_each(|key| self.say_hello_again(key));
    }

    fn say_hello_again(&mut self, key: PeerKey) {
        let mut peer = self.slots[key_index(key)].peer.take().expect("a peer that is connected");
        self.say_hello(&mut peer);
        self.slots[key_index(key)].peer = Some(peer);
        self.mark(key);
    }

    /// The extended handshake (BEP 10); a later one replaces what the one before said.
    pub(super) fn say_hello(&self, peer: &mut Peer) {
        if !peer.info.reserved.extension() {
            return;
        }
        let hello = ExtensionHandshake {
            client: Some(concat!("ccbt-fast/", env!("CARGO_PKG_VERSION")).into()),
            port: (self.config.listen_port != 0).then_some(self.config.listen_port),
            reqq: Some(crate::peer::MAX_UPLOAD_QUEUE as u32),
            metadata_size: self.config.metadata.as_ref().map(|info| info.len() as u32),
            your_ip: Some(peer.info.addr.ip()),
            upload_only: self.picker.is_finished() && self.super_seed.is_none(),
            messages: self.extensions(),
        };
        peer.push(&Message::Extended { id: 0, payload: &hello.encode() });
    }
}
