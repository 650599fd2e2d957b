//! Making torrent files (BEP 3, 12, 19, 27, 47) without I/O: [`Builder::plan`] lays the files out, the caller hashes the
//! pieces of [`Plan::geometry`], [`Plan::finish`] writes the bytes.
//!
//! Invariant: what `finish` returns is read back by [`super::Metainfo::parse`] with the same files, names and settings;
//! whatever would not survive that is refused by `plan`. Equal input gives equal bytes.

use super::files::{check, is_bitcomet_pad, shown};
use super::urls::{is_tracker_url, is_web_seed_url};
use super::{FileEntry, MAX_FILES, MAX_TEXT_LEN, MAX_URLS, Metainfo, MetainfoError, PathProblem, path};
use crate::bencode::Encoder;
use crate::geometry::{Geometry, MAX_PIECE_LEN};

/// Shortest piece that [`Builder`] makes, in bytes.
pub const PIECE_LEN_MIN: u32 = 16 * 1024;
/// Longest piece that [`choose_piece_len`] chooses, in bytes; longer ones can be asked for.
pub const PIECE_LEN_CHOSEN_MAX: u32 = 16 * 1024 * 1024;
/// Pieces that [`choose_piece_len`] stays below while it can.
const PIECES_AIM_MAX: u64 = 2000;

/// A piece length for `total` bytes: the smallest power of two that gives at most 2000 pieces (so more than 1000), but
/// between 16 KiB and 16 MiB.
pub fn choose_piece_len(total: u64) -> u32 {
    let wanted =
        total.div_ceil(PIECES_AIM_MAX).clamp(u64::from(PIECE_LEN_MIN), u64::from(PIECE_LEN_CHOSEN_MAX));
    // At most 2^24, a power of two itself.
    wanted.next_power_of_two() as u32
}

/// Why no torrent can be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A name that readers would refuse.
    #[error("\"{path}\": {problem}")]
    Path {
        /// The path, escaped.
        path: String,
        /// What is wrong with it.
        problem: PathProblem,
    },
    /// A name that readers would change, so that the file would not be found under it.
    #[error("\"{0}\" has a name that torrent clients change; rename it first")]
    Unportable(String),
    /// A piece length that is no power of two or out of bounds.
    #[error("piece length {0}: must be a power of two between {PIECE_LEN_MIN} and {MAX_PIECE_LEN}")]
    PieceLen(u32),
    /// Not a tracker URL.
    #[error(
        "\"{0}\" is not a tracker URL: it must start with http://, https:// or udp:// and hold no spaces"
    )]
    Tracker(String),
    /// Not a web seed URL.
    #[error("\"{0}\" is not a web seed URL: it must start with http:// or https:// and hold no spaces")]
    WebSeed(String),
    /// Too many URLs.
    #[error("more than {MAX_URLS} {0} URLs")]
    TooManyUrls(&'static str),
    /// The same URL twice.
    #[error("\"{0}\" is listed twice")]
    DuplicateUrl(String),
    /// Text longer than readers keep.
    #[error("{0}: longer than {MAX_TEXT_LEN} bytes")]
    TextTooLong(&'static str),
    /// Files that make no torrent together.
    #[error(transparent)]
    Files(#[from] MetainfoError),
}

/// One file to be put into a torrent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InputFile {
    /// Components below the torrent's folder.
    pub path: Vec<String>,
    /// Bytes; 0 for a symbolic link.
    pub len: u64,
    /// Carries the executable attribute (BEP 47).
    pub executable: bool,
    /// Carries the hidden attribute (BEP 47).
    pub hidden: bool,
    /// For a symbolic link (BEP 47), its target's components below the torrent's folder.
    pub symlink: Option<Vec<String>>,
}

/// Settings of a torrent to be made. Order of files is kept: sort them for reproducible output.
#[derive(Clone, Debug)]
pub struct Builder {
    name: String,
    files: Vec<InputFile>,
    is_multi_file: bool,
    piece_len: Option<u32>,
    align: bool,
    header: Header,
}

/// What is written beside files and hashes.
#[derive(Clone, Debug, Default)]
struct Header {
    private: bool,
    trackers: Vec<Vec<String>>,
    web_seeds: Vec<String>,
    comment: Option<String>,
    created_by: Option<String>,
    creation_date: Option<i64>,
    source: Option<String>,
}

impl Builder {
    /// A torrent of one file of `len` bytes, without a folder.
    pub fn single_file(name: impl Into<String>, len: u64) -> Self {
        Self {
            is_multi_file: false,
            ..Self::multi_file(name, vec![InputFile { len, ..InputFile::default() }])
        }
    }

    /// A torrent of `files` in the folder `name`.
    pub fn multi_file(name: impl Into<String>, files: Vec<InputFile>) -> Self {
        let header = Header::default();
        Self { name: name.into(), files, is_multi_file: true, piece_len: None, align: false, header }
    }

    /// Bytes in a piece, a power of two; by default what [`choose_piece_len`] says.
    pub fn piece_len(mut self, bytes: u32) -> Self {
        self.piece_len = Some(bytes);
        self
    }

    /// Starts every file at a piece boundary by padding files (BEP 47). Only for multi-file torrents.
    pub fn align(mut self, align: bool) -> Self {
        self.align = align;
        self
    }

    /// Peers from the trackers only (BEP 27).
    pub fn private(mut self, private: bool) -> Self {
        self.header.private = private;
        self
    }

    /// Tracker URLs in tiers (BEP 12); empty tiers are left out.
    pub fn trackers(mut self, tiers: Vec<Vec<String>>) -> Self {
        self.header.trackers = tiers.into_iter().filter(|tier| !tier.is_empty()).collect();
        self
    }

    /// Web seed URLs (BEP 19).
    pub fn web_seeds(mut self, urls: Vec<String>) -> Self {
        self.header.web_seeds = urls;
        self
    }

    /// Free text; empty is the same as none.
    pub fn comment(mut self, text: impl Into<String>) -> Self {
        self.header.comment = Some(text.into()).filter(|text| !text.is_empty());
        self
    }

    /// The program's name; empty is the same as none.
    pub fn created_by(mut self, text: impl Into<String>) -> Self {
        self.header.created_by = Some(text.into()).filter(|text| !text.is_empty());
        self
    }

    /// Seconds since 1970; `None`, the default, leaves the date out and so keeps the output reproducible.
    pub fn creation_date(mut self, date: Option<i64>) -> Self {
        self.header.creation_date = date;
        self
    }

    /// The private tracker's tag, part of the info-hash; empty is the same as none.
    pub fn source(mut self, text: impl Into<String>) -> Self {
        self.header.source = Some(text.into()).filter(|text| !text.is_empty());
        self
    }

    /// Lays the files out and checks that the result can be read back as it is meant.
    pub fn plan(self) -> Result<Plan, BuildError> {
        self.header.check()?;
        let total = self.files.iter().fold(0u64, |sum, file| sum.saturating_add(file.len));
        let piece_len = self.piece_len.unwrap_or_else(|| choose_piece_len(total));
        if !piece_len.is_power_of_two() || !(PIECE_LEN_MIN..=MAX_PIECE_LEN).contains(&piece_len) {
            return Err(BuildError::PieceLen(piece_len));
        }
        let name_path = readable_path(std::slice::from_ref(&self.name))?;
        let mut layout = Layout { files: Vec::new(), offset: 0 };
        for (index, file) in self.files.into_iter().enumerate() {
            if self.align && self.is_multi_file && file.len > 0 {
                layout.pad_to(u64::from(piece_len), &self.name)?;
            }
            let path = if self.is_multi_file {
                readable_path(&[&name_path[..], &file.path].concat())?
            } else {
                name_path.clone()
            };
            // The folder alone is no file.
            if self.is_multi_file && path.len() < 2 {
                return Err(BuildError::Path { path: shown(&path), problem: PathProblem::Empty });
            }
            layout.push(index, path, file)?;
        }
        check(&layout.files)?;
        let geometry = Geometry::new(layout.offset, u64::from(piece_len)).map_err(MetainfoError::from)?;
        Ok(Plan {
            name: self.name,
            files: layout.files,
            is_multi_file: self.is_multi_file,
            geometry,
            header: self.header,
        })
    }
}

/// `path` if readers leave every component as it is.
fn readable_path(path: &[String]) -> Result<Vec<String>, BuildError> {
    let sanitised = path::sanitise(path.iter().map(String::as_bytes))
        .map_err(|problem| BuildError::Path { path: shown(path), problem })?;
    if sanitised != path || is_bitcomet_pad(path) {
        return Err(BuildError::Unportable(shown(path)));
    }
    Ok(sanitised)
}

/// Files laid out so far.
struct Layout {
    files: Vec<FileEntry>,
    offset: u64,
}

impl Layout {
    fn push(&mut self, index: usize, path: Vec<String>, file: InputFile) -> Result<(), BuildError> {
        if file.symlink.is_some() && file.len != 0 {
            return Err(BuildError::Path { path: shown(&path), problem: PathProblem::SymlinkLength });
        }
        let symlink = match file.symlink {
            Some(target) if target.is_empty() => {
                return Err(BuildError::Path { path: shown(&path), problem: PathProblem::Empty });
            }
            Some(target) => Some(readable_path(&[&path[..1], &target].concat())?),
            None => None,
        };
        let (len, executable, hidden) = (file.len, file.executable, file.hidden);
        let entry = FileEntry { path, len, offset: self.offset, pad: false, executable, hidden, symlink };
        self.append(entry, || format!("info.files[{index}].length"))
    }

    /// Adds the padding that takes the offset to a multiple of `piece_len`.
    fn pad_to(&mut self, piece_len: u64, name: &str) -> Result<(), BuildError> {
        let len = self.offset.next_multiple_of(piece_len) - self.offset;
        if len == 0 {
            return Ok(());
        }
        let path = vec![name.to_owned(), ".pad".to_owned(), len.to_string()];
        let (executable, hidden, symlink) = (false, false, None);
        let entry = FileEntry { path, len, offset: self.offset, pad: true, executable, hidden, symlink };
        self.append(entry, || "info.files".to_owned())
    }

    fn append(&mut self, entry: FileEntry, field: impl Fn() -> String) -> Result<(), BuildError> {
        if self.files.len() >= MAX_FILES {
            return Err(MetainfoError::TooManyFiles.into());
        }
        let end = self.offset.checked_add(entry.len).filter(|end| *end <= i64::MAX as u64);
        self.offset = end.ok_or_else(|| MetainfoError::TotalOverflow { field: field() })?;
        self.files.push(entry);
        Ok(())
    }
}

impl Header {
    fn check(&self) -> Result<(), BuildError> {
        let texts = [
            ("the comment", &self.comment),
            ("the creator's name", &self.created_by),
            ("the source", &self.source),
        ];
        for (what, text) in texts {
            if text.as_ref().is_some_and(|text| text.len() > MAX_TEXT_LEN) {
                return Err(BuildError::TextTooLong(what));
            }
        }
        let trackers: Vec<&String> = self.trackers.iter().flatten().collect();
        check_urls(&trackers, "tracker", is_tracker_url, BuildError::Tracker)?;
        let web_seeds: Vec<&String> = self.web_seeds.iter().collect();
        check_urls(&web_seeds, "web seed", is_web_seed_url, BuildError::WebSeed)
    }
}

fn check_urls(
    urls: &[&String],
    what: &'static str,
    is_usable: fn(&str) -> bool,
    refusal: fn(String) -> BuildError,
) -> Result<(), BuildError> {
    if urls.len() > MAX_URLS {
        return Err(BuildError::TooManyUrls(what));
    }
    let shown = |url: &str| super::escape_for_terminal(url).into_owned();
    if let Some(bad) = urls.iter().find(|url| !is_usable(url)) {
        return Err(refusal(shown(bad)));
    }
    let mut sorted = urls.to_vec();
    sorted.sort_unstable();
    match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(BuildError::DuplicateUrl(shown(pair[0]))),
        None => Ok(()),
    }
}

/// A torrent that lacks only its piece hashes.
#[derive(Clone, Debug)]
pub struct Plan {
    name: String,
    files: Vec<FileEntry>,
    is_multi_file: bool,
    geometry: Geometry,
    header: Header,
}

impl Plan {
    /// All files in torrent order, padding included; padding is hashed as zeroes.
    pub fn files(&self) -> &[FileEntry] {
        &self.files
    }

    /// Sizes of the pieces to be hashed.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The torrent file. `hashes` holds the SHA-1 of each piece in order. Panics when their number is not the
    /// geometry's piece count.
    pub fn finish(self, hashes: &[[u8; 20]]) -> Vec<u8> {
        assert_eq!(hashes.len(), self.geometry.piece_count() as usize, "one hash for each piece");
        let mut out = Encoder::new();
        let header = &self.header;
        out.begin_dict();
        write_trackers(&mut out, &header.trackers);
        write_text(&mut out, b"comment", &header.comment);
        write_text(&mut out, b"created by", &header.created_by);
        if let Some(date) = header.creation_date {
            out.key(b"creation date").int(date);
        }
        out.key(b"info");
        self.write_info(&mut out, hashes);
        if !header.web_seeds.is_empty() {
            out.key(b"url-list");
            write_strings(&mut out, &header.web_seeds);
        }
        out.end();
        out.finish()
    }

    fn write_info(&self, out: &mut Encoder, hashes: &[[u8; 20]]) {
        out.begin_dict();
        if self.is_multi_file {
            out.key(b"files").begin_list();
            self.files.iter().for_each(|file| write_file(out, file));
            out.end();
        } else {
            write_attr(out, &self.files[0]);
            out.key(b"length").int(self.files[0].len as i64);
        }
        out.key(b"name").bytes(self.name.as_bytes());
        out.key(b"piece length").int(i64::from(self.geometry.piece_len()));
        out.key(b"pieces").bytes(hashes.as_flattened());
        if self.header.private {
            out.key(b"private").int(1);
        }
        write_text(out, b"source", &self.header.source);
        out.end();
    }
}

/// A torrent file around the `info` dictionary of `metainfo`, whatever that holds.
pub(super) fn wrap(metainfo: &Metainfo) -> Vec<u8> {
    let mut out = Encoder::new();
    out.begin_dict();
    write_trackers(&mut out, &metainfo.trackers);
    write_text(&mut out, b"comment", &metainfo.comment);
    write_text(&mut out, b"created by", &metainfo.created_by);
    if let Some(date) = metainfo.creation_date {
        out.key(b"creation date").int(date);
    }
    out.key(b"info").raw(metainfo.raw_info());
    if !metainfo.web_seeds.is_empty() {
        out.key(b"url-list");
        write_strings(&mut out, &metainfo.web_seeds);
    }
    out.end();
    out.finish()
}

fn write_trackers(out: &mut Encoder, tiers: &[Vec<String>]) {
    if let Some(first) = tiers.first() {
        out.key(b"announce").bytes(first[0].as_bytes());
    }
    if tiers.iter().flatten().nth(1).is_some() {
        out.key(b"announce-list").begin_list();
        tiers.iter().for_each(|tier| write_strings(out, tier));
        out.end();
    }
}

fn write_file(out: &mut Encoder, file: &FileEntry) {
    out.begin_dict();
    write_attr(out, file);
    // Lossless: the whole torrent is shorter than 2^63 bytes.
    out.key(b"length").int(file.len as i64);
    out.key(b"path");
    write_strings(out, &file.path[1..]);
    if let Some(target) = &file.symlink {
        out.key(b"symlink path");
        write_strings(out, &target[1..]);
    }
    out.end();
}

/// `attr` (BEP 47), unless it would be empty.
fn write_attr(out: &mut Encoder, file: &FileEntry) {
    let flags =
        [(b'h', file.hidden), (b'l', file.symlink.is_some()), (b'p', file.pad), (b'x', file.executable)];
    let attr: Vec<u8> = flags.iter().filter(|(_, set)| *set).map(|(letter, _)| *letter).collect();
    if !attr.is_empty() {
        out.key(b"attr").bytes(&attr);
    }
}

fn write_strings(out: &mut Encoder, strings: &[String]) {
    out.begin_list();
    for text in strings {
        out.bytes(text.as_bytes());
    }
    out.end();
}

fn write_text(out: &mut Encoder, key: &[u8], text: &Option<String>) {
    if let Some(text) = text {
        out.key(key).bytes(text.as_bytes());
    }
}

#[cfg(test)]
#[path = "build_tests.rs"]
mod tests;
