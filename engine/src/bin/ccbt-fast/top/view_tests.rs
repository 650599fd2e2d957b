use ccbt_fast::daemon::api::{Activity, Device, Engine, Pieces, Shard};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::super::model::{Prompt, Tab};
use super::testing::{detail, stats, torrent};
use super::*;

/// The screen as lines.
fn drawn(model: &Model, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("it is memory");
    terminal.draw(|frame| draw(frame, model)).expect("it is memory");
    let buffer = terminal.backend().buffer();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..height).map(line).collect()
}

fn text(model: &Model, width: u16, height: u16) -> String {
    drawn(model, width, height).join("\n")
}

fn list(names: &[&str]) -> Model {
    let torrents = names.iter().enumerate().map(|(at, name)| torrent(name, at + 1)).collect();
    let mut model = Model { stats: Some(stats()), torrents, ..Model::default() };
    model.history.add(6 << 20, 1 << 20);
    model.arrange();
    model
}

fn page(page: Page) -> Model {
    let mut model = list(&["some.iso"]);
    let pieces = Pieces {
        pieces_total: 100_000,
        pieces_done: 50_000,
        checked: true,
        cells: [vec![100; 1024], vec![0; 1024]].concat(),
        ..Pieces::default()
    };
    model.turn_to(page);
    model.detail = Some(Ok(Box::new(detail(pieces))));
    let shard = |received| Shard {
        received,
        memory_used: 96 << 20,
        memory: 192 << 20,
        pieces: 40,
        cache_hits: 3,
        cache_misses: 1,
        ..Shard::default()
    };
    let device =
        Device { name: "259:1".to_owned(), in_flight: 3, depth_limit: 32, waiting: 17, ..Device::default() };
    let engine = |received| Engine {
        shards: vec![shard(received), shard(0)],
        devices: vec![device.clone()],
        hash_waiting: 5,
        ..Engine::default()
    };
    model.engine_before = Some((engine(0), 2.0));
    model.engine = Some(engine(8 << 20));
    model
}

#[test]
fn a_list_has_as_many_columns_as_there_is_room_for() {
    let model = list(&["debian.iso", "ubuntu.iso"]);
    let screen = drawn(&model, 80, 24);
    assert!(
        screen[0].contains("↓ 6.00 MiB/s of 10.0 MiB/s  ↑ 1.00 MiB/s  3 torrents, 2 downloading"),
        "{screen:#?}"
    );
    assert!(screen[3].starts_with("NAME 2/2 by queue") && screen[3].contains("DONE"), "{screen:#?}");
    assert!(screen[4].starts_with("debian.iso") && screen[4].contains("25.0%   3.00 MiB/s"), "{screen:#?}");
    assert!(screen[4].contains("downloading"), "{screen:#?}");
    assert!(screen[23].starts_with("? help  Enter open"), "{screen:#?}");
    assert!(!screen[3].contains("RATIO") && drawn(&model, 120, 24)[3].contains("RATIO"));
    let narrow = drawn(&model, 40, 10);
    assert!(
        narrow[2].contains("DONE") && !narrow[2].contains("STATE") && narrow[3].contains("25.0%"),
        "{narrow:#?}"
    );
}

#[test]
fn every_page_is_drawn_at_every_size() {
    let pages = Tab::ALL.into_iter().map(Page::Detail).chain([Page::List, Page::Engine]);
    for page in pages.map(page) {
        for (width, height) in [(1, 1), (39, 24), (80, 9), (40, 10), (80, 24), (81, 25), (200, 60), (500, 2)]
        {
            let screen = text(&page, width, height);
            let is_small = width < SIZE_MIN.0 || height < SIZE_MIN.1;
            assert_eq!(
                screen.contains("Too"),
                is_small && width > 2,
                "{width}×{height} {:?}:\n{screen}",
                page.page
            );
        }
    }
}

#[test]
fn the_selected_line_is_in_sight() {
    let names: Vec<String> = (0..10_000).map(|at| format!("torrent-{at:05}")).collect();
    let mut model = list(&names.iter().map(String::as_str).collect::<Vec<_>>());
    for at in [0, 9, 5_000, 9_999] {
        model.selected = Some(model.torrents[at].info_hash.clone());
        let screen = text(&model, 80, 24);
        assert!(screen.contains(&names[at]), "{screen}");
        assert_eq!(screen.matches("torrent-").count(), 19, "all lines are used");
    }
}

#[test]
fn a_torrents_page_has_facts_pieces_and_its_tab() {
    let screen = text(&page(Page::Detail(Tab::Peers)), 80, 24);
    for part in [
        "downloading  25.0% of 4.00 GiB, 17m 04s to go  ratio 0.1",
        "limits ↓ none ↑ 1.00 MiB/s  12 peers, 99 addresses  wasted 0 B  bad pieces 2",
        "████████·",
        " 1 Peers  2 Pieces  3 Files  4 Trackers ",
        "PEER  2 of 12",
        "192.0.2.1:6881",
        "seed    dialled",
    ] {
        assert!(screen.contains(part), "{part}:\n{screen}");
    }
    let screen = text(&page(Page::Detail(Tab::Trackers)), 80, 24);
    assert!(screen.contains("http://one.example/announce"), "{screen}");
    assert!(screen.contains("answered 1m 05s ago") && screen.contains("it does not\\u{1b}[2J"), "{screen}");
    let screen = text(&page(Page::Detail(Tab::Files)), 80, 24);
    assert!(screen.contains("evil\\u{1b}]0;x\\u{7}name"), "{screen}");
    let mut gone = page(Page::Detail(Tab::Files));
    gone.detail = Some(Err("no torrent here".to_owned()));
    assert!(text(&gone, 80, 24).contains("no torrent here"));
}

#[test]
fn a_map_of_100_000_pieces_fits() {
    let screen = drawn(&page(Page::Detail(Tab::Pieces)), 80, 24);
    let map: String = screen[10..23].concat();
    assert_eq!(map.matches('█').count(), map.matches('·').count(), "{screen:#?}");
    assert!(screen[9].starts_with("50000 of 100000 pieces of 1.00 MiB there; a character is"), "{screen:#?}");
    assert_eq!(detail::cells(&[0, 0, 1, 0, 99, 100, 100, 100], 4), "·░▓█");
    assert_eq!(detail::cells(&[100, 0], 80), "█·", "no more characters than cells");
    assert_eq!((detail::cells(&[], 80), detail::cells(&[5], 0)), (String::new(), String::new()));
}

#[test]
fn shards_and_queues() {
    let screen = text(&page(Page::Engine), 80, 24);
    for part in ["4.00 MiB/s", "█████░░░░░", "75%", "259:1", "3/32", "17", "5 pieces wait"]
    {
        assert!(screen.contains(part), "{part}:\n{screen}");
    }
    let mut first = page(Page::Engine);
    first.engine_before = None;
    assert!(!text(&first, 80, 24).contains("MiB/s   "), "no rate without something to compare with");
}

#[test]
fn names_of_strangers_cannot_drive_the_terminal() {
    let mut model = list(&["a\x1b[2J\u{202e}b\nc\u{9b}d"]);
    let name = model.torrents[0].name.clone();
    model.torrents[0].error = Some(name.clone());
    model.notice = Some(Ok(name.clone()));
    let mut all = vec![text(&model, 120, 24)];
    model.lost = Some(name.clone());
    all.push(text(&model, 120, 24));
    model.filter = name.clone();
    let pair = ("00".to_owned(), name);
    for prompt in
        [Prompt::Filter, Prompt::Recheck(pair.0.clone(), pair.1.clone()), Prompt::Remove(pair.0, pair.1)]
    {
        model.prompt = Some(prompt);
        all.push(text(&model, 120, 24));
    }
    for screen in all {
        assert!(screen.contains("a\\u{1b}[2J\\u{202e}b\\nc\\u{9b}d"), "{screen}");
        assert!(
            screen.chars().all(|c| !c.is_control() || c == '\n') && !screen.contains('\u{202e}'),
            "{screen}"
        );
    }
}

#[test]
fn questions_help_and_trouble_have_their_place() {
    let mut model = list(&["some.iso"]);
    model.torrents[0].state = Activity::Error;
    model.prompt = Some(Prompt::Remove(String::new(), "some.iso".to_owned()));
    let foot = |model: &Model| drawn(model, 80, 24)[23].clone();
    assert!(foot(&model).starts_with("remove? y: files stay, D: files go too, n: no  some.iso"));
    let problem = Some("too fast".to_owned());
    model.prompt = Some(Prompt::Limit { torrent: None, down: true, text: "2".to_owned(), problem });
    assert!(foot(&model).starts_with("download limit: 2▏ (too fast) of all together"), "{}", foot(&model));
    model.prompt = None;
    model.lost = Some("no daemon listens".to_owned());
    assert!(foot(&model).starts_with("trying again: no daemon listens"));
    model.help = true;
    let screen = text(&model, 80, 24);
    assert!(
        screen.contains("limit all torrents together") && screen.contains("any key goes back"),
        "{screen}"
    );
    text(&model, 40, 10);
    assert!(text(&Model::default(), 80, 24).contains("asking the daemon"));
    assert!(text(&list(&[]), 80, 24).contains("ccbt-fast add some.torrent"));
}
