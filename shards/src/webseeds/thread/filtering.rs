//! What the web seed thread does when another IP filter comes.

use super::*;

impl Worker {
    /// Asks nobody whom `filter` has from now on; requests that are under way there end.
    pub(super) fn set_filter(&mut self, filter: ipfilter::Shared) {
        self.filter = filter.clone();
        self.idle.retain(|idle| !is_blocked(&filter, idle.conn.peer()));
        for at in (0..self.jobs.len()).rev() {
            let peer = match &mut self.jobs[at].stage {
                Stage::Connecting(conn, rest) => {
                    rest.retain(|addr| !is_blocked(&filter, addr.ip()));
                    conn.peer()
                }
                Stage::Certificates(conn)
                | Stage::Head(conn, _)
                | Stage::Body(conn, _)
                | Stage::Between(Some(conn)) => conn.peer(),
                Stage::Queued | Stage::Name(_) | Stage::Between(None) => continue,
            };
            if is_blocked(&filter, peer) {
                self.finish(Instant::now(), at, Err(filtered()));
            }
        }
    }
}

/// Why a server is not asked.
pub(super) fn filtered() -> Failure {
    Failure::Unreachable("the IP filter has its address".to_owned())
}
