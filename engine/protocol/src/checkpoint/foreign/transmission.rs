//! Transmission's `resume/*.resume`.
//!
//! Source: `saveProgress` of libtransmission. `progress.blocks` is a set of blocks of 16 KiB (or `all`, `none`), counted
//! over the whole torrent. Up to version 3 `progress.time-checked` says for each file when its pieces were checked, as
//! one time for all or as a list of a base and an offset for each piece; since version 4 `progress.mtimes` has each
//! file's time and `progress.pieces` the set of checked pieces. A file that was complete must not be younger than its
//! check; one that was not must not be younger than the resume file.

use super::{Condition, Foreign, ForeignError, compact_peers, count, folder, inner_path, per_file, rename};
use crate::bencode::{Dict, Node, Value};
use crate::bitfield::Bitfield;
use crate::checkpoint::Totals;
use crate::ids::PieceIndex;
use crate::metainfo::Metainfo;
use crate::picker::Priority;

/// Transmission's block, whatever the size of pieces.
const BLOCK: u64 = 16_384;

pub(super) fn read(
    root: Dict<'_, '_>,
    progress: Dict<'_, '_>,
    metainfo: &Metainfo,
) -> Result<Foreign, ForeignError> {
    let mut have = pieces(progress, metainfo)?;
    let conditions = match (progress.get_list(b"mtimes"), progress.get_list(b"time-checked")) {
        (Some(times), _) => {
            let checked = set(progress.get(b"pieces"), have.len()).ok_or(ForeignError::Field("pieces"))?;
            keep(&mut have, |piece| checked.has(piece));
            let times = per_file(Some(times), metainfo).ok_or(ForeignError::Field("mtimes"))?;
            let condition = |time: Node<'_, '_>| match time.as_int() {
                Some(mtime) if mtime > 0 => Condition::Exactly { len: None, mtime },
                _ => Condition::Never,
            };
            times.iter().map(condition).collect()
        }
        (None, Some(times)) => {
            let times = per_file(Some(times), metainfo).ok_or(ForeignError::Field("time-checked"))?;
            checked(times.iter(), &mut have, metainfo).ok_or(ForeignError::Field("time-checked"))?
        }
        (None, None) => vec![Condition::Never; metainfo.files.len()],
    };
    let mut renames = Vec::new();
    if let Some(paths) = per_file(root.get_list(b"files"), metainfo) {
        for (file, path) in paths.iter().enumerate() {
            if let Some(path) = path.as_bytes().filter(|path| !path.is_empty()) {
                let path = inner_path(path).ok_or(ForeignError::Field("files"))?;
                rename(&mut renames, metainfo, file, path);
            }
        }
    }
    // Incomplete torrents may have a folder of their own.
    let incomplete = folder(root.get_bytes(b"incomplete-dir")).filter(|_| !have.is_full());
    Ok(Foreign {
        output: incomplete.or_else(|| folder(root.get_bytes(b"destination"))),
        renames,
        have,
        partial: Vec::new(),
        conditions,
        totals: Totals { downloaded: count(root, b"downloaded"), uploaded: count(root, b"uploaded") },
        added_at: root.get_int(b"added-date").filter(|time| *time > 0),
        file_priorities: priorities(root, metainfo),
        peers: peers(root),
    })
}

/// `dnd` says of each file whether it is not wanted, `priority` how much: -1, 0 or 1.
fn priorities(root: Dict<'_, '_>, metainfo: &Metainfo) -> Vec<Priority> {
    let numbers = |key: &[u8]| {
        let list = per_file(root.get_list(key), metainfo);
        list.map(|list| list.iter().map(|node| node.as_int().unwrap_or(0)).collect::<Vec<i64>>())
    };
    let (skipped, wanted) = (numbers(b"dnd"), numbers(b"priority"));
    if skipped.is_none() && wanted.is_none() {
        return Vec::new();
    }
    let of = |list: &Option<Vec<i64>>, file: usize| list.as_ref().map_or(0, |list| list[file]);
    let priority = |file: usize| match (of(&skipped, file), of(&wanted, file)) {
        (1.., _) => Priority::Skip,
        (_, ..=-1) => Priority::Low,
        (_, 0) => Priority::Normal,
        (_, 1..) => Priority::High,
    };
    (0..metainfo.files.len()).map(priority).collect()
}

/// A set, or `all` or `none` as a word. Transmission leaves out bytes of zeros at the end.
fn set(node: Option<Node<'_, '_>>, len: u32) -> Option<Bitfield> {
    match node?.as_bytes()? {
        b"all" => Some(Bitfield::full(len)),
        b"none" => Some(Bitfield::empty(len)),
        bytes if bytes.len() <= (len as usize).div_ceil(8) => {
            let mut bytes = bytes.to_vec();
            bytes.resize((len as usize).div_ceil(8), 0);
            Bitfield::from_wire(&bytes, len).ok()
        }
        _ => None,
    }
}

/// Pieces all of whose blocks are there.
fn pieces(progress: Dict<'_, '_>, metainfo: &Metainfo) -> Result<Bitfield, ForeignError> {
    let geometry = metainfo.geometry;
    let all = progress.get_str(b"have") == Some("all");
    if all {
        return Ok(Bitfield::full(geometry.piece_count()));
    }
    let count = geometry.total_len().div_ceil(BLOCK);
    // Pieces of other lengths are cut differently by different versions.
    let is_whole = u64::from(geometry.piece_len()).is_multiple_of(BLOCK);
    let blocks = u32::try_from(count).ok().filter(|_| is_whole);
    // Before version 2.3 it was called so, with a bit for each block too.
    let node = progress.get(b"blocks").or_else(|| progress.get(b"bitfield"));
    let blocks = blocks.and_then(|blocks| set(node, blocks)).ok_or(ForeignError::Field("blocks"))?;
    let mut have = Bitfield::full(geometry.piece_count());
    keep(&mut have, |piece| {
        let start = geometry.piece_start(piece);
        let end = start + u64::from(geometry.piece_size(piece));
        (start / BLOCK..end.div_ceil(BLOCK)).all(|block| blocks.has(PieceIndex(block as u32)))
    });
    Ok(have)
}

fn keep(have: &mut Bitfield, wanted: impl Fn(PieceIndex) -> bool) {
    let gone: Vec<PieceIndex> = have.iter().filter(|piece| !wanted(*piece)).collect();
    for piece in gone {
        have.remove(piece);
    }
}

/// What `time-checked` says: takes pieces out of `have` that were never checked.
fn checked<'t, 'a: 't>(
    times: impl Iterator<Item = Node<'t, 'a>>,
    have: &mut Bitfield,
    metainfo: &Metainfo,
) -> Option<Vec<Condition>> {
    let piece_len = u64::from(metainfo.geometry.piece_len());
    let mut conditions = Vec::with_capacity(metainfo.files.len());
    for (time, file) in times.zip(&metainfo.files) {
        let last = (file.offset + file.len.max(1)).div_ceil(piece_len);
        let pieces = (file.offset / piece_len) as u32..last as u32;
        let was_complete = pieces.clone().all(|piece| have.has(PieceIndex(piece)));
        let newest = match time.value() {
            Value::Int(time) => {
                if time <= 0 {
                    remove_all(have, pieces);
                }
                time
            }
            Value::List(list) => {
                let mut numbers = list.iter().map(|number| number.as_int());
                let base = numbers.next()??;
                let mut newest = 0;
                for piece in pieces {
                    match numbers.next()?? {
                        offset if offset <= 0 => remove_all(have, piece..piece + 1),
                        offset => newest = newest.max(base.checked_add(offset)?),
                    }
                }
                newest
            }
            _ => return None,
        };
        conditions.push(match newest {
            ..=0 => Condition::Never,
            time if was_complete => Condition::NotAfter(time),
            _ => Condition::NotAfterSave,
        });
    }
    Some(conditions)
}

fn remove_all(have: &mut Bitfield, pieces: std::ops::Range<u32>) {
    for piece in pieces.map(PieceIndex) {
        if have.has(piece) {
            have.remove(piece);
        }
    }
}

/// Version 2 and later keep records of their own around the address; only the old compact form is read.
fn peers(root: Dict<'_, '_>) -> Vec<std::net::SocketAddr> {
    let plain = |key: &[u8], len: usize| root.get_bytes(key).filter(|bytes| bytes.len() % len == 0);
    compact_peers(plain(b"peers", 6), None)
}
