//! The terminal is given back, also by a thread that panics: in a process of its own, behind a pseudo-terminal.

use std::fs::File;
use std::io::Read;
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use super::*;

/// Set in the process that panics.
const CHILD: &str = "CCBT_TEST_TOP_PANICS";

#[test]
fn a_panic_gives_the_terminal_back_and_ends_the_program() {
    if std::env::var_os(CHILD).is_some() {
        let mut screen = Screen::enter().expect("the terminal can be used");
        screen.draw(|frame| frame.render_widget("drawn", frame.area())).expect("drawn");
        assert!(Screen::is_possible());
        // Of another thread: its end alone would end nothing.
        let _ = std::thread::spawn(|| panic!("so it goes")).join();
        unreachable!("the program has ended");
    }
    let main = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("there are pseudo-terminals");
    grantpt(&main).and_then(|()| unlockpt(&main)).expect("it is ours");
    let name = ptsname(&main, Vec::new()).expect("it has a name");
    let open = || {
        let flags = OFlags::RDWR | OFlags::NOCTTY;
        Stdio::from(rustix::fs::open(name.as_c_str(), flags, Mode::empty()).expect("it is ours"))
    };
    let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&main, size).expect("a terminal");
    let before = tcgetattr(&main).expect("a terminal");
    // The name of this test in this program.
    let this = "top::terminal::tests::a_panic_gives_the_terminal_back_and_ends_the_program";
    let mut child = Command::new(std::env::current_exe().expect("known"))
        .args(["--exact", this, "--nocapture"])
        .env(CHILD, "1")
        .stdin(open())
        .stdout(open())
        .stderr(open())
        .spawn()
        .expect("it starts");
    let mut said = Vec::new();
    let mut reader = File::from(main.try_clone().expect("a descriptor"));
    let mut block = [0; 4096];
    // It ends with an error when the other side has closed.
    while let Ok(count @ 1..) = reader.read(&mut block) {
        said.extend_from_slice(&block[..count]);
    }
    let said = String::from_utf8_lossy(&said).into_owned();
    assert_eq!(child.wait().expect("it ends").code(), Some(PANICKED), "{said}");
    let (entered, drawn, left, panicked) =
        (said.find("\x1b[?1049h"), said.find("drawn"), said.rfind("\x1b[?1049l"), said.find("so it goes"));
    assert!(entered < drawn && drawn < left && left < panicked && entered.is_some(), "{said:?}");
    assert!(said.rfind("\x1b[?25h") > said.rfind("\x1b[?25l"), "the cursor is back: {said:?}");
    let after = tcgetattr(&main).expect("a terminal");
    assert_eq!(after.local_modes, before.local_modes);
    assert!(after.local_modes.contains(LocalModes::ICANON | LocalModes::ECHO));
}
