use super::*;
use proptest::prelude::*;
use std::collections::HashMap;

fn file(len: u64, pad: bool) -> FileSpec {
    FileSpec { path: "f".into(), len, pad, executable: false, link: None }
}

/// Piece length, file lengths and which of them are padding.
fn layouts() -> impl Strategy<Value = LayoutSpec> {
    let len = prop_oneof![Just(0u64), Just(1), Just(4095), Just(4096), Just(4097), 0u64..60_000];
    let files = prop::collection::vec((len, prop::bool::weighted(0.2)), 1..12);
    (1u32..40_000, files).prop_map(|(piece_len, files)| {
        let files = files.into_iter().map(|(len, pad)| file(len, pad)).collect();
        LayoutSpec::new("/r".into(), files, piece_len).unwrap()
    })
}

fn pieces(spec: &LayoutSpec) -> impl Iterator<Item = PieceIndex> + use<> {
    (0..spec.total_len().div_ceil(u64::from(spec.piece_len())) as u32).map(PieceIndex)
}

#[test]
fn refuses_what_would_leave_the_folder() {
    for path in ["", "/etc/passwd", "../up", "a/../../b", "."] {
        let bad = FileSpec { path: path.into(), len: 1, ..FileSpec::default() };
        assert_eq!(
            LayoutSpec::new("/r".into(), vec![bad], 16),
            Err(LayoutError::Path(path.into())),
            "{path}"
        );
    }
    assert_eq!(LayoutSpec::new("/r".into(), vec![file(1, false)], 0), Err(LayoutError::Sizes));
    let huge = vec![file(u64::MAX, false), file(1, false)];
    assert_eq!(LayoutSpec::new("/r".into(), huge, 16), Err(LayoutError::Sizes));
    assert_eq!(LayoutSpec::new("/r".into(), vec![file(1 << 63, false)], 16), Err(LayoutError::Sizes));
}

#[test]
fn keeps_the_indices_of_the_torrent_file() {
    let file = |attr: &str, len: u32, name: &str, rest: &str| {
        format!("d4:attr{}:{attr}6:lengthi{len}e4:pathl{}:{name}e{rest}e", attr.len(), name.len())
    };
    let files = [
        file("x", 100, "run", ""),
        file("p", 28, "pad", ""),
        file("l", 0, "link", "12:symlink pathl3:rune"),
        file("", 50, "data", ""),
    ]
    .concat();
    let hash = "h".repeat(20);
    let info = format!("d5:filesl{files}e4:name1:t12:piece lengthi16384e6:pieces20:{hash}e");
    let metainfo = Metainfo::parse(format!("d4:info{info}e").as_bytes()).unwrap();
    let spec = LayoutSpec::from_metainfo("/out".into(), &metainfo).unwrap();
    let seen: Vec<(u64, bool, bool)> =
        spec.files().iter().map(|file| (file.len, file.pad, file.executable)).collect();
    assert_eq!(seen, [(100, false, true), (28, true, false), (0, true, false), (50, false, false)]);
    assert_eq!(spec.file_path(3), Path::new("/out/t/data"));
    assert_eq!(spec.total_len(), 178);
    let links = |spec: &LayoutSpec| spec.files().iter().map(|file| file.link.clone()).collect::<Vec<_>>();
    assert_eq!(links(&spec), [None, None, Some("t/run".into()), None]);
    let renamed = spec.with_renames(&[(0, "t/walk".into())]).unwrap();
    assert_eq!(links(&renamed)[2], Some("t/walk".into()), "the link goes with its file");
    let taken = spec.with_renames(&[(0, "t/link".into())]);
    assert_eq!(taken, Err(LayoutError::Taken("t/link".into())));
}

#[test]
fn an_aligned_piece_is_direct_and_the_files_tail_is_not() {
    let spec = LayoutSpec::new("/r".into(), vec![file(3 * 65_536 + 10, false)], 65_536).unwrap();
    let spans = |piece: u32| -> Vec<(Class, u64, u32)> {
        let piece = PieceIndex(piece);
        spec.extents(spec.piece_start(piece), spec.piece_size(piece))
            .flat_map(|extent| extent.spans(spec.phase(piece), Some(512)))
            .map(|(class, span)| (class, span.offset, span.len))
            .collect()
    };
    assert_eq!(spans(1), [(Class::Direct, 65_536, 65_536)]);
    assert_eq!(spans(3), [(Class::Seam, 3 * 65_536, 10)]);
}

proptest! {
    #[test]
    fn extents_tile_every_range(spec in layouts(), start in 0u64..200_000, len in 0u32..100_000) {
        let mut position = start;
        let mut at = 0;
        for extent in spec.extents(start, len) {
            prop_assert!(extent.len > 0);
            prop_assert_eq!(extent.at, at);
            let file = extent.file as usize;
            prop_assert_eq!(spec.starts[file] + extent.offset, position);
            prop_assert!(extent.offset + u64::from(extent.len) <= spec.files()[file].len);
            position += u64::from(extent.len);
            at += extent.len;
        }
        let expected = (start + u64::from(len)).min(spec.total_len()).saturating_sub(start);
        prop_assert_eq!(u64::from(at), expected);
    }

    #[test]
    fn the_phase_is_that_of_the_first_byte(spec in layouts(), start in 0u64..200_000) {
        let slow = spec.extents(start, 1).next().map_or(0, |extent| (extent.offset % 4096) as u32);
        prop_assert_eq!(spec.phase_at(start), slow);
    }

    #[test]
    fn no_page_is_written_both_ways(
        spec in layouts(),
        align in prop::option::of(prop::sample::select(vec![4u32, 512, 4096])),
    ) {
        let mut ways: HashMap<(u32, u64), (Class, u32)> = HashMap::new();
        let mut written = vec![0u64; spec.files().len()];
        for piece in pieces(&spec) {
            let phase = spec.phase(piece);
            for extent in spec.extents(spec.piece_start(piece), spec.piece_size(piece)) {
                for (class, span) in extent.spans(phase, align) {
                    prop_assert_eq!(span.offset, written[span.file as usize], "spans follow each other");
                    written[span.file as usize] += u64::from(span.len);
                    let end = span.offset + u64::from(span.len);
                    if class == Class::Direct {
                        prop_assert!(span.offset % 4096 == 0 && end % 4096 == 0);
                        let address = u64::from(phase) + u64::from(span.at);
                        prop_assert_eq!(address % u64::from(align.unwrap()), 0);
                    }
                    for page in span.offset / 4096..end.div_ceil(4096) {
                        let (before, by) = *ways.entry((span.file, page)).or_insert((class, piece.0));
                        prop_assert_eq!(before, class, "page {} of file {}", page, span.file);
                        prop_assert!(class == Class::Seam || by == piece.0);
                    }
                }
            }
        }
        let lens: Vec<u64> = spec.files().iter().map(|file| file.len).collect();
        prop_assert_eq!(written, lens);
    }
}

#[test]
fn renames_stay_inside_and_apart() {
    let named = |path: &str| FileSpec { path: path.into(), len: 10, ..FileSpec::default() };
    let files = vec![named("t/a"), named("t/b/c"), file(5, true), named("t/d")];
    let spec = LayoutSpec::new("/r".into(), files, 16).unwrap();
    let renamed = |index: u32, path: &str| spec.with_renames(&[(index, path.into())]);
    assert_eq!(renamed(0, "x//./y").unwrap().file_path(0), Path::new("/r/x/y"));
    for path in ["", "/etc/passwd", "../up", "x/../../y", ".", "a\0b"] {
        assert_eq!(renamed(0, path), Err(LayoutError::Path(path.into())), "{path:?}");
    }
    assert_eq!(renamed(0, "t/d"), Err(LayoutError::Taken("t/d".into())));
    assert_eq!(renamed(0, "t/b"), Err(LayoutError::Taken("t/b/c".into())), "a folder is there");
    assert_eq!(renamed(0, "t/d/e"), Err(LayoutError::Taken("t/d/e".into())), "a file is in the way");
    assert_eq!(renamed(2, "p"), Err(LayoutError::NoFile(2)), "padding has no place");
    assert_eq!(renamed(4, "p"), Err(LayoutError::NoFile(4)));
    // Two that change places.
    let swapped = spec.with_renames(&[(0, "t/d".into()), (3, "t/a".into())]).unwrap();
    assert_eq!(swapped.file_path(3), Path::new("/r/t/a"));
    assert_eq!(swapped.piece_size(PieceIndex(0)), spec.piece_size(PieceIndex(0)));
    assert_eq!(spec.with_root("/s".into()).file_path(1), Path::new("/s/t/b/c"));
}
