use ccbt_protocol::bitfield::Bitfield;
use ccbt_shards::messages::FileMark;
use ccbt_storage::layout::LayoutSpec;

use super::*;
use crate::testing;

fn torrent() -> Torrent {
    let metainfo = Arc::new(testing::metainfo("t", 10 * 16_384, 16_384));
    let origin = Origin {
        source: Source::default(),
        added_at: 5,
        totals: Totals { downloaded: 1, uploaded: 2 },
        peers: vec!["192.0.2.9:5".parse().unwrap()],
        seed_only: false,
        spec: None,
    };
    Torrent::new(Arc::new(Shared::new(TorrentKey(0), metainfo)), origin)
}

fn seen(pieces: u32, state: State) -> Seen {
    Seen { state, pieces, durable: 0, partial: 0 }
}

#[test]
fn a_checkpoint_is_due_by_time_by_pieces_and_at_a_pause() {
    let settings = CheckpointSettings {
        interval: Duration::from_secs(1000),
        pieces: 5,
        ..CheckpointSettings::default()
    };
    let mut torrent = torrent();
    let begun = seen(1, State::Downloading);
    assert_eq!(torrent.is_due(begun, &settings), Some(true), "the first one at once");
    torrent.last = Some((Instant::now(), begun));
    assert_eq!(torrent.is_due(begun, &settings), None, "nothing is new");
    assert_eq!(torrent.is_due(seen(5, State::Downloading), &settings), Some(false));
    assert_eq!(torrent.is_due(seen(6, State::Downloading), &settings), Some(true), "five pieces");
    assert_eq!(torrent.is_due(seen(1, State::Paused), &settings), Some(true));
    let by_time = CheckpointSettings { pieces: 0, ..settings.clone() };
    assert_eq!(torrent.is_due(seen(9, State::Downloading), &by_time), Some(false));
    let short = CheckpointSettings { interval: Duration::ZERO, ..settings.clone() };
    assert_eq!(torrent.is_due(seen(2, State::Downloading), &short), Some(true));
    torrent.hot = true;
    assert_eq!(torrent.is_due(begun, &settings), Some(false), "its files are to cool");
    torrent.urgent = true;
    assert_eq!(torrent.is_due(begun, &settings), Some(true));
}

#[test]
fn files_just_written_to_get_no_mark() {
    let now = SystemTime::now();
    let ns = nanoseconds(now);
    let mark = |ago_ns: i64| Some(FileMark { len: 1, mtime_ns: ns - ago_ns });
    let field = Bitfield::full(4);
    let files = vec![mark(2_500_000_000), mark(1_900_000_000), None, mark(-5)];
    let mut known = Known { have: field.clone(), looked: field, partial: Vec::new(), files };
    assert!(cool(&mut known, now, HOT));
    assert_eq!(known.files, [mark(2_500_000_000), None, None, None]);
    assert!(!cool(&mut known, now, HOT));
}

#[test]
fn what_is_composed_fits_the_torrent_and_counts_from_before() {
    let torrent = torrent();
    let metainfo = torrent.metainfo();
    let spec = LayoutSpec::from_metainfo("/srv".into(), metainfo).unwrap();
    let spec = spec.with_renames(&[(0, "elsewhere/x".into())]).unwrap();
    let mut status = testing::status(TorrentKey(0), 3);
    (status.stats.downloaded, status.stats.uploaded) = (10, 20);
    torrent.shared.set_status(Arc::new(status));
    let field = Bitfield::empty(10);
    let known = Known { have: field.clone(), looked: field, partial: Vec::new(), files: vec![None] };
    let made = torrent.compose(known, &spec);
    assert_eq!(made.fits(metainfo), Ok(()));
    assert_eq!(made.totals, Totals { downloaded: 11, uploaded: 22 });
    assert_eq!(made.renames, [Rename { file: 0, path: "elsewhere/x".into() }]);
    assert_eq!((made.added_at, made.output.as_path()), (5, Path::new("/srv")));
    assert_eq!(made.peers, torrent.origin.peers);
}

#[test]
fn news_of_a_status_do_not_wake_what_looks_by_itself() {
    let board = Board::default();
    let far = Instant::now() + Duration::from_secs(3600);
    board.changed(TorrentKey(1));
    assert_eq!(board.wait(None, far).changed.len(), 1);
    assert!(
        board.wait(None, Instant::now() + Duration::from_millis(1)).changed.is_empty(),
        "its time has come"
    );
    board.changed(TorrentKey(2));
    let news = board.wait(Some(Duration::from_millis(1)), far);
    assert!(news.changed.contains(&TorrentKey(2)) && !news.ended);
    board.happened(TorrentKey(3), &Event::Finished);
    assert!(board.wait(Some(Duration::from_secs(3600)), far).urgent.contains(&TorrentKey(3)), "at once");
}

/// Hashed, then changed by somebody: what was hashed says nothing about it.
#[test]
fn a_served_file_that_was_changed_meanwhile_gets_no_mark() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t");
    std::fs::write(&path, [1; 100]).unwrap();
    let mut torrent = torrent();
    let spec = LayoutSpec::from_metainfo(folder.path().to_owned(), torrent.metainfo()).unwrap();
    torrent.origin.spec = Some(spec.clone());
    let mut torrent = Torrent::new(torrent.shared, torrent.origin);
    let field = Bitfield::full(10);
    let known =
        || Known { have: field.clone(), looked: field.clone(), partial: Vec::new(), files: marks(&spec) };
    let mut as_it_was = known();
    torrent.doubt_changed(&mut as_it_was);
    assert!(as_it_was.files[0].is_some());
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::from_secs(1000)).unwrap();
    let mut changed = known();
    assert!(changed.files[0].is_some());
    torrent.doubt_changed(&mut changed);
    assert_eq!(changed.files, [None]);
    // A download changes its files itself.
    torrent.unchanged = None;
    let mut ours = known();
    torrent.doubt_changed(&mut ours);
    assert!(ours.files[0].is_some());
}

#[test]
fn a_running_torrent_claims_what_outlasts_a_power_cut_and_nothing_to_be_missing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t");
    std::fs::write(&path, [1; 100]).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::from_secs(1000)).unwrap();
    let spec = Arc::new(LayoutSpec::from_metainfo(folder.path().to_owned(), torrent().metainfo()).unwrap());
    let set = |pieces: &[u32]| {
        let mut field = Bitfield::empty(10);
        for piece in pieces {
            field.insert(ccbt_protocol::ids::PieceIndex(*piece));
        }
        field
    };
    let (have, durable) = (set(&[1, 2, 3]), set(&[1, 3]));
    let snapshot = Snapshot {
        have,
        durable: durable.clone(),
        looked: Bitfield::full(10),
        partial: Vec::new(),
        spec,
        checked: true,
    };
    let (known, hot) = claims(snapshot.clone(), SystemTime::now());
    assert_eq!((&known.have, &known.looked, hot), (&durable, &durable, false));
    assert!(known.files[0].is_some());
    // Written to after the shard was asked.
    let (known, hot) = claims(snapshot, UNIX_EPOCH + Duration::from_secs(999));
    assert!(hot && known.files[0].is_none());
}

#[test]
fn a_torrent_file_that_is_a_pipe_by_now_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.torrent");
    std::fs::write(&path, b"de").unwrap();
    assert_eq!(read_torrent(&path).as_deref(), Some(&b"de"[..]));
    let pipe = folder.path().join("pipe");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || tell.send(read_torrent(&pipe)));
    assert_eq!(told.recv_timeout(Duration::from_secs(10)), Ok(None), "it does not wait");
}

/// What only a check or a seed has read may be in nothing but the page cache.
#[test]
fn recent_files_that_were_not_synced_get_no_mark_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t");
    let store = Store::new(folder.path().join("state"));
    for (seed_only, checked, age, is_synced, marked) in [
        (false, true, 10, true, true),
        (true, true, 10, true, false),
        (true, true, 310, true, true),
        (true, true, 10, false, true),
        (false, false, 10, true, false),
        (false, false, 310, true, true),
    ] {
        std::fs::write(&path, [1; 100]).unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        let mut torrent = torrent();
        let info_hash = torrent.shared.info_hash();
        torrent.origin.seed_only = seed_only;
        let spec = LayoutSpec::from_metainfo(folder.path().to_owned(), torrent.metainfo()).unwrap();
        let mut writer = Writer {
            settings: CheckpointSettings::default(),
            is_synced,
            store: store.clone(),
            registry: Arc::default(),
            torrents: HashMap::from([(TorrentKey(0), torrent)]),
            pending: HashSet::new(),
            failing: false,
            cleaning: Cleaning::default(),
        };
        let all = Bitfield::full(10);
        let snapshot = Snapshot {
            have: all.clone(),
            durable: all.clone(),
            looked: all,
            partial: Vec::new(),
            spec: Arc::new(spec),
            checked,
        };
        writer.write_last(TorrentKey(0), snapshot);
        let written = store.load(info_hash).expect("written").checkpoint;
        assert_eq!(written.files[0].is_some(), marked, "{seed_only} {checked} {age} {is_synced}");
    }
}

/// The last sync failed: what it was to cover is not claimed. And what ended before it knew anything changes nothing.
#[test]
fn the_last_word_claims_what_is_synced_and_never_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path().join("state"));
    let torrent = torrent();
    let info_hash = torrent.shared.info_hash();
    let spec = LayoutSpec::from_metainfo(folder.path().to_owned(), torrent.metainfo()).unwrap();
    let spec = Arc::new(spec);
    let mut writer = Writer {
        settings: CheckpointSettings::default(),
        is_synced: true,
        store: store.clone(),
        registry: Arc::default(),
        torrents: HashMap::from([(TorrentKey(0), torrent)]),
        pending: HashSet::new(),
        failing: false,
        cleaning: Cleaning::default(),
    };
    let (all, mut some) = (Bitfield::full(10), Bitfield::empty(10));
    some.insert(ccbt_protocol::ids::PieceIndex(3));
    let snapshot =
        Snapshot { have: all.clone(), durable: some, looked: all, partial: Vec::new(), spec, checked: true };
    writer.write_last(TorrentKey(0), snapshot.clone());
    assert_eq!(store.load(info_hash).expect("written").checkpoint.have.count(), 1);
    let nothing =
        Snapshot { have: Bitfield::empty(10), looked: Bitfield::empty(10), checked: false, ..snapshot };
    writer.write_last(TorrentKey(0), nothing);
    assert_eq!(store.load(info_hash).expect("written").checkpoint.have.count(), 1);
}

#[test]
fn only_the_torrents_own_file_is_copied() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path().join("state"));
    let write = |name: &str| {
        let plan = ccbt_protocol::metainfo::build::Builder::single_file(name, 163_840).piece_len(16_384);
        let bytes = plan.plan().expect("sensible sizes").finish(&[[7; 20]; 10]);
        std::fs::write(folder.path().join(name), &bytes).unwrap();
        folder.path().join(name)
    };
    let writer = Writer {
        settings: CheckpointSettings::default(),
        is_synced: true,
        store: store.clone(),
        registry: Arc::default(),
        torrents: HashMap::new(),
        pending: HashSet::new(),
        failing: false,
        cleaning: Cleaning::default(),
    };
    let (own, other) = (write("t"), write("u"));
    let info_hash = TorrentSource::from(own.clone()).load().unwrap().info_hash;
    let mut torrent = torrent();
    let spec = LayoutSpec::from_metainfo("/srv".into(), torrent.metainfo()).unwrap();
    let field = Bitfield::empty(10);
    let known = Known { have: field.clone(), looked: field, partial: Vec::new(), files: vec![None] };
    torrent.origin.source.torrent = Some(other);
    let checkpoint = Checkpoint { info_hash, ..torrent.compose(known, &spec) };
    writer.keep_torrent(TorrentKey(0), &checkpoint).unwrap();
    assert!(!store.torrent_path(info_hash).exists(), "it is another torrent's by now");
    let source = Source { torrent: Some(own.clone()), magnet: None };
    writer.keep_torrent(TorrentKey(0), &Checkpoint { source, ..checkpoint }).unwrap();
    assert_eq!(std::fs::read(store.torrent_path(info_hash)).unwrap(), std::fs::read(own).unwrap());
}

/// Whoever writes to a file after the last word about it must leave another time: so that is said late enough.
#[test]
fn the_last_word_is_said_when_file_times_have_moved_on() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path().join("state"));
    let torrent = torrent();
    let info_hash = torrent.shared.info_hash();
    let spec = LayoutSpec::from_metainfo(folder.path().to_owned(), torrent.metainfo()).unwrap();
    let path = spec.file_path(0);
    let mut writer = Writer {
        settings: CheckpointSettings::default(),
        is_synced: true,
        store: store.clone(),
        registry: Arc::default(),
        torrents: HashMap::from([(TorrentKey(0), torrent)]),
        pending: HashSet::new(),
        failing: false,
        cleaning: Cleaning::default(),
    };
    let all = Bitfield::full(10);
    let (durable, looked, partial) = (all.clone(), all.clone(), Vec::new());
    let snapshot = Snapshot { have: all, durable, looked, partial, spec: Arc::new(spec), checked: true };
    std::fs::write(&path, [1; 163_840]).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(SystemTime::now()).unwrap();
    writer.write_last(TorrentKey(0), snapshot);
    let mark = store.load(info_hash).expect("written").checkpoint.files[0].expect("marked");
    let age = nanoseconds(SystemTime::now()) - mark.mtime_ns;
    assert!(age >= TICK.as_nanos() as i64, "{age} ns: a write now could leave the same time");
}
