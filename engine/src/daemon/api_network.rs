//! What is answered of IP filter and port mapping; part of [`super::api`].

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::mapping::MappingStatus;

/// The IP filter, read anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpFilter {
    /// Ranges that are blocked, once merged.
    pub ranges: usize,
    /// Bytes of memory.
    pub memory_bytes: usize,
    /// Lines that say nothing known.
    pub bad_lines: u64,
    /// The first of these.
    pub first_bad: Vec<String>,
}

/// Whether a router forwards our ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// `off`, `asking`, `mapped` or `failed`.
    pub state: String,
    /// In words.
    pub text: String,
    /// `PCP`, `NAT-PMP` or `UPnP`.
    pub method: Option<String>,
    /// The router's address in the Internet.
    pub external_ip: Option<IpAddr>,
    /// Where peers reach our TCP port.
    pub external_port: Option<u16>,
}

impl From<MappingStatus> for PortMapping {
    fn from(status: MappingStatus) -> Self {
        let (state, mapped) = match &status {
            MappingStatus::Off => ("off", None),
            MappingStatus::Asking => ("asking", None),
            MappingStatus::Mapped(mapped) => ("mapped", Some(mapped)),
            MappingStatus::Failed(_) => ("failed", None),
        };
        Self {
            state: state.to_owned(),
            text: status.to_string(),
            method: mapped.map(|mapped| mapped.by.to_string()),
            external_ip: mapped.and_then(|mapped| mapped.ip),
            external_port: mapped.and_then(|mapped| mapped.tcp),
        }
    }
}
