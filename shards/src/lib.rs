//! Pinned shards: one thread each, one glommio executor, one raw io_uring ring for peer sockets.

pub mod executor;
