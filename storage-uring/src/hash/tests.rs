//! NIST vectors, and differential tests of every backend and lane against the `sha1` crate.

use super::*;
use proptest::prelude::*;

/// Backends of this machine; tests run with each.
fn backends() -> Vec<Backend> {
    [Backend::ShaNi, Backend::Portable].into_iter().filter(|backend| backend.is_available()).collect()
}

fn oracle(bytes: &[u8]) -> [u8; 20] {
    use ::sha1::Digest;
    ::sha1::Sha1::digest(bytes).into()
}

fn with(backend: Backend, bytes: &[u8]) -> [u8; 20] {
    let mut hasher = Sha1::with_backend(backend);
    hasher.update(bytes);
    hasher.finalize()
}

fn lanes_with(backend: Backend, messages: &[&[u8]]) -> Vec<[u8; 20]> {
    let mut hashers = vec![Sha1::with_backend(backend); messages.len()];
    update_lanes(&mut hashers, messages);
    hashers.into_iter().map(Sha1::finalize).collect()
}

/// Bytes without a short period.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

fn hex(digest: [u8; 20]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// FIPS 180 examples and the classics.
fn vectors() -> Vec<(Vec<u8>, &'static str)> {
    vec![
        (b"".to_vec(), "da39a3ee5e6b4b0d3255bfef95601890afd80709"),
        (b"abc".to_vec(), "a9993e364706816aba3e25717850c26c9cd0d89d"),
        (
            b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq".to_vec(),
            "84983e441c3bd26ebaae4aa1f95129e5e54670f1",
        ),
        (
            b"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmn\
              hijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu"
                .to_vec(),
            "a49b2446a02c645bf419f995b67091253a04a259",
        ),
        (vec![b'a'; 1_000_000], "34aa973cd4c4daa4f61eeb2bdbad27316534016f"),
    ]
}

#[test]
fn nist_vectors() {
    for (message, digest) in vectors() {
        assert_eq!(hex(sha1(&message)), digest);
        for backend in backends() {
            assert_eq!(hex(with(backend, &message)), digest, "{backend:?}");
            let lanes: Vec<String> =
                lanes_with(backend, &[&message, b"abc", &message]).into_iter().map(hex).collect();
            let abc = "a9993e364706816aba3e25717850c26c9cd0d89d";
            assert_eq!(lanes, [digest, abc, digest], "{backend:?}");
        }
    }
}

#[test]
fn all_lengths_to_8_kib_at_all_kinds_of_starts() {
    let bytes = noise(2 * 8192 + 64);
    for len in 0..=8192 {
        let start = len % 33;
        let message = &bytes[start..start + len];
        let expected = oracle(message);
        assert_eq!(sha1(message), expected, "length {len}");
        for backend in backends() {
            assert_eq!(with(backend, message), expected, "{backend:?}, length {len}");
        }
    }
}

#[test]
fn lanes_of_any_lengths_agree() {
    let bytes = noise(8192 + 64);
    for len in (0..300).chain((300..=8192).step_by(41)) {
        for count in 0..=LANES_MAX + 2 {
            // The first two are of one length, the others of any.
            let lens: Vec<usize> = (0..count)
                .map(|lane| if lane < 2 { len } else { (len * 7919 + lane * 1237) % 8193 })
                .collect();
            let messages: Vec<&[u8]> =
                lens.iter().enumerate().map(|(lane, &len)| &bytes[lane * 5..][..len]).collect();
            let expected: Vec<[u8; 20]> = messages.iter().map(|message| oracle(message)).collect();
            for backend in backends() {
                assert_eq!(lanes_with(backend, &messages), expected, "{backend:?}, lengths {lens:?}");
            }
        }
    }
    let (a, b) = (&bytes[..5000], &bytes[1..8000]);
    assert_eq!(sha1_lanes([a, b]), [oracle(a), oracle(b)]);
}

proptest! {
    #[test]
    fn cuts_do_not_matter(
        bytes in prop::collection::vec(any::<u8>(), 0..8192),
        start in 0usize..64,
        cuts in prop::collection::vec(0usize..400, 0..60),
    ) {
        let message = &bytes[start.min(bytes.len())..];
        let expected = oracle(message);
        for backend in backends() {
            let mut hasher = Sha1::with_backend(backend);
            let mut rest = message;
            for &cut in &cuts {
                let (head, tail) = rest.split_at(cut.min(rest.len()));
                hasher.update(head);
                rest = tail;
            }
            hasher.update(rest);
            prop_assert_eq!(hasher.finalize(), expected);
        }
    }

    #[test]
    fn cuts_do_not_matter_to_lanes(
        messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..4000), 1..6),
        cuts in prop::collection::vec(prop::collection::vec(0usize..500, 5), 0..30),
    ) {
        let expected: Vec<[u8; 20]> = messages.iter().map(|message| oracle(message)).collect();
        for backend in backends() {
            let mut hashers = vec![Sha1::with_backend(backend); messages.len()];
            let mut rests: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
            for cuts in &cuts {
                let mut heads: Vec<&[u8]> = Vec::new();
                for (rest, &cut) in rests.iter_mut().zip(cuts) {
                    let (head, tail) = rest.split_at(cut.min(rest.len()));
                    heads.push(head);
                    *rest = tail;
                }
                update_lanes(&mut hashers, &heads);
            }
            update_lanes(&mut hashers, &rests);
            let digests: Vec<[u8; 20]> = hashers.into_iter().map(Sha1::finalize).collect();
            prop_assert_eq!(digests, expected.clone());
        }
    }
}
