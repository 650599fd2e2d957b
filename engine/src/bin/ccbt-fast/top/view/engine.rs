//! Shards and queues: memory for pieces, read caches, disks and hashing.

use ccbt_fast::daemon::api::{Device, Engine, Shard};
use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::text::Line;
use ratatui::widgets::{Row, Table};

use super::{BAD, BOLD, bar};
use crate::top::model::Model;
use crate::units;

/// Cells of a bar.
const BAR: usize = 10;

fn right(text: impl Into<String>) -> Line<'static> {
    Line::from(text.into()).alignment(Alignment::Right)
}

pub(super) fn draw(frame: &mut Frame, model: &Model, area: Rect) {
    let Some(engine) = &model.engine else { return frame.render_widget("…", area) };
    let before = model.engine_before.as_ref().map(|(before, seconds)| (before, *seconds));
    // However many shards there are, two disks have their place.
    let room = usize::from(area.height.saturating_sub(4));
    let shards = (engine.shards.len().saturating_sub(model.scroll).max(1) + 1).min(room) as u16;
    let rows = [Constraint::Length(shards), Constraint::Fill(1), Constraint::Length(1)];
    let [top, middle, bottom] = Layout::vertical(rows).areas(area);
    shard_table(frame, engine, before, model.scroll, top);
    device_table(frame, engine, before, middle);
    let hashed = per_second(before, engine.hashed_bytes, |engine| engine.hashed_bytes);
    let words =
        format!("hashing {hashed}, {} pieces wait; {} files open", engine.hash_waiting, engine.open_files);
    frame.render_widget(Line::from(words), bottom);
}

/// A rate of a counter, if there is something to compare it with.
fn per_second(before: Option<(&Engine, f64)>, now: u64, of: impl Fn(&Engine) -> u64) -> String {
    match before {
        Some((before, seconds)) if seconds > 0.0 => {
            units::rate((now.saturating_sub(of(before)) as f64 / seconds) as u64)
        }
        _ => "-".to_owned(),
    }
}

fn shard_table(
    frame: &mut Frame,
    engine: &Engine,
    before: Option<(&Engine, f64)>,
    scroll: usize,
    area: Rect,
) {
    let row = |(at, shard): (usize, &Shard)| {
        let rate = |now, of: fn(&Shard) -> u64| {
            right(per_second(before, now, |engine| engine.shards.get(at).map_or(now, of)))
        };
        let looked = shard.cache_hits + shard.cache_misses;
        let hits = (shard.cache_hits * 100).checked_div(looked);
        let hits = hits.map_or("-".to_owned(), |percent| format!("{percent}%"));
        Row::new([
            right(at.to_string()),
            rate(shard.received, |shard| shard.received),
            rate(shard.sent, |shard| shard.sent),
            Line::from(bar(shard.memory_used, shard.memory, BAR)),
            right(shard.pieces.to_string()),
            Line::from(bar(shard.cache_used, shard.cache, BAR)),
            right(hits),
        ])
    };
    let last = engine.shards.len().saturating_sub(1);
    let rows = engine.shards.iter().enumerate().skip(scroll.min(last)).map(row);
    let heads = ["SHARD", "RECEIVED", "SENT", "SLOTS", "PIECES", "CACHE", "HITS"];
    let widths = [
        Constraint::Length(5),
        Constraint::Length(12),
        Constraint::Length(12),
        Constraint::Length(BAR as u16),
        Constraint::Length(6),
        Constraint::Length(BAR as u16),
        Constraint::Length(5),
    ];
    frame.render_widget(Table::new(rows, widths).header(Row::new(heads).style(BOLD)), area);
}

fn device_table(frame: &mut Frame, engine: &Engine, before: Option<(&Engine, f64)>, area: Rect) {
    let row = |device: &Device| {
        let rate = |now, of: fn(&Device) -> u64| {
            let then =
                |engine: &Engine| engine.devices.iter().find(|old| old.name == device.name).map_or(now, of);
            right(per_second(before, now, then))
        };
        let row = Row::new([
            Line::from(device.name.clone()),
            right(format!("{}/{}", device.in_flight, device.depth_limit)),
            right(device.waiting.to_string()),
            rate(device.read_bytes, |device| device.read_bytes),
            rate(device.written_bytes, |device| device.written_bytes),
            right(format!("{}/{}", device.read_p99_us, device.write_p99_us)),
            right(device.errors.to_string()),
            right(device.punts.to_string()),
        ]);
        if device.errors > 0 { row.style(BAD) } else { row }
    };
    let heads = ["DISK", "RUNNING", "WAITING", "READ", "WRITTEN", "99% µs R/W", "ERRORS", "PUNTS"];
    let widths = [
        Constraint::Length(7),
        Constraint::Length(7),
        Constraint::Length(7),
        Constraint::Length(12),
        Constraint::Length(12),
        Constraint::Length(13),
        Constraint::Length(6),
        Constraint::Length(6),
    ];
    frame.render_widget(
        Table::new(engine.devices.iter().map(row), widths).header(Row::new(heads).style(BOLD)),
        area,
    );
}
