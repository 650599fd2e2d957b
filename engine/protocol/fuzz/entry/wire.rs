//! What must hold for any bytes on a connection: handshake, messages, blocks, however they are cut. Run by the fuzz
//! target and over the corpus by tests.

use ccbt_protocol::geometry::Block;
use ccbt_protocol::wire::handshake::HANDSHAKE_LEN;
use ccbt_protocol::wire::{
    ExtensionHandshake, Handshake, HandshakeReader, Message, Receiver, Sink, WireError, extension,
};

const MAX_MESSAGE_LEN: u32 = 70_000;

/// What came of a stream.
#[derive(Default, PartialEq, Debug)]
struct Seen {
    events: Vec<String>,
    current: Option<(Block, Vec<u8>)>,
}

impl Sink for Seen {
    type Error = WireError;

    fn begin_block(&mut self, block: Block) -> Result<bool, WireError> {
        assert!(self.current.is_none(), "two blocks at once");
        // Half of all blocks are wanted.
        let wanted = (block.piece.0 ^ block.begin).is_multiple_of(2);
        self.events.push(format!("begin {block:?} {wanted}"));
        if wanted {
            self.current = Some((block, Vec::new()));
        }
        Ok(wanted)
    }

    fn write(&mut self, block: Block, offset: u32, bytes: &[u8]) {
        let (current, data) = self.current.as_mut().expect("begun");
        assert!(*current == block && data.len() == offset as usize && !bytes.is_empty());
        data.extend_from_slice(bytes);
        assert!(data.len() <= block.len as usize);
    }

    fn placed(&self, _: Block, _: u32, _: u32) -> &[u8] {
        unreachable!("nothing is received in place here")
    }

    fn end_block(&mut self, block: Block, accepted: bool) -> Result<(), WireError> {
        let current = self.current.take();
        assert_eq!(current.is_some(), accepted);
        let data = current.map(|(_, data)| data).unwrap_or_default();
        assert!(!accepted || data.len() == block.len as usize);
        self.events.push(format!("end {block:?} {data:?}"));
        Ok(())
    }

    fn message(&mut self, message: Message<'_>) -> Result<(), WireError> {
        if let Message::Extended { id: 0, payload } = message {
            check_extended(payload);
        }
        self.events.push(format!("{message:?}"));
        Ok(())
    }
}

/// Panics when an invariant breaks. The first byte says how the rest is cut.
pub fn run(data: &[u8]) {
    let Some((&cut, bytes)) = data.split_first() else { return };
    check_extended(bytes);
    let after = check_handshake(bytes, usize::from(cut) + 1);
    check_stream(bytes, cut);
    check_stream(after, cut);
}

fn check_stream(bytes: &[u8], cut: u8) {
    let feed = |len: usize| {
        let (mut receiver, mut seen) = (Receiver::new(64, MAX_MESSAGE_LEN), Seen::default());
        let result = bytes.chunks(len).try_for_each(|part| receiver.feed(part, &mut seen));
        (seen, result, receiver.counters())
    };
    let whole = feed(bytes.len().max(1));
    for len in [1, usize::from(cut) + 1] {
        let cut = feed(len);
        assert_eq!(cut.1, whole.1);
        assert_eq!(cut.0, whole.0);
        assert_eq!(cut.2, whole.2);
    }
}

/// Returns what follows the handshake.
fn check_handshake(bytes: &[u8], cut: usize) -> &[u8] {
    let (mut reader, mut taken) = (HandshakeReader::default(), 0);
    for part in bytes.chunks(cut) {
        match reader.push(part) {
            Ok(used) => taken += used,
            Err(_) => {
                assert!(reader.handshake().is_none());
                return &[];
            }
        }
    }
    assert_eq!(taken, bytes.len().min(HANDSHAKE_LEN));
    assert_eq!(reader.as_bytes(), &bytes[..taken]);
    let Some(handshake) = reader.handshake() else { return &[] };
    let encoded = handshake.encode();
    assert_eq!(encoded, bytes[..taken]);
    assert_eq!(Handshake::parse(&encoded), Ok(handshake));
    &bytes[taken..]
}

fn check_extended(payload: &[u8]) {
    let Ok(hello) = ExtensionHandshake::parse(payload) else { return };
    assert!(payload.len() <= extension::MAX_PAYLOAD_LEN);
    assert!(hello.messages.len() <= extension::MAX_MESSAGES);
    assert!(hello.messages.iter().all(|(_, id)| *id != 0));
    let client = hello.client.as_deref().unwrap_or("x");
    assert!((1..=extension::MAX_CLIENT_CHARS).contains(&client.chars().count()));
    assert!(!client.chars().any(char::is_control));
    assert!(hello.reqq != Some(0) && hello.port != Some(0) && hello.metadata_size != Some(0));
    assert_eq!(ExtensionHandshake::parse(&hello.encode()), Ok(hello));
}
