//! From bytes to messages.

use std::net::{IpAddr, SocketAddr};

use super::{
    Answer, Body, Contact, DATAGRAM_MAX, Item, Malformed, Message, NODES_MAX, NodeId, Query, SALT_MAX,
    SAMPLES_MAX, Samples, Signed, TEXT_MAX, TOKEN_MAX, TRANSACTION_MAX, VALUE_MAX, VALUES_MAX, Want, code,
};
use crate::bencode::{Dict, Limits, decode_with};
use crate::dht::bloom::Bloom;
use crate::dht::id::is_reachable;
use crate::ids::InfoHash;

/// Values of a message at most: as many as a value of BEP 44 and an answer can have together.
const TOKENS: Limits = Limits { tokens: 1536 };

/// What is wrong with a query: code and text.
type Wrong = (i64, &'static str);

impl Message {
    /// Reads one datagram. Fields that nobody can use are left out; where a query lacks one that it needs, the error
    /// says what to answer.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() > DATAGRAM_MAX {
            return Err(Malformed::Silent);
        }
        let document = decode_with(bytes, TOKENS).map_err(|_| Malformed::Silent)?;
        let root = document.root().as_dict().ok_or(Malformed::Silent)?;
        let transaction = root.get_bytes(b"t").filter(|t| (1..=TRANSACTION_MAX).contains(&t.len()));
        let transaction = transaction.ok_or(Malformed::Silent)?.to_vec();
        let body = match root.get_bytes(b"y") {
            Some(b"q") => match query(&root) {
                Ok(body) => body,
                Err((code, text)) => return Err(Malformed::Query { transaction, code, text }),
            },
            Some(b"r") => answer(&root).ok_or(Malformed::Silent)?,
            Some(b"e") => error(&root).ok_or(Malformed::Silent)?,
            _ => return Err(Malformed::Silent),
        };
        Ok(Self { transaction, body })
    }
}

fn id_in(dict: &Dict<'_, '_>, key: &[u8]) -> Option<NodeId> {
    array(dict, key).map(NodeId)
}

fn array<const N: usize>(dict: &Dict<'_, '_>, key: &[u8]) -> Option<[u8; N]> {
    dict.get_bytes(key)?.try_into().ok()
}

fn flag(dict: &Dict<'_, '_>, key: &[u8]) -> bool {
    dict.get_int(key).is_some_and(|value| value != 0)
}

fn query(root: &Dict<'_, '_>) -> Result<Body, Wrong> {
    let method = root.get_bytes(b"q").ok_or((code::PROTOCOL, "no method"))?;
    let args = root.get_dict(b"a").ok_or((code::PROTOCOL, "no arguments"))?;
    let id = id_in(&args, b"id").ok_or((code::PROTOCOL, "no id"))?;
    let target = || id_in(&args, b"target").ok_or((code::PROTOCOL, "no target"));
    let info_hash = || array(&args, b"info_hash").map(InfoHash).ok_or((code::PROTOCOL, "no info_hash"));
    let want = want(&args);
    let query = match method {
        b"ping" => Query::Ping,
        b"find_node" => Query::FindNode { target: target()?, want },
        b"get_peers" => {
            let (no_seeds, scrape) = (flag(&args, b"noseed"), flag(&args, b"scrape"));
            Query::GetPeers { info_hash: info_hash()?, want, no_seeds, scrape }
        }
        b"announce_peer" => {
            let port = match flag(&args, b"implied_port") {
                true => None,
                false => Some(port(&args).ok_or((code::PROTOCOL, "no port"))?),
            };
            let (info_hash, seed) = (info_hash()?, flag(&args, b"seed"));
            Query::AnnouncePeer { info_hash, port, seed, token: token(&args)? }
        }
        b"get" => Query::Get { target: target()?, seq: args.get_int(b"seq"), want },
        b"put" => {
            let item = Box::new(item_to_put(&args)?);
            Query::Put { item, cas: args.get_int(b"cas"), token: token(&args)? }
        }
        b"sample_infohashes" => Query::SampleInfohashes { target: target()?, want },
        _ => return Err((code::METHOD_UNKNOWN, "unknown method")),
    };
    Ok(Body::Query { id, read_only: flag(root, b"ro"), query })
}

fn port(args: &Dict<'_, '_>) -> Option<u16> {
    u16::try_from(args.get_int(b"port")?).ok().filter(|port| *port != 0)
}

fn token(args: &Dict<'_, '_>) -> Result<Vec<u8>, Wrong> {
    let token = args.get_bytes(b"token").filter(|token| token.len() <= TOKEN_MAX);
    token.map(<[u8]>::to_vec).ok_or((code::PROTOCOL, "no token"))
}

fn want(args: &Dict<'_, '_>) -> Want {
    let mut want = Want::default();
    for family in args.get_list(b"want").into_iter().flatten().take(4) {
        match family.as_bytes() {
            Some(b"n4") => want.v4 = true,
            Some(b"n6") => want.v6 = true,
            _ => {}
        }
    }
    want
}

fn item_to_put(args: &Dict<'_, '_>) -> Result<Item, Wrong> {
    let value = args.get(b"v").ok_or((code::PROTOCOL, "no value"))?.raw();
    if value.len() > VALUE_MAX {
        return Err((code::TOO_LONG, "the value is too long"));
    }
    let value = value.to_vec();
    if args.get(b"k").is_none() {
        return Ok(Item { value, signed: None });
    }
    let salt = args.get_bytes(b"salt").unwrap_or_default();
    if salt.len() > SALT_MAX {
        return Err((code::SALT_TOO_LONG, "the salt is too long"));
    }
    let signed = signed(args, salt).ok_or((code::PROTOCOL, "no key, signature or seq"))?;
    Ok(Item { value, signed: Some(signed) })
}

fn signed(dict: &Dict<'_, '_>, salt: &[u8]) -> Option<Signed> {
    let (key, signature) = (array(dict, b"k")?, array(dict, b"sig")?);
    Some(Signed { key, salt: salt.to_vec(), seq: dict.get_int(b"seq")?, signature })
}

fn answer(root: &Dict<'_, '_>) -> Option<Body> {
    let dict = root.get_dict(b"r")?;
    let id = id_in(&dict, b"id")?;
    let mut answer = Answer::default();
    compact_nodes::<26>(dict.get_bytes(b"nodes").unwrap_or_default(), &mut answer.nodes)?;
    compact_nodes::<38>(dict.get_bytes(b"nodes6").unwrap_or_default(), &mut answer.nodes)?;
    answer.token = dict.get_bytes(b"token").filter(|token| token.len() <= TOKEN_MAX).map(<[u8]>::to_vec);
    let values =
        dict.get_list(b"values").into_iter().flatten().filter_map(|value| endpoint(value.as_bytes()?));
    answer.values = values.filter(|addr| is_reachable(*addr)).take(VALUES_MAX).collect();
    if let (Some(seeds), Some(peers)) = (array(&dict, b"BFsd"), array(&dict, b"BFpe")) {
        answer.blooms = Some(Box::new((Bloom(seeds), Bloom(peers))));
    }
    let value = dict.get(b"v").map(|value| value.raw()).filter(|value| value.len() <= VALUE_MAX);
    answer.item = value.and_then(|value| {
        let signed = dict.get(b"k").map(|_| signed(&dict, b""));
        // A key without the rest is nothing that could be checked.
        let signed = if let Some(signed) = signed { Some(signed?) } else { None };
        Some(Box::new(Item { value: value.to_vec(), signed }))
    });
    answer.seq = dict.get_int(b"seq").filter(|_| answer.item.is_none());
    answer.samples = dict.get_bytes(b"samples").and_then(|samples| {
        let hashes = samples.as_chunks::<20>();
        let small = |key| dict.get_int(key).and_then(|value| u32::try_from(value).ok());
        let total = small(b"num")?;
        let interval = small(b"interval").unwrap_or(0);
        let hashes = hashes.0.iter().take(SAMPLES_MAX).map(|hash| InfoHash(*hash)).collect();
        samples.len().is_multiple_of(20).then_some(Samples { hashes, total, interval })
    });
    let ip = root.get_bytes(b"ip").and_then(endpoint);
    Some(Body::Answer { id, ip, answer: Box::new(answer) })
}

/// Adds nodes of `N` bytes each; `None` for a ragged end.
fn compact_nodes<const N: usize>(bytes: &[u8], out: &mut Vec<Contact>) -> Option<()> {
    let (entries, rest) = bytes.as_chunks::<N>();
    for entry in entries.iter().take(NODES_MAX) {
        let (id, addr) = entry.split_at(20);
        let contact = Contact { id: NodeId(id.try_into().ok()?), addr: endpoint(addr)? };
        if is_reachable(contact.addr) {
            out.push(contact);
        }
    }
    rest.is_empty().then_some(())
}

/// An address and a port of 6 or 18 bytes.
pub(crate) fn endpoint(bytes: &[u8]) -> Option<SocketAddr> {
    let (ip, port) = bytes.split_at_checked(bytes.len().checked_sub(2)?)?;
    let ip = match ip.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(ip).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(ip).ok()?),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes(port.try_into().ok()?)))
}

fn error(root: &Dict<'_, '_>) -> Option<Body> {
    let mut parts = root.get_list(b"e")?.iter();
    let code = parts.next()?.as_int()?;
    let text = parts.next().and_then(|text| text.as_bytes()).unwrap_or_default();
    let mut shown = String::new();
    for c in String::from_utf8_lossy(&text[..text.len().min(TEXT_MAX)]).chars() {
        if shown.len() + c.len_utf8() <= TEXT_MAX {
            shown.push(if c.is_control() { ' ' } else { c });
        }
    }
    Some(Body::Error { code, text: shown })
}
