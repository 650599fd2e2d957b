//! transmission-daemon, driven through its JSON RPC.
//!
//! It refuses to dial loopback addresses it is told of, so the synthetic peers dial it ([`Client::dials`] is false).

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Client, Direction, Done, Job, Running, first_line};
use crate::error::BenchError;
use crate::generator::net::free_port;
use crate::process::Process;

/// How long the daemon may take to answer its first RPC.
const START_WAIT: Duration = Duration::from_secs(20);
/// How long one RPC may take.
const RPC_WAIT: Duration = Duration::from_secs(10);
/// Pause between questions for progress: each costs the daemon a little CPU.
const POLL_PAUSE: Duration = Duration::from_millis(25);
/// Longest RPC answer that is read.
const REPLY_MAX: u64 = 1 << 20;

/// transmission-daemon on PATH.
pub(super) struct Transmission;

fn settings(output: &Path, port: u16, peers: usize, rpc_port: u16) -> Value {
    json!({
        "bind-address-ipv4": "127.0.0.1",
        "bind-address-ipv6": "::1",
        "peer-port": port,
        "port-forwarding-enabled": false,
        "rpc-port": rpc_port,
        "rpc-bind-address": "127.0.0.1",
        "rpc-authentication-required": false,
        "rpc-whitelist-enabled": false,
        "rpc-host-whitelist-enabled": false,
        "download-dir": output,
        "incomplete-dir-enabled": false,
        "rename-partial-files": false,
        "dht-enabled": false,
        "lpd-enabled": false,
        "pex-enabled": false,
        "utp-enabled": false,
        "encryption": 0,
        "preallocation": 1,
        "cache-size-mb": 64,
        "peer-limit-global": peers + 10,
        "peer-limit-per-torrent": peers + 10,
        "upload-slots-per-torrent": peers + 10,
        "download-queue-enabled": false,
        "seed-queue-enabled": false,
        "queue-stalled-enabled": false,
        "speed-limit-down-enabled": false,
        "speed-limit-up-enabled": false,
        "ratio-limit-enabled": false,
        "idle-seeding-limit-enabled": false,
        "start-added-torrents": true,
        "message-level": 1
    })
}

impl Client for Transmission {
    fn name(&self) -> &'static str {
        "transmission"
    }

    fn version(&self) -> Option<String> {
        first_line(Path::new("transmission-daemon"), &["--version"])
    }

    fn dials(&self) -> bool {
        false
    }

    fn settings(&self) -> &'static str {
        "cache-size-mb 64, preallocation 1, peer limits and upload slots above the number of peers; it answers requests \
         twice a second, so its leechers keep up to 500 outstanding instead of 64"
    }

    /// It serves what has been asked for every 500 ms: a peer gets at most its window that often. 512 is what it announces as
    /// `reqq`; all peers together ask for no more than a second's worth of a fast client.
    fn window(&self, connections: u32) -> u32 {
        (10_000 / connections.max(1)).clamp(64, 500)
    }

    /// Its send buffers hold 15 s of the speed so far, which takes seconds to grow; a single peer is limited by its window.
    fn least_mib(&self, direction: Direction, connections: u32) -> u64 {
        if direction == Direction::Seed && connections > 4 { 1024 } else { 0 }
    }

    fn start(&self, job: &Job<'_>) -> Result<Running, BenchError> {
        let (process, mut rpc) = daemon(job.scratch, job.output, job.port, job.number_of_peers())?;
        let added =
            rpc.call("torrent-add", &json!({ "filename": job.torrent, "download-dir": job.output }))?;
        if added.get("torrent-added").is_none() {
            return Err(BenchError::Client(format!("transmission did not add the torrent: {added}")));
        }
        let done = if job.direction == Direction::Download { Done::Rpc(rpc) } else { Done::Exit };
        Ok(Running::new(process, done))
    }
}

/// A daemon that answers and has no torrent yet.
pub(super) fn daemon(
    scratch: &Path,
    output: &Path,
    port: u16,
    peers: usize,
) -> Result<(Process, Rpc), BenchError> {
    let rpc_port = free_port().map_err(BenchError::socket("find a port for transmission's RPC"))?;
    let config = scratch.join("settings.json");
    std::fs::write(&config, settings(output, port, peers, rpc_port).to_string())
        .map_err(BenchError::file("write", &config))?;
    let mut command = Command::new("transmission-daemon");
    command.args(["--foreground", "--config-dir"]).arg(scratch);
    let process = Process::spawn(&mut command, &scratch.join("client.log"))?;
    let mut rpc = Rpc { port: rpc_port, session: String::new(), next_poll: Instant::now() };
    rpc.wait_until_up()?;
    Ok((process, rpc))
}

/// The daemon's RPC; a connection per call.
pub(crate) struct Rpc {
    port: u16,
    /// CSRF token that the daemon demands back.
    session: String,
    next_poll: Instant,
}

impl Rpc {
    fn wait_until_up(&mut self) -> Result<(), BenchError> {
        let deadline = Instant::now() + START_WAIT;
        loop {
            match self.call("session-get", &json!({ "fields": ["version"] })) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Whether the only torrent is complete; asks at most every [`POLL_PAUSE`].
    pub(super) fn is_complete(&mut self) -> Result<bool, BenchError> {
        if Instant::now() < self.next_poll {
            return Ok(false);
        }
        let answer = self.call("torrent-get", &json!({ "fields": ["percentDone", "errorString"] }))?;
        self.next_poll = Instant::now() + POLL_PAUSE;
        let torrent = &answer["torrents"][0];
        match torrent["errorString"].as_str() {
            Some("") | None => Ok(torrent["percentDone"].as_f64() == Some(1.0)),
            Some(error) => Err(BenchError::Client(format!("transmission: {error}"))),
        }
    }

    /// Adds a torrent whose data is in `folder`.
    pub(crate) fn add(&mut self, torrent: &Path, folder: &Path) -> Result<(), BenchError> {
        self.call("torrent-add", &json!({ "filename": torrent, "download-dir": folder })).map(drop)
    }

    /// How many torrents seed.
    pub(crate) fn seeding(&mut self) -> Result<usize, BenchError> {
        /// `TR_STATUS_SEED`
        const SEEDING: u64 = 6;
        let answer = self.call("torrent-get", &json!({ "fields": ["status"] }))?;
        let torrents = answer["torrents"].as_array().map_or(&[][..], Vec::as_slice);
        Ok(torrents.iter().filter(|torrent| torrent["status"] == SEEDING).count())
    }

    /// Calls `method`; returns its `arguments`.
    fn call(&mut self, method: &str, arguments: &Value) -> Result<Value, BenchError> {
        let body = json!({ "method": method, "arguments": arguments }).to_string();
        let failed = |error: io::Error| BenchError::Client(format!("transmission RPC {method}: {error}"));
        let (mut status, mut head, mut reply) = self.post(&body).map_err(failed)?;
        if status == 409 {
            self.session = header(&head, "X-Transmission-Session-Id").unwrap_or_default();
            (status, head, reply) = self.post(&body).map_err(failed)?;
        }
        let value: Value = serde_json::from_str(&reply).unwrap_or_default();
        if status != 200 || value["result"] != "success" {
            let what = head.lines().next().unwrap_or_default();
            return Err(BenchError::Client(format!("transmission RPC {method}: {what}: {reply}")));
        }
        Ok(value["arguments"].clone())
    }

    /// One HTTP POST: status, head and body of the answer.
    fn post(&self, body: &str) -> io::Result<(u16, String, String)> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(RPC_WAIT))?;
        let (session, len) = (&self.session, body.len());
        let request = format!(
            "POST /transmission/rpc HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\
             X-Transmission-Session-Id: {session}\r\nContent-Length: {len}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes())?;
        let mut reply = Vec::new();
        stream.take(REPLY_MAX).read_to_end(&mut reply)?;
        parse_reply(&String::from_utf8_lossy(&reply)).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

fn parse_reply(reply: &str) -> Option<(u16, String, String)> {
    let (head, body) = reply.split_once("\r\n\r\n")?;
    let status = head.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some((status, head.to_owned(), body.to_owned()))
}

fn header(head: &str, name: &str) -> Option<String> {
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_answers_are_taken_apart() {
        let reply = "HTTP/1.1 409 Conflict\r\nServer: x\r\nx-transmission-session-id: abc\r\n\r\n<h1>no</h1>";
        let (status, head, body) = parse_reply(reply).expect("well-formed");
        assert_eq!((status, body.as_str()), (409, "<h1>no</h1>"));
        assert_eq!(header(&head, "X-Transmission-Session-Id").as_deref(), Some("abc"));
        assert_eq!(header(&head, "Age"), None);
        assert!(parse_reply("HTTP/1.1 200 OK\r\n").is_none());
    }
}
