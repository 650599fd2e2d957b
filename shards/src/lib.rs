//! Pinned shards: one thread each, one glommio executor, one raw io_uring ring for peer sockets.
//!
//! [`service::Service`] starts them and is how the engine talks to them; [`messages`] is the vocabulary. Inside a shard,
//! `drive` runs the loop over the state in `shard`.

pub mod announce;
mod association;
pub mod binding;
mod cache;
mod checking;
mod conns;
pub mod control;
mod counters;
mod crowding;
pub mod diagnosis;
pub mod dialling;
mod discovering;
pub mod discovery;
mod drive;
pub mod encryption;
pub mod executor;
mod faults;
mod fetching;
mod filtering;
mod hand_off;
mod home;
pub mod inbox;
pub mod known;
mod limits;
pub mod messages;
mod network;
mod pacing;
mod partial;
mod pieces;
pub mod playing;
pub mod proxying;
mod punching;
pub mod reaching;
mod relocating;
pub mod ring;
pub mod satellites;
mod selecting;
pub mod service;
mod shard;
mod slots;
pub mod sync;
pub mod tapping;
#[cfg(test)]
mod testing;
mod timers;
mod torrents;
pub mod trackers;
mod transfer;
mod turnover;
mod turns;
mod uploads;
mod utp_acceptor;
pub mod webseeds;
mod websources;
pub mod zero_copy;
