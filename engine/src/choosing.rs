//! Files of a torrent as people name them: by numbers, or by name with wildcards.
//!
//! Pure. Called by the command line, the configuration and the daemon; the indices are those of [`Metainfo::files`], as
//! `ccbt-fast info` prints them.

use ccbt_protocol::metainfo::{FileEntry, Metainfo};
use ccbt_protocol::picker::Priority;

use crate::config::matches_glob;

/// Names that are shown when none fits.
const NEAREST_MAX: usize = 3;

/// Nothing is named by a text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChooseError {
    /// It is a list of numbers, and one of them is no file's.
    #[error("the torrent has no file {number}: its files are 0 to {last}, as `ccbt-fast info` lists them")]
    Number {
        /// What was asked for.
        number: u64,
        /// The last file.
        last: usize,
    },
    /// It is a list of numbers that cannot be read.
    #[error("{0:?} is no list of files, such as 0,2-5")]
    List(String),
    /// No file has such a name.
    #[error("no file of the torrent fits {pattern:?}; the nearest are {}", nearest.join(", "))]
    Name {
        /// What was asked for.
        pattern: String,
        /// Paths of some files.
        nearest: Vec<String>,
    },
    /// No file is left.
    #[error("every file is skipped: nothing is left to fetch")]
    Nothing,
}

/// Which files are wanted, and how much, in the words of [`choose`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Only these; none: all.
    pub only: Vec<String>,
    /// How much files are wanted, the last one counts. Also takes files in that `only` does not name.
    pub priorities: Vec<(String, Priority)>,
}

impl Choice {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.only.is_empty() && self.priorities.is_empty()
    }

    /// The priority of each file; `None`: it says nothing. Errors: it names no file, or leaves none.
    pub fn priorities_in(&self, metainfo: &Metainfo) -> Result<Option<Vec<Priority>>, ChooseError> {
        if self.is_empty() {
            return Ok(None);
        }
        let all = if self.only.is_empty() { Priority::Normal } else { Priority::Skip };
        let mut priorities = vec![all; metainfo.files.len()];
        let only = self.only.iter().map(|files| (files, Priority::Normal));
        let more = self.priorities.iter().map(|(files, priority)| (files, *priority));
        for (files, priority) in only.chain(more) {
            for file in choose(metainfo, files)? {
                priorities[file as usize] = priority;
            }
        }
        let is_wanted = |(file, priority): (&FileEntry, &Priority)| !file.pad && *priority != Priority::Skip;
        if metainfo.files.iter().zip(&priorities).any(is_wanted) {
            Ok(Some(priorities))
        } else {
            Err(ChooseError::Nothing)
        }
    }

    /// As [`Self::priorities_in`], for a choice that is for many torrents: what names no file of this one says nothing of it,
    /// and a torrent of which nothing would be left is wanted whole.
    pub fn priorities_if_fitting(&self, metainfo: &Metainfo) -> Option<Vec<Priority>> {
        let fits = |files: &String| choose(metainfo, files).is_ok();
        let only = self.only.iter().filter(|files| fits(files)).cloned().collect();
        let priorities = self.priorities.iter().filter(|(files, _)| fits(files)).cloned().collect();
        Self { only, priorities }.priorities_in(metainfo).unwrap_or_else(|error| {
            tracing::warn!("{}: {error}; all of it is fetched", metainfo.name);
            None
        })
    }
}

/// `FILES=PRIORITY`, such as `0-3=high` or `*.nfo=skip`. Errors: what is wrong, for people.
pub fn read_priority(text: &str) -> Result<(String, Priority), String> {
    let problem = || "must be FILES=PRIORITY, such as 0-3=high or *.nfo=skip".to_owned();
    let (files, name) = text.rsplit_once('=').filter(|(files, _)| !files.is_empty()).ok_or_else(problem)?;
    match Priority::from_name(name) {
        Some(priority) => Ok((files.to_owned(), priority)),
        None => Err(format!("{name:?} is no priority; there are skip, low, normal and high")),
    }
}

/// The files that `text` names, rising: a list of numbers and ranges (`0,2-5`, of digits, commas and dashes only), or a
/// name in which `*` stands for any characters and `?` for one. A name fits a file's path as `info` prints it, the same
/// without the torrent's own folder, or its last part. Padding is never named.
pub fn choose(metainfo: &Metainfo, text: &str) -> Result<Vec<u32>, ChooseError> {
    let is_list = text.bytes().all(|byte| byte.is_ascii_digit() || b",-".contains(&byte));
    if is_list { numbered(metainfo, text) } else { named(metainfo, text) }
}

fn numbered(metainfo: &Metainfo, text: &str) -> Result<Vec<u32>, ChooseError> {
    let wrong = || ChooseError::List(text.to_owned());
    let mut chosen = vec![false; metainfo.files.len()];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |digits: &str| digits.parse::<u64>().map_err(|_| wrong());
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(wrong());
        }
        let end = metainfo.files.len() - 1;
        if last > end as u64 {
            return Err(ChooseError::Number { number: last, last: end });
        }
        chosen[first as usize..=last as usize].fill(true);
    }
    let chosen =
        chosen.iter().zip(&metainfo.files).enumerate().filter(|(_, (chosen, file))| **chosen && !file.pad);
    Ok(chosen.map(|(index, _)| index as u32).collect())
}

/// What a file is called: whole, below the torrent's folder, and by its last part.
fn names(metainfo: &Metainfo, file: &FileEntry) -> [String; 3] {
    let below = if metainfo.is_multi_file { file.path.get(1..).unwrap_or_default() } else { &file.path };
    [file.path.join("/"), below.join("/"), file.path.last().cloned().unwrap_or_default()]
}

fn named(metainfo: &Metainfo, pattern: &str) -> Result<Vec<u32>, ChooseError> {
    let stored = || metainfo.files.iter().enumerate().filter(|(_, file)| !file.pad);
    let fits = |file: &FileEntry| names(metainfo, file).iter().any(|name| matches_glob(pattern, name));
    let found: Vec<u32> = stored().filter(|(_, file)| fits(file)).map(|(index, _)| index as u32).collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let wanted = pattern.to_lowercase();
    let distance = |file: &FileEntry| {
        let names = names(metainfo, file);
        names.iter().map(|name| strsim::damerau_levenshtein(&wanted, &name.to_lowercase())).min()
    };
    // Comparing is quadratic in the lengths, and there may be a hundred thousand files.
    let mut nearest: Vec<_> =
        stored().take(10_000).map(|(_, file)| (distance(file), file.path.join("/"))).collect();
    nearest.sort();
    let nearest = nearest.into_iter().take(NEAREST_MAX).map(|(_, path)| path).collect();
    Err(ChooseError::Name { pattern: pattern.to_owned(), nearest })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ccbt_protocol::metainfo::build::{Builder, InputFile};

    fn metainfo() -> Metainfo {
        let file = |path: &str| InputFile {
            path: path.split('/').map(str::to_owned).collect(),
            len: 20_000,
            ..InputFile::default()
        };
        let files = ["Season 1/e01.mkv", "Season 1/e02.mkv", "extra/making of.mkv", "info.nfo"].map(file);
        let plan = Builder::multi_file("show", files.to_vec()).piece_len(16_384).align(true).plan().unwrap();
        let hashes = vec![[0; 20]; plan.geometry().piece_count() as usize];
        Metainfo::parse(&plan.finish(&hashes)).unwrap()
    }

    #[test]
    fn numbers_and_ranges() {
        let meta = metainfo();
        // Padding has the odd numbers.
        assert_eq!(choose(&meta, "0,2-4"), Ok(vec![0, 2, 4]));
        assert_eq!(choose(&meta, "6"), Ok(vec![6]));
        assert_eq!(choose(&meta, "7"), Err(ChooseError::Number { number: 7, last: 6 }));
        for wrong in ["", ",", "3-", "-", "5-2", "1,,2", "99999999999999999999"] {
            assert!(matches!(choose(&meta, wrong), Err(ChooseError::List(_))), "{wrong}");
        }
    }

    #[test]
    fn names_and_wildcards() {
        let meta = metainfo();
        for (pattern, files) in [
            ("*.mkv", vec![0, 2, 4]),
            ("show/Season 1/e01.mkv", vec![0]),
            ("Season 1/*", vec![0, 2]),
            ("e0?.mkv", vec![0, 2]),
            ("info.nfo", vec![6]),
            ("*", vec![0, 2, 4, 6]),
        ] {
            assert_eq!(choose(&meta, pattern), Ok(files), "{pattern}");
        }
        let error = choose(&meta, "E03.mkv").unwrap_err().to_string();
        assert!(error.contains("show/Season 1/e01.mkv") && error.contains("\"E03.mkv\""), "{error}");
    }

    #[test]
    fn choices() {
        use Priority::{High, Normal, Skip};
        let meta = metainfo();
        let choice = |only: &[&str], priorities: &[&str]| Choice {
            only: only.iter().map(|text| (*text).to_owned()).collect(),
            priorities: priorities.iter().map(|text| read_priority(text).expect("well-formed")).collect(),
        };
        // Padding has the odd numbers.
        let of = |files: &[Priority]| Some(files.to_vec());
        assert_eq!(choice(&[], &[]).priorities_in(&meta), Ok(None));
        let some = choice(&["*.nfo"], &["e0?.mkv=high", "2=normal"]);
        assert_eq!(some.priorities_in(&meta), Ok(of(&[High, Skip, Normal, Skip, Skip, Skip, Normal])));
        assert_eq!(some.priorities_if_fitting(&meta), some.priorities_in(&meta).unwrap());
        let nothing = choice(&[], &["*=skip"]);
        assert_eq!(nothing.priorities_in(&meta), Err(ChooseError::Nothing));
        assert_eq!(nothing.priorities_if_fitting(&meta), None);
        let foreign = choice(&["*.flac", "99"], &["*.jpg=skip", "0=skip"]);
        assert!(foreign.priorities_in(&meta).is_err());
        let fitting = foreign.priorities_if_fitting(&meta);
        assert_eq!(fitting, of(&[Skip, Normal, Normal, Normal, Normal, Normal, Normal]));
        for wrong in ["0", "=high", "0=urgent", "0="] {
            assert!(read_priority(wrong).is_err(), "{wrong}");
        }
    }
}
