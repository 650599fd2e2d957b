use super::*;
use crate::bencode::Encoder;
use crate::metainfo::build::{Builder, InputFile};

const PIECE: u32 = 32_768;
const P: u64 = PIECE as u64;
/// When resume files were written.
const SAVED: i64 = 1_700_000_100;

/// Two files: pieces 0 to 3, and 3 to 5.
fn metainfo() -> Metainfo {
    let file = |name: &str, len| InputFile { path: vec![name.into()], len, ..InputFile::default() };
    let files = vec![file("a", 3 * P + 10), file("b", 2 * P)];
    let plan = Builder::multi_file("t", files).piece_len(PIECE).plan().expect("sensible sizes");
    let hashes = vec![[7; 20]; plan.geometry().piece_count() as usize];
    Metainfo::parse(&plan.finish(&hashes)).expect("what was built is read")
}

fn mark(len: u64, second: i64) -> Option<Mark> {
    Some(Mark { len, mtime_ns: second * 1_000_000_000 + 5 })
}

/// Both files of full length, changed in these seconds.
fn found(a: i64, b: i64) -> [Option<Mark>; 2] {
    [mark(3 * P + 10, a), mark(2 * P, b)]
}

fn claimed(foreign: Foreign, found: &[Option<Mark>]) -> Vec<u32> {
    let made = foreign.into_checkpoint(&metainfo(), "/o".into(), found, SAVED * 1_000_000_000, SAVED);
    assert_eq!(made.have, made.looked, "nothing is claimed to be missing");
    assert_eq!(made.fits(&metainfo()), Ok(()));
    assert_eq!(Checkpoint::decode(&made.encode(crate::checkpoint::Format::Binary)), Ok(made.clone()));
    made.have.iter().map(|piece| piece.0).collect()
}

/// A dictionary; `write` adds what it holds.
fn dict(write: impl FnOnce(&mut Encoder)) -> Vec<u8> {
    let mut encoder = Encoder::new();
    encoder.begin_dict();
    write(&mut encoder);
    encoder.end();
    encoder.finish()
}

/// `sizes` and `paths` are put in where their keys belong.
fn libtorrent(sizes: impl Fn(&mut Encoder), paths: impl Fn(&mut Encoder), pieces: &[u8]) -> Vec<u8> {
    dict(|e| {
        e.key(b"added_time").int(5);
        sizes(e);
        e.key(b"file-format").bytes(b"libtorrent resume file");
        e.key(b"info-hash").bytes(&metainfo().info_hash.0);
        paths(e);
        e.key(b"peers").bytes(&[192, 0, 2, 1, 0x1a, 0xe1, 0, 0, 0, 0, 0, 1]);
        e.key(b"pieces").bytes(pieces);
        e.key(b"qBt-savePath").bytes(b"relative");
        e.key(b"save_path").bytes(b"/data/x");
        e.key(b"total_downloaded").int(7);
        e.key(b"total_uploaded").int(-1);
    })
}

#[test]
fn libtorrent_without_times_is_believed_while_files_are_older() {
    let bytes = libtorrent(|_| {}, |_| {}, b"\x01\x00\x03\x01\x02\x01");
    let foreign = read(&bytes, None, &metainfo()).expect("it is one");
    assert_eq!(foreign.output.as_deref(), Some(Path::new("/data/x")));
    assert_eq!((foreign.totals.downloaded, foreign.totals.uploaded, foreign.added_at), (7, 0, Some(5)));
    assert_eq!(foreign.peers, ["192.0.2.1:6881".parse().unwrap()]);
    assert_eq!(claimed(foreign.clone(), &found(SAVED - 9, SAVED - 1)), [0, 2, 3, 5]);
    assert_eq!(claimed(foreign.clone(), &found(SAVED - 9, SAVED)), [0, 2], "the second file is younger");
    assert_eq!(claimed(foreign, &[None, mark(2 * P, 5)]), [5], "and what is not there is not claimed");
    assert_eq!(info_hash(&bytes), Some(metainfo().info_hash));
}

#[test]
fn libtorrents_unfinished_pieces_are_gone_on_with() {
    let entry = |e: &mut Encoder, piece: i64, mask: &[u8]| {
        e.begin_dict();
        e.key(b"bitmask").bytes(mask);
        e.key(b"piece").int(piece);
        e.end();
    };
    let make = |old: bool| {
        dict(|e| {
            if old {
                e.key(b"file sizes").begin_list();
                for len in [3 * P + 10, 2 * P] {
                    e.begin_list();
                    e.int(len as i64).int(100);
                    e.end();
                }
                e.end();
            }
            e.key(b"file-format").bytes(b"libtorrent resume file");
            e.key(b"info-hash").bytes(&metainfo().info_hash.0);
            e.key(b"pieces").bytes(b"\x01\0\0\0\0\0");
            e.key(b"unfinished").begin_list();
            // Out of order, one too many bytes, one that is there, spare bits set, one that is no piece, one twice.
            entry(e, 4, b"\x80\0");
            entry(e, 1, b"\x40");
            entry(e, 0, b"\x80");
            entry(e, 2, b"\xff");
            entry(e, 6, b"\x80");
            entry(e, -1, b"\x80");
            entry(e, 3, b"");
            entry(e, 1, b"\x80");
            e.end();
        })
    };
    let foreign = read(&make(false), None, &metainfo()).expect("it is one");
    let partial: Vec<_> = foreign.partial.iter().map(|partial| (partial.piece.0, partial.has(0))).collect();
    assert_eq!(partial, [(1, false), (4, true)]);
    assert_eq!(claimed(foreign, &found(SAVED - 9, SAVED - 1)), [0]);
    let foreign = read(&make(true), None, &metainfo()).expect("it is one");
    assert_eq!(foreign.partial, [], "the order of its bits is another one");
}

#[test]
fn libtorrent_with_sizes_and_times_is_compared_with_them() {
    let sizes = |e: &mut Encoder| {
        e.key(b"file sizes").begin_list();
        for (len, mtime) in [(3 * P + 10, 100), (2 * P, 0)] {
            e.begin_list();
            e.int(len as i64);
            e.int(mtime);
            e.end();
        }
        e.end();
    };
    let foreign = read(&libtorrent(sizes, |_| {}, &[1; 6]), None, &metainfo()).expect("it is one");
    assert_eq!(claimed(foreign.clone(), &found(100, 100)), [0, 1, 2], "the second was not there");
    assert_eq!(claimed(foreign.clone(), &found(101, 100)), [0u32; 0]);
    assert_eq!(claimed(foreign, &[mark(3 * P + 9, 100), None]), [0u32; 0]);
}

#[test]
fn libtorrent_in_seed_mode_has_only_what_it_looked_at() {
    let bytes = dict(|e| {
        e.key(b"file-format").bytes(b"libtorrent resume file");
        e.key(b"info-hash").bytes(&metainfo().info_hash.0);
        e.key(b"pieces").bytes(b"\x01\x03\x01\x01\x01\x03");
        e.key(b"seed_mode").int(1);
    });
    let foreign = read(&bytes, None, &metainfo()).expect("it is one");
    assert_eq!((claimed(foreign.clone(), &found(5, 5)), foreign.output), (vec![1, 5], None));
}

#[test]
fn libtorrent_names_files_anew() {
    let mapped = |second: &'static [u8]| {
        libtorrent(
            |_| {},
            move |e| {
                e.key(b"mapped_files").begin_list();
                e.bytes(b"");
                e.bytes(second);
                e.end();
            },
            &[1; 6],
        )
    };
    let foreign = read(&mapped(b"t/b.!qB"), None, &metainfo()).expect("it is one");
    assert_eq!(foreign.renames, [Rename { file: 1, path: "t/b.!qB".into() }]);
    assert_eq!(foreign.paths(&metainfo()), [PathBuf::from("t/a"), "t/b.!qB".into()]);
    let same = read(&mapped(b"t/b"), None, &metainfo()).expect("it is one");
    assert!(same.renames.is_empty());
    for escape in [&b"../b"[..], b"/etc/passwd", b"t/../../b"] {
        let error = read(&mapped(Box::leak(escape.into())), None, &metainfo());
        assert_eq!(error, Err(ForeignError::Field("mapped_files")));
    }
}

#[test]
fn wrong_fields_and_other_torrents_are_refused() {
    let field = |bytes: &[u8]| read(bytes, None, &metainfo()).expect_err("wrong");
    assert_eq!(field(&libtorrent(|_| {}, |_| {}, &[1; 5])), ForeignError::Field("pieces"));
    let other = dict(|e| {
        e.key(b"file-format").bytes(b"libtorrent resume file");
        e.key(b"info-hash").bytes(&[9; 20]);
    });
    assert_eq!(field(&other), ForeignError::OtherTorrent(InfoHash([9; 20])));
    assert!(matches!(field(b"x"), ForeignError::Bencode(_)));
    assert_eq!(field(b"de"), ForeignError::Unknown);
    assert_eq!(field(b"le"), ForeignError::Unknown);
    assert_eq!(field(b"d8:bitfieldi3ee"), ForeignError::Field("bitfield"));
    assert_eq!(field(b"d8:bitfieldi6ee"), ForeignError::Field("files"));
    assert_eq!(field(b"d8:progressdee"), ForeignError::Field("blocks"));
}

fn rtorrent(times: [i64; 2], field: Option<&[u8]>, uncertain: &[u8]) -> Vec<u8> {
    dict(|e| {
        match field {
            Some(bytes) => e.key(b"bitfield").bytes(bytes),
            None => e.key(b"bitfield").int(6),
        };
        e.key(b"files").begin_list();
        for (time, priority) in times.into_iter().zip([2, 0]) {
            e.begin_dict();
            e.key(b"completed").int(3);
            e.key(b"mtime").int(time);
            e.key(b"priority").int(priority);
            e.end();
        }
        e.end();
        e.key(b"uncertain_pieces").bytes(uncertain);
    })
}

#[test]
fn rtorrent_is_believed_by_its_times_and_marks() {
    let session = dict(|e| {
        e.key(b"directory").bytes(b"/srv/other name");
        e.key(b"timestamp.started").int(9);
        e.key(b"total_uploaded").int(11);
    });
    let read = |bytes: &[u8]| read(bytes, Some(&session), &metainfo()).expect("it is one");
    let all = read(&rtorrent([100, 200], None, b""));
    assert_eq!(all.output.as_deref(), Some(Path::new("/srv")));
    assert_eq!(all.paths(&metainfo()), [PathBuf::from("other name/a"), "other name/b".into()]);
    assert_eq!((all.totals.uploaded, all.added_at), (11, Some(9)));
    assert_eq!(all.file_priorities, [Priority::High, Priority::Skip]);
    assert_eq!(claimed(all.clone(), &found(100, 200)), [0, 1, 2, 3, 4, 5]);
    assert_eq!(claimed(all, &found(100, 201)), [0, 1, 2]);
    let some = read(&rtorrent([!3, !3], Some(&[0b1011_0100]), &[0, 0, 0, 2, 9, 9, 9, 9, 1]));
    assert_eq!(claimed(some.clone(), &found(50, 60)), [0, 3, 5], "but what was uncertain");
    assert_eq!(claimed(some, &found(50, SAVED + 1)), [0]);
    for time in [!0, !1, !2] {
        let unreliable = read(&rtorrent([time, 60], None, b""));
        assert_eq!(claimed(unreliable, &found(50, 60)), [4, 5]);
    }
    // Up to version 0.8 both are part of the torrent file.
    let inner = rtorrent([100, 200], None, b"");
    let both = [&b"d17:libtorrent_resume"[..], &inner, b"8:rtorrent", &session, b"e"].concat();
    let embedded = super::read(&both, None, &metainfo()).expect("it is one");
    assert_eq!(embedded.output.as_deref(), Some(Path::new("/srv")));
    assert_eq!(claimed(embedded, &found(100, 200)).len(), 6);
}

fn transmission(progress: impl FnOnce(&mut Encoder)) -> Vec<u8> {
    dict(|e| {
        e.key(b"added-date").int(3);
        e.key(b"destination").bytes(b"/done");
        e.key(b"downloaded").int(4);
        e.key(b"incomplete-dir").bytes(b"/undone");
        e.key(b"progress").begin_dict();
        progress(e);
        e.end();
        e.key(b"uploaded").int(5);
    })
}

#[test]
fn transmission_3_is_believed_since_its_checks() {
    let all = transmission(|e| {
        e.key(b"blocks").bytes(b"all");
        e.key(b"time-checked").begin_list();
        e.int(100);
        // Pieces 3, 4 and 5: in the seconds 201, never, and 204.
        e.begin_list();
        for number in [200, 1, 0, 4] {
            e.int(number);
        }
        e.end();
        e.end();
    });
    let foreign = read(&all, None, &metainfo()).expect("it is one");
    assert_eq!((foreign.totals, foreign.added_at), (Totals { downloaded: 4, uploaded: 5 }, Some(3)));
    assert_eq!(claimed(foreign.clone(), &found(100, 204)), [0, 1, 2, 3, 5]);
    assert_eq!(claimed(foreign.clone(), &found(101, 204)), [5], "changed after its check");
    assert_eq!(claimed(foreign, &found(100, 205)), [0, 1, 2]);
}

#[test]
fn transmission_3_counts_pieces_by_their_blocks() {
    // Blocks 0, 1, 2 and 5: piece 0 is whole. The zeros behind them are left out.
    let some = transmission(|e| {
        e.key(b"blocks").bytes(&[0b1110_0100]);
        e.key(b"time-checked").begin_list();
        e.int(100);
        e.int(0);
        e.end();
    });
    let foreign = read(&some, None, &metainfo()).expect("it is one");
    assert_eq!(foreign.output.as_deref(), Some(Path::new("/undone")));
    assert_eq!(claimed(foreign.clone(), &found(150, 150)), [0], "a file under way is older than the save");
    assert_eq!(claimed(foreign, &found(SAVED, 150)), [0u32; 0]);
}

#[test]
fn transmission_4_is_believed_by_its_times() {
    let bytes = transmission(|e| {
        e.key(b"blocks").bytes(b"all");
        e.key(b"mtimes").begin_list();
        e.int(100);
        e.int(200);
        e.end();
        e.key(b"pieces").bytes(&[0b1101_1100]);
    });
    let foreign = read(&bytes, None, &metainfo()).expect("it is one");
    assert_eq!(claimed(foreign.clone(), &found(100, 200)), [0, 1, 3, 4, 5]);
    assert_eq!(claimed(foreign, &found(100, 199)), [0, 1]);
}

#[test]
fn what_was_not_wanted_is_taken_over() {
    let numbers = |e: &mut Encoder, key: &[u8], numbers: [i64; 2]| {
        e.key(key).begin_list();
        numbers.into_iter().for_each(|number| _ = e.int(number));
        e.end();
    };
    let libtorrent = |priorities| {
        dict(|e| {
            e.key(b"file-format").bytes(b"libtorrent resume file");
            numbers(e, b"file_priority", priorities);
            e.key(b"info-hash").bytes(&metainfo().info_hash.0);
        })
    };
    let transmission = dict(|e| {
        numbers(e, b"dnd", [0, 1]);
        numbers(e, b"priority", [-1, 1]);
        e.key(b"progress").begin_dict();
        e.key(b"blocks").bytes(b"none");
        e.end();
    });
    for (bytes, expected) in [
        (libtorrent([0, 7]), [Priority::Skip, Priority::High]),
        (libtorrent([4, 1]), [Priority::Normal, Priority::Normal]),
        (transmission, [Priority::Low, Priority::Skip]),
    ] {
        let foreign = read(&bytes, None, &metainfo()).expect("it is one");
        assert_eq!(foreign.file_priorities, expected);
        let made = foreign.into_checkpoint(&metainfo(), "/o".into(), &found(1, 1), 5, 5);
        assert_eq!(made.file_priorities, expected);
    }
}
