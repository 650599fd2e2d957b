//! What the screen knows. Pure.
//!
//! Owner: [`super::show`]; changed by [`super::update`] only. Invariant: `shown` holds indices of `torrents`, filtered and
//! sorted, and `selected` is an info-hash, so that neither sorting nor new torrents move the selection to another one.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::time::Duration;

use ccbt_fast::daemon::api::{Activity, Engine, Stats, Torrent};

use super::watch::{Detail, Watch};

/// Samples that a sparkline may show, one a second.
pub const SAMPLES_MAX: usize = 240;

/// What fills the screen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Page {
    /// All torrents.
    #[default]
    List,
    /// One of them.
    Detail(Tab),
    /// Shards and queues.
    Engine,
}

/// Part of a torrent's page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tab {
    Peers,
    Pieces,
    Files,
    Trackers,
}

impl Tab {
    pub const ALL: [Self; 4] = [Self::Peers, Self::Pieces, Self::Files, Self::Trackers];

    pub fn name(self) -> &'static str {
        match self {
            Self::Peers => "Peers",
            Self::Pieces => "Pieces",
            Self::Files => "Files",
            Self::Trackers => "Trackers",
        }
    }

    /// `by` tabs further, round and round.
    pub fn moved(self, by: isize) -> Self {
        let at = Self::ALL.iter().position(|tab| *tab == self).expect("all are in it") as isize;
        Self::ALL[(at + by).rem_euclid(Self::ALL.len() as isize) as usize]
    }
}

/// By what torrents are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    #[default]
    Queue,
    Name,
    State,
    Done,
    Down,
    Up,
    Peers,
    Ratio,
}

impl Sort {
    pub const ALL: [Self; 8] =
        [Self::Queue, Self::Name, Self::State, Self::Done, Self::Down, Self::Up, Self::Peers, Self::Ratio];

    pub fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Name => "name",
            Self::State => "state",
            Self::Done => "done",
            Self::Down => "download",
            Self::Up => "upload",
            Self::Peers => "peers",
            Self::Ratio => "ratio",
        }
    }

    pub fn next(self) -> Self {
        let at = Self::ALL.iter().position(|sort| *sort == self).expect("all are in it");
        Self::ALL[(at + 1) % Self::ALL.len()]
    }

    /// What is interesting comes first: much before little, `a` before `b`.
    fn compare(self, a: &Torrent, b: &Torrent) -> Ordering {
        let done = |torrent: &Torrent| torrent.bytes_done as f64 / torrent.bytes_total.max(1) as f64;
        match self {
            Self::Queue => place(a).cmp(&place(b)),
            Self::Name => a.name.to_lowercase().cmp(&b.name.to_lowercase()),
            Self::State => state(a.state).cmp(state(b.state)),
            Self::Done => done(b).total_cmp(&done(a)),
            Self::Down => b.down_rate.cmp(&a.down_rate),
            Self::Up => b.up_rate.cmp(&a.up_rate),
            Self::Peers => b.peers.cmp(&a.peers),
            Self::Ratio => b.ratio.total_cmp(&a.ratio),
        }
    }
}

/// Those that are not in the queue come last.
fn place(torrent: &Torrent) -> usize {
    torrent.position.checked_sub(1).unwrap_or(usize::MAX)
}

/// A word for what a torrent does.
pub fn state(state: Activity) -> &'static str {
    match state {
        Activity::FetchingMetadata => "metadata",
        Activity::Opening => "opening",
        Activity::Checking => "checking",
        Activity::Downloading => "downloading",
        Activity::Seeding => "seeding",
        Activity::Moving => "moving",
        Activity::Queued => "queued",
        Activity::Paused => "paused",
        Activity::Error => "error",
        Activity::Removing => "removing",
    }
}

/// What is asked of whoever types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// Text that shown names contain.
    Filter,
    /// A rate.
    Limit {
        /// `None`: of all torrents together.
        torrent: Option<(String, String)>,
        down: bool,
        text: String,
        problem: Option<String>,
    },
    /// Whether to hash a torrent again: info-hash and name.
    Recheck(String, String),
    /// Whether to remove a torrent, and its files.
    Remove(String, String),
}

/// Rates of the last minutes, the newest last.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub down: VecDeque<u64>,
    pub up: VecDeque<u64>,
}

impl History {
    pub fn add(&mut self, down: u64, up: u64) {
        for (samples, rate) in [(&mut self.down, down), (&mut self.up, up)] {
            if samples.len() == SAMPLES_MAX {
                samples.pop_front();
            }
            samples.push_back(rate);
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Model {
    pub page: Page,
    pub help: bool,
    pub prompt: Option<Prompt>,
    pub sort: Sort,
    pub is_reversed: bool,
    pub filter: String,
    pub torrents: Vec<Torrent>,
    pub shown: Vec<usize>,
    pub selected: Option<String>,
    pub stats: Option<Stats>,
    pub history: History,
    /// The torrent of the page, or why there is nothing to show.
    pub detail: Option<Result<Box<Detail>, String>>,
    pub detail_history: History,
    /// Lines passed over in a page.
    pub scroll: usize,
    /// Shards and queues now, and before, with the seconds between.
    pub engine: Option<Engine>,
    pub engine_before: Option<(Engine, f64)>,
    pub engine_at: Duration,
    /// What became of the last thing that was asked for.
    pub notice: Option<Result<String, String>>,
    /// Why the daemon does not answer.
    pub lost: Option<String>,
}

impl Model {
    /// What the daemon is to be asked for.
    pub fn watch(&self) -> Watch {
        let is_detail = matches!(self.page, Page::Detail(_));
        let torrent = if is_detail { self.selected.clone() } else { None };
        Watch { torrent, engine: self.page == Page::Engine }
    }

    /// Filters and sorts anew.
    pub fn arrange(&mut self) {
        let wanted = self.filter.to_lowercase();
        let torrents = &self.torrents;
        let fits = |torrent: &Torrent| {
            wanted.is_empty()
                || torrent.name.to_lowercase().contains(&wanted)
                || torrent.info_hash.starts_with(&wanted)
                || state(torrent.state) == wanted
        };
        self.shown = (0..torrents.len()).filter(|at| fits(&torrents[*at])).collect();
        let (sort, is_reversed) = (self.sort, self.is_reversed);
        self.shown.sort_by(|a, b| {
            let (a, b) = (&torrents[*a], &torrents[*b]);
            let order = sort.compare(a, b);
            let order = if is_reversed { order.reverse() } else { order };
            order.then_with(|| place(a).cmp(&place(b))).then_with(|| a.info_hash.cmp(&b.info_hash))
        });
        // A page keeps its torrent although a filter hides it.
        if self.page == Page::List && self.position().is_none() {
            self.selected = self.shown.first().map(|at| self.torrents[*at].info_hash.clone());
        }
    }

    /// Where the selection is among those that are shown.
    pub fn position(&self) -> Option<usize> {
        let hash = self.selected.as_ref()?;
        self.shown.iter().position(|at| self.torrents[*at].info_hash == *hash)
    }

    /// The torrent that keys are about.
    pub fn torrent(&self) -> Option<&Torrent> {
        let hash = self.selected.as_ref()?;
        self.torrents.iter().find(|torrent| torrent.info_hash == *hash)
    }

    /// Moves the selection, or what a page shows, by so many lines.
    pub fn step(&mut self, by: isize) {
        if self.page != Page::List {
            self.scroll = self.scroll.saturating_add_signed(by);
            return;
        }
        let Some(last) = self.shown.len().checked_sub(1) else { return };
        let at = self.position().map_or(0, |at| at.saturating_add_signed(by).min(last));
        self.selected = Some(self.torrents[self.shown[at]].info_hash.clone());
    }

    /// Another page.
    pub fn turn_to(&mut self, page: Page) {
        (self.page, self.scroll) = (page, 0);
        if !matches!(page, Page::Detail(_)) {
            (self.detail, self.detail_history) = (None, History::default());
        }
        if page != Page::Engine {
            (self.engine, self.engine_before) = (None, None);
        }
        self.arrange();
    }
}
