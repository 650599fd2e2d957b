//! Pinned shards: one thread each, one glommio executor, one raw io_uring ring for peer sockets.

pub mod announce;
pub mod control;
pub mod executor;
pub mod inbox;
pub mod messages;
pub mod ring;
pub mod service;
