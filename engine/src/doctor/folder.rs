//! Whether a folder takes what the storage thread does: direct writes, and files of their full length.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate, fstatvfs, open};

use super::Finding;

/// What [`OFlags::DIRECT`] is tried with: the least that most devices take, and what all do.
const BLOCKS: [usize; 2] = [512, 4096];
/// Space below which a download hardly begins.
const SPACE: u64 = 1 << 30;

pub fn examine(folder: &Path, root: &Path) -> Vec<Finding> {
    let shown = folder.display();
    let opened = open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let Ok(opened) = opened.map(File::from) else {
        let advice = format!("mkdir -p '{shown}', or name another one with --folder");
        return vec![Finding::fail("folder", format!("{shown} is no folder that can be opened"), advice)];
    };
    let mut findings = Vec::new();
    match without_name(folder, OFlags::empty()) {
        Ok(file) => {
            findings.push(Finding::ok("folder", format!("{shown} can be written to")));
            findings.push(direct(folder));
            findings.push(reserved(&file));
        }
        // No O_TMPFILE here (overlay of old kernels, network file systems): nothing is left behind by not trying.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::OPNOTSUPP.raw_os_error()) => {
            let advice = "ccbt-bench storage measures it with files that have names";
            findings.push(Finding::warn(
                "folder",
                format!("{shown} has no files without names: not tried"),
                advice,
            ));
        }
        Err(error) => {
            let advice = "give the user who runs ccbt-fast the right to write there, or name another folder";
            findings.push(Finding::fail("folder", format!("{shown} cannot be written to ({error})"), advice));
        }
    }
    findings.extend(space(&opened));
    findings.extend(device(&opened, root));
    findings
}

/// A file that is gone when it is closed.
fn without_name(folder: &Path, flags: OFlags) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC | flags;
    Ok(open(folder, flags, Mode::RUSR | Mode::WUSR)?.into())
}

fn direct(folder: &Path) -> Finding {
    let tried = without_name(folder, OFlags::DIRECT).and_then(|file| {
        let buffer = vec![0u8; 2 * BLOCKS[1]];
        let start = buffer.as_ptr().align_offset(BLOCKS[1]);
        let works = |len: &usize| file.write_all_at(&buffer[start..start + len], 0);
        let mut last = Ok(0);
        for len in &BLOCKS {
            match works(len) {
                Ok(()) => return Ok(*len),
                Err(error) => last = Err(error),
            }
        }
        last
    });
    match tried {
        Ok(len) => Finding::ok("direct-writes", format!("O_DIRECT works, in blocks of {len} bytes")),
        Err(error) => Finding::warn(
            "direct-writes",
            format!("no O_DIRECT ({error})"),
            "writes go through the page cache, which costs CPU time and memory: ext4 and XFS take them directly",
        ),
    }
}

fn reserved(file: &File) -> Finding {
    match fallocate(file, FallocateFlags::empty(), 0, 1 << 20) {
        Ok(()) => Finding::ok("preallocation", "space can be reserved"),
        Err(error) => Finding::warn(
            "preallocation",
            format!("space cannot be reserved ({error})"),
            "a full disk shows late; disk.preallocate = \"full\" means \"sparse\" here",
        ),
    }
}

fn space(folder: &File) -> Option<Finding> {
    let stat = fstatvfs(folder).ok()?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let found = format!("{} GiB are free", free >> 30);
    Some(if free >= SPACE {
        Finding::ok("space", found)
    } else {
        Finding::warn("space", found, "make room, or name another folder")
    })
}

/// What the kernel says about the device; nothing for file systems without one.
fn device(folder: &File, root: &Path) -> Option<Finding> {
    let number = folder.metadata().ok()?.dev();
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let base = root.join(format!("sys/dev/block/{major}:{minor}"));
    let read = |name: &str| {
        let text = ["queue", "../queue"]
            .iter()
            .find_map(|at| std::fs::read_to_string(base.join(at).join(name)).ok());
        text.map(|text| text.trim().to_owned())
    };
    let kind = if read("rotational")? == "1" { "rotating" } else { "flash" };
    let scheduler = read("scheduler").unwrap_or_default();
    let chosen =
        scheduler.split_once('[').and_then(|(_, rest)| Some(rest.split_once(']')?.0)).unwrap_or("none");
    let found =
        format!("{kind} device, scheduler {chosen}, {} requests", read("nr_requests").unwrap_or_default());
    let is_idle_talk = matches!(chosen, "none" | "mq-deadline" | "kyber");
    Some(if is_idle_talk || kind == "rotating" {
        Finding::ok("device", found)
    } else {
        let advice = format!(
            "echo none > {}/queue/scheduler (the engine orders its operations itself)",
            base.display()
        );
        Finding::warn("device", found, advice)
    })
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    fn of<'a>(findings: &'a [Finding], check: &str) -> &'a Finding {
        findings
            .iter()
            .find(|finding| finding.check == check)
            .unwrap_or_else(|| panic!("no {check}: {findings:?}"))
    }

    #[test]
    fn a_folder_is_tried_and_nothing_stays() {
        let folder = tempfile::tempdir().expect("made");
        let findings = examine(folder.path(), Path::new("/nothing"));
        assert_eq!(of(&findings, "folder").verdict, Verdict::Ok);
        for check in ["direct-writes", "preallocation", "space"] {
            of(&findings, check);
        }
        assert_eq!(std::fs::read_dir(folder.path()).expect("read").count(), 0);
    }

    #[test]
    fn no_folder_fails_with_what_to_type() {
        let findings = examine(Path::new("/nowhere/at/all"), Path::new("/"));
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].verdict, Verdict::Fail);
        assert!(findings[0].advice.as_ref().unwrap().contains("mkdir -p"));
    }

    #[test]
    fn a_scheduler_that_reorders_is_told() {
        let (root, folder) = (tempfile::tempdir().expect("made"), tempfile::tempdir().expect("made"));
        let opened = File::open(folder.path()).expect("opened");
        let number = opened.metadata().expect("known").dev();
        let queue =
            format!("sys/dev/block/{}:{}/queue", rustix::fs::major(number), rustix::fs::minor(number));
        let queue = root.path().join(queue);
        std::fs::create_dir_all(&queue).expect("made");
        let says = |rotational: &str, scheduler: &str| {
            std::fs::write(queue.join("rotational"), rotational).expect("written");
            std::fs::write(queue.join("scheduler"), scheduler).expect("written");
            device(&opened, root.path()).expect("a device")
        };
        assert_eq!(says("0\n", "[none] bfq\n").verdict, Verdict::Ok);
        assert!(says("0\n", "none [bfq]\n").advice.unwrap().contains("echo none"));
        assert_eq!(says("1\n", "none [bfq]\n").verdict, Verdict::Ok);
        assert_eq!(device(&opened, Path::new("/nothing")), None);
    }
}
