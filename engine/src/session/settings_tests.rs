//! Settings reach the engine as they were given.

use super::*;

#[test]
fn a_port_that_was_asked_for_is_the_only_one_tried() {
    let ports = |port| Settings { port, ..Settings::default() }.ports();
    assert_eq!(ports(Some(0)), [0]);
    assert_eq!(ports(Some(99)), [99]);
    assert_eq!(ports(None), [6881, 6882, 6883, 6884, 6885, 6886, 6887, 6888, 6889, 0]);
}

#[test]
fn connections_leave_room_for_files_and_trackers() {
    let settings = Settings { max_connections: 1000, max_open_files: 512, ..Settings::default() };
    let within = |descriptors| settings.connections_within(descriptors);
    assert_eq!([within(20_000), within(1640), within(1024), within(64)], [1000, 1000, 640, 32]);
    assert_eq!(within(0), 1);
}

#[test]
fn what_is_mapped_is_what_is_listened_on_and_nothing_past_a_proxy() {
    let settings = Settings { port_mapping: PortMapping::Auto, ..Settings::default() };
    let wanted = settings.wanted_mapping(7, 7);
    assert_eq!((wanted.how, wanted.tcp, &*wanted.udp), (PortMapping::Auto, 7, &[7][..]));
    let transports = Transports { tcp: false, utp: true, ..Transports::default() };
    let both = Settings { transports, ..settings.clone() }.wanted_mapping(7, 8);
    assert_eq!((both.tcp, &*both.udp), (0, &[7, 8][..]));
    let proxy = Proxy {
        kind: ccbt_protocol::proxy::ProxyKind::Socks5,
        addr: "127.0.0.1:9".parse().unwrap(),
        credentials: None,
        peers: false,
        trackers: true,
        hostnames: true,
    };
    let behind = Settings { proxy: Some(proxy), ..settings };
    assert!(!behind.wanted_mapping(7, 7).is_needed());
}

#[test]
fn settings_reach_the_engine() {
    let settings = Settings {
        layout: Overrides {
            shards: Some(3),
            storage_cpu: Some(1),
            hash_cpus: Some(vec![0, 1]),
            ..Overrides::default()
        },
        bind: Some([127, 0, 0, 1].into()),
        memory_bytes: 1 << 20,
        max_connections: 7,
        max_open_files: 9,
        disk_queue_depth: Some(19),
        disk_write_bytes: Some(1 << 18),
        down_limit: 11,
        up_limit: 13,
        count_overhead: true,
        sync: SyncConfig { bytes: 17, ..SyncConfig::default() },
        tracker_roots_pem: vec![vec![3]],
        zero_copy_send: ZeroCopySend::On,
        dht: DhtSettings { port: Some(9), ..DhtSettings::default() },
        enable_lsd: false,
        web_seed_local: true,
        checkpoints: CheckpointSettings { dir: Some("/state".into()), ..CheckpointSettings::default() },
        ..Settings::default()
    };
    let config = settings.service_config(PeerId(*b"-CF0100-abcdefghijkl"), 5);
    assert_eq!(config.shard_cpus.len(), 3);
    assert_eq!(config.storage.storage_cpu, Some(1));
    assert_eq!(config.storage.hash_cpus, [Some(0), Some(1)]);
    assert_eq!(config.storage.max_open_files, 9);
    assert_eq!((config.storage.queue_depth, config.storage.write_bytes), (Some(19), Some(1 << 18)));
    assert_eq!(config.listen, [SocketAddr::from(([127, 0, 0, 1], 5)).into()]);
    assert_eq!((&config.bind, &config.trackers.client.bind), (&settings.bind, &settings.bind));
    assert_eq!((config.memory_bytes, config.max_connections), (1 << 20, 7));
    assert_eq!((config.down_limit, config.up_limit, config.count_overhead), (11, 13, true));
    assert_eq!(config.sync, settings.sync);
    assert_eq!(config.zero_copy_send, ZeroCopySend::On);
    assert_eq!(config.trackers.client.extra_roots_pem, [[3]]);
    assert!(config.web_seed_local);
    let dht = config.discovery.dht.expect("on");
    assert_eq!((dht.port, dht.state_file), (Some(9), Some("/state/dht.state".into())));
    assert!(!config.discovery.lsd);
    let off = Settings { enable_dht: false, ..settings };
    assert_eq!(off.service_config(PeerId(*b"-CF0100-abcdefghijkl"), 5).discovery.dht, None);
}

#[test]
fn a_checkpoint_gives_what_options_leave_out_if_it_fits() {
    let metainfo = Arc::new(crate::testing::metainfo("t", 10 * 16_384, 16_384));
    let field = ccbt_protocol::bitfield::Bitfield::full(10);
    let peers = ["192.0.2.1:1", "192.0.2.1:0", "0.0.0.0:1", "[ff02::1]:1", "[2001:db8::1]:2"];
    let checkpoint = Checkpoint {
        info_hash: metainfo.info_hash,
        name: "t".into(),
        saved_at: 0,
        added_at: 0,
        source: checkpoints::Source::default(),
        output: "/elsewhere".into(),
        renames: vec![checkpoints::Rename { file: 0, path: "x".into() }],
        piece_len: 16_384,
        total_len: 10 * 16_384,
        have: field.clone(),
        looked: field,
        partial: Vec::new(),
        files: vec![None],
        totals: checkpoints::Totals::default(),
        file_priorities: Vec::new(),
        trackers: Vec::new(),
        peers: peers.map(|peer| peer.parse().expect("an address")).to_vec(),
    };
    let message = |checkpoint: &Checkpoint, renames: Vec<(u32, PathBuf)>| {
        let resume = Some(Box::new(checkpoint.clone()));
        let options = AddOptions { resume, renames, ..AddOptions::new("/here") };
        options.into_message(TorrentKey(0), Arc::clone(&metainfo))
    };
    let taken = message(&checkpoint, Vec::new());
    assert_eq!((taken.root.as_path(), taken.renames), ("/here".as_ref(), vec![(0, "x".into())]));
    let shown: Vec<String> = taken.peers.iter().map(SocketAddr::to_string).collect();
    assert_eq!(shown, ["192.0.2.1:1", "[2001:db8::1]:2"], "nobody can be at the others");
    assert!(taken.known.expect("said").have.is_full());
    assert_eq!(message(&checkpoint, vec![(0, "y".into())]).renames, [(0, "y".into())]);
    let other = Checkpoint { info_hash: ccbt_protocol::ids::InfoHash([1; 20]), ..checkpoint };
    let ignored = message(&other, Vec::new());
    assert!(ignored.known.is_none() && ignored.peers.is_empty() && ignored.renames.is_empty());
}

#[test]
fn trackers_are_asked_by_scheme() {
    let tiers = [vec!["UDP://a:1", "http://b/x"], vec!["https://c/x"], vec!["udp://d:1"]];
    let tiers = tiers.map(|tier| tier.into_iter().map(str::to_owned).collect()).to_vec();
    let plan = ccbt_protocol::metainfo::build::Builder::single_file("t", 100).piece_len(16_384);
    let torrent = plan.trackers(tiers.clone()).plan().expect("sensible sizes").finish(&[[7; 20]]);
    let metainfo = Arc::new(Metainfo::parse(&torrent).expect("what was built is read"));
    let asked = |use_trackers, http, udp| {
        let tracker_schemes = TrackerSchemes { http, udp };
        let options = AddOptions { use_trackers, tracker_schemes, ..AddOptions::new("/") };
        options.into_message(TorrentKey(0), Arc::clone(&metainfo)).trackers
    };
    assert_eq!(asked(true, true, true), tiers);
    assert_eq!(asked(true, false, true), [["UDP://a:1"], ["udp://d:1"]]);
    assert_eq!(asked(true, true, false), [["http://b/x"], ["https://c/x"]]);
    assert!(asked(true, false, false).is_empty() && asked(false, true, true).is_empty());
}

#[test]
fn cpus_that_may_not_be_used_are_refused() {
    let with = |cpus| {
        let layout = Overrides { cpus: Some(cpus), ..Overrides::default() };
        Settings { layout, ..Settings::default() }
    };
    let allowed = allowed_cpus();
    let Some(first) = allowed.first() else { return };
    assert!(with(vec![*first, 4095]).check().is_ok());
    let config = with(vec![*first, 4095]).service_config(PeerId(*b"-CF0100-abcdefghijkl"), 5);
    assert_eq!(config.shard_cpus, [Some(*first)]);
    let error = with(vec![4094]).check().expect_err("there is no such CPU").to_string();
    assert!(error.contains("4094") && error.contains("engine.cpus"), "{error}");
}
