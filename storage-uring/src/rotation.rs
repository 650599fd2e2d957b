//! Whether a device has a head that moves.
//!
//! Role: asks sysfs, once per torrent opened. Called by the storage thread. When nothing is known a device counts as one
//! that does not rotate.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Whether the file system with number `device` (major number above 32 bits of minor number) at `folder` lies on a
/// rotating device.
pub(crate) fn is_rotating(device: u64, folder: &Path) -> bool {
    let (major, minor) = ((device >> 32) as u32, device as u32);
    if major != 0 {
        return block_device_rotates(major, minor);
    }
    // Btrfs and others have a number of their own; the mount table names what they lie on.
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let Some(source) = source_of(&mounts, &format!("{major}:{minor}")) else { return false };
    let source = if source.starts_with("/dev/") { Path::new(source) } else { return false };
    tracing::trace!(folder = %folder.display(), source = %source.display(), "a file system on a device");
    fs::metadata(source).is_ok_and(|stat| {
        let device = rustix::fs::Dev::from(stat.rdev());
        block_device_rotates(rustix::fs::major(device), rustix::fs::minor(device))
    })
}

fn block_device_rotates(major: u32, minor: u32) -> bool {
    let device = format!("/sys/dev/block/{major}:{minor}");
    // A partition has no queue of its own.
    let ask = |path: &str| fs::read_to_string(format!("{device}/{path}")).ok();
    ask("queue/rotational").or_else(|| ask("../queue/rotational")).is_some_and(|text| text.trim() == "1")
}

/// What is mounted as the device `number` (`major:minor`), from the text of `mountinfo` (see proc(5)).
fn source_of<'a>(mounts: &'a str, number: &str) -> Option<&'a str> {
    mounts.lines().find_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        (mount.split(' ').nth(2)? == number).then(|| source.split(' ').nth(1))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_table_names_the_source() {
        let mounts = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n\
                      40 35 0:31 / /data rw,relatime shared:7 - btrfs /dev/sdb1 rw,space_cache\n\
                      41 35 0:5 / /x rw - tmpfs tmpfs rw\n";
        assert_eq!(source_of(mounts, "0:31"), Some("/dev/sdb1"));
        assert_eq!(source_of(mounts, "98:0"), Some("/dev/root"));
        assert_eq!(source_of(mounts, "0:5"), Some("tmpfs"));
        assert_eq!(source_of(mounts, "0:3"), None);
    }

    #[test]
    fn what_is_not_known_does_not_rotate() {
        assert!(!is_rotating(0xfff << 32 | 0xfff, Path::new("/")));
        assert!(!is_rotating(0, Path::new("/nowhere")));
    }
}
