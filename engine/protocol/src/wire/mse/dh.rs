//! Diffie-Hellman of MSE: the 768-bit prime with generator 2, secrets of 160 bits.
//!
//! It hides traffic from who only looks; 768 bits keep no secret from who really wants it. Multiplication is Montgomery's
//! (CIOS), the same steps whatever the secret is.

/// Bytes of a public key or shared secret, most significant first.
pub const KEY_LEN: usize = 96;
/// Bytes of a secret.
pub const SECRET_LEN: usize = 20;

const LIMBS: usize = 12;
/// Least significant limb first.
type Number = [u64; LIMBS];

const PRIME: Number = [
    0x0000_0000_0009_0563,
    0xf44c_42e9_a63a_3621,
    0xe485_b576_625e_7ec6,
    0x4fe1_356d_6d51_c245,
    0x302b_0a6d_f25f_1437,
    0xef95_19b3_cd3a_431b,
    0x514a_0879_8e34_04dd,
    0x020b_bea6_3b13_9b22,
    0x2902_4e08_8a67_cc74,
    0xc4c6_628b_80dc_1cd1,
    0xc90f_daa2_2168_c234,
    0xffff_ffff_ffff_ffff,
];

/// -1 / PRIME modulo 2^64.
const INVERSE: u64 = {
    let mut inverse = 1u64;
    let mut round = 0;
    while round < 6 {
        inverse = inverse.wrapping_mul(2u64.wrapping_sub(PRIME[0].wrapping_mul(inverse)));
        round += 1;
    }
    inverse.wrapping_neg()
};

/// 2^768 modulo PRIME: one in Montgomery's form.
const ONE: Number = {
    let mut one = [0; LIMBS];
    let mut borrow = true;
    let mut at = 0;
    while at < LIMBS {
        // 0 - PRIME, for PRIME is more than half of 2^768.
        let (limb, carry) = (!PRIME[at]).overflowing_add(borrow as u64);
        one[at] = limb;
        borrow = carry;
        at += 1;
    }
    one
};

/// 2^1536 modulo PRIME.
const SQUARE: Number = {
    let mut square = ONE;
    let mut round = 0;
    while round < 64 * LIMBS {
        square = twice(&square);
        round += 1;
    }
    square
};

/// `2 * a` modulo PRIME.
const fn twice(a: &Number) -> Number {
    let mut double = [0; LIMBS];
    let mut carry = 0;
    let mut at = 0;
    while at < LIMBS {
        double[at] = a[at] << 1 | carry;
        carry = a[at] >> 63;
        at += 1;
    }
    reduced(&double, carry)
}

/// `a + carry * 2^768`, less than twice PRIME, modulo PRIME.
const fn reduced(a: &Number, carry: u64) -> Number {
    let mut less = [0; LIMBS];
    let mut borrow = 0u64;
    let mut at = 0;
    while at < LIMBS {
        let (first, one) = a[at].overflowing_sub(PRIME[at]);
        let (limb, two) = first.overflowing_sub(borrow);
        less[at] = limb;
        borrow = (one | two) as u64;
        at += 1;
    }
    // All ones when `a` was too small and is kept.
    let keep = (borrow & !carry & 1).wrapping_neg();
    at = 0;
    while at < LIMBS {
        less[at] = less[at] & !keep | a[at] & keep;
        at += 1;
    }
    less
}

/// `a * b / 2^768` modulo PRIME.
fn times(a: &Number, b: &Number) -> Number {
    let mut sum = [0u64; LIMBS + 2];
    for limb in a {
        let mut carry = 0;
        for (to, other) in sum.iter_mut().zip(b) {
            carry += u128::from(*to) + u128::from(*limb) * u128::from(*other);
            *to = carry as u64;
            carry >>= 64;
        }
        carry += u128::from(sum[LIMBS]);
        sum[LIMBS] = carry as u64;
        sum[LIMBS + 1] = (carry >> 64) as u64;
        let factor = u128::from(sum[0].wrapping_mul(INVERSE));
        let mut carry = (u128::from(sum[0]) + factor * u128::from(PRIME[0])) >> 64;
        for at in 1..LIMBS {
            carry += u128::from(sum[at]) + factor * u128::from(PRIME[at]);
            sum[at - 1] = carry as u64;
            carry >>= 64;
        }
        carry += u128::from(sum[LIMBS]);
        sum[LIMBS - 1] = carry as u64;
        sum[LIMBS] = sum[LIMBS + 1] + (carry >> 64) as u64;
    }
    let mut low = [0; LIMBS];
    low.copy_from_slice(&sum[..LIMBS]);
    reduced(&low, sum[LIMBS])
}

/// `base ^ secret` modulo PRIME.
fn power(base: &Number, secret: &[u8; SECRET_LEN]) -> Number {
    let base = times(base, &SQUARE);
    let mut result = ONE;
    for byte in secret {
        for bit in (0..8).rev() {
            result = times(&result, &result);
            let product = times(&result, &base);
            let take = u64::from(byte >> bit & 1).wrapping_neg();
            for (to, other) in result.iter_mut().zip(&product) {
                *to = *to & !take | other & take;
            }
        }
    }
    let mut one = [0; LIMBS];
    one[0] = 1;
    times(&result, &one)
}

fn to_bytes(number: &Number) -> [u8; KEY_LEN] {
    let mut bytes = [0; KEY_LEN];
    for (chunk, limb) in bytes.chunks_exact_mut(8).zip(number.iter().rev()) {
        chunk.copy_from_slice(&limb.to_be_bytes());
    }
    bytes
}

fn from_bytes(bytes: &[u8; KEY_LEN]) -> Number {
    let mut number = [0; LIMBS];
    for (limb, chunk) in number.iter_mut().rev().zip(bytes.chunks_exact(8)) {
        *limb = chunk.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    }
    number
}

/// The public key of a secret.
pub fn public_key(secret: &[u8; SECRET_LEN]) -> [u8; KEY_LEN] {
    let mut two = [0; LIMBS];
    two[0] = 2;
    to_bytes(&power(&two, secret))
}

/// The secret that two share; `None` for a public key that no secret leads to: 0, 1, PRIME - 1 and above.
pub fn shared_secret(theirs: &[u8; KEY_LEN], secret: &[u8; SECRET_LEN]) -> Option<[u8; KEY_LEN]> {
    let number = from_bytes(theirs);
    let mut last = PRIME;
    last[0] -= 1;
    let is_small = number[0] < 2 && number[1..].iter().all(|limb| *limb == 0);
    if is_small || number.iter().rev().ge(last.iter().rev()) {
        return None;
    }
    Some(to_bytes(&power(&number, secret)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2^3 and so on by plain arithmetic; larger ones by the laws that hold for powers.
    #[test]
    fn powers_are_powers() {
        let secret = |n: u8| {
            let mut secret = [0; SECRET_LEN];
            secret[SECRET_LEN - 1] = n;
            secret
        };
        for n in 0..60u8 {
            let mut expected = [0; KEY_LEN];
            expected[KEY_LEN - 8..].copy_from_slice(&(1u64 << n).to_be_bytes());
            assert_eq!(public_key(&secret(n)), expected, "2^{n}");
        }
        let (a, b) = ([0x5a; SECRET_LEN], *b"a secret of 20 bytes");
        let (one, other) = (public_key(&a), public_key(&b));
        assert_eq!(shared_secret(&one, &b), shared_secret(&other, &a));
        assert_ne!(shared_secret(&one, &a), shared_secret(&other, &a));
        // Python: pow(2, int.from_bytes(b"\x5a" * 20), P)
        let known = include_str!("known_key.txt").trim();
        let hex: String = one.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, known);
    }

    #[test]
    fn worthless_keys_are_refused() {
        let secret = [7; SECRET_LEN];
        let mut one = [0; KEY_LEN];
        assert_eq!(shared_secret(&one, &secret), None);
        one[KEY_LEN - 1] = 1;
        assert_eq!(shared_secret(&one, &secret), None);
        one[KEY_LEN - 1] = 2;
        assert_eq!(shared_secret(&one, &secret), Some(public_key(&secret)));
        let mut last = PRIME;
        for less in 0..2 {
            last[0] = PRIME[0] - less;
            assert_eq!(shared_secret(&to_bytes(&last), &secret), None, "PRIME - {less}");
        }
        assert_eq!(shared_secret(&[0xff; KEY_LEN], &secret), None);
        last[0] = PRIME[0] - 2;
        assert!(shared_secret(&to_bytes(&last), &secret).is_some());
    }
}
