//! `ccbt-fast daemon`: runs many torrents until it is stopped.

use std::time::{Duration, Instant};

use ccbt_fast::config::{Applies, Watcher};
use ccbt_fast::daemon::{Daemon, Notice, Setup};
use ccbt_protocol::metainfo::escape_for_terminal;

use crate::args::DaemonArgs;
use crate::console::Console;
use crate::failure::Failure;
use crate::lines::Line;
use crate::logging::{self, Log};
use crate::manager::Manager;
use crate::signals::Signals;
use crate::{limits, sandbox, transfer};

/// How often signals and configuration files are looked at.
const TICK: Duration = Duration::from_millis(100);
/// Time an orderly stop may take.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs it.
pub fn run(args: &DaemonArgs) -> Result<(), Failure> {
    let mut console = Console::new(args.json);
    let sources = args.sources.sources(&args.given());
    let watcher = Watcher::new(sources.files());
    let config = sources.load()?;
    let effect = config.effect(None);
    let sandbox = sandbox::of_daemon(&effect, &sources, &mut console)?;
    let log = logging::start(&effect.log, console.bar())?;
    let signals = Signals::install_with_reload().map_err(Failure::system("handle signals"))?;
    let settings = transfer::settings(&effect, &config, limits::raise())?;
    let mut daemon = Daemon::start(Setup { sources, watcher, config, sandbox, settings })?;
    for path in &args.add {
        match daemon.add_file(path) {
            Ok(_) => {}
            Err(error) if error.code == "duplicate" => console.line(&Line::Note { message: &error.message }),
            Err(error) => {
                let path = path.to_string_lossy();
                let text = format!("--add {path}: {error}");
                stop(daemon, &mut console)?;
                return Err(Failure::Usage(escape_for_terminal(&text).into_owned()));
            }
        }
    }
    console.line(&Line::Daemon {
        port: daemon.port(),
        socket: &daemon.socket().to_string_lossy(),
        listen: daemon.listen().map(|address| address.to_string()),
        torrents: daemon.torrents(),
    });
    let mut manager = Manager::new(Instant::now());
    manager.ready();
    while signals.received().is_none() {
        manager.turn(Instant::now(), &daemon);
        if daemon.turn(TICK).is_err() {
            console.line(&Line::Error { message: &Failure::EngineLost.to_string(), retry: false });
            return Err(Failure::EngineLost);
        }
        let is_wanted = signals.is_reload_wanted();
        if is_wanted {
            manager.reloading();
        }
        for notice in daemon.reload(is_wanted) {
            tell(&notice, &log, &mut console);
        }
        if is_wanted {
            manager.ready();
        }
    }
    manager.stopping();
    stop(daemon, &mut console)
}

fn stop(daemon: Daemon, console: &mut Console) -> Result<(), Failure> {
    daemon.stop(SHUTDOWN_TIMEOUT)?;
    console.line(&Line::DaemonStopped);
    Ok(())
}

fn tell(notice: &Notice, log: &Log, console: &mut Console) {
    match notice {
        Notice::Changed(change) => {
            let needs_restart = change.applies == Applies::Restart;
            console.line(&Line::Config {
                key: &change.key,
                from: &change.from,
                to: &change.to,
                needs_restart,
            });
        }
        Notice::Wrong(message) => {
            tracing::info!("the configuration stays as it was: {message}");
            console.line(&Line::ConfigError { message });
        }
        Notice::Same => console.line(&Line::Note { message: "the configuration has not changed" }),
        Notice::Filter(message) => console.line(&Line::Note { message }),
        Notice::Log(settings) => log.set(settings),
    }
}
