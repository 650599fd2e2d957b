//! Real file systems for one test: ext4, xfs and btrfs on a loop device with sectors of 512 or 4096 bytes, and tmpfs.
//!
//! Owner: the test function that mounted it, whose lab must outlive it. Invariant: nothing of it survives the test,
//! however that ends. A test's thread gets a mount namespace of its own before its first mount, so the kernel takes every
//! mount away when the thread and the programs it started are gone, be it by SIGKILL; the loop device is set to clear
//! itself with its last user; the image is unlinked as soon as the device has it. Nothing that was there before is
//! touched, and other tests do not see the mounts, so tests may run side by side.
//!
//! Only threads and programs started by the test's own thread after the mount see it.
//!
//! Where the machine has no root, loop devices, kernel module or mkfs, [`LoopFs::mount`] prints why and gives `None`.
//! With `CCBT_TESTS_REQUIRE_MOUNTS=1` it panics instead: for machines that are known to have all of them.

use std::cell::Cell;
use std::env;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::statvfs;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, mount_remount, unmount,
};
use rustix::thread::UnshareFlags;

use crate::SOON;
use crate::lab::Lab;
use crate::process::{run, wait_until};

/// Largest image. Images are sparse: this bounds what a test gone wild can write.
const IMAGE_BYTES_MAX: u64 = 512 << 20;

/// Attaches an image, mounts it and lets the device clear itself, whatever happens to the test meanwhile.
const ATTACH: &str = r#"trap '' INT TERM HUP PIPE
device="$(losetup --find --show --sector-size "$1" "$2")" || exit 70
mount -t "$3" -o "$4" "$device" "$5"
code=$?
losetup --detach "$device"
echo "$device"
exit $code"#;

/// What is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FsKind {
    /// ext4 of e2fsprogs.
    Ext4,
    /// XFS of xfsprogs; images of 300 MiB at least.
    Xfs,
    /// Btrfs of btrfs-progs; images of 110 MiB at least.
    Btrfs,
    /// In memory; has no sectors.
    Tmpfs,
}

impl FsKind {
    fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Tmpfs => "tmpfs",
        }
    }

    /// Smallest comfortable image, in bytes.
    fn image_bytes(self) -> u64 {
        match self {
            Self::Ext4 | Self::Tmpfs => 128 << 20,
            Self::Xfs => 320 << 20,
            Self::Btrfs => 256 << 20,
        }
    }
}

/// A file system to be made.
#[derive(Clone, Debug)]
pub struct FsSpec {
    kind: FsKind,
    sector: u32,
    bytes: u64,
    mkfs: Vec<String>,
    options: Vec<String>,
}

impl FsSpec {
    /// One of `kind` on a device with sectors of `sector` bytes.
    pub fn new(kind: FsKind, sector: u32) -> Self {
        Self { kind, sector, bytes: kind.image_bytes(), mkfs: Vec::new(), options: Vec::new() }
    }

    /// The same of another size, in bytes.
    pub fn size(mut self, bytes: u64) -> Self {
        assert!(bytes <= IMAGE_BYTES_MAX, "{bytes} bytes are more than a test may take");
        self.bytes = bytes;
        self
    }

    /// The same with one more mount option.
    pub fn option(mut self, option: &str) -> Self {
        self.options.push(option.to_owned());
        self
    }

    /// The same with more arguments of mkfs.
    pub fn mkfs(mut self, args: &[&str]) -> Self {
        self.mkfs.extend(args.iter().map(|&arg| arg.to_owned()));
        self
    }

    /// For messages: `xfs-4096`.
    pub fn label(&self) -> String {
        match self.kind {
            FsKind::Tmpfs => self.kind.name().to_owned(),
            _ => format!("{}-{}", self.kind.name(), self.sector),
        }
    }
}

/// A mounted file system; unmounted on drop.
pub struct LoopFs {
    path: PathBuf,
    spec: FsSpec,
    /// The loop device, unless it is a tmpfs.
    device: Option<PathBuf>,
    /// The device's backing file, which has no name any more.
    image: Option<File>,
}

impl LoopFs {
    /// Makes and mounts one in a folder of the lab.
    pub fn mount(lab: &Lab, spec: FsSpec) -> Option<Self> {
        Self::mount_over(lab, spec, lab.path())
    }

    /// Like [`LoopFs::mount`] with the image in the folder `backing`, for example on another small file system.
    pub fn mount_over(lab: &Lab, spec: FsSpec, backing: &Path) -> Option<Self> {
        let label = spec.label();
        match Self::try_mount(lab, spec, backing) {
            Ok(mounted) => Some(mounted),
            Err(reason) => {
                assert!(env::var_os("CCBT_TESTS_REQUIRE_MOUNTS").is_none(), "{label}: {reason}");
                eprintln!("skipped: {label} cannot be mounted here: {reason}");
                None
            }
        }
    }

    /// What a machine lacks is a reason; what fails although all is there panics.
    fn try_mount(lab: &Lab, spec: FsSpec, backing: &Path) -> Result<Self, String> {
        own_namespace()?;
        let (path, number) = (0..)
            .map(|number| (lab.path().join(format!("mount-{number}")), number))
            .find(|(path, _)| !path.exists())
            .expect("there is always another number");
        fs::create_dir(&path).unwrap_or_else(|error| panic!("cannot make {}: {error}", path.display()));
        if spec.kind == FsKind::Tmpfs {
            let data = CString::new(format!("size={}", spec.bytes)).expect("no NUL in it");
            mount("ccbt-tests", &path, "tmpfs", MountFlags::empty(), data.as_c_str())
                .map_err(|error| format!("tmpfs needs CAP_SYS_ADMIN: {error}"))?;
            return Ok(Self { path, spec, device: None, image: None });
        }
        fs::metadata("/dev/loop-control").map_err(|error| format!("no loop devices: {error}"))?;
        let image_path = backing.join(format!("image-{number}"));
        let image = make_image(&spec, &image_path)?;
        let attached = attach(&spec, &image_path, &path);
        fs::remove_file(&image_path).expect("the image was made here");
        let device = attached?;
        Ok(Self { path, spec, device: Some(device), image: Some(image) })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes and names a folder in it.
    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        fs::create_dir_all(&path).unwrap_or_else(|error| panic!("cannot make {}: {error}", path.display()));
        path
    }

    /// Bytes of the device's sectors; `None` in memory.
    pub fn sector(&self) -> Option<u32> {
        self.device.as_ref().map(|_| self.spec.sector)
    }

    /// `MAJOR:MINOR` of the loop device.
    ///
    /// Panics for a tmpfs.
    pub fn device_number(&self) -> String {
        let name = self.device().file_name().expect("a device has a name");
        let path = Path::new("/sys/block").join(name).join("dev");
        fs::read_to_string(&path).expect("sysfs knows the device").trim().to_owned()
    }

    /// Fills it with a file called `ballast` until `left` bytes are free, and returns the file's path.
    pub fn fill(&self, left: u64) -> PathBuf {
        let path = self.path.join("ballast");
        let mut file = File::create(&path).expect("the file system is writable");
        let chunk = vec![0x5a; 64 << 10];
        while self.free_bytes() > left {
            if let Err(error) = file.write_all(&chunk).and_then(|()| file.sync_data()) {
                assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::NOSPC.raw_os_error()), "{error}");
                break;
            }
        }
        path
    }

    /// Bytes a program without privileges may still write.
    pub fn free_bytes(&self) -> u64 {
        let found = statvfs(&self.path).expect("it is mounted");
        found.f_bavail * found.f_frsize
    }

    /// Changes the size of a tmpfs.
    pub fn resize(&self, bytes: u64) {
        mount_remount(&self.path, MountFlags::empty(), format!("size={bytes}"))
            .expect("who may mount may remount");
    }

    /// Makes it writable or not. Fails (`EBUSY`) while files are open for writing.
    pub fn set_read_only(&self, read_only: bool) -> rustix::io::Result<()> {
        let flags = if read_only { MountFlags::RDONLY } else { MountFlags::empty() };
        mount_remount(&self.path, flags, c"")
    }

    /// Writes everything in its cache to the device.
    pub fn sync(&self) {
        let folder = File::open(&self.path).expect("it is mounted");
        rustix::fs::syncfs(&folder).expect("a device in order takes everything");
    }

    /// Makes ext4 behave as after finding its metadata damaged: with the mount option `errors=remount-ro` it is
    /// read-only at once, open files or not. It stays so until [`LoopFs::remount_afresh`].
    pub fn break_ext4(&self) {
        let name = self.device().file_name().expect("a device has a name");
        let trigger = Path::new("/sys/fs/ext4").join(name).join("trigger_fs_error");
        fs::write(&trigger, "ccbt-tests").unwrap_or_else(|error| panic!("{}: {error}", trigger.display()));
    }

    /// As if the power had gone: ext4 or XFS stops at once and writes neither data nor log. What was not synced is lost
    /// after [`LoopFs::remount_afresh`].
    ///
    /// Panics without xfs_io (xfsprogs).
    pub fn cut_power(&self) {
        let xfs_io = tool("xfs_io").expect("it comes with mkfs.xfs");
        must("xfs_io", Command::new(xfs_io).args(["-x", "-c", "shutdown"]).arg(&self.path));
    }

    /// Cuts the device to `bytes` (what lies behind is lost, and an I/O error), or makes it as long as it was.
    pub fn set_device_len(&self, bytes: Option<u64>) {
        let image = self.image.as_ref().expect("a loop device has an image");
        image.set_len(bytes.unwrap_or(self.spec.bytes)).expect("an image can be cut and grown");
        must("losetup", Command::new("losetup").arg("--set-capacity").arg(self.device()));
    }

    /// The device gets its reads and writes in portions of so many bytes at most.
    pub fn set_request_bytes_max(&self, bytes: u32) {
        let name = self.device().file_name().expect("a device has a name");
        let path = Path::new("/sys/block").join(name).join("queue/max_sectors_kb");
        fs::write(&path, (bytes >> 10).to_string())
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// Unmounts it (which must not be in use any more) and mounts the same image again, after a check by fsck.
    pub fn remount_afresh(&mut self) {
        unmount(&self.path, UnmountFlags::empty()).expect("nothing of it is open any more");
        let image = self.image.as_ref().expect("a loop device has an image");
        // The device is gone with its mount; the image has no name but this.
        let name = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), image.as_raw_fd()));
        if self.spec.kind == FsKind::Ext4 {
            let (code, stdout, stderr) =
                run("e2fsck", Command::new(tool("e2fsck").expect("with mkfs")).arg("-fy").arg(&name), SOON);
            assert!(code <= 2, "e2fsck: {code}\n{stdout}{stderr}");
        }
        self.device = Some(attach(&self.spec, &name, &self.path).expect("it was mounted before"));
    }

    fn device(&self) -> &Path {
        self.device.as_deref().expect("a tmpfs has no device")
    }
}

impl Drop for LoopFs {
    fn drop(&mut self) {
        // Detached when a client of a failing test still holds it: its last user then takes it down.
        if unmount(&self.path, UnmountFlags::empty()).is_err() {
            let _ = unmount(&self.path, UnmountFlags::DETACH);
        }
    }
}

/// Gives the calling thread a mount namespace whose mounts nobody else sees.
fn own_namespace() -> Result<(), String> {
    thread_local!(static DONE: Cell<bool> = const { Cell::new(false) });
    if DONE.get() {
        return Ok(());
    }
    #[expect(deprecated, reason = "only UnshareFlags::FILES makes it unsafe")]
    rustix::thread::unshare(UnshareFlags::NEWNS)
        .map_err(|error| format!("a mount namespace needs CAP_SYS_ADMIN: {error}"))?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|error| format!("mounts cannot be made private: {error}"))?;
    DONE.set(true);
    Ok(())
}

/// A program of the system's, also where a user's `PATH` does not lead.
fn tool(name: &str) -> Result<PathBuf, String> {
    let path = env::var_os("PATH").unwrap_or_default();
    let places = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    places
        .map(|place| place.join(name))
        .find(|place| place.is_file())
        .ok_or_else(|| format!("{name} is missing"))
}

fn must(name: &str, command: &mut Command) {
    let (code, stdout, stderr) = run(name, command, SOON);
    assert_eq!(code, 0, "{command:?}\n{stdout}{stderr}");
}

fn make_image(spec: &FsSpec, path: &Path) -> Result<File, String> {
    let mkfs = tool(&format!("mkfs.{}", spec.kind.name()))?;
    let image = File::options().read(true).write(true).create_new(true).open(path);
    let image = image.unwrap_or_else(|error| panic!("cannot make {}: {error}", path.display()));
    image.set_len(spec.bytes).expect("a sparse file takes no space");
    let sector = spec.sector.to_string();
    let mut command = Command::new(mkfs);
    match spec.kind {
        FsKind::Ext4 => command.args(["-q", "-F", "-b", "4096", "-m", "0"]),
        FsKind::Xfs => command.args(["-q", "-f", "-s", &format!("size={sector}")]),
        FsKind::Btrfs => command.args(["-q", "-f"]),
        FsKind::Tmpfs => unreachable!("has no image"),
    };
    must("mkfs", command.args(&spec.mkfs).arg(path));
    Ok(image)
}

/// Mounts the image at `path` and returns its device.
fn attach(spec: &FsSpec, image: &Path, path: &Path) -> Result<PathBuf, String> {
    let options = if spec.options.is_empty() { "defaults".to_owned() } else { spec.options.join(",") };
    let mut command = Command::new("sh");
    command.args(["-c", ATTACH, "attach", &spec.sector.to_string()]).arg(image);
    command.args([spec.kind.name(), &options]).arg(path);
    let (code, stdout, stderr) = run("losetup and mount", &mut command, SOON);
    match code {
        0 => {}
        70 => return Err(format!("no loop device: {}", stderr.trim())),
        _ => return Err(format!("mount says: {}", stderr.trim())),
    }
    let device = PathBuf::from(stdout.trim());
    let name = device.file_name().expect("losetup names the device");
    let size = Path::new("/sys/block").join(name).join("queue/logical_block_size");
    let said = wait_until(SOON, "sector size in sysfs", || fs::read_to_string(&size).ok());
    assert_eq!(said.trim(), spec.sector.to_string(), "{} has the sectors asked for", device.display());
    Ok(device)
}
