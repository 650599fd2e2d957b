//! Tests of making torrents: what is written is read back, and what could not be is refused.

use super::super::{Metainfo, escape_for_terminal};
use super::*;
use crate::ids::PieceIndex;
use proptest::prelude::*;

fn names(path: &[&str]) -> Vec<String> {
    path.iter().map(|name| (*name).to_owned()).collect()
}

fn input(path: &[&str], len: u64) -> InputFile {
    InputFile { path: names(path), len, ..InputFile::default() }
}

fn hashes(plan: &Plan) -> Vec<[u8; 20]> {
    plan.geometry().pieces().map(|piece| [piece.0 as u8; 20]).collect()
}

/// Finishes `plan`, reads the result and compares what both know.
fn round_trip(plan: Plan) -> Metainfo {
    let (planned, hashes) = (plan.clone(), hashes(&plan));
    let meta = Metainfo::parse(&plan.finish(&hashes)).unwrap();
    assert_eq!(meta.files, planned.files);
    assert_eq!(meta.geometry, planned.geometry);
    assert_eq!((&meta.name, meta.is_multi_file), (&planned.name, planned.is_multi_file));
    let header = planned.header;
    assert_eq!((meta.private, &meta.trackers), (header.private, &header.trackers));
    assert_eq!((&meta.web_seeds, &meta.comment), (&header.web_seeds, &header.comment));
    assert_eq!((&meta.created_by, meta.creation_date), (&header.created_by, header.creation_date));
    assert_eq!(meta.source, header.source);
    for (piece, hash) in hashes.iter().enumerate() {
        assert_eq!(meta.piece_hash(PieceIndex(piece as u32)), *hash);
    }
    meta
}

#[test]
fn a_minimal_torrent_is_exactly_this() {
    let plan = Builder::single_file("a", 1).plan().unwrap();
    let bytes = plan.finish(&[*b"01234567890123456789"]);
    let expected = b"d4:infod6:lengthi1e4:name1:a12:piece lengthi16384e6:pieces20:01234567890123456789ee";
    assert_eq!(bytes, expected);
}

#[test]
fn everything_set_is_read_back() {
    let files = vec![
        InputFile { executable: true, ..input(&["bin", "run"], 40_000) },
        InputFile { hidden: true, ..input(&[".hid"], 0) },
        InputFile { symlink: Some(names(&["bin"])), ..input(&["link"], 0) },
        input(&["z"], 3),
    ];
    let plan = Builder::multi_file("Ünï", files)
        .piece_len(32768)
        .align(true)
        .private(true)
        .trackers(vec![names(&["http://a/", "udp://b:1"]), vec![], names(&["https://c/"])])
        .web_seeds(names(&["https://w/"]))
        .comment("text")
        .created_by("program")
        .creation_date(Some(1_700_000_000))
        .source("tag")
        .plan()
        .unwrap();
    let meta = round_trip(plan);
    let lens: Vec<(u64, bool)> = meta.files.iter().map(|file| (file.len, file.pad)).collect();
    assert_eq!(lens, [(40_000, false), (0, false), (0, false), (25_536, true), (3, false)]);
    assert_eq!(meta.files[4].offset, 65_536);
}

#[test]
fn a_single_tracker_needs_no_list() {
    let plan = Builder::single_file("a", 1).trackers(vec![names(&["http://a/"])]).plan().unwrap();
    let bytes = plan.clone().finish(&[[0; 20]]);
    assert!(bytes.starts_with(b"d8:announce9:http://a/4:info"));
    round_trip(plan);
}

#[test]
fn what_would_not_be_read_back_is_refused() {
    let text = |builder: Builder| builder.plan().unwrap_err().to_string();
    let multi = |files: Vec<InputFile>| text(Builder::multi_file("n", files));
    assert!(
        text(Builder::single_file("a\nb", 1)).contains("\"a\\nb\" has a name that torrent clients change")
    );
    assert!(text(Builder::single_file("x".repeat(256), 1)).contains("rename it first"));
    assert!(multi(vec![input(&["_____padding_file_1"], 1)]).contains("rename it first"));
    assert!(multi(vec![input(&["a", "."], 1)]).contains("rename it first"));
    assert_eq!(text(Builder::single_file("..", 1)), "\"..\": \"..\" is not allowed");
    assert_eq!(multi(vec![input(&[], 1)]), "\"n\": the path is empty");
    assert_eq!(
        multi(vec![input(&["a"], 1), input(&["a"], 2)]),
        "info.files: two files have the path \"n/a\""
    );
    assert!(multi(vec![input(&["a"], u64::MAX)]).contains("the sizes add up to 2^63"));
    assert!(multi(vec![]).contains("the torrent is empty"));
    let link = InputFile { symlink: Some(vec![]), ..input(&["l"], 0) };
    assert_eq!(multi(vec![link]), "\"n/l\": the path is empty");
    for piece_len in [0, 8192, 40_000, 1 << 30] {
        let error = Builder::single_file("a", 1).piece_len(piece_len).plan().unwrap_err();
        assert_eq!(error, BuildError::PieceLen(piece_len));
    }
    let one = || Builder::single_file("a", 1);
    assert!(text(one().trackers(vec![names(&["wss://a"])])).contains("not a tracker URL"));
    assert!(
        text(one().trackers(vec![names(&["udp://a:1"]), names(&["udp://a:1"])])).contains("listed twice")
    );
    assert!(text(one().web_seeds(names(&["udp://a:1"]))).contains("not a web seed URL"));
    assert!(text(one().comment("x".repeat(MAX_TEXT_LEN + 1))).contains("the comment: longer than"));
    let many = (0..=MAX_URLS).map(|n| format!("udp://t:{n}")).collect();
    assert!(text(one().trackers(vec![many])).contains("more than 1000 tracker URLs"));
}

#[test]
fn piece_lengths_give_one_to_two_thousand_pieces() {
    assert_eq!(choose_piece_len(0), 16 * 1024);
    assert_eq!(choose_piece_len(30_000_000), 16 * 1024);
    assert_eq!(choose_piece_len(1 << 30), 1 << 20);
    assert_eq!(choose_piece_len(u64::MAX), 16 * 1024 * 1024);
    for shift in 25..35 {
        for total in [(1u64 << shift) - 1, 1 << shift, (1 << shift) + 1, 3 << (shift - 1)] {
            let pieces = total.div_ceil(u64::from(choose_piece_len(total)));
            assert!((1000..=2000).contains(&pieces), "{total}: {pieces}");
        }
    }
}

proptest! {
    #[test]
    fn plans_are_read_back(
        lens in proptest::collection::vec(0u64..100_000, 1..12),
        align in any::<bool>(),
        private in any::<bool>(),
        name in "[a-zA-Z0-9 ._é日-]{1,40}",
    ) {
        prop_assume!(name != "." && name != ".." && lens.iter().sum::<u64>() > 0);
        let files: Vec<InputFile> =
            lens.iter().enumerate().map(|(n, len)| input(&["d", &format!("{n}-{name}")], *len)).collect();
        let plan = Builder::multi_file(name.clone(), files).align(align).private(private).plan().unwrap();
        if align {
            let piece_len = u64::from(plan.geometry().piece_len());
            let real = plan.files().iter().filter(|file| !file.pad && file.len > 0);
            prop_assert!(real.into_iter().all(|file| file.offset % piece_len == 0));
        }
        let meta = round_trip(plan);
        prop_assert_eq!(meta.stored_len(), lens.iter().sum::<u64>());
        prop_assert_eq!(escape_for_terminal(&meta.name).into_owned(), name);
    }
}
