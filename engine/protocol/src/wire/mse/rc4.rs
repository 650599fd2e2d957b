//! RC4 as MSE uses it: in place, the first 1024 bytes of the stream thrown away.

/// Bytes of the key stream that are not used.
const DROPPED: usize = 1024;

/// A direction's cipher: the position in its key stream.
#[derive(Clone)]
pub struct Rc4 {
    state: [u8; 256],
    i: u8,
    j: u8,
}

impl std::fmt::Debug for Rc4 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rc4")
    }
}

impl Rc4 {
    /// A cipher at the beginning of the part of its stream that is used. Panics for an empty key.
    pub fn new(key: &[u8]) -> Self {
        let mut this = Self::whole(key);
        let mut dropped = [0; DROPPED];
        this.apply(&mut dropped);
        this
    }

    fn whole(key: &[u8]) -> Self {
        let mut state = std::array::from_fn(|n| n as u8);
        let mut j = 0u8;
        for i in 0..256 {
            j = j.wrapping_add(state[i]).wrapping_add(key[i % key.len()]);
            state.swap(i, usize::from(j));
        }
        Self { state, i: 0, j: 0 }
    }

    /// Encrypts or decrypts the next bytes of the stream.
    pub fn apply(&mut self, bytes: &mut [u8]) {
        let (mut i, mut j) = (self.i, self.j);
        for byte in bytes {
            i = i.wrapping_add(1);
            let a = self.state[usize::from(i)];
            j = j.wrapping_add(a);
            let b = self.state[usize::from(j)];
            (self.state[usize::from(i)], self.state[usize::from(j)]) = (b, a);
            *byte ^= self.state[usize::from(a.wrapping_add(b))];
        }
        (self.i, self.j) = (i, j);
    }

    /// The cipher as it was `back` bytes ago.
    pub(super) fn rewound(&self, back: usize) -> Self {
        let mut this = self.clone();
        for _ in 0..back {
            let (a, b) = (this.state[usize::from(this.i)], this.state[usize::from(this.j)]);
            (this.state[usize::from(this.i)], this.state[usize::from(this.j)]) = (b, a);
            // `b` was at `i` before the swap, and had been added to `j`.
            this.j = this.j.wrapping_sub(b);
            this.i = this.i.wrapping_sub(1);
        }
        this
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6229, key 0x0102030405: offsets 0, 1024 and 1040.
    #[test]
    fn vectors() {
        let key = [1, 2, 3, 4, 5];
        let mut first = [0; 16];
        Rc4::whole(&key).apply(&mut first);
        assert_eq!(
            first,
            [0xb2, 0x39, 0x63, 0x05, 0xf0, 0x3d, 0xc0, 0x27, 0xcc, 0xc3, 0x52, 0x4a, 0x0a, 0x11, 0x18, 0xa8]
        );
        let mut used = [0; 32];
        Rc4::new(&key).apply(&mut used);
        let at_1024 =
            [0x30, 0xab, 0xbc, 0xc7, 0xc2, 0x0b, 0x01, 0x60, 0x9f, 0x23, 0xee, 0x2d, 0x5f, 0x6b, 0xb7, 0xdf];
        assert_eq!(used[..16], at_1024);
        let mut split = Rc4::new(&key);
        let mut parts = [0; 32];
        let (one, two) = parts.split_at_mut(5);
        split.apply(one);
        split.apply(two);
        assert_eq!(parts, used);
        let mut again = [0; 20];
        split.rewound(20).apply(&mut again);
        assert_eq!(again, used[12..]);
    }
}
