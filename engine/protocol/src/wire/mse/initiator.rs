//! The side that connects.

use super::dh::{KEY_LEN, SECRET_LEN, public_key, shared_secret};
use super::{Ciphers, Established, Methods, MseError, PAD_MAX, Rc4, VC, ciphers, sha1};
use crate::ids::InfoHash;

#[derive(Debug)]
enum State {
    /// For Yb.
    Key,
    /// For the encrypted VC, somewhere behind Yb; what it looks like.
    Constant { pattern: [u8; 8], incoming: Rc4 },
    /// For selection and PadD.
    Selection { incoming: Rc4 },
    /// Over.
    Done,
}

/// A handshake from our side.
#[derive(Debug)]
pub struct Initiator {
    secret: [u8; SECRET_LEN],
    info_hash: InfoHash,
    provided: Methods,
    /// What goes out as soon as the other side can read it.
    initial: Vec<u8>,
    outgoing: Option<Rc4>,
    state: State,
    /// Not yet used; decrypted in [`State::Selection`].
    bytes: Vec<u8>,
}

impl Initiator {
    /// A handshake for `info_hash`; `secret` is random. `initial`: the first bytes of our stream, 65,535 at most. Appends
    /// to `out` what is to be sent first, with `pad`: random bytes, a random number of them, [`PAD_MAX`] at most.
    pub fn new(
        secret: [u8; SECRET_LEN],
        info_hash: InfoHash,
        provided: Methods,
        initial: &[u8],
        pad: &[u8],
        out: &mut Vec<u8>,
    ) -> Self {
        assert!(pad.len() <= PAD_MAX && initial.len() <= usize::from(u16::MAX) && provided.bits() != 0);
        out.extend_from_slice(&public_key(&secret));
        out.extend_from_slice(pad);
        let (initial, state) = (initial.to_vec(), State::Key);
        Self { secret, info_hash, provided, initial, outgoing: None, state, bytes: Vec::new() }
    }

    /// Takes in what the other side has sent; appends to `out` what is to be sent. `Some` when the handshake is over.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Option<Established>, MseError> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        if let State::Selection { incoming } = &mut self.state {
            incoming.apply(&mut self.bytes[start..]);
        }
        if matches!(self.state, State::Key) && !self.take_key(out)? {
            return Ok(None);
        }
        if matches!(self.state, State::Constant { .. }) && !self.find_constant()? {
            return Ok(None);
        }
        self.take_selection()
    }

    fn take_key(&mut self, out: &mut Vec<u8>) -> Result<bool, MseError> {
        let Some((theirs, _)) = self.bytes.split_first_chunk::<KEY_LEN>() else { return Ok(false) };
        let shared = shared_secret(theirs, &self.secret).ok_or(MseError::Key)?;
        self.bytes.drain(..KEY_LEN);
        let (mut outgoing, mut incoming) = ciphers(&shared, self.info_hash);
        out.extend_from_slice(&sha1(&[b"req1", &shared]));
        let (torrent, mask) = (super::torrent_hash(self.info_hash), sha1(&[b"req3", &shared]));
        out.extend(torrent.iter().zip(mask).map(|(a, b)| a ^ b));
        let start = out.len();
        out.extend_from_slice(&VC);
        out.extend_from_slice(&self.provided.bits().to_be_bytes());
        // PadC is empty: its length would be known from the other fields anyway.
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&(self.initial.len() as u16).to_be_bytes());
        out.append(&mut self.initial);
        outgoing.apply(&mut out[start..]);
        self.outgoing = Some(outgoing);
        let mut pattern = VC;
        incoming.apply(&mut pattern);
        self.state = State::Constant { pattern, incoming };
        Ok(true)
    }

    fn find_constant(&mut self) -> Result<bool, MseError> {
        let State::Constant { pattern, incoming } = &self.state else { return Ok(true) };
        match self.bytes.windows(VC.len()).take(PAD_MAX + 1).position(|window| window == pattern) {
            Some(at) => {
                let mut incoming = incoming.clone();
                self.bytes.drain(..at + VC.len());
                incoming.apply(&mut self.bytes);
                self.state = State::Selection { incoming };
                Ok(true)
            }
            None if self.bytes.len() >= PAD_MAX + VC.len() => Err(MseError::NotFound),
            None => Ok(false),
        }
    }

    fn take_selection(&mut self) -> Result<Option<Established>, MseError> {
        let Some((head, after)) = self.bytes.split_first_chunk::<6>() else { return Ok(None) };
        let selected = Methods::of(u32::from_be_bytes([head[0], head[1], head[2], head[3]]));
        let pad = usize::from(u16::from_be_bytes([head[4], head[5]]));
        if pad > PAD_MAX {
            return Err(MseError::Malformed);
        }
        let is_rc4 = match selected {
            Methods { plain: true, rc4: false } if self.provided.plain => false,
            Methods { plain: false, rc4: true } if self.provided.rc4 => true,
            _ => return Err(MseError::NoMethod),
        };
        if after.len() < pad {
            return Ok(None);
        }
        let mut rest = self.bytes.split_off(6 + pad);
        let State::Selection { incoming } = std::mem::replace(&mut self.state, State::Done) else {
            return Ok(None);
        };
        let outgoing = self.outgoing.take().expect("made with the key");
        if is_rc4 {
            return Ok(Some(Established { ciphers: Some(Ciphers { incoming, outgoing }), rest }));
        }
        // What follows was not encrypted, so it must not have been decrypted: the same again undoes that.
        incoming.rewound(rest.len()).apply(&mut rest);
        Ok(Some(Established { ciphers: None, rest }))
    }
}
