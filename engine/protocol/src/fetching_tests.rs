use super::*;
use crate::wire::handshake::Reserved;
use sha1::{Digest, Sha1};

fn info(port: u16, reserved: Reserved) -> PeerInfo {
    let id = PeerId([port as u8; 20]);
    PeerInfo { addr: SocketAddr::new([8, 8, 8, port as u8].into(), port), id, reserved, incoming: false }
}

fn fetching(metadata: &[u8]) -> Fetching {
    Fetching::new(InfoHash(Sha1::digest(metadata).into()), PeerId([0; 20]), 6881, true)
}

fn join(fetching: &mut Fetching, now: Instant, port: u16) -> PeerKey {
    fetching.connected(now, info(port, Reserved::NONE.with_fast().with_extension()))
}

fn hello(size: Option<u32>, pex: bool) -> Vec<u8> {
    let mut messages = vec![(metadata::NAME.to_owned(), 7)];
    messages.extend(pex.then(|| (pex::NAME.to_owned(), 8)));
    ExtensionHandshake { metadata_size: size, messages, ..ExtensionHandshake::default() }.encode()
}

fn events(fetching: &mut Fetching) -> Vec<FetchingEvent> {
    std::iter::from_fn(|| fetching.poll_event()).collect()
}

#[test]
fn metadata_comes_and_what_else_was_said_is_kept() {
    let (metadata, now) = ([7; 20_000], Instant::now());
    let mut fetching = fetching(&metadata);
    let key = join(&mut fetching, now, 1);
    assert!(fetching.has_id(PeerId([1; 20])) && fetching.has_id(PeerId([0; 20])));
    let greeting = fetching.out(now, key);
    assert!(greeting.starts_with(b"\0\0\0\x01\x0f"), "HAVE_NONE first");
    let said = [Message::HaveAll, Message::Unchoke];
    said.iter().for_each(|message| fetching.message(now, key, *message).expect("harmless"));
    let payload = hello(Some(20_000), false);
    let extended = Message::Extended { id: 0, payload: &payload };
    fetching.message(now, key, extended).expect("a good handshake");
    // What it loses meanwhile (BEP 54).
    let lost = Message::Extended { id: LT_DONTHAVE, payload: &[0, 0, 0, 1] };
    fetching.message(now, key, lost).expect("announced");
    assert_eq!(fetching.take_dirty(), [key]);
    let mut asked = Vec::new();
    for piece in 0..2 {
        Message::Extended { id: 7, payload: &MetadataMessage::Request(piece).encode() }.encode(&mut asked);
    }
    assert_eq!(fetching.out(now, key), asked);
    for piece in [1, 0] {
        let bytes = &metadata[..metadata::piece_len(20_000, piece) as usize];
        let data = MetadataMessage::Data { piece, total_size: Some(20_000), bytes }.encode();
        fetching.message(now, key, Message::Extended { id: UT_METADATA, payload: &data }).expect("asked for");
    }
    assert_eq!(events(&mut fetching), [FetchingEvent::Complete(metadata.to_vec())]);
    let mut kept = Vec::new();
    said.into_iter().chain([extended, lost]).for_each(|message| message.encode(&mut kept));
    let (peer, said) = fetching.take(key).expect("little was said");
    assert_eq!((peer.id, said), (PeerId([1; 20]), kept));
}

#[test]
fn those_who_have_nothing_go() {
    let (mut fetching, now) = (fetching(&[1]), Instant::now());
    let plain = fetching.connected(now, info(1, Reserved::NONE));
    assert_eq!(events(&mut fetching), [FetchingEvent::Close(plain, PeerFault::NoMetadata)]);
    fetching.gone(now, plain);
    let none = join(&mut fetching, now, 2);
    let payload = hello(None, false);
    let fault = fetching.message(now, none, Message::Extended { id: 0, payload: &payload });
    assert_eq!(fault, Err(PeerFault::NoMetadata));
    fetching.gone(now, none);
    let (silent, knows) = (join(&mut fetching, now, 3), join(&mut fetching, now, 4));
    let payload = hello(None, true);
    fetching
        .message(now, knows, Message::Extended { id: 0, payload: &payload })
        .expect("it may tell of others");
    fetching.tick(now + HELLO_TIME);
    assert_eq!(events(&mut fetching), [FetchingEvent::Close(silent, PeerFault::NoMetadata)]);
    fetching.gone(now, silent);
    let addr = "8.8.4.4:1".parse().unwrap();
    let pex = PexMessage { added: vec![(addr, pex::Flags::default())], dropped: Vec::new() }.encode();
    let message = Message::Extended { id: UT_PEX, payload: &pex };
    let faults = (0..200).filter(|_| fetching.message(now, knows, message).is_err()).count();
    assert!(faults > 0, "a flood ends it");
    let told = events(&mut fetching);
    assert!(!told.is_empty() && told.iter().all(|event| *event == FetchingEvent::Peers(vec![addr])));
    assert!(told.len() < 9, "and little of it is believed");
    fetching.tick(now + HEARSAY_TIME);
    assert_eq!(events(&mut fetching), [FetchingEvent::Close(knows, PeerFault::NoMetadata)]);
}

#[test]
fn what_nobody_asked_for_ends_a_connection_and_memory_is_bounded() {
    let (mut fetching, now) = (fetching(&[1]), Instant::now());
    let key = join(&mut fetching, now, 1);
    let block = crate::geometry::Block { piece: crate::ids::PieceIndex(0), begin: 0, len: 1 };
    let ends = |results: &mut dyn Iterator<Item = Result<(), PeerFault>>| {
        results.take(1000).any(|result| result == Err(PeerFault::TooMuchWaste))
    };
    assert!(ends(&mut std::iter::repeat_with(|| fetching.block(key))));
    let key = join(&mut fetching, now, 2);
    assert!(ends(&mut std::iter::repeat_with(|| fetching.message(now, key, Message::Request(block)))));
    let key = join(&mut fetching, now, 3);
    let ask = MetadataMessage::Request(0).encode();
    let asks = Message::Extended { id: UT_METADATA, payload: &ask };
    assert!(ends(&mut std::iter::repeat_with(|| fetching.message(now, key, asks))));
    let key = join(&mut fetching, now, 4);
    for _ in 0..MAX_KEPT {
        fetching.message(now, key, Message::Unchoke).expect("odd, and harmless");
    }
    assert!(fetching.peers[&key].kept.is_none() && fetching.take(key).is_none());
    let key = join(&mut fetching, now, 5);
    let payload = hello(Some(metadata::MAX_METADATA_LEN + 1), false);
    let fault = fetching.message(now, key, Message::Extended { id: 0, payload: &payload });
    assert!(matches!(fault, Err(PeerFault::Metadata(_))));
}
