//! What must hold for an MSE handshake whatever the other side sends. Run by the fuzz target and over the corpus by tests.
//!
//! The first byte says which side we are and whether the input begins with a public key (0) or what follows it is encrypted
//! as it should be (1), so that fields behind the keys are reached. Then come the bytes, in fragments: each after a byte
//! of its length.

use ccbt_protocol::ids::InfoHash;
use ccbt_protocol::wire::mse::{BUFFERED_MAX, Initiator, Methods, Progress, Responder, dh, torrent_hash};

const HASH: InfoHash = InfoHash([9; 20]);

/// Panics when an invariant breaks.
pub fn run(data: &[u8]) {
    let Some((&first, mut rest)) = data.split_first() else { return };
    let mut parts = Vec::new();
    if first & 1 == 1 {
        parts.push(dh::public_key(&[1; 20]).to_vec());
    }
    while let Some((&len, after)) = rest.split_first() {
        let (part, after) = after.split_at(after.len().min(usize::from(len)));
        parts.push(part.to_vec());
        rest = after;
    }
    if first & 2 == 0 {
        answer(&parts)
    } else {
        open(&parts)
    }
    talk(&parts);
}

fn answer(parts: &[Vec<u8>]) {
    let mut responder = Responder::new([2; 20], Methods::BOTH);
    let (mut out, mut taken) = (Vec::new(), 0);
    for part in parts {
        taken += part.len();
        match responder.push(part, &[7; 5], &mut out) {
            Ok(Progress::More) => assert!(taken <= BUFFERED_MAX + 255, "it keeps {taken} bytes"),
            Ok(Progress::Torrent(_)) => {
                if responder.torrent(HASH, &mut out).is_err() {
                    break;
                }
            }
            Ok(Progress::Established(_)) | Err(_) => break,
        }
    }
    assert!(out.len() <= dh::KEY_LEN + 5 + 14, "{} bytes for a stranger", out.len());
}

fn open(parts: &[Vec<u8>]) {
    let mut out = Vec::new();
    let mut initiator = Initiator::new([3; 20], HASH, Methods::BOTH, b"first", &[], &mut out);
    for part in parts {
        if !matches!(initiator.push(part, &mut out), Ok(None)) {
            break;
        }
    }
    assert!(out.len() <= 2 * dh::KEY_LEN + 100);
}

/// A handshake of two of us, in which the input is put between the fragments.
fn talk(parts: &[Vec<u8>]) {
    let mut hello = Vec::new();
    let mut initiator = Initiator::new([3; 20], HASH, Methods::BOTH, b"first", &[], &mut hello);
    let mut responder = Responder::new([2; 20], Methods::BOTH);
    let mut answer = Vec::new();
    responder.push(&hello, &[], &mut answer).expect("a public key");
    let mut request = Vec::new();
    assert!(initiator.push(&answer, &mut request).expect("a public key").is_none());
    let noise = parts.first().map_or(&[][..], |part| &part[..]);
    // A pad that ends as a pad does is another request.
    if noise.windows(20).any(|bytes| request.starts_with(bytes)) {
        return;
    }
    let bytes = [noise, &request].concat();
    let mut out = Vec::new();
    match responder.push(&bytes, &[], &mut out) {
        Ok(Progress::Torrent(name)) if name == torrent_hash(HASH) => {
            let end = responder.torrent(HASH, &mut out).expect("a whole request");
            let Progress::Established(end) = end else { panic!("more is not to come") };
            assert_eq!(end.rest, b"first");
            let end = initiator.push(&out, &mut Vec::new()).expect("an answer").expect("all of it");
            assert!(end.rest.is_empty());
        }
        Ok(Progress::Torrent(_)) => panic!("another torrent"),
        Ok(_) | Err(_) => assert!(noise.len() > 512, "noise is a pad"),
    }
}
