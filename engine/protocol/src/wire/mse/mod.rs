//! Message Stream Encryption: a handshake that looks like noise, and RC4 behind it if both want it.
//!
//! Role: both sides of the handshake as state machines. Owner: the shard, per connection, until the handshake is over.
//! Invariants: what is kept of a peer's bytes never exceeds [`BUFFERED_MAX`]; a peer that sends anything else than MSE is
//! refused within that many bytes; which torrent is meant is looked up by a hash, never by trying them all.
//!
//! ```text
//! A → B   Ya, PadA
//! B → A   Yb, PadB
//! A → B   SHA1(req1, S), SHA1(req2, SKEY) ^ SHA1(req3, S), RC4(VC, provided, len(PadC), PadC, len(IA)), RC4(IA)
//! B → A   RC4(VC, selected, len(PadD), PadD), stream
//! A → B   stream
//! ```

pub mod dh;
mod initiator;
mod rc4;
mod responder;

use sha1::{Digest, Sha1};

pub use self::initiator::Initiator;
pub use self::rc4::Rc4;
pub use self::responder::{Progress, Responder};
use crate::ids::InfoHash;

/// Bytes of a pad at most.
pub const PAD_MAX: usize = 512;
/// Bytes that may come with the handshake of who connects (IA): a BitTorrent handshake and a little more.
pub const INITIAL_MAX: usize = 4096;
/// Bytes of an unfinished handshake that are kept at most.
pub const BUFFERED_MAX: usize = dh::KEY_LEN + 2 * PAD_MAX + 64 + INITIAL_MAX;
/// Verification constant.
const VC: [u8; 8] = [0; 8];

/// How the stream behind the handshake may look. At least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Methods {
    /// As it is.
    pub plain: bool,
    /// RC4.
    pub rc4: bool,
}

impl Methods {
    /// Either.
    pub const BOTH: Self = Self { plain: true, rc4: true };

    const fn bits(self) -> u32 {
        self.plain as u32 | (self.rc4 as u32) << 1
    }

    const fn of(bits: u32) -> Self {
        Self { plain: bits & 1 != 0, rc4: bits & 2 != 0 }
    }
}

/// The ciphers of a stream.
#[derive(Clone, Debug)]
pub struct Ciphers {
    /// Of what the peer sends.
    pub incoming: Rc4,
    /// Of what we send.
    pub outgoing: Rc4,
}

/// The end of a handshake.
#[derive(Debug)]
pub struct Established {
    /// How the stream goes on; `None`: as it is.
    pub ciphers: Option<Ciphers>,
    /// What has come of the stream already, decrypted.
    pub rest: Vec<u8>,
}

/// Why a handshake is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MseError {
    /// The public key is none that a secret leads to.
    #[error("its public key is worthless")]
    Key,
    /// What must follow the first pad does not come.
    #[error("it does not speak MSE")]
    NotFound,
    /// A length or constant is impossible.
    #[error("its handshake is malformed")]
    Malformed,
    /// No method is left.
    #[error("it wants another kind of encryption")]
    NoMethod,
}

fn sha1(parts: &[&[u8]]) -> [u8; 20] {
    let mut sha1 = Sha1::new();
    parts.iter().for_each(|part| sha1.update(part));
    sha1.finalize().into()
}

/// What a peer that connects names a torrent by: to be looked up in a table of all that are served.
pub fn torrent_hash(info_hash: InfoHash) -> [u8; 20] {
    sha1(&[b"req2", &info_hash.0])
}

/// The ciphers of who connects, and of who accepts.
fn ciphers(secret: &[u8; dh::KEY_LEN], info_hash: InfoHash) -> (Rc4, Rc4) {
    let key = |name: &[u8]| Rc4::new(&sha1(&[name, secret, &info_hash.0]));
    (key(b"keyA"), key(b"keyB"))
}

#[cfg(test)]
mod tests;
