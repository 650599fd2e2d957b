//! Whether a batch is sent without a copy in the kernel (`IORING_OP_SENDMSG_ZC`): the rule, without a socket.
//!
//! Role: decides for each batch, and learns from what the kernel reports. Owner: a shard's ring, which asks before each
//! send with payload and passes on every report. Invariants: nothing is tried again on a connection that gave up; what
//! is held for the kernel never exceeds `held_max`, however slowly peers acknowledge.
//!
//! A send without a copy pins the pages until the peer has acknowledged them. That pays where the network card reads
//! them itself. Loopback, veth, tun and cards without scatter-gather make the kernel copy after all, and later, which
//! costs more than a plain send: `IORING_SEND_ZC_REPORT_USAGE` tells.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// When payload is sent without a copy in the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ZeroCopySend {
    /// Where it is found to work: never to addresses of this machine, and no more where the kernel says that it copied.
    #[default]
    Auto,
    /// Always, unless the kernel refuses.
    On,
    /// Never.
    Off,
}

impl std::str::FromStr for ZeroCopySend {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            _ => Err("must be auto, on or off".to_owned()),
        }
    }
}

/// Batches below this are copied with [`ZeroCopySend::Auto`]: pinning pages and a second completion cost more than
/// copying a few of them. The kernel's documentation (networking/msg_zerocopy) puts the break-even at about 10 KiB; two
/// blocks are well above it.
pub const AUTO_BYTES_MIN: usize = 32 * 1024;
/// Reports of copies in a row after which a connection gives up: one may be a retransmission or a tap.
const COPIES_MAX: u8 = 4;
/// How long a route is spared after that; routes and cards change.
const ROUTE_SPARED: Duration = Duration::from_secs(600);

/// What one connection has learnt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ZeroCopyConn {
    /// Nothing was decided yet.
    #[default]
    Unknown,
    /// It is used; so many of the last reports in a row said "copied".
    Used {
        /// Reports of copies in a row.
        copies: u8,
    },
    /// It is not used any more.
    GaveUp,
}

/// The rule of one shard.
#[derive(Debug)]
pub struct ZeroCopyRule {
    mode: ZeroCopySend,
    held: usize,
    held_max: usize,
    /// Local addresses (each stands for the interface that has it) over which the kernel copied, and until when they
    /// are spared.
    spared: HashMap<IpAddr, Instant>,
}

impl ZeroCopyRule {
    /// A rule under which at most `held_max` bytes wait for acknowledgement at a time.
    pub fn new(mode: ZeroCopySend, held_max: usize) -> Self {
        Self { mode, held: 0, held_max, spared: HashMap::new() }
    }

    /// Whether this batch of `len` bytes is sent without a copy. `ends`: local and remote address, asked for once per
    /// connection; `None` when they cannot be had.
    pub fn decide(
        &self,
        conn: &mut ZeroCopyConn,
        len: usize,
        now: Instant,
        ends: impl FnOnce() -> Option<(IpAddr, IpAddr)>,
    ) -> bool {
        if self.mode == ZeroCopySend::Off || *conn == ZeroCopyConn::GaveUp || len > self.held_max - self.held
        {
            return false;
        }
        if self.mode == ZeroCopySend::Auto && len < AUTO_BYTES_MIN {
            return false;
        }
        if *conn == ZeroCopyConn::Unknown {
            let usable =
                self.mode == ZeroCopySend::On || ends().is_some_and(|ends| self.is_worth_a_try(ends, now));
            *conn = if usable { ZeroCopyConn::Used { copies: 0 } } else { ZeroCopyConn::GaveUp };
        }
        *conn != ZeroCopyConn::GaveUp
    }

    fn is_worth_a_try(&self, (local, remote): (IpAddr, IpAddr), now: Instant) -> bool {
        let (local, remote) = (local.to_canonical(), remote.to_canonical());
        let same_machine = remote.is_loopback() || local == remote;
        !same_machine && self.spared.get(&local).is_none_or(|until| *until <= now)
    }

    /// A batch of `len` bytes is held for the kernel from now on.
    pub fn hold(&mut self, len: usize) {
        self.held += len;
        assert!(self.held <= self.held_max, "decide was not asked");
    }

    /// The kernel needs it no more.
    pub fn let_go(&mut self, len: usize) {
        self.held -= len;
    }

    /// Bytes held for the kernel.
    pub fn held(&self) -> usize {
        self.held
    }

    /// The kernel reports whether it copied what it was given. `local`: the connection's address here, asked for when
    /// it gives up. Returns whether it does.
    pub fn report(
        &mut self,
        conn: &mut ZeroCopyConn,
        copied: bool,
        now: Instant,
        local: impl FnOnce() -> Option<IpAddr>,
    ) -> bool {
        let ZeroCopyConn::Used { copies } = conn else { return false };
        if !copied {
            *copies = 0;
            return false;
        }
        *copies = copies.saturating_add(1);
        if self.mode != ZeroCopySend::Auto || *copies < COPIES_MAX {
            return false;
        }
        *conn = ZeroCopyConn::GaveUp;
        if let Some(local) = local() {
            self.spared.insert(local.to_canonical(), now + ROUTE_SPARED);
        }
        true
    }

    /// The kernel would not (no memory it may lock, an operation it does not know): this connection copies from now on.
    pub fn refused(&mut self, conn: &mut ZeroCopyConn) {
        *conn = ZeroCopyConn::GaveUp;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: usize = 1 << 20;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn asks(
        rule: &ZeroCopyRule,
        conn: &mut ZeroCopyConn,
        len: usize,
        ends: (&str, &str),
        now: Instant,
    ) -> bool {
        rule.decide(conn, len, now, || Some((ip(ends.0), ip(ends.1))))
    }

    #[test]
    fn never_on_this_machine_and_never_for_little_unless_it_is_wanted() {
        let now = Instant::now();
        let auto = ZeroCopyRule::new(ZeroCopySend::Auto, MIB);
        let tries = |ends, len| asks(&auto, &mut ZeroCopyConn::Unknown, len, ends, now);
        assert!(tries(("10.0.0.1", "10.0.0.2"), MIB));
        assert!(tries(("fe80::1", "fe80::2"), AUTO_BYTES_MIN));
        assert!(!tries(("10.0.0.1", "10.0.0.2"), AUTO_BYTES_MIN - 1));
        for here in [("127.0.0.1", "127.0.0.2"), ("::1", "::1"), ("10.0.0.1", "10.0.0.1")] {
            assert!(!tries(here, MIB), "{here:?}");
        }
        assert!(!tries(("::ffff:127.0.0.1", "::ffff:127.0.0.1"), MIB), "a mapped address");
        assert!(!auto.decide(&mut ZeroCopyConn::Unknown, MIB, now, || None), "unknown ends");
        let on = ZeroCopyRule::new(ZeroCopySend::On, MIB);
        assert!(asks(&on, &mut ZeroCopyConn::Unknown, 1, ("127.0.0.1", "127.0.0.1"), now));
        let off = ZeroCopyRule::new(ZeroCopySend::Off, MIB);
        assert!(!asks(&off, &mut ZeroCopyConn::Unknown, MIB, ("10.0.0.1", "10.0.0.2"), now));
    }

    #[test]
    fn its_words_are_read() {
        let read = ["auto", "on", "off"].map(|word| word.parse::<ZeroCopySend>().unwrap());
        assert_eq!(read, [ZeroCopySend::Auto, ZeroCopySend::On, ZeroCopySend::Off]);
        assert!("yes".parse::<ZeroCopySend>().is_err());
    }

    #[test]
    fn a_small_batch_decides_nothing_for_later() {
        let rule = ZeroCopyRule::new(ZeroCopySend::Auto, MIB);
        let mut conn = ZeroCopyConn::Unknown;
        assert!(!asks(&rule, &mut conn, 1, ("10.0.0.1", "10.0.0.2"), Instant::now()));
        assert_eq!(conn, ZeroCopyConn::Unknown);
        assert!(asks(&rule, &mut conn, MIB, ("10.0.0.1", "10.0.0.2"), Instant::now()));
    }

    #[test]
    fn copies_in_a_row_end_it_for_the_connection_and_spare_the_route_for_a_while() {
        let now = Instant::now();
        let mut rule = ZeroCopyRule::new(ZeroCopySend::Auto, MIB);
        let ends = ("10.0.0.1", "10.0.0.2");
        let mut conn = ZeroCopyConn::Unknown;
        assert!(asks(&rule, &mut conn, MIB, ends, now));
        for copied in [true, true, true, false, true, true, true] {
            assert!(!rule.report(&mut conn, copied, now, || Some(ip(ends.0))));
        }
        assert!(asks(&rule, &mut conn, MIB, ends, now));
        assert!(rule.report(&mut conn, true, now, || Some(ip(ends.0))));
        assert!(!asks(&rule, &mut conn, MIB, ends, now));
        assert!(!asks(&rule, &mut ZeroCopyConn::Unknown, MIB, ends, now), "its route is spared");
        assert!(
            asks(&rule, &mut ZeroCopyConn::Unknown, MIB, ("10.9.0.1", "10.9.0.2"), now),
            "others are not"
        );
        assert!(asks(&rule, &mut ZeroCopyConn::Unknown, MIB, ends, now + ROUTE_SPARED));
        assert!(!asks(&rule, &mut conn, MIB, ends, now + ROUTE_SPARED), "a connection does not try again");
    }

    #[test]
    fn on_puts_up_with_copies_but_not_with_a_refusal() {
        let now = Instant::now();
        let mut rule = ZeroCopyRule::new(ZeroCopySend::On, MIB);
        let mut conn = ZeroCopyConn::Unknown;
        let ends = ("127.0.0.1", "127.0.0.1");
        assert!(asks(&rule, &mut conn, MIB, ends, now));
        for _ in 0..1000 {
            assert!(!rule.report(&mut conn, true, now, || None));
        }
        assert!(asks(&rule, &mut conn, MIB, ends, now));
        rule.refused(&mut conn);
        assert!(!asks(&rule, &mut conn, MIB, ends, now));
    }

    proptest! {
        /// Whatever comes: a connection that gave up stays so, nothing beyond the limit is held, a decision for `Auto`
        /// holds what it promises, and four copies in a row always end it.
        #[test]
        fn promises_hold(steps in prop::collection::vec((0_u8..4, 0_usize..200_000, any::<bool>()), 1..200)) {
            let now = Instant::now();
            let mut rule = ZeroCopyRule::new(ZeroCopySend::Auto, 400_000);
            let mut conn = ZeroCopyConn::Unknown;
            let (mut held, mut row) = (Vec::new(), 0);
            for (kind, len, copied) in steps {
                let before = conn;
                match kind {
                    0 | 1 if asks(&rule, &mut conn, len, ("10.0.0.1", "10.0.0.2"), now) => {
                        prop_assert!(len >= AUTO_BYTES_MIN);
                        rule.hold(len);
                        held.push(len);
                    }
                    0 | 1 => {}
                    2 => {
                        if let Some(len) = held.pop() {
                            rule.let_go(len);
                            row = if copied { row + 1 } else { 0 };
                            let gave_up = rule.report(&mut conn, copied, now, || Some(ip("10.0.0.1")));
                            prop_assert_eq!(gave_up, before != ZeroCopyConn::GaveUp && row == u32::from(COPIES_MAX));
                        }
                    }
                    _ if len < 2_000 => rule.refused(&mut conn),
                    _ => {}
                }
                prop_assert!(before != ZeroCopyConn::GaveUp || conn == ZeroCopyConn::GaveUp);
                prop_assert_eq!(rule.held(), held.iter().sum::<usize>());
                prop_assert!(rule.held() <= 400_000);
            }
        }
    }
}
