//! Tests of the codec: what the encoders write, the parser reads, however it is cut.

use super::*;

/// A frame without borrowed data, blocks joined.
#[derive(Debug, PartialEq, Eq, Clone)]
enum Seen {
    Handshake(Handshake),
    KeepAlive,
    Message(u8, Vec<u8>),
    Block(u32, u32, Vec<u8>),
}

fn parse_in_chunks(bytes: &[u8], chunk: usize) -> Result<Vec<Seen>, CodecError> {
    let mut parser = FrameParser::new(1 << 14);
    let mut seen = Vec::new();
    let mut partial = Vec::new();
    for mut input in bytes.chunks(chunk) {
        while let Some(frame) = parser.next(&mut input)? {
            match frame {
                Frame::Handshake(handshake) => seen.push(Seen::Handshake(handshake)),
                Frame::KeepAlive => seen.push(Seen::KeepAlive),
                Frame::Message { id, body } => seen.push(Seen::Message(id, body.to_vec())),
                Frame::Block { piece, begin, len, offset, data } => {
                    assert_eq!(offset, partial.len(), "parts come in order");
                    partial.extend_from_slice(data);
                    if partial.len() == len {
                        seen.push(Seen::Block(piece, begin, std::mem::take(&mut partial)));
                    }
                }
            }
        }
        assert!(input.is_empty(), "None means that all input is consumed");
    }
    Ok(seen)
}

fn sample() -> (Vec<u8>, Vec<Seen>) {
    let mut bytes = handshake([7; 20], [9; 20]).to_vec();
    push_message(&mut bytes, id::HAVE_ALL, &[]);
    push_extended_handshake(&mut bytes);
    bytes.extend([0; 4]);
    push_block_message(&mut bytes, id::REQUEST, 3, 16384, 16384);
    let block: Vec<u8> = (0..700u32).map(|i| i as u8).collect();
    bytes.extend(piece_header(3, 16384, 700));
    bytes.extend(&block);
    push_message(&mut bytes, id::UNCHOKE, &[]);
    let expected = vec![
        Seen::Handshake(Handshake { fast: true, extended: true, info_hash: [7; 20], peer_id: [9; 20] }),
        Seen::Message(id::HAVE_ALL, vec![]),
        Seen::Message(id::EXTENDED, b"\0d1:mde4:reqqi2000e1:v10:ccbt-benche".to_vec()),
        Seen::KeepAlive,
        Seen::Message(id::REQUEST, vec![0, 0, 0, 3, 0, 0, 64, 0, 0, 0, 64, 0]),
        Seen::Block(3, 16384, block),
        Seen::Message(id::UNCHOKE, vec![]),
    ];
    (bytes, expected)
}

#[test]
fn every_fragmentation_gives_the_same_frames() {
    let (bytes, expected) = sample();
    for chunk in 1..=bytes.len() {
        assert_eq!(parse_in_chunks(&bytes, chunk).as_ref(), Ok(&expected), "chunks of {chunk}");
    }
}

#[test]
fn garbage_is_refused_at_its_first_wrong_byte() {
    assert_eq!(parse_in_chunks(b"\x13BitX", 1), Err(CodecError::NotBitTorrent));
    assert_eq!(parse_in_chunks(&[0xAB; 96], 96), Err(CodecError::NotBitTorrent));
}

#[test]
fn lengths_are_bounded() {
    let start = handshake([0; 20], [0; 20]);
    let long = [&start[..], &(MAX_BODY as u32 + 1).to_be_bytes()].concat();
    assert_eq!(parse_in_chunks(&long, 10), Err(CodecError::TooLong(MAX_BODY + 1)));
    let fat_block = [&start[..], &piece_header(0, 0, (1 << 14) + 1)].concat();
    assert_eq!(parse_in_chunks(&fat_block, 10), Err(CodecError::TooLong((1 << 14) + 10)));
    let empty_block = [&start[..], &piece_header(0, 0, 0)].concat();
    assert_eq!(parse_in_chunks(&empty_block, 10), Err(CodecError::TooShort(id::PIECE)));
    assert_eq!(parse_block_message(id::REQUEST, &[0; 11]), Err(CodecError::TooShort(id::REQUEST)));
}

#[test]
fn reqq_is_found_or_not() {
    assert_eq!(parse_reqq(b"\0d1:md11:ut_metadatai2ee4:reqqi500e1:v3:abce"), Some(500));
    assert_eq!(parse_reqq(b"\0d1:mdee"), None);
    assert_eq!(parse_reqq(b"\0d4:reqqie"), None);
    assert_eq!(parse_reqq(b"\0d4:reqqi99999999999999999999999e"), None);
}

#[test]
fn bitfields() {
    for pieces in [1, 7, 8, 9, 100] {
        let mut bits = full_bitfield(pieces);
        assert!(bitfield_is_full(&bits, pieces));
        bits[(pieces as usize - 1) / 8] ^= 0x80 >> ((pieces - 1) % 8);
        assert!(bits.iter().map(|byte| byte.count_ones()).sum::<u32>() == pieces - 1, "spare bits are zero");
        assert!(!bitfield_is_full(&bits, pieces));
    }
    assert!(!bitfield_is_full(&[], 1));
}
