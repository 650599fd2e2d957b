//! Who may ask.
//!
//! A Unix socket is guarded by its file's mode. By TCP every request must show the token, whatever it asks for, and name
//! this daemon in `Host`: a page that a browser of this machine shows reaches us under a name of its maker's (DNS
//! rebinding), and says so there. No CORS header is ever sent, so no page may read an answer either.

use std::net::SocketAddr;

use hyper::header::{AUTHORIZATION, HOST};
use hyper::{HeaderMap, Request};
use subtle::ConstantTimeEq;

use crate::daemon::api::ApiError;

/// See the module.
#[derive(Debug)]
pub(super) enum Guard {
    /// The socket's mode has let them in.
    Trusted,
    Tcp {
        /// What `Host` may be.
        hosts: [String; 2],
        token: String,
    },
}

impl Guard {
    /// For clients of `address`.
    pub fn tcp(address: SocketAddr, token: String) -> Self {
        Self::Tcp { hosts: [address.to_string(), format!("localhost:{}", address.port())], token }
    }

    /// Whether the request is to be answered.
    pub fn check<B>(&self, request: &Request<B>) -> Result<(), ApiError> {
        let Self::Tcp { hosts, token } = self else { return Ok(()) };
        let is_ours = |host: &str| hosts.iter().any(|ours| ours.eq_ignore_ascii_case(host));
        let host = only(request.headers(), HOST);
        let absolute = request.uri().authority();
        if !host.is_some_and(is_ours) || absolute.is_some_and(|authority| !is_ours(authority.as_str())) {
            let message = format!("this is {}: no other name is answered for (Host)", hosts[0]);
            return Err(ApiError::new(421, "wrong_host", message));
        }
        let shown = only(request.headers(), AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
        // Neither time nor answer tells how much of it is right; its length is no secret.
        let is_right = shown.is_some_and(|shown| shown.as_bytes().ct_eq(token.as_bytes()).into());
        match is_right {
            true => Ok(()),
            false => Err(ApiError::new(401, "wrong_token", "show the token: Authorization: Bearer TOKEN")),
        }
    }
}

/// The value of a header that is there once.
fn only(headers: &HeaderMap, name: hyper::header::HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(headers: &[(&str, &str)], uri: &str) -> u16 {
        let guard = Guard::tcp("127.0.0.1:80".parse().expect("an address"), "secret".into());
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        guard.check(&request.body(()).expect("well-formed")).map_or_else(|error| error.status, |()| 200)
    }

    #[test]
    fn both_host_and_token_must_be_right() {
        let (host, token) = (("host", "127.0.0.1:80"), ("authorization", "Bearer secret"));
        assert_eq!(status(&[host, token], "/"), 200);
        assert_eq!(status(&[("host", "LOCALHOST:80"), token], "/"), 200);
        for wrong in ["evil.example", "evil.example:80", "127.0.0.1", "127.0.0.1:81", "localhost", ""] {
            assert_eq!(status(&[("host", wrong), token], "/"), 421, "{wrong}");
        }
        assert_eq!(status(&[token], "/"), 421);
        assert_eq!(status(&[host, host, token], "/"), 421);
        assert_eq!(status(&[host, token], "http://evil.example/"), 421);
        for wrong in ["Bearer secre", "Bearer secrets", "Bearer ", "secret", "Basic secret", "Bearer Secret"]
        {
            assert_eq!(status(&[host, ("authorization", wrong)], "/"), 401, "{wrong}");
        }
        assert_eq!(status(&[host], "/"), 401);
        assert_eq!(status(&[host, token, token], "/"), 401);
    }
}
