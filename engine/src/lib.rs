//! .

pub mod hashing;
