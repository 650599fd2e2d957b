//! A proxy as the configuration has it, and as a session takes it.
//!
//! Owner: [`super::Effect`]. Invariant: what is set and cannot be used is an error, so that nothing goes past a proxy
//! because of a mistake; the password is in a file of its own and in no value that is shown.

use std::net::ToSocketAddrs;
use std::path::PathBuf;

use ccbt_protocol::proxy::{Credentials, ProxyKind};
use ccbt_shards::discovery::parse_host;
use ccbt_shards::proxying::Proxy;

/// Section `[proxy]`.
#[derive(Clone, Debug)]
pub struct ProxySettings {
    /// How it is spoken to; `None`: there is none.
    pub kind: Option<ProxyKind>,
    /// `HOST:PORT`, one.
    pub address: Vec<String>,
    /// A file with `USERNAME:PASSWORD`.
    pub credentials_file: Option<PathBuf>,
    /// See [`Proxy::peers`].
    pub peers: bool,
    /// See [`Proxy::trackers`].
    pub trackers: bool,
    /// See [`Proxy::hostnames`].
    pub hostnames: bool,
}

impl Default for ProxySettings {
    fn default() -> Self {
        let (address, credentials_file) = (Vec::new(), None);
        Self { kind: None, address, credentials_file, peers: true, trackers: true, hostnames: true }
    }
}

impl ProxySettings {
    /// The proxy, if there is one: its name is looked up and its password read. Errors say what to change.
    pub fn load(&self) -> Result<Option<Proxy>, String> {
        let Some(kind) = self.kind else { return Ok(None) };
        let [address] = &*self.address else {
            return Err("proxy.address must be one HOST:PORT when proxy.type is set".to_owned());
        };
        let (host, port) = parse_host(address).ok_or("proxy.address must be HOST:PORT")?;
        let addr = (&*host, port).to_socket_addrs().ok().and_then(|mut found| found.next());
        let addr =
            addr.ok_or_else(|| format!("proxy.address: {host} has no address; give the proxy's IP"))?;
        let credentials =
            match &self.credentials_file {
                None => None,
                Some(path) => {
                    let text = std::fs::read_to_string(path)
                        .map_err(|error| format!("proxy.credentials_file {}: {error}", path.display()))?;
                    let (username, password) =
                        text.trim_end_matches(['\r', '\n']).split_once(':').unwrap_or_default();
                    let made = Credentials::new(username, password);
                    Some(made.ok_or(
                        "proxy.credentials_file must hold one line USERNAME:PASSWORD of 255 bytes each",
                    )?)
                }
            };
        let Self { peers, trackers, hostnames, .. } = *self;
        Ok(Some(Proxy { kind, addr, credentials, peers, trackers, hostnames }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_used_is_an_error() {
        let none = ProxySettings { address: vec!["nonsense".into()], ..ProxySettings::default() };
        assert_eq!(none.load(), Ok(None));
        let socks = ProxySettings { kind: Some(ProxyKind::Socks5), ..ProxySettings::default() };
        assert!(socks.load().is_err(), "no address");
        let good = ProxySettings { address: vec!["127.0.0.1:9".into()], ..socks };
        assert_eq!(good.load().unwrap().unwrap().addr, "127.0.0.1:9".parse().unwrap());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let secured = ProxySettings { credentials_file: Some(path.clone()), ..good };
        assert!(secured.load().is_err(), "no file");
        std::fs::write(&path, "me").unwrap();
        assert!(secured.load().is_err(), "no password");
        std::fs::write(&path, "me:pass:word\n").unwrap();
        let proxy = secured.load().unwrap().unwrap();
        assert_eq!(proxy.credentials, Credentials::new("me", "pass:word"));
        assert!(!format!("{proxy:?}").contains("pass"));
    }
}
