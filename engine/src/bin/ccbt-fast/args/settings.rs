//! Options that set keys of the configuration, made from its table ([`ccbt_fast::config::keys`]), and which files are read.

use std::path::PathBuf;

use ccbt_fast::config::{Flag, Key, Places, Setting, Sources, Value, find_path, keys::KEYS};
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

/// Which files are read.
#[derive(Args, Clone, Debug, Default)]
pub struct SourceArgs {
    /// Configuration file that wins over the others
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    pub config: Option<PathBuf>,
    /// Look for no configuration files, as with CCBT_NO_CONFIG=1
    #[arg(long, help_heading = HEADING)]
    pub no_config: bool,
    /// Set a key of the configuration, such as strategy.upload_slots=8; can be repeated
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE", value_parser = assignment, help_heading = HEADING)]
    pub assignments: Vec<Assignment>,
}

const HEADING: &str = "Configuration";

/// What `--set` says.
#[derive(Clone, Debug)]
pub struct Assignment {
    key: &'static Key,
    value: Value,
}

/// The options of keys; with `DOWNLOAD` also those that say nothing to a seed.
#[derive(Clone, Debug, Default)]
pub struct SettingArgs<const DOWNLOAD: bool> {
    settings: Vec<Setting>,
}

impl SourceArgs {
    /// The layers of the configuration, with `settings` of options above `--set`.
    pub fn sources(&self, settings: &[Setting]) -> Sources {
        let is_set = |value: std::ffi::OsString| !matches!(value.to_str(), Some("" | "0"));
        let no_files = self.no_config || std::env::var_os("CCBT_NO_CONFIG").is_some_and(is_set);
        let places = (!no_files).then(Places::of_process);
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
        };
        Sources::new(places.as_ref(), self.config.as_deref())
            .variables(std::env::vars_os().filter_map(text))
            .settings(self.assigned())
            .settings(settings.iter().cloned())
    }

    /// What `--set` says.
    pub fn assigned(&self) -> impl Iterator<Item = Setting> {
        self.assignments.iter().map(|Assignment { key, value }| Setting {
            key,
            value: value.clone(),
            flag: format!("--set {}", key.path()),
        })
    }
}

impl<const DOWNLOAD: bool> SettingArgs<DOWNLOAD> {
    /// What was given, in the order of the table.
    pub fn given(&self) -> &[Setting] {
        &self.settings
    }

    fn flags() -> impl Iterator<Item = (&'static Key, Flag)> {
        KEYS.iter()
            .filter_map(|key| Some((key, key.flag?)))
            .filter(|(_, flag)| DOWNLOAD || !flag.only_download)
    }
}

impl<const DOWNLOAD: bool> FromArgMatches for SettingArgs<DOWNLOAD> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut settings = Vec::new();
        for (key, flag) in Self::flags() {
            let value = match flag.means {
                Some(means) => matches.get_flag(flag.long).then_some(Value::Bool(means)),
                None if key.kind.is_list() => joined(matches, key, flag.long)?,
                None => matches.get_one::<Value>(flag.long).cloned(),
            };
            settings.extend(value.map(|value| Setting { key, value, flag: format!("--{}", flag.long) }));
        }
        Ok(Self { settings })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl<const DOWNLOAD: bool> Args for SettingArgs<DOWNLOAD> {
    fn augment_args(command: Command) -> Command {
        command.args(Self::flags().map(|(key, flag)| option(key, flag)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn option(key: &'static Key, flag: Flag) -> Arg {
    let arg = Arg::new(flag.long).long(flag.long);
    let arg = if let Some(short) = flag.short { arg.short(short) } else { arg };
    match flag.means {
        Some(means) => arg.action(ArgAction::SetTrue).help(format!("Set {} to {means}", key.path())),
        None => {
            let doc = key.doc.trim_end_matches('.');
            let default = key.default_value().to_text();
            let (action, repeated) = match key.kind.is_list() {
                true => (ArgAction::Append, "; can be repeated"),
                false => (ArgAction::Set, ""),
            };
            arg.action(action)
                .value_name(key.kind.placeholder())
                .help(format!("{doc} ({}){repeated} [default: {default}; {}]", key.expected(), key.path()))
                // Numbers below zero get the message of their key.
                .allow_negative_numbers(true)
                .value_parser(move |text: &str| key.read(text))
        }
    }
}

/// What all occurrences of an option say together.
fn joined(matches: &ArgMatches, key: &'static Key, long: &str) -> Result<Option<Value>, clap::Error> {
    let Some(texts) = matches.get_raw(long) else { return Ok(None) };
    let texts: Vec<_> = texts.map(|text| text.to_string_lossy()).collect();
    let wrong = |why| {
        let message = format!("invalid value '{}' for '--{long}': {why}\n", texts.join(","));
        clap::Error::raw(ErrorKind::ValueValidation, message)
    };
    key.read(&texts.join(",")).map(Some).map_err(wrong)
}

fn assignment(text: &str) -> Result<Assignment, String> {
    let (path, value) = text.split_once('=').ok_or("must be SECTION.KEY=VALUE")?;
    let path = path.trim();
    let key = match find_path(path) {
        Some(index) => &KEYS[index],
        None => {
            let (section, name) = path.split_once('.').ok_or("must be SECTION.KEY=VALUE")?;
            return Err(format!("{path}: {}", ccbt_fast::config::unknown_key(section, name, &[])));
        }
    };
    Ok(Assignment { key, value: key.read(value)? })
}
