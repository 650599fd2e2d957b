//! Which of all torrents' announces and scrapes go out now: a queue per tracker host, and a few at a time to each.
//!
//! Owner: the tracker thread (`ccbt-shards`), one [`Dispatcher`] per process. It calls [`Dispatcher::poll`] until that has
//! nothing, does what it gets, and reports how each went with [`Dispatcher::on_answer`], [`Dispatcher::on_failure`] or
//! [`Dispatcher::on_other`]. Invariants: never more than [`DispatchPlan::per_host`] run at one host (goodbyes:
//! [`DispatchPlan::goodbyes_per_host`]), never more than [`DispatchPlan::running_max`] in all; hosts that have not answered
//! yet run one at a time and hold half of all places at most, so that dead ones keep nobody else waiting; a host that is
//! down is asked by one until it answers; never more than [`DispatchPlan::queue_max`] wait.

use rand::{Rng, RngExt};
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Hosts that are remembered although nothing waits or runs there.
const HOSTS_MAX: usize = 1024;

/// How much at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DispatchPlan {
    /// Requests under way at one host, at least 1.
    pub per_host: usize,
    /// As `per_host` while `stopped` announces wait: they have little time.
    pub goodbyes_per_host: usize,
    /// Requests under way in all, at least 2.
    pub running_max: usize,
    /// Requests that wait in all.
    pub queue_max: usize,
    /// How long a host is left alone when it went down; doubled each time it is found still down.
    pub backoff_base: Duration,
    /// Longest time it is left alone.
    pub backoff_max: Duration,
}

impl Default for DispatchPlan {
    /// 8 at a host (32 for goodbyes), 256 in all, 65,536 waiting; 5 s doubling up to 10 min.
    fn default() -> Self {
        Self {
            per_host: 8,
            goodbyes_per_host: 32,
            running_max: 256,
            queue_max: 65_536,
            backoff_base: Duration::from_secs(5),
            backoff_max: Duration::from_secs(10 * 60),
        }
    }
}

/// Who goes first at a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// `stopped`: a time limit runs.
    Goodbye,
    /// Something is missing, so peers are wanted.
    Download,
    /// Everything else.
    Seed,
}

/// What is to be done with a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<J> {
    /// Send it. Its end must be reported.
    Start(J),
    /// It has waited for too long. Nothing is to be reported.
    Expired(J),
    /// Its host is down and is asked again after that time. Nothing is to be reported.
    Down(J, Duration),
}

#[derive(Debug)]
struct Host<J> {
    /// By [`Urgency`]; with the time until which a request is of use.
    queues: [VecDeque<(Option<Instant>, J)>; 3],
    running: usize,
    /// It has answered since it was down.
    proven: bool,
    /// Failures without an answer in between.
    failures: usize,
    /// Times in a row that it went down.
    downs: u32,
    down_until: Option<Instant>,
    /// Whether it stands in one of the two lines.
    lined_up: bool,
}

/// See the module. `J` is a request with whatever its owner needs to go on.
#[derive(Debug)]
pub struct Dispatcher<J> {
    plan: DispatchPlan,
    hosts: HashMap<String, Host<J>>,
    /// Hosts with something to do that take turns: those that have answered, and the others.
    lines: [VecDeque<String>; 2],
    /// Given back without being sent; part of `waiting`.
    returned: VecDeque<Step<J>>,
    waiting: usize,
    running: usize,
    running_unproven: usize,
    next_expiry: Option<Instant>,
}

impl<J> Default for Host<J> {
    fn default() -> Self {
        let queues = [VecDeque::new(), VecDeque::new(), VecDeque::new()];
        Self { queues, running: 0, proven: false, failures: 0, downs: 0, down_until: None, lined_up: false }
    }
}

impl<J> Host<J> {
    fn is_idle(&self) -> bool {
        self.running == 0 && self.queues.iter().all(VecDeque::is_empty)
    }

    fn may_start(&self, plan: &DispatchPlan) -> bool {
        let goodbyes = !self.queues[0].is_empty();
        let cap = match self.proven {
            true if goodbyes => plan.goodbyes_per_host.max(plan.per_host),
            true => plan.per_host,
            false => 1,
        };
        self.running < cap && (goodbyes || self.queues[1..].iter().any(|queue| !queue.is_empty()))
    }
}

impl<J> Dispatcher<J> {
    /// Nothing waits.
    pub fn new(plan: DispatchPlan) -> Self {
        Self {
            plan,
            hosts: HashMap::new(),
            lines: [VecDeque::new(), VecDeque::new()],
            returned: VecDeque::new(),
            waiting: 0,
            running: 0,
            running_unproven: 0,
            next_expiry: None,
        }
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Requests under way.
    pub fn running(&self) -> usize {
        self.running
    }

    /// Hosts known, and how many of them are down.
    pub fn hosts(&self, now: Instant) -> (usize, usize) {
        let down = self.hosts.values().filter(|host| host.down_until.is_some_and(|until| until > now));
        (self.hosts.len(), down.count())
    }

    /// Takes a request for `host` in, which is of use until `until`. `Err` gives it back: too many wait.
    pub fn submit(
        &mut self,
        now: Instant,
        host: &str,
        urgency: Urgency,
        until: Option<Instant>,
        job: J,
    ) -> Result<(), J> {
        if self.waiting >= self.plan.queue_max {
            return Err(job);
        }
        self.waiting += 1;
        if !self.hosts.contains_key(host) {
            self.forget_idle();
        }
        let state = self.hosts.entry(host.to_owned()).or_default();
        if let Some(wait) = state.down_until.map(|down| down.saturating_duration_since(now))
            && !wait.is_zero()
        {
            self.returned.push_back(Step::Down(job, wait));
            return Ok(());
        }
        state.queues[urgency as usize].push_back((until, job));
        self.next_expiry = self.next_expiry.into_iter().chain(until).min();
        self.line_up(host);
        Ok(())
    }

    /// The next thing to do at `now`. To be called until it returns `None`, and again after any other call.
    pub fn poll(&mut self, now: Instant) -> Option<Step<J>> {
        if self.next_expiry.is_some_and(|at| at <= now) {
            self.expire(now);
        }
        if let Some(step) = self.returned.pop_front() {
            self.waiting -= 1;
            return Some(step);
        }
        for proven in [true, false] {
            let line = usize::from(!proven);
            for _ in 0..self.lines[line].len() {
                let half_taken = !proven && self.running_unproven >= self.plan.running_max / 2;
                if self.running >= self.plan.running_max || half_taken {
                    break;
                }
                let name = self.lines[line].pop_front().expect("counted");
                let Some(host) = self.hosts.get_mut(&name) else { continue };
                host.lined_up = false;
                if host.proven != proven || !host.may_start(&self.plan) {
                    self.line_up(&name);
                    continue;
                }
                let mut queues = host.queues.iter_mut();
                let (_, job) = queues.find_map(VecDeque::pop_front).expect("it may start one");
                host.running += 1;
                self.running += 1;
                self.waiting -= 1;
                self.running_unproven += usize::from(!proven);
                self.line_up(&name);
                return Some(Step::Start(job));
            }
        }
        None
    }

    /// When [`Self::poll`] has something although no other call came before.
    pub fn next_wakeup(&self) -> Option<Instant> {
        self.next_expiry
    }

    /// One that ran at `host` was answered, be it with a refusal.
    pub fn on_answer(&mut self, host: &str) {
        self.end(host);
        let Some(state) = self.hosts.get_mut(host) else { return };
        if !std::mem::replace(&mut state.proven, true) {
            self.running_unproven -= state.running;
        }
        (state.failures, state.downs, state.down_until) = (0, 0, None);
        self.line_up(host);
    }

    /// One that ran at `host` got no answer. Returns whether the host has gone down by that; then all that wait for it come
    /// back as [`Step::Down`].
    pub fn on_failure(&mut self, now: Instant, host: &str, rng: &mut impl Rng) -> bool {
        self.end(host);
        let Some(state) = self.hosts.get_mut(host) else { return false };
        state.failures += 1;
        let tolerated = if state.proven { self.plan.per_host } else { 1 };
        let is_down = state.down_until.is_some_and(|until| until > now);
        if is_down || state.failures < tolerated {
            self.line_up(host);
            return false;
        }
        let wait = self.plan.backoff_base.saturating_mul(1 << state.downs.min(16)).min(self.plan.backoff_max);
        let wait = wait.mul_f64(rng.random_range(1.0..1.25)).min(self.plan.backoff_max);
        (state.failures, state.downs, state.down_until) =
            (0, state.downs.saturating_add(1), Some(now + wait));
        if std::mem::replace(&mut state.proven, false) {
            self.running_unproven += state.running;
        }
        for (_, job) in state.queues.iter_mut().flat_map(|queue| queue.drain(..)) {
            self.returned.push_back(Step::Down(job, wait));
        }
        true
    }

    /// One that ran at `host` ended in a way that says nothing about the host.
    pub fn on_other(&mut self, host: &str) {
        self.end(host);
        self.line_up(host);
    }

    /// What failed may have failed for want of a network of our own: every host may be asked at once.
    pub fn forgive(&mut self) {
        let names: Vec<String> = self.hosts.keys().cloned().collect();
        for name in names {
            let host = self.hosts.get_mut(&name).expect("just listed");
            (host.failures, host.downs, host.down_until) = (0, 0, None);
            self.line_up(&name);
        }
    }

    /// Gives back, as expired, what waits and is of no use any more.
    pub fn give_up(&mut self, useless: impl Fn(&J) -> bool) {
        for host in self.hosts.values_mut() {
            for queue in &mut host.queues {
                let (given_up, kept) = std::mem::take(queue).into_iter().partition(|(_, job)| useless(job));
                *queue = kept;
                let given_up: VecDeque<_> = given_up;
                self.returned.extend(given_up.into_iter().map(|(_, job)| Step::Expired(job)));
            }
        }
    }

    fn end(&mut self, host: &str) {
        let Some(state) = self.hosts.get_mut(host) else { return };
        state.running -= 1;
        self.running -= 1;
        self.running_unproven -= usize::from(!state.proven);
    }

    /// Puts a host into its line, if it has something that may start.
    fn line_up(&mut self, host: &str) {
        let Some(state) = self.hosts.get_mut(host) else { return };
        if !state.lined_up && state.may_start(&self.plan) {
            state.lined_up = true;
            self.lines[usize::from(!state.proven)].push_back(host.to_owned());
        }
    }

    fn expire(&mut self, now: Instant) {
        self.next_expiry = None;
        for host in self.hosts.values_mut() {
            for queue in &mut host.queues {
                // Those of one kind have the same time, so they expire in order.
                while queue.front().is_some_and(|(until, _)| until.is_some_and(|until| until <= now)) {
                    self.returned.extend(queue.pop_front().map(|(_, job)| Step::Expired(job)));
                }
                let next = queue.front().and_then(|(until, _)| *until);
                self.next_expiry = self.next_expiry.into_iter().chain(next).min();
            }
        }
    }

    fn forget_idle(&mut self) {
        if self.hosts.len() >= HOSTS_MAX {
            self.hosts.retain(|_, host| host.lined_up || !host.is_idle());
        }
    }
}

#[cfg(test)]
mod tests;
