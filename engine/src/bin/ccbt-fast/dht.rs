//! `ccbt-fast dht`: asks the DHT directly, within a time that is given.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ccbt_fast::dht::{Client, Found, Goal, Item, NodeId, mutable_target};
use ccbt_protocol::metainfo::escape_for_terminal;
use serde_json::{Value, json};

use crate::args::{DhtArgs, DhtCommand, Name, hex};
use crate::console::print_line;
use crate::failure::Failure;
use crate::json;

/// See the module.
pub fn run(args: &DhtArgs) -> Result<(), Failure> {
    let patience = Duration::from_secs(args.timeout);
    let config = args.sources.sources(&[]).load()?;
    let nodes = match (&args.command, args.nodes.is_empty()) {
        (DhtCommand::Ping { node }, true) => vec![node.to_string()],
        (_, true) => config.effect(None).settings.dht.bootstrap,
        (_, false) => args.nodes.clone(),
    };
    let goal = goal(&args.command)?;
    let mut client = Client::start(&nodes, patience.min(Duration::from_secs(10)))
        .map_err(Failure::system("ask the DHT (name nodes with --node HOST:PORT)"))?;
    let (answer, is_found) = match (&args.command, goal) {
        (DhtCommand::Ping { node }, _) => {
            let answer = client.ping(*node, patience);
            let millis = answer.map(|(_, took)| took.as_secs_f64() * 1000.0);
            let id = answer.map(|(id, _)| digits(&id.0));
            (json!({ "node": node.to_string(), "id": id, "milliseconds": millis }), answer.is_some())
        }
        (_, Some(goal)) => {
            let item = if let Goal::Put { item, .. } = &goal { Some((**item).clone()) } else { None };
            let found = client.search(goal, patience);
            answer(&args.command, item, &found)
        }
        (_, None) => unreachable!("only a ping is no search"),
    };
    print_line(&if args.json { json::to_line(&answer) } else { text(&answer) });
    if is_found { Ok(()) } else { Err(Failure::Torrent(nothing(&args.command).to_owned())) }
}

fn goal(command: &DhtCommand) -> Result<Option<Goal>, Failure> {
    Ok(Some(match command {
        DhtCommand::Ping { .. } => return Ok(None),
        DhtCommand::Lookup { info_hash } => Goal::Peers { info_hash: *info_hash, announce: None },
        DhtCommand::Scrape { info_hash } => Goal::Scrape(*info_hash),
        DhtCommand::Sample { place } => {
            Goal::Sample(place.map_or_else(|| NodeId::random(&mut rand::rng()), NodeId::from))
        }
        DhtCommand::Get { name: Name::Target(target), .. } => {
            Goal::Get { target: NodeId(*target), salt: Vec::new() }
        }
        DhtCommand::Get { name: Name::Key(key), salt } => {
            Goal::Get { target: mutable_target(key, salt.as_bytes()), salt: salt.as_bytes().to_vec() }
        }
        DhtCommand::Put { text, key, salt, seq, cas } => {
            let value = [format!("{}:", text.len()).as_bytes(), text.as_bytes()].concat();
            let item = match key {
                None => Item::immutable(value),
                Some(path) => {
                    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                    let seq = seq.unwrap_or(since.as_secs() as i64);
                    Item::mutable(&secret(path)?, salt.as_bytes(), seq, value)
                }
            };
            let too_long = || Failure::Usage("the text may have 995 bytes, the salt 64 (BEP 44)".to_owned());
            Goal::Put { item: Box::new(item.ok_or_else(too_long)?), cas: *cas }
        }
    }))
}

/// The key in `path`; a new one when there is no such file.
fn secret(path: &Path) -> Result<[u8; 32], Failure> {
    let shown = path.display();
    match fs::read_to_string(path) {
        Ok(text) => hex(text.trim())
            .ok_or_else(|| Failure::Usage(format!("{shown} has no key: 64 hexadecimal digits are needed"))),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let key: [u8; 32] = rand::random();
            let file = fs::File::options().write(true).create_new(true).mode(0o600).open(path);
            let written = file.and_then(|mut file| writeln!(file, "{}", digits(&key)));
            written.map(|()| key).map_err(Failure::system(format!("write the key {shown}")))
        }
        Err(error) => Err(Failure::system(format!("read the key {shown}"))(error)),
    }
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What is printed, and whether it is what was asked for.
fn answer(command: &DhtCommand, put: Option<Item>, found: &Found) -> (Value, bool) {
    let (mut answer, is_found) = match command {
        DhtCommand::Scrape { .. } => {
            let (seeds, peers) = found.scraped.unwrap_or_default();
            (json!({ "seeds": seeds.round(), "peers": peers.round() }), found.nodes > 0)
        }
        DhtCommand::Sample { .. } => {
            let nodes = found.samples.iter().map(|(node, samples)| {
                let hashes: Vec<String> = samples.hashes.iter().map(ToString::to_string).collect();
                json!({ "node": node.addr.to_string(), "total": samples.total,
                        "interval": samples.interval, "info_hashes": hashes })
            });
            (json!({ "samples": nodes.collect::<Vec<_>>() }), !found.samples.is_empty())
        }
        DhtCommand::Get { .. } => (found.item.as_ref().map_or(json!({}), item), found.item.is_some()),
        DhtCommand::Put { .. } => (item(put.as_ref().expect("it was to be stored")), found.stored > 0),
        DhtCommand::Lookup { .. } | DhtCommand::Ping { .. } => {
            let peers: Vec<String> = found.peers.iter().map(ToString::to_string).collect();
            (json!({ "peers": peers }), !found.peers.is_empty())
        }
    };
    let told = answer.as_object_mut().expect("all of them are objects");
    told.insert("nodes".to_owned(), found.nodes.into());
    if let DhtCommand::Put { .. } = command {
        told.insert("stored".to_owned(), found.stored.into());
    }
    told.insert("timed_out".to_owned(), found.timed_out.into());
    (answer, is_found)
}

fn item(item: &Item) -> Value {
    // A string in bencode; another kind of value is shown as its bytes alone.
    let colon = item.value.iter().position(|byte| *byte == b':');
    let is_string = item.value.first().is_some_and(u8::is_ascii_digit);
    let text = colon.filter(|_| is_string).and_then(|at| str::from_utf8(&item.value[at + 1..]).ok());
    let signed = item.signed.as_ref();
    json!({
        "target": digits(&item.target().0), "text": text, "value": digits(&item.value),
        "key": signed.map(|signed| digits(&signed.key)), "seq": signed.map(|signed| signed.seq),
    })
}

/// The same for people: a line for each field, lists with a line for each entry.
fn text(answer: &Value) -> String {
    let mut lines = Vec::new();
    for (name, value) in answer.as_object().expect("it is one") {
        match value {
            Value::Null => {}
            Value::Array(entries) => {
                for entry in entries {
                    let entry = entry.as_str().map_or_else(|| entry.to_string(), str::to_owned);
                    lines.push(format!("{}: {entry}", name.trim_end_matches('s')));
                }
            }
            Value::String(value) => lines.push(format!("{name}: {value}")),
            value => lines.push(format!("{name}: {value}")),
        }
    }
    let shown: Vec<_> = lines.iter().map(|line| escape_for_terminal(line)).collect();
    shown.join("\n")
}

fn nothing(command: &DhtCommand) -> &'static str {
    match command {
        DhtCommand::Ping { .. } => "the node does not answer",
        DhtCommand::Lookup { .. } => "no peers were found",
        DhtCommand::Scrape { .. } => "no node has answered",
        DhtCommand::Sample { .. } => "no node has told what it stores",
        DhtCommand::Get { .. } => "there is no such value",
        DhtCommand::Put { .. } => "no node has stored it",
    }
}
