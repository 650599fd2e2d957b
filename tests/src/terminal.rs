//! A program behind a pseudo-terminal, and its screen as a person sees it.
//!
//! Owner: the test. Invariant: what the program writes is read all the time; the program ends with this.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::SOON;
use crate::process::{POLL, wait_until};

/// See the module.
pub struct Terminal {
    main: OwnedFd,
    /// Keeps the terminal when the program has ended.
    _other: OwnedFd,
    child: Child,
    screen: Arc<Mutex<vt100::Parser>>,
}

impl Terminal {
    /// Runs the command in a session of its own, with a terminal of this size.
    pub fn start(command: &Command, columns: u16, rows: u16) -> Self {
        let main =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
        grantpt(&main).and_then(|()| unlockpt(&main)).expect("it is ours");
        let name = ptsname(&main, Vec::new()).expect("it has a name");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let other = rustix::fs::open(name.as_c_str(), flags, Mode::empty()).expect("it is ours");
        set_size(&main, columns, rows);
        let side = || Stdio::from(other.try_clone().expect("a descriptor"));
        // It makes the terminal the controlling one, and then is the program.
        let child = Command::new("setsid")
            .arg("--ctty")
            .arg(command.get_program())
            .args(command.get_args())
            .env("TERM", "xterm-256color")
            .stdin(side())
            .stdout(side())
            .stderr(side())
            .spawn()
            .expect("setsid is there");
        let screen = Arc::new(Mutex::new(vt100::Parser::new(cells(rows), cells(columns), 0)));
        let (mut reader, shared) = (File::from(main.try_clone().expect("a descriptor")), screen.clone());
        thread::spawn(move || {
            let mut block = [0; 4096];
            // It ends with an error when the program's side is closed.
            while let Ok(count @ 1..) = reader.read(&mut block) {
                shared.lock().unwrap_or_else(PoisonError::into_inner).process(&block[..count]);
            }
        });
        Self { main, _other: other, child, screen }
    }

    /// Its lines.
    pub fn screen(&self) -> String {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner).screen().contents()
    }

    /// Waits until the screen shows it.
    pub fn wait(&self, part: &str) -> String {
        self.wait_until(part, |screen| screen.contains(part))
    }

    /// Waits until the screen is as wanted.
    pub fn wait_until(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let until = Instant::now() + SOON;
        loop {
            let screen = self.screen();
            if wanted(&screen) {
                return screen;
            }
            assert!(Instant::now() < until, "no {what} on the screen:\n{screen}");
            thread::sleep(POLL);
        }
    }

    /// Types.
    pub fn keys(&self, keys: &str) {
        let mut main = File::from(self.main.try_clone().expect("a descriptor"));
        main.write_all(keys.as_bytes()).expect("the terminal takes it");
    }

    /// Another size; the program is told by SIGWINCH.
    pub fn resize(&self, columns: u16, rows: u16) {
        self.screen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .screen_mut()
            .set_size(cells(rows), cells(columns));
        set_size(&self.main, columns, rows);
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a child has a pid");
        kill_process(pid, signal).expect("it runs");
    }

    /// CPU time so far, in clock ticks of 1/100 s.
    pub fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("it runs");
        let fields = stat.rsplit(") ").next().expect("a name").split(' ');
        fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
    }

    /// Its end.
    pub fn wait_exit(&mut self) -> ExitStatus {
        wait_until(SOON, "end of the program", || self.child.try_wait().expect("it is a child"))
    }

    /// Whether the terminal is as a shell wants it: lines, echo, the main screen and a cursor.
    pub fn is_given_back(&self) -> bool {
        let modes = tcgetattr(&self.main).expect("a terminal").local_modes;
        let until = Instant::now() + Duration::from_secs(5);
        // The last bytes may be on their way to us.
        let is_plain = || {
            let parser = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
            !parser.screen().alternate_screen() && !parser.screen().hide_cursor()
        };
        while !is_plain() && Instant::now() < until {
            thread::sleep(POLL);
        }
        is_plain() && modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }
}

fn set_size(terminal: &OwnedFd, columns: u16, rows: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).expect("a terminal has a size");
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn cells(count: u16) -> NonZero<u16> {
    NonZero::new(count).expect("a terminal has cells")
}
