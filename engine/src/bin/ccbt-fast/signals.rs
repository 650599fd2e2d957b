//! SIGINT, SIGTERM and SIGHUP: the first asks for an orderly stop, the second ends the process at once. Where there is a
//! configuration to read again, SIGHUP asks for that, unless it says that the terminal has gone.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

/// What has come so far.
#[derive(Clone, Debug)]
pub struct Signals {
    first: Arc<AtomicUsize>,
    /// The next one to stop ends the process.
    came: Arc<AtomicBool>,
    /// A SIGHUP came that was not looked at.
    hung_up: Arc<AtomicBool>,
    had_terminal: bool,
}

impl Signals {
    /// Takes over the signals. A SIGHUP that is ignored (`nohup`) stays ignored.
    pub fn install() -> io::Result<Self> {
        Self::install_for(false)
    }

    /// As [`Self::install`], for what can read its configuration again: see [`Self::is_reload_wanted`].
    pub fn install_with_reload() -> io::Result<Self> {
        Self::install_for(true)
    }

    fn install_for(reloads: bool) -> io::Result<Self> {
        let this = Self {
            first: Arc::new(AtomicUsize::new(0)),
            came: Arc::new(AtomicBool::new(false)),
            hung_up: Arc::new(AtomicBool::new(false)),
            had_terminal: has_terminal(),
        };
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            if signal == SIGHUP && is_ignored(&status, signal) {
                continue;
            }
            if signal == SIGHUP && reloads {
                flag::register(signal, Arc::clone(&this.hung_up))?;
                continue;
            }
            // In this order: the first signal finds the flag down, sets it, and the second one finds it up.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&this.came))?;
            flag::register(signal, Arc::clone(&this.came))?;
            flag::register_usize(signal, Arc::clone(&this.first), signal as usize)?;
        }
        Ok(this)
    }

    /// Whether a SIGHUP asks for the configuration to be read again. Once for each, or for several that came together.
    pub fn is_reload_wanted(&self) -> bool {
        self.received() != Some(SIGHUP) && self.hung_up.swap(false, Ordering::SeqCst)
    }

    /// The signal to stop that has come, if one has.
    pub fn received(&self) -> Option<i32> {
        if self.hung_up.load(Ordering::SeqCst) && self.had_terminal && !has_terminal() {
            let signal = SIGHUP as usize;
            let _ = self.first.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst);
            self.came.store(true, Ordering::SeqCst);
        }
        match self.first.load(Ordering::SeqCst) {
            0 => None,
            signal => i32::try_from(signal).ok(),
        }
    }
}

/// Whether this process has a terminal that can stop it; none does once it has hung up.
fn has_terminal() -> bool {
    File::open("/dev/tty").is_ok()
}

/// Whether `/proc/self/status` says that `signal` is ignored.
fn is_ignored(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nohup_is_noticed() {
        assert!(is_ignored("Name:\tx\nSigIgn:\t0000000000000001\n", SIGHUP));
        assert!(!is_ignored("Name:\tx\nSigIgn:\t0000000000001000\n", SIGHUP));
        assert!(!is_ignored("", SIGHUP));
    }
}
