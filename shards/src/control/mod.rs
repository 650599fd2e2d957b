//! How trackers are asked: glommio tasks that speak HTTP, HTTPS and UDP.
//!
//! Owner: the tracker thread ([`crate::trackers`]) has the process's one [`TrackerClient`] and decides how many
//! requests are under way; it calls [`TrackerClient::announce`] and [`TrackerClient::scrape`] in tasks.
//! Invariants: a request ends within the configured time whatever the tracker does; nothing a tracker or a URL
//! says reaches a log or a terminal with control characters in it; the executor's thread never blocks (names
//! are looked up and certificates read by `helper`'s threads).

mod address;
mod error;
mod families;
mod helper;
mod http;
mod pool;
mod proxy;
mod resolve;
mod scrape;
mod socket;
mod tls;
mod udp;

pub(crate) use address::{in_turn, is_public};
pub use error::{TrackerError, shown};
pub(crate) use resolve::look_up;
pub(crate) use tls::load_certificates;

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use ccbt_protocol::ipfilter;
use ccbt_protocol::tracker::udp::{AddressFamily, RetryPlan};
use ccbt_protocol::tracker::{AnnounceRequest, AnnounceResponse, Event};
use url::Url;

use crate::proxying::Proxy;
use resolve::Resolver;

use crate::binding::Binding;

/// How trackers are asked.
#[derive(Clone, Debug)]
pub struct TrackerClientConfig {
    /// Sent as User-Agent; characters that HTTP does not allow there are replaced.
    pub user_agent: String,
    /// Time one HTTP announce may take, from name look-up to the last byte; and a UDP announce's look-up.
    pub http_timeout: Duration,
    /// Time a `stopped` announce may take over any protocol: it is a courtesy that must not hold up a
    /// shutdown.
    pub stop_timeout: Duration,
    /// How packets to UDP trackers are repeated.
    pub udp_retry: RetryPlan,
    /// Announces leave from here.
    pub bind: Option<Binding>,
    /// Certificate authorities trusted besides the system's, each a PEM file's content with one certificate
    /// or more.
    pub extra_roots_pem: Vec<Vec<u8>>,
    /// Trackers are asked through it; UDP trackers only if it is SOCKS5.
    pub proxy: Option<Proxy>,
}

impl Default for TrackerClientConfig {
    /// 30 s for HTTP, 2 s for `stopped`, and three packets of BEP 15's schedule (15 s, 30 s, 60 s): what is
    /// lost after those is left to the announcer, which then asks the next tracker and comes back.
    fn default() -> Self {
        Self {
            user_agent: concat!("ccbt-fast/", env!("CARGO_PKG_VERSION")).to_owned(),
            http_timeout: Duration::from_secs(30),
            stop_timeout: Duration::from_secs(2),
            udp_retry: RetryPlan { tries_max: 3, ..RetryPlan::default() },
            bind: None,
            extra_roots_pem: Vec::new(),
            proxy: None,
        }
    }
}

/// Asks trackers; one per process.
pub struct TrackerClient {
    config: TrackerClientConfig,
    resolver: Resolver,
    tls: tls::Tls,
    udp: udp::Channels,
    pool: Rc<pool::Pool>,
    silent: families::Silent,
}

impl TrackerClient {
    /// A client that has not asked anyone yet. Used on one executor only.
    pub fn new(mut config: TrackerClientConfig) -> Self {
        let is_sendable = |c: char| c == ' ' || c.is_ascii_graphic();
        config.user_agent = config.user_agent.replace(|c| !is_sendable(c), "?");
        Self {
            resolver: Resolver::default(),
            tls: tls::Tls::new(config.extra_roots_pem.clone()),
            udp: udp::Channels::default(),
            pool: Rc::default(),
            silent: families::Silent::default(),
            config,
        }
    }

    /// One like this that asks from `bind`, with connections of its own.
    pub(crate) fn bound_to(&self, bind: Binding) -> Self {
        let config = TrackerClientConfig { bind: Some(bind), ..self.config.clone() };
        Self { resolver: self.resolver.beside(), ..Self::new(config) }
    }

    /// Trackers at addresses that `filter` has are not asked from now on, by those that are bound elsewhere neither.
    pub fn set_filter(&self, filter: ipfilter::Shared) {
        self.resolver.set_filter(filter);
    }

    /// Announces `request` to the tracker `url` (http, https or udp), by IPv4 and IPv6 if it has both, and waits for
    /// the answer. Call on a glommio executor; dropping the future gives the announce up.
    ///
    /// # Errors
    /// See [`TrackerError`]: the text tells a user what is wrong, [`TrackerError::retry_in`] when to try
    /// again.
    pub async fn announce(
        &self,
        url: &str,
        request: &AnnounceRequest,
    ) -> Result<AnnounceResponse, TrackerError> {
        let url = url.trim();
        let target = Target::parse(url)?;
        let exchange = self.announce_by_families(url, &target, request);
        if request.event == Event::Stopped {
            let limit = self.config.stop_timeout;
            socket::within(limit, exchange).await.unwrap_or(Err(TrackerError::TimedOut { after: limit }))
        } else {
            exchange.await
        }
    }

    /// An announce to the addresses of one family, or of any.
    async fn announce_once(
        &self,
        url: &str,
        target: &Target,
        request: &AnnounceRequest,
    ) -> Result<AnnounceResponse, TrackerError> {
        if target.is_udp {
            return self.announce_udp(url, target, request).await;
        }
        let limit = self.config.http_timeout;
        socket::within(limit, self.announce_http(url, target.family, request))
            .await
            .unwrap_or(Err(TrackerError::TimedOut { after: limit }))
    }

    /// Connections to HTTP trackers that wait for the next request, and sockets of UDP trackers.
    pub fn kept(&self) -> (usize, usize) {
        (self.pool.len(), self.udp.len())
    }
}

/// What trackers that share connections have in common: UDP or not, host and port. Errors: it is no tracker's URL.
pub(crate) fn host_key(url: &str) -> Result<String, TrackerError> {
    let target = Target::parse(url.trim())?;
    Ok(format!("{}{}:{}", if target.is_udp { "udp:" } else { "" }, target.host(), target.port))
}

/// Where a tracker is.
struct Target {
    is_udp: bool,
    url: Url,
    port: u16,
    /// Only addresses of this family.
    family: Option<AddressFamily>,
}

impl Target {
    fn parse(url: &str) -> Result<Self, TrackerError> {
        let bad = |why: &str| TrackerError::BadUrl { url: shown(url), why: why.to_owned() };
        let (scheme, rest) = url.split_once("://").ok_or_else(|| bad("it has no scheme"))?;
        let is_udp = scheme.eq_ignore_ascii_case("udp");
        // The URL standard parses hosts (IPv4, internationalised names) of the schemes it knows only; udp is
        // none.
        let parsed = if is_udp { Url::parse(&format!("http://{rest}")) } else { Url::parse(url) };
        let parsed = parsed.map_err(|error| bad(&error.to_string()))?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(bad("only http, https and udp trackers can be asked"));
        }
        let port = parsed.port_or_known_default().filter(|port| *port != 0).ok_or_else(|| bad("port 0"))?;
        Ok(Self { is_udp, url: parsed, port, family: None })
    }

    /// The same at addresses of one family.
    fn by(&self, family: impl Into<Option<AddressFamily>>) -> Self {
        Self { is_udp: self.is_udp, url: self.url.clone(), port: self.port, family: family.into() }
    }

    /// Whether `ip` is of its family.
    fn admits(&self, ip: &IpAddr) -> bool {
        self.family.is_none_or(|family| family == AddressFamily::of(ip))
    }

    /// The host as in the URL, IPv6 addresses in brackets.
    fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }
}
