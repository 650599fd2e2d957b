//! The commands that control a daemon: `add`, `list`, `show`, `pause`, `resume`, `remove`, `limit`, `recheck`, `move`,
//! `queue`, `scrape`, `events` and `stats`. Those that look closer are in [`crate::explain`].
//!
//! Each asks once per torrent and tells the answer. Invariant: what a stranger named is escaped, in words and in JSON.

use std::io::{self, Write};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ccbt_fast::config::Value;
use ccbt_fast::daemon::api::{self, GoalValue};
use ccbt_fast::daemon::{Client, ClientError, Place};
use ccbt_fast::{Priority, TorrentSource};
use ccbt_protocol::metainfo::escape_for_terminal;
use serde::{Deserialize, Serialize};

use crate::args::{
    AddArgs, ChangeArgs, ControlArgs, HashPrefix, LimitArgs, ListArgs, MoveArgs, Own, PickArgs, PlaceArgs,
    QueueArgs, RemoveArgs, SourceArgs,
};
use crate::console::print_line;
use crate::failure::Failure;
use crate::{json, magnet, table};

/// Of a request that has none.
pub const NO_BODY: Option<&()> = None;

#[derive(Serialize, Deserialize)]
struct List {
    torrents: Vec<api::Torrent>,
}

#[derive(Serialize, Deserialize)]
struct Limits {
    down_limit: u64,
    up_limit: u64,
}

/// The daemon that is meant.
pub fn client(args: &ControlArgs) -> Result<Client, Failure> {
    client_at(&args.place, &args.sources)
}

/// The daemon at a place, or where the configuration says.
pub fn client_at(place: &PlaceArgs, sources: &SourceArgs) -> Result<Client, Failure> {
    if let (Some(address), Some(token_file)) = (place.connect, place.token_file.clone()) {
        return Ok(Client::new(Place::Tcp { address, token_file }));
    }
    let socket = match &place.socket {
        Some(socket) => Some(socket.clone()),
        None => sources.sources(&[]).load()?.effect(None).daemon.socket_path(),
    };
    let none =
        || Failure::Usage("there is no home folder: name the daemon's socket with --socket".to_owned());
    Ok(Client::new(Place::Unix(socket.ok_or_else(none)?)))
}

pub fn tell(is_json: bool, answer: &impl Serialize, words: impl FnOnce() -> String) {
    print_line(&if is_json { json::to_line(answer) } else { words() });
}

pub fn path_of(prefix: &HashPrefix, verb: &str) -> String {
    format!("/v1/torrents/{}{verb}", prefix.0)
}

fn named(torrent: &api::Torrent) -> String {
    format!("{}  {}", torrent.info_hash, escape_for_terminal(&torrent.name))
}

/// Asks the same for each torrent and tells what became of each.
fn each<B: Serialize>(pick: &PickArgs, verb: &str, body: Option<&B>, done: &str) -> Result<(), Failure> {
    let client = client(&pick.control)?;
    for prefix in &pick.info_hashes {
        let torrent: api::Torrent = client.call("POST", &path_of(prefix, verb), body)?;
        tell(pick.control.json, &torrent, || format!("{done}: {}", named(&torrent)));
    }
    Ok(())
}

/// Adds torrent files.
pub fn add(args: &AddArgs) -> Result<(), Failure> {
    let client = client(&args.control)?;
    let output = args.output.as_deref().map(absolute).transpose()?;
    let priority = |(files, priority): &(String, Priority)| format!("{files}={}", priority.name());
    let priorities: Vec<String> = args.files.priorities.iter().map(priority).collect();
    for path in &args.torrents {
        let link = magnet::given(path)?;
        let torrent = match link {
            Some(_) => String::new(),
            None => {
                // Here it is known which file is wrong.
                args.files.priorities(&*TorrentSource::from(path.as_path()).load()?)?;
                let bytes = std::fs::read(path).map_err(Failure::system(format!("read {}", shown(path))))?;
                STANDARD.encode(bytes)
            }
        };
        let how = api::Add {
            torrent,
            magnet: link.map(|link| link.to_string()),
            output: output.clone(),
            paused: args.paused,
            top: args.top,
            peers: args.peers.clone(),
            web_seeds: args.web_seeds.clone(),
            files: args.files.only.clone(),
            file_priorities: priorities.clone(),
            bind_to: args.bind_to.clone().map(api::Places),
            change: change(&args.change),
        };
        let torrent: api::Torrent = client.call("POST", "/v1/torrents", Some(&how))?;
        tell(args.control.json, &torrent, || format!("added: {}", named(&torrent)));
    }
    Ok(())
}

fn absolute(path: &Path) -> Result<std::path::PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| Failure::Usage(format!("{}: {error}", shown(path))))
}

fn shown(path: &Path) -> String {
    escape_for_terminal(&path.to_string_lossy()).into_owned()
}

/// Lists all torrents.
pub fn list(args: &ListArgs) -> Result<(), Failure> {
    let list: List = client(&args.control)?.call("GET", "/v1/torrents", NO_BODY)?;
    tell(args.control.json, &list, || table::list(&list.torrents));
    Ok(())
}

/// Shows all that is known of torrents.
pub fn show(args: &PickArgs) -> Result<(), Failure> {
    let client = client(&args.control)?;
    for prefix in &args.info_hashes {
        let detail: api::TorrentDetail = client.call("GET", &path_of(prefix, ""), NO_BODY)?;
        tell(args.control.json, &detail, || table::detail(&detail));
    }
    Ok(())
}

/// Lets torrents rest.
pub fn pause(args: &PickArgs) -> Result<(), Failure> {
    each(args, "/pause", NO_BODY, "paused")
}

/// Hashes all of their data again.
pub fn recheck(args: &PickArgs) -> Result<(), Failure> {
    each(args, "/recheck", NO_BODY, "is being checked")
}

/// Moves them in the queue.
pub fn queue(args: &QueueArgs) -> Result<(), Failure> {
    each(&args.pick, "/queue", Some(&api::QueueStep { step: args.step.into() }), "moved in the queue")
}

/// Whether a daemon runs that has the torrent.
pub fn is_in_daemon(client: &Client, prefix: &HashPrefix) -> Result<bool, Failure> {
    match client.call::<api::TorrentDetail>("GET", &path_of(prefix, ""), NO_BODY) {
        Ok(_) => Ok(true),
        Err(ClientError::NotRunning { .. }) => Ok(false),
        Err(ClientError::Refused(error)) if error.code == "no_such_torrent" => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Resumes torrents of the daemon.
pub fn resume(args: &PickArgs) -> Result<(), Failure> {
    each(args, "/resume", NO_BODY, "resumed in the daemon")
}

/// Removes torrents.
pub fn remove(args: &RemoveArgs) -> Result<(), Failure> {
    let control = &args.pick.control;
    let client = client(control)?;
    let mut left = 0;
    for prefix in &args.pick.info_hashes {
        let query = if args.delete_data { "?delete_data=true" } else { "" };
        let removed: api::Removed = client.call("DELETE", &path_of(prefix, query), NO_BODY)?;
        left += removed.left.len();
        tell(control.json, &removed, || {
            let data =
                if args.delete_data { format!(", {} files of it", removed.files) } else { String::new() };
            let mut words = format!("removed: {}{data}", removed.info_hash);
            for left in &removed.left {
                words += &format!("\nstill there: {}", escape_for_terminal(left));
            }
            words
        });
    }
    if left > 0 { Err(Failure::Left(left)) } else { Ok(()) }
}

/// Moves the files of a torrent of the daemon.
pub fn move_files(args: &MoveArgs) -> Result<(), Failure> {
    let text = args.torrent.to_string_lossy();
    let prefix: HashPrefix = text.parse().map_err(|_| {
        let text = escape_for_terminal(&text);
        Failure::Usage(format!(
            "{text} is no info-hash of a torrent in the daemon; to move files that no daemon uses, say where they are \
             with --from"
        ))
    })?;
    if !args.rename.renames.is_empty() {
        return Err(Failure::Usage(
            "--rename goes with --from: the daemon knows where its files are".to_owned(),
        ));
    }
    let how = api::Move { to: absolute(&args.to)?, overwrite: args.overwrite };
    let client = client(&args.control)?;
    let torrent: api::Torrent = client.call("POST", &path_of(&prefix, "/move"), Some(&how))?;
    tell(args.control.json, &torrent, || {
        format!("is being moved to {}: {}", shown(&how.to), named(&torrent))
    });
    Ok(())
}

/// Changes limits and goals.
pub fn limit(args: &LimitArgs) -> Result<(), Failure> {
    let client = client(&args.control)?;
    let change = change(&args.change);
    if change == api::Change::default() {
        return Err(Failure::Usage("say what is to change, such as --down 2MiB/s".to_owned()));
    }
    if args.info_hashes.is_empty() {
        let own = api::Change { down_limit: None, up_limit: None, ..change.clone() };
        if own != api::Change::default() {
            let problem =
                "only --down and --up are for all torrents together; name the torrent for the others";
            return Err(Failure::Usage(problem.to_owned()));
        }
        let limits = api::LimitChange { down_limit: change.down_limit, up_limit: change.up_limit };
        let now: Limits = client.call("PATCH", "/v1/limits", Some(&limits))?;
        tell(args.control.json, &now, || table::limits(now.down_limit, now.up_limit));
        return Ok(());
    }
    for prefix in &args.info_hashes {
        let torrent: api::Torrent = client.call("PATCH", &path_of(prefix, ""), Some(&change))?;
        tell(args.control.json, &torrent, || format!("changed: {}", named(&torrent)));
    }
    Ok(())
}

fn change(args: &ChangeArgs) -> api::Change {
    let rate = |own: &Option<Own>| {
        own.as_ref().map(|own| match own {
            Own::Value(Value::Rate(bytes)) => Some(*bytes),
            _ => None,
        })
    };
    let goal = |own: &Option<Own>| {
        own.as_ref().map(|own| match own {
            Own::Value(Value::Ratio(ratio)) => Some(GoalValue(Some(*ratio))),
            Own::Value(Value::Time(time)) => Some(GoalValue(Some(time.as_secs() as f64))),
            Own::Value(_) => Some(GoalValue(None)),
            Own::Default => None,
        })
    };
    api::Change {
        down_limit: rate(&args.down),
        up_limit: rate(&args.up),
        peer_down_limit: rate(&args.peer_down),
        peer_up_limit: rate(&args.peer_up),
        seed_ratio: goal(&args.ratio),
        seed_seconds: goal(&args.time),
        seed_action: args.action(),
        forced: args.force,
    }
}

/// Tells what trackers know.
pub fn scrape(args: &PickArgs) -> Result<(), Failure> {
    let client = client(&args.control)?;
    for prefix in &args.info_hashes {
        let scrapes: api::Scrapes = client.call("GET", &path_of(prefix, "/scrape"), NO_BODY)?;
        tell(args.control.json, &scrapes, || table::scrapes(&scrapes));
    }
    Ok(())
}

/// Shows the daemon as a whole.
pub fn stats(args: &ListArgs) -> Result<(), Failure> {
    let stats: api::Stats = client(&args.control)?.call("GET", "/v1/stats", NO_BODY)?;
    tell(args.control.json, &stats, || table::stats(&stats));
    Ok(())
}

/// Has the IP filter read anew.
pub fn reload_filter(args: &ListArgs) -> Result<(), Failure> {
    let filter: api::IpFilter = client(&args.control)?.call("POST", "/v1/ip-filter/reload", NO_BODY)?;
    tell(args.control.json, &filter, || {
        let bad: String =
            filter.first_bad.iter().map(|bad| format!("\n  {}", escape_for_terminal(bad))).collect();
        format!(
            "the IP filter has {} ranges; {} lines were not understood{bad}",
            filter.ranges, filter.bad_lines
        )
    });
    Ok(())
}

/// Prints what happens, one JSON object a line, until the daemon stops.
pub fn events(args: &ListArgs) -> Result<(), Failure> {
    let mut rest = Vec::new();
    client(&args.control)?.follow("/v1/events", |bytes| {
        rest.extend_from_slice(bytes);
        let Some(end) = rest.iter().rposition(|byte| *byte == b'\n') else { return true };
        let lines: Vec<u8> = rest.drain(..=end).collect();
        let mut out = io::stdout().lock();
        let mut print = |line: &str| writeln!(out, "{}", json::escaped(line.to_owned()));
        // An error: nobody reads any more.
        let printed = String::from_utf8_lossy(&lines).lines().try_for_each(&mut print);
        printed.and_then(|()| out.flush()).is_ok()
    })?;
    Ok(())
}
