//! What a node keeps between runs: its names, and others to begin with. A bencoded file of 20 KB at most.
//!
//! Nothing in it is believed: nodes are asked again before they are used, and a name that does not fit the address that
//! others see is changed.

use std::net::SocketAddr;

use super::id::{Contact, NodeId, is_reachable};
use super::krpc::{compact_addr, read_addr};
use crate::bencode::{Encoder, Limits, decode_with};

/// Form of the file.
const VERSION: i64 = 1;
/// Bytes of a file that is looked at.
pub const FILE_MAX: usize = 64 << 10;
/// Nodes of each family.
pub const NODES_MAX: usize = 300;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// For IPv4 and IPv6.
    pub ids: [Option<NodeId>; 2],
    /// At most [`NODES_MAX`] of each family.
    pub nodes: Vec<Contact>,
}

impl Saved {
    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        out.begin_dict();
        for (key, id) in [(&b"id"[..], self.ids[0]), (b"id6", self.ids[1])] {
            if let Some(id) = id {
                out.key(key).bytes(&id.0);
            }
        }
        for (key, v4) in [(&b"nodes"[..], true), (b"nodes6", false)] {
            let nodes = self.nodes.iter().filter(|node| node.addr.is_ipv4() == v4).take(NODES_MAX);
            let bytes: Vec<u8> =
                nodes.flat_map(|node| [&node.id.0[..], &compact_addr(node.addr)].concat()).collect();
            out.key(key).bytes(&bytes);
        }
        out.key(b"version").int(VERSION).end();
        out.finish()
    }

    /// Reads a file; `None` when it is none, or of another version.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > FILE_MAX {
            return None;
        }
        let document = decode_with(bytes, Limits { tokens: 64 }).ok()?;
        let root = document.root().as_dict()?;
        if root.get_int(b"version") != Some(VERSION) {
            return None;
        }
        let id = |key: &[u8]| root.get_bytes(key)?.try_into().ok().map(NodeId);
        let mut nodes = Vec::new();
        for (key, len) in [(&b"nodes"[..], 26), (b"nodes6", 38)] {
            for entry in root.get_bytes(key)?.chunks_exact(len).take(NODES_MAX) {
                let (id, addr) = entry.split_at(20);
                let addr: SocketAddr = read_addr(addr)?;
                if is_reachable(addr) {
                    nodes.push(Contact { id: NodeId(id.try_into().ok()?), addr });
                }
            }
        }
        Some(Self { ids: [id(b"id"), id(b"id6")], nodes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Saved {
        let node =
            |n: u8, addr: &str| Contact { id: NodeId([n; 20]), addr: addr.parse().expect("an address") };
        Saved {
            ids: [Some(NodeId([1; 20])), None],
            nodes: vec![node(2, "1.2.3.4:5"), node(3, "8.8.8.8:9"), node(4, "[2001:db8::1]:7")],
        }
    }

    #[test]
    fn round_trip_and_other_versions() {
        let bytes = sample().encode();
        assert_eq!(Saved::decode(&bytes), Some(sample()));
        let text = String::from_utf8_lossy(&bytes).replace("7:versioni1e", "7:versioni2e");
        assert_eq!(Saved::decode(text.as_bytes()), None);
        assert_eq!(Saved::decode(&bytes[..bytes.len() - 1]), None, "cut");
        assert_eq!(Saved::decode(b""), None);
    }

    /// The file of an earlier release. When this fails, read the old form, too.
    #[test]
    fn the_file_of_every_release_is_read() {
        let golden = b"d2:id20:\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\
            5:nodes52:\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x01\x02\x03\x04\x00\x05\
            \x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x03\x08\x08\x08\x08\x00\x09\
            6:nodes638:\x04\x04\x04\x04\x04\x04\x04\x04\x04\x04\x04\x04\x04\x04\x04\x04\x04\x04\x04\x04\
            \x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x07\
            7:versioni1ee";
        assert_eq!(Saved::decode(golden), Some(sample()));
        assert_eq!(sample().encode(), golden, "what is written now");
    }

    #[test]
    fn bounded() {
        let node = |n: u32| {
            let addr = SocketAddr::new(std::net::IpAddr::V4((0x0800_0000 + n).into()), 1);
            Contact { id: NodeId([0; 20]), addr }
        };
        let saved = Saved { ids: [None; 2], nodes: (0..1000).map(node).collect() };
        let bytes = saved.encode();
        assert!(bytes.len() < FILE_MAX);
        assert_eq!(Saved::decode(&bytes).expect("good").nodes.len(), NODES_MAX);
        assert_eq!(Saved::decode(&vec![b'd'; FILE_MAX + 1]), None);
    }

    proptest! {
        #[test]
        fn any_change_is_survived(at in 0usize..200, byte: u8) {
            let mut bytes = sample().encode();
            let at = at % bytes.len();
            bytes[at] = byte;
            if let Some(saved) = Saved::decode(&bytes) {
                prop_assert!(saved.nodes.iter().all(|node| is_reachable(node.addr)));
            }
        }
    }
}
