//! Limits of this process, raised as far as the system allows without asking.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors counted on when there is no limit.
const UNLIMITED_DESCRIPTORS: u64 = 1 << 20;

/// Raises open descriptors and lockable memory to their hard limits. Returns how many descriptors may be
/// open.
pub fn raise() -> usize {
    raise_to_hard(Resource::Memlock);
    raise_to_hard(Resource::Nofile);
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(UNLIMITED_DESCRIPTORS);
    usize::try_from(descriptors.min(UNLIMITED_DESCRIPTORS)).expect("2^20 at most")
}

fn raise_to_hard(resource: Resource) {
    let limit = getrlimit(resource);
    if limit.current != limit.maximum {
        // Refused: what there is has to do, and the engine says so if it does not.
        let _ = setrlimit(resource, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
}
