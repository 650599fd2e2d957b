//! What must hold for any payload of a ut_pex, ut_metadata or ut_holepunch message. Run by the fuzz target and over
//! the corpus by tests.

use std::time::Instant;

use ccbt_protocol::candidates::is_global;
use ccbt_protocol::holepunch::HolepunchMessage;
use ccbt_protocol::metadata::MetadataMessage;
use ccbt_protocol::pex::{Gate, MAX_PAYLOAD_LEN, PexMessage};

/// Panics when an invariant breaks.
pub fn run(data: &[u8]) {
    if let Ok(message) = MetadataMessage::parse(data)
        && message != MetadataMessage::Unknown
    {
        let payload = message.encode();
        assert_eq!(MetadataMessage::parse(&payload), Ok(message));
    }
    if let Ok(message) = HolepunchMessage::parse(data) {
        let payload = message.encode();
        assert!(payload.len() <= 24);
        assert_eq!(HolepunchMessage::parse(&payload), Ok(message));
    }
    let Ok(message) = PexMessage::parse(data) else { return };
    assert!(data.len() <= MAX_PAYLOAD_LEN);
    assert!(6 * (message.added.len() + message.dropped.len()) <= data.len());
    let again = PexMessage::parse(&message.encode());
    assert_eq!(
        again.map(|again| (again.added.len(), again.dropped.len())),
        Ok((message.added.len(), message.dropped.len()))
    );
    let stranger = [8, 8, 8, 8].into();
    let now = Instant::now();
    if let Some(peers) = Gate::new(now).pass(now, stranger, &message) {
        assert!(peers.len() <= 100 && peers.iter().all(|peer| peer.port() != 0 && is_global(peer.ip())));
    }
}
