//! The storage core (one thread, its own io_uring ring) and the hash pool.
//!
//! Shards talk to both by bounded queues with an eventfd [`doorbell`]; buffers ([`arena::PieceBuf`]) move with the
//! messages, are never cloned and never shared. See each module for its role and owner.

pub mod arena;
pub mod core;
pub mod doorbell;
pub mod error;
pub mod files;
pub mod hash;
pub mod layout;
pub mod links;
pub mod messages;
pub mod relocate;
pub mod ring;
mod rotation;
pub mod schedule;
pub mod service;
pub mod stats;

pub use service::{Completion, StorageClient, StorageConfig, StorageService};
