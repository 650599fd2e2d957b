//! What keys and answers change. Pure: a model and a message in, a changed model and perhaps an effect out.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::model::{Model, Page, Prompt, Tab};
use super::watch::Look;
use crate::args;

/// Lines of a page up or down.
const PAGE_LINES: isize = 10;
/// Characters of a text that is typed.
const TEXT_MAX: usize = 80;

/// What comes.
#[derive(Debug)]
pub enum Message {
    Key(KeyEvent),
    /// The terminal has another size.
    Resized,
    Looked(Box<Look>),
    /// The daemon does not answer.
    Lost(String),
    /// What became of a request.
    Done(Result<String, String>),
    /// A signal, or the end of the terminal.
    Stop,
}

/// What is asked of the daemon; torrents by info-hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    Pause(String),
    Resume(String),
    Recheck(String),
    Remove {
        hash: String,
        name: String,
        delete_data: bool,
    },
    /// Bytes per second, 0 = none; `None`: as configured.
    Limit {
        /// `None`: all torrents together.
        hash: Option<String>,
        down: bool,
        rate: Option<u64>,
    },
}

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    Quit,
    Ask(Request),
    /// Look now.
    Look,
}

/// See the module.
pub fn update(model: &mut Model, message: Message) -> Option<Effect> {
    match message {
        Message::Key(key) => return on_key(model, key),
        Message::Resized => {}
        Message::Looked(look) => on_look(model, *look),
        Message::Lost(reason) => model.lost = Some(reason),
        Message::Done(outcome) => {
            model.notice = Some(outcome);
            return Some(Effect::Look);
        }
        Message::Stop => return Some(Effect::Quit),
    }
    None
}

fn on_look(model: &mut Model, look: Look) {
    let Look { at, stats, torrents, detail, engine } = look;
    model.lost = None;
    model.history.add(stats.down_rate, stats.up_rate);
    (model.stats, model.torrents) = (Some(stats), torrents);
    model.arrange();
    // An answer about a torrent that was left meanwhile is of no use.
    if let (Page::Detail(_), Some((hash, detail))) = (model.page, detail)
        && model.selected.as_ref() == Some(&hash)
    {
        if let Ok(detail) = &detail {
            let torrent = &detail.torrent.torrent;
            model.detail_history.add(torrent.down_rate, torrent.up_rate);
        }
        model.detail = Some(detail);
    }
    if let (Page::Engine, Some(engine)) = (model.page, engine) {
        let seconds = at.saturating_sub(model.engine_at).as_secs_f64();
        model.engine_before = model.engine.replace(engine).map(|before| (before, seconds));
        model.engine_at = at;
    }
}

fn on_key(model: &mut Model, key: KeyEvent) -> Option<Effect> {
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return (key.code == KeyCode::Char('c')).then_some(Effect::Quit);
    }
    if model.help {
        model.help = false;
        return None;
    }
    if let Some(prompt) = model.prompt.take() {
        return on_answer(model, prompt, key.code);
    }
    model.notice = None;
    match key.code {
        KeyCode::Char('q') => return Some(Effect::Quit),
        KeyCode::Char('?' | 'h') | KeyCode::F(1) => model.help = true,
        KeyCode::Up | KeyCode::Char('k') => model.step(-1),
        KeyCode::Down | KeyCode::Char('j') => model.step(1),
        KeyCode::PageUp => model.step(-PAGE_LINES),
        KeyCode::PageDown => model.step(PAGE_LINES),
        KeyCode::Home | KeyCode::Char('g') => model.step(isize::MIN),
        KeyCode::End | KeyCode::Char('G') if model.page == Page::List => model.step(isize::MAX),
        KeyCode::Enter if model.page == Page::List && model.torrent().is_some() => {
            model.turn_to(Page::Detail(Tab::Peers));
        }
        KeyCode::Esc | KeyCode::Backspace if model.page != Page::List => model.turn_to(Page::List),
        KeyCode::Esc => {
            model.filter.clear();
            model.arrange();
        }
        KeyCode::Char('e') => {
            model.turn_to(if model.page == Page::Engine { Page::List } else { Page::Engine });
        }
        KeyCode::Tab | KeyCode::Right => turn_tab(model, 1),
        KeyCode::BackTab | KeyCode::Left => turn_tab(model, -1),
        KeyCode::Char(digit @ '1'..='4') => {
            if let Page::Detail(_) = model.page {
                (model.page, model.scroll) = (Page::Detail(Tab::ALL[digit as usize - '1' as usize]), 0);
            }
        }
        KeyCode::Char('s') if model.page == Page::List => {
            model.sort = model.sort.next();
            model.arrange();
        }
        KeyCode::Char('r') if model.page == Page::List => {
            model.is_reversed = !model.is_reversed;
            model.arrange();
        }
        KeyCode::Char('/') if model.page == Page::List => model.prompt = Some(Prompt::Filter),
        KeyCode::Char(letter) => return on_letter(model, letter),
        _ => {}
    }
    None
}

fn turn_tab(model: &mut Model, by: isize) {
    if let Page::Detail(tab) = model.page {
        (model.page, model.scroll) = (Page::Detail(tab.moved(by)), 0);
    }
}

/// Keys that change torrents and limits.
fn on_letter(model: &mut Model, letter: char) -> Option<Effect> {
    let limit = |torrent, down| Prompt::Limit { torrent, down, text: String::new(), problem: None };
    if let 'D' | 'U' = letter {
        model.prompt = Some(limit(None, letter == 'D'));
        return None;
    }
    // Shards have no torrent that could be meant.
    let torrent = model.torrent().filter(|_| model.page != Page::Engine)?;
    let (hash, name) = (torrent.info_hash.clone(), torrent.name.clone());
    match letter {
        // What has failed goes on by being resumed, as what rests does.
        'p' if torrent.paused || torrent.error.is_some() => return Some(Effect::Ask(Request::Resume(hash))),
        'p' => return Some(Effect::Ask(Request::Pause(hash))),
        'd' | 'u' => model.prompt = Some(limit(Some((hash, name)), letter == 'd')),
        'c' => model.prompt = Some(Prompt::Recheck(hash, name)),
        'x' => model.prompt = Some(Prompt::Remove(hash, name)),
        _ => {}
    }
    None
}

/// A key while something is asked. Whatever puts no prompt back ends it.
fn on_answer(model: &mut Model, prompt: Prompt, key: KeyCode) -> Option<Effect> {
    match prompt {
        Prompt::Filter => {
            match key {
                KeyCode::Enter => return None,
                KeyCode::Esc => model.filter.clear(),
                _ => {
                    edit(&mut model.filter, key);
                    model.prompt = Some(Prompt::Filter);
                }
            }
            model.arrange();
            None
        }
        Prompt::Limit { torrent, down, mut text, problem } => match key {
            KeyCode::Esc => None,
            KeyCode::Enter => match args::rate_limit(&text) {
                Ok(rate) => {
                    let hash = torrent.map(|(hash, _)| hash);
                    Some(Effect::Ask(Request::Limit { hash, down, rate }))
                }
                Err(problem) => {
                    model.prompt = Some(Prompt::Limit { torrent, down, text, problem: Some(problem) });
                    None
                }
            },
            _ => {
                let changed = edit(&mut text, key);
                let problem = problem.filter(|_| !changed);
                model.prompt = Some(Prompt::Limit { torrent, down, text, problem });
                None
            }
        },
        Prompt::Recheck(hash, _) => {
            (key == KeyCode::Char('y')).then_some(Effect::Ask(Request::Recheck(hash)))
        }
        Prompt::Remove(hash, name) => {
            let delete_data = match key {
                KeyCode::Char('y') => false,
                KeyCode::Char('D') => true,
                _ => return None,
            };
            if let Page::Detail(_) = model.page {
                model.turn_to(Page::List);
            }
            Some(Effect::Ask(Request::Remove { hash, name, delete_data }))
        }
    }
}

/// Whether the key has changed the text.
fn edit(text: &mut String, key: KeyCode) -> bool {
    match key {
        KeyCode::Char(letter) if text.len() < TEXT_MAX => {
            text.push(letter);
            true
        }
        KeyCode::Backspace => text.pop().is_some(),
        _ => false,
    }
}

#[cfg(test)]
#[path = "update_tests.rs"]
mod tests;
