//! Where output goes: JSON lines, a live display on a terminal, or plain lines.
//!
//! Role: the only writer to standard output while something runs. Invariant: with `--json` nothing but
//! objects is printed; a reader that is gone (a closed pipe or terminal) stops no transfer.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::json;
use crate::lines::{Line, Progress};
use crate::units;

/// Time between plain progress lines.
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);
/// Redraws of the live display per second.
const REDRAWS_PER_SECOND: u8 = 10;

enum Mode {
    Json,
    Live,
    Plain { last: Option<(Instant, &'static str)> },
}

/// See the module.
pub struct Console {
    mode: Mode,
    bar: ProgressBar,
}

impl Console {
    /// Chooses by `json` and by what standard output is.
    pub fn new(json: bool) -> Self {
        let mode = match () {
            () if json => Mode::Json,
            () if io::stdout().is_terminal() => Mode::Live,
            () => Mode::Plain { last: None },
        };
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        if matches!(mode, Mode::Live) {
            let style =
                ProgressStyle::with_template("[{bar:20}] {wide_msg}").expect("the template is well-formed");
            bar.set_style(style.progress_chars("=> "));
        }
        Self { mode, bar }
    }

    /// Whether programs read it.
    pub fn is_json(&self) -> bool {
        matches!(self.mode, Mode::Json)
    }

    /// The live display, for those who write to the same terminal.
    pub fn bar(&self) -> ProgressBar {
        self.bar.clone()
    }

    /// Prints an event.
    pub fn line(&mut self, line: &Line<'_>) {
        match (&self.mode, line) {
            (Mode::Json, line) => self.json(line),
            (_, Line::Progress(progress)) => self.progress(progress),
            (_, Line::MoveProgress { done, total }) => {
                let text = format!("moving  {} of {}", units::bytes(*done), units::bytes(*total));
                self.gauge((*done, *total), "moving", &text);
            }
            (_, Line::Fetching { received, total, peers, candidates }) => {
                let of = if *total == 0 { "?".to_owned() } else { units::bytes(u64::from(*total)) };
                let received_words = units::bytes(u64::from(*received));
                let text = format!(
                    "fetching metadata  {received_words} of {of}  {peers} peers, {candidates} addresses known"
                );
                let done = (u64::from(*received), u64::from((*total).max(1)));
                self.gauge(done, "fetching metadata", &text);
            }
            (_, line) => {
                if let Some(words) = line.words() {
                    self.words(&words);
                }
            }
        }
    }

    /// Prints a line for people, above the live display; nothing with `--json`.
    pub fn words(&self, text: &str) {
        if !matches!(self.mode, Mode::Json) {
            self.bar.suspend(|| print_line(text));
        }
    }

    fn json(&self, value: &impl Serialize) {
        print_line(&json::to_line(value));
    }

    fn progress(&mut self, progress: &Progress) {
        let pieces = (u64::from(progress.pieces_done), u64::from(progress.pieces_total));
        self.gauge(pieces, progress.state.into(), &progress.words());
    }

    /// Shows `text` and how much of something is done, as (done, total). Plain lines come at once when
    /// `stage` is a new one, else every [`PLAIN_INTERVAL`]; nothing with `--json`.
    pub fn gauge(&mut self, (done, total): (u64, u64), stage: &'static str, text: &str) {
        match &mut self.mode {
            Mode::Json => {}
            Mode::Live => {
                if self.bar.is_hidden() {
                    self.bar.set_draw_target(ProgressDrawTarget::stdout_with_hz(REDRAWS_PER_SECOND));
                }
                self.bar.set_length(total);
                self.bar.set_position(done);
                self.bar.set_message(text.to_owned());
            }
            Mode::Plain { last } => {
                let now = Instant::now();
                let is_due =
                    last.is_none_or(|(at, old)| old != stage || now.duration_since(at) >= PLAIN_INTERVAL);
                if is_due {
                    *last = Some((now, stage));
                    print_line(text);
                }
            }
        }
    }

    /// Takes the live display away; what was printed stays.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// Prints a line whole. Errors mean that nobody reads any more, which is no reason to stop.
pub fn print_line(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(format!("{text}\n").as_bytes()).and_then(|()| out.flush());
}
