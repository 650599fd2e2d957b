//! transmission-daemon as a peer, steered through its RPC on loopback.
//!
//! Owner: the test. Transmission never dials 127.0.0.0/8 (it takes such peers for nonsense), so in every test the other
//! side connects to it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::lab::Lab;
use crate::ports::{free_port, local};
use crate::process::{Process, wait_until};
use crate::{PATIENCE, SOON};

/// A daemon with a configuration of its own and one torrent.
pub struct TransmissionPeer {
    process: Process,
    config: PathBuf,
    address: SocketAddr,
    rpc: SocketAddr,
    session: String,
}

impl TransmissionPeer {
    /// Starts seeding the complete data in `dir`; returns once it is verified.
    pub fn seed(lab: &Lab, torrent: &Path, dir: &Path) -> Self {
        let mut peer = Self::leech(lab, torrent, dir);
        peer.wait_finished();
        peer
    }

    /// Starts downloading into `dir`; returns once the daemon has the torrent.
    pub fn leech(lab: &Lab, torrent: &Path, dir: &Path) -> Self {
        let (port, rpc_port) = (free_port(), free_port());
        let config = lab.dir(&format!("transmission-{port}"));
        let settings = json!({
            "rpc-enabled": true, "rpc-port": rpc_port, "rpc-bind-address": "127.0.0.1",
            "rpc-authentication-required": false, "rpc-host-whitelist-enabled": false,
            "bind-address-ipv4": "127.0.0.1", "bind-address-ipv6": "::1", "peer-port": port,
            "port-forwarding-enabled": false, "dht-enabled": false, "lpd-enabled": false, "pex-enabled": false,
            "utp-enabled": false, "encryption": 0, "ratio-limit-enabled": false,
            "idle-seeding-limit-enabled": false, "download-queue-enabled": false, "preallocation": 0,
        });
        std::fs::write(config.join("settings.json"), settings.to_string()).expect("the lab is writable");
        let mut command = Command::new("transmission-daemon");
        command.args(["--foreground", "--config-dir"]).arg(&config);
        let process = Process::start("transmission-daemon", &mut command);
        let mut peer =
            Self { process, config, address: local(port), rpc: local(rpc_port), session: String::new() };
        wait_until(SOON, "answer from transmission's RPC", || peer.call("session-get", &json!({})));
        let added =
            peer.call("torrent-add", &json!({ "filename": torrent, "download-dir": dir, "paused": false }));
        let added = added.expect("the RPC still answers");
        assert_eq!(added["result"], "success", "transmission takes the torrent");
        // Asked, not assumed: the peer socket opens some time after the RPC one.
        wait_until(SOON, "open peer port of transmission", || TcpStream::connect(peer.address).ok());
        peer
    }

    /// Where it listens for peers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until it has, and has checked, every piece.
    pub fn wait_finished(&mut self) {
        wait_until(PATIENCE, "complete torrent in transmission", || {
            let fields = ["percentDone", "status", "errorString", "recheckProgress"];
            let answer = self.call("torrent-get", &json!({ "fields": fields }))?;
            let torrent = &answer["arguments"]["torrents"][0];
            // Status 6 is "seeding": nothing left to check or to fetch.
            (torrent["percentDone"].as_f64() == Some(1.0) && torrent["status"] == 6).then_some(())
        });
    }

    /// Waits until it has checked what is there, ends it orderly, and returns its configuration folder.
    pub fn stop_when_checked(mut self) -> PathBuf {
        wait_until(PATIENCE, "torrent checked by transmission", || {
            let fields = ["status", "haveValid"];
            let answer = self.call("torrent-get", &json!({ "fields": fields }))?;
            let torrent = &answer["arguments"]["torrents"][0];
            // Status 4 is "downloading".
            (torrent["status"] == 4 && torrent["haveValid"].as_u64() > Some(0)).then_some(())
        });
        self.process.signal(rustix::process::Signal::TERM);
        self.process.wait_exit(SOON);
        self.config.clone()
    }

    /// One RPC call; `None` while the daemon does not answer or wants another session id.
    fn call(&mut self, method: &str, arguments: &Value) -> Option<Value> {
        let body = json!({ "method": method, "arguments": arguments }).to_string();
        for _ in 0..2 {
            let answer = self.post(&body)?;
            let (head, content) = answer.split_once("\r\n\r\n")?;
            if head.starts_with("HTTP/1.1 200") {
                return serde_json::from_str(content).ok();
            }
            let id = head.lines().find_map(|line| line.strip_prefix("X-Transmission-Session-Id: "))?;
            self.session = id.trim().to_owned();
        }
        None
    }

    fn post(&self, body: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.rpc).ok()?;
        stream.set_read_timeout(Some(SOON)).ok()?;
        let (session, len) = (&self.session, body.len());
        write!(
            stream,
            "POST /transmission/rpc HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\
             X-Transmission-Session-Id: {session}\r\nContent-Type: application/json\r\n\
             Content-Length: {len}\r\n\r\n{body}"
        )
        .ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        Some(String::from_utf8_lossy(&answer).into_owned())
    }
}
