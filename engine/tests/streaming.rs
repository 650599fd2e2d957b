//! Files that are read while they are fetched, by the library's own calls.

use std::fs;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ccbt_fast::layout::Overrides;
use ccbt_fast::streaming::StreamServer;
use ccbt_fast::{AddOptions, Metainfo, Priority, Session, Settings, State, TorrentHandle};
use ccbt_protocol::metainfo::build::{Builder, InputFile};
use tempfile::TempDir;

const PIECE: usize = 64 << 10;
const PIECES: usize = 200;
const LEN: usize = PIECES * PIECE - 1000;
/// Bounds a hang; never a measure of speed.
const PATIENCE: Duration = Duration::from_secs(60);

fn content() -> Vec<u8> {
    (0..LEN).map(|at| (at * 31 + (at >> 8) * 7 + (at >> 16) * 3) as u8).collect()
}

/// A torrent of one file, and a session that seeds those of its pieces that `has` says.
struct Source {
    _folder: TempDir,
    meta: Arc<Metainfo>,
    session: Session,
}

fn start(shards: usize, up_limit: u64) -> Session {
    let settings = Settings {
        port: Some(0),
        bind: Some(Ipv4Addr::LOCALHOST.into()),
        memory_bytes: 32 << 20,
        layout: Overrides { shards: Some(shards), ..Overrides::default() },
        up_limit,
        ..Settings::default()
    };
    Session::start(&settings).expect("io_uring is there")
}

fn source(has: impl Fn(usize) -> bool, up_limit: u64) -> Source {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut bytes = content();
    let file = InputFile { path: vec!["film.mkv".to_owned()], len: LEN as u64, ..InputFile::default() };
    let plan = Builder::multi_file("t", vec![file]).piece_len(PIECE as u32).plan().expect("sensible sizes");
    let hashes: Vec<_> = bytes.chunks(PIECE).map(ccbt_storage::hash::sha1).collect();
    let meta = Arc::new(Metainfo::parse(&plan.finish(&hashes)).expect("what was built is read"));
    for (at, piece) in bytes.chunks_mut(PIECE).enumerate().filter(|(at, _)| !has(*at)) {
        piece[0] ^= 1 + at as u8 % 8;
    }
    fs::create_dir(folder.path().join("t")).expect("made");
    fs::write(folder.path().join("t/film.mkv"), bytes).expect("written");
    let session = start(1, up_limit);
    let options = AddOptions { seed_only: true, use_trackers: false, ..AddOptions::new(folder.path()) };
    session.add_torrent(meta.clone(), options).expect("added");
    Source { _folder: folder, meta, session }
}

impl Source {
    fn options(&self, folder: &TempDir) -> AddOptions {
        let peers = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, self.session.port()))];
        AddOptions { use_trackers: false, peers, ..AddOptions::new(folder.path()) }
    }
}

fn is_finished(torrent: &TorrentHandle) -> bool {
    torrent.wait_finished(Some(Duration::ZERO)).is_ok()
        || torrent.status().is_some_and(|status| status.state == State::Seeding)
}

/// Nobody has the middle, so the download cannot be finished when the first bytes are read, however slow we are.
#[test]
fn the_beginning_and_the_end_are_read_before_the_rest_exists() {
    for shards in [1, 3] {
        let source = source(|piece| !(20..180).contains(&piece), 0);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let session = start(shards, 0);
        let torrent = session.add_torrent(source.meta.clone(), source.options(&folder)).expect("added");
        let mut reader = torrent.reader(0).expect("there is a file");
        assert_eq!(reader.len(), LEN as u64);
        let mut bytes = vec![0; 20 * PIECE];
        reader.read_exact(&mut bytes).expect("they come");
        assert!(bytes == content()[..20 * PIECE]);
        let mut end = Vec::new();
        reader.seek(SeekFrom::End(-(20 * PIECE as i64) + 1000)).expect("a place in the file");
        reader.read_to_end(&mut end).expect("they come");
        assert!(end == content()[180 * PIECE..]);
        assert!(!is_finished(&torrent));
        // And what does not come is waited for as long as one likes.
        reader.seek(SeekFrom::Start(50 * PIECE as u64)).expect("a place in the file");
        let mut asked = 0;
        let waited = reader.read_while(&mut [0; 10], || {
            asked += 1;
            asked < 3
        });
        assert_eq!((waited.expect("no error"), asked), (None, 3));
        drop(reader);
        session.shutdown(PATIENCE).expect("it stops");
        source.session.shutdown(PATIENCE).expect("it stops");
    }
}

#[test]
fn several_readers_at_several_places() {
    let source = source(|_| true, 0);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let session = start(1, 0);
    let torrent = session.add_torrent(source.meta.clone(), source.options(&folder)).expect("added");
    let readers = (0..4).map(|nth| {
        let torrent = torrent.clone();
        std::thread::spawn(move || {
            let mut reader = torrent.reader(0).expect("there is a file");
            let from = (LEN / 4 * (3 - nth)) as u64;
            reader.seek(SeekFrom::Start(from)).expect("a place in the file");
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).expect("they come");
            assert!(bytes == content()[from as usize..]);
        })
    });
    readers.collect::<Vec<_>>().into_iter().for_each(|reader| reader.join().expect("it read"));
    torrent.wait_finished(Some(PATIENCE)).expect("and the rest came too");
    session.shutdown(PATIENCE).expect("it stops");
    source.session.shutdown(PATIENCE).expect("it stops");
}

#[test]
fn what_will_not_come_is_an_error() {
    let source = source(|_| true, 0);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let session = start(1, 0);
    let options = AddOptions { file_priorities: Some(vec![Priority::Skip]), ..source.options(&folder) };
    let torrent = session.add_torrent(source.meta.clone(), options).expect("added");
    let mut reader = torrent.reader(0).expect("there is a file");
    assert_eq!(reader.read(&mut [0; 10]).expect_err("it is not wanted").kind(), ErrorKind::NotFound);
    torrent.set_file_priorities(Vec::new()).expect("it lives");
    let mut bytes = [0; 10];
    reader.read_exact(&mut bytes).expect("now it is");
    assert_eq!(bytes, content()[..10]);
    assert!(torrent.reader(1).is_none());
    assert_eq!(
        reader.seek(SeekFrom::Current(-11)).expect_err("before the start").kind(),
        ErrorKind::InvalidInput
    );
    reader.seek(SeekFrom::End(0)).expect("the end");
    assert_eq!(reader.read(&mut bytes).expect("the end is no error"), 0);
    reader.seek(SeekFrom::Start(LEN as u64 - 5)).expect("a place in the file");
    session.shutdown(PATIENCE).expect("it stops");
    assert!(reader.read(&mut bytes).is_err(), "the torrent is gone");
    source.session.shutdown(PATIENCE).expect("it stops");
}

/// Without a reader: `streaming` brings the beginning and the end first, as far as they can be had.
#[test]
fn streaming_mode_does_not_wait_for_a_reader() {
    let source = source(|piece| piece < 10 || piece == PIECES - 1, 0);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let session = start(3, 0);
    let options = AddOptions { streaming: true, ..source.options(&folder) };
    let torrent = session.add_torrent(source.meta.clone(), options).expect("added");
    let mut reader = torrent.reader(0).expect("there is a file");
    let mut bytes = vec![0; 10 * PIECE];
    reader.read_exact(&mut bytes).expect("they come");
    assert!(bytes == content()[..10 * PIECE]);
    session.shutdown(PATIENCE).expect("it stops");
    source.session.shutdown(PATIENCE).expect("it stops");
}

/// A server that is dropped ends, also when a client waits for a piece that nobody has.
#[test]
fn a_server_ends_while_a_client_waits() {
    use std::io::Write;
    let source = source(|piece| piece != 0, 0);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let session = start(1, 0);
    let torrent = session.add_torrent(source.meta.clone(), source.options(&folder)).expect("added");
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    assert!(StreamServer::start(torrent.clone(), 5, listen).is_err(), "there is no such file");
    let server = StreamServer::start(torrent, 0, listen).expect("it listens");
    assert!(
        StreamServer::start(session.torrents()[0].clone(), 0, server.addr()).is_err(),
        "the port is taken"
    );
    let mut client = std::net::TcpStream::connect(server.addr()).expect("it accepts");
    write!(client, "GET /film.mkv HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
    let mut head = [0; 15];
    client.read_exact(&mut head).expect("the head comes before the body");
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    drop(server);
    let mut rest = Vec::new();
    // An end or a reset: in any case not for ever.
    let _ = client.read_to_end(&mut rest);
    session.shutdown(PATIENCE).expect("it stops");
    source.session.shutdown(PATIENCE).expect("it stops");
}

#[test]
fn a_link_that_was_put_in_a_files_place_is_not_followed() {
    let source = source(|_| true, 0);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let session = start(1, 0);
    let torrent = session.add_torrent(source.meta.clone(), source.options(&folder)).expect("added");
    torrent.wait_finished(Some(PATIENCE)).expect("it comes");
    let file = folder.path().join("t/film.mkv");
    let secret = folder.path().join("secret");
    fs::rename(&file, &secret).expect("renamed");
    std::os::unix::fs::symlink(&secret, &file).expect("linked");
    let mut reader = torrent.reader(0).expect("there is a file");
    let error = reader.read(&mut [0; 10]).expect_err("it is a link");
    assert!(error.to_string().contains("symbolic link"), "{error}");
    session.shutdown(PATIENCE).expect("it stops");
    source.session.shutdown(PATIENCE).expect("it stops");
}
