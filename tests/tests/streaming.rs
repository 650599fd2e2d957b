//! `ccbt-fast stream` with curl: a file is read over HTTP while it is fetched from a seed that is not fast.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use ccbt_tests::PATIENCE;
use ccbt_tests::ccbt::{Ccbt, CcbtCommand, ccbt};
use ccbt_tests::lab::{Lab, Published};
use ccbt_tests::payload::Payload;
use ccbt_tests::process::run;
use ccbt_tests::torrent::TorrentSpec;

const MIB: usize = 1 << 20;
const FILM: usize = 12 * MIB + 77;

struct Stage {
    lab: Lab,
    made: Published,
    seed: Ccbt,
    stream: Ccbt,
    url: String,
}

/// A seed of `rate`, and a stream of the film.
fn stage(rate: &str) -> Stage {
    let lab = Lab::open();
    let files = [("notes.txt", 300_000), ("the film.mkv", FILM), ("more.bin", 400_000)];
    let made = lab.publish(Payload::tree("show", &files), TorrentSpec::pieces_of(128 << 10));
    let mut seed = CcbtCommand::seed(&made.torrent_path, &made.data).option("--up-limit", rate).start();
    seed.wait_ready();
    let copy = lab.dir("copy");
    let mut stream = CcbtCommand::stream(&made.torrent_path, &copy).peer(seed.address()).start();
    let url = stream.wait_event("streaming")["url"].as_str().expect("a URL").to_owned();
    Stage { lab, made, seed, stream, url }
}

impl Stage {
    fn film(&self) -> std::sync::Arc<[u8]> {
        self.made.payload.files().nth(1).expect("the film").bytes.clone()
    }

    /// Status code, head in lower case, and body.
    fn curl(&self, url: &str, args: &[&str]) -> (u32, String, Vec<u8>) {
        let (head, body) = (self.lab.path().join("head"), self.lab.path().join("body"));
        let mut command = Command::new("curl");
        command.args(["-sS", "--http1.1", "--max-time", "120", "-D"]).arg(&head).arg("-o").arg(&body);
        command.args(["-w", "%{http_code}"]).args(args).arg(url);
        let _ = std::fs::remove_file(&body);
        let (code, stdout, stderr) = run("curl", &mut command, PATIENCE);
        assert_eq!(code, 0, "curl {args:?}: {stderr}");
        let head = std::fs::read_to_string(&head).expect("a head").to_lowercase();
        (stdout.trim().parse().expect("a status"), head, std::fs::read(&body).unwrap_or_default())
    }

    fn range(&self, range: &str) -> Vec<u8> {
        let (status, head, body) = self.curl(&self.url, &["-r", range]);
        assert_eq!(status, 206, "{range}: {head}");
        assert!(head.contains(&format!("/{FILM}\r\n")) && head.contains("content-range: bytes "), "{head}");
        body
    }

    fn end(mut self) {
        self.stream.stop();
        self.seed.stop();
    }
}

/// 12 MiB at 1 MiB/s: whoever jumps to the end and back is served long before all is there.
#[test]
fn a_player_that_jumps_about_is_served_while_the_file_comes() {
    let mut stage = stage("1M");
    let film = stage.film();
    assert!(stage.url.ends_with("/the%20film.mkv"), "{}", stage.url);
    assert!(stage.range("-1000") == film[FILM - 1000..], "the end first, as players do");
    assert!(stage.range("0-99999") == film[..100_000]);
    assert!(stage.range("8000000-8100000") == film[8_000_000..=8_100_000]);
    let done = stage.stream.events("finished");
    assert!(done.is_empty(), "all of this came before the file was there");
    // All of it, by two readers at once, and by one that reads only a little and then nothing.
    let address: SocketAddr = stage.url.split('/').nth(2).expect("host:port").parse().expect("numbers");
    let mut lazy = TcpStream::connect(address).expect("it accepts");
    write!(lazy, "GET / HTTP/1.1\r\nHost: {address}\r\n\r\n").expect("sent");
    lazy.read_exact(&mut [0; 1000]).expect("a beginning");
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            let mut command = Command::new("curl");
            let (code, stdout, _) = run(
                "curl",
                command.args([
                    "-sS",
                    &stage.url,
                    "-r",
                    "6000000-",
                    "-o",
                    "/dev/null",
                    "-w",
                    "%{size_download}",
                ]),
                PATIENCE,
            );
            (code, stdout)
        });
        let (status, head, body) = stage.curl(&stage.url, &[]);
        assert_eq!(status, 200);
        assert!(
            head.contains("content-type: video/x-matroska") && head.contains("accept-ranges: bytes"),
            "{head}"
        );
        assert!(!head.contains("access-control"), "{head}");
        assert!(body == *film);
        let (code, size) = other.join().expect("it ran");
        assert_eq!((code, size.trim()), (0, (FILM - 6_000_000).to_string().as_str()));
    });
    stage.stream.wait_event("finished");
    assert!(stage.range("5-9") == film[5..10], "it goes on serving");
    let show = stage.lab.path().join("copy/show");
    assert!(std::fs::read(show.join("the film.mkv")).expect("there") == *film);
    let notes = std::fs::read(show.join("notes.txt")).unwrap_or_default();
    let whole = &stage.made.payload.files().next().expect("there is one").bytes;
    assert!(notes != **whole, "nothing else was asked for");
    stage.end();
    drop(lazy);
}

#[test]
fn requests_that_are_not_as_they_should_be() {
    let stage = stage("20M");
    let film = stage.film();
    let url = stage.url.clone();
    let (status, head, _) = stage.curl(&url, &["-r", "99999999-"]);
    assert_eq!(status, 416);
    assert!(head.contains(&format!("content-range: bytes */{FILM}")), "{head}");
    let (status, head, body) = stage.curl(&url, &["-I"]);
    assert_eq!((status, body.len()), (200, head.len()), "curl writes the head of a HEAD as body");
    assert!(head.contains(&format!("content-length: {FILM}")), "{head}");
    let etag = head.lines().find_map(|line| line.strip_prefix("etag: ")).expect("a tag").to_owned();
    assert!(etag.contains(&stage.made.torrent.info_hash_hex()), "{etag}");
    let (status, _, body) = stage.curl(&url, &["-r", "0-9", "-H", &format!("If-Range: {etag}")]);
    assert!(status == 206 && body == film[..10]);
    let (status, _, body) = stage.curl(&url, &["-r", "0-9", "-H", "If-Range: \"another\""]);
    assert!(status == 200 && body == *film, "another file's range means nothing here");
    let (status, _, body) = stage.curl(&url, &["-H", "Range: bytes=9-5"]);
    assert!(status == 200 && body.len() == FILM, "a range that is none is none");
    let (status, head, _) = stage.curl(&url, &["-X", "POST"]);
    assert!(status == 405 && head.contains("allow: get, head"), "{head}");
    for (host, expected) in
        [("evil.example", 403), ("evil.example:80", 403), ("localhost", 206), ("127.0.0.1", 206)]
    {
        let (status, ..) = stage.curl(&url, &["-r", "0-0", "-H", &format!("Host: {host}")]);
        assert_eq!(status, expected, "{host}");
    }
    let other = url.replace("the%20film.mkv", "notes.txt");
    assert_eq!(stage.curl(&other, &[]).0, 404);
    stage.end();
}

#[test]
fn a_file_that_cannot_be_served_is_refused_before_anything_is_made() {
    let lab = Lab::open();
    let files = [("a.mkv", 100_000), ("b.mkv", 200_000), ("empty", 0)];
    let made = lab.publish(Payload::tree("show", &files), TorrentSpec::pieces_of(64 << 10));
    let copy = lab.path().join("copy");
    for (file, said) in
        [("*.mkv", "2 files fit"), ("9", "0 to 2"), ("empty", "no bytes"), ("c.mkv", "show/a.mkv")]
    {
        let torrent = made.torrent_path.to_str().expect("text");
        let args =
            ["stream", torrent, "--output", copy.to_str().expect("text"), "--no-checkpoint", "--file", file];
        let (code, _, stderr) = ccbt(args);
        assert_eq!(code, 2, "{file}: {stderr}");
        assert!(stderr.contains(said), "{file}: {stderr}");
        assert!(!copy.exists());
    }
}
