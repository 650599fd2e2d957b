//! What is logged, where to, and as what.
//!
//! Role: the values of the keys `observability.log_*`, and which records they let through. Called by the command line.

use std::path::PathBuf;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;

/// Target of records about single peers.
const PEERS: &str = "ccbt_shards::peers";
/// Target of what is said with the peer that `observability.trace_peer` names; nothing else is told there.
pub(crate) const WIRE: &str = "ccbt_fast::wire";

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// Where no directive says otherwise.
    pub level: LevelFilter,
    /// Directives as [`directives`] takes them.
    pub filter: Option<String>,
    /// Where to; `None`: standard error.
    pub file: Option<PathBuf>,
    /// One JSON object a record.
    pub json: bool,
    /// A file that would become longer makes way for a new one; `None`: never.
    pub file_bytes: Option<u64>,
    /// Files that are kept, the present one included.
    pub files: usize,
    /// Records about single peers, whatever the level is.
    pub peer_tracing: bool,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            level: LevelFilter::WARN,
            filter: None,
            file: None,
            json: false,
            file_bytes: Some(10 << 20),
            files: 5,
            peer_tracing: false,
        }
    }
}

impl LogSettings {
    /// Which records are let through.
    pub fn targets(&self) -> Targets {
        let mut targets = Targets::new().with_default(self.level).with_target(WIRE, LevelFilter::INFO);
        if self.peer_tracing {
            targets = targets.with_target(PEERS, LevelFilter::DEBUG);
        }
        for (target, level) in self.filter.as_deref().and_then(directives).unwrap_or_default() {
            targets = match target {
                Some(target) => targets.with_target(target, level),
                None => targets.with_default(level),
            };
        }
        targets
    }
}

/// Directives between commas: `target=level` for the records of a module and those below it, or a level for all others.
/// The longest target counts. `None`: it is not well-formed.
pub fn directives(text: &str) -> Option<Vec<(Option<String>, LevelFilter)>> {
    // An empty level would be read as one, and a number.
    let level = |text: &str| {
        let is_word = text.chars().all(|c| c.is_ascii_alphabetic()) && !text.is_empty();
        is_word.then(|| text.parse().ok()).flatten()
    };
    let is_target = |text: &str| {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '-');
        !text.is_empty() && text.chars().all(fits)
    };
    let directive = |text: &str| match text.split_once('=') {
        Some((target, text)) if is_target(target.trim()) => {
            Some((Some(target.trim().to_owned()), level(text.trim())?))
        }
        Some(_) => None,
        None => Some((None, level(text.trim())?)),
    };
    text.split(',').map(directive).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    fn of(filter: &str) -> Targets {
        LogSettings { filter: Some(filter.to_owned()), ..LogSettings::default() }.targets()
    }

    #[test]
    fn directives_choose_by_module_and_level() {
        let targets = of("info,ccbt_shards=debug, ccbt_shards::conns=off");
        assert!(targets.would_enable("ccbt_fast", &Level::INFO));
        assert!(!targets.would_enable("ccbt_fast", &Level::DEBUG));
        assert!(targets.would_enable("ccbt_shards::dialling", &Level::DEBUG));
        assert!(!targets.would_enable("ccbt_shards::conns", &Level::ERROR));
        for wrong in ["", "loud", "a=", "=info", "a=b=c", "a b=info", "info,,warn", "ccbt_shards"] {
            assert_eq!(directives(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn peers_are_shown_when_asked_for_and_the_wire_always() {
        let peers = |settings: LogSettings| settings.targets().would_enable(PEERS, &Level::DEBUG);
        assert!(!peers(LogSettings::default()));
        assert!(peers(LogSettings { peer_tracing: true, ..LogSettings::default() }));
        assert!(of("off").would_enable(WIRE, &Level::INFO), "it was asked for by name");
        assert!(!of("ccbt_fast::wire=off").would_enable(WIRE, &Level::INFO));
    }
}
