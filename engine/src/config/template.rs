//! The default `ccbt.toml`, made from the table. Pure.

use super::key::{Applies, Key};
use super::keys::{KEYS, SECTIONS};

/// Columns of the comments.
const COLUMNS: usize = 100;

const HEAD: &str = "\
# Configuration of ccbt-fast: every key with its default, all commented out.
#
# Files are read in this order, a later one wins key by key: /etc/ccbt/ccbt.toml, ~/.config/ccbt/ccbt.toml
# ($XDG_CONFIG_HOME), ./ccbt.toml, --config FILE. Environment variables win over files (CCBT_SECTION__KEY, or
# the short name given below), options over variables, and [torrent.\"...\"] over everything. --no-config and
# CCBT_NO_CONFIG=1 read no file but that of --config.
#
# ./ccbt.toml may be something that was downloaded: what could harm you is refused there (\"not in ./ccbt.toml\").
# Sizes take units (\"256MiB\", \"4G\", \"10MB\"), rates too (\"10MiB/s\", \"100Mbit/s\"), times (\"90s\", \"1h30m\").
#
# ccbt-fast config check FILE    says what is wrong with a file
# ccbt-fast config show --origin says which value counts, and where it comes from
#
# A running download, seed or daemon notices changed files (SIGHUP: at once), and says what it takes and what needs
# a restart.
";

const SCHEDULE: &str = "
# Other limits at some times of the wall clock; where several rules hold, the last one counts. A limit given by
# an option or a variable holds at any time. A rule whose \"to\" is not after its \"from\" ends on the next day.
# Days: mon tue wed thu fri sat sun, weekdays, weekend, all. At once.
#[[limits.schedule]]
#days = [\"weekdays\"]
#from = \"08:00\"
#to = \"18:00\"
#down_kib = \"2MiB/s\"
#up_kib = 512
";

const TORRENT: &str = "
# Values for some torrents: by info-hash, or by name with * (any characters) and ? (one). An info-hash counts more than
# names, of several names the last one counts.
";

/// The whole file.
pub fn default_file() -> String {
    let mut text = HEAD.to_owned();
    for (section, about) in SECTIONS {
        text += &format!("\n# {about}\n[{section}]\n");
        for key in KEYS.iter().filter(|key| key.section == section) {
            text += "\n";
            text += &comment(key);
            text += &format!("#{} = {}\n", key.name, key.default_value().to_toml());
        }
        if section == "limits" {
            text += SCHEDULE;
        }
    }
    text += TORRENT;
    text += "#[torrent.\"debian-*\"]\n";
    for key in KEYS.iter().filter(|key| key.per_torrent) {
        text += &format!("#{} = {}\n", key.name, key.default_value().to_toml());
    }
    text
}

fn comment(key: &Key) -> String {
    let mut facts = vec![key.expected()];
    facts.extend(key.short_env.map(str::to_owned));
    facts.extend(key.flag.map(|flag| format!("--{}", flag.long)));
    facts.extend(key.per_torrent.then(|| "per torrent".to_owned()));
    facts.extend(key.trusted_only.then(|| "not in ./ccbt.toml".to_owned()));
    facts.push(if key.applies == Applies::AtOnce { "at once" } else { "restart" }.to_owned());
    wrapped(key.doc) + &wrapped(&format!("({})", facts.join("; ")))
}

fn wrapped(text: &str) -> String {
    let mut lines = vec![String::from("#")];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is a line");
        if line.len() > 1 && line.chars().count() + 1 + word.chars().count() > COLUMNS {
            lines.push(format!("# {word}"));
        } else {
            *line += &format!(" {word}");
        }
    }
    lines.join("\n") + "\n"
}
