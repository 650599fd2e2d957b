//! What must hold for any bytes given to the torrent reader. Run by the fuzz target and over the corpus by tests.

use ccbt_protocol::metainfo::{FileEntry, MAX_COMPONENT_LEN, MAX_PATH_DEPTH, Metainfo, escape_for_terminal};
use std::collections::HashSet;

/// Panics when an invariant breaks.
pub fn run(data: &[u8]) {
    match Metainfo::parse(data) {
        Ok(meta) => check(&meta),
        Err(error) => assert!(!error.to_string().chars().any(char::is_control), "{error:?}"),
    }
    if let Ok(meta) = Metainfo::from_info(data) {
        assert_eq!(meta.raw_info(), data);
        check(&meta);
    }
}

fn check(meta: &Metainfo) {
    let mut offset = 0;
    let mut paths = HashSet::new();
    for file in &meta.files {
        assert_eq!(file.offset, offset);
        offset += file.len;
        check_path(&file.path, meta);
        file.symlink.iter().for_each(|target| check_path(target, meta));
        assert!(file.pad || paths.insert(&file.path), "{:?} twice", file.path);
        assert!(stays_a_file(file));
    }
    assert_eq!(offset, meta.geometry.total_len());
    let hashes = meta.geometry.pieces().map(|piece| meta.piece_hash(piece));
    assert_eq!(hashes.count(), meta.geometry.piece_count() as usize);
    assert!(meta.trackers.iter().all(|tier| !tier.is_empty()));
    let again = Metainfo::from_info(meta.raw_info()).expect("was read as part of the torrent");
    assert_eq!((again.info_hash, again.files), (meta.info_hash, meta.files.clone()));
}

fn stays_a_file(file: &FileEntry) -> bool {
    file.symlink.is_none() || (file.len == 0 && !file.pad)
}

fn check_path(path: &[String], meta: &Metainfo) {
    assert_eq!(path[0], meta.name);
    assert!(path.len() <= MAX_PATH_DEPTH);
    assert_eq!(path.len() > 1, meta.is_multi_file);
    for name in path {
        assert!(!name.is_empty() && name != "." && name != ".." && name.len() <= MAX_COMPONENT_LEN);
        assert!(!name.contains(['/', '\0']));
        assert_eq!(escape_for_terminal(name), *name);
    }
}
