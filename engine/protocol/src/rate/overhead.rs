//! What the network carries besides our bytes: an estimate of IP and TCP headers and of acknowledgements.
//!
//! As libtorrent's `rate_limit_ip_overhead`: packets of 1500 bytes, 20 bytes of TCP header and 20 (IPv4) or 40 (IPv6)
//! of IP header each; here an acknowledgement goes back for every second packet (RFC 1122, 4.2.3.2).

/// Bytes of an Ethernet packet.
const MTU: u64 = 1500;

/// Headers of one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overhead {
    /// Bytes of the TCP stream are counted alone.
    None,
    /// As IPv4 carries it.
    V4,
    /// As IPv6 carries it.
    V6,
}

impl Overhead {
    fn header(self) -> u64 {
        match self {
            Self::None => 0,
            Self::V4 => 40,
            Self::V6 => 60,
        }
    }

    /// What `bytes` of the stream count as.
    pub fn cost(self, bytes: u64) -> u64 {
        bytes + packets(bytes, self.header()) * self.header()
    }

    /// What goes back for them.
    pub fn acknowledgements(self, bytes: u64) -> u64 {
        packets(bytes, self.header()).div_ceil(2) * self.header()
    }

    /// Bytes of the stream that `tokens` pay for.
    pub fn affordable(self, tokens: u64) -> u64 {
        let header = self.header();
        let (whole, rest) = (tokens / MTU, tokens % MTU);
        whole * (MTU - header) + rest.saturating_sub(header)
    }
}

/// Packets that `bytes` take when each carries `header` bytes besides.
fn packets(bytes: u64, header: u64) -> u64 {
    bytes.div_ceil(MTU - header)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn packets_are_counted() {
        assert_eq!([0, 1, 1460, 1461].map(|bytes| Overhead::V4.cost(bytes)), [0, 41, 1500, 1541]);
        assert_eq!([1440, 1441].map(|bytes| Overhead::V6.cost(bytes)), [1500, 1561]);
        assert_eq!([1, 2920, 2921].map(|bytes| Overhead::V4.acknowledgements(bytes)), [40, 40, 80]);
        assert_eq!((Overhead::None.cost(77), Overhead::None.acknowledgements(77)), (77, 0));
    }

    proptest! {
        #[test]
        fn what_is_affordable_is_paid_for(tokens in 0u64..10_000_000) {
            for overhead in [Overhead::None, Overhead::V4, Overhead::V6] {
                let bytes = overhead.affordable(tokens);
                prop_assert!(overhead.cost(bytes) <= tokens);
                prop_assert!(overhead.cost(bytes + 1) > tokens);
            }
        }
    }
}
