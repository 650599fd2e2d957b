//! NIST vectors, and differential tests of every set of kernels against the crates `sha1` and `sha2`.

use std::cell::Cell;

use super::*;
use proptest::prelude::*;

/// The portable kernel with every subset of the others that this machine has; tests run with each.
pub(super) fn backends() -> Vec<Backend> {
    let others = [Kernel::Avx2, Kernel::ShaNi, Kernel::Avx512];
    (0..8)
        .filter_map(|set| {
            let chosen = others.iter().enumerate().filter(|(bit, _)| set >> bit & 1 == 1);
            Backend::of(&chosen.map(|(_, &kernel)| kernel).collect::<Vec<_>>())
        })
        .collect()
}

/// An algorithm and someone else's implementation of it.
trait Oracle: Algorithm {
    fn oracle(bytes: &[u8]) -> Self::Digest;
}

impl Oracle for Sha1Algorithm {
    fn oracle(bytes: &[u8]) -> [u8; 20] {
        <::sha1::Sha1 as ::sha1::Digest>::digest(bytes).into()
    }
}

impl Oracle for Sha256Algorithm {
    fn oracle(bytes: &[u8]) -> [u8; 32] {
        <sha2::Sha256 as sha2::Digest>::digest(bytes).into()
    }
}

fn one<A: Algorithm>(backend: Backend, bytes: &[u8]) -> A::Digest {
    let mut hasher = Hasher::<A>::with_backend(backend);
    hasher.update(bytes);
    hasher.finalize()
}

fn in_step<A: Algorithm>(backend: Backend, messages: &[&[u8]]) -> Vec<A::Digest> {
    let mut hashers = vec![Hasher::<A>::with_backend(backend); messages.len()];
    update_lanes(&mut hashers, messages);
    hashers.into_iter().map(Hasher::finalize).collect()
}

/// By [`digest_all`], which must tell each digest once.
fn all<A: Algorithm>(backend: Backend, messages: &[&[u8]]) -> Vec<A::Digest> {
    let mut digests = vec![None; messages.len()];
    digest_all::<A>(backend, messages.iter().copied(), |number, digest| {
        assert_eq!(digests[number].replace(digest), None, "message {number} given back twice");
    });
    digests.into_iter().map(|digest| digest.expect("every message is given back")).collect()
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

fn hex(digest: impl AsRef<[u8]>) -> String {
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// FIPS 180 examples and the classics: message, SHA-1, SHA-256.
fn vectors() -> Vec<(Vec<u8>, &'static str, &'static str)> {
    let two_blocks = b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
    let long = b"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmn\
                 hijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu";
    vec![
        (
            b"".to_vec(),
            "da39a3ee5e6b4b0d3255bfef95601890afd80709",
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        ),
        (
            b"abc".to_vec(),
            "a9993e364706816aba3e25717850c26c9cd0d89d",
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        ),
        (
            two_blocks.to_vec(),
            "84983e441c3bd26ebaae4aa1f95129e5e54670f1",
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
        ),
        (
            long.to_vec(),
            "a49b2446a02c645bf419f995b67091253a04a259",
            "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1",
        ),
        (
            vec![b'a'; 1_000_000],
            "34aa973cd4c4daa4f61eeb2bdbad27316534016f",
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
        ),
    ]
}

#[test]
fn nist_vectors() {
    for (message, digest_sha1, digest_sha256) in vectors() {
        assert_eq!(hex(sha1(&message)), digest_sha1);
        assert_eq!(hex(sha256(&message)), digest_sha256);
        let abc: &[u8] = b"abc";
        // Enough for every kernel, with a short one among them.
        let messages = [&message, &message, abc, &message, &message, &message, &message, &message, &message];
        for backend in backends() {
            check_vector::<Sha1Algorithm>(backend, &messages, digest_sha1);
            check_vector::<Sha256Algorithm>(backend, &messages, digest_sha256);
        }
    }
}

fn check_vector<A: Oracle>(backend: Backend, messages: &[&[u8]; 9], digest: &str) {
    assert_eq!(hex(one::<A>(backend, messages[0])), digest, "{backend:?}");
    for digests in [in_step::<A>(backend, messages), all::<A>(backend, messages)] {
        assert_eq!(digests[2], A::oracle(b"abc"), "{backend:?}");
        let others = (0..9).filter(|&number| number != 2);
        others.for_each(|number| assert_eq!(hex(digests[number]), digest, "{backend:?}, {number}"));
    }
}

/// One at a time, and all in lanes together.
fn all_lengths<A: Oracle>() {
    let bytes = noise(8192 + 64);
    let messages: Vec<&[u8]> = (0..=8192).map(|len| &bytes[len % 33..][..len]).collect();
    let expected: Vec<A::Digest> = messages.iter().map(|message| A::oracle(message)).collect();
    for kernels in [&[][..], &[Kernel::ShaNi]] {
        let Some(backend) = Backend::of(kernels) else { continue };
        for (message, &expected) in messages.iter().zip(&expected) {
            assert_eq!(one::<A>(backend, message), expected, "{backend:?}, length {}", message.len());
        }
    }
    for backend in backends() {
        for (digests, way) in
            [(in_step::<A>(backend, &messages), "in step"), (all::<A>(backend, &messages), "all")]
        {
            let wrong = digests.iter().zip(&expected).position(|(digest, expected)| digest != expected);
            assert_eq!(wrong, None, "{backend:?}, {way}: first wrong length");
        }
    }
}

#[test]
fn sha1_of_all_lengths_to_8_kib_at_all_kinds_of_starts() {
    all_lengths::<Sha1Algorithm>();
}

#[test]
fn sha256_of_all_lengths_to_8_kib_at_all_kinds_of_starts() {
    all_lengths::<Sha256Algorithm>();
}

#[test]
fn arrays_of_messages() {
    let bytes = noise(5000);
    let (a, b) = (&bytes[..4000], &bytes[1..]);
    assert_eq!(sha1_lanes([a, b, b""]), [a, b, b""].map(Sha1Algorithm::oracle));
    assert_eq!(sha256_lanes([a, b, b""]), [a, b, b""].map(Sha256Algorithm::oracle));
    assert_eq!(sha1_lanes([]), [[0; 20]; 0]);
    update_lanes::<Sha1Algorithm>(&mut [], &[]);
}

/// Every way to cut a batch into groups: all messages, none twice, none beyond what the kernel takes.
fn groups<A: Algorithm>() {
    for backend in backends() {
        assert!((1..=LANES_MAX).contains(&backend.lanes::<A>()), "{backend:?}");
        for batch in 1..=40 {
            let mut waiting = batch;
            while waiting > 0 {
                let (kernel, count) = backend.group::<A>(waiting);
                assert!(kernel.is_available() && (1..=kernel.lanes()).contains(&count), "{backend:?}");
                assert!(count <= waiting, "{backend:?}: {count} of {waiting}");
                waiting -= count;
            }
        }
        assert_eq!(
            backend.group::<A>(backend.lanes::<A>()).1,
            backend.lanes::<A>(),
            "{backend:?}: one full group"
        );
    }
}

#[test]
fn groups_fit_kernels_and_batches() {
    groups::<Sha1Algorithm>();
    groups::<Sha256Algorithm>();
}

#[test]
#[should_panic(expected = "different backends")]
fn backends_are_not_mixed() {
    // Where the CPU has nothing but the portable kernel there is nothing to mix.
    let other = Kernel::ALL.into_iter().rev().find(|kernel| kernel.is_available());
    let other = other.filter(|&kernel| kernel != Kernel::Portable).expect("different backends");
    let mut hashers = [&[][..], &[other]].map(|kernels| Sha1::with_backend(Backend::of(kernels).unwrap()));
    update_lanes(&mut hashers, &[b"a", b"b"]);
}

/// Pieces of `message` by the lengths in `cuts`, and what is left.
fn cut<'a>(message: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut rest = message;
    let mut parts: Vec<&[u8]> = Vec::with_capacity(cuts.len() + 1);
    for &len in cuts {
        let (head, tail) = rest.split_at(len.min(rest.len()));
        parts.push(head);
        rest = tail;
    }
    parts.push(rest);
    parts
}

fn cut_one<A: Oracle>(message: &[u8], cuts: &[usize]) -> Result<(), TestCaseError> {
    for backend in backends() {
        let mut hasher = Hasher::<A>::with_backend(backend);
        cut(message, cuts).into_iter().for_each(|part| hasher.update(part));
        prop_assert_eq!(hasher.finalize(), A::oracle(message), "{:?}", backend);
    }
    Ok(())
}

fn cut_many<A: Oracle>(messages: &[Vec<u8>], cuts: &[Vec<usize>]) -> Result<(), TestCaseError> {
    let expected: Vec<A::Digest> = messages.iter().map(|message| A::oracle(message)).collect();
    for backend in backends() {
        let mut hashers = vec![Hasher::<A>::with_backend(backend); messages.len()];
        let parts: Vec<Vec<&[u8]>> = messages
            .iter()
            .enumerate()
            .map(|(number, message)| {
                cut(message, &cuts.iter().map(|cuts| cuts[number % cuts.len()]).collect::<Vec<_>>())
            })
            .collect();
        for step in 0..=cuts.len() {
            let step: Vec<&[u8]> = parts.iter().map(|parts| parts[step]).collect();
            update_lanes(&mut hashers, &step);
        }
        let digests: Vec<A::Digest> = hashers.into_iter().map(Hasher::finalize).collect();
        prop_assert_eq!(&digests, &expected, "{:?}", backend);
    }
    Ok(())
}

/// Messages arrive (true) and turns of some blocks are taken (false) in any order; each message must come back
/// once, right, and not before as many blocks of it were hashed as it has.
fn refill<A: Oracle>(messages: &[Vec<u8>], turns: &[Option<usize>]) -> Result<(), TestCaseError> {
    for backend in backends() {
        let mut lanes = Lanes::<A, Counted>::with_backend(backend);
        let digests = Cell::new(vec![None; messages.len()]);
        let mut arrived = 0;
        let mut hashed = vec![0; messages.len()];
        let advance = |lanes: &mut Lanes<A, Counted>, hashed: &mut [usize], arrived: usize, max: usize| {
            let before = lanes.len();
            let mut ended = 0;
            hashed[..arrived].iter_mut().for_each(|blocks| *blocks = blocks.saturating_add(max));
            lanes.advance(max, |Counted(number, _), digest| {
                let mut all = digests.take();
                assert_eq!(all[number].replace(digest), None, "message {number} came back twice");
                digests.set(all);
                let blocks = messages[number].len() / BLOCK_LEN + 1;
                assert!(hashed[number] >= blocks, "message {number} came back too early");
                ended += 1;
            });
            assert_eq!(lanes.len(), before - ended);
        };
        for turn in turns.iter().copied().chain(messages.iter().map(|_| None)) {
            if turn.is_none() && arrived < messages.len() {
                while lanes.room() == 0 {
                    advance(&mut lanes, &mut hashed, arrived, usize::MAX);
                }
                lanes.push(Counted(arrived, messages[arrived].clone()));
                arrived += 1;
            } else if let Some(blocks) = turn {
                advance(&mut lanes, &mut hashed, arrived, blocks);
            }
        }
        while !lanes.is_empty() {
            advance(&mut lanes, &mut hashed, arrived, usize::MAX);
        }
        let expected: Vec<_> = messages.iter().map(|message| Some(A::oracle(message))).collect();
        prop_assert_eq!(digests.take(), expected, "{:?}", backend);
    }
    Ok(())
}

#[derive(Debug)]
struct Counted(usize, Vec<u8>);

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.1
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn cuts_do_not_matter(
        bytes in prop::collection::vec(any::<u8>(), 0..8192),
        start in 0usize..64,
        cuts in prop::collection::vec(0usize..400, 0..60),
    ) {
        let message = &bytes[start.min(bytes.len())..];
        cut_one::<Sha1Algorithm>(message, &cuts)?;
        cut_one::<Sha256Algorithm>(message, &cuts)?;
    }

    #[test]
    fn cuts_do_not_matter_to_lanes(
        messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 1..40),
        cuts in prop::collection::vec(prop::collection::vec(0usize..500, 7), 0..12),
    ) {
        cut_many::<Sha1Algorithm>(&messages, &cuts)?;
        cut_many::<Sha256Algorithm>(&messages, &cuts)?;
    }

    #[test]
    fn lanes_are_refilled_and_every_message_comes_back_once(
        messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 1..40),
        turns in prop::collection::vec(prop::option::of(1usize..20), 0..80),
    ) {
        refill::<Sha1Algorithm>(&messages, &turns)?;
        refill::<Sha256Algorithm>(&messages, &turns)?;
    }
}
