//! One torrent: facts, a line of its pieces, and a tab of peers, pieces, files or trackers.

use std::time::Duration;

use ccbt_fast::daemon::api::{Connection, FileDetail, TorrentDetail, Tracker};
use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Row, Table, Wrap};

use super::list::percent;
use super::{BAD, BOLD, DIM, HEAD, safe};
use crate::top::model::{self, Model, Tab};
use crate::top::watch::Detail;
use crate::units;

pub(super) fn draw(frame: &mut Frame, model: &Model, tab: Tab, area: Rect) {
    let detail = match &model.detail {
        None => return frame.render_widget("…", area),
        Some(Err(problem)) => {
            let words = format!("{}\nEsc shows all torrents.", safe(problem));
            return frame.render_widget(Paragraph::new(words).wrap(Wrap { trim: true }), area);
        }
        Some(Ok(detail)) => detail,
    };
    let facts = facts(&detail.torrent);
    let rows = [
        Constraint::Length(facts.len() as u16),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Fill(1),
    ];
    let [top, map, tabs, body] = Layout::vertical(rows).areas(area);
    frame.render_widget(Paragraph::new(facts), top);
    frame.render_widget(Line::from(cells(&detail.pieces.cells, map.width.into())), map);
    frame.render_widget(Line::from(tab_line(tab)), tabs);
    match tab {
        Tab::Peers => peers(frame, model.scroll, detail, body),
        Tab::Pieces => pieces(frame, model.scroll, detail, body),
        Tab::Files => files(frame, model.scroll, &detail.torrent.files, body),
        Tab::Trackers => trackers(frame, model.scroll, &detail.trackers, body),
    }
}

fn tab_line(tab: Tab) -> Vec<Span<'static>> {
    let span = |(at, each): (usize, Tab)| {
        let words = format!(" {} {} ", at + 1, each.name());
        Span::styled(words, if each == tab { HEAD } else { DIM })
    };
    Tab::ALL.into_iter().enumerate().map(span).collect()
}

fn facts(detail: &TorrentDetail) -> Vec<Line<'_>> {
    let torrent = &detail.torrent;
    let limit = |bytes: u64| if bytes == 0 { "none".to_owned() } else { units::rate(bytes) };
    let eta = torrent
        .eta_seconds
        .map(|seconds| format!(", {} to go", units::duration(Duration::from_secs(seconds))));
    let mut lines = vec![
        Line::styled(safe(&torrent.name), BOLD),
        Line::from(format!(
            "{}  {} of {}{}  ratio {:.2}  ↓ {}  ↑ {}",
            model::state(torrent.state),
            percent(torrent),
            units::bytes(torrent.bytes_total),
            eta.unwrap_or_default(),
            torrent.ratio,
            units::rate(torrent.down_rate),
            units::rate(torrent.up_rate),
        )),
        Line::from(format!(
            "limits ↓ {} ↑ {}  {} peers, {} addresses  wasted {}  bad pieces {}",
            limit(detail.down_limit),
            limit(detail.up_limit),
            torrent.peers,
            detail.candidates,
            units::bytes(detail.wasted),
            detail.hash_failures,
        )),
        Line::from(format!("{}  in {}", &torrent.info_hash, safe(&torrent.output))),
    ];
    if let Some(error) = &torrent.error {
        lines.push(Line::styled(safe(error), BAD));
    }
    lines
}

/// Percent of each cell, as that many characters at most: a cell is blank only if nothing is there, and full only if all
/// is.
pub(super) fn cells(percents: &[u8], width: usize) -> String {
    let count = percents.len().min(width);
    let shown = |at: usize| {
        let part = &percents[at * percents.len() / count..(at + 1) * percents.len() / count];
        let sum: usize = part.iter().map(|percent| usize::from(*percent)).sum();
        match sum {
            0 => '·',
            sum if sum == part.len() * 100 => '█',
            sum => ['░', '▒', '▓'][(sum * 3 / (part.len() * 100)).min(2)],
        }
    };
    (0..count).map(shown).collect()
}

fn pieces(frame: &mut Frame, scroll: usize, detail: &Detail, area: Rect) {
    let (pieces, width) = (&detail.pieces, usize::from(area.width));
    let what = if pieces.checked { "there" } else { "found good so far" };
    let size = units::bytes(detail.torrent.piece_len.into());
    let room = width * usize::from(area.height.saturating_sub(1));
    let map = cells(&pieces.cells, room);
    let per_cell = f64::from(pieces.pieces_total) / map.chars().count().max(1) as f64;
    let mut lines = vec![Line::from(format!(
        "{} of {} pieces of {size} {what}; a character is {per_cell:.1} pieces",
        pieces.pieces_done, pieces.pieces_total
    ))];
    let all: Vec<char> = map.chars().collect();
    lines.extend(
        all.chunks(width.max(1)).skip(scroll).map(|line| Line::from(line.iter().collect::<String>())),
    );
    frame.render_widget(Paragraph::new(lines), area);
}

/// The lines that fit, from `scroll` on; the last ones where that is too far.
fn window<T>(all: &[T], scroll: usize, area: Rect) -> &[T] {
    let height = usize::from(area.height.saturating_sub(1));
    let first = scroll.min(all.len().saturating_sub(height));
    &all[first..all.len().min(first + height)]
}

fn right(text: impl Into<String>) -> Line<'static> {
    Line::from(text.into()).alignment(Alignment::Right)
}

fn peers(frame: &mut Frame, scroll: usize, detail: &Detail, area: Rect) {
    let connections = &detail.torrent.connections;
    let row = |peer: &Connection| {
        let kind = if peer.seed { "seed" } else { "leecher" };
        let way = if peer.incoming { "came" } else { "dialled" };
        Row::new([
            Line::from(peer.addr.to_string()),
            right(units::rate(peer.down_rate)),
            right(units::rate(peer.up_rate)),
            Line::from(kind),
            Line::from(way),
        ])
    };
    let head = format!("PEER  {} of {}", connections.len(), detail.torrent.torrent.peers);
    let head = [Line::from(head), right("DOWN"), right("UP"), Line::from("HAS"), Line::from("HOW")];
    let rows = window(connections, scroll, area).iter().map(row);
    let widths = [
        Constraint::Fill(1),
        Constraint::Length(12),
        Constraint::Length(12),
        Constraint::Length(7),
        Constraint::Length(7),
    ];
    frame.render_widget(Table::new(rows, widths).header(Row::new(head).style(BOLD)), area);
}

fn files(frame: &mut Frame, scroll: usize, files: &[FileDetail], area: Rect) {
    let row = |file: &FileDetail| {
        Row::new([
            Line::from(safe(&file.path).into_owned()),
            right(units::bytes(file.len)),
            Line::from(file.priority.clone()),
        ])
    };
    let head = [Line::from(format!("FILE  {}", files.len())), right("SIZE"), Line::from("WANTED")];
    let rows = window(files, scroll, area).iter().map(row);
    let widths = [Constraint::Fill(1), Constraint::Length(10), Constraint::Length(7)];
    frame.render_widget(Table::new(rows, widths).header(Row::new(head).style(BOLD)), area);
}

fn trackers(frame: &mut Frame, scroll: usize, trackers: &[Tracker], area: Rect) {
    let row = |tracker: &Tracker| {
        let count =
            |count: Option<u32>| right(count.map_or_else(|| "-".to_owned(), |count| count.to_string()));
        let ago = |seconds| format!("answered {} ago", units::duration(Duration::from_secs(seconds)));
        let words = match (&tracker.error, &tracker.warning, tracker.answered_seconds) {
            _ if tracker.announcing => "announcing".to_owned(),
            (Some(error), _, _) => error.clone(),
            (None, Some(warning), _) => warning.clone(),
            (None, None, Some(seconds)) => ago(seconds),
            (None, None, None) => "not asked yet".to_owned(),
        };
        let style = if tracker.error.is_some() { BAD } else { Default::default() };
        Row::new([
            right(tracker.tier.to_string()),
            Line::from(safe(&tracker.url).into_owned()),
            count(tracker.seeders),
            count(tracker.leechers),
            Line::styled(safe(&words).into_owned(), style),
        ])
    };
    let head = [right("TIER"), Line::from("TRACKER"), right("SEEDS"), right("OTHERS"), Line::from("STATE")];
    let rows = window(trackers, scroll, area).iter().map(row);
    let widths = [
        Constraint::Length(4),
        Constraint::Fill(1),
        Constraint::Length(6),
        Constraint::Length(6),
        Constraint::Fill(1),
    ];
    frame.render_widget(Table::new(rows, widths).header(Row::new(head).style(BOLD)), area);
}
