use super::*;
use std::path::Path;
use std::time::Duration;

use ccbt_fast::checkpoints::{CheckpointSettings, Format};
use ccbt_fast::config::{Effect, Setting, Sources};
use ccbt_fast::linking::LinkMode;
use ccbt_fast::{PickerConfig, Preallocate, Strategy, SyncPolicy, TorrentLimits};
use tracing::level_filters::LevelFilter;

fn parse(line: &str) -> Result<Command, clap::Error> {
    let args = ["ccbt-fast"].into_iter().chain(line.split_whitespace()).map(OsString::from).collect();
    Cli::try_parse_from(with_default_command(args)).map(|cli| cli.command)
}

fn download(line: &str) -> DownloadArgs {
    match parse(line) {
        Ok(Command::Download(args)) => args,
        other => panic!("{line}: {other:?}"),
    }
}

fn seed(line: &str) -> SeedArgs {
    match parse(line) {
        Ok(Command::Seed(args)) => args,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn definitions_are_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn a_torrent_alone_is_downloaded() {
    assert_eq!(download("a.torrent").transfer.torrent, PathBuf::from("a.torrent"));
    let args = download("-o d a.torrent --json");
    assert_eq!(effect_of(&args.transfer, args.settings.given()).torrent.output, PathBuf::from("d"));
    let args = download("download a.torrent");
    assert_eq!(effect_of(&args.transfer, args.settings.given()).torrent.output, PathBuf::from("."));
    assert!(matches!(parse("info a.torrent --json"), Ok(Command::Info(InfoArgs { json: true, .. }))));
    for help in ["", "--help", "-V", "help seed", "seed --help"] {
        let error = parse(help).expect_err("help is no command");
        assert!(
            matches!(
                error.kind(),
                clap::error::ErrorKind::DisplayHelp
                    | clap::error::ErrorKind::DisplayVersion
                    | clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
            ),
            "{help}: {error}"
        );
    }
}

/// What options lead to, without files and variables.
fn effect_of(args: &TransferArgs, settings: &[Setting]) -> Effect {
    let sources =
        Sources::new(None, None).settings(args.sources.assigned()).settings(settings.iter().cloned());
    sources.load().expect("options are well-formed").effect(None)
}

#[test]
fn options_of_lists_are_repeatable() {
    let bootstrap = |line: &str| {
        let args = seed(&format!("seed a.torrent {line}"));
        effect_of(&args.transfer, args.settings.given()).settings.dht.bootstrap
    };
    let all = ["a.example:1", "[::1]:2", "b.example:3"];
    assert_eq!(bootstrap("--dht-bootstrap a.example:1 --dht-bootstrap [::1]:2,b.example:3"), all);
    assert_eq!(bootstrap("--dht-bootstrap a.example:1"), all[..1]);
    assert_eq!(bootstrap("--dht-bootstrap none"), [""; 0]);
    let args = seed("seed a.torrent --bind 10.0.0.1 --bind eth7");
    let bind = effect_of(&args.transfer, args.settings.given()).settings.bind;
    assert_eq!(bind, Some("10.0.0.1,eth7".parse().unwrap()));
    for line in ["--dht-bootstrap a:1 --dht-bootstrap none", "--dht-bootstrap a:1 --dht-bootstrap b"] {
        let error = parse(&format!("seed a.torrent {line}")).expect_err(line).to_string();
        assert!(error.contains("--dht-bootstrap") && error.contains("hosts and ports"), "{error}");
    }
    // Others say one thing.
    assert!(parse("seed a.torrent --max-peers 1 --max-peers 2").is_err());
}

#[test]
fn every_transfer_option_reaches_the_engine() {
    let line = "seed a.torrent --output d --port 7 --bind 127.0.0.1 --peer 192.0.2.1:5 \
                --peer [2001:db8::1]:6 --down-limit 3 --up-limit 4MiB/s --shards 2 --seed-time 1.5 \
                --seed-ratio 2 --no-tracker --max-peers 9 --memory 32 --log-level debug --log-file l \
                --disk-queue-depth 12 --disk-write-kib 512 --max-global-peers 11 --set strategy.upload_slots=5 \
                --peer-down-limit 5 --peer-up-limit 6 --torrent-down-limit 7 --torrent-up-limit 8 --count-overhead \
                --zero-copy-send on";
    let args = seed(line);
    let effect = effect_of(&args.transfer, args.settings.given());
    let (settings, options) = (&effect.settings, &effect.torrent);
    assert_eq!((settings.port, settings.bind.clone()), (Some(7), Some("127.0.0.1".parse().unwrap())));
    assert_eq!((settings.down_limit, settings.up_limit, settings.count_overhead), (3 << 10, 4 << 20, true));
    let limits = TorrentLimits { down: 7 << 10, up: 8 << 10, peer_down: 5 << 10, peer_up: 6 << 10 };
    assert_eq!(options.limits, Some(limits));
    assert_eq!(settings.zero_copy_send, ccbt_fast::ZeroCopySend::On);
    assert_eq!((settings.layout.shards, settings.memory_bytes), (Some(2), 32 << 20));
    assert_eq!((settings.disk_queue_depth, settings.disk_write_bytes), (Some(12), Some(512 << 10)));
    assert_eq!((settings.max_connections, settings.choker.slots), (11, 5));
    assert_eq!((effect.seed_time, effect.seed_ratio), (Some(Duration::from_secs(90)), Some(2.0)));
    assert_eq!((effect.log.level, effect.log.file.clone()), (LevelFilter::DEBUG, Some("l".into())));
    assert_eq!((&options.output, options.max_peers), (&PathBuf::from("d"), 9));
    assert!(!options.use_trackers);
    assert_eq!(args.transfer.peers.len(), 2);
    assert_eq!(args.settings.given().len(), 22, "every option but --peer and --set is a key");
}

#[test]
fn download_options_reach_the_engine() {
    let effect = |line: &str| {
        let args = download(line);
        effect_of(&args.transfer, args.settings.given())
    };
    let options = effect("a --preallocate full --piece-selection round_robin --endgame-duplicates 5").torrent;
    assert_eq!(options.preallocate, Preallocate::Full);
    assert_eq!((options.picker.strategy, options.picker.endgame_duplicates), (Strategy::RoundRobin, 5));
    assert!(options.use_trackers && !options.seed_only);
    for (line, policy) in [
        ("a", SyncPolicy::Checkpoint),
        ("a --sync piece", SyncPolicy::Piece),
        ("a --sync none --memory 32", SyncPolicy::None),
    ] {
        assert_eq!(effect(line).settings.sync.policy, policy, "{line}");
    }
    assert_eq!(effect("a --preallocate none").torrent.preallocate, Preallocate::None);
    assert_eq!(effect("a --move-completed done").move_completed, Some("done".into()));
    assert_eq!(
        effect("a --set strategy.piece_selection=sequential").torrent.picker.strategy,
        Strategy::Sequential
    );
    let both = effect("a --set limits.global_up_kib=7 --up-limit 8");
    assert_eq!(both.settings.up_limit, 8 << 10, "an option is more exact than --set");
    let defaults = effect("a").torrent;
    assert_eq!((defaults.preallocate, defaults.picker), (Preallocate::Sparse, PickerConfig::default()));
}

#[test]
fn files_are_read_unless_that_is_switched_off() {
    let args = download("--config x.toml --no-config a").transfer.sources;
    let files: Vec<PathBuf> = args.sources(&[]).files().iter().map(|source| source.path.clone()).collect();
    assert_eq!(files, [PathBuf::from("x.toml")], "one that is named is meant");
    assert!(matches!(
        parse("config show --origin --json --config x --torrent t"),
        Ok(Command::Config(ConfigArgs {
            command: ConfigCommand::Show(ShowArgs { origin: true, json: true, .. })
        }))
    ));
    assert!(parse("config check x").is_ok() && parse("config default").is_ok());
    assert!(parse("config").is_err() && parse("config check").is_err());
}

#[test]
fn create_options_are_read() {
    let line = "create d --piece-size 4M -t http://a,http://b -t udp://c:1 -w http://w --date -5 --private";
    let Ok(Command::Create(args)) = parse(line) else { panic!("{line}") };
    assert_eq!((args.piece_size, args.date), (Some(4 << 20), Some(DateArg::Seconds(-5))));
    assert_eq!((args.trackers.len(), args.web_seeds.len(), args.private), (2, 1, true));
    assert_eq!(["65536", "64k", "64KiB"].map(piece_size), [Ok(65536), Ok(65536), Ok(65536)]);
    assert!(["", "K", "1G", "-1", "4096M"].iter().all(|bad| piece_size(bad).is_err()));
    assert_eq!(date("now"), Ok(DateArg::Now));
    assert!(date("soon").is_err());
}

#[test]
fn nonsense_is_refused() {
    for line in [
        "download",
        "a b",
        "a --peer localhost:1",
        "a --peer 192.0.2.1:0",
        "a --peer 0.0.0.0:5",
        "a --port 65536",
        "a --bind no/where",
        "a --down-limit -1",
        "a --down-limit 99999999999",
        "a --set x",
        "a --set strategy.upload_slot=3",
        "a --set strategy.upload_slots=0",
        "seed a --sync none",
        "a --shards 0",
        "a --seed-time -1",
        "a --seed-time nan",
        "a --seed-ratio inf",
        "a --seed-ratio x",
        "a --memory 1",
        "a --max-peers 0",
        "a --endgame-duplicates 0",
        "a --preallocate some",
        "seed a --preallocate full",
        "a --log-level loud",
        "create",
        "create a --threads 300",
        "demo --size-mib 0",
    ] {
        let error = parse(line).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}

#[test]
fn relocation_options_reach_the_engine() {
    let args = download(
        "a --link-from x --link-from y --link-mode copy --rename 3=b/c=d --rename 0=e --move-completed done",
    );
    let options = args.transfer.link.options().expect("asked for");
    assert_eq!((options.folders, options.mode), (vec!["x".into(), "y".into()], LinkMode::Copy));
    assert_eq!(args.transfer.rename.renames, [(3, "b/c=d".into()), (0, "e".into())]);
    assert!(download("a").transfer.link.options().is_none());
    for (name, mode) in
        [("auto", LinkMode::Auto), ("reflink", LinkMode::Reflink), ("hardlink", LinkMode::HardLink)]
    {
        let args = seed(&format!("seed a --link-from x --link-mode {name}"));
        assert_eq!(args.transfer.link.options().expect("asked for").mode, mode);
    }
    for bad in [
        "a --link-mode copy",
        "a --rename x",
        "a --rename x=y",
        "a --rename 1=",
        "seed a --move-completed d",
        "move a --from x",
        "delete a",
        "a --link-from x --link-mode symlink",
    ] {
        assert!(parse(bad).is_err(), "{bad}");
    }
    let Ok(Command::Move(args)) = parse("move a --from x --to y --overwrite --rename 1=z") else { panic!() };
    assert!(args.overwrite && args.rename.renames == [(1, "z".into())]);
    let Ok(Command::Delete(args)) = parse("delete a --dir x --yes") else { panic!() };
    assert!(args.yes && *args.dir == *"x");
}

#[test]
fn checkpoints_reach_the_session() {
    let settings = |line: &str| {
        let given = download(line).settings.given().to_vec();
        Sources::default()
            .settings(given)
            .load()
            .expect("it is well-formed")
            .effect(None)
            .settings
            .checkpoints
    };
    assert_eq!(settings("a.torrent --no-checkpoint").dir, None);
    let line = "a.torrent --checkpoint-dir d --checkpoint-interval 1.5 --checkpoint-pieces 7 --checkpoint-format json";
    let expected = CheckpointSettings {
        dir: Some("d".into()),
        interval: Duration::from_millis(1500),
        pieces: 7,
        format: Format::Json,
        ..CheckpointSettings::default()
    };
    assert_eq!(settings(line), expected);
    for refused in [
        "a --resume --no-checkpoint",
        "a --checkpoint-interval 0",
        "checkpoints clean",
        "checkpoints delete xyz1",
    ] {
        assert!(parse(refused).is_err(), "{refused}");
    }
}

#[test]
fn resume_takes_an_info_hash_and_the_options_of_download() {
    let Ok(Command::Resume(args)) = parse("resume abcd1234 --interactive --peer 192.0.2.1:5 -o d") else {
        panic!("another command")
    };
    assert!(args.interactive);
    assert_eq!(args.download.transfer.torrent, Path::new("abcd1234"));
    assert!(args.download.names_output());
    assert_eq!(args.download.transfer.peers.len(), 1);
}

#[test]
fn the_daemons_options_are_keys() {
    let line =
        "daemon --add a b --add c --socket s --listen [::1]:7 --state-dir d --watch-dir w --port 5 --json";
    let Ok(Command::Daemon(args)) = parse(line) else { panic!("another command") };
    assert!(args.json && args.add == [PathBuf::from("a"), "b".into(), "c".into()]);
    let sources = Sources::new(None, None).settings(args.given());
    let effect = sources.load().expect("well-formed").effect(None);
    let daemon = &effect.daemon;
    assert_eq!((&daemon.socket, daemon.listen), (&Some("s".into()), Some("[::1]:7".parse().unwrap())));
    assert_eq!((&daemon.state_dir, &daemon.watch_dir), (&Some("d".into()), &Some("w".into())));
    assert_eq!(effect.settings.port, Some(5));
    for bad in [
        "daemon --listen 192.0.2.1:5",
        "daemon --listen 127.0.0.1",
        "list --connect 127.0.0.1:5",
        "list --token-file f",
        "list --socket s --connect 127.0.0.1:5 --token-file f",
        "limit abcd --down fast",
        "limit abcd --then delete",
        "queue left abcd",
        "pause",
        "pause xyz1",
        "move a --from x --to y --socket s",
        "resume abcd --no-daemon --socket s",
    ] {
        assert!(parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn resume_of_the_daemon_takes_nothing_else() {
    let other = |line: &str| {
        let Ok(Command::Resume(args)) = parse(line) else { panic!("another command") };
        args.has_other_options()
    };
    assert!(!other("resume abcd --json --socket s"));
    for line in
        ["-o d", "--peer 192.0.2.1:5", "--interactive", "--checkpoint-pieces 5", "--set engine.shards=2"]
    {
        assert!(other(&format!("resume abcd {line}")), "{line}");
    }
}
