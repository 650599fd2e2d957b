//! How it looks. Pure: a model in, cells out; [`super::model`] is not changed.
//!
//! Owner: [`super::show`]. Invariant: every text that a stranger chose is escaped by [`safe`], and nothing is drawn
//! beyond the terminal, however small it is.

mod detail;
mod engine;
mod list;
mod over;

use std::borrow::Cow;
use std::time::Duration;

use ccbt_protocol::metainfo::escape_for_terminal;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Sparkline};

use super::model::{History, Model, Page};
use crate::units;

/// Columns and lines that are needed to show anything of use.
pub const SIZE_MIN: (u16, u16) = (40, 10);
/// From so many lines on, curves get two.
const TALL: u16 = 20;

const DIM: Style = Style::new().add_modifier(Modifier::DIM);
const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const HEAD: Style = Style::new().add_modifier(Modifier::REVERSED);
const DOWN: Style = Style::new().fg(Color::Green);
const UP: Style = Style::new().fg(Color::Cyan);
const BAD: Style = Style::new().fg(Color::Red);

/// A text that a stranger chose.
fn safe(text: &str) -> Cow<'_, str> {
    escape_for_terminal(text)
}

/// Draws all of it.
pub fn draw(frame: &mut Frame, model: &Model) {
    let area = frame.area();
    if area.width < SIZE_MIN.0 || area.height < SIZE_MIN.1 {
        let (width, height) = SIZE_MIN;
        let words = format!(
            "Too small: {}×{}, at least {width}×{height} is needed. q quits.",
            area.width, area.height
        );
        let words = Paragraph::new(words).wrap(ratatui::widgets::Wrap { trim: true });
        frame.render_widget(words, area);
        return;
    }
    let curves = if area.height >= TALL { 2 } else { 1 };
    let rows =
        [Constraint::Length(1), Constraint::Length(curves), Constraint::Fill(1), Constraint::Length(1)];
    let [head, middle, body, foot] = Layout::vertical(rows).areas(area);
    header(frame, model, head);
    let history = if let Page::Detail(_) = model.page { &model.detail_history } else { &model.history };
    curve(frame, history, middle);
    match model.page {
        Page::List => list::draw(frame, model, body),
        Page::Detail(tab) => detail::draw(frame, model, tab, body),
        Page::Engine => engine::draw(frame, model, body),
    }
    over::footer(frame, model, foot);
    if model.help {
        over::help(frame, area);
    }
}

fn header(frame: &mut Frame, model: &Model, area: Rect) {
    let Some(stats) = &model.stats else {
        frame.render_widget(Line::from("ccbt-fast: asking the daemon …").style(HEAD), area);
        return;
    };
    let limit = |bytes: u64| if bytes == 0 { String::new() } else { format!(" of {}", units::rate(bytes)) };
    let mut text = format!(
        " ↓ {}{}  ↑ {}{}",
        units::rate(stats.down_rate),
        limit(stats.down_limit),
        units::rate(stats.up_rate),
        limit(stats.up_limit)
    );
    let counts = [
        (stats.downloading, "downloading"),
        (stats.seeding, "seeding"),
        (stats.queued, "queued"),
        (stats.paused, "paused"),
        (stats.failed, "failed"),
    ];
    text += &format!("  {} torrents", stats.torrents);
    for (count, word) in counts.into_iter().filter(|(count, _)| *count > 0) {
        text += &format!(", {count} {word}");
    }
    let up = units::duration(Duration::from_secs(stats.uptime_seconds));
    text += &format!("  {} peers  up {up}", stats.peers);
    frame.render_widget(Line::from(text).style(HEAD), area);
}

/// Rates of the last minutes, the newest at the right.
fn curve(frame: &mut Frame, history: &History, area: Rect) {
    let halves = [Constraint::Fill(1), Constraint::Length(1), Constraint::Fill(1)];
    let [left, _, right] = Layout::horizontal(halves).areas(area);
    for (word, samples, style, area) in [("↓", &history.down, DOWN, left), ("↑", &history.up, UP, right)]
    {
        let [mark, area] = Layout::horizontal([Constraint::Length(2), Constraint::Fill(1)]).areas(area);
        frame.render_widget(Span::styled(word, style), mark);
        let skipped = samples.len().saturating_sub(area.width.into());
        let shown: Vec<u64> = samples.iter().skip(skipped).copied().collect();
        let width = u16::try_from(shown.len()).unwrap_or(area.width);
        let area = Rect { x: area.right() - width, width, ..area };
        // Noise of a few bytes is no mountain.
        let most = shown.iter().copied().max().unwrap_or(0).max(1024);
        frame.render_widget(Sparkline::default().data(&shown).max(most).style(style), area);
    }
}

/// What a bar of so many cells shows of a part of something, full only if all of it is there.
fn bar(part: u64, whole: u64, cells: usize) -> String {
    let filled =
        if whole == 0 { 0 } else { (part.min(whole) as u128 * cells as u128 / whole as u128) as usize };
    "█".repeat(filled) + &"░".repeat(cells - filled)
}

/// The first line to show of so many, so that the line `at` is in the middle of `height` where possible.
fn first_shown(at: usize, all: usize, height: usize) -> usize {
    at.saturating_sub(height / 2).min(all.saturating_sub(height))
}

#[cfg(test)]
pub mod testing;
#[cfg(test)]
#[path = "../view_tests.rs"]
mod tests;
