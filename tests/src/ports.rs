//! Free loopback ports for clients that must be told a number.
//!
//! Owner: the harness. Invariant: a port is handed out once per process and was free a moment ago; the range lies below
//! the kernel's ephemeral ports, so no outgoing connection takes it in between.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

const FIRST: u32 = 12_000;
const COUNT: u32 = 19_000;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A port on which nobody listens.
///
/// Panics when the whole range is taken.
pub fn free_port() -> u16 {
    // Test processes that run side by side start at different places.
    let start = process::id().wrapping_mul(2_654_435_761) % COUNT;
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(FIRST + (start + step) % COUNT).expect("the range ends below 65536");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}

/// 127.0.0.1 with `port`.
pub fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}
