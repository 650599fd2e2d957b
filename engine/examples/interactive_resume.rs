//! Asks which interrupted download to go on with: the "Interactive Resume" of the Python client.
//!
//! `interactive_resume CHECKPOINTS [PEER…]`; the answer is read from standard input.

use std::error::Error;
use std::io::BufRead;
use std::net::SocketAddr;
use std::path::Path;

use ccbt_fast::checkpoints::CheckpointSettings;
use ccbt_fast::{InfoHash, Session, Settings};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().ok_or("usage: interactive_resume CHECKPOINTS [IP:PORT…]")?;
    let peers = args.map(|peer| peer.parse()).collect::<Result<_, _>>()?;
    run(Settings::default(), dir.as_ref(), peers, &mut std::io::stdin().lock()).map(drop)
}

/// Goes on with the download whose number `answers` has in its first line, to its end.
pub fn run(
    settings: Settings,
    dir: &Path,
    peers: Vec<SocketAddr>,
    answers: &mut dyn BufRead,
) -> Result<Option<InfoHash>, Box<dyn Error>> {
    let checkpoints = CheckpointSettings { dir: Some(dir.to_owned()), ..CheckpointSettings::default() };
    let session = Session::new(Settings { checkpoints, ..settings })?;
    let mut checkpoints = session.list_resumable_checkpoints()?;
    if checkpoints.is_empty() {
        println!("there are no checkpoints");
        return Ok(None);
    }
    println!("found checkpoints; which one?");
    for (number, checkpoint) in checkpoints.iter().enumerate() {
        let progress = checkpoint.bytes_done() as f64 * 100.0 / checkpoint.total_len.max(1) as f64;
        println!("{}. {} ({progress:.1} % complete)", number + 1, checkpoint.name);
    }
    let mut answer = String::new();
    answers.read_line(&mut answer)?;
    let number: usize = answer.trim().parse()?;
    if !(1..=checkpoints.len()).contains(&number) {
        return Err(format!("{number} is none of them").into());
    }
    let handle = session.resume_from_checkpoint(checkpoints.swap_remove(number - 1), None)?;
    session.add_peers(&handle, peers);
    println!("resumed {}", handle.info_hash());
    handle.wait_finished(None)?;
    session.stop()?;
    Ok(Some(handle.info_hash()))
}
