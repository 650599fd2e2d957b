//! The terminal: taken over for a while, and given back.
//!
//! Role: raw mode, the alternate screen and the cursor. Owner: [`super::run`]. Invariant: the terminal is as it was after
//! the [`Screen`] is dropped and after a panic of any thread, which ends the program: others would go on drawing.

use std::io::{self, IsTerminal, Stdout, Write};

use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::{Frame, Terminal};

/// What a program that panics ends with, in Rust.
const PANICKED: i32 = 101;

/// See the module.
pub struct Screen(Terminal<CrosstermBackend<Stdout>>);

impl Screen {
    /// Whether a person reads the output and types the input.
    pub fn is_possible() -> bool {
        io::stdin().is_terminal() && io::stdout().is_terminal()
    }

    /// Takes the terminal over.
    pub fn enter() -> io::Result<Self> {
        let tell = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            give_back();
            tell(panic);
            std::process::exit(PANICKED);
        }));
        enable_raw_mode()?;
        let entered = execute!(io::stdout(), EnterAlternateScreen, Hide)
            .and_then(|()| Terminal::new(CrosstermBackend::new(io::stdout())));
        entered.map(Self).inspect_err(|_| give_back())
    }

    /// Draws what has changed; the size of the terminal is asked for each time.
    pub fn draw(&mut self, view: impl FnOnce(&mut Frame)) -> io::Result<()> {
        self.0.draw(view).map(drop)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

fn give_back() {
    // Where the terminal is gone there is nothing to give back.
    let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
    let _ = disable_raw_mode();
    let _ = io::stdout().flush();
}

#[cfg(test)]
#[path = "terminal_tests.rs"]
mod tests;
