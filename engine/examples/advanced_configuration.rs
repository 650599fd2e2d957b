//! A session with settings of one's own: the "Advanced Configuration" of the Python client.
//!
//! `advanced_configuration [CCBT.TOML]`. Without a file, values are set in the program.

use std::error::Error;
use std::path::Path;

use ccbt_fast::config::{Effect, Sources};
use ccbt_fast::{AddOptions, PickerConfig, Session, Settings, Strategy};

fn main() -> Result<(), Box<dyn Error>> {
    let file = std::env::args().nth(1);
    let (settings, options) = match &file {
        Some(file) => from_file(file.as_ref())?,
        None => by_hand(),
    };
    let session = Session::new(settings)?;
    println!("listening on port {}, for {} connections of each torrent", session.port(), options.max_peers);
    session.stop()?;
    Ok(())
}

/// Values set in the program. Everything else keeps its default.
pub fn by_hand() -> (Settings, AddOptions) {
    let mut settings = Settings { max_connections: 100, ..Settings::default() };
    // Requests on the way follow each peer's rate; the floor is what every peer may have.
    settings.window.floor = 32;
    let picker =
        PickerConfig { strategy: Strategy::RarestFirst, endgame_duplicates: 3, ..PickerConfig::default() };
    (settings, AddOptions { picker, ..AddOptions::new(".") })
}

/// The same from a file with `[network]`, `[strategy]` and so on, as the command line reads it.
pub fn from_file(file: &Path) -> Result<(Settings, AddOptions), Box<dyn Error>> {
    let Effect { settings, torrent, .. } = Sources::new(None, Some(file)).load()?.effect(None);
    Ok((settings, torrent))
}
