//! rtorrent's session folder: `HASH.torrent.libtorrent_resume` and `HASH.torrent.rtorrent`.
//!
//! Source: `resume_save_progress` of libtorrent (rakshasa). `bitfield` is the set of pieces, or their number when all or
//! none are there. `files` has the priority of each file and its time in seconds, or one of four marks in the place of it;
//! `uncertain_pieces` are big-endian indices of pieces that may not have reached the disk. Files are of full length from
//! the start. `directory` of the other file is, for a torrent of several files, the torrent's own folder.

use super::{Condition, Foreign, ForeignError, folder, per_file, rename};
use crate::bencode::{Dict, Node};
use crate::bitfield::Bitfield;
use crate::checkpoint::Totals;
use crate::ids::PieceIndex;
use crate::metainfo::Metainfo;
use crate::picker::Priority;

/// In the place of a time: the torrent was being downloaded (`~3`).
const WAS_DOWNLOADING: i64 = !3;

pub(super) fn read(
    resume: Dict<'_, '_>,
    companion: Option<Dict<'_, '_>>,
    metainfo: &Metainfo,
) -> Result<Foreign, ForeignError> {
    let mut have = pieces(resume, metainfo)?;
    for index in resume.get_bytes(b"uncertain_pieces").unwrap_or_default().chunks_exact(4) {
        let piece = PieceIndex(u32::from_be_bytes(index.try_into().expect("four bytes")));
        if have.has(piece) {
            have.remove(piece);
        }
    }
    let files = per_file(resume.get_list(b"files"), metainfo).ok_or(ForeignError::Field("files"))?;
    let times = files.iter().map(|file| file.as_dict().and_then(|file| file.get_int(b"mtime")));
    let conditions = times.zip(&metainfo.files).map(|(time, file)| match time {
        Some(WAS_DOWNLOADING) => Condition::NotAfterSave,
        Some(mtime) if mtime >= 0 => Condition::Exactly { len: Some(file.len), mtime },
        // Not made yet, not to be made, or not to be relied on.
        _ => Condition::Never,
    });
    let mut foreign = Foreign {
        output: None,
        renames: Vec::new(),
        have,
        partial: Vec::new(),
        conditions: conditions.collect(),
        totals: Totals::default(),
        added_at: None,
        file_priorities: files.iter().map(priority).collect(),
        peers: peers(resume),
    };
    if let Some(companion) = companion {
        foreign.totals.uploaded = super::count(companion, b"total_uploaded");
        foreign.totals.downloaded = super::count(companion, b"total_downloaded");
        foreign.added_at = companion.get_int(b"timestamp.started").filter(|time| *time > 0);
        place(&mut foreign, companion, metainfo);
    }
    Ok(foreign)
}

/// 0: not wanted, 1: normal, 2: high.
fn priority(file: Node<'_, '_>) -> Priority {
    match file.as_dict().and_then(|file| file.get_int(b"priority")) {
        Some(0) => Priority::Skip,
        Some(2) => Priority::High,
        _ => Priority::Normal,
    }
}

fn pieces(resume: Dict<'_, '_>, metainfo: &Metainfo) -> Result<Bitfield, ForeignError> {
    let pieces = metainfo.geometry.piece_count();
    let field = match (resume.get_int(b"bitfield"), resume.get_bytes(b"bitfield")) {
        (Some(0), _) => Some(Bitfield::empty(pieces)),
        (Some(all), _) if all == i64::from(pieces) => Some(Bitfield::full(pieces)),
        (_, Some(bytes)) => Bitfield::from_wire(bytes, pieces).ok(),
        _ => None,
    };
    field.ok_or(ForeignError::Field("bitfield"))
}

fn place(foreign: &mut Foreign, companion: Dict<'_, '_>, metainfo: &Metainfo) {
    let Some(directory) = folder(companion.get_bytes(b"directory")) else { return };
    if !metainfo.is_multi_file {
        foreign.output = Some(directory);
        return;
    }
    let (Some(parent), Some(name)) = (directory.parent(), directory.file_name()) else { return };
    foreign.output = Some(parent.to_owned());
    for (index, file) in metainfo.files.iter().enumerate() {
        let mut path = std::path::PathBuf::from(name);
        path.extend(&file.path[1..]);
        rename(&mut foreign.renames, metainfo, index, path);
    }
}

fn peers(resume: Dict<'_, '_>) -> Vec<std::net::SocketAddr> {
    let all = resume.get_list(b"peers").into_iter().flat_map(|list| list.iter());
    let bytes: Vec<u8> = all
        .filter_map(|peer| peer.as_dict()?.get_bytes(b"inet").filter(|inet| inet.len() == 6))
        .flatten()
        .copied()
        .collect();
    super::compact_peers(Some(&bytes), None)
}
