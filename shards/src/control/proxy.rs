//! Connections to HTTP trackers through a proxy.
//!
//! Called by `http` in place of a connection of its own. Invariants: with a proxy nothing is sent to a tracker
//! directly, and its name is looked up here only where the user wants that; a redirect to a private address is
//! refused as without one.

use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;

use ccbt_protocol::proxy::{Target as To, Tunnel};
use futures_lite::{AsyncRead, AsyncWriteExt};
use glommio::net::TcpStream;
use url::Host;

use super::address::may_redirect;
use super::error::{TrackerError, shown};
use super::socket::connect_tcp;
use super::{Target, TrackerClient};
use crate::proxying::Proxy;

/// Address of a host whose name the proxy looks up: it counts as public, so it may not redirect into a private network.
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
/// Bytes read from a proxy at once.
const READ_LEN: usize = 1024;

impl TrackerClient {
    /// A connection to `target` through `proxy`, and its address if that is known here. `origin` as for a direct one.
    pub(super) async fn connect_through(
        &self,
        proxy: &Proxy,
        target: &Target,
        origin: Option<IpAddr>,
    ) -> Result<(TcpStream, Option<IpAddr>), TrackerError> {
        let (to, address) = match target.url.host() {
            // Where that leads is the proxy's own business.
            Some(Host::Domain(name)) if proxy.hostnames => {
                (To::Name(name.to_owned(), target.port), Some(ELSEWHERE))
            }
            _ => {
                let addresses = self.resolver.addresses(&target.url, target.port, None).await?;
                let allowed = |ip: IpAddr| origin.is_none_or(|origin| may_redirect(origin, ip));
                let found = addresses.into_iter().find(|address| allowed(address.ip()));
                let address = found.ok_or_else(|| TrackerError::Redirect {
                    to: shown(target.host()),
                    why: "it leads from the Internet into a private network",
                })?;
                (To::Addr(address), Some(address.ip()))
            }
        };
        let failed = |error: &dyn std::error::Error| TrackerError::proxy(error);
        let mut stream =
            connect_tcp(proxy.addr, self.config.bind.as_ref()).await.map_err(|error| failed(&error))?;
        let mut out = Vec::new();
        let mut tunnel = Tunnel::new(proxy.kind, proxy.credentials.clone(), to, &mut out)
            .map_err(|error| failed(&error))?;
        let mut bytes = [0; READ_LEN];
        loop {
            stream.write_all(&std::mem::take(&mut out)).await.map_err(|error| failed(&error))?;
            let read = poll_fn(|cx| Pin::new(&mut stream).poll_read(cx, &mut bytes)).await;
            let len = read.map_err(|error| failed(&error))?;
            if len == 0 {
                return Err(failed(&std::io::Error::from(std::io::ErrorKind::UnexpectedEof)));
            }
            match tunnel.push(&bytes[..len], &mut out).map_err(|error| failed(&error))? {
                None => {}
                Some(rest) if rest.is_empty() => return Ok((stream, address)),
                Some(_) => return Err(failed(&std::io::Error::other("it speaks before it is asked"))),
            }
        }
    }
}
