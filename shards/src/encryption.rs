//! Encrypted connections (MSE), up to the BitTorrent handshake.
//!
//! Role: chooses, for each connection, whether it is encrypted, and drives the handshake of `protocol::wire::mse`. Behind
//! it the ring decrypts what it receives in place, and encrypts what it sends. Owner: the shard. Invariants: what a
//! connection says before it is open goes through its outbox, in order and already encrypted; which torrent an encrypted
//! connection is for is looked up in one table, so nothing is learnt from how long that takes.

use std::collections::HashSet;
use std::net::SocketAddr;

use ccbt_protocol::ids::InfoHash;
use ccbt_protocol::wire::handshake::{Handshake, HandshakeReader};
use ccbt_protocol::wire::mse::{Ciphers, Established, Initiator, Methods, PAD_MAX, Progress, Responder};
use rand::RngExt;

use crate::conns::{End, RESERVED};
use crate::ring::SocketKey;
use crate::shard::{Shard, Stage};

/// Addresses that take plain connections only, as far as they are remembered; then all are forgotten.
const PLAIN_MAX: usize = 8192;
/// How every plain connection begins.
const GREETING: &[u8] = b"\x13BitTorrent protocol";

/// Whether connections are encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// Never.
    Off,
    /// If the peer can; only the handshake when it lets us choose.
    Prefer,
    /// Always, all of it, or there is no connection.
    Require,
}

/// What is done with connections of either direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncryptionPolicy {
    /// Those that peers open.
    pub incoming: Encryption,
    /// Those that we open.
    pub outgoing: Encryption,
}

impl Default for EncryptionPolicy {
    fn default() -> Self {
        Self { incoming: Encryption::Off, outgoing: Encryption::Off }
    }
}

impl Encryption {
    const fn methods(self) -> Methods {
        Methods { plain: !matches!(self, Self::Require), rc4: true }
    }
}

/// A handshake under way.
pub(crate) enum Mse {
    Opening(Initiator),
    Answering(Responder),
}

/// What goes along when a connection that was encrypted changes the shard.
#[derive(Debug)]
pub struct Encrypted {
    /// The ciphers; `None`: only the handshake was encrypted.
    pub ciphers: Option<Box<Ciphers>>,
    /// What is still to be sent, encrypted.
    pub outbox: Vec<u8>,
}

/// Addresses that have closed encrypted connections.
#[derive(Default)]
pub(crate) struct PlainOnly(HashSet<SocketAddr>);

fn pad() -> Vec<u8> {
    let mut rng = rand::rng();
    let mut pad = vec![0; rng.random_range(0..=PAD_MAX)];
    rng.fill(&mut pad[..]);
    pad
}

impl Shard {
    /// The first words on a connection that we have opened.
    pub(crate) fn greet(&mut self, key: SocketKey, info_hash: InfoHash) {
        let policy = self.config.encryption.outgoing;
        let Some(conn) = self.conn(key) else { return };
        let addr = conn.addr;
        if policy == Encryption::Off || policy == Encryption::Prefer && self.plain_only.0.contains(&addr) {
            self.send_handshake(key, info_hash);
        } else {
            let mut out = Vec::new();
            let hello = self.hello(info_hash);
            let methods = policy.methods();
            let mse = Initiator::new(rand::random(), info_hash, methods, &hello, &pad(), &mut out);
            self.conn(key).expect("seen just now").stage = Stage::Encrypting(Box::new(Mse::Opening(mse)));
            self.say(key, &out);
        }
        self.ring.recv_plain(key);
    }

    pub(crate) fn hello(&self, info_hash: InfoHash) -> [u8; 68] {
        let home = self.by_hash.get(&info_hash).map(|index| &self.homes[*index]);
        let has_dht = home.is_some_and(|home| self.dht_port(home) != 0);
        let reserved = if has_dht { RESERVED.with_dht() } else { RESERVED };
        Handshake { reserved, info_hash, peer_id: self.config.peer_id }.encode()
    }

    pub(crate) fn send_handshake(&mut self, key: SocketKey, info_hash: InfoHash) {
        let mut hello = self.hello(info_hash);
        if let Some(ciphers) = self.ring.ciphers(key) {
            ciphers.outgoing.apply(&mut hello);
        }
        self.say(key, &hello);
    }

    /// Sends bytes of a handshake, which are encrypted if they have to be.
    pub(crate) fn say(&mut self, key: SocketKey, bytes: &[u8]) {
        if let Some(conn) = self.conn(key) {
            conn.outbox.extend_from_slice(bytes);
        }
        self.flush_outbox(key);
    }

    /// Sends what waits in the outbox, if nothing else is being sent.
    pub(crate) fn flush_outbox(&mut self, key: SocketKey) {
        let Some(conn) = self.conn(key) else { return };
        if conn.outbox.is_empty() || matches!(conn.stage, Stage::Closing) {
            return;
        }
        let out = std::mem::take(&mut conn.outbox);
        if self.ring.sending(key) {
            self.conn(key).expect("seen just now").outbox = out;
            return;
        }
        self.ring.batch(key).bytes(&out);
        self.ring.send_encrypted(key);
    }

    /// Looks at the first bytes of a connection that was accepted. True: they are not for the BitTorrent handshake.
    pub(crate) fn is_encrypted(&mut self, key: SocketKey, bytes: &[u8]) -> bool {
        let policy = self.config.encryption.incoming;
        let conn = self.conn(key).expect("called for a connection that lives");
        let is_first = matches!(&conn.stage, Stage::Handshake(reader) if reader.as_bytes().is_empty());
        if !is_first || !(conn.incoming || conn.answers) || conn.encrypted || bytes.is_empty() {
            return false;
        }
        let len = bytes.len().min(GREETING.len());
        if bytes[..len] == GREETING[..len] {
            if policy == Encryption::Require {
                self.end(key, End::Refused("it is not encrypted"));
            }
            return policy == Encryption::Require;
        }
        if policy == Encryption::Off {
            return false;
        }
        let mse = Responder::new(rand::random(), policy.methods());
        conn.stage = Stage::Encrypting(Box::new(Mse::Answering(mse)));
        self.on_mse_bytes(key, bytes);
        true
    }

    /// Bytes of a handshake under way.
    pub(crate) fn on_mse_bytes(&mut self, key: SocketKey, bytes: &[u8]) {
        let conn = self.conns[key.index()].as_mut().expect("called for a connection that lives");
        let Stage::Encrypting(mse) = &mut conn.stage else { panic!("not in its handshake") };
        let mut out = Vec::new();
        let progress = match &mut **mse {
            Mse::Opening(initiator) => initiator.push(bytes, &mut out),
            Mse::Answering(responder) => match responder.push(bytes, &pad(), &mut out) {
                Ok(Progress::Torrent(name)) => match self.torrent_names.get(&name) {
                    Some(info_hash) => responder.torrent(*info_hash, &mut out).map(established),
                    None => return self.end(key, End::Refused("it asks for a torrent that we do not run")),
                },
                other => other.map(established),
            },
        };
        conn.outbox.extend(out);
        match progress {
            Err(error) => {
                tracing::debug!(addr = %conn.addr, %error, "no encryption");
                self.end(key, End::Refused("its encrypted handshake is wrong"));
            }
            Ok(None) => {
                self.flush_outbox(key);
                self.ring.recv_plain(key);
            }
            Ok(Some(Established { ciphers, rest })) => {
                conn.encrypted = true;
                conn.stage = Stage::Handshake(HandshakeReader::default());
                self.ring.set_ciphers(key, ciphers.map(Box::new));
                // It may leave for another shard, with its outbox.
                self.on_handshake_bytes(key, rest);
                self.flush_outbox(key);
            }
        }
    }

    /// An encrypted connection that we have opened is over before it began: a peer that cannot do that is asked plainly.
    pub(crate) fn retry_plainly(&mut self, key: SocketKey) {
        let is_preferred = self.config.encryption.outgoing == Encryption::Prefer && self.stopping.is_none();
        let Some(conn) = self.conn(key).filter(|_| is_preferred) else { return };
        let is_opening = matches!(&conn.stage, Stage::Encrypting(mse) if matches!(**mse, Mse::Opening(_)));
        if !is_opening {
            return;
        }
        let (addr, transport) = (conn.addr, conn.transport);
        if self.plain_only.0.len() >= PLAIN_MAX {
            self.plain_only.0.clear();
        }
        self.plain_only.0.insert(addr);
        if self.start_another(key, transport).is_some() {
            self.conn(key).expect("seen just now").superseded = true;
        }
    }
}

fn established(progress: Progress) -> Option<Established> {
    match progress {
        Progress::Established(established) => Some(established),
        Progress::More | Progress::Torrent(_) => None,
    }
}
