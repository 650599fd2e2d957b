//! What the kernel says about the device that holds a file.
//!
//! Role: tells rotating disks, which want one sequential stream, from the rest. Owner: stateless. Called by
//! [`super::run`].

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Names a device: `st_dev` of its files.
pub(super) type DeviceId = u64;

/// Device of the file or of the nearest folder above it that is there; 0 when there is none.
pub(super) fn device_of(path: &Path) -> DeviceId {
    path.ancestors()
        .map(|path| if path == Path::new("") { Path::new(".") } else { path })
        .find_map(|path| path.metadata().ok())
        .map_or(0, |metadata| metadata.dev())
}

/// Whether the device says that it rotates. File systems without a block device of their own (btrfs) are
/// asked by the device they were mounted from. Not known means no.
pub(super) fn is_rotating(device: DeviceId) -> bool {
    match rotational(Path::new("/sys/dev/block"), &name_of(device)) {
        Some(answer) => answer,
        None => {
            mounted_from(device).and_then(|name| rotational(Path::new("/sys/dev/block"), &name)) == Some(true)
        }
    }
}

/// `MAJOR:MINOR`.
fn name_of(device: DeviceId) -> String {
    format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device))
}

/// `queue/rotational` of the device called `name` below `sys`, or of the disk it is a partition of.
fn rotational(sys: &Path, name: &str) -> Option<bool> {
    // Resolved first: the parent of the link would be `sys` itself.
    let folder = fs::canonicalize(sys.join(name)).ok()?;
    let read = |folder: &Path| fs::read_to_string(folder.join("queue/rotational")).ok();
    let text = read(&folder).or_else(|| read(folder.parent()?))?;
    Some(text.trim() == "1")
}

/// The block device behind a file system whose own device number is not one.
fn mounted_from(device: DeviceId) -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let source = source_of(&mounts, &name_of(device))?;
    let metadata = fs::metadata(source).ok()?;
    (metadata.rdev() != 0).then(|| name_of(metadata.rdev()))
}

/// The mount source of the device called `name` (proc_pid_mountinfo(5): the third field is the number, the
/// second one after the dash the source).
fn source_of<'a>(mounts: &'a str, name: &str) -> Option<&'a str> {
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some(name))?;
    let source = line.split_once(" - ")?.1.split(' ').nth(1)?;
    source.starts_with('/').then_some(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_asked_through_their_disk() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("devices/sda");
        fs::create_dir_all(disk.join("queue")).unwrap();
        fs::create_dir_all(disk.join("sda1")).unwrap();
        let sys = dir.path().join("block");
        fs::create_dir(&sys).unwrap();
        std::os::unix::fs::symlink(&disk, sys.join("8:0")).unwrap();
        std::os::unix::fs::symlink(disk.join("sda1"), sys.join("8:1")).unwrap();
        assert_eq!(rotational(&sys, "8:0"), None, "no answer yet");
        for (text, answer) in [("1\n", true), ("0\n", false)] {
            fs::write(disk.join("queue/rotational"), text).unwrap();
            assert_eq!(rotational(&sys, "8:0"), Some(answer));
            assert_eq!(rotational(&sys, "8:1"), Some(answer));
        }
        assert_eq!(rotational(&sys, "9:9"), None);
    }

    #[test]
    fn mount_sources_are_found() {
        let mounts = "36 35 98:0 /x /mnt rw,noatime master:1 - ext3 /dev/root rw\n\
                      37 35 0:31 /sub /data rw shared:2 - btrfs /dev/sdb1 rw\n38 35 0:32 / /r rw - tmpfs tmpfs rw\n";
        assert_eq!(source_of(mounts, "0:31"), Some("/dev/sdb1"));
        assert_eq!(source_of(mounts, "0:32"), None, "not a device");
        assert_eq!(source_of(mounts, "1:1"), None);
    }

    #[test]
    fn memory_does_not_rotate_and_absent_files_are_where_their_folder_is() {
        assert!(!is_rotating(device_of(Path::new("/proc/self/stat"))));
        let dir = tempfile::tempdir().unwrap();
        let device = dir.path().metadata().unwrap().dev();
        assert_eq!(device_of(&dir.path().join("not/there")), device);
    }
}
