//! Both sides against each other in any fragments, and peers that send anything.

use proptest::prelude::*;

use super::*;

const HASH: InfoHash = InfoHash([9; 20]);

/// Runs a handshake in fragments of `step` bytes, then a message each way; returns whether it is encrypted.
fn meet(provided: Methods, allowed: Methods, step: usize, pads: [usize; 2]) -> Result<bool, MseError> {
    let mut to_responder = Vec::new();
    let pad = [0x33; PAD_MAX];
    let mut initiator =
        Initiator::new([1; 20], HASH, provided, b"initial", &pad[..pads[0]], &mut to_responder);
    let mut responder = Responder::new([2; 20], allowed);
    let (mut to_initiator, mut ends) = (Vec::new(), (None, None));
    let mut is_greeted = false;
    for _ in 0..5000 {
        let now: Vec<u8> = to_responder.drain(..step.min(to_responder.len())).collect();
        if !now.is_empty() && ends.1.is_none() {
            let mut progress = responder.push(&now, &pad[..pads[1]], &mut to_initiator)?;
            if let Progress::Torrent(name) = progress {
                assert_eq!(name, torrent_hash(HASH));
                progress = responder.torrent(HASH, &mut to_initiator)?;
            }
            if let Progress::Established(mut end) = progress {
                // The stream begins in the same breath.
                let mut greeting = b"greeting".to_vec();
                if let Some(ciphers) = &mut end.ciphers {
                    ciphers.outgoing.apply(&mut greeting);
                }
                to_initiator.extend(greeting);
                ends.1 = Some(end);
            }
        } else if let Some(end) = &mut ends.1 {
            take_stream(end, &now);
        }
        let now: Vec<u8> = to_initiator.drain(..step.min(to_initiator.len())).collect();
        if let Some(end) = &mut ends.0 {
            take_stream(end, &now);
        } else if let Some(end) = initiator.push(&now, &mut to_responder)? {
            ends.0 = Some(end);
        }
        if let (Some(end), false) = (&mut ends.0, is_greeted) {
            is_greeted = true;
            let mut more = b" and more".to_vec();
            if let Some(ciphers) = &mut end.ciphers {
                ciphers.outgoing.apply(&mut more);
            }
            to_responder.extend(more);
        }
    }
    let (Some(one), Some(other)) = ends else { panic!("it never ends") };
    assert_eq!((&one.rest[..], &other.rest[..]), (&b"greeting"[..], &b"initial and more"[..]));
    assert_eq!(one.ciphers.is_some(), other.ciphers.is_some());
    Ok(one.ciphers.is_some())
}

fn take_stream(end: &mut Established, bytes: &[u8]) {
    let start = end.rest.len();
    end.rest.extend_from_slice(bytes);
    if let Some(ciphers) = &mut end.ciphers {
        ciphers.incoming.apply(&mut end.rest[start..]);
    }
}

#[test]
fn both_sides_agree_in_any_fragments() {
    let (plain, rc4) = (Methods { plain: true, rc4: false }, Methods { plain: false, rc4: true });
    for step in [1, 7, 100, 10_000] {
        for pads in [[0, 0], [PAD_MAX, 3], [17, PAD_MAX]] {
            assert_eq!(meet(Methods::BOTH, Methods::BOTH, step, pads), Ok(false));
            assert_eq!(meet(Methods::BOTH, rc4, step, pads), Ok(true));
            assert_eq!(meet(plain, Methods::BOTH, step, pads), Ok(false));
            assert_eq!(meet(Methods::BOTH, plain, step, pads), Ok(false));
            assert_eq!(meet(rc4, Methods::BOTH, step, pads), Ok(true));
            assert_eq!(meet(rc4, plain, step, pads), Err(MseError::NoMethod));
        }
    }
}

#[test]
fn what_is_not_mse_is_refused_within_bounds() {
    let mut responder = Responder::new([2; 20], Methods::BOTH);
    let (mut out, mut taken) = (Vec::new(), 0);
    let refused = loop {
        match responder.push(&[0x77; 50], &[], &mut out) {
            Ok(_) => taken += 50,
            Err(error) => break error,
        }
        assert!(taken < 1000, "it never says no");
    };
    assert_eq!(refused, MseError::NotFound);
    assert_eq!(out.len(), dh::KEY_LEN, "one public key");
    let mut initiator = Initiator::new([1; 20], HASH, Methods::BOTH, b"", &[], &mut out);
    assert_eq!(initiator.push(&[0x77; 700], &mut out).unwrap_err(), MseError::NotFound);
    let mut initiator = Initiator::new([1; 20], HASH, Methods::BOTH, b"", &[], &mut out);
    assert_eq!(initiator.push(&[0; 96], &mut out).unwrap_err(), MseError::Key);
}

/// A peer that knows how to encrypt, but sends other numbers than it should.
#[test]
fn impossible_numbers_are_refused() {
    let answer = |fields: &[u8]| {
        let mut hello = Vec::new();
        let mut responder = Responder::new([2; 20], Methods::BOTH);
        responder.push(&dh::public_key(&[1; 20]), &[], &mut hello).unwrap();
        let shared = dh::shared_secret(hello[..96].try_into().unwrap(), &[1; 20]).unwrap();
        let mut bytes = sha1(&[b"req1", &shared]).to_vec();
        let mask = sha1(&[b"req3", &shared]);
        bytes.extend(torrent_hash(HASH).iter().zip(mask).map(|(a, b)| a ^ b));
        let mut fields = fields.to_vec();
        ciphers(&shared, HASH).0.apply(&mut fields);
        bytes.extend(fields);
        let Progress::Torrent(_) = responder.push(&bytes, &[], &mut hello).unwrap() else {
            panic!("no torrent")
        };
        responder.torrent(HASH, &mut hello).map(|progress| matches!(progress, Progress::Established(_)))
    };
    let fields = |vc: u8, methods: u8, pad: u16, initial: u16| {
        let mut fields = vec![vc, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, methods];
        fields.extend_from_slice(&pad.to_be_bytes());
        fields.resize(14 + usize::from(pad.min(600)), 0);
        fields.extend_from_slice(&initial.to_be_bytes());
        fields
    };
    assert_eq!(answer(&fields(0, 3, 0, 0)), Ok(true));
    assert_eq!(answer(&fields(0, 3, 512, 0)), Ok(true));
    assert_eq!(answer(&fields(0, 3, 0, 1)), Ok(false), "one byte is missing");
    assert_eq!(answer(&fields(1, 3, 0, 0)), Err(MseError::Malformed));
    assert_eq!(answer(&fields(0, 3, 513, 0)), Err(MseError::Malformed));
    assert_eq!(answer(&fields(0, 3, 0, 4097)), Err(MseError::Malformed));
    assert_eq!(answer(&fields(0, 4, 0, 0)), Err(MseError::NoMethod));
    assert_eq!(answer(&fields(0, 0, 0, 0)), Err(MseError::NoMethod));
}

/// The same of one that was dialled.
#[test]
fn impossible_answers_are_refused() {
    let answered = |methods: u8, pad: u16| {
        let (mut hello, mut request) = (Vec::new(), Vec::new());
        let mut initiator = Initiator::new([1; 20], HASH, Methods::BOTH, b"", &[], &mut hello);
        let shared = dh::shared_secret(hello[..96].try_into().unwrap(), &[2; 20]).unwrap();
        let mut fields = vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, methods];
        fields.extend_from_slice(&pad.to_be_bytes());
        fields.resize(14 + usize::from(pad), 0);
        ciphers(&shared, HASH).1.apply(&mut fields);
        let bytes = [&dh::public_key(&[2; 20])[..], &fields].concat();
        initiator.push(&bytes, &mut request).map(|end| end.is_some())
    };
    assert_eq!(answered(2, 512), Ok(true));
    assert_eq!(answered(2, 513), Err(MseError::Malformed));
    for methods in [0, 3, 4] {
        assert_eq!(answered(methods, 0), Err(MseError::NoMethod), "{methods}");
    }
}

/// What comes of the two flights of a good initiator, `change`d, and of any amount of noise behind them.
fn respond(change: impl Fn(usize, u8) -> Option<u8>) -> (Result<bool, MseError>, usize) {
    let (mut hello, mut answer, mut request) = (Vec::new(), Vec::new(), Vec::new());
    let mut initiator = Initiator::new([1; 20], HASH, Methods::BOTH, b"initial", &[], &mut hello);
    let mut good = Responder::new([2; 20], Methods::BOTH);
    good.push(&hello, &[], &mut answer).unwrap();
    assert!(initiator.push(&answer, &mut request).unwrap().is_none());
    let all = hello.iter().chain(&request).enumerate();
    let bytes: Vec<u8> = all.map_while(|(at, byte)| change(at, *byte)).collect();
    let is_cut = bytes.len() < hello.len() + request.len();
    let mut noise = vec![0x55; if is_cut { 0 } else { 4000 }];
    let mut responder = Responder::new([2; 20], Methods::BOTH);
    let mut out = Vec::new();
    for part in [bytes, std::mem::take(&mut noise)].concat().chunks(90) {
        let mut progress = match responder.push(part, &[], &mut out) {
            Ok(progress) => progress,
            Err(error) => return (Err(error), out.len()),
        };
        if let Progress::Torrent(name) = progress {
            if name != torrent_hash(HASH) {
                // Nobody has such a torrent: whoever asks ends the connection.
                return (Err(MseError::NotFound), out.len());
            }
            progress = match responder.torrent(HASH, &mut out) {
                Ok(progress) => progress,
                Err(error) => return (Err(error), out.len()),
            };
        }
        if let Progress::Established(_) = progress {
            return (Ok(true), out.len());
        }
    }
    (Ok(false), out.len())
}

#[test]
fn handshakes_cut_or_garbled_at_each_byte_end_within_bounds() {
    assert_eq!(respond(|_, byte| Some(byte)).0, Ok(true));
    let len = dh::KEY_LEN + 20 + 20 + 8 + 4 + 2 + 2 + b"initial".len();
    let answer_max = dh::KEY_LEN + 8 + 4 + 2 + PAD_MAX;
    for place in 0..len {
        let (cut, sent) = respond(|at, byte| (at < place).then_some(byte));
        assert_eq!(cut, Ok(false), "cut after {place} bytes");
        assert!(sent <= answer_max, "{sent} bytes for {place}");
        let (garbled, sent) = respond(|at, byte| Some(if at == place { byte ^ 0x10 } else { byte }));
        // Padding and what the peer says first are its own; all else is noticed, and nobody waits for ever.
        let is_free = place >= len - b"initial".len() || garbled == Ok(true);
        assert!(is_free || garbled.is_err(), "garbled at {place}: {garbled:?}");
        assert!(sent <= answer_max, "{sent} bytes when garbled at {place}");
        assert!(garbled != Ok(false), "it waits for ever when garbled at {place}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_bytes_are_survived(
        parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8),
        at in 0usize..400,
        bit in 0u8..8,
    ) {
        let mut out = Vec::new();
        let mut responder = Responder::new([2; 20], Methods::BOTH);
        for part in &parts {
            if responder.push(part, &[], &mut out).is_err() {
                break;
            }
        }
        // A good handshake with one bit changed.
        let mut hello = Vec::new();
        let mut initiator = Initiator::new([1; 20], HASH, Methods::BOTH, b"initial", &[], &mut hello);
        let mut answer = Vec::new();
        let mut responder = Responder::new([2; 20], Methods::BOTH);
        responder.push(&hello, &[5; 40], &mut answer).unwrap();
        let mut request = Vec::new();
        prop_assert!(initiator.push(&answer, &mut request).unwrap().is_none());
        let at = at % request.len();
        request[at] ^= 1 << bit;
        if let Ok(Progress::Torrent(name)) = responder.push(&request, &[], &mut out)
            && name == torrent_hash(HASH)
        {
            let _ = responder.torrent(HASH, &mut out);
        }
    }
}
