//! Secure connections: whom to trust, and the handshake.
//!
//! Owner: one [`Tls`] per [`super::TrackerClient`]; the certificates are read with the first https tracker,
//! by a helper thread. Trusted are the system's authorities (Mozilla's where the system has none) and those
//! of the configuration.

use std::cell::OnceCell;
use std::net::IpAddr;
use std::sync::Arc;

use futures_rustls::TlsConnector;
use futures_rustls::client::TlsStream;
use futures_rustls::pki_types::pem::PemObject;
use futures_rustls::pki_types::{CertificateDer, ServerName};
use futures_rustls::rustls::crypto::ring::default_provider;
use futures_rustls::rustls::{ClientConfig, RootCertStore};
use glommio::net::TcpStream;
use url::{Host, Url};

use super::error::{TrackerError, chain, shown};
use super::helper::{self, Slot};

type Loaded = Result<Arc<ClientConfig>, TrackerError>;

/// What secure connections need.
pub(super) struct Tls {
    extra_roots_pem: Vec<Vec<u8>>,
    config: OnceCell<Slot<Loaded>>,
}

impl Tls {
    pub fn new(extra_roots_pem: Vec<Vec<u8>>) -> Self {
        Self { extra_roots_pem, config: OnceCell::new() }
    }

    /// Secures `stream`, whose other end must prove to be `url`'s host.
    pub async fn connect(&self, url: &Url, stream: TcpStream) -> Result<TlsStream<TcpStream>, TrackerError> {
        let config = self.config().await?;
        let failed = |reason| TrackerError::Tls { host: shown(url.host_str().unwrap_or_default()), reason };
        let name = match url.host() {
            Some(Host::Ipv4(ip)) => ServerName::from(IpAddr::from(ip)),
            Some(Host::Ipv6(ip)) => ServerName::from(IpAddr::from(ip)),
            Some(Host::Domain(name)) => {
                ServerName::try_from(name.to_owned()).map_err(|error| failed(chain(&error)))?
            }
            None => return Err(failed("the URL has no host".to_owned())),
        };
        TlsConnector::from(config).connect(name, stream).await.map_err(|error| failed(chain(&error)))
    }

    async fn config(&self) -> Loaded {
        let slot = match self.config.get() {
            Some(slot) => slot,
            None => {
                let extra = self.extra_roots_pem.clone();
                let slot = helper::start(move || load(&extra)).ok_or(TrackerError::Busy)?;
                self.config.get_or_init(|| slot)
            }
        };
        helper::wait(slot).await.clone()
    }
}

/// Reads whom to trust, by another thread: the place of the answer, or `None` when too much waits.
pub(crate) fn load_certificates(
    extra_roots_pem: Vec<Vec<u8>>,
) -> Option<Slot<Result<Arc<ClientConfig>, String>>> {
    helper::start(move || load(&extra_roots_pem).map_err(|error| error.to_string()))
}

fn load(extra_roots_pem: &[Vec<u8>]) -> Loaded {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    // Old systems carry authorities that are unusable today; the others do.
    let (usable, _) = roots.add_parsable_certificates(native.certs);
    if usable == 0 {
        tracing::warn!(errors = ?native.errors, "the system has no certificate authorities, using Mozilla's");
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    for pem in extra_roots_pem {
        let bad = |reason: String| TrackerError::ExtraRoot { reason };
        let mut any = false;
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| bad(chain(&error)))?;
            roots.add(certificate).map_err(|error| bad(chain(&error)))?;
            any = true;
        }
        if !any {
            return Err(bad("it has no certificate in it".to_owned()));
        }
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| TrackerError::Tls { host: "any tracker".to_owned(), reason: chain(&error) })?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
