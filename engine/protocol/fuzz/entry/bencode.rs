//! What must hold for any bytes given to the bencode decoder. Run by the fuzz target and over the corpus by tests.

use ccbt_protocol::bencode::{Encoder, Limits, Node, Value, decode, decode_prefix};

/// Panics when an invariant breaks.
pub fn run(data: &[u8]) {
    let whole = decode(data);
    match decode_prefix(data, Limits { tokens: 100_000 }) {
        Ok((document, consumed)) => {
            assert!((1..=data.len()).contains(&consumed));
            assert_eq!(document.root().raw(), &data[..consumed]);
            let mut encoder = Encoder::new();
            copy(document.root(), &mut encoder);
            let encoded = encoder.finish();
            // The only freedom that the decoder grants is the order of keys.
            assert_eq!(encoded.len(), consumed);
            assert!(decode(&encoded).is_ok());
            assert!(whole.is_err() || consumed == data.len());
        }
        Err(error) => assert!(error.offset <= data.len()),
    }
}

/// Writes `node` with sorted keys.
fn copy(node: Node<'_, '_>, encoder: &mut Encoder) {
    match node.value() {
        Value::Int(value) => drop(encoder.int(value)),
        Value::Bytes(value) => drop(encoder.bytes(value)),
        Value::List(list) => {
            encoder.begin_list();
            list.iter().for_each(|value| copy(value, encoder));
            encoder.end();
        }
        Value::Dict(dict) => {
            let mut entries: Vec<_> = dict.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            encoder.begin_dict();
            for (key, value) in entries {
                copy(value, encoder.key(key));
            }
            encoder.end();
        }
    }
}
