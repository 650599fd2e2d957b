//! What is known about one key. The table itself is [`super::keys`].

use super::effect::Effect;
use super::kind::{Kind, Value, quoted};

/// When a changed value counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applies {
    /// A running session takes it.
    AtOnce,
    /// The next start takes it.
    Restart,
}

/// The option of the command line that sets a key.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Without the dashes.
    pub long: &'static str,
    /// One letter for the same.
    pub short: Option<char>,
    /// The value that the option stands for; `None`: it takes one.
    pub means: Option<bool>,
    /// It says nothing to a seed.
    pub only_download: bool,
}

/// A row of the table. Built by [`key`] and what follows it.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its table in the file.
    pub section: &'static str,
    /// Unique in its section; unique among all keys if `per_torrent`.
    pub name: &'static str,
    /// Type and bounds.
    pub kind: Kind,
    /// A word that is allowed beside them, and stands for no value.
    pub word: Option<&'static str>,
    /// The default, as text.
    pub default: &'static str,
    /// What it is for, one or two sentences.
    pub doc: &'static str,
    /// When a change counts.
    pub applies: Applies,
    /// Allowed in `[torrent."…"]` too.
    pub per_torrent: bool,
    /// Refused in `./ccbt.toml`, which may be something that was downloaded.
    pub trusted_only: bool,
    /// The environment variable of the Python client, besides [`Self::env`].
    pub short_env: Option<&'static str>,
    /// Its option.
    pub flag: Option<Flag>,
    /// Puts a value where it has its effect.
    pub apply: fn(&mut Effect, &Value),
}

/// A key with the least said about it: a change needs a restart.
pub(super) const fn key(
    section: &'static str,
    name: &'static str,
    kind: Kind,
    default: &'static str,
    doc: &'static str,
    apply: fn(&mut Effect, &Value),
) -> Key {
    Key {
        section,
        name,
        kind,
        word: None,
        default,
        doc,
        applies: Applies::Restart,
        per_torrent: false,
        trusted_only: false,
        short_env: None,
        flag: None,
        apply,
    }
}

impl Key {
    /// Allows `word` beside the values of the kind.
    pub(super) const fn or(self, word: &'static str) -> Self {
        Self { word: Some(word), ..self }
    }

    /// A running session takes a change.
    pub(super) const fn at_once(self) -> Self {
        Self { applies: Applies::AtOnce, ..self }
    }

    /// Allowed in `[torrent."…"]`.
    pub(super) const fn per_torrent(self) -> Self {
        Self { per_torrent: true, ..self }
    }

    /// Refused in `./ccbt.toml`.
    pub(super) const fn trusted_only(self) -> Self {
        Self { trusted_only: true, ..self }
    }

    /// Also set by this environment variable.
    pub(super) const fn short_env(self, name: &'static str) -> Self {
        Self { short_env: Some(name), ..self }
    }

    /// Set by `--long VALUE`.
    pub(super) const fn flag(self, long: &'static str) -> Self {
        let flag = Flag { long, short: None, means: None, only_download: false };
        Self { flag: Some(flag), ..self }
    }

    /// As [`Self::flag`], and by `-short VALUE`.
    pub(super) const fn flags(self, short: char, long: &'static str) -> Self {
        let flag = Flag { long, short: Some(short), means: None, only_download: false };
        Self { flag: Some(flag), ..self }
    }

    /// `--long` sets it to `value`.
    pub(super) const fn switch(self, long: &'static str, value: bool) -> Self {
        let flag = Flag { long, short: None, means: Some(value), only_download: false };
        Self { flag: Some(flag), ..self }
    }

    /// As [`Self::switch`], for `download` and not for `seed`.
    pub(super) const fn download_switch(self, long: &'static str, value: bool) -> Self {
        let flag = Flag { long, short: None, means: Some(value), only_download: true };
        Self { flag: Some(flag), ..self }
    }

    /// As [`Self::flag`], for `download` and not for `seed`.
    pub(super) const fn download_flag(self, long: &'static str) -> Self {
        let flag = Flag { long, short: None, means: None, only_download: true };
        Self { flag: Some(flag), ..self }
    }

    /// `section.name`.
    pub fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// `CCBT_SECTION__NAME`.
    pub fn env(&self) -> String {
        format!("CCBT_{}__{}", self.section.to_ascii_uppercase(), self.name.to_ascii_uppercase())
    }

    /// Reads a value; the message says what may stand there.
    pub fn read(&self, text: &str) -> Result<Value, String> {
        match self.word {
            Some(word) if word.eq_ignore_ascii_case(text.trim()) => Ok(Value::Word(word)),
            _ => self
                .kind
                .read(text)
                .ok_or_else(|| format!("must be {}, not {:?}", self.expected(), shortened(text))),
        }
    }

    /// What may stand there, to follow "must be".
    pub fn expected(&self) -> String {
        match self.word {
            Some(word) => format!("{}, or {}", self.kind.expected(), quoted(&[word])),
            None => self.kind.expected(),
        }
    }

    /// The default as a value.
    pub fn default_value(&self) -> Value {
        self.read(self.default).expect("a test reads every default")
    }
}

/// The beginning of a text that is shown in a message.
fn shortened(text: &str) -> String {
    const SHOWN_MAX: usize = 60;
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
