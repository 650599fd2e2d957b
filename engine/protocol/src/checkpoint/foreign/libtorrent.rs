//! Resume data of libtorrent (Rasterbar), which is also qBittorrent's `.fastresume`.
//!
//! Source: libtorrent's manual, "fast resume", and its `write_resume_data`. `pieces` has a byte for each piece: bit 0 is
//! set when the piece is there, bit 1 when it was verified in seed mode. Up to version 1.1 `file sizes` holds length and
//! time of each file; later versions keep neither, so there the files must not be younger than the resume data.

use super::{Condition, Foreign, ForeignError, compact_peers, count, folder, inner_path, per_file, rename};
use crate::bencode::{Dict, Node};
use crate::bitfield::Bitfield;
use crate::checkpoint::{PARTIAL_MAX, Totals};
use crate::ids::{InfoHash, PieceIndex};
use crate::metainfo::Metainfo;
use crate::picker::{PartialPiece, Priority};

/// A byte of `pieces`.
const HAVE: u8 = 1;
const VERIFIED: u8 = 2;

pub(super) fn read(root: Dict<'_, '_>, metainfo: &Metainfo) -> Result<Foreign, ForeignError> {
    let hash: [u8; 20] = root
        .get_bytes(b"info-hash")
        .and_then(|hash| hash.try_into().ok())
        .ok_or(ForeignError::Field("info-hash"))?;
    if InfoHash(hash) != metainfo.info_hash {
        return Err(ForeignError::OtherTorrent(InfoHash(hash)));
    }
    let mut renames = Vec::new();
    if let Some(paths) = per_file(root.get_list(b"mapped_files"), metainfo) {
        for (file, path) in paths.iter().enumerate() {
            let path = path.as_bytes().ok_or(ForeignError::Field("mapped_files"))?;
            // An empty one means: as in the torrent.
            if !path.is_empty() {
                let path = inner_path(path).ok_or(ForeignError::Field("mapped_files"))?;
                rename(&mut renames, metainfo, file, path);
            }
        }
    }
    let have = pieces(root, metainfo)?;
    let output = folder(root.get_bytes(b"save_path")).or_else(|| folder(root.get_bytes(b"qBt-savePath")));
    Ok(Foreign {
        output,
        renames,
        partial: unfinished(root, &have, metainfo),
        have,
        conditions: conditions(root, metainfo)?,
        file_priorities: priorities(root, metainfo),
        totals: Totals {
            downloaded: count(root, b"total_downloaded"),
            uploaded: count(root, b"total_uploaded"),
        },
        added_at: root.get_int(b"added_time").filter(|time| *time > 0),
        peers: compact_peers(root.get_bytes(b"peers"), root.get_bytes(b"peers6")),
    })
}

/// Numbers from 0 (not wanted) to 7. Until 1.1 the default was 1, since then it is 4: what lies between says nothing sure.
fn priorities(root: Dict<'_, '_>, metainfo: &Metainfo) -> Vec<Priority> {
    let Some(list) = per_file(root.get_list(b"file_priority"), metainfo) else { return Vec::new() };
    let priority = |number: Option<i64>| match number {
        Some(0) => Priority::Skip,
        Some(6..) => Priority::High,
        _ => Priority::Normal,
    };
    list.iter().map(|node| priority(node.as_int())).collect()
}

fn pieces(root: Dict<'_, '_>, metainfo: &Metainfo) -> Result<Bitfield, ForeignError> {
    let mut have = Bitfield::empty(metainfo.geometry.piece_count());
    let Some(bytes) = root.get_bytes(b"pieces").filter(|bytes| !bytes.is_empty()) else {
        return Ok(have);
    };
    if bytes.len() != have.len() as usize {
        return Err(ForeignError::Field("pieces"));
    }
    // In seed mode everything is taken for there, and looked at when it is asked for.
    let wanted = if root.get_int(b"seed_mode") == Some(1) { VERIFIED } else { HAVE };
    for (piece, byte) in bytes.iter().enumerate() {
        if byte & wanted != 0 {
            have.insert(PieceIndex(piece as u32));
        }
    }
    Ok(have)
}

/// `unfinished` has the blocks that were written of pieces under way: the first one is the high bit, and spare bits are 0.
/// Up to 1.1 the order was another one; those are fetched again.
fn unfinished(root: Dict<'_, '_>, have: &Bitfield, metainfo: &Metainfo) -> Vec<PartialPiece> {
    let old = root.get(b"file sizes").is_some();
    let entries = root.get_list(b"unfinished").filter(|_| !old).into_iter().flat_map(|list| list.iter());
    let geometry = metainfo.geometry;
    let partial = |entry: Node<'_, '_>| {
        let entry = entry.as_dict()?;
        let piece = PieceIndex(entry.get_int(b"piece")?.try_into().ok()?);
        if !geometry.contains(piece) || have.has(piece) {
            return None;
        }
        let blocks = geometry.block_count(piece);
        let bytes = entry.get_bytes(b"bitmask")?.get(..(blocks as usize).div_ceil(8))?;
        Some(PartialPiece { piece, blocks: Bitfield::from_wire(bytes, blocks).ok()? })
    };
    let mut partial: Vec<PartialPiece> = entries.filter_map(partial).take(PARTIAL_MAX).collect();
    partial.sort_by_key(|partial| partial.piece);
    partial.dedup_by_key(|partial| partial.piece);
    partial
}

fn conditions(root: Dict<'_, '_>, metainfo: &Metainfo) -> Result<Vec<Condition>, ForeignError> {
    let Some(sizes) = root.get_list(b"file sizes") else {
        return Ok(vec![Condition::NotAfterSave; metainfo.files.len()]);
    };
    let sizes = per_file(Some(sizes), metainfo).ok_or(ForeignError::Field("file sizes"))?;
    let condition = |entry: Node<'_, '_>| {
        let mut numbers = entry.as_list()?.iter();
        let (len, mtime) = (numbers.next()?.as_int()?, numbers.next()?.as_int()?);
        // libtorrent writes 0 for a file that is not there.
        Some(match mtime {
            0 => Condition::Never,
            _ => Condition::Exactly { len: Some(len.try_into().ok()?), mtime },
        })
    };
    sizes.iter().map(condition).collect::<Option<_>>().ok_or(ForeignError::Field("file sizes"))
}
