//! Keeps a session's filter what the configuration and the files say.
//!
//! Owner: the loop that runs the session; it asks a few times a second and never waits: reading a list of a million ranges
//! takes a fifth of a second, and the disk may be slow. Invariant: what cannot be read leaves the filter that is there.

use std::thread;
use std::time::Instant;

use crossbeam_channel::{Receiver, TryRecvError, bounded};

use super::{FilterError, FilterReport, FilterSettings, LoadedFilter, load};
use crate::config::{Source, Trust, Watcher};
use crate::session::Session;

/// See the module.
pub struct FilterKeeper {
    settings: FilterSettings,
    /// Of the files of the filter that counts.
    watcher: Option<Watcher>,
    loading: Option<Receiver<Result<LoadedFilter, FilterError>>>,
    /// Read it anew.
    due: bool,
}

impl FilterKeeper {
    /// Of a session that has the filter `settings` name.
    pub fn new(settings: FilterSettings) -> Self {
        let watcher = watcher_of(&settings, &[]);
        Self { settings, watcher, loading: None, due: false }
    }

    /// Reads the files anew, whether or not they seem to have changed. `false`: there is no filter.
    pub fn reload(&mut self) -> bool {
        self.due = self.settings.path.is_some();
        self.due
    }

    /// Whether it was asked to read the files since it began to: what [`Self::poll`] tells now is no answer to that.
    pub fn is_due(&self) -> bool {
        self.due
    }

    /// To be called a few times a second: gives `session` what `settings` and the files say. Tells what came of it, when
    /// something did; `None` inside: there is no filter any more.
    pub fn poll(
        &mut self,
        now: Instant,
        settings: &FilterSettings,
        session: &Session,
    ) -> Option<Result<Option<FilterReport>, FilterError>> {
        let mut gone = false;
        if *settings != self.settings {
            let before = std::mem::replace(&mut self.settings, settings.clone());
            if before.path != settings.path {
                // What is being read is of other files.
                self.loading = None;
                self.watcher = watcher_of(settings, &[]);
                self.due = settings.path.is_some();
                gone = settings.path.is_none();
            }
            let filter = session.ip_filter().filter(|_| settings.path.is_some());
            session.set_ip_filter(filter, settings.trackers);
        }
        self.due |= self.watcher.as_mut().is_some_and(|watcher| watcher.has_changed(now));
        if self.due && self.loading.is_none() {
            self.due = false;
            self.begin();
        }
        if gone {
            return Some(Ok(None));
        }
        let loaded = match self.loading.as_ref()?.try_recv() {
            Ok(loaded) => loaded,
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => {
                self.loading = None;
                return None;
            }
        };
        self.loading = None;
        Some(loaded.map(|LoadedFilter { filter, report }| {
            session.set_ip_filter(Some(filter), self.settings.trackers);
            self.look_after(&report);
            Some(report)
        }))
    }

    fn begin(&mut self) {
        let Some(path) = self.settings.path.clone() else { return };
        let (tell, told) = bounded(1);
        // Whoever does not wait any more is told nothing.
        let run = move || drop(tell.send(load(&path)));
        match thread::Builder::new().name("ccbt-ipfilter".to_owned()).spawn(run) {
            Ok(_) => self.loading = Some(told),
            Err(error) => tracing::error!("the IP filter cannot be read, there is no thread: {error}"),
        }
    }

    /// Watches the files that were read, if they are others; then a change that came meanwhile is looked for.
    fn look_after(&mut self, report: &FilterReport) {
        let is_folder = self.settings.path.as_ref().is_some_and(|path| path.is_dir());
        if is_folder {
            self.watcher = watcher_of(&self.settings, &report.files);
        }
    }
}

fn watcher_of(settings: &FilterSettings, files: &[std::path::PathBuf]) -> Option<Watcher> {
    let path = settings.path.as_ref()?;
    // Also the folder's own time, which changes with its entries.
    let mut all: Vec<std::path::PathBuf> = vec![path.clone()];
    match files {
        [] => all.extend(super::lists_at(path).unwrap_or_default()),
        files => all.extend(files.iter().cloned()),
    }
    let source = |path| Source { path, trust: Trust::Full, needed: false };
    let watcher = Watcher::new(&all.into_iter().map(source).collect::<Vec<_>>());
    let told = watcher.inspect_err(|error| {
        tracing::warn!("a changed IP filter is noticed on SIGHUP only: {error}");
    });
    told.ok()
}
