//! Which kernel takes how many of the messages that wait.
//!
//! Role: [`Backend`] is the set of kernels in use, normally all that the CPU has, and the rule that cuts a batch of
//! messages into groups for them. The thresholds are measured (`ccbt-bench hash` prints the crossover of the machine
//! it runs on and whether the rule agrees); what differs stands with each [`Algorithm`]. Owner: a value without state.
//! Invariant: it names no kernel that the CPU lacks.

use std::fmt;

use super::algorithm::Algorithm;
use super::kernel::{Block, Kernel};

/// Most messages that any backend advances at once.
pub const LANES_MAX: usize = 16;

/// From how many messages on AVX-512 beats the portable kernel one by one: 1.4 GB/s against 1.2 (SHA-1) and 0.7
/// against 0.5 (SHA-256) for two.
const AVX512_OVER_PORTABLE: usize = 2;

/// From how many messages on AVX2 beats the portable kernel one by one: for two, 1.0 GB/s against 1.2 (SHA-1) and
/// 0.5 of both (SHA-256); for three, 1.5 and 0.7.
const AVX2_OVER_PORTABLE: usize = 3;

/// The kernels in use.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Backend {
    avx2: bool,
    sha_ni: bool,
    avx512: bool,
}

impl Backend {
    /// All kernels that this CPU has. The CPU is asked once per process; later calls are a few loads.
    pub fn detect() -> Self {
        Self::admit(Kernel::is_available)
    }

    /// These kernels and the portable one, for measurements and differential tests. `None` when this CPU lacks one.
    pub fn of(kernels: &[Kernel]) -> Option<Self> {
        let all_here = kernels.iter().all(|kernel| kernel.is_available());
        all_here.then(|| Self::admit(|kernel| kernels.contains(&kernel)))
    }

    fn admit(uses: impl Fn(Kernel) -> bool) -> Self {
        Self { avx2: uses(Kernel::Avx2), sha_ni: uses(Kernel::ShaNi), avx512: uses(Kernel::Avx512) }
    }

    /// Messages at once that give the highest throughput; more do not help. At most [`LANES_MAX`].
    pub fn lanes(self) -> usize {
        let best = match self {
            Self { avx512: true, .. } => Kernel::Avx512,
            Self { sha_ni: true, .. } => Kernel::ShaNi,
            Self { avx2: true, .. } => Kernel::Avx2,
            _ => Kernel::Portable,
        };
        best.lanes()
    }

    /// For people: the kernels that are used, best first.
    pub fn name(self) -> &'static str {
        match self {
            Self { avx512: true, sha_ni: true, .. } => "AVX-512 and SHA-NI",
            Self { avx512: true, .. } => "AVX-512",
            Self { sha_ni: true, .. } => "SHA-NI",
            Self { avx2: true, .. } => "AVX2",
            _ => "portable",
        }
    }

    /// The kernel for the first of `waiting` messages, and how many of them it should take.
    /// Panics when none wait.
    pub fn group<A: Algorithm>(self, waiting: usize) -> (Kernel, usize) {
        assert!(waiting > 0, "a group of no messages");
        let avx512_from = if self.sha_ni { A::AVX512_OVER_SHA_NI } else { AVX512_OVER_PORTABLE };
        if self.avx512 && waiting >= avx512_from {
            (Kernel::Avx512, waiting.min(Kernel::Avx512.lanes()))
        } else if self.sha_ni {
            // Three and two are faster than four and a lonely one.
            (Kernel::ShaNi, if waiting == 5 { 3 } else { waiting.min(Kernel::ShaNi.lanes()) })
        } else if self.avx2 && waiting >= AVX2_OVER_PORTABLE {
            (Kernel::Avx2, waiting.min(Kernel::Avx2.lanes()))
        } else {
            (Kernel::Portable, 1)
        }
    }

    /// Takes `blocks[n]` into `states[n]`. Panics when not all have equally many blocks.
    pub(super) fn compress<A: Algorithm>(self, mut states: &mut [A::State], mut blocks: &[&[Block]]) {
        assert_eq!(states.len(), blocks.len(), "blocks for each lane");
        while !states.is_empty() {
            let (kernel, count) = self.group::<A>(states.len());
            let (these, others) = states.split_at_mut(count);
            kernel.compress::<A>(these, &blocks[..count]);
            (states, blocks) = (others, &blocks[count..]);
        }
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
