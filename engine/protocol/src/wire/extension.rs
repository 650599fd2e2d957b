//! The extended handshake (BEP 10, BEP 21).

use std::net::IpAddr;

/// What the extended handshake says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct ExtensionHandshake {
    pub client: Option<String>,
    pub port: Option<u16>,
    pub reqq: Option<u32>,
    pub metadata_size: Option<u32>,
    pub your_ip: Option<IpAddr>,
    pub upload_only: bool,
    pub messages: Vec<(String, u8)>,
}

/// The payload is no extended handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the extended handshake is malformed")]
pub struct ExtensionError;

#[allow(unused_variables, missing_docs)]
impl ExtensionHandshake {
    pub fn encode(&self) -> Vec<u8> { todo!() }
    pub fn parse(payload: &[u8]) -> Result<Self, ExtensionError> { todo!() }
}
