use std::time::{Duration, UNIX_EPOCH};

use ccbt_protocol::bencode::Encoder;
use ccbt_protocol::metainfo::build::Builder;

use super::*;
use crate::checkpoints::{Format, trusted};

const LEN: u64 = 3 * 16_384;

/// A folder with a torrent file `t.torrent`, and its data in `data`.
fn place() -> (tempfile::TempDir, Arc<Metainfo>) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let plan = Builder::single_file("t", LEN).piece_len(16_384).plan().expect("sensible sizes");
    let bytes = plan.finish(&[[7; 20]; 3]);
    fs::write(folder.path().join("t.torrent"), &bytes).unwrap();
    fs::create_dir(folder.path().join("data")).unwrap();
    write(&folder.path().join("data/t"), 1000);
    (folder, parse(&bytes).unwrap())
}

/// A file of full length that was changed in this second.
fn write(path: &Path, second: u64) {
    fs::write(path, vec![1; LEN as usize]).unwrap();
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::from_secs(second)).unwrap();
}

fn fastresume(metainfo: &Metainfo, save_path: &Path) -> Vec<u8> {
    let mut e = Encoder::new();
    e.begin_dict();
    e.key(b"file-format").bytes(b"libtorrent resume file");
    e.key(b"info-hash").bytes(&metainfo.info_hash.0);
    e.key(b"pieces").bytes(b"\x01\x00\x01");
    e.key(b"save_path").bytes(save_path.as_os_str().as_bytes());
    e.end();
    e.finish()
}

#[test]
fn the_torrent_beside_it_is_found_and_older_files_are_believed() {
    let (folder, metainfo) = place();
    let data = folder.path().join("data");
    let path = folder.path().join("t.fastresume");
    fs::write(&path, fastresume(&metainfo, &data)).unwrap();
    let imported = import(&path, &ImportOptions::default()).expect("all is there");
    assert_eq!((imported.checkpoint.have.count(), imported.doubtful), (2, 0));
    assert_eq!(imported.checkpoint.output, data);
    assert_eq!(trusted(&imported.checkpoint, &metainfo), 2);
    assert!(imported.torrent.is_some());
    // Any other name, when the info-hash names the torrent.
    let other = folder.path().join("x.fastresume");
    fs::rename(&path, &other).unwrap();
    let named = folder.path().join(format!("{}.torrent", metainfo.info_hash));
    fs::rename(folder.path().join("t.torrent"), &named).unwrap();
    assert!(import(&other, &ImportOptions::default()).is_ok());
    fs::remove_file(named).unwrap();
    assert!(matches!(import(&other, &ImportOptions::default()), Err(ImportError::NoTorrent)));
}

#[test]
fn a_file_that_was_changed_since_is_doubtful() {
    let (folder, metainfo) = place();
    let data = folder.path().join("data");
    let path = folder.path().join("t.fastresume");
    fs::write(&path, fastresume(&metainfo, &data)).unwrap();
    write(&data.join("t"), 4_000_000_000);
    let imported = import(&path, &ImportOptions::default()).expect("all is there");
    assert_eq!((imported.checkpoint.have.count(), imported.doubtful), (0, 2));
}

#[test]
fn names_of_incomplete_files_are_taken() {
    for ending in ["part", "!qB"] {
        let (folder, metainfo) = place();
        let data = folder.path().join("data");
        fs::rename(data.join("t"), data.join(format!("t.{ending}"))).unwrap();
        let path = folder.path().join("t.fastresume");
        fs::write(&path, fastresume(&metainfo, &data)).unwrap();
        let imported = import(&path, &ImportOptions::default()).expect("all is there");
        assert_eq!(imported.checkpoint.renames[0].path, Path::new(&format!("t.{ending}")));
        assert_eq!((imported.checkpoint.have.count(), imported.notes.len()), (2, 1));
    }
}

#[test]
fn our_own_are_taken_with_another_torrent_file_and_folder() {
    let (folder, metainfo) = place();
    let path = folder.path().join("t.fastresume");
    fs::write(&path, fastresume(&metainfo, &folder.path().join("data"))).unwrap();
    let made = import(&path, &ImportOptions::default()).expect("all is there").checkpoint;
    let exported = folder.path().join("e.json");
    fs::write(&exported, made.encode(Format::Json)).unwrap();
    assert_eq!(import(&exported, &ImportOptions::default()).expect("it is good").checkpoint, made);
    let torrent = Some(folder.path().join("t.torrent"));
    let options = ImportOptions { torrent: torrent.clone(), output: Some("/elsewhere".into()) };
    let moved = import(&exported, &options).expect("it is good");
    assert_eq!(moved.checkpoint.output, Path::new("/elsewhere"));
    assert_eq!((moved.checkpoint.source.torrent, moved.torrent.is_some()), (torrent, true));
    let plan = Builder::single_file("u", LEN).piece_len(16_384).plan().expect("sensible sizes");
    fs::write(folder.path().join("u.torrent"), plan.finish(&[[7; 20]; 3])).unwrap();
    let wrong = ImportOptions { torrent: Some(folder.path().join("u.torrent")), output: None };
    assert!(matches!(import(&exported, &wrong), Err(ImportError::Mismatch(_))));
    fs::write(&exported, &made.encode(Format::Json)[..100]).unwrap();
    assert!(matches!(import(&exported, &wrong), Err(ImportError::Decode(_))));
}

#[test]
fn folders_are_searched_for_resume_files() {
    let (folder, _) = place();
    for name in ["b.fastresume", "a.torrent.libtorrent_resume", "c.resume", "d.torrent.rtorrent", "e.ckpt"] {
        fs::write(folder.path().join(name), b"").unwrap();
    }
    let found = candidates(folder.path()).unwrap();
    let names: Vec<_> = found.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["a.torrent.libtorrent_resume", "b.fastresume", "c.resume", "e.ckpt"]);
}
