//! `--link-from`: data that is somewhere else already is taken over, whatever it is called.
//!
//! The tests with btrfs and xfs need root and the mkfs programs, and print why when they cannot run.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use ccbt_tests::ccbt::CcbtCommand;
use ccbt_tests::lab::Lab;
use ccbt_tests::payload::{Payload, files_below};
use ccbt_tests::raw_peer::RawPeer;
use ccbt_tests::torrent::TorrentSpec;
use rustix::mount::{UnmountFlags, unmount};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// A file system in a file, unmounted on drop.
struct Image {
    path: PathBuf,
}

impl Image {
    /// Makes one with `mkfs.KIND`, 320 MiB; says why and gives `None` where that is not to be had.
    fn mount(lab: &Lab, kind: &str) -> Option<Self> {
        let (image, path) = (lab.path().join(format!("{kind}.img")), lab.dir(kind));
        let file = fs::File::create(&image).expect("the lab is writable");
        file.set_len(320 << 20).expect("a file can be long");
        let run = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output();
            match output {
                Ok(output) if output.status.success() => true,
                Ok(output) => {
                    eprintln!("skipped: {program}: {}", String::from_utf8_lossy(&output.stderr).trim());
                    false
                }
                Err(error) => {
                    eprintln!("skipped: {program}: {error}");
                    false
                }
            }
        };
        let (image, target) = (image.to_str().expect("plain"), path.to_str().expect("plain"));
        let made = run(&format!("mkfs.{kind}"), &["-q", image]);
        (made && run("mount", &["-o", "loop", image, target])).then_some(Self { path })
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = unmount(&self.path, UnmountFlags::DETACH);
    }
}

/// The same files under other names, in other folders, among strangers.
fn disguise(payload: &Payload, pool: &Path) {
    for (nth, file) in payload.files().filter(|file| !file.pad).enumerate() {
        let folder = pool.join(format!("x{}/y", nth % 3));
        fs::create_dir_all(&folder).expect("writable");
        fs::write(folder.join(format!("{nth}.dat")), &file.bytes).expect("writable");
        let mut stranger = file.bytes.to_vec();
        stranger.iter_mut().for_each(|byte| *byte ^= 1);
        fs::write(folder.join(format!("stranger {nth}")), stranger).expect("writable");
    }
}

/// Links and downloads without any peer; how the biggest file was linked.
fn linked_without_peers(lab: &Lab, base: &Path, mode: &str) -> String {
    let made = lab.announce(Payload::straddling("tree", 4 * MIB), TorrentSpec::pieces_of(64 * KIB));
    let (pool, copy) = (base.join("pool"), base.join("copy"));
    disguise(&made.payload, &pool);
    let before: Vec<_> =
        files_below(&pool).into_iter().map(|path| fs::read(path).expect("readable")).collect();
    let command = CcbtCommand::download(&made.torrent_path, &copy).option("--link-from", &pool);
    let mut ours = command.option("--link-mode", mode).start();
    ours.wait_done();
    made.payload.assert_equal_in(&copy);
    let sum = &ours.events("linked")[0];
    assert_eq!(
        (sum["files"].as_u64(), sum["missing"].as_u64()),
        (Some(6), Some(0)),
        "{:?}",
        ours.events("link")
    );
    assert_eq!(sum["bytes"].as_u64(), Some(made.payload.len() as u64));
    let after: Vec<_> =
        files_below(&pool).into_iter().map(|path| fs::read(path).expect("readable")).collect();
    assert!(before == after, "what was found is only read");
    let links = ours.events("link");
    let biggest =
        links.iter().find(|link| link["path"] == "tree/bulk/ballast.bin").expect("every file is told");
    biggest["how"].as_str().expect("it was linked").to_owned()
}

#[test]
fn everything_is_found_and_the_download_is_finished_at_once() {
    let lab = Lab::open();
    let base = lab.dir("base");
    assert_eq!(linked_without_peers(&lab, &base, "hardlink"), "hardlink");
    let ballast = base.join("copy/tree/bulk/ballast.bin");
    assert_eq!(fs::metadata(ballast).expect("there").nlink(), 2);
}

#[test]
fn copies_are_made_only_when_asked_for() {
    let lab = Lab::open();
    let how = linked_without_peers(&lab, &lab.dir("base"), "copy");
    assert!(how == "copy" || how == "reflink", "{how}");
}

#[test]
fn btrfs_shares_blocks() {
    let lab = Lab::open_on_disk();
    let Some(image) = Image::mount(&lab, "btrfs") else { return };
    assert_eq!(linked_without_peers(&lab, &image.path, "auto"), "reflink");
    let ballast = fs::metadata(image.path.join("copy/tree/bulk/ballast.bin")).expect("there");
    assert_eq!(ballast.nlink(), 1, "a file of its own");
}

#[test]
fn xfs_shares_blocks() {
    let lab = Lab::open_on_disk();
    let Some(image) = Image::mount(&lab, "xfs") else { return };
    assert_eq!(linked_without_peers(&lab, &image.path, "reflink"), "reflink");
}

#[test]
fn a_seed_serves_what_it_linked() {
    let lab = Lab::open();
    let piece = 64 * KIB;
    let made = lab.announce(Payload::single("movie.bin", 40 * piece + 7), TorrentSpec::pieces_of(piece));
    let (pool, copy) = (lab.dir("pool"), lab.dir("copy"));
    disguise(&made.payload, &pool);
    let mut ours = CcbtCommand::seed(&made.torrent_path, &copy).option("--link-from", &pool).start();
    ours.wait_ready();
    let mut peer = RawPeer::connect(ours.address());
    peer.handshake(made.torrent.info_hash());
    assert!(peer.become_unchoked());
    let whole = made.payload.concatenated();
    assert_eq!(peer.fetch(33, 0, 16_384).as_deref(), Some(&whole[33 * piece..33 * piece + 16_384]));
    ours.stop();
}

#[test]
fn what_is_not_the_same_is_told_and_not_taken() {
    let lab = Lab::open();
    let made = lab.announce(
        Payload::tree("tree", &[("a", 300_000), ("b", 200_000), ("c", 70_000)]),
        TorrentSpec::pieces_of(32 * KIB),
    );
    let (pool, copy) = (lab.dir("pool"), lab.dir("copy"));
    let files: Vec<_> = made.payload.files().collect();
    let mut damaged = files[0].bytes.to_vec();
    damaged[150_000] ^= 1;
    fs::write(pool.join("a"), damaged).expect("writable");
    fs::write(pool.join("b"), &files[1].bytes).expect("writable");
    let command = CcbtCommand::download(&made.torrent_path, &copy).option("--link-from", &pool);
    let mut ours = command.option("--link-mode", "copy").start();
    let sum = ours.wait_event("linked");
    assert_eq!((sum["files"].as_u64(), sum["missing"].as_u64()), (Some(1), Some(2)));
    let reason = |path: &str| {
        let links = ours.events("link");
        let link = links.iter().find(|link| link["path"] == path).expect("every file is told").clone();
        link["reason"].as_str().unwrap_or_default().to_owned()
    };
    assert!(reason("tree/a").contains("other content"), "{}", reason("tree/a"));
    assert!(reason("tree/c").contains("no file"), "{}", reason("tree/c"));
    // What was taken is kept, the rest is there to be fetched.
    let pieces = ours.wait_progress("pieces_done", 1)["pieces_done"].as_u64();
    assert_eq!(pieces, Some(5), "pieces wholly in the file that was taken");
    ours.stop();
}
