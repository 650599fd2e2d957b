//! Whom to announce to, when, and what: the tiers of BEP 12 with back-off and the life cycle of events.
//!
//! Owner: the torrent's home shard, which calls [`Announcer::poll`] at [`Announcer::next_wakeup`], sends what it gets
//! and reports each announce's end with [`Announcer::on_response`] or [`Announcer::on_failure`]. Invariants: at most one
//! announce is under way per group (a tier, or all tiers, see [`SchedulePlan`]); `started` is repeated to a tracker until
//! it answers one; `completed` and `stopped` go only to trackers that answered a `started`, and each is answered at most
//! once; no tracker is asked before its back-off has passed.

use super::{AnnounceResponse, Event, INTERVAL_MIN, RetryIn};
use rand::{Rng, RngExt};
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// Most trackers kept of one torrent; the rest is dropped.
pub const TRACKERS_MAX: usize = 200;

/// Longest delay of a regular announce that keeps torrents apart.
const LATER_MAX: Duration = Duration::from_secs(5 * 60);

/// How an announcer behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedulePlan {
    /// Keep one working tracker in every tier, as qBittorrent does. Off, there is one working tracker overall, as BEP 12
    /// says plainly.
    pub announce_to_all_tiers: bool,
    /// Wait after a tracker's first failure; doubled by each further one.
    pub backoff_base: Duration,
    /// Longest wait after a failure.
    pub backoff_max: Duration,
}

impl Default for SchedulePlan {
    /// All tiers; 5 s doubling up to 30 min.
    fn default() -> Self {
        Self {
            announce_to_all_tiers: true,
            backoff_base: Duration::from_secs(5),
            backoff_max: Duration::from_secs(30 * 60),
        }
    }
}

/// Names one tracker of one torrent: its position in the torrent's list, before shuffling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrackerIndex(pub usize);

/// Names one announce, so that an answer that comes too late is not taken for another one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AnnounceToken {
    /// The tracker asked.
    pub tracker: TrackerIndex,
    serial: u64,
}

/// An announce to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announce {
    /// To be handed back with the result.
    pub token: AnnounceToken,
    /// The tracker's announce URL.
    pub url: String,
    /// What to tell it.
    pub event: Event,
    /// The tracker id it gave us earlier.
    pub tracker_id: Option<Vec<u8>>,
}

/// What is known of one tracker, for display.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackerStatus {
    /// Its announce URL.
    pub url: String,
    /// Its tier, from 0.
    pub tier: usize,
    /// Failures since the last answer.
    pub failures: u32,
    /// Whether an announce is under way.
    pub announcing: bool,
    /// When it answered last.
    pub answered: Option<Instant>,
    /// The last failure's text, until the next answer.
    pub error: Option<String>,
    /// The warning in its last answer.
    pub warning: Option<String>,
    /// Complete peers in its last answer.
    pub seeders: Option<u32>,
    /// Incomplete peers in its last answer.
    pub leechers: Option<u32>,
}

#[derive(Debug)]
struct Tracker {
    status: TrackerStatus,
    tracker_id: Option<Vec<u8>>,
    /// It answered a `started` of this session.
    started: bool,
    owes_completed: bool,
    stopped_sent: bool,
    in_flight: Option<(u64, Event)>,
    /// Before this, not even a forced announce without an event.
    min_at: Instant,
    /// End of the back-off; `None` after "never ask again" (BEP 31).
    retry_at: Option<Instant>,
    /// The tracker wants it so.
    has_asked_to_wait: bool,
}

impl Tracker {
    fn event(&self) -> Event {
        match (self.started, self.owes_completed) {
            (false, _) => Event::Started,
            (true, true) => Event::Completed,
            (true, false) => Event::None,
        }
    }
}

/// Trackers of which one is announced to at a time.
#[derive(Debug)]
struct Group {
    /// The tiers' orders one after the other. Within a tier the order changes, tiers never mix.
    order: Vec<usize>,
    next_at: Instant,
}

/// The announce schedule of one torrent.
#[derive(Debug)]
pub struct Announcer {
    plan: SchedulePlan,
    trackers: Vec<Tracker>,
    groups: Vec<Group>,
    stopping: bool,
    serial: u64,
}

impl Announcer {
    /// A schedule whose first announces are due at `now`. Each tier is shuffled once, as BEP 12 asks. URLs of other
    /// schemes than http, https and udp, repeats, and those beyond [`TRACKERS_MAX`] are left out.
    pub fn new(plan: SchedulePlan, tiers: &[Vec<String>], now: Instant, rng: &mut impl Rng) -> Self {
        let mut this = Self { plan, trackers: Vec::new(), groups: Vec::new(), stopping: false, serial: 0 };
        let mut seen = HashSet::new();
        for (tier, urls) in tiers.iter().enumerate() {
            let mut order = Vec::new();
            for url in urls.iter().filter(|url| is_supported(url)) {
                if this.trackers.len() < TRACKERS_MAX && seen.insert(url) {
                    order.push(this.trackers.len());
                    this.trackers.push(Tracker::new(url, tier, now));
                }
            }
            for i in (1..order.len()).rev() {
                order.swap(i, rng.random_range(0..=i));
            }
            match this.groups.last_mut() {
                Some(group) if !plan.announce_to_all_tiers => group.order.extend(order),
                _ if order.is_empty() => {}
                _ => this.groups.push(Group { order, next_at: now }),
            }
        }
        this
    }

    /// What is known of each tracker, by [`TrackerIndex`].
    pub fn statuses(&self) -> impl ExactSizeIterator<Item = &TrackerStatus> {
        self.trackers.iter().map(|tracker| &tracker.status)
    }

    /// When [`Announcer::poll`] has something next, unless another call comes before; `None` when it has nothing until
    /// then (announces under way, or no tracker left to ask). Never earlier than `now`.
    pub fn next_wakeup(&self, now: Instant) -> Option<Instant> {
        if self.stopping {
            return self.trackers.iter().any(Tracker::owes_stopped).then_some(now);
        }
        (0..self.groups.len()).filter_map(|group| self.due(group, now)).min().map(|at| at.max(now))
    }

    /// An announce to send now. To be called until it returns `None`.
    pub fn poll(&mut self, now: Instant) -> Option<Announce> {
        if self.stopping {
            let tracker = self.trackers.iter().position(Tracker::owes_stopped)?;
            self.trackers[tracker].stopped_sent = true;
            return Some(self.announce(tracker, Event::Stopped));
        }
        let group = (0..self.groups.len()).find(|group| self.due(*group, now).is_some_and(|at| at <= now))?;
        let tracker = self.candidate(group, now).expect("a group that is due has a tracker to ask");
        let event = self.trackers[tracker].event();
        Some(self.announce(tracker, event))
    }

    /// The tracker answered. Late answers, of announces given up meanwhile, are ignored.
    ///
    /// Torrents that began together do not stay together: where the tracker says that sooner is welcome (`min interval`),
    /// the second announce comes somewhere in the second half of the interval and each later one up to a tenth of it
    /// sooner; elsewhere each comes up to a tenth later, and five minutes at most.
    pub fn on_response(
        &mut self,
        now: Instant,
        token: AnnounceToken,
        response: &AnnounceResponse,
        rng: &mut impl Rng,
    ) {
        let Some((index, event)) = self.take_in_flight(token) else { return };
        let tracker = &mut self.trackers[index];
        let status = &mut tracker.status;
        (status.failures, status.error, status.answered) = (0, None, Some(now));
        status.warning.clone_from(&response.warning);
        status.seeders = response.seeders.or(status.seeders);
        status.leechers = response.leechers.or(status.leechers);
        match event {
            Event::Started => tracker.started = true,
            Event::Completed => tracker.owes_completed = false,
            Event::Stopped => return,
            Event::None => {}
        }
        if response.tracker_id.is_some() {
            tracker.tracker_id.clone_from(&response.tracker_id);
        }
        tracker.retry_at = Some(now);
        let min_interval = response.min_interval.unwrap_or(INTERVAL_MIN);
        tracker.min_at = now + min_interval;
        let (tier, has_more_to_tell) = (tracker.status.tier, tracker.event() != Event::None);
        let group = self.group_of(index);
        self.move_to_front_of_tier(group, index, tier);
        let wait = spread(response.interval, response.min_interval, event == Event::Started, rng);
        self.groups[group].next_at = if has_more_to_tell { now } else { now + wait.max(min_interval) };
    }

    /// The announce could not be sent for reasons of our own: it is due again at `until`, and says nothing about its tracker.
    pub fn on_deferred(&mut self, token: AnnounceToken, until: Instant) {
        let Some((index, event)) = self.take_in_flight(token) else { return };
        if event != Event::Stopped {
            let group = self.group_of(index);
            self.groups[group].next_at = until;
        }
    }

    /// The announce failed: no answer, a broken one, or a refusal with the tracker's wish when to try again (BEP 31).
    pub fn on_failure(
        &mut self,
        now: Instant,
        token: AnnounceToken,
        reason: &str,
        retry_in: Option<RetryIn>,
        rng: &mut impl Rng,
    ) {
        let Some((index, event)) = self.take_in_flight(token) else { return };
        let doublings = self.trackers[index].status.failures.min(20);
        let wait = self.plan.backoff_base.saturating_mul(1 << doublings).min(self.plan.backoff_max);
        let jitter = wait.mul_f64(rng.random_range(0.0..0.25));
        let tracker = &mut self.trackers[index];
        tracker.status.failures = tracker.status.failures.saturating_add(1);
        tracker.status.error = Some(reason.to_owned());
        if event == Event::Stopped {
            return;
        }
        let backoff = (wait + jitter).min(self.plan.backoff_max);
        tracker.has_asked_to_wait = matches!(retry_in, Some(RetryIn::After(_) | RetryIn::Never));
        tracker.retry_at = match retry_in {
            Some(RetryIn::Never) => None,
            Some(RetryIn::After(least) | RetryIn::Down(least)) => Some(now + backoff.max(least)),
            None => Some(now + backoff),
        };
        let group = self.group_of(index);
        self.groups[group].next_at = now;
    }

    /// More peers are wanted, or a user asks: announces become due as soon as min intervals and back-offs allow.
    pub fn announce_now(&mut self, now: Instant) {
        for group in &mut self.groups {
            group.next_at = group.next_at.min(now);
        }
    }

    /// What failed may have failed for want of a network of our own: back-offs end, and announces become due as soon as min
    /// intervals and trackers that said when to come again (BEP 31) allow.
    pub fn forgive(&mut self, now: Instant) {
        for tracker in self.trackers.iter_mut().filter(|tracker| !tracker.has_asked_to_wait) {
            tracker.status.failures = 0;
            tracker.retry_at = tracker.retry_at.map(|at| at.min(now));
        }
        self.announce_now(now);
    }

    /// The download has become complete. To be called once, and not for a torrent that was complete when started.
    /// Trackers that know us as incomplete are told `completed`; the others learn it from `left` in their `started`.
    pub fn on_completed(&mut self, now: Instant) {
        for tracker in &mut self.trackers {
            tracker.owes_completed = tracker.started || tracker.in_flight.is_some();
        }
        for group in 0..self.groups.len() {
            if self
                .candidate(group, now)
                .is_some_and(|tracker| self.trackers[tracker].event() == Event::Completed)
            {
                self.groups[group].next_at = now;
            }
        }
    }

    /// Ends the session: the `stopped` announces to send now, one for each tracker that answered a `started`. Announces
    /// under way are given up, but for unanswered `started`s: should one be answered yet, [`Announcer::poll`] has the
    /// `stopped` for it. A `stopped` is not repeated when it fails.
    pub fn stop(&mut self, now: Instant) -> Vec<Announce> {
        self.stopping = true;
        for tracker in &mut self.trackers {
            // A `completed` under way is waited for: overtaken by `stopped` it would bring us back to life.
            let regular = matches!(tracker.in_flight, Some((_, Event::None)));
            if tracker.started && !tracker.stopped_sent && regular {
                tracker.in_flight = None;
            }
        }
        std::iter::from_fn(|| self.poll(now)).collect()
    }

    /// Begins a new session after [`Announcer::stop`]: every tracker is due its `started`, whatever it answered before.
    pub fn restart(&mut self, now: Instant) {
        self.stopping = false;
        for tracker in &mut self.trackers {
            let status = std::mem::replace(&mut tracker.status, TrackerStatus::new("", 0));
            *tracker = Tracker::new(&status.url, status.tier, now);
        }
        for group in &mut self.groups {
            group.next_at = now;
        }
    }

    /// First tracker in order that may be asked at `now`. Min intervals do not count: a tracker that wants to be left
    /// alone for a while is no reason to turn to the next one.
    fn candidate(&self, group: usize, now: Instant) -> Option<usize> {
        let may_ask = |index: &&usize| self.trackers[**index].retry_at.is_some_and(|at| at <= now);
        self.groups[group].order.iter().find(may_ask).copied()
    }

    /// When `group` has an announce, as things stand at `now`; `None` while one is under way or none can be asked.
    fn due(&self, group: usize, now: Instant) -> Option<Instant> {
        let Group { order, next_at } = &self.groups[group];
        if order.iter().any(|index| self.trackers[*index].in_flight.is_some()) {
            return None;
        }
        let Some(candidate) = self.candidate(group, now) else {
            let retry_at = order.iter().filter_map(|index| self.trackers[*index].retry_at).min()?;
            return Some(retry_at.max(*next_at));
        };
        let tracker = &self.trackers[candidate];
        Some(if tracker.event() == Event::None { tracker.min_at.max(*next_at) } else { *next_at })
    }

    fn announce(&mut self, index: usize, event: Event) -> Announce {
        self.serial += 1;
        let tracker = &mut self.trackers[index];
        tracker.in_flight = Some((self.serial, event));
        tracker.status.announcing = true;
        Announce {
            token: AnnounceToken { tracker: TrackerIndex(index), serial: self.serial },
            url: tracker.status.url.clone(),
            event,
            tracker_id: tracker.tracker_id.clone(),
        }
    }

    fn take_in_flight(&mut self, token: AnnounceToken) -> Option<(usize, Event)> {
        let index = token.tracker.0;
        let tracker = self.trackers.get_mut(index)?;
        let (_, event) = tracker.in_flight.take_if(|(serial, _)| *serial == token.serial)?;
        tracker.status.announcing = false;
        Some((index, event))
    }

    fn group_of(&self, index: usize) -> usize {
        self.groups
            .iter()
            .position(|group| group.order.contains(&index))
            .expect("every tracker is in one group")
    }

    fn move_to_front_of_tier(&mut self, group: usize, index: usize, tier: usize) {
        let trackers = &self.trackers;
        let order = &mut self.groups[group].order;
        let front =
            order.iter().position(|i| trackers[*i].status.tier == tier).expect("the tracker's own tier");
        let at = order.iter().position(|i| *i == index).expect("the tracker is in its group");
        order[front..=at].rotate_right(1);
    }
}

impl Tracker {
    fn new(url: &str, tier: usize, now: Instant) -> Self {
        Self {
            status: TrackerStatus::new(url, tier),
            tracker_id: None,
            started: false,
            owes_completed: false,
            stopped_sent: false,
            in_flight: None,
            min_at: now,
            retry_at: Some(now),
            has_asked_to_wait: false,
        }
    }

    fn owes_stopped(&self) -> bool {
        self.started && !self.stopped_sent && self.in_flight.is_none()
    }
}

impl TrackerStatus {
    fn new(url: &str, tier: usize) -> Self {
        Self {
            url: url.to_owned(),
            tier,
            failures: 0,
            announcing: false,
            answered: None,
            error: None,
            warning: None,
            seeders: None,
            leechers: None,
        }
    }
}

/// Time until the next regular announce, see [`Announcer::on_response`].
fn spread(
    interval: Duration,
    min_interval: Option<Duration>,
    is_first: bool,
    rng: &mut impl Rng,
) -> Duration {
    match min_interval.filter(|min| *min < interval) {
        Some(min) => {
            let sooner = if is_first { interval / 2 } else { interval / 10 };
            rng.random_range((interval - sooner).max(min)..=interval)
        }
        None => interval + rng.random_range(Duration::ZERO..=(interval / 10).min(LATER_MAX)),
    }
}

/// Whether this client can announce to `url`.
pub fn is_supported(url: &str) -> bool {
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
    ["http", "https", "udp"].iter().any(|known| scheme.eq_ignore_ascii_case(known))
}

#[cfg(test)]
pub(super) mod tests;
