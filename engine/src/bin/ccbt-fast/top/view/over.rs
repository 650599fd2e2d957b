//! The last line (questions, news, keys) and the help.

use ratatui::Frame;
use ratatui::layout::{Constraint, Rect};
use ratatui::text::Line;
use ratatui::widgets::{Block, Clear, Paragraph};

use super::{BAD, BOLD, DIM, safe};
use crate::top::model::{Model, Page, Prompt};

/// Every key, and what it does.
const HELP: [(&str, &str); 15] = [
    ("↑ ↓ k j", "one line up, down"),
    ("PgUp PgDn Home End", "further"),
    ("Enter, Esc", "one torrent, back to all"),
    ("Tab, 1-4", "peers, pieces, files, trackers"),
    ("e", "shards and queues"),
    ("s, r", "sort by the next column, reverse"),
    ("/", "filter by name, info-hash or state"),
    ("p", "pause, resume"),
    ("d, u", "limit its download, upload"),
    ("D, U", "limit all torrents together"),
    ("c", "check its files again"),
    ("x", "remove it"),
    ("? h", "this help"),
    ("q Ctrl-C", "quit"),
    ("", "any key goes back"),
];

/// What is asked, else what became of the last thing, else the most important keys.
pub(super) fn footer(frame: &mut Frame, model: &Model, area: Rect) {
    let line = match (&model.prompt, &model.lost, &model.notice) {
        (Some(prompt), _, _) => Line::styled(question(model, prompt), BOLD),
        (None, Some(reason), _) => Line::styled(format!("trying again: {}", safe(reason)), BAD),
        (None, None, Some(Ok(done))) => Line::from(safe(done)),
        (None, None, Some(Err(problem))) => Line::styled(safe(problem), BAD),
        (None, None, None) => Line::styled(keys(model), DIM),
    };
    frame.render_widget(line, area);
}

fn keys(model: &Model) -> String {
    match model.page {
        Page::List if !model.filter.is_empty() => {
            return format!("filter: {}  Esc shows all  ? help", safe(&model.filter));
        }
        Page::List => {
            "? help  Enter open  p pause  d/u limit  c check  x remove  / filter  s sort  e shards  q quit"
        }
        Page::Detail(_) => "? help  Esc back  Tab next  p pause  d/u limit  c check  x remove  q quit",
        Page::Engine => "? help  Esc back  D/U limits of all  q quit",
    }
    .to_owned()
}

fn question(model: &Model, prompt: &Prompt) -> String {
    match prompt {
        Prompt::Filter => format!("filter: {}▏ Enter keeps it, Esc shows all", safe(&model.filter)),
        Prompt::Limit { torrent, down, text, problem } => {
            let way = if *down { "download" } else { "upload" };
            let whose = torrent.as_ref().map_or("all together", |(_, name)| name.as_str());
            let hint = match problem {
                Some(problem) => safe(problem).into_owned(),
                None => "such as 2MiB/s or KiB/s; 0: none; default".to_owned(),
            };
            format!("{way} limit: {}▏ ({hint}) of {}", safe(text), safe(whose))
        }
        Prompt::Recheck(_, name) => format!("check again (its peers go meanwhile)? y/n  {}", safe(name)),
        Prompt::Remove(_, name) => format!("remove? y: files stay, D: files go too, n: no  {}", safe(name)),
    }
}

/// Every key, over the page.
pub(super) fn help(frame: &mut Frame, area: Rect) {
    let lines: Vec<Line> =
        HELP.iter().map(|(keys, words)| Line::from(format!("{keys:18}  {words}"))).collect();
    let height = (lines.len() as u16 + 2).min(area.height);
    let area = area.centered(Constraint::Max(58), Constraint::Length(height));
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" ccbt-fast top ")), area);
}
