//! A client of a daemon, for programs that may wait: one connection per call.
//!
//! Called by the command line. Errors tell a daemon that is not there from one that refuses.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::api::ApiError;
use super::socket::read_token;

/// So long an answer is waited for: longer than the daemon takes to say that it takes longer.
const PATIENCE: Duration = Duration::from_secs(70);

/// Where a daemon listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP address; clients must show the token in the file.
    Tcp {
        /// Where.
        address: SocketAddr,
        /// What must be shown.
        token_file: PathBuf,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp { address, .. } => write!(f, "{address}"),
        }
    }
}

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no daemon listens at {place} ({reason}); `ccbt-fast daemon` starts one")]
    NotRunning {
        /// Where it should.
        place: Place,
        /// Why not.
        reason: String,
    },
    /// It refuses.
    #[error("{0}")]
    Refused(ApiError),
    /// The token cannot be read.
    #[error("the token: {0}")]
    Token(String),
    /// The connection broke, or what listens there is no daemon.
    #[error("no answer from the daemon: {0}")]
    Broken(String),
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Client {
    place: Place,
}

fn broken(error: impl fmt::Display) -> ClientError {
    ClientError::Broken(error.to_string())
}

impl Client {
    /// Of the daemon at `place`.
    pub fn new(place: Place) -> Self {
        Self { place }
    }

    /// Asks, and waits for the answer. `path` begins with a slash.
    pub fn call<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, ClientError> {
        let body = body.map(|body| serde_json::to_vec(body).expect("no map has keys other than strings"));
        self.run(async {
            let ask = async {
                let response = self.send(method, path, body.unwrap_or_default()).await?;
                response.into_body().collect().await.map_err(broken).map(|body| body.to_bytes())
            };
            let bytes = tokio::time::timeout(PATIENCE, ask).await.map_err(broken)??;
            serde_json::from_slice(&bytes).map_err(broken)
        })
    }

    /// Reads what comes from `path`, until it ends or `each` says false, which is first called with nothing when the daemon
    /// has answered.
    pub fn follow(&self, path: &str, mut each: impl FnMut(&[u8]) -> bool) -> Result<(), ClientError> {
        self.run(async {
            let mut body = self.send("GET", path, Vec::new()).await?.into_body();
            if !each(&[]) {
                return Ok(());
            }
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(broken)?;
                if frame.data_ref().is_some_and(|data| !each(data)) {
                    break;
                }
            }
            Ok(())
        })
    }

    fn run<T>(&self, work: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(broken)?;
        runtime.block_on(work)
    }

    /// Sends a request; its answer if that is a success.
    async fn send(&self, method: &str, path: &str, body: Vec<u8>) -> Result<Response<Incoming>, ClientError> {
        let mut request = Request::builder().method(method).uri(path);
        request = request.header(header::CONTENT_TYPE, "application/json");
        request = match &self.place {
            Place::Unix(_) => request.header(header::HOST, "localhost"),
            Place::Tcp { address, token_file } => {
                let token = read_token(token_file)
                    .map_err(|problem| ClientError::Token(format!("{}: {problem}", token_file.display())))?;
                let shown = format!("Bearer {token}");
                request.header(header::HOST, address.to_string()).header(header::AUTHORIZATION, shown)
            }
        };
        let request = request.body(Full::new(Bytes::from(body))).map_err(broken)?;
        let absent = |error: std::io::Error| ClientError::NotRunning {
            place: self.place.clone(),
            reason: error.to_string(),
        };
        let response = match &self.place {
            Place::Unix(path) => exchange(UnixStream::connect(path).await.map_err(absent)?, request).await?,
            Place::Tcp { address, .. } => {
                exchange(TcpStream::connect(address).await.map_err(absent)?, request).await?
            }
        };
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.into_body().collect().await.map_err(broken)?.to_bytes();
        match serde_json::from_slice::<ApiError>(&body) {
            Ok(error) => Err(ClientError::Refused(ApiError { status: status.as_u16(), ..error })),
            Err(_) => Err(ClientError::Broken(format!("HTTP status {status}"))),
        }
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, ClientError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // Its end shows in the answer.
    tokio::spawn(async move { drop(connection.await) });
    sender.send_request(request).await.map_err(broken)
}
