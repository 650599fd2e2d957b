//! Asks a seeding client whether it is ready.
//!
//! Role: `transfer::run` starts the clock only after a client has checked its data and answers a handshake with a
//! full bitfield or HAVE ALL. One blocking connection per try; no request is sent.

use std::io::{self, Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use super::codec::{self, Frame, FrameParser, id};
use crate::payload::Payload;

/// How long one try waits for the client to say what it has.
const ANSWER_WAIT: Duration = Duration::from_secs(1);

/// True if the client at `target` serves the payload's torrent and has all of it; false if not (yet).
pub fn is_ready(target: SocketAddrV4, payload: &Payload) -> bool {
    ask(target, payload).unwrap_or(false)
}

fn ask(target: SocketAddrV4, payload: &Payload) -> io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&target.into(), ANSWER_WAIT)?;
    stream.set_read_timeout(Some(ANSWER_WAIT))?;
    stream.write_all(&codec::handshake(payload.info_hash(), super::random_peer_id()))?;
    let deadline = Instant::now() + ANSWER_WAIT;
    let mut parser = FrameParser::new(crate::payload::BLOCK_LEN);
    let mut buf = vec![0; 16 << 10];
    while Instant::now() < deadline {
        let len = stream.read(&mut buf)?;
        if len == 0 {
            return Ok(false);
        }
        let mut input = &buf[..len];
        while let Some(frame) = parser.next(&mut input).map_err(io::Error::other)? {
            match frame {
                Frame::Handshake(hello) if hello.info_hash != payload.info_hash() => return Ok(false),
                Frame::Message { id: id::HAVE_ALL, .. } => return Ok(true),
                Frame::Message { id: id::BITFIELD, body } => {
                    return Ok(codec::bitfield_is_full(body, payload.piece_count()));
                }
                _ => {}
            }
        }
    }
    Ok(false)
}
