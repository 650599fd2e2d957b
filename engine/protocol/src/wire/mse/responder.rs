//! The side that accepts.

use super::dh::{KEY_LEN, SECRET_LEN, public_key, shared_secret};
use super::{
    BUFFERED_MAX, Ciphers, Established, INITIAL_MAX, Methods, MseError, PAD_MAX, Rc4, VC, ciphers, sha1,
};
use crate::ids::InfoHash;

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one at a time, in a box, until the handshake is over")]
enum State {
    /// For Ya.
    Key,
    /// For SHA1(req1, S), somewhere behind Ya, and the hash behind it.
    Torrent { shared: Box<[u8; KEY_LEN]>, request: [u8; 20], mask: [u8; 20] },
    /// For the owner to say which torrent that is.
    Asked { shared: Box<[u8; KEY_LEN]> },
    /// For the rest, of which all in `bytes` is decrypted.
    Rest { incoming: Rc4, outgoing: Rc4 },
    /// Over.
    Done,
}

/// How far a handshake is.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "returned and taken apart at once")]
pub enum Progress {
    /// More bytes must come.
    More,
    /// Look this up among the [`super::torrent_hash`]es of what is served, and call [`Responder::torrent`].
    Torrent([u8; 20]),
    /// It is over.
    Established(Established),
}

/// A handshake from the other side.
#[derive(Debug)]
pub struct Responder {
    secret: [u8; SECRET_LEN],
    allowed: Methods,
    state: State,
    bytes: Vec<u8>,
}

impl Responder {
    /// For a connection that came in; `secret` is random.
    pub fn new(secret: [u8; SECRET_LEN], allowed: Methods) -> Self {
        assert!(allowed.bits() != 0);
        Self { secret, allowed, state: State::Key, bytes: Vec::new() }
    }

    /// Takes in what the other side has sent; appends to `out` what is to be sent. `pad`: random bytes, a random number of
    /// them, [`PAD_MAX`] at most; used once. Errors end the connection.
    pub fn push(&mut self, bytes: &[u8], pad: &[u8], out: &mut Vec<u8>) -> Result<Progress, MseError> {
        assert!(pad.len() <= PAD_MAX);
        if self.bytes.len() > BUFFERED_MAX {
            return Err(MseError::Malformed);
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        if let State::Rest { incoming, .. } = &mut self.state {
            incoming.apply(&mut self.bytes[start..]);
        }
        if matches!(self.state, State::Key) && !self.take_key(pad, out)? {
            return Ok(Progress::More);
        }
        if matches!(self.state, State::Torrent { .. }) {
            return self.find_torrent();
        }
        self.take_rest(out)
    }

    fn take_key(&mut self, pad: &[u8], out: &mut Vec<u8>) -> Result<bool, MseError> {
        let Some((theirs, _)) = self.bytes.split_first_chunk::<KEY_LEN>() else { return Ok(false) };
        let shared = shared_secret(theirs, &self.secret).ok_or(MseError::Key)?;
        self.bytes.drain(..KEY_LEN);
        out.extend_from_slice(&public_key(&self.secret));
        out.extend_from_slice(pad);
        let (request, mask) = (sha1(&[b"req1", &shared]), sha1(&[b"req3", &shared]));
        self.state = State::Torrent { shared: Box::new(shared), request, mask };
        Ok(true)
    }

    fn find_torrent(&mut self) -> Result<Progress, MseError> {
        let State::Torrent { shared, request, mask } = &self.state else { return Ok(Progress::More) };
        let found = self.bytes.windows(20).take(PAD_MAX + 1).position(|window| window == request);
        let Some(at) = found else {
            let is_hopeless = self.bytes.len() >= PAD_MAX + 20;
            return if is_hopeless { Err(MseError::NotFound) } else { Ok(Progress::More) };
        };
        let Some(hidden) = self.bytes.get(at + 20..at + 40) else { return Ok(Progress::More) };
        let mut name = [0; 20];
        name.iter_mut().zip(hidden.iter().zip(mask)).for_each(|(to, (a, b))| *to = a ^ b);
        let shared = shared.clone();
        self.bytes.drain(..at + 40);
        self.state = State::Asked { shared };
        Ok(Progress::Torrent(name))
    }

    /// The torrent that [`Progress::Torrent`] asked for. Panics when it did not.
    pub fn torrent(&mut self, info_hash: InfoHash, out: &mut Vec<u8>) -> Result<Progress, MseError> {
        let State::Asked { shared } = &self.state else { panic!("nobody has asked") };
        let (mut incoming, outgoing) = ciphers(shared, info_hash);
        incoming.apply(&mut self.bytes);
        self.state = State::Rest { incoming, outgoing };
        self.take_rest(out)
    }

    fn take_rest(&mut self, out: &mut Vec<u8>) -> Result<Progress, MseError> {
        let State::Rest { incoming, outgoing } = &self.state else { return Ok(Progress::More) };
        let Some((head, after)) = self.bytes.split_first_chunk::<14>() else { return Ok(Progress::More) };
        if head[..8] != VC {
            return Err(MseError::Malformed);
        }
        let provided = Methods::of(u32::from_be_bytes([head[8], head[9], head[10], head[11]]));
        let pad = usize::from(u16::from_be_bytes([head[12], head[13]]));
        if pad > PAD_MAX {
            return Err(MseError::Malformed);
        }
        let Some(len) = after.get(pad..pad + 2) else { return Ok(Progress::More) };
        let initial = usize::from(u16::from_be_bytes([len[0], len[1]]));
        if initial > INITIAL_MAX {
            return Err(MseError::Malformed);
        }
        let end = 14 + pad + 2 + initial;
        if self.bytes.len() < end {
            return Ok(Progress::More);
        }
        // Who does not insist on RC4 is spared its cost, as in libtorrent.
        let is_rc4 = !(provided.plain && self.allowed.plain);
        if is_rc4 && !(provided.rc4 && self.allowed.rc4) {
            return Err(MseError::NoMethod);
        }
        let (mut incoming, mut outgoing) = (incoming.clone(), outgoing.clone());
        let start = out.len();
        out.extend_from_slice(&VC);
        out.extend_from_slice(&Methods { plain: !is_rc4, rc4: is_rc4 }.bits().to_be_bytes());
        out.extend_from_slice(&[0, 0]);
        outgoing.apply(&mut out[start..]);
        let mut rest = self.bytes.split_off(14 + pad + 2);
        if !is_rc4 {
            // Behind IA nothing was encrypted: the same again undoes the decryption.
            incoming = incoming.rewound(rest.len() - initial);
            incoming.apply(&mut rest[initial..]);
        }
        self.state = State::Done;
        let ciphers = is_rc4.then_some(Ciphers { incoming, outgoing });
        Ok(Progress::Established(Established { ciphers, rest }))
    }
}
