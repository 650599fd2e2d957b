//! A daemon: many torrents in one process, controlled over HTTP.
//!
//! Role: everything of `ccbt-fast daemon` but options and output. Owner: the thread that calls [`Daemon::turn`], which
//! owns the session and all torrents (`core`); nothing is shared or locked. What talks to clients is a thread of its own
//! (`http`) that sends calls over a bounded queue and waits for their answers; a third one passes the session's events
//! into the same queue.
//!
//! ```text
//!  clients ──Unix socket, TCP──▶ http ──Call──┐
//!  session ──────────SessionEvent─────────────┼──▶ core: queue, rules, state, watch folder ──▶ Session
//!  on_complete ──────HookEnded────────────────┘
//! ```
//!
//! Invariant: what was answered with success is in the folder of the state (`state`) and comes back after a crash.

mod actions;
pub mod api;
mod api_network;
pub mod client;
mod core;
mod explaining;
mod filtering;
mod folders;
mod happenings;
mod hooks;
mod http;
mod lookup;
mod magnets;
mod queue;
mod reload;
mod settings;
mod socket;
mod start;
mod state;
mod subscribers;
mod torrent;
mod tracing_peers;
mod watch;

pub use self::core::EngineGone;
pub use client::{Client, ClientError, Place};
pub use queue::{Decision, Look, Queue, QueueLimits, Step};
pub use reload::Notice;
pub use settings::{DaemonSettings, SeedAction};
pub use socket::ControlError;
pub use start::{Daemon, DaemonError, Setup};
pub use state::{StateError, folders_in_use};
