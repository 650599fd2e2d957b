//! From bencode to [`Metainfo`]. Fields that decide what is downloaded and where must be right, or the torrent is refused
//! by the name of the field; only tracker and web seed lists are sifted instead (see [`super::urls`]).

use super::error::PathProblem;
use super::{FileEntry, MAX_FILES, MAX_METAINFO_LEN, MAX_TEXT_LEN, Metainfo, MetainfoError, RawInfo};
use super::{files, path, urls};
use crate::bencode::{Dict, Limits, List, Node, decode_with};
use crate::geometry::Geometry;
use crate::ids::InfoHash;
use crate::padding::Padding;
use sha1::{Digest, Sha1};
use std::ops::Range;

/// Tokens of a torrent with [`MAX_FILES`] files of up to a dozen each: 192 MB at worst, freed after parsing.
const TOKENS_MAX: usize = 16 * MAX_FILES;

pub(super) fn parse(bytes: &[u8]) -> Result<Metainfo, MetainfoError> {
    if bytes.len() > MAX_METAINFO_LEN {
        return Err(MetainfoError::TooLong(bytes.len()));
    }
    let document = decode_with(bytes, Limits { tokens: TOKENS_MAX })?;
    let Some(dict) = document.root().as_dict() else {
        return Err(wrong_type("the torrent file".to_owned(), "a dictionary"));
    };
    let root = Scope { dict, place: Place::Root };
    let info = root.dict.get(b"info").ok_or_else(|| root.missing("info"))?;
    // `announce` is checked though `announce-list` may win: a torrent with a number there is broken.
    root.bytes("announce")?;
    Ok(Metainfo {
        trackers: urls::trackers(root.dict),
        web_seeds: urls::web_seeds(root.dict),
        nodes: urls::nodes(root.dict),
        comment: root.text("comment")?,
        created_by: root.text("created by")?,
        creation_date: root.int("creation date")?,
        ..info_part(info)?
    })
}

pub(super) fn from_info(raw_info: &[u8]) -> Result<Metainfo, MetainfoError> {
    if raw_info.len() > MAX_METAINFO_LEN {
        return Err(MetainfoError::TooLong(raw_info.len()));
    }
    info_part(decode_with(raw_info, Limits { tokens: TOKENS_MAX })?.root())
}

/// Everything that the `info` dictionary says.
fn info_part(node: Node<'_, '_>) -> Result<Metainfo, MetainfoError> {
    let dict = node.as_dict().ok_or_else(|| wrong_type("info".to_owned(), "a dictionary"))?;
    let info = Scope { dict, place: Place::Info };
    let has_v2 = info.int("meta version")? == Some(2) || dict.get(b"file tree").is_some();
    if has_v2 && dict.get(b"pieces").is_none() {
        return Err(MetainfoError::V2Only);
    }
    let name = name(info)?;
    let (files, is_multi_file) = match (dict.get(b"length").is_some(), info.list("files")?) {
        (true, Some(_)) => return Err(MetainfoError::LengthAndFiles),
        (true, None) => (vec![single_file(info, &name)?], false),
        (false, Some(list)) => (file_list(list, &name)?, true),
        (false, None) => return Err(info.missing("length (or info.files)")),
    };
    let total_len = files.last().map_or(0, |file| file.offset + file.len);
    let piece_len = info.size("piece length")?.ok_or_else(|| info.missing("piece length"))?;
    let geometry = Geometry::new(total_len, piece_len)?;
    let pieces = pieces(info, node, geometry)?;
    let padding = files.iter().filter(|file| file.pad).map(|file| file.offset..file.offset + file.len);
    let padding = Padding::new(padding);
    Ok(Metainfo {
        info_hash: InfoHash(Sha1::digest(node.raw()).into()),
        name,
        private: info.int("private")?.is_some_and(|value| value != 0),
        geometry,
        files,
        padding,
        is_multi_file,
        is_hybrid: has_v2,
        trackers: Vec::new(),
        web_seeds: Vec::new(),
        nodes: Vec::new(),
        comment: None,
        created_by: None,
        creation_date: None,
        source: info.text("source")?,
        info: RawInfo { bytes: node.raw().into(), pieces },
    })
}

/// Where the hashes stand within the raw info dictionary.
fn pieces(info: Scope<'_, '_>, raw: Node<'_, '_>, geometry: Geometry) -> Result<Range<usize>, MetainfoError> {
    let hashes = info.bytes("pieces")?.ok_or_else(|| info.missing("pieces"))?;
    if !hashes.len().is_multiple_of(20) {
        return Err(MetainfoError::PiecesLen(hashes.len()));
    }
    let (expected, actual) = (geometry.piece_count(), hashes.len() / 20);
    if actual != expected as usize {
        return Err(MetainfoError::PieceCount { expected, actual });
    }
    let node = info.dict.get(b"pieces").expect("its bytes were just taken");
    let end = node.offset() - raw.offset() + node.raw().len();
    Ok(end - hashes.len()..end)
}

/// `name.utf-8` where it is usable, else `name`; sanitised.
fn name(info: Scope<'_, '_>) -> Result<String, MetainfoError> {
    let plain = info.bytes("name")?.ok_or_else(|| info.missing("name"))?;
    let utf8 = info.dict.get_str(b"name.utf-8").filter(|name| !name.is_empty());
    let raw = utf8.map_or(plain, str::as_bytes);
    let name = path::component(raw).and_then(|name| name.ok_or(PathProblem::Empty));
    name.map_err(|problem| info.path_error("name", problem))
}

fn single_file(info: Scope<'_, '_>, name: &str) -> Result<FileEntry, MetainfoError> {
    let mut file = file_entry(info, vec![name.to_owned()], 0)?;
    // Padding or a link alone would be a torrent of nothing.
    file.pad = false;
    file.symlink = None;
    Ok(file)
}

fn file_list(list: List<'_, '_>, name: &str) -> Result<Vec<FileEntry>, MetainfoError> {
    let mut entries: Vec<FileEntry> = Vec::new();
    let mut raw_paths = Vec::new();
    let mut offset = 0;
    for (index, node) in list.iter().enumerate() {
        if index >= MAX_FILES {
            return Err(MetainfoError::TooManyFiles);
        }
        let place = Place::File(index);
        let dict =
            node.as_dict().ok_or_else(|| wrong_type(format!("info.files[{index}]"), "a dictionary"))?;
        let file = Scope { dict, place };
        let raw_path = file.path_list("path", Some("path.utf-8"))?;
        let entry = file_entry(file, file.path_below(name, "path", raw_path)?, offset)?;
        offset += entry.len;
        entries.push(entry);
        raw_paths.push(raw_path);
    }
    if entries.is_empty() {
        return Err(MetainfoError::NoFiles);
    }
    files::part_lookalikes(&mut entries, |index| raw_identity(raw_paths[index]));
    files::check(&entries)?;
    Ok(entries)
}

/// The components of a raw path that count, joined by what none of them can hold.
fn raw_identity(path: List<'_, '_>) -> Vec<u8> {
    let kept = path.iter().filter_map(|node| node.as_bytes()).filter(|name| !matches!(*name, b"" | b"."));
    kept.collect::<Vec<_>>().join(&b'/')
}

/// The entry of a file at `path` that starts at `offset`; reads length, attributes and link target (BEP 47).
fn file_entry(file: Scope<'_, '_>, path: Vec<String>, offset: u64) -> Result<FileEntry, MetainfoError> {
    let attr = file.bytes("attr")?.unwrap_or_default();
    let pad = attr.contains(&b'p') || files::is_bitcomet_pad(&path);
    let is_link = attr.contains(&b'l') && !pad;
    let len = match file.size("length")? {
        Some(len) if is_link && len != 0 => return Err(file.path_error("length", PathProblem::SymlinkLength)),
        Some(len) => len,
        None if is_link => 0,
        None => return Err(file.missing("length")),
    };
    if offset + len > i64::MAX as u64 {
        return Err(MetainfoError::TotalOverflow { field: file.place.field("length") });
    }
    let symlink = if is_link {
        let target = file.path_list("symlink path", None)?;
        Some(file.path_below(&path[0], "symlink path", target)?)
    } else {
        None
    };
    Ok(FileEntry {
        path,
        len,
        offset,
        pad,
        executable: attr.contains(&b'x'),
        hidden: attr.contains(&b'h'),
        symlink,
    })
}

fn wrong_type(field: String, expected: &'static str) -> MetainfoError {
    MetainfoError::WrongType { field, expected }
}

/// Which dictionary a field is in, for messages.
#[derive(Clone, Copy)]
enum Place {
    Root,
    Info,
    File(usize),
}

impl Place {
    fn field(self, key: &str) -> String {
        match self {
            Self::Root => key.to_owned(),
            Self::Info => format!("info.{key}"),
            Self::File(index) => format!("info.files[{index}].{key}"),
        }
    }
}

/// A dictionary and its place: lookups that say which field is wrong. `Ok(None)` is an absent field.
#[derive(Clone, Copy)]
struct Scope<'t, 'a> {
    dict: Dict<'t, 'a>,
    place: Place,
}

impl<'t, 'a> Scope<'t, 'a> {
    fn missing(&self, key: &str) -> MetainfoError {
        MetainfoError::Missing { field: self.place.field(key) }
    }

    fn path_error(&self, key: &str, problem: PathProblem) -> MetainfoError {
        MetainfoError::Path { field: self.place.field(key), problem }
    }

    fn typed<T>(
        &self,
        key: &str,
        expected: &'static str,
        take: impl Fn(&Node<'t, 'a>) -> Option<T>,
    ) -> Result<Option<T>, MetainfoError> {
        let Some(node) = self.dict.get(key.as_bytes()) else { return Ok(None) };
        take(&node).map(Some).ok_or_else(|| wrong_type(self.place.field(key), expected))
    }

    fn int(&self, key: &str) -> Result<Option<i64>, MetainfoError> {
        self.typed(key, "an integer", Node::as_int)
    }

    fn bytes(&self, key: &str) -> Result<Option<&'a [u8]>, MetainfoError> {
        self.typed(key, "a string", Node::as_bytes)
    }

    fn list(&self, key: &str) -> Result<Option<List<'t, 'a>>, MetainfoError> {
        self.typed(key, "a list", Node::as_list)
    }

    /// An integer of at least 0.
    fn size(&self, key: &str) -> Result<Option<u64>, MetainfoError> {
        let Some(value) = self.int(key)? else { return Ok(None) };
        let negative = |_| MetainfoError::Negative { field: self.place.field(key), value };
        u64::try_from(value).map(Some).map_err(negative)
    }

    /// Text under `key.utf-8` or `key`, cut to [`MAX_TEXT_LEN`] bytes; empty counts as absent.
    fn text(&self, key: &str) -> Result<Option<String>, MetainfoError> {
        let plain = self.bytes(key)?;
        let utf8 = self.dict.get_str(format!("{key}.utf-8").as_bytes()).map(str::as_bytes);
        let Some(raw) = utf8.or(plain).filter(|raw| !raw.is_empty()) else { return Ok(None) };
        let mut text = String::from_utf8_lossy(&raw[..raw.len().min(MAX_TEXT_LEN)]).into_owned();
        text.truncate(text.floor_char_boundary(MAX_TEXT_LEN));
        Ok(Some(text))
    }

    /// The list of strings under `utf8_key` if it is there and all valid UTF-8, else the one under `key`.
    fn path_list(&self, key: &str, utf8_key: Option<&str>) -> Result<List<'t, 'a>, MetainfoError> {
        let plain = self.list(key)?.ok_or_else(|| self.missing(key))?;
        if plain.iter().any(|name| name.as_bytes().is_none()) {
            return Err(wrong_type(self.place.field(key), "a list of strings"));
        }
        let utf8 = utf8_key.and_then(|key| self.dict.get_list(key.as_bytes()));
        let utf8 = utf8.filter(|list| !list.is_empty() && list.iter().all(|name| name.as_str().is_some()));
        Ok(utf8.unwrap_or(plain))
    }

    /// `raw` sanitised, below the folder `name`.
    fn path_below(&self, name: &str, key: &str, raw: List<'_, '_>) -> Result<Vec<String>, MetainfoError> {
        let below = path::sanitise(raw.iter().filter_map(|name| name.as_bytes()));
        let whole = below.and_then(|mut path| {
            path.insert(0, name.to_owned());
            path::within_limits(&path).map(|()| path)
        });
        whole.map_err(|problem| self.path_error(key, problem))
    }
}
