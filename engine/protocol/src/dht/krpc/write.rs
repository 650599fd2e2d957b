//! From messages to bytes.

use std::net::{IpAddr, SocketAddr};

use super::{Answer, Body, Item, Message, NodeId, Query, Want};
use crate::bencode::Encoder;

/// What we call ourselves in `v`: client and version.
const VERSION: &[u8; 4] = b"CF\x00\x01";

impl Message {
    /// The datagram.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        out.begin_dict();
        match &self.body {
            Body::Query { id, read_only, query } => {
                out.key(b"a").begin_dict();
                write_arguments(&mut out, id, query);
                out.end();
                out.key(b"q").bytes(query.method());
                if *read_only {
                    out.key(b"ro").int(1);
                }
            }
            Body::Answer { id, ip, answer } => {
                if let Some(ip) = ip {
                    out.key(b"ip").bytes(&compact(*ip));
                }
                out.key(b"r").begin_dict();
                write_answer(&mut out, id, answer);
                out.end();
            }
            Body::Error { code, text } => {
                out.key(b"e").begin_list().int(*code).bytes(text.as_bytes()).end();
            }
        }
        out.key(b"t").bytes(&self.transaction);
        out.key(b"v").bytes(VERSION);
        let kind: &[u8] = match &self.body {
            Body::Query { .. } => b"q",
            Body::Answer { .. } => b"r",
            Body::Error { .. } => b"e",
        };
        out.key(b"y").bytes(kind);
        out.end();
        out.finish()
    }
}

impl Query {
    /// Its name on the wire.
    pub fn method(&self) -> &'static [u8] {
        match self {
            Self::Ping => b"ping",
            Self::FindNode { .. } => b"find_node",
            Self::GetPeers { .. } => b"get_peers",
            Self::AnnouncePeer { .. } => b"announce_peer",
            Self::Get { .. } => b"get",
            Self::Put { .. } => b"put",
            Self::SampleInfohashes { .. } => b"sample_infohashes",
        }
    }
}

fn write_arguments(out: &mut Encoder, id: &NodeId, query: &Query) {
    if let Query::Put { cas: Some(cas), .. } = query {
        out.key(b"cas").int(*cas);
    }
    out.key(b"id").bytes(&id.0);
    match query {
        Query::Ping => {}
        Query::FindNode { target, want } | Query::SampleInfohashes { target, want } => {
            out.key(b"target").bytes(&target.0);
            write_want(out, *want);
        }
        Query::GetPeers { info_hash, want, no_seeds, scrape } => {
            out.key(b"info_hash").bytes(&info_hash.0);
            for (name, is_set) in [(&b"noseed"[..], no_seeds), (b"scrape", scrape)] {
                if *is_set {
                    out.key(name).int(1);
                }
            }
            write_want(out, *want);
        }
        Query::AnnouncePeer { info_hash, port, seed, token } => {
            if port.is_none() {
                out.key(b"implied_port").int(1);
            }
            out.key(b"info_hash").bytes(&info_hash.0);
            if let Some(port) = port {
                out.key(b"port").int(i64::from(*port));
            }
            if *seed {
                out.key(b"seed").int(1);
            }
            out.key(b"token").bytes(token);
        }
        Query::Get { target, seq, want } => {
            if let Some(seq) = seq {
                out.key(b"seq").int(*seq);
            }
            out.key(b"target").bytes(&target.0);
            write_want(out, *want);
        }
        Query::Put { item, token, .. } => write_put(out, item, token),
    }
}

fn write_put(out: &mut Encoder, item: &Item, token: &[u8]) {
    if let Some(signed) = &item.signed {
        out.key(b"k").bytes(&signed.key);
        if !signed.salt.is_empty() {
            out.key(b"salt").bytes(&signed.salt);
        }
        out.key(b"seq").int(signed.seq);
        out.key(b"sig").bytes(&signed.signature);
    }
    out.key(b"token").bytes(token);
    out.key(b"v").raw(&item.value);
}

fn write_want(out: &mut Encoder, want: Want) {
    if want == Want::default() {
        return;
    }
    out.key(b"want").begin_list();
    if want.v4 {
        out.bytes(b"n4");
    }
    if want.v6 {
        out.bytes(b"n6");
    }
    out.end();
}

fn write_answer(out: &mut Encoder, id: &NodeId, answer: &Answer) {
    if let Some(blooms) = &answer.blooms {
        out.key(b"BFpe").bytes(&blooms.1.0);
        out.key(b"BFsd").bytes(&blooms.0.0);
    }
    out.key(b"id").bytes(&id.0);
    if let Some(samples) = &answer.samples {
        out.key(b"interval").int(i64::from(samples.interval));
    }
    let signed = answer.item.as_ref().and_then(|item| item.signed.as_ref());
    if let Some(signed) = signed {
        out.key(b"k").bytes(&signed.key);
    }
    for (name, v4) in [(&b"nodes"[..], true), (b"nodes6", false)] {
        let nodes = answer.nodes.iter().filter(|node| node.addr.is_ipv4() == v4);
        let bytes: Vec<u8> = nodes.flat_map(|node| [&node.id.0[..], &compact(node.addr)].concat()).collect();
        if !bytes.is_empty() {
            out.key(name).bytes(&bytes);
        }
    }
    if let Some(samples) = &answer.samples {
        out.key(b"num").int(i64::from(samples.total));
        let hashes: Vec<u8> = samples.hashes.iter().flat_map(|hash| hash.0).collect();
        out.key(b"samples").bytes(&hashes);
    }
    if let Some(seq) = answer.seq.or(signed.map(|signed| signed.seq)) {
        out.key(b"seq").int(seq);
    }
    if let Some(signed) = signed {
        out.key(b"sig").bytes(&signed.signature);
    }
    if let Some(token) = &answer.token {
        out.key(b"token").bytes(token);
    }
    if let Some(item) = &answer.item {
        out.key(b"v").raw(&item.value);
    }
    if !answer.values.is_empty() {
        out.key(b"values").begin_list();
        for value in &answer.values {
            out.bytes(&compact(*value));
        }
        out.end();
    }
}

/// An address and a port in 6 or 18 bytes.
pub(crate) fn compact(addr: SocketAddr) -> Vec<u8> {
    let mut bytes = match addr.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    bytes.extend_from_slice(&addr.port().to_be_bytes());
    bytes
}
