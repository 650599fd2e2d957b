//! One queue per device: what hangs on a slow one waits alone.
//!
//! By a planned fault (operations that hang until a gate opens) and by a real device that the kernel slows
//! down. What is checked is an order of answers, never a duration.

mod common;

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use ccbt_protocol::ids::TorrentKey;
use ccbt_storage::StorageConfig;
use ccbt_storage::layout::LayoutSpec;
use ccbt_storage::messages::{OpenMode, Preallocate, StorageCmd, StorageDone};
use ccbt_storage::ring::fake::{Fault, FaultOp, FaultPlan, Gate, Nth, Outcome, Target};
use common::*;

const SLOW: u32 = 1;
const FAST: u32 = 2;
const PIECE: u32 = 64 << 10;

/// Two folders on two devices; `None`, with the reason printed, when all are on one.
fn two_devices() -> Option<[tempfile::TempDir; 2]> {
    let first = tempfile::tempdir().unwrap();
    let number = |path: &Path| std::fs::metadata(path).unwrap().dev();
    for parent in ["/dev/shm", "/run", "/var/tmp"] {
        match tempfile::tempdir_in(parent) {
            Ok(second) if number(second.path()) != number(first.path()) => return Some([first, second]),
            _ => {}
        }
    }
    eprintln!("skipped: /tmp, /dev/shm, /run and /var/tmp are one device or not writable");
    None
}

fn open(rig: &mut Rig, key: u32, folder: &Path, len: u64) -> Arc<LayoutSpec> {
    let spec = layout(folder, vec![file("a", len / 2), file("b", len - len / 2)], PIECE);
    rig.open(key, &spec, Preallocate::Sparse, OpenMode::ReadWrite).unwrap();
    spec
}

fn submit_all(rig: &mut Rig, key: u32, spec: &LayoutSpec) {
    for piece in 0..piece_count(spec) {
        assert!(rig.submit_write(key, spec, piece, None));
    }
}

/// The next answer must be about this torrent, and good.
fn expect(rig: &mut Rig, key: u32) {
    match rig.wait() {
        StorageDone::Written { torrent, buf, result, .. }
        | StorageDone::ReadDone { torrent, buf, result, .. } => {
            assert_eq!(torrent, TorrentKey(key), "an answer of the device that hangs");
            result.unwrap();
            rig.memory.free(buf);
        }
        StorageDone::Synced { torrent, result } => {
            assert_eq!(torrent, TorrentKey(key));
            result.unwrap();
        }
        other => panic!("{other:?}"),
    }
}

/// Everything one can do with a torrent, on the fast device.
fn use_fully(rig: &mut Rig, spec: &LayoutSpec) {
    submit_all(rig, FAST, spec);
    (0..piece_count(spec)).for_each(|_| expect(rig, FAST));
    for piece in 0..piece_count(spec) {
        let start = u64::from(piece * PIECE);
        let len = PIECE.min((spec.total_len() - start) as u32);
        rig.submit_read(FAST, spec, start, len, 0);
    }
    rig.client.submit(StorageCmd::Sync { torrent: TorrentKey(FAST) });
    (0..=piece_count(spec)).for_each(|_| expect(rig, FAST));
}

#[test]
fn a_device_that_hangs_delays_no_other() {
    let Some(folders) = two_devices() else { return };
    // With few descriptors too: the one that hangs may not keep them all.
    for (slow, max_open_files) in [(0, 512), (1, 512), (0, 2), (1, 1)] {
        let gate = Gate::new();
        let number = std::fs::metadata(folders[slow].path()).unwrap().dev();
        let faults = FaultPlan::default().with(Fault {
            target: Target::Device(number),
            op: FaultOp::Any,
            nth: Nth::From(0),
            outcome: Outcome::Hold(gate.clone()),
        });
        let mut rig = Rig::new(StorageConfig { faults, max_open_files, ..StorageConfig::default() });
        let slow_spec = open(&mut rig, SLOW, &folders[slow].path().join("s"), 8_000_000);
        let fast_spec = open(&mut rig, FAST, &folders[1 - slow].path().join("f"), 8_000_000);
        submit_all(&mut rig, SLOW, &slow_spec);
        rig.client.submit(StorageCmd::Sync { torrent: TorrentKey(SLOW) });
        use_fully(&mut rig, &fast_spec);
        assert!(gate.held() > 0, "the slow device has work all the while");
        let stats = rig.service.stats();
        let of = |number: u64| {
            let number = u64::from(rustix::fs::major(number)) << 32 | u64::from(rustix::fs::minor(number));
            stats.devices.iter().find(|device| device.number == number).unwrap()
        };
        let device = of(number);
        assert_eq!(device.write.operations, 0);
        assert!(device.in_flight > 0 && device.in_flight <= device.depth_limit, "{device:?}");
        assert!(u64::from(device.in_flight) <= (max_open_files as u64 / 2).max(1), "its share: {device:?}");
        gate.open();
        (0..=piece_count(&slow_spec)).for_each(|_| expect(&mut rig, SLOW));
        for (key, spec) in [(SLOW, slow_spec), (FAST, fast_spec)] {
            rig.close(key);
            check_files(key, &spec);
        }
        assert_eq!(rig.memory.used(), 0);
        rig.service.stop();
    }
}

/// A file system on a loop device whose writes the kernel slows down.
struct Throttled {
    folder: tempfile::TempDir,
    device: String,
    number: String,
}

impl Throttled {
    const CONTROL: &str = "/sys/fs/cgroup/blkio/blkio.throttle.write_bps_device";

    fn new(mib: u64, bytes_per_second: u64) -> Option<Self> {
        let skip = |why: &str| {
            eprintln!("skipped: {why}; needs root, loop devices, mkfs.ext4 and the blkio cgroup (v1)");
            None
        };
        if !Path::new(Self::CONTROL).exists() {
            return skip("no blkio.throttle.write_bps_device in the root cgroup");
        }
        let folder = tempfile::tempdir_in("/var/tmp").ok()?;
        let image = folder.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(mib << 20).unwrap();
        std::fs::create_dir(folder.path().join("mnt")).unwrap();
        let Some(device) = output("losetup", &["-f", "--show", image.to_str().unwrap()]) else {
            return skip("losetup failed");
        };
        let name = Path::new(&device).file_name().unwrap().to_str().unwrap().to_owned();
        let number = std::fs::read_to_string(format!("/sys/block/{name}/dev")).unwrap_or_default();
        let this = Self { folder, device, number: number.trim().to_owned() };
        let mnt = this.path();
        if output("mkfs.ext4", &["-q", "-F", "-m", "0", &this.device]).is_none()
            || output("mount", &[&this.device, mnt.to_str().unwrap()]).is_none()
            || !this.limit(bytes_per_second)
        {
            return skip("the file system cannot be made, mounted or throttled");
        }
        Some(this)
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    fn limit(&self, bytes_per_second: u64) -> bool {
        std::fs::write(Self::CONTROL, format!("{} {bytes_per_second}", self.number)).is_ok()
    }
}

impl Drop for Throttled {
    fn drop(&mut self) {
        self.limit(0);
        let _ = output("umount", &[self.path().to_str().unwrap()]);
        let _ = output("losetup", &["-d", &self.device]);
    }
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[test]
fn a_device_that_the_kernel_slows_down_delays_no_other() {
    // 16 MiB would take 32 seconds at this rate; the limit is lifted once the others are done.
    let Some(slow) = Throttled::new(64, 512 << 10) else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::new(StorageConfig::default());
    let slow_spec = open(&mut rig, SLOW, &slow.path().join("s"), 16 << 20);
    let fast_spec = open(&mut rig, FAST, &folder.path().join("f"), 16 << 20);
    submit_all(&mut rig, SLOW, &slow_spec);
    submit_all(&mut rig, FAST, &fast_spec);
    rig.client.submit(StorageCmd::Sync { torrent: TorrentKey(FAST) });
    let (mut slow_done, mut fast_done) = (0, 0);
    while fast_done <= piece_count(&fast_spec) {
        match rig.wait() {
            StorageDone::Written { torrent, buf, result, .. } => {
                result.unwrap();
                rig.memory.free(buf);
                *if torrent == TorrentKey(SLOW) { &mut slow_done } else { &mut fast_done } += 1;
            }
            StorageDone::Synced { result, .. } => {
                result.unwrap();
                fast_done += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(slow_done < piece_count(&slow_spec), "the fast torrent did not wait for the slow one");
    slow.limit(0);
    (slow_done..piece_count(&slow_spec)).for_each(|_| expect(&mut rig, SLOW));
    for (key, spec) in [(SLOW, slow_spec), (FAST, fast_spec)] {
        rig.close(key);
        check_files(key, &spec);
    }
    rig.service.stop();
}
