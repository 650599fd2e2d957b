//! What must hold for anything that an HTTP server answers to a request for a range. Run by the fuzz target and over the
//! corpus by tests.

use std::time::SystemTime;

use ccbt_protocol::webseed::http::{HEAD_MAX, Head, Verdict, Wanted};

/// Panics when an invariant breaks. The first byte says in which steps the rest arrives.
pub fn run(data: &[u8]) {
    let Some((&step, wire)) = data.split_first() else { return };
    let step = usize::from(step).max(1);
    let wanted = Wanted { start: 10, end: 30, file_len: 50 };
    let Ok(Some((head, len))) = Head::parse(wire) else { return };
    assert!(len <= wire.len() && len <= HEAD_MAX);
    let short = Head::parse(&wire[..len - 1]);
    assert!(matches!(short, Ok(None)), "a head ends in one place");
    let Ok(Verdict::Data(mut body)) = head.judge(wanted, SystemTime::UNIX_EPOCH) else { return };
    let (mut at, mut data) = (len, 0);
    while at < wire.len() && !body.is_over() {
        let bytes = &wire[at..wire.len().min(at + step)];
        let ahead = body.data_ahead().min(bytes.len() as u64);
        if ahead == 0 {
            match body.control(bytes) {
                Ok(0) => break,
                Ok(used) => at += used,
                Err(_) => return,
            }
            continue;
        }
        data += ahead;
        body.took(ahead);
        at += ahead as usize;
        assert!(data <= wanted.file_len, "more than the file has");
    }
    assert!(!body.is_reusable() || body.left() == 0);
}
