//! The distributed hash table: who has which torrent, without a tracker (BEP 5).
//!
//! Role: [`Dht`] is one node with a table for IPv4 and one for IPv6 (BEP 32). Datagrams go in by [`Dht::handle`] and come
//! out of [`Dht::poll_transmit`]; time and randomness are arguments. Called by the discovery thread of `ccbt-shards`, and
//! by a simulated network in the tests. Every message is [`krpc`], every table has its bound at its definition.
//!
//! | | |
//! |---|---|
//! | [`id`] | names, distances, names that fit an address (BEP 42) |
//! | [`table`], [`lookup`] | whom we know, and how a place is found |
//! | [`peers`], [`bloom`], [`items`] | what others store with us (BEP 5, 33, 51, 44), for [`tokens`] only |
//! | [`limits`] | how much is answered to whom |
//! | [`saved`] | what is kept between runs |

pub mod bloom;
pub mod id;
pub mod items;
pub mod krpc;
pub mod limits;
pub mod lookup;
pub mod node;
pub mod peers;
pub mod saved;
pub mod table;
pub mod tokens;
mod votes;

pub use id::{Contact, NodeId};
pub use krpc::{Item, Samples};
pub use node::{Announce, Dht, DhtConfig, DhtStats, Event, Goal, SearchId, Transmit};
pub use saved::Saved;
