//! Files of a torrent as people name them: by numbers, or by name with wildcards.
//!
//! Pure. Called by the command line; the indices are those of [`Metainfo::files`], as `ccbt-fast info` prints them.

use ccbt_protocol::metainfo::{FileEntry, Metainfo};

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
}
