//! Throughput harness: measures ccbt-fast and other BitTorrent clients with the same load, on loopback only.
//!
//! Role: `transfer` runs each client as a downloader against [`generator::serve`] (a synthetic seeder of many peers)
//! and as a seeder against [`generator::fetch`] (a synthetic leecher), one client at a time, and reports medians.
//! `hash` measures the engine's hash kernels against each other and other libraries.
//! `limits` measures what rate limits come to.
//! `storage` compares the storage service with fio.
//! `filter` measures reading and asking a large IP filter.
//! `shards` measures one torrent on several shards, thread by thread.
//! `box` tells an operator what line rate a machine holds ([`capacity`]).
//! `scale` measures what connections and torrents cost that idle ([`scale`]).
//! `verify` and `create` compare how fast files are hashed ([`checking`]), `compare` two result files;
//! [`floor`] measures what no client goes below.
//! Invariant: both generators speak the protocol with code of their own ([`generator::codec`]), so a bug shared by
//! the engine and its measuring device cannot hide; and their CPU time is measured, so it shows when they are the limit.

pub mod capacity;
pub mod checking;
pub mod clients;
pub mod compare;
pub mod error;
pub mod filter;
pub mod floor;
pub mod generator;
pub mod kernels;
pub mod limits;
pub mod machine;
pub mod payload;
pub mod picker;
pub mod plot;
pub mod process;
pub mod scale;
pub mod shards;
pub mod stats;
pub mod storage;
pub mod tracker;
pub mod trackers;
pub mod transfer;
