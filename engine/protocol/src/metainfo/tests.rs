//! Tests of reading: the table of hostile fields, and damage to valid torrents.

use super::build::{Builder, InputFile};
use super::*;
use crate::bencode::{Encoder, decode};
use proptest::prelude::*;
use sha1::{Digest, Sha1};

const PIECE: i64 = 16384;

/// An `info` dictionary of the given bencoded entries, which must be sorted.
fn info(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Encoder::new();
    out.begin_dict();
    for (key, value) in entries {
        out.key(key.as_bytes()).raw(value);
    }
    out.end();
    out.finish()
}

fn int(value: i64) -> Vec<u8> {
    format!("i{value}e").into_bytes()
}

fn text(value: &[u8]) -> Vec<u8> {
    [format!("{}:", value.len()).as_bytes(), value].concat()
}

fn list(items: &[Vec<u8>]) -> Vec<u8> {
    [b"l", &items.concat()[..], b"e"].concat()
}

fn path(names: &[&[u8]]) -> Vec<u8> {
    list(&names.iter().map(|name| text(name)).collect::<Vec<_>>())
}

fn file(len: i64, names: &[&[u8]]) -> Vec<u8> {
    info(&[("length", &int(len)), ("path", &path(names))])
}

fn link(names: &[&[u8]], target: &[&[u8]]) -> Vec<u8> {
    let (names, target) = (path(names), path(target));
    info(&[("attr", b"1:l"), ("length", b"i0e"), ("path", &names), ("symlink path", &target)])
}

/// A multi-file info dictionary with `count` pieces of 16 KiB.
fn multi(files: &[Vec<u8>], count: usize) -> Vec<u8> {
    let (files, hashes) = (list(files), text(&vec![7; 20 * count]));
    info(&[("files", &files), ("name", b"3:top"), ("piece length", &int(PIECE)), ("pieces", &hashes)])
}

fn single(name: &[u8], len: i64, piece_len: i64, count: usize) -> Vec<u8> {
    let (name, hashes) = (text(name), text(&vec![7; 20 * count]));
    info(&[("length", &int(len)), ("name", &name), ("piece length", &int(piece_len)), ("pieces", &hashes)])
}

fn refusal(raw_info: &[u8]) -> String {
    Metainfo::from_info(raw_info).expect_err("must be refused").to_string()
}

#[test]
fn a_single_file_torrent_is_read() {
    let raw = single(b"file.bin", PIECE + 1, PIECE, 2);
    let bytes = [b"d8:announce17:http://tracker/an7:comment5:hello4:info", &raw[..], b"e"].concat();
    let meta = Metainfo::parse(&bytes).unwrap();
    assert_eq!(meta.info_hash.0, <[u8; 20]>::from(Sha1::digest(&raw)));
    assert_eq!(meta.raw_info(), raw);
    assert_eq!((meta.name.as_str(), meta.is_multi_file, meta.private), ("file.bin", false, false));
    assert_eq!(meta.files.len(), 1);
    assert_eq!(
        (&meta.files[0].path[..], meta.files[0].len),
        (&["file.bin".to_owned()][..], PIECE as u64 + 1)
    );
    assert_eq!(meta.trackers, [["http://tracker/an"]]);
    assert_eq!(meta.comment.as_deref(), Some("hello"));
    assert_eq!(meta.piece_hash(PieceIndex(1)), [7; 20]);
    assert_eq!(Metainfo::from_info(&raw).unwrap(), Metainfo { trackers: vec![], comment: None, ..meta });
}

#[test]
fn a_multi_file_torrent_is_read() {
    let pad = info(&[("attr", b"1:p"), ("length", &int(PIECE - 5)), ("path", &path(&[b".pad", b"16379"]))]);
    let script = info(&[("attr", b"2:hx"), ("length", &int(2)), ("path", &path(&[b"bin", b".run"]))]);
    let bitcomet = file(1, &[b"_____padding_file_0_x"]);
    let files = [file(5, &[b"a"]), pad, script, file(0, &[b"empty"]), link(&[b"l"], &[b"bin"]), bitcomet];
    let meta = Metainfo::from_info(&multi(&files, 2)).unwrap();
    let paths: Vec<String> = meta.files.iter().map(|file| file.path.join("/")).collect();
    assert_eq!(paths[..5], ["top/a", "top/.pad/16379", "top/bin/.run", "top/empty", "top/l"]);
    let offsets: Vec<u64> = meta.files.iter().map(|file| file.offset).collect();
    assert_eq!(offsets, [0, 5, 16384, 16386, 16386, 16386]);
    assert_eq!(
        meta.files.iter().map(|file| file.pad).collect::<Vec<_>>(),
        [false, true, false, false, false, true]
    );
    assert!(meta.files[2].executable && meta.files[2].hidden && !meta.files[0].executable);
    assert_eq!(meta.files[4].symlink.as_deref().unwrap().join("/"), "top/bin");
    assert_eq!((meta.is_multi_file, meta.stored_len()), (true, 7));
}

#[test]
fn wrong_sizes_are_refused_by_field() {
    let ok = single(b"a", 1, PIECE, 1);
    let replaced = |from: &str, to: &str| {
        let text = ok.escape_ascii().to_string();
        assert!(text.contains(from), "{text}");
        text.replacen(from, to, 1).replace("\\x07", "\x07").into_bytes()
    };
    let table: &[(Vec<u8>, &str)] = &[
        (single(b"a", -1, PIECE, 1), "info.length: -1 is negative"),
        (single(b"a", 0, PIECE, 0), "info.length: the torrent is empty"),
        (single(b"a", 1, 0, 1), "info.piece length: piece length 0 "),
        (single(b"a", 1, -16384, 1), "info.piece length: -16384 is negative"),
        (single(b"a", 1, 1 << 31, 1), "info.piece length: piece length 2147483648"),
        (single(b"a", i64::MAX, PIECE, 1), "info.pieces: 562949953421312 pieces"),
        (single(b"a", PIECE, PIECE, 2), "info.pieces: 2 hashes where the sizes need 1"),
        (single(b"a", PIECE + 1, PIECE, 1), "info.pieces: 1 hashes where the sizes need 2"),
        (single(b"a", 1, PIECE, 0), "info.pieces: 0 hashes where the sizes need 1"),
        (replaced("6:lengthi1e", "6:length1:1"), "info.length: must be an integer"),
        (replaced("6:lengthi1e", ""), "info.length (or info.files): missing"),
        (replaced("4:name1:a", ""), "info.name: missing"),
        (replaced("4:name1:a", "4:namei1e"), "info.name: must be a string"),
        (replaced("12:piece lengthi16384e", ""), "info.piece length: missing"),
        (replaced("6:pieces20:", "6:pieces0:1:k20:"), "info.pieces: 0 hashes"),
        (replaced("6:pieces20:\\x07", "6:pieces19:"), "info.pieces: 19 bytes are not a multiple of 20"),
        (replaced("d6:length", "d5:filesle6:length"), "info: has both `length` and `files`"),
        (replaced("d6:length", "d5:filesi1e6:length"), "info.files: must be a list"),
        (replaced("12:piece", "7:privatele12:piece"), "info.private: must be an integer"),
        (replaced("12:piece", "6:sourcei1e12:piece"), "info.source: must be a string"),
        (multi(&[], 0), "info.files: the list is empty"),
        (multi(&[int(1)], 0), "info.files[0]: must be a dictionary"),
        (multi(&[file(1, &[b"a"]), file(-2, &[b"b"])], 1), "info.files[1].length: -2 is negative"),
        (multi(&[file(i64::MAX, &[b"a"]), file(1, &[b"b"])], 1), "info.files[1].length: the sizes add up to"),
        (multi(&[file(0, &[b"a"]), file(0, &[b"b"])], 0), "info.length: the torrent is empty"),
        (multi(&[info(&[("length", b"i1e")])], 1), "info.files[0].path: missing"),
        (multi(&[info(&[("path", &path(&[b"a"]))])], 1), "info.files[0].length: missing"),
        (multi(&[info(&[("length", b"i1e"), ("path", b"1:a")])], 1), "info.files[0].path: must be a list"),
        (multi(&[info(&[("length", b"i1e"), ("path", b"li1ee")])], 1), "must be a list of strings"),
        (
            multi(&[info(&[("attr", b"i1e"), ("length", b"i1e"), ("path", &path(&[b"a"]))])], 1),
            "[0].attr: must",
        ),
        (b"le".to_vec(), "info: must be a dictionary"),
        (info(&[("file tree", b"de"), ("meta version", b"i2e"), ("name", b"1:a")]), "not supported yet"),
    ];
    for (raw, expected) in table {
        let message = refusal(raw);
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
    }
}

#[test]
fn the_outer_dictionary_is_checked() {
    for (bytes, expected) in [
        (&b""[..], "byte 0: the data ends too early"),
        (b"i1e", "the torrent file: must be a dictionary"),
        (b"de", "info: missing"),
        (b"d4:info1:ae", "info: must be a dictionary"),
        (b"d8:announcei1e4:infodee", "announce: must be a string"),
        (b"d4:infodee\n", "byte 10: there is extra data after the end"),
    ] {
        assert!(Metainfo::parse(bytes).unwrap_err().to_string().contains(expected), "{expected}");
    }
}

#[test]
fn hostile_paths_are_refused_by_field() {
    let long = vec![b'x'; 255];
    let table: &[(&[&[u8]], &str)] = &[
        (&[], "path: the path is empty"),
        (&[b"."], "path: the path is empty"),
        (&[b""], "path: the path is empty"),
        (&[b".."], "path: \"..\" is not allowed"),
        (&[b"a", b"..", b"b"], "path: \"..\" is not allowed"),
        (&[b"/etc", b"passwd"], "path: absolute paths are not allowed"),
        (&[b"a/../../b"], "path: \"/\" inside a name is not allowed"),
        (&[b"a\0"], "path: a NUL byte is not allowed"),
        (&[b"d".as_slice(); 128], "path: the path is deeper than 128 folders"),
        (&[long.as_slice(); 16], "path: the path is longer than 4095 bytes"),
    ];
    for (names, problem) in table {
        let message = refusal(&multi(&[file(1, &[b"ok"]), file(1, names)], 1));
        assert_eq!(message, format!("info.files[1].{problem}"));
    }
    for (name, problem) in [
        (&b""[..], "the path is empty"),
        (b".", "the path is empty"),
        (b"..", "\"..\" is not allowed"),
        (b"/a", "absolute paths are not allowed"),
        (b"a/b", "\"/\" inside a name is not allowed"),
        (b"a\0b", "a NUL byte is not allowed"),
    ] {
        assert_eq!(refusal(&single(name, 1, PIECE, 1)), format!("info.name: {problem}"));
    }
}

#[test]
fn utf8_variants_win_where_valid() {
    let read = |utf8_name: &[u8], utf8_path: &[u8]| {
        let entry =
            info(&[("length", b"i1e"), ("path", &path(&[b"\xff"])), ("path.utf-8", &path(&[utf8_path]))]);
        let (files, name, hash) = (list(&[entry]), text(utf8_name), text(&[0; 20]));
        let raw = info(&[
            ("files", &files),
            ("name", b"1:\xfe"),
            ("name.utf-8", &name),
            ("piece length", b"i16384e"),
            ("pieces", &hash),
        ]);
        Metainfo::from_info(&raw).unwrap().files[0].path.join("/")
    };
    assert_eq!(read("né".as_bytes(), "日本".as_bytes()), "né/日本");
    assert_eq!(read(b"\xc3", b"\xe6"), "\u{fffd}/\u{fffd}");
}

#[test]
fn files_in_each_others_way() {
    let refused = |a: &[&[u8]], b: &[&[u8]]| refusal(&multi(&[file(1, a), file(1, b)], 1));
    assert_eq!(refused(&[b"a", b"b"], &[b"a", b"b"]), "info.files: two files have the path \"top/a/b\"");
    assert_eq!(refused(&[b"a"], &[b".", b"a"]), "info.files: two files have the path \"top/a\"");
    assert_eq!(refused(&[b"a"], &[b"a", b"b"]), "info.files: \"top/a\" is both a file and a folder");
    assert_eq!(refused(&[b"a", b"b", b"c"], &[b"a"]), "info.files: \"top/a\" is both a file and a folder");
    // By case and normalisation they are different files on Linux.
    let files = ["é", "e\u{301}", "A", "a", "a!"].map(|name| file(1, &[name.as_bytes()]));
    assert_eq!(Metainfo::from_info(&multi(&files, 1)).unwrap().files.len(), 5);
    // Padding files may share a path.
    let pad = info(&[("attr", b"1:p"), ("length", &int(1)), ("path", &path(&[b".pad", b"1"]))]);
    assert!(Metainfo::from_info(&multi(&[pad.clone(), file(1, &[b"a"]), pad], 1)).is_ok());
}

#[test]
fn names_made_alike_by_repair_are_parted_the_same_each_time() {
    let files = [file(1, &[b"\x01.txt"]), file(1, &[b"\x02.txt"]), file(1, &[b"_.txt"])];
    let read = || Metainfo::from_info(&multi(&files, 1)).unwrap();
    let names: Vec<String> = read().files.iter().map(|file| file.path[1].clone()).collect();
    assert_eq!(names[0], "_.txt");
    assert!(names[1].starts_with("_~") && names[1].ends_with(".txt"), "{names:?}");
    assert_eq!(names.iter().collect::<std::collections::HashSet<_>>().len(), 3);
    assert_eq!(read(), read());
    let twice = [file(1, &[b"\x01"]), file(1, &[b"\x02"]), file(1, &[b"\x02"])];
    assert!(refusal(&multi(&twice, 1)).starts_with("info.files: two files have the path"));
}

#[test]
fn links_stay_inside_and_end() {
    let read = |links: &[Vec<u8>]| {
        let files: Vec<Vec<u8>> = std::iter::once(file(1, &[b"data"])).chain(links.iter().cloned()).collect();
        Metainfo::from_info(&multi(&files, 1)).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(read(&[link(&[b"a"], &[b"b", b"x"]), link(&[b"b"], &[b"c"])]), Ok(()));
    assert_eq!(read(&[link(&[b"a"], &[b"data"]), link(&[b"d", b"e"], &[b"a"])]), Ok(()));
    let circle = "symlink path: the symbolic link goes round in a circle";
    for links in [
        &[link(&[b"a"], &[b"a"])][..],
        &[link(&[b"a"], &[b"a", b"b"])],
        &[link(&[b"d", b"a"], &[b"d"])],
        &[link(&[b"a"], &[b"b"]), link(&[b"b"], &[b"c"]), link(&[b"c"], &[b"a"])],
        &[link(&[b"a"], &[b"b", b"x"]), link(&[b"b"], &[b"a", b"x"])],
        &[link(&[b"d", b"a"], &[b"e"]), link(&[b"e"], &[b"d"])],
    ] {
        assert!(read(links).unwrap_err().contains(circle));
    }
    for (target, problem) in [
        (&[&b".."[..], b"x"][..], "\"..\" is not allowed"),
        (&[b"/etc"], "absolute paths are not allowed"),
        (&[b""], "the path is empty"),
    ] {
        let message = read(&[link(&[b"l"], target)]).unwrap_err();
        assert_eq!(message, format!("info.files[1].symlink path: {problem}"));
    }
    let (names, length) = (path(&[b"l"]), int(1));
    let bare = info(&[("attr", b"1:l"), ("path", &names)]);
    assert_eq!(read(&[bare]).unwrap_err(), "info.files[1].symlink path: missing");
    let long = info(&[("attr", b"1:l"), ("length", &length), ("path", &names), ("symlink path", &names)]);
    assert_eq!(read(&[long]).unwrap_err(), "info.files[1].length: a symbolic link must have the length 0");
}

#[test]
fn a_million_files_is_the_limit() {
    let entry = |index: usize| format!("d6:lengthi1e4:pathl7:{index:07}ee").into_bytes();
    let files: Vec<Vec<u8>> = (0..=MAX_FILES).map(entry).collect();
    assert_eq!(refusal(&multi(&files, 62)), "info.files: more than 1000000 files");
    let meta = Metainfo::from_info(&multi(&files[..MAX_FILES], 62)).unwrap();
    assert_eq!(meta.files.len(), MAX_FILES);
}

#[test]
fn hybrids_are_read_by_their_v1_side() {
    let hash = text(&[0; 20]);
    let raw = info(&[
        ("file tree", b"de"),
        ("length", b"i1e"),
        ("meta version", b"i2e"),
        ("name", b"1:a"),
        ("piece length", b"i16384e"),
        ("pieces", &hash),
        ("private", b"i1e"),
    ]);
    let meta = Metainfo::from_info(&raw).unwrap();
    assert!(meta.is_hybrid && meta.private);
}

#[test]
fn urls_are_sifted() {
    let raw = single(b"a", 1, PIECE, 1);
    let read = |outer: &[(&str, Vec<u8>)]| {
        let entries: Vec<(&str, &[u8])> = outer.iter().map(|(key, value)| (*key, &value[..])).collect();
        Metainfo::parse(&info(&entries)).unwrap()
    };
    let urls = |list: &[&str]| path(&list.iter().map(|url| url.as_bytes()).collect::<Vec<_>>());
    let long = format!("http://{}", "a".repeat(MAX_URL_LEN));
    let tiers = list(&[
        urls(&["UDP://a:1", "wss://x", "http://b/announce ", "udp://"]),
        urls(&[]),
        int(3),
        text(b"https://c/"),
        urls(&["http://b/announce", &long, "http://sp ace/", "http://\u{7}/"]),
    ]);
    let meta = read(&[
        ("announce", text(b"http://other/")),
        ("announce-list", tiers),
        ("info", raw.clone()),
        ("url-list", urls(&["", "ftp://x/", "https://w/", "https://w/"])),
    ]);
    assert_eq!(meta.trackers, [vec!["UDP://a:1", "http://b/announce"], vec!["https://c/"]]);
    assert_eq!(meta.web_seeds, ["https://w/"]);
    let meta = read(&[
        ("announce", text(b"udp://t:1")),
        ("announce-list", list(&[urls(&["dht://x"])])),
        ("info", raw.clone()),
        ("url-list", text(b"http://w/")),
    ]);
    assert_eq!(
        (meta.trackers, meta.web_seeds),
        (vec![vec!["udp://t:1".to_owned()]], vec!["http://w/".to_owned()])
    );
    let many: Vec<Vec<u8>> = (0..3000).map(|n| text(format!("udp://t:{n}").as_bytes())).collect();
    let meta = read(&[("announce-list", list(&[list(&many)])), ("info", raw)]);
    assert_eq!(meta.trackers.iter().flatten().count(), MAX_URLS);
}

#[test]
fn long_texts_are_cut_at_a_character() {
    let comment = text("é".repeat(MAX_TEXT_LEN).as_bytes());
    let raw = single(b"a", 1, PIECE, 1);
    let comment = Metainfo::parse(&info(&[("comment", &comment), ("info", &raw)])).unwrap().comment.unwrap();
    assert!(comment.len() <= MAX_TEXT_LEN && comment.chars().all(|c| c == 'é'));
}

/// A torrent with every field that is read.
fn valid_torrent() -> Vec<u8> {
    let path = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let files = vec![
        InputFile { path: path(&["a", "b.txt"]), len: 20_000, executable: true, ..InputFile::default() },
        InputFile { path: path(&["c"]), len: 7, hidden: true, ..InputFile::default() },
        InputFile { path: path(&["l"]), symlink: Some(path(&["a"])), ..InputFile::default() },
    ];
    let plan = Builder::multi_file("name", files)
        .piece_len(16384)
        .align(true)
        .private(true)
        .trackers(vec![path(&["http://a/x"]), path(&["udp://b:1"])])
        .web_seeds(path(&["http://w/"]))
        .comment("c")
        .created_by("d")
        .creation_date(Some(5))
        .source("s")
        .plan()
        .unwrap();
    plan.finish(&[[9; 20]; 3])
}

#[test]
fn every_truncation_and_every_flipped_byte_is_survived() {
    let valid = valid_torrent();
    assert!(Metainfo::parse(&valid).is_ok());
    for len in 0..valid.len() {
        assert!(Metainfo::parse(&valid[..len]).is_err(), "{len}");
    }
    let mut accepted = 0;
    for at in 0..valid.len() {
        let mut bytes = valid.clone();
        for flip in 1..=255u8 {
            bytes[at] = valid[at] ^ flip;
            if let Ok(meta) = Metainfo::parse(&bytes) {
                accepted += 1;
                let end = meta.files.last().map(|file| file.offset + file.len);
                assert_eq!(end, Some(meta.geometry.total_len()));
            }
        }
    }
    assert!(accepted > 0, "flips inside hashes leave a valid torrent");
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let document = decode(&bytes);
        let meta = Metainfo::parse(&bytes);
        prop_assert!(document.is_ok() || matches!(meta, Err(MetainfoError::Bencode(_))));
    }

    #[test]
    fn two_damages_never_panic(
        places in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 2..6),
    ) {
        let mut bytes = valid_torrent();
        for (place, value) in places {
            let at = place.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(meta) = Metainfo::parse(&bytes) {
            for file in &meta.files {
                prop_assert!(file.path.iter().all(|name| name != ".." && !name.contains(['/', '\0'])));
            }
        }
    }
}
