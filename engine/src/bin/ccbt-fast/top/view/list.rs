//! All torrents: as many columns as there is room for.

use ccbt_fast::daemon::api::{Activity, Torrent};
use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Paragraph, Row, Table};

use super::{BAD, BOLD, DIM, DOWN, first_shown, safe};
use crate::top::model::{self, Model};
use crate::units;

/// Columns that the names keep whatever else there is.
const NAME_MIN: u16 = 16;

struct Column {
    head: &'static str,
    width: u16,
    text: fn(&Torrent) -> String,
}

/// Behind the name, the most important first: those come last that are left out first.
const COLUMNS: [Column; 9] = [
    Column { head: "DONE", width: 6, text: |torrent| percent(torrent) },
    Column { head: "DOWN", width: 12, text: |torrent| rate(torrent.down_rate) },
    Column { head: "UP", width: 12, text: |torrent| rate(torrent.up_rate) },
    Column { head: "STATE", width: 11, text: |torrent| model::state(torrent.state).to_owned() },
    Column { head: "PEERS", width: 5, text: |torrent| torrent.peers.to_string() },
    Column { head: "ETA", width: 8, text: eta },
    Column { head: "SIZE", width: 10, text: |torrent| units::bytes(torrent.bytes_total) },
    Column { head: "RATIO", width: 6, text: |torrent| format!("{:.2}", torrent.ratio) },
    Column { head: "#", width: 5, text: |torrent| torrent.position.to_string() },
];

fn rate(bytes: u64) -> String {
    if bytes == 0 { "-".to_owned() } else { units::rate(bytes) }
}

fn eta(torrent: &Torrent) -> String {
    torrent
        .eta_seconds
        .map_or_else(|| "-".to_owned(), |seconds| units::duration(std::time::Duration::from_secs(seconds)))
}

/// Never 100 before everything is there.
pub(super) fn percent(torrent: &Torrent) -> String {
    let percent = torrent.bytes_done as f64 * 100.0 / torrent.bytes_total.max(1) as f64;
    format!("{:.1}%", if torrent.bytes_done < torrent.bytes_total { percent.min(99.9) } else { percent })
}

pub(super) fn style_of(state: Activity) -> Style {
    match state {
        Activity::Error => BAD,
        Activity::Downloading => DOWN,
        Activity::Queued | Activity::Paused | Activity::Removing => DIM,
        _ => Style::new(),
    }
}

pub(super) fn draw(frame: &mut Frame, model: &Model, area: Rect) {
    if model.shown.is_empty() {
        let words = match (model.stats.is_some(), model.filter.is_empty()) {
            (false, _) => "",
            (true, true) => "No torrents. `ccbt-fast add some.torrent` adds one.",
            (true, false) => "No torrent's name contains this; Esc shows all.",
        };
        frame.render_widget(Paragraph::new(words).alignment(Alignment::Center), area);
        return;
    }
    let mut room = area.width.saturating_sub(NAME_MIN);
    let fits = |column: &&'static Column| match room.checked_sub(column.width + 1) {
        Some(left) => {
            room = left;
            true
        }
        None => false,
    };
    let columns: Vec<&Column> = COLUMNS.iter().take_while(fits).collect();
    let height = usize::from(area.height.saturating_sub(1));
    let position = model.position();
    let first = first_shown(position.unwrap_or(0), model.shown.len(), height);
    let row = |(index, at): (usize, &usize)| {
        let torrent = &model.torrents[*at];
        let name = std::iter::once(Line::from(safe(&torrent.name)));
        let right = |column: &&Column| Line::from((column.text)(torrent)).alignment(Alignment::Right);
        let style = style_of(torrent.state);
        let chosen = if position == Some(index) { style.add_modifier(Modifier::REVERSED) } else { style };
        Row::new(name.chain(columns.iter().map(right))).style(chosen)
    };
    let rows = model.shown.iter().enumerate().skip(first).take(height).map(row);
    let reversed = if model.is_reversed { "-" } else { "" };
    let (shown, all, by) = (model.shown.len(), model.torrents.len(), model.sort.name());
    let sorted = format!("NAME {shown}/{all} by {reversed}{by}");
    let heads = columns.iter().map(|column| Line::from(column.head).alignment(Alignment::Right));
    let head = Row::new(std::iter::once(Line::from(sorted)).chain(heads)).style(BOLD);
    let widths = columns.iter().map(|column| Constraint::Length(column.width));
    let widths = std::iter::once(Constraint::Fill(1)).chain(widths);
    frame.render_widget(Table::new(rows, widths).header(head).column_spacing(1), area);
}
