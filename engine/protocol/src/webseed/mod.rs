//! Web seeds (BEP 19): a torrent's files on ordinary HTTP servers.
//!
//! Role: everything about them that needs no socket. [`urls`] says where a file is, [`run`] which ranges of which files
//! a run of pieces is made of, [`http`] reads what servers answer, [`seeds`] decides whom to ask next and for how much.
//! Owners: a torrent's home shard has the [`Seeds`]; the web seed thread reads answers. Invariant: nothing that a
//! server says is taken for data of the torrent unless it answers exactly the range that was asked for; whether it is
//! the right data its hash decides.

pub mod http;
pub mod run;
pub mod seeds;
pub mod urls;

pub use run::{Segment, Source, segments};
pub use seeds::{Failure, Outcome, SeedId, Seeds};
