//! The BitTorrent protocol as pure data and decisions.
//!
//! Nothing in this crate opens a file or a socket, reads a clock, starts a thread or draws a random number: time comes
//! in as [`std::time::Instant`], randomness as a [`rand::Rng`], bytes as slices. The shards drive it with real sockets;
//! tests and simulations drive it with virtual ones and get the same decisions.
//!
//! * Files and pieces: [`bencode`], [`metainfo`], [`geometry`], [`bitfield`], [`ids`]
//! * The peer wire: [`wire`]
//! * Decisions: [`selection`], [`picker`], [`playback`], [`cache`], [`choker`], [`request_window`], [`rate`],
//!   [`blame`], [`score`], [`candidates`], [`peer`], [`superseed`], [`torrent`], and [`lease`] for a torrent on several
//!   shards
//! * uTP, a stream over UDP: [`utp`]
//! * Torrents without a file: [`magnet`], [`metadata`], [`fetching`]
//! * Trackers: [`tracker`]; the DHT: [`dht`]; the local network: [`lsd`]; peers from peers: [`pex`]
//! * Files on HTTP servers: [`webseed`]
//! * What is kept of a torrent between runs: [`checkpoint`]
#![forbid(unsafe_code)]

pub mod bencode;
pub mod bitfield;
pub mod blame;
pub mod cache;
pub mod candidates;
pub mod checkpoint;
pub mod choker;
pub mod credit;
pub mod deadlines;
pub mod dht;
pub mod fetching;
pub mod geometry;
pub mod holepunch;
pub mod ids;
pub mod ipfilter;
pub mod lease;
pub mod lsd;
pub mod magnet;
pub mod metadata;
pub mod metainfo;
pub mod padding;
pub mod peer;
pub mod pex;
pub mod picker;
pub mod playback;
pub mod proxy;
pub mod rate;
pub mod request_window;
pub mod score;
pub mod selection;
pub mod superseed;
pub mod torrent;
pub mod tracker;
pub mod utp;
pub mod webseed;
pub mod wire;
