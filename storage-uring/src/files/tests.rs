use super::*;
use std::fs;
use std::os::unix::fs::symlink;

#[test]
fn folders_are_made_and_those_to_sync_are_told() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("a/b");
    let mut made = Vec::new();
    assert!(open_root(&root, false, &mut made).unwrap().is_none() && made.is_empty());
    let fd = open_root(&root, true, &mut made).unwrap().unwrap();
    assert_eq!(made, [temp.path().join("a"), root.clone(), temp.path().to_path_buf()]);
    made.clear();
    assert!(open_folder(fd.as_fd(), &root, Path::new("c/d"), false, &mut made).unwrap().is_none());
    open_folder(fd.as_fd(), &root, Path::new("c/d"), true, &mut made).unwrap().unwrap();
    assert_eq!(made, [root.clone(), root.join("c"), root.join("c"), root.join("c/d")]);
    made.clear();
    open_root(&root, true, &mut made).unwrap().unwrap();
    open_folder(fd.as_fd(), &root, Path::new("c/d"), true, &mut made).unwrap().unwrap();
    assert!(made.is_empty(), "nothing new the second time");
    assert!(root.join("c/d").is_dir());
}

#[test]
fn a_file_where_a_folder_is_needed_is_named() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("file"), b"").unwrap();
    let error = open_root(&temp.path().join("file"), true, &mut Vec::new()).unwrap_err();
    assert_eq!((error.kind(), error.path().to_path_buf()), (ErrorKind::NotAFile, temp.path().join("file")));
    let error = open_root(&temp.path().join("file/below"), true, &mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotAFile, "{error}");
}

#[test]
fn links_below_the_root_are_not_followed() {
    let temp = tempfile::tempdir().unwrap();
    fs::create_dir(temp.path().join("real")).unwrap();
    fs::write(temp.path().join("real/x"), b"1").unwrap();
    symlink("real", temp.path().join("link")).unwrap();
    symlink("real/x", temp.path().join("file")).unwrap();
    let read = Access { write: false, direct: false };
    for path in ["link/x", "file"] {
        let error = open(temp.path(), Path::new(path), read).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutsideRoot, "{path}");
    }
    assert!(open(&temp.path().join("link"), Path::new("x"), read).is_ok(), "the root may be a link");
}

#[test]
fn opened_files_block_and_reopening_makes_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let access = Access { write: true, direct: false };
    assert_eq!(open(temp.path(), Path::new("x"), access).unwrap_err().kind(), ErrorKind::Missing);
    fs::write(temp.path().join("x"), b"1").unwrap();
    let fd = open(temp.path(), Path::new("x"), access).unwrap();
    assert!(!rustix::fs::fcntl_getfl(&fd).unwrap().contains(OFlags::NONBLOCK));
    assert_eq!(look_at(fd.as_fd(), Path::new("x")).unwrap().len, 1);
    let error = open(temp.path(), Path::new("."), Access { write: false, direct: false }).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotAFile);
}

#[test]
fn direct_descriptors_keep_their_flag() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("x"), b"1").unwrap();
    match open(temp.path(), Path::new("x"), Access { write: true, direct: true }) {
        Ok(fd) => assert!(rustix::fs::fcntl_getfl(&fd).unwrap().contains(OFlags::DIRECT)),
        Err(error) => {
            assert_eq!(error.errno(), Some(libc::EINVAL), "only a file system without O_DIRECT: {error}")
        }
    }
}

#[test]
fn what_lives_in_memory_is_known() {
    if let Ok(shm) = fs::File::open("/dev/shm") {
        assert!(in_memory(shm.as_fd()));
    } else {
        eprintln!("skipped: no /dev/shm");
    }
    assert!(!in_memory(fs::File::open("/proc").unwrap().as_fd()));
}
