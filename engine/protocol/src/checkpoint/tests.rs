use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::ids::PieceIndex;
use crate::metainfo::build::Builder;

fn field(pieces: u32, set: impl IntoIterator<Item = u32>) -> Bitfield {
    let mut field = Bitfield::empty(pieces);
    for piece in set {
        field.insert(PieceIndex(piece));
    }
    field
}

fn metainfo() -> Metainfo {
    let plan = Builder::single_file("t", 10 * 16_384 - 5).piece_len(16_384).plan().expect("sensible sizes");
    Metainfo::parse(&plan.finish(&[[7; 20]; 10])).expect("what was built is read")
}

/// Blocks `set` of `blocks` of a piece.
fn partial(piece: u32, blocks: u32, set: impl IntoIterator<Item = u32>) -> PartialPiece {
    PartialPiece { piece: PieceIndex(piece), blocks: field(blocks, set) }
}

/// One that fits [`metainfo`].
fn checkpoint() -> Checkpoint {
    Checkpoint {
        info_hash: metainfo().info_hash,
        name: "t".into(),
        saved_at: 1_800_000_000,
        added_at: -5,
        source: Source { torrent: Some("/a/t.torrent".into()), magnet: None },
        output: PathBuf::from(OsStr::from_bytes(b"/srv/\xff\"\\")),
        renames: vec![Rename { file: 0, path: "x/y".into() }],
        piece_len: 16_384,
        total_len: 10 * 16_384 - 5,
        have: field(10, [0, 3, 9]),
        looked: field(10, [0, 1, 2, 3, 9]),
        partial: Vec::new(),
        files: vec![Some(Mark { len: 163_835, mtime_ns: -1 }), None],
        totals: Totals { downloaded: u64::MAX, uploaded: 3 },
        file_priorities: vec![Priority::Skip],
        trackers: vec![vec!["http://a/b".into()], vec!["udp://c:1".into()]],
        peers: vec!["192.0.2.1:6881".parse().unwrap(), "[2001:db8::1]:1".parse().unwrap()],
    }
}

/// As [`checkpoint`], of a torrent with large pieces of which two are begun.
fn with_blocks() -> Checkpoint {
    Checkpoint {
        piece_len: 4 * 16_384,
        total_len: 10 * 4 * 16_384 - 5,
        partial: vec![partial(1, 4, [0, 3]), partial(8, 4, [1])],
        ..checkpoint()
    }
}

/// Checkpoints stay readable: one as it was written before blocks were kept, and one with blocks. Written once by
/// `encode` and never again.
#[test]
fn what_earlier_programs_wrote_is_read() {
    let before: [&[u8]; 2] = [include_bytes!("golden/v1.ckpt"), include_bytes!("golden/v1.json")];
    let blocks: [&[u8]; 2] =
        [include_bytes!("golden/v1-blocks.ckpt"), include_bytes!("golden/v1-blocks.json")];
    for (bytes, expected) in [(before, checkpoint()), (blocks, with_blocks())] {
        bytes.into_iter().for_each(|bytes| assert_eq!(Checkpoint::decode(bytes), Ok(expected.clone())));
    }
    assert_eq!(checkpoint().encode(Format::Json), before[1], "without blocks nothing has changed");
    assert_eq!(with_blocks().encode(Format::Json), blocks[1]);
    assert_eq!(with_blocks().bytes_partial(), 3 * 16_384);
}

const FORMATS: [Format; 2] = [Format::Binary, Format::Json];

#[test]
fn both_forms_keep_everything() {
    let all = Checkpoint { file_priorities: Priority::ALL.to_vec(), ..checkpoint() };
    for format in FORMATS {
        assert_eq!(Checkpoint::decode(&with_blocks().encode(format)), Ok(with_blocks()), "{format:?}");
        let bytes = checkpoint().encode(format);
        assert_eq!(Checkpoint::decode(&bytes), Ok(checkpoint()), "{format:?}");
        assert_eq!(Checkpoint::decode(&all.encode(format)), Ok(all.clone()), "{format:?}");
    }
    let text = String::from_utf8(checkpoint().encode(Format::Json)).expect("JSON is text");
    let value: serde_json::Value = serde_json::from_str(&text).expect("and other programs read it");
    assert_eq!(value["checkpoint"]["have"], "10:9040");
    assert_eq!(value["checkpoint"]["source"]["torrent"], "/a/t.torrent");
}

#[test]
fn every_flipped_bit_and_every_missing_or_added_byte_is_noticed() {
    for format in FORMATS {
        let good = checkpoint().encode(format);
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                assert!(Checkpoint::decode(&bad).is_err(), "{format:?}: bit {bit} of byte {at}");
            }
            assert!(Checkpoint::decode(&good[..at]).is_err(), "{format:?}: {at} bytes left");
        }
        for more in 0..=u8::MAX {
            let longer = [&good[..], &[more]].concat();
            assert!(Checkpoint::decode(&longer).is_err(), "{format:?}: {more} behind the end");
        }
    }
}

#[test]
fn other_versions_are_refused_by_name() {
    let mut binary = checkpoint().encode(Format::Binary);
    binary[8] = 2;
    assert_eq!(Checkpoint::decode(&binary), Err(DecodeError::Version(2)));
    let json = String::from_utf8(checkpoint().encode(Format::Json)).unwrap();
    for (text, version) in [("\"version\":12", 12), ("\"version\":01", 1)] {
        let other = json.replacen("\"version\":1", text, 1);
        assert_eq!(Checkpoint::decode(other.as_bytes()), Err(DecodeError::Version(version)));
    }
    for foreign in [&b""[..], b"\x89", b"\x89PNG\r\n\x1a\n", b"d8:announce", b"{}", b"{\"format\":\"x\"}\n"] {
        assert_eq!(Checkpoint::decode(foreign), Err(DecodeError::Foreign), "{foreign:?}");
    }
}

/// Packs `body` as if it were a checkpoint, with `raw_len` in its header.
fn forged(body: &[u8], raw_len: u32) -> Vec<u8> {
    let packed = zstd::bulk::compress(body, 1).unwrap();
    let mut bytes = b"\x89CCBTCK\n\x01\0\0\0".to_vec();
    bytes.extend_from_slice(&raw_len.to_le_bytes());
    bytes.extend_from_slice(&(packed.len() as u32).to_le_bytes());
    use sha2::Digest;
    let sum = sha2::Sha256::new().chain_update(&bytes).chain_update(&packed).finalize();
    bytes.extend_from_slice(&sum);
    bytes.extend_from_slice(&packed);
    bytes
}

#[test]
fn bombs_do_not_go_off() {
    let bomb = vec![b' '; 8 << 20];
    assert!(forged(&bomb, 100).len() < 2000);
    for (raw_len, expected) in [(100, "unpack"), (u32::MAX, "larger"), ((8 << 20) + 1, "length")] {
        let error = Checkpoint::decode(&forged(&bomb, raw_len)).expect_err("it is a bomb").to_string();
        assert!(error.contains(expected), "{raw_len}: {error}");
    }
    // A byte of text would be eight of memory.
    let empty = |list: &str| format!("[{}]", vec![list; 300_000].join(","));
    let body = serde_json::to_string(&checkpoint()).unwrap();
    for (field, list, kept) in [("trackers", "[]", 200), ("trackers", "[\"u\"]", 200)] {
        let mut value: serde_json::Value = serde_json::from_str(&body).unwrap();
        value[field] = serde_json::from_str(&empty(list)).unwrap();
        let body = value.to_string();
        let made = Checkpoint::decode(&forged(body.as_bytes(), body.len() as u32)).expect("the rest is good");
        assert_eq!(made.trackers.len(), kept);
    }
    let mut value: serde_json::Value = serde_json::from_str(&body).unwrap();
    value["trackers"] = serde_json::from_str(&format!("[{}]", empty("\"u\""))).unwrap();
    let body = value.to_string();
    let made = Checkpoint::decode(&forged(body.as_bytes(), body.len() as u32)).expect("the rest is good");
    assert_eq!(made.trackers[0].len(), 200);
    let nested = "[".repeat(100_000);
    assert!(matches!(Checkpoint::decode(&forged(nested.as_bytes(), 100_000)), Err(DecodeError::Content(_))));
}

#[test]
fn what_contradicts_itself_is_refused() {
    let change = |what: fn(&mut Checkpoint)| {
        let mut bad = checkpoint();
        what(&mut bad);
        FORMATS.map(|format| Checkpoint::decode(&bad.encode(format)).expect_err("nonsense").to_string())
    };
    for texts in [
        change(|bad| bad.partial = vec![partial(10, 1, [0])]),
        change(|bad| bad.partial = vec![partial(1, 2, [0])]),
        change(|bad| bad.partial = vec![partial(2, 1, [0]), partial(1, 1, [0])]),
        change(|bad| bad.partial = vec![partial(1, 1, [0]), partial(1, 1, [])]),
        change(|bad| bad.piece_len = 0),
        change(|bad| bad.total_len = u64::MAX),
        change(|bad| bad.looked = field(11, 0..11)),
        change(|bad| bad.looked = field(10, [0])),
        change(|bad| bad.peers = vec![bad.peers[0]; PEERS_MAX + 1]),
        change(|bad| bad.output = "srv/x".into()),
        change(|bad| bad.output = PathBuf::new()),
        change(|bad| bad.renames[0].path = "../x".into()),
        change(|bad| bad.renames[0].path = "/etc/passwd".into()),
        change(|bad| bad.renames[0].path = "a/../../x".into()),
        change(|bad| bad.files = vec![None; MAX_FILES + 1]),
    ] {
        assert!(texts.iter().all(|text| text.starts_with("its content is wrong")), "{texts:?}");
    }
}

#[test]
fn it_fits_its_torrent_only() {
    let mut this = checkpoint();
    assert_eq!(this.fits(&metainfo()), Err(Mismatch::Shape), "a file too many");
    this.files.pop();
    assert_eq!(this.fits(&metainfo()), Ok(()));
    let renamed = Checkpoint { renames: vec![Rename { file: 1, path: "x".into() }], ..this.clone() };
    assert_eq!(renamed.fits(&metainfo()), Err(Mismatch::Shape));
    let looked = Checkpoint { looked: field(11, [0]), ..this.clone() };
    assert_eq!(looked.fits(&metainfo()), Err(Mismatch::Shape));
    let sized = Checkpoint { total_len: 163_834, ..this.clone() };
    assert_eq!(sized.fits(&metainfo()), Err(Mismatch::Shape));
    let other = InfoHash([1; 20]);
    this.info_hash = other;
    assert_eq!(this.fits(&metainfo()), Err(Mismatch::InfoHash(other)));
}

#[test]
fn bytes_are_counted_to_the_short_last_piece() {
    let mut this = checkpoint();
    assert_eq!(this.bytes_done(), 3 * 16_384 - 5);
    this.have = field(10, 0..9);
    assert_eq!(this.bytes_done(), 9 * 16_384);
    this.have = Bitfield::full(10);
    assert_eq!((this.bytes_done(), this.is_complete()), (this.total_len, true));
}

prop_compose! {
    fn any_checkpoint()(
        hash in any::<[u8; 20]>(),
        name in ".{0,40}",
        path in proptest::collection::vec(1u8.., 0..40),
        pieces in proptest::collection::vec((any::<bool>(), any::<bool>()), 1..200),
        short in 0u64..1000,
        times in any::<(i64, i64)>(),
        files in proptest::collection::vec(proptest::option::of(any::<(u64, i64)>()), 0..20),
        totals in any::<(u64, u64)>(),
        magnet in proptest::option::of(".{0,40}"),
    ) -> Checkpoint {
        let count = pieces.len() as u32;
        let set = |wanted: fn(&(bool, bool)) -> bool| {
            field(count, (0..count).filter(|piece| wanted(&pieces[*piece as usize])))
        };
        let path = PathBuf::from(OsStr::from_bytes(&path));
        let is_inner = |part: Component<'_>| matches!(part, Component::Normal(_));
        let inner = if path.components().all(is_inner) { path.clone() } else { "x".into() };
        Checkpoint {
            info_hash: InfoHash(hash),
            name,
            saved_at: times.0,
            added_at: times.1,
            source: Source { torrent: Some(path.clone()), magnet },
            output: Path::new("/").join(&path),
            renames: vec![Rename { file: count, path: inner }],
            piece_len: 1000,
            total_len: u64::from(count) * 1000 - short,
            have: set(|piece| piece.0),
            looked: set(|piece| piece.0 || piece.1),
            partial: set(|piece| !piece.0).iter().map(|piece| partial(piece.0, 1, [0])).collect(),
            files: files.into_iter().map(|file| file.map(|(len, mtime_ns)| Mark { len, mtime_ns })).collect(),
            totals: Totals { downloaded: totals.0, uploaded: totals.1 },
            file_priorities: Vec::new(),
            trackers: Vec::new(),
            peers: Vec::new(),
        }
    }
}

proptest! {
    #[test]
    fn any_checkpoint_comes_back(this in any_checkpoint()) {
        for format in FORMATS {
            prop_assert_eq!(Checkpoint::decode(&this.encode(format)), Ok(this.clone()));
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0usize..200) {
        let _ = Checkpoint::decode(&bytes);
        let mut good = checkpoint().encode(Format::Binary);
        good.splice(at.min(good.len()).., bytes);
        let _ = Checkpoint::decode(&good);
    }
}
