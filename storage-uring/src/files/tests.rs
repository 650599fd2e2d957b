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

/// Where `openat2` is forbidden, the same is opened and the same refused.
#[test]
fn step_by_step_is_as_strict_as_openat2() {
    let temp = tempfile::tempdir().unwrap();
    fs::create_dir_all(temp.path().join("real/deep")).unwrap();
    fs::write(temp.path().join("real/x"), b"1").unwrap();
    fs::write(temp.path().join("outside"), b"1").unwrap();
    symlink("real", temp.path().join("link")).unwrap();
    symlink("real/x", temp.path().join("real/filelink")).unwrap();
    symlink("nowhere", temp.path().join("real/dangling")).unwrap();
    let root = openat(CWD, temp.path().join("real"), OFlags::PATH, Mode::empty()).unwrap();
    let top = openat(CWD, temp.path(), OFlags::PATH, Mode::empty()).unwrap();
    let looks = [
        OFlags::PATH,
        OFlags::PATH | OFlags::DIRECTORY,
        OFlags::RDONLY | OFlags::NONBLOCK,
        OFlags::RDWR | OFlags::NONBLOCK,
        OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
    ];
    let paths = [
        ".",
        "x",
        "./x",
        "deep",
        "deep/none",
        "none/x",
        "x/below",
        "filelink",
        "dangling",
        "dangling/x",
        "filelink/x",
        "../outside",
        "/etc/passwd",
        "link",
        "link/x",
        "link/deep",
        "real/x",
    ];
    type Opener = fn(BorrowedFd<'_>, &Path, OFlags, Mode) -> rustix::io::Result<OwnedFd>;
    for folder in [&root, &top] {
        for (path, flags) in paths.iter().flat_map(|path| looks.map(|flags| (Path::new(path), flags))) {
            // Which file it is; a made one is removed again.
            let inode = |open: Opener| {
                let makes = flags.contains(OFlags::CREATE);
                let mode = if makes { Mode::RUSR | Mode::WUSR } else { Mode::empty() };
                let found = open(folder.as_fd(), path, flags, mode)?;
                if makes {
                    rustix::fs::unlinkat(folder, path, AtFlags::empty()).unwrap();
                    return Ok(0);
                }
                fstat(found).map(|stat| stat.st_ino)
            };
            assert_eq!(inode(step_by_step), inode(beneath), "{path:?} {flags:?}");
        }
    }
    let back = step_by_step(root.as_fd(), Path::new("deep/../x"), OFlags::PATH, Mode::empty());
    assert_eq!(back.unwrap_err(), Errno::XDEV, "no path of ours leads back");
}
