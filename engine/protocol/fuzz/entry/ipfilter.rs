//! What must hold for any bytes of an IP filter's list. Run by the fuzz target and over the corpus by tests.

use std::net::IpAddr;

use ccbt_protocol::ipfilter::{Builder, Line, Range, parse_line, read};

/// Panics when an invariant breaks.
pub fn run(data: &[u8]) {
    let mut builder = Builder::default();
    let reading =
        read(&mut &data[..], &mut builder).expect("bytes do not fail, and are too few for too many ranges");
    let filter = builder.build();
    assert!(filter.len() as u64 <= reading.ranges);
    assert!(reading.first_bad.len() as u64 <= reading.bad);
    assert!(filter.memory_bytes() <= (256 << 10) + 4 + filter.len() * 32, "memory is the ranges");
    // What a line says alone holds in the whole list.
    for line in data.split(|byte| *byte == b'\n') {
        let Ok(Line::Block(range)) = parse_line(line) else { continue };
        if data.starts_with(b"\xff\xff\xff\xffP2B") || line.len() >= 4000 {
            break;
        }
        let (first, last): (IpAddr, IpAddr) = match range {
            Range::V4(first, last) => {
                assert!(first <= last);
                (IpAddr::V4(first.into()), IpAddr::V4(last.into()))
            }
            Range::V6(first, last) => {
                assert!(first <= last);
                (IpAddr::V6(first.into()), IpAddr::V6(last.into()))
            }
        };
        // A range of IPv6 that begins or ends in ::ffff:0:0/96 has no addresses of IPv6 there.
        assert!(filter.blocks(first) || first != first.to_canonical());
        assert!(filter.blocks(last) || last != last.to_canonical());
    }
}
