//! Sequence numbers of packets: 16 bits that wrap around.

/// A packet's number. There is no order, only a distance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seq(pub u16);

impl Seq {
    /// The number `n` further on.
    pub const fn plus(self, n: u16) -> Self {
        Self(self.0.wrapping_add(n))
    }

    /// The number `n` before.
    pub const fn minus(self, n: u16) -> Self {
        Self(self.0.wrapping_sub(n))
    }

    /// How far `self` is behind `other` on the shorter way around: negative when it comes before it.
    pub const fn distance_from(self, other: Self) -> i32 {
        self.0.wrapping_sub(other.0) as i16 as i32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wraps() {
        assert_eq!(Seq(0xffff).plus(2), Seq(1));
        assert_eq!(Seq(1).minus(3), Seq(0xfffe));
        assert_eq!(Seq(1).distance_from(Seq(0xffff)), 2);
        assert_eq!(Seq(0xffff).distance_from(Seq(1)), -2);
        assert_eq!(Seq(7).distance_from(Seq(7)), 0);
    }
}
