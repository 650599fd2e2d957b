//! What a run of pieces is made of: ranges of files, and zeroes.

use std::collections::VecDeque;

use crate::ids::PieceIndex;
use crate::metainfo::Metainfo;

/// Consecutive bytes of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// How many, more than 0.
    pub len: u64,
    /// Where they come from.
    pub source: Source,
}

/// See [`Segment`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A padding file (BEP 47), which nobody has.
    Zeroes,
    /// A file, from a place in it on.
    File {
        /// Its position in [`Metainfo::files`].
        index: usize,
        /// The first byte.
        start: u64,
        /// Bytes of the whole file.
        file_len: u64,
    },
}

/// The segments of `count` pieces from `first` on, in order. They add up to the pieces' length.
pub fn segments(metainfo: &Metainfo, first: PieceIndex, count: u32) -> VecDeque<Segment> {
    let geometry = metainfo.geometry;
    let mut at = u64::from(first.0) * u64::from(geometry.piece_len());
    let end = (at + u64::from(count) * u64::from(geometry.piece_len())).min(geometry.total_len());
    let mut found = VecDeque::new();
    let from = metainfo.files.partition_point(|file| file.offset + file.len <= at);
    for (index, file) in metainfo.files.iter().enumerate().skip(from) {
        if at >= end {
            break;
        }
        let len = (file.offset + file.len).min(end) - at;
        if len == 0 {
            continue;
        }
        let source = match file.pad {
            true => Source::Zeroes,
            false => Source::File { index, start: at - file.offset, file_len: file.len },
        };
        found.push_back(Segment { len, source });
        at += len;
    }
    found
}

/// The files that a piece has bytes of, padding left out: positions in [`Metainfo::files`].
pub fn files_of(metainfo: &Metainfo, piece: PieceIndex) -> impl Iterator<Item = usize> {
    segments(metainfo, piece, 1).into_iter().filter_map(|segment| match segment.source {
        Source::File { index, .. } => Some(index),
        Source::Zeroes => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, len: u64, pad: bool) -> String {
        let attr = if pad { "4:attr1:p" } else { "" };
        format!("d{attr}6:lengthi{len}e4:pathl{}:{name}ee", name.len())
    }

    #[test]
    fn runs_are_cut_at_files_and_padding_is_made() {
        let files = [
            file("a", 10_000, false),
            file("p", 6384, true),
            file("empty", 0, false),
            file("b", 40_000, false),
            file("c", 5, false),
        ];
        let info = format!(
            "d5:filesl{}e4:name1:n12:piece lengthi16384e6:pieces80:{}e",
            files.concat(),
            "h".repeat(80)
        );
        let metainfo = Metainfo::from_info(info.as_bytes()).expect("a torrent");
        let file =
            |index, start, len, file_len| Segment { len, source: Source::File { index, start, file_len } };
        let zeroes = Segment { len: 6384, source: Source::Zeroes };
        let all: Vec<_> = segments(&metainfo, PieceIndex(0), 4).into();
        assert_eq!(all, [file(0, 0, 10_000, 10_000), zeroes, file(3, 0, 40_000, 40_000), file(4, 0, 5, 5)]);
        let last: Vec<_> = segments(&metainfo, PieceIndex(3), 1).into();
        assert_eq!(last, [file(3, 32_768, 7232, 40_000), file(4, 0, 5, 5)]);
        assert_eq!(files_of(&metainfo, PieceIndex(0)).collect::<Vec<_>>(), [0]);
    }
}
