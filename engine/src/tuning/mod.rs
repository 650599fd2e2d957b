//! Settings of a server for a kind of use: kernel, limits and ccbt.toml.
//!
//! Role: a [`Profile`] says what should be, [`Plan::of`] compares it with what is, and [`Plan::apply`] writes it.
//! Owner: whoever asks (`ccbt-fast tune`). Invariants: nothing is written before [`Plan::apply`]; a file that somebody
//! else has written, or changed since, is never replaced; a setting that is better already stays as it is.

mod plan;
mod profiles;

pub use plan::{ApplyError, Change, Plan, Written};
pub use profiles::{Profile, UnknownProfile};
