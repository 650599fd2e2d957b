//! Why an announce failed, in words for the user.
//!
//! Invariant: no text in here has control characters, whoever wrote it; all text passes through [`shown`] or
//! [`clean`].

use std::error::Error;
use std::fmt::Write;
use std::time::Duration;

use ccbt_protocol::metainfo::is_unsafe_to_show;
use ccbt_protocol::tracker::http::ReplyError;
use ccbt_protocol::tracker::{RetryIn, TrackerFailure};

/// Longest text kept of a stranger's, in characters.
const TEXT_CHARS_MAX: usize = 512;

/// Why an announce failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrackerError {
    /// The announce URL cannot be used.
    #[error("the announce URL {url} cannot be used: {why}")]
    BadUrl {
        /// The URL, escaped.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// The host name has no address, or no name server answered.
    #[error("the name {host} cannot be looked up: {reason}; check the tracker's name and your DNS")]
    NameLookup {
        /// The name.
        host: String,
        /// The resolver's words.
        reason: String,
    },
    /// No address of the tracker is of the bind address's family.
    #[error(
        "{host} has no address of the bind address's IP version; bind to one of the other version, or to none"
    )]
    WrongFamily {
        /// The tracker's host.
        host: String,
    },
    /// The IP filter has all of its addresses.
    #[error("{host} is not asked: the IP filter has its address; see security.ip_filter_trackers")]
    Filtered {
        /// The tracker's host.
        host: String,
    },
    /// No connection came about.
    #[error("cannot connect to {host}: {reason}")]
    Connect {
        /// The tracker's host.
        host: String,
        /// The system's words.
        reason: String,
    },
    /// There was no complete answer in time.
    #[error("the tracker did not answer within {}", seconds(after))]
    TimedOut {
        /// The time given.
        after: Duration,
    },
    /// The secure connection failed, mostly because of the certificate.
    #[error("no secure connection to {host}: {reason}")]
    Tls {
        /// The tracker's host.
        host: String,
        /// What rustls says.
        reason: String,
    },
    /// A certificate authority of the configuration is unusable.
    #[error("an extra root certificate cannot be used: {reason}; give certificates as PEM")]
    ExtraRoot {
        /// What is wrong with it.
        reason: String,
    },
    /// The connection broke, or what came was no HTTP.
    #[error("the connection to the tracker failed: {reason}")]
    Lost {
        /// The cause.
        reason: String,
    },
    /// An HTTP status other than success, without words of the tracker's own.
    #[error("the tracker answered with HTTP status {status}")]
    Status {
        /// The code and its usual name.
        status: String,
        /// From the header Retry-After.
        retry_in: Option<RetryIn>,
    },
    /// The tracker refused, with its own words.
    #[error(transparent)]
    Refused(TrackerFailure),
    /// The answer has an encoding we did not ask for, or its compression is broken.
    #[error("the tracker's answer cannot be decoded: {reason}")]
    Encoding {
        /// What is wrong with it.
        reason: String,
    },
    /// The answer is no bencoded dictionary.
    #[error("the tracker's answer is not a bencoded dictionary; is this an announce URL?")]
    Malformed,
    /// The answer is larger than any real one.
    #[error("the tracker's answer is larger than {max} bytes")]
    TooLarge {
        /// The limit.
        max: usize,
    },
    /// A redirect that is not followed.
    #[error("a redirect of the tracker to {to} is not followed: {why}")]
    Redirect {
        /// Where it leads, escaped.
        to: String,
        /// Why not.
        why: &'static str,
    },
    /// Too many look-ups wait already.
    #[error("too many names are being looked up at once; the announce is tried again later")]
    Busy,
    /// BEP 48 knows no way from its announce URL to that of scrapes.
    #[error("{url} cannot be scraped: the last part of its path does not begin with \"announce\"")]
    NoScrape {
        /// The announce URL, escaped.
        url: String,
    },
    /// Others got no answer from the host a moment ago, so it was not asked.
    #[error("the tracker's host does not answer: {reason}; it is asked again in {}", seconds(after))]
    HostDown {
        /// What the last of the others met with.
        reason: String,
        /// Until it is asked again.
        after: Duration,
    },
    /// The proxy gives no connection.
    #[error("cannot connect through the proxy: {reason}")]
    Proxy {
        /// What went wrong.
        reason: String,
    },
    /// A UDP tracker while trackers are asked through a proxy that passes no datagrams on.
    #[error("UDP trackers are not asked, as nothing may go past the proxy (proxy.trackers): {reason}")]
    NotThroughProxy {
        /// Why it does not.
        reason: String,
    },
    /// It was not sent: too many wait, or there is no time left.
    #[error("not sent: too many requests wait for trackers")]
    NotSent,
}

impl TrackerError {
    /// When the tracker wants to be asked again, if it said so.
    pub fn retry_in(&self) -> Option<RetryIn> {
        match self {
            Self::Refused(failure) => failure.retry_in,
            Self::Status { retry_in, .. } => *retry_in,
            Self::HostDown { after, .. } => Some(RetryIn::Down(*after)),
            _ => None,
        }
    }

    /// Whether it says that the tracker's host cannot be reached or does not answer: others will fare no better.
    pub(crate) fn is_outage(&self) -> bool {
        matches!(
            self,
            Self::NameLookup { .. }
                | Self::WrongFamily { .. }
                | Self::Connect { .. }
                | Self::TimedOut { .. }
                | Self::Tls { .. }
                | Self::Lost { .. }
        )
    }

    pub(super) fn lost(error: &dyn Error) -> Self {
        Self::Lost { reason: chain(error) }
    }

    pub(super) fn proxy(error: &dyn Error) -> Self {
        Self::Proxy { reason: chain(error) }
    }

    pub(super) fn connect(host: &str, error: &dyn Error) -> Self {
        Self::Connect { host: shown(host), reason: chain(error) }
    }
}

impl From<ReplyError> for TrackerError {
    fn from(error: ReplyError) -> Self {
        match error {
            ReplyError::Malformed => Self::Malformed,
            ReplyError::Refused(failure) => Self::Refused(failure),
        }
    }
}

fn seconds(time: &Duration) -> String {
    format!("{:.3}", time.as_secs_f64()).trim_end_matches('0').trim_end_matches('.').to_owned() + " s"
}

/// An error with its causes, each said once.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            let _ = write!(text, ": {words}");
        }
        next = cause.source();
    }
    clean(&text)
}

/// Bounded, and with spaces for control characters.
pub(super) fn clean(text: &str) -> String {
    text.chars().take(TEXT_CHARS_MAX).map(|c| if is_unsafe_to_show(c) { ' ' } else { c }).collect()
}

/// A URL or host name from a torrent, fit for a log or a terminal: characters that control it are escaped.
pub fn shown(url: &str) -> String {
    let mut text = String::with_capacity(url.len());
    for c in url.chars().take(TEXT_CHARS_MAX) {
        if is_unsafe_to_show(c) { text.extend(c.escape_unicode()) } else { text.push(c) }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_harmless_and_bounded() {
        assert_eq!(shown("http://a\x1b[2J\u{202e}b/\r\n"), "http://a\\u{1b}[2J\\u{202e}b/\\u{d}\\u{a}");
        assert_eq!(clean("a\x1b\nb"), "a  b");
        assert_eq!(shown(&"x".repeat(10_000)).len(), TEXT_CHARS_MAX);
        let error = TrackerError::connect("ho\nst", &std::io::Error::other("bad\x07"));
        assert!(!error.to_string().contains(char::is_control), "{error}");
    }

    #[test]
    fn times_are_shown_short() {
        assert_eq!(seconds(&Duration::from_secs(30)), "30 s");
        assert_eq!(seconds(&Duration::from_millis(1500)), "1.5 s");
        assert_eq!(seconds(&Duration::from_secs(100)), "100 s");
    }
}
