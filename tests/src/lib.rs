//! The harness of the end-to-end tests: payloads, torrents, processes and the clients we must get along with.
//!
//! Owner: one test function each. Invariant: what a test starts (processes, threads, files, ports) ends with the test,
//! also when it fails; a failing test prints what its processes said. The files in `tests/tests` are the only callers.
//!
//! The harness shares no code with the engine: torrents are encoded, info-hashes computed and the wire spoken by hand,
//! so that a mistake in the engine's own codecs cannot cancel itself out.
//!
//! * Where and what: [`lab`], [`loopfs`], [`payload`], [`torrent`], [`ports`]
//! * Ours: [`binary`], [`ccbt`], [`daemon`], [`confine`], [`cgroup`]
//! * Theirs: [`libtorrent`], [`aria2`], [`transmission`]
//! * Made by hand: [`tracker`], [`udp_tracker`], [`proxy`], [`raw_peer`], [`raw_seeder`]
//! * Networks of a test's own: [`nat`], [`router`], [`veth`]

pub mod aria2;
pub mod binary;
pub mod ccbt;
pub mod cgroup;
pub mod confine;
pub mod daemon;
pub mod lab;
pub mod libtorrent;
pub mod loopfs;
pub mod nat;
pub mod payload;
pub mod place;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod raw_peer;
pub mod raw_seeder;
pub mod raw_utp;
pub mod router;
pub mod terminal;
pub mod torrent;
pub mod tracker;
pub mod transmission;
pub mod udp_relay;
pub mod udp_tracker;
pub mod veth;
pub mod web_server;

use std::time::Duration;

/// Deadline of one transfer or one wait for a peer. It bounds a hang; it is never a measure of speed.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Deadline for an answer that needs no transfer: a process that starts, refuses, or closes a connection.
pub const SOON: Duration = Duration::from_secs(40);
