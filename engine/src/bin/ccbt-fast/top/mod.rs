//! `ccbt-fast top`: the daemon's torrents on a terminal, live.
//!
//! Role: threads and effects; what is known and shown is [`model`] (pure), what keys mean is [`update`] (pure), how it
//! looks is [`view`] (pure). Owner: `main`. Invariant: nothing is drawn unless something came: a key, a new size, an
//! answer of the daemon (once a second) or a signal; however it ends, the terminal is as it was ([`terminal`]).
//!
//! ```text
//!  keys, sizes ─┐
//!  signals ─────┼─▶ inbox ─▶ update(model) ─▶ view(model)
//!  answers ─────┘                 │
//!      ▲                          ├─▶ poller: what is to be looked at
//!      └──────────────────────────┴─▶ actor: what is to be done
//! ```

mod model;
mod terminal;
mod update;
mod view;
mod watch;

use std::io;
use std::thread;

use ccbt_fast::daemon::Client;
use ccbt_fast::daemon::api::Stats;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::args::TopArgs;
use crate::control;
use crate::failure::Failure;
use model::Model;
use terminal::Screen;
use update::{Effect, Message};

/// Messages waiting at most: whoever is faster than the screen waits.
const MESSAGES_MAX: usize = 64;

/// Shows the daemon until a key or a signal ends it.
pub fn run(args: &TopArgs) -> Result<(), Failure> {
    let client = control::client_at(&args.place, &args.sources)?;
    if !Screen::is_possible() {
        let words = "top needs a terminal; for programs there are `list --json`, `stats --json` and `events`";
        return Err(Failure::Usage(words.to_owned()));
    }
    // Said in the ordinary way if there is no daemon.
    let _: Stats = client.call("GET", "/v1/stats", control::NO_BODY)?;
    let (tell, inbox) = bounded(MESSAGES_MAX);
    let (look, watching) = unbounded();
    let (act, actions) = unbounded();
    listen_to_signals(tell.clone()).map_err(Failure::system("handle signals"))?;
    let mut screen = Screen::enter().map_err(Failure::system("use the terminal"))?;
    start("ccbt-top-keys", {
        let tell = tell.clone();
        move || read_keys(&tell)
    })?;
    start("ccbt-top-look", {
        let (client, tell) = (client.clone(), tell.clone());
        move || watch::look(&client, &watching, &tell)
    })?;
    start("ccbt-top-act", move || act_on(&client, &actions, &tell))?;
    let mut model = Model::default();
    let outcome = show(&mut screen, &mut model, &inbox, &look, &act);
    drop(screen);
    outcome.map_err(Failure::system("use the terminal"))
}

/// Draws, waits, changes, until it is over.
fn show(
    screen: &mut Screen,
    model: &mut Model,
    inbox: &Receiver<Message>,
    look: &Sender<watch::Watch>,
    act: &Sender<update::Request>,
) -> io::Result<()> {
    let mut watching = watch::Watch::default();
    loop {
        screen.draw(|frame| view::draw(frame, model))?;
        let Ok(first) = inbox.recv() else { return Ok(()) };
        for message in std::iter::once(first).chain(inbox.try_iter()) {
            let effect = update::update(model, message);
            match effect {
                Some(Effect::Quit) => return Ok(()),
                // A thread that is gone has ended the program.
                Some(Effect::Ask(request)) => drop(act.send(request)),
                Some(Effect::Look) => drop(look.send(watching.clone())),
                None => {}
            }
        }
        let wanted = model.watch();
        if wanted != watching {
            watching = wanted;
            let _ = look.send(watching.clone());
        }
    }
}

fn start(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    let started = thread::Builder::new().name(name.to_owned()).spawn(work);
    started.map(drop).map_err(Failure::system("start a thread"))
}

fn listen_to_signals(tell: Sender<Message>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let listen = move || {
        if signals.forever().next().is_some() {
            let _ = tell.send(Message::Stop);
        }
    };
    thread::Builder::new().name("ccbt-top-stop".to_owned()).spawn(listen).map(drop)
}

fn read_keys(tell: &Sender<Message>) {
    loop {
        let message = match event::read() {
            Ok(Event::Key(key)) if key.kind == KeyEventKind::Release => continue,
            Ok(Event::Key(key)) => Message::Key(key),
            Ok(Event::Resize(..)) => Message::Resized,
            Ok(_) => continue,
            // The terminal is gone.
            Err(_) => Message::Stop,
        };
        let is_last = matches!(message, Message::Stop);
        if tell.send(message).is_err() || is_last {
            return;
        }
    }
}

/// Does one thing after the other: a removal may take seconds, and nothing else waits for it.
fn act_on(client: &Client, actions: &Receiver<update::Request>, tell: &Sender<Message>) {
    for request in actions {
        if tell.send(Message::Done(watch::act(client, &request))).is_err() {
            return;
        }
    }
}
