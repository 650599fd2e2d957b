use std::time::Duration;

use ccbt_fast::daemon::api::{Activity, Engine, Pieces};
use ratatui::crossterm::event::KeyEvent;

use super::super::model::Sort;
use super::super::view::testing::{detail, stats, torrent};
use super::*;

fn look(model: &mut Model, torrents: Vec<ccbt_fast::daemon::api::Torrent>) {
    let look = Look { at: Duration::from_secs(1), stats: stats(), torrents, detail: None, engine: None };
    update(model, Message::Looked(Box::new(look)));
}

fn three() -> Model {
    let mut model = Model::default();
    let mut torrents = vec![torrent("beta", 1), torrent("alpha", 2), torrent("gamma", 3)];
    torrents[2].down_rate = 5 << 20;
    torrents[1].state = Activity::Seeding;
    look(&mut model, torrents);
    model
}

fn press(model: &mut Model, code: KeyCode) -> Option<Effect> {
    update(model, Message::Key(KeyEvent::from(code)))
}

fn typed(model: &mut Model, text: &str) -> Option<Effect> {
    text.chars().fold(None, |_, letter| press(model, KeyCode::Char(letter)))
}

fn names(model: &Model) -> Vec<&str> {
    model.shown.iter().map(|at| model.torrents[*at].name.as_str()).collect()
}

fn selected(model: &Model) -> &str {
    &model.torrent().expect("one is selected").name
}

#[test]
fn the_selection_stays_with_its_torrent() {
    let mut model = three();
    assert_eq!((selected(&model), names(&model)), ("beta", vec!["beta", "alpha", "gamma"]));
    press(&mut model, KeyCode::Down);
    assert_eq!(selected(&model), "alpha");
    press(&mut model, KeyCode::Char('s'));
    assert_eq!((model.sort, names(&model)), (Sort::Name, vec!["alpha", "beta", "gamma"]));
    assert_eq!(selected(&model), "alpha");
    press(&mut model, KeyCode::Char('r'));
    assert_eq!(names(&model), ["gamma", "beta", "alpha"]);
    typed(&mut model, "sss");
    assert_eq!((model.sort, names(&model)[2]), (Sort::Down, "gamma"));
    press(&mut model, KeyCode::PageDown);
    assert_eq!(selected(&model), "gamma");
    // Others come and go.
    look(&mut model, vec![torrent("new", 1), torrent("gamma", 3)]);
    assert_eq!(selected(&model), "gamma");
    look(&mut model, vec![torrent("new", 1)]);
    assert_eq!(selected(&model), "new");
    look(&mut model, Vec::new());
    assert!(model.torrent().is_none() && press(&mut model, KeyCode::Char('p')).is_none());
    press(&mut model, KeyCode::Enter);
    assert_eq!(model.page, Page::List);
}

#[test]
fn a_filter_is_typed_kept_and_left() {
    let mut model = three();
    typed(&mut model, "/GAM");
    assert_eq!((names(&model), selected(&model)), (vec!["gamma"], "gamma"));
    press(&mut model, KeyCode::Backspace);
    typed(&mut model, "q");
    assert!(names(&model).is_empty(), "a letter is text here");
    press(&mut model, KeyCode::Backspace);
    press(&mut model, KeyCode::Enter);
    assert!(model.prompt.is_none() && names(&model) == ["gamma"]);
    press(&mut model, KeyCode::Esc);
    assert_eq!(names(&model).len(), 3);
    typed(&mut model, "/seeding");
    assert_eq!(names(&model), ["alpha"], "states are found too");
}

#[test]
fn keys_ask_for_what_they_say() {
    let mut model = three();
    let hash = model.selected.clone().expect("one is selected");
    assert_eq!(typed(&mut model, "p"), Some(Effect::Ask(Request::Pause(hash.clone()))));
    model.torrents[0].paused = true;
    assert_eq!(typed(&mut model, "p"), Some(Effect::Ask(Request::Resume(hash.clone()))));
    assert_eq!(typed(&mut model, "cn"), None);
    assert_eq!(typed(&mut model, "cy"), Some(Effect::Ask(Request::Recheck(hash.clone()))));
    let remove = |delete_data| {
        Some(Effect::Ask(Request::Remove { hash: hash.clone(), name: "beta".to_owned(), delete_data }))
    };
    for no in ["xn", "xd", "xx", "xq"] {
        assert_eq!(typed(&mut model, no), None, "{no}");
        assert!(model.prompt.is_none());
    }
    assert_eq!(typed(&mut model, "xy"), remove(false));
    assert_eq!(typed(&mut model, "xD"), remove(true));
    let limit = |hash: Option<&String>, down, rate| {
        Some(Effect::Ask(Request::Limit { hash: hash.cloned(), down, rate }))
    };
    typed(&mut model, "d2MiB/s");
    assert_eq!(press(&mut model, KeyCode::Enter), limit(Some(&hash), true, Some(2 << 20)));
    typed(&mut model, "udefault");
    assert_eq!(press(&mut model, KeyCode::Enter), limit(Some(&hash), false, None));
    typed(&mut model, "U0");
    assert_eq!(press(&mut model, KeyCode::Enter), limit(None, false, Some(0)));
    typed(&mut model, "Dfast");
    assert_eq!(press(&mut model, KeyCode::Enter), None);
    let Some(Prompt::Limit { problem: Some(_), .. }) = &model.prompt else { panic!("{:?}", model.prompt) };
    press(&mut model, KeyCode::Esc);
    assert_eq!(typed(&mut model, "q"), Some(Effect::Quit));
    let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    typed(&mut model, "/");
    assert_eq!(
        update(&mut model, Message::Key(interrupt)),
        Some(Effect::Quit),
        "also while something is asked"
    );
    assert_eq!(update(&mut model, Message::Stop), Some(Effect::Quit));
}

#[test]
fn pages_say_what_is_to_be_looked_at() {
    let mut model = three();
    assert_eq!(model.watch(), Default::default());
    press(&mut model, KeyCode::Enter);
    let hash = model.selected.clone().expect("one is selected");
    assert_eq!((model.page, model.watch().torrent), (Page::Detail(Tab::Peers), Some(hash.clone())));
    press(&mut model, KeyCode::BackTab);
    assert_eq!(model.page, Page::Detail(Tab::Trackers));
    typed(&mut model, "2jjj");
    assert_eq!((model.page, model.scroll), (Page::Detail(Tab::Pieces), 3));
    // An answer that comes late is of another torrent.
    for (of, taken) in [("other".to_owned(), false), (hash, true)] {
        let answer = Some((of, Ok(Box::new(detail(Pieces::default())))));
        let (torrents, at) = (model.torrents.clone(), Duration::from_secs(2));
        let look = Look { at, stats: stats(), torrents, detail: answer, engine: None };
        update(&mut model, Message::Looked(Box::new(look)));
        assert_eq!(model.detail.is_some(), taken);
    }
    press(&mut model, KeyCode::Esc);
    assert!(model.page == Page::List && model.detail.is_none());
    typed(&mut model, "e");
    assert!(model.watch().engine);
    for seconds in [3, 5] {
        let (torrents, at) = (model.torrents.clone(), Duration::from_secs(seconds));
        let engine = Some(Engine { hashed_bytes: seconds, ..Engine::default() });
        let look = Look { at, stats: stats(), torrents, detail: None, engine };
        update(&mut model, Message::Looked(Box::new(look)));
    }
    let (before, seconds) = model.engine_before.as_ref().expect("there were two");
    assert_eq!((before.hashed_bytes, *seconds), (3, 2.0));
    assert_eq!(typed(&mut model, "xy"), None, "no torrent is meant there");
}

#[test]
fn what_became_of_it_is_told_until_the_next_key() {
    let mut model = three();
    let done = Message::Done(Err("no such torrent".to_owned()));
    assert_eq!(update(&mut model, done), Some(Effect::Look));
    assert_eq!(model.notice, Some(Err("no such torrent".to_owned())));
    update(&mut model, Message::Lost("no daemon".to_owned()));
    press(&mut model, KeyCode::Down);
    assert!(model.notice.is_none() && model.lost.is_some());
    look(&mut model, vec![torrent("a", 1)]);
    assert!(model.lost.is_none());
    typed(&mut model, "?x");
    assert!(!model.help && model.prompt.is_none(), "the key that leaves the help does nothing else");
}
