//! The daemon: many torrents, control over HTTP, and all of it after a crash.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use ccbt_tests::PATIENCE;
use ccbt_tests::ccbt::{CcbtCommand, ccbt};
use ccbt_tests::daemon::{Daemon, DaemonCommand, base64, torrent};
use ccbt_tests::lab::{Lab, Published};
use ccbt_tests::process::wait_until;
use ccbt_tests::raw_seeder::{Manner, RawSeeder};
use rustix::process::Signal;
use serde_json::{Value, json};

const MIB: usize = 1 << 20;

fn quick(last: u8, made: &Published) -> RawSeeder {
    RawSeeder::start(Ipv4Addr::new(127, 0, 41, last), made, Manner::default())
}

fn slow(last: u8, made: &Published) -> RawSeeder {
    RawSeeder::start(Ipv4Addr::new(127, 0, 41, last), made, Manner::slow(Duration::from_millis(20)))
}

/// `ccbt-fast add` with a peer and more options.
fn add(daemon: &Daemon, made: &Published, seeder: Option<&RawSeeder>, more: &[&str]) -> Value {
    let peer = seeder.map(|seeder| seeder.address().to_string());
    let mut args = vec!["add", made.torrent_path.to_str().expect("plain")];
    args.extend(peer.iter().flat_map(|peer| ["--peer", peer.as_str()]));
    args.extend(more);
    daemon.ask(&args).remove(0)
}

/// Waits until a download is complete, and what follows that was begun.
fn wait_complete(daemon: &Daemon, made: &Published) -> Value {
    daemon.wait_for(made, "state", "seeding");
    wait_until(PATIENCE, "its date", || {
        let shown = daemon.show(made);
        shown["completed_at"].is_i64().then_some(shown)
    })
}

fn hash(made: &Published) -> String {
    made.torrent.info_hash_hex()
}

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().expect("it is there").permissions().mode() & 0o777
}

#[test]
fn torrents_live_and_go() {
    let lab = Lab::open();
    let (one, other) = (torrent(&lab, "one.bin", MIB, false), torrent(&lab, "other.bin", 2 * MIB, false));
    let (a, b) = (quick(1, &one), quick(2, &other));
    let daemon = DaemonCommand::new(&lab).start();
    let out = lab.dir("out");
    assert_eq!(daemon.list(), [Value::Null; 0]);
    let added = add(&daemon, &one, Some(&a), &[]);
    assert_eq!((&added["name"], &added["position"]), (&json!("one.bin"), &json!(1)));
    add(&daemon, &other, Some(&b), &["--down", "3MiB/s"]);
    let one_done = wait_complete(&daemon, &one);
    let other_done = daemon.wait_for(&other, "state", "seeding");
    one.payload.assert_equal_in(&out);
    other.payload.assert_equal_in(&out);
    assert_eq!((&one_done["downloaded"], &one_done["pieces_done"]), (&json!(MIB), &json!(64)));
    assert!(one_done["completed_at"].is_i64() && one_done["files"][0]["path"] == "one.bin", "{one_done}");
    assert_eq!((&one_done["down_limit"], &other_done["down_limit"]), (&json!(0), &json!(3 << 20)));
    // The first digits are enough, and people get a table.
    let (code, text, _) = daemon.run(&["list"]);
    assert!(code == 0 && text.contains("one.bin") && text.contains("100.0 %"), "{text}");
    let (code, text, _) = daemon.run(&["show", &hash(&one)[..12]]);
    assert!(code == 0 && text.contains("seeding") && text.contains(&hash(&one)), "{text}");
    let (code, _, error) = daemon.run(&["show", "0000000000"]);
    assert!(code == 2 && error.contains("no torrent here"), "{error}");
    let (code, _, error) = daemon.run(&["add", one.torrent_path.to_str().expect("plain")]);
    assert!(code == 2 && error.contains("is here already"), "{error}");
    // Rest and back.
    assert_eq!(daemon.ask(&["pause", &hash(&one)])[0]["state"], "paused");
    daemon.wait_for(&one, "peers", 0);
    daemon.ask(&["resume", &hash(&one)]);
    daemon.wait_for(&one, "state", "seeding");
    // Limits of one and of all.
    daemon.ask(&[
        "limit",
        &hash(&one),
        "--up",
        "64",
        "--peer-down",
        "1MiB/s",
        "--ratio",
        "3",
        "--time",
        "off",
    ]);
    let limited = daemon.show(&one);
    assert_eq!((&limited["up_limit"], &limited["peer_down_limit"]), (&json!(65536), &json!(MIB)));
    assert_eq!((&limited["seed_ratio"], &limited["seed_seconds"]), (&json!(3.0), &Value::Null));
    daemon.ask(&["limit", &hash(&one), "--up", "default"]);
    assert_eq!(daemon.show(&one)["up_limit"], 0);
    assert_eq!(daemon.ask(&["limit", "--down", "5MiB/s"])[0], json!({"down_limit": 5 << 20, "up_limit": 0}));
    assert_eq!(daemon.ask(&["stats"])[0]["down_limit"], 5 << 20);
    // Damage is found by a look.
    drop(b);
    fs::write(out.join("other.bin"), vec![0; 2 * MIB]).expect("written");
    daemon.ask(&["recheck", &hash(&other)]);
    daemon.wait_for(&other, "bytes_done", 0);
    // Files move, and go when they are to.
    let elsewhere = lab.dir("elsewhere");
    daemon.ask(&["move", &hash(&one), "--to", elsewhere.to_str().expect("plain")]);
    daemon.wait_for(&one, "output", elsewhere.to_str().expect("plain"));
    one.payload.assert_equal_in(&elsewhere);
    daemon.ask(&["remove", &hash(&one)]);
    one.payload.assert_equal_in(&elsewhere);
    let removed = daemon.ask(&["remove", &hash(&other), "--delete-data"]);
    assert_eq!((&removed[0]["files"], &removed[0]["bytes"]), (&json!(1), &json!(2 * MIB)));
    assert!(!out.join("other.bin").exists());
    assert_eq!(daemon.list(), [Value::Null; 0]);
    daemon.stop();
}

#[test]
fn all_comes_back_after_a_crash() {
    let lab = Lab::open();
    let names = ["a.bin", "b.bin", "c.bin", "d.bin"];
    let [done, paused, running, waits] = names.map(|name| torrent(&lab, name, MIB, false));
    let (seeder, slow_seeder) = (quick(11, &done), slow(12, &running));
    let start = || DaemonCommand::new(&lab).args(["--set", "daemon.active_downloads=1"]).start();
    let daemon = start();
    add(&daemon, &done, Some(&seeder), &["--ratio", "9", "--then", "remove"]);
    wait_complete(&daemon, &done);
    add(&daemon, &paused, None, &["--paused", "--up", "7"]);
    add(&daemon, &waits, None, &[]);
    add(&daemon, &running, Some(&slow_seeder), &["--top"]);
    daemon.ask(&["queue", "bottom", &hash(&paused)]);
    daemon.ask(&["limit", "--up", "9MiB/s"]);
    daemon.wait_for(&running, "state", "downloading");
    wait_until(PATIENCE, "some blocks", || (slow_seeder.blocks() > 8).then_some(()));
    let stays = ["name", "position", "paused", "forced", "added_at", "completed_at", "output", "seed_ratio"];
    let more = ["seed_action", "up_limit"];
    let all = [&done, &paused, &running, &waits];
    let seen = |daemon: &Daemon| -> Vec<Value> {
        let field = |shown: &Value, field: &&str| shown[*field].clone();
        let of = |made: &&Published| {
            let shown = daemon.show(made);
            json!(stays.iter().chain(&more).map(|name| field(&shown, name)).collect::<Vec<_>>())
        };
        all.iter().map(of).collect()
    };
    let before = seen(&daemon);
    daemon.kill();
    let daemon = start();
    assert_eq!(daemon.started["torrents"], 4);
    assert_eq!(seen(&daemon), before);
    assert_eq!(daemon.show(&done)["downloaded"], MIB, "sums come back too");
    assert_eq!(daemon.ask(&["stats"])[0]["up_limit"], 9 << 20);
    assert_eq!(daemon.wait_for(&done, "state", "seeding")["downloaded"], MIB, "nothing was fetched again");
    let order: Vec<Value> = daemon.list().iter().map(|torrent| torrent["name"].clone()).collect();
    assert_eq!(order, ["c.bin", "a.bin", "d.bin", "b.bin"]);
    daemon.wait_for(&running, "state", "downloading");
    daemon.wait_for(&waits, "state", "queued");
    daemon.wait_for(&paused, "state", "paused");
    let quick_seeder = quick(13, &running);
    let peers = json!({ "peers": [quick_seeder.address().to_string()] }).to_string();
    let (status, _) = daemon.http("POST", &format!("/v1/torrents/{}/peers", hash(&running)), &peers);
    assert_eq!(status, 200);
    daemon.wait_for(&running, "state", "seeding");
    running.payload.assert_equal_in(&lab.dir("out"));
    daemon.wait_for(&waits, "state", "downloading");
    // And what was removed stays away.
    daemon.ask(&["remove", &hash(&paused), &hash(&waits)]);
    daemon.kill();
    let daemon = start();
    assert_eq!(daemon.started["torrents"], 2);
    daemon.stop();
}

#[test]
fn a_move_that_was_interrupted_is_completed() {
    let lab = Lab::open();
    let (begun, moved) = (torrent(&lab, "begun.bin", MIB, true), torrent(&lab, "moved.bin", MIB, true));
    let (data, elsewhere) = (lab.dir("data"), lab.dir("elsewhere"));
    let daemon = DaemonCommand::new(&lab).start();
    for made in [&begun, &moved] {
        add(&daemon, made, None, &["--output", data.to_str().expect("plain")]);
        daemon.wait_for(made, "state", "seeding");
    }
    daemon.kill();
    // As a crash leaves it: the intention is kept, and one file is where it was to go.
    for made in [&begun, &moved] {
        let record = lab.dir("state").join(format!("daemon/torrents/{}.json", hash(made)));
        let mut json: Value = serde_json::from_slice(&fs::read(&record).expect("kept")).expect("JSON");
        json["move_to"] = elsewhere.to_str().expect("plain").into();
        fs::write(&record, json.to_string()).expect("written");
    }
    fs::rename(data.join("moved.bin"), elsewhere.join("moved.bin")).expect("one file system");
    let daemon = DaemonCommand::new(&lab).start();
    for made in [&begun, &moved] {
        daemon.wait_for(made, "output", elsewhere.to_str().expect("plain"));
        daemon.wait_for(made, "move_to", Value::Null);
        daemon.wait_for(made, "state", "seeding");
        made.payload.assert_equal_in(&elsewhere);
        assert!(!data.join(made.payload.name()).exists(), "nothing was made anew at the old place");
    }
    daemon.stop();
}

#[test]
fn the_queue_keeps_its_limits() {
    let lab = Lab::open();
    let made = ["a.bin", "b.bin", "c.bin"].map(|name| torrent(&lab, name, MIB, false));
    let config = lab.file("ccbt.toml", b"[daemon]\nactive_downloads = 1\n");
    let command = DaemonCommand::new(&lab).args(["--config", config.to_str().expect("plain")]);
    let mut daemon = command.start();
    for made in &made {
        add(&daemon, made, None, &[]);
    }
    let states =
        |daemon: &Daemon| -> Vec<Value> { daemon.list().iter().map(|t| t["state"].clone()).collect() };
    let wait = |daemon: &Daemon, wanted: [&str; 3]| {
        wait_until(PATIENCE, &format!("{wanted:?}"), || (states(daemon) == wanted).then_some(()));
    };
    wait(&daemon, ["downloading", "queued", "queued"]);
    assert_eq!(daemon.ask(&["queue", "top", &hash(&made[2])])[0]["position"], 1);
    wait(&daemon, ["downloading", "queued", "queued"]);
    assert_eq!(daemon.list()[0]["name"], "c.bin");
    daemon.ask(&["limit", &hash(&made[1]), "--force", "true"]);
    wait(&daemon, ["downloading", "queued", "downloading"]);
    fs::write(&config, "[daemon]\nactive_downloads = 2\n").expect("written");
    daemon.signal(Signal::HUP);
    wait(&daemon, ["downloading"; 3]);
    fs::write(&config, "[daemon]\nactive_downloads = -2\n").expect("written");
    daemon.signal(Signal::HUP);
    daemon.wait_said("config_error");
    wait(&daemon, ["downloading"; 3]);
    daemon.ask(&["pause", &hash(&made[2])]);
    wait(&daemon, ["paused", "downloading", "downloading"]);
    // One that gets nothing does not keep others waiting.
    fs::write(&config, "[daemon]\nactive_downloads = 1\nslow_after = 0\n").expect("written");
    daemon.signal(Signal::HUP);
    daemon.ask(&["limit", &hash(&made[1]), "--force", "false"]);
    daemon.ask(&["resume", &hash(&made[2])]);
    wait(&daemon, ["downloading"; 3]);
    daemon.stop();
}

#[test]
fn goals_end_seeding() {
    let lab = Lab::open();
    let (rests, leaves) = (torrent(&lab, "rests.bin", MIB, true), torrent(&lab, "leaves.bin", MIB, true));
    let daemon = DaemonCommand::new(&lab).args(["--seed-ratio", "1"]).start();
    let data = lab.dir("data");
    let output = ["--output", data.to_str().expect("plain")];
    add(&daemon, &rests, None, &output);
    add(&daemon, &leaves, None, &[&output[..], &["--then", "remove"]].concat());
    daemon.wait_for(&rests, "state", "seeding");
    daemon.wait_for(&leaves, "state", "seeding");
    for made in [&rests, &leaves] {
        let copy = CcbtCommand::download(&made.torrent_path, &lab.dir("copy")).peer(daemon.address());
        copy.start().wait_done();
    }
    let rested = daemon.wait_for(&rests, "state", "paused");
    assert_eq!((&rested["uploaded"], &rested["ratio"]), (&json!(MIB), &json!(1.0)));
    assert_eq!(rested["completed_at"], Value::Null, "it was complete when it was added");
    wait_until(PATIENCE, "the other one to leave", || (daemon.list().len() == 1).then_some(()));
    leaves.payload.assert_equal_in(&data);
    // Whoever resumes it wants it to go on.
    daemon.ask(&["resume", &hash(&rests)]);
    daemon.wait_for(&rests, "state", "seeding");
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(daemon.show(&rests)["state"], "seeding");
    daemon.ask(&["limit", &hash(&rests), "--time", "0"]);
    daemon.wait_for(&rests, "state", "paused");
    daemon.stop();
}

#[test]
fn the_watch_folder_adds_what_is_complete() {
    let lab = Lab::open();
    let (early, late) = (torrent(&lab, "early.bin", MIB, false), torrent(&lab, "late.bin", MIB, false));
    let watch = lab.dir("watch");
    let put = |made: &Published| {
        let name = made.torrent_path.file_name().expect("a name");
        let path = watch.join(name);
        fs::copy(&made.torrent_path, &path).expect("copied");
        path
    };
    let before = put(&early);
    let daemon = DaemonCommand::new(&lab).args(["--watch-dir", watch.to_str().expect("plain")]).start();
    daemon.wait_said("added early.bin");
    wait_until(PATIENCE, "a new name", || (!before.exists()).then_some(()));
    assert!(watch.join("early.bin.torrent.added").exists());
    // A file that is being written is none yet.
    let bytes = late.torrent.bytes();
    let path = watch.join("late.torrent");
    let mut file = fs::File::create(&path).expect("made");
    file.write_all(&bytes[..bytes.len() / 2]).expect("written");
    fs::write(watch.join("notes.txt"), bytes).expect("written");
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(daemon.list().len(), 1);
    file.write_all(&bytes[bytes.len() / 2..]).expect("written");
    drop(file);
    daemon.wait_said("added late.bin");
    assert_eq!(daemon.list().len(), 2);
    // One that is there already is only put aside.
    let again = put(&early);
    wait_until(PATIENCE, "a new name", || (!again.exists()).then_some(()));
    assert_eq!(daemon.list().len(), 2);
    assert!(watch.join("notes.txt").exists());
    daemon.stop();
}

#[test]
fn a_program_runs_for_what_is_complete() {
    let lab = Lab::open();
    let (fetched, there) =
        (torrent(&lab, "a \"b\" $c.bin", MIB, false), torrent(&lab, "there.bin", MIB, true));
    let (seeder, finished) = (quick(21, &fetched), lab.dir("finished"));
    let told = lab.path().join("told");
    let script = format!(
        "printf '%s|%s|%s' \"$CCBT_NAME\" \"$CCBT_INFO_HASH\" \"$CCBT_PATH\" >> {}; echo said; exit 7",
        told.display()
    );
    let program = format!("daemon.on_complete={}", json!(["/bin/sh", "-c", script]));
    let start = || {
        let command = DaemonCommand::new(&lab).args(["--set", &program]);
        command.args(["--move-completed", finished.to_str().expect("plain")]).start()
    };
    let daemon = start();
    let mut events = BufReader::new(UnixStream::connect(daemon.socket()).expect("the daemon listens"));
    events.get_mut().write_all(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n").expect("asked");
    let data = lab.dir("data");
    add(&daemon, &there, None, &["--output", data.to_str().expect("plain")]);
    daemon.wait_for(&there, "state", "seeding");
    add(&daemon, &fetched, Some(&seeder), &[]);
    let path = finished.join("a \"b\" $c.bin");
    let line = format!("a \"b\" $c.bin|{}|{}", hash(&fetched), path.display());
    wait_until(PATIENCE, "the program", || (fs::read_to_string(&told).ok()? == line).then_some(()));
    fetched.payload.assert_equal_in(&finished);
    assert!(data.join("there.bin").exists(), "what was there is not moved");
    daemon.wait_said("on_complete for a \"b\" $c.bin: said");
    let hash = hash(&fetched);
    let mut names = Vec::new();
    while names.last().map(String::as_str) != Some("command_ended") {
        let mut line = String::new();
        assert!(events.read_line(&mut line).expect("events come") > 0, "{names:?}");
        let Ok(event) = serde_json::from_str::<Value>(&line) else { continue };
        if event["info_hash"] == hash.as_str() && event["event"] != "status" {
            if event["event"] == "command_ended" {
                assert_eq!(event["code"], 7);
            }
            names.push(event["event"].as_str().expect("a name").to_owned());
        }
    }
    assert_eq!(names, ["added", "finished", "moved", "command_ended"]);
    daemon.stop();
    let mut rest = String::new();
    events.read_to_string(&mut rest).expect("it ends");
    assert!(rest.contains("{\"event\":\"stopping\"}"), "{rest}");
    let again = start();
    again.wait_for(&fetched, "state", "seeding");
    again.stop();
    assert_eq!(fs::read_to_string(&told).expect("it ran"), line, "it runs once");
}

#[test]
fn the_socket_is_private_and_there_is_one_daemon() {
    let lab = Lab::open();
    let socket = lab.path().join("run/ccbt.sock");
    let command = || DaemonCommand::with_socket(&lab, &socket, &lab.dir("state"));
    let daemon = command().start();
    assert_eq!((mode(&socket), mode(&lab.path().join("run"))), (0o600, 0o700));
    assert_eq!(mode(&lab.dir("state").join("daemon/torrents")), 0o700);
    // The same folder of the state, then the same socket.
    let mut second = command().launch();
    assert_eq!(second.wait_exit().code(), Some(2));
    assert!(second.words().contains("another daemon uses"), "{}", second.words());
    let mut second = DaemonCommand::with_socket(&lab, &socket, &lab.dir("state2")).launch();
    assert_eq!(second.wait_exit().code(), Some(2));
    assert!(second.words().contains("a daemon listens at"), "{}", second.words());
    assert_eq!(daemon.ask(&["stats"])[0]["torrents"], 0, "the first one is unharmed");
    daemon.kill();
    assert!(socket.exists(), "nobody took it away");
    let (code, _, error) = ccbt(["list", "--socket", socket.to_str().expect("plain")]);
    assert!(
        code == 1 && error.contains("no daemon listens at") && error.contains("ccbt-fast daemon"),
        "{error}"
    );
    let daemon = command().start();
    daemon.ask(&["stats"]);
    daemon.stop();
    let mut long =
        DaemonCommand::with_socket(&lab, &lab.path().join("x".repeat(120)), &lab.dir("state")).launch();
    assert_eq!(long.wait_exit().code(), Some(2));
}

#[test]
fn resume_and_move_mean_the_daemon_only_where_it_has_the_torrent() {
    let lab = Lab::open();
    let (inside, outside) =
        (torrent(&lab, "inside.bin", MIB, true), torrent(&lab, "outside.bin", MIB, false));
    let daemon = DaemonCommand::new(&lab).start();
    let data = lab.dir("data");
    add(&daemon, &inside, None, &["--paused", "--output", data.to_str().expect("plain")]);
    let (code, _, error) = daemon.run(&["resume", &hash(&inside), "--max-peers", "5"]);
    assert!(code == 2 && error.contains("takes no options of a download"), "{error}");
    daemon.wait_for(&inside, "state", "paused");
    daemon.ask(&["resume", &hash(&inside)]);
    daemon.wait_for(&inside, "state", "seeding");
    let (code, _, error) = daemon.run(&["resume", &hash(&outside)]);
    assert!(code == 2 && error.contains("no daemon there"), "{error}");
    let store = lab.dir("none");
    let args = ["resume", &hash(&outside), "--no-daemon", "--checkpoint-dir", store.to_str().expect("plain")];
    let (code, _, error) = ccbt(args);
    assert!(code == 2 && error.contains("there is no checkpoint"), "{error}");
    let (code, _, error) = daemon.run(&["move", "inside.torrent", "--to", "x"]);
    assert!(code == 2 && error.contains("--from"), "{error}");
    daemon.stop();
}

#[test]
fn a_folder_that_was_replaced_under_a_torrent_at_rest_is_seen_when_it_goes_on() {
    let lab = Lab::open();
    let made = torrent(&lab, "resting.bin", MIB, false);
    let seeder = quick(22, &made);
    let daemon = DaemonCommand::new(&lab).start();
    let (sub, other) = (lab.dir("out").join("sub"), lab.dir("other"));
    add(&daemon, &made, Some(&seeder), &["--output", sub.to_str().expect("plain")]);
    daemon.wait_for(&made, "state", "seeding");
    daemon.ask(&["pause", &hash(&made)]);
    daemon.wait_for(&made, "state", "paused");
    let before = seeder.blocks();
    // Another folder, with a file of the same name and length that has nothing to do with it.
    fs::write(other.join("resting.bin"), vec![7; MIB]).expect("written");
    fs::rename(&sub, lab.path().join("away")).expect("renamed");
    fs::rename(&other, &sub).expect("renamed");
    daemon.ask(&["resume", &hash(&made)]);
    wait_until(PATIENCE, "all blocks once more", || (seeder.blocks() >= 2 * before).then_some(()));
    daemon.wait_for(&made, "state", "seeding");
    made.payload.assert_equal_in(&sub);
    daemon.stop();
}

// ---- many

#[test]
fn a_thousand_torrents_rest_and_come_back() {
    const MANY: usize = 1000;
    let lab = Lab::open();
    let daemon = DaemonCommand::new(&lab).start();
    for index in 0..MANY {
        let payload = ccbt_tests::payload::Payload::single(&format!("n{index}"), 20_000);
        let spec = ccbt_tests::torrent::TorrentSpec::pieces_of(16 << 10);
        let torrent = ccbt_tests::torrent::Torrent::of(&payload, &spec);
        let body = json!({ "torrent": base64(torrent.bytes()), "paused": true }).to_string();
        let (status, answer) = daemon.http("POST", "/v1/torrents", &body);
        assert_eq!(status, 201, "{answer}");
    }
    let check = |daemon: &Daemon| {
        let list = daemon.list();
        assert_eq!(list.len(), MANY);
        for (index, torrent) in list.iter().enumerate() {
            assert_eq!(torrent["name"], format!("n{index}"));
            assert_eq!((&torrent["position"], &torrent["state"]), (&json!(index + 1), &json!("paused")));
        }
        assert_eq!(daemon.ask(&["stats"])[0]["paused"], MANY);
    };
    check(&daemon);
    // The order is kept a fifth of a second later at most; without it they come in the order of their hashes.
    let board = lab.dir("state").join("daemon/daemon.json");
    wait_until(PATIENCE, "the order", || {
        let board: Value = serde_json::from_slice(&fs::read(&board).ok()?).ok()?;
        (board["order"].as_array()?.len() == MANY).then_some(())
    });
    daemon.kill();
    let daemon = DaemonCommand::new(&lab).start();
    check(&daemon);
    daemon.stop();
}
