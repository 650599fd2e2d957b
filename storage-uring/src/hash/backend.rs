//! Which kernel takes how many of the messages that wait.
//!
//! Role: [`Backend`] is the set of kernels in use, normally all that the CPU has, and cuts a batch of messages into
//! groups for them by its [`Plan`]. Owner: a value without state. Invariant: it names no kernel that the CPU lacks.

use std::fmt;

use super::algorithm::Algorithm;
use super::kernel::{Block, Kernel};
use super::plan::Plan;

/// Most messages that any backend advances at once.
pub const LANES_MAX: usize = 16;

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
    pub fn lanes<A: Algorithm>(self) -> usize {
        self.plan::<A>().lanes()
    }

    fn plan<A: Algorithm>(self) -> &'static Plan {
        let at = usize::from(self.avx2) | usize::from(self.sha_ni) << 1 | usize::from(self.avx512) << 2;
        A::plans()[at].get_or_init(|| {
            Plan::measured::<A>(Kernel::ALL.into_iter().filter(move |kernel| self.uses(*kernel)))
        })
    }

    fn uses(self, kernel: Kernel) -> bool {
        match kernel {
            Kernel::Portable => true,
            Kernel::Avx2 => self.avx2,
            Kernel::ShaNi => self.sha_ni,
            Kernel::Avx512 => self.avx512,
        }
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
        self.plan::<A>().group(waiting)
    }

    /// Takes `blocks[n]` into `states[n]`. Panics when not all have equally many blocks.
    pub(super) fn compress<A: Algorithm>(self, mut states: &mut [A::State], mut blocks: &[&[Block]]) {
        assert_eq!(states.len(), blocks.len(), "blocks for each lane");
        let plan = self.plan::<A>();
        while !states.is_empty() {
            let (kernel, count) = plan.group(states.len());
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
