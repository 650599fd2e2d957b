//! Tests of the decoder against the rules of BEP 3, and of both directions against each other.

use super::*;
use DecodeErrorKind as Kind;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn failure(input: &[u8]) -> (usize, Kind) {
    let error = decode(input).expect_err("must be refused");
    (error.offset, error.kind)
}

#[test]
fn errors_name_their_offset() {
    let table: &[(&[u8], usize, Kind)] = &[
        (b"", 0, Kind::UnexpectedEnd),
        (b"e", 0, Kind::UnexpectedByte(b'e')),
        (b"x", 0, Kind::UnexpectedByte(b'x')),
        (b"-1:a", 0, Kind::UnexpectedByte(b'-')),
        (b"i", 1, Kind::UnexpectedEnd),
        (b"i-", 2, Kind::UnexpectedEnd),
        (b"i12", 3, Kind::UnexpectedEnd),
        (b"ie", 1, Kind::BadInt),
        (b"i-e", 2, Kind::BadInt),
        (b"i+1e", 1, Kind::BadInt),
        (b"i1.5e", 2, Kind::BadInt),
        (b"i 1e", 1, Kind::BadInt),
        (b"i--1e", 2, Kind::BadInt),
        (b"li-0ee", 1, Kind::NegativeZero),
        (b"li03ee", 1, Kind::LeadingZero),
        (b"i00e", 0, Kind::LeadingZero),
        (b"i-03e", 0, Kind::LeadingZero),
        (b"i9223372036854775808e", 0, Kind::IntOverflow),
        (b"i-9223372036854775809e", 0, Kind::IntOverflow),
        (b"i18446744073709551616e", 0, Kind::IntOverflow),
        (b"i99999999999999999999999999999999999999999999e", 0, Kind::IntOverflow),
        (b"l5:abcde4:abe", 8, Kind::StringPastEnd(4)),
        (b"5:abc", 0, Kind::StringPastEnd(5)),
        (b"99999999999999999999999999:a", 0, Kind::StringPastEnd(99)),
        (b"1", 1, Kind::UnexpectedEnd),
        (b"01:a", 0, Kind::LeadingZero),
        (b"00:", 0, Kind::LeadingZero),
        (b"1a:b", 1, Kind::BadLength),
        (b"l", 1, Kind::UnexpectedEnd),
        (b"d", 1, Kind::UnexpectedEnd),
        (b"d1:a", 4, Kind::UnexpectedEnd),
        (b"d1:ae", 4, Kind::MissingValue),
        (b"di1e1:ae", 1, Kind::KeyNotString),
        (b"dle1:ae", 1, Kind::KeyNotString),
        (b"d1:ai1e1:ai2ee", 7, Kind::DuplicateKey),
        (b"d1:bi1e1:ai2e1:bi3ee", 13, Kind::DuplicateKey),
        (b"i1ei2e", 3, Kind::TrailingBytes),
        (b"de\n", 2, Kind::TrailingBytes),
    ];
    for (input, offset, kind) in table {
        assert_eq!(failure(input), (*offset, *kind), "{}", input.escape_ascii());
    }
    let text = decode(b"li-0ee").unwrap_err().to_string();
    assert_eq!(text, "not valid bencode at byte 1: the integer -0 is not allowed");
}

#[test]
fn integers_reach_both_ends() {
    for value in [0, 1, -1, 10, i64::MAX, i64::MIN] {
        let text = format!("i{value}e");
        assert_eq!(decode(text.as_bytes()).unwrap().root().as_int(), Some(value));
    }
}

#[test]
fn nesting_is_bounded_without_recursion() {
    for open in [&b"l"[..], b"d1:a", b"d0:l"] {
        let error = decode(&open.repeat(1_000_000)).unwrap_err();
        assert_eq!(error.kind, Kind::TooDeep);
        assert!(error.offset <= DEPTH_MAX * open.len());
    }
    let nested = |depth: usize| [b"l".repeat(depth), b"e".repeat(depth)].concat();
    assert!(decode(&nested(DEPTH_MAX)).is_ok());
    assert_eq!(failure(&nested(DEPTH_MAX + 1)), (DEPTH_MAX, Kind::TooDeep));
}

#[test]
fn tokens_are_bounded() {
    let input = [b"l".to_vec(), b"0:".repeat(10), b"e".to_vec()].concat();
    assert_eq!(decode_with(&input, Limits { tokens: 11 }).unwrap().token_count(), 11);
    let error = decode_with(&input, Limits { tokens: 10 }).unwrap_err();
    assert_eq!(error, DecodeError { offset: 19, kind: Kind::TooManyTokens(10) });
    assert!(decode_with(b"le", Limits { tokens: 0 }).is_err());
}

#[test]
fn unsorted_keys_are_read_in_order() {
    let document = decode(b"d1:bi1e1:ad1:zi0e1:yleee").unwrap();
    let dict = document.root().as_dict().unwrap();
    let keys: Vec<_> = dict.iter().map(|(key, _)| key).collect();
    assert_eq!(keys, [b"b", b"a"]);
    assert_eq!(dict.get_dict(b"a").unwrap().get_int(b"z"), Some(0));
}

#[test]
fn lookups_give_values_and_raw_spans() {
    let input = b"d4:infod3:inti-7ee4:listl1:xi2e0:e4:text7:h\xc3\xa9llo!e";
    let document = decode(input).unwrap();
    let dict = document.root().as_dict().unwrap();
    let info = dict.get(b"info").unwrap();
    assert_eq!((info.raw(), info.offset()), (&b"d3:inti-7ee"[..], 7));
    assert_eq!(dict.get_dict(b"info").unwrap().raw(), info.raw());
    assert_eq!(dict.get_dict(b"info").unwrap().get(b"int").unwrap().raw(), b"i-7e");
    let list = dict.get_list(b"list").unwrap();
    assert_eq!(list.iter().map(|node| node.raw()).collect::<Vec<_>>(), [&b"1:x"[..], b"i2e", b"0:"]);
    assert!(matches!(list.iter().nth(2).unwrap().value(), Value::Bytes(b"")));
    assert_eq!(dict.get_str(b"text"), Some("héllo!"));
    assert_eq!(dict.get_int(b"text"), None);
    assert_eq!(dict.get_bytes(b"absent"), None);
    assert_eq!(dict.get_list(b"info").map(|list| list.is_empty()), None);
}

#[test]
fn bytes_outlive_the_document() {
    let input = b"d1:k5:valuee".to_vec();
    let value = { decode(&input).unwrap().root().as_dict().unwrap().get_bytes(b"k").unwrap() };
    assert_eq!(value, b"value");
}

#[test]
fn a_prefix_leaves_the_rest() {
    let input = b"d8:msg_typei1eeREST";
    let (document, consumed) = decode_prefix(input, Limits::default()).unwrap();
    assert_eq!(&input[consumed..], b"REST");
    assert_eq!(document.root().raw(), &input[..consumed]);
    assert_eq!(decode_prefix(b"i5e", Limits::default()).unwrap().1, 3);
}

#[test]
fn debug_output_is_cut_and_escaped() {
    let input = [b"300:\x1b[2J".to_vec(), vec![b'a'; 296]].concat();
    let text = format!("{:?}", decode(&input).unwrap());
    assert!(!text.contains('\x1b') && text.len() < 200, "{text}");
}

#[test]
#[should_panic(expected = "keys out of order")]
fn the_encoder_asserts_sorted_keys() {
    Encoder::new().begin_dict().key(b"b").int(1).key(b"a");
}

#[test]
#[should_panic(expected = "needs a key")]
fn the_encoder_asserts_keys() {
    Encoder::new().begin_dict().int(1);
}

/// An owned value, the model that decoding is compared with.
#[derive(Clone, Debug, PartialEq)]
enum Tree {
    Int(i64),
    Bytes(Vec<u8>),
    List(Vec<Tree>),
    Dict(BTreeMap<Vec<u8>, Tree>),
}

impl Tree {
    fn of(node: Node<'_, '_>) -> Self {
        match node.value() {
            Value::Int(value) => Self::Int(value),
            Value::Bytes(value) => Self::Bytes(value.to_vec()),
            Value::List(list) => Self::List(list.iter().map(Self::of).collect()),
            Value::Dict(dict) => Self::Dict(dict.iter().map(|(k, v)| (k.to_vec(), Self::of(v))).collect()),
        }
    }

    fn encode(&self, encoder: &mut Encoder) {
        match self {
            Self::Int(value) => drop(encoder.int(*value)),
            Self::Bytes(value) => drop(encoder.bytes(value)),
            Self::List(values) => {
                encoder.begin_list();
                values.iter().for_each(|value| value.encode(encoder));
                encoder.end();
            }
            Self::Dict(entries) => {
                encoder.begin_dict();
                for (key, value) in entries {
                    encoder.key(key);
                    value.encode(encoder);
                }
                encoder.end();
            }
        }
    }

    fn encoded(&self) -> Vec<u8> {
        let mut encoder = Encoder::new();
        self.encode(&mut encoder);
        encoder.finish()
    }
}

fn trees() -> impl Strategy<Value = Tree> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..12);
    let leaf = prop_oneof![any::<i64>().prop_map(Tree::Int), bytes().prop_map(Tree::Bytes)];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Tree::List),
            proptest::collection::btree_map(bytes(), inner, 0..6).prop_map(Tree::Dict),
        ]
    })
}

/// Bytes in which bencode's own letters are common, so that random input gets past the first token.
fn bencode_like() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        4 => prop::sample::select(b"ilde01239:-".to_vec()),
        1 => any::<u8>(),
    ];
    proptest::collection::vec(byte, 0..200)
}

proptest! {
    #[test]
    fn decoding_inverts_encoding(tree in trees()) {
        let bytes = tree.encoded();
        let document = decode(&bytes).unwrap();
        prop_assert_eq!(Tree::of(document.root()), tree);
        prop_assert_eq!(document.root().raw(), &bytes[..]);
    }

    #[test]
    fn what_is_accepted_is_canonical_up_to_key_order(bytes in bencode_like()) {
        if let Ok((document, consumed)) = decode_prefix(&bytes, Limits::default()) {
            prop_assert_eq!(document.root().raw().len(), consumed);
            prop_assert_eq!(Tree::of(document.root()).encoded().len(), consumed);
        }
    }

    #[test]
    fn every_truncation_is_an_error(tree in trees(), cut in any::<prop::sample::Index>()) {
        let bytes = tree.encoded();
        prop_assert!(decode(&bytes[..cut.index(bytes.len())]).is_err());
    }

    #[test]
    fn flips_never_panic(tree in trees(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut bytes = tree.encoded();
        let at = at.index(bytes.len());
        bytes[at] = to;
        if let Ok(document) = decode(&bytes) {
            prop_assert_eq!(Tree::of(document.root()).encoded().len(), bytes.len());
        }
    }
}
