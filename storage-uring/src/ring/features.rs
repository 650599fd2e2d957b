//! What of io_uring is used where the kernel has it, and done without where it has not.
//!
//! Role: one answer for all rings of the process, found out by whoever asks first. Invariant: a ring is never asked for
//! what is not in its [`Features`], so nothing depends on how an older kernel refuses it. [`VARIABLE`] names features
//! that are not to be used although they are there: for kernels that have them wrong, and for tests. Called by the rings
//! of storage and shards, and by `ccbt-fast doctor`.

use std::io;
use std::sync::OnceLock;

use io_uring::{IoUring, Probe, opcode};

/// Names of features between commas ([`Feature::name`]), or `all`.
pub const VARIABLE: &str = "CCBT_RING_WITHOUT";

/// What can be done without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Feature {
    /// `IORING_SETUP_SINGLE_ISSUER` and `IORING_SETUP_DEFER_TASKRUN`: completions are made when the thread asks for them.
    /// Without: as with [`Self::CoopTaskrun`].
    DeferTaskrun,
    /// `IORING_SETUP_COOP_TASKRUN`: completions interrupt no thread. Without: they do.
    CoopTaskrun,
    /// `IORING_ACCEPT_MULTISHOT`. Without: an operation for each connection.
    AcceptMulti,
    /// `IORING_RECVSEND_POLL_FIRST`. Without: a receive looks at an empty socket before it waits.
    PollFirst,
    /// `IORING_OP_SENDMSG_ZC`. Without: payload is copied.
    SendmsgZc,
    /// `IORING_REGISTER_IOWQ_MAX_WORKERS`. Without: the kernel chooses how many of its threads wait for slow operations.
    WorkerLimit,
}

impl Feature {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::DeferTaskrun,
        Self::CoopTaskrun,
        Self::AcceptMulti,
        Self::PollFirst,
        Self::SendmsgZc,
        Self::WorkerLimit,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::DeferTaskrun => "defer-taskrun",
            Self::CoopTaskrun => "coop-taskrun",
            Self::AcceptMulti => "accept-multi",
            Self::PollFirst => "poll-first",
            Self::SendmsgZc => "sendmsg-zc",
            Self::WorkerLimit => "worker-limit",
        }
    }

    /// The Linux that brought it.
    pub fn since(self) -> &'static str {
        match self {
            Self::DeferTaskrun | Self::SendmsgZc => "6.1",
            Self::CoopTaskrun | Self::AcceptMulti | Self::PollFirst => "5.19",
            Self::WorkerLimit => "5.15",
        }
    }
}

/// A set of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features(u8);

impl Features {
    /// None.
    pub const NONE: Self = Self(0);

    /// Whether `feature` is among them.
    pub fn has(self, feature: Feature) -> bool {
        self.0 & 1 << feature as u8 != 0
    }

    /// With `feature` if `is_there`.
    fn and(self, feature: Feature, is_there: bool) -> Self {
        Self(self.0 | u8::from(is_there) << feature as u8)
    }

    /// Those that `text` does not name; what it names that is none.
    fn without(self, text: &str) -> (Self, Vec<&str>) {
        let (mut left, mut unknown) = (self, Vec::new());
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            match Feature::ALL.into_iter().find(|feature| feature.name() == name) {
                Some(feature) => left.0 &= !(1 << feature as u8),
                None if name == "all" => left = Self::NONE,
                None => unknown.push(name),
            }
        }
        (left, unknown)
    }
}

/// What this kernel has, but for what [`VARIABLE`] names. Errors: no ring can be made, now or at all.
pub fn features() -> io::Result<Features> {
    static FOUND: OnceLock<Features> = OnceLock::new();
    if let Some(found) = FOUND.get() {
        return Ok(*found);
    }
    let there = of_kernel()?;
    let text = std::env::var(VARIABLE).unwrap_or_default();
    let (left, unknown) = there.without(&text);
    if FOUND.set(left).is_ok() && !unknown.is_empty() {
        tracing::warn!(?unknown, "{VARIABLE} names what is no feature");
    }
    Ok(left)
}

/// What this kernel has. Errors: as [`features`].
pub fn of_kernel() -> io::Result<Features> {
    let takes = |ring: io::Result<IoUring>| match ring {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) => Err(error),
    };
    let defer =
        takes(IoUring::builder().setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag().build(1))?;
    let coop = takes(IoUring::builder().setup_coop_taskrun().setup_taskrun_flag().build(1))?;
    let ring = IoUring::new(1)?;
    let mut known = Probe::new();
    ring.submitter().register_probe(&mut known)?;
    // The flags of accept and receive cannot be asked for; this operation came with them.
    let is_5_19 = known.is_supported(opcode::Socket::CODE);
    Ok(Features::NONE
        .and(Feature::DeferTaskrun, defer)
        .and(Feature::CoopTaskrun, coop)
        .and(Feature::AcceptMulti, is_5_19)
        .and(Feature::PollFirst, is_5_19)
        .and(Feature::SendmsgZc, known.is_supported(opcode::SendMsgZc::CODE))
        .and(Feature::WorkerLimit, ring.submitter().register_iowq_max_workers(&mut [0, 0]).is_ok()))
}

/// A ring of `entries`, with `completions` of them if given, made in the best way that `features` has.
pub fn setup(features: Features, entries: u32, completions: Option<u32>) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    if let Some(completions) = completions {
        builder.setup_cqsize(completions);
    }
    if features.has(Feature::DeferTaskrun) {
        builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
    } else if features.has(Feature::CoopTaskrun) {
        builder.setup_coop_taskrun().setup_taskrun_flag();
    }
    builder.build(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_taken_away_by_name() {
        let all = Feature::ALL.into_iter().fold(Features::NONE, |set, feature| set.and(feature, true));
        for feature in Feature::ALL {
            let (left, unknown) = all.without(feature.name());
            let lost: Vec<Feature> = Feature::ALL.into_iter().filter(|other| !left.has(*other)).collect();
            assert_eq!((lost, unknown), (vec![feature], vec![]));
        }
        assert_eq!(all.without("all"), (Features::NONE, vec![]));
        assert_eq!(all.without(""), (all, vec![]));
        let (left, unknown) = all.without("poll-first, x ,sendmsg-zc");
        assert_eq!((left.0.count_ones(), unknown), (4, vec!["x"]));
        for features in [of_kernel().unwrap(), Features::NONE] {
            setup(features, 8, Some(64)).unwrap();
        }
    }
}
