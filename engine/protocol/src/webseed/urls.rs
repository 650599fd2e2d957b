//! Where a torrent's files are below the URL of a web seed (BEP 19).
//!
//! A URL that ends in a slash is a folder that has what the torrent is called; for a torrent with a file list every URL
//! is. Any other URL of a single-file torrent is the file itself. Names are those of the torrent, byte by byte, and not
//! what they are called on our disk.

use std::fmt::Write;

use crate::bencode::{Limits, List, decode_with};
use crate::metainfo::Metainfo;

/// The URL below a web seed's, percent-encoded, of each file in torrent order. Empty for a torrent whose `info` cannot
/// be read again, which [`Metainfo`] excludes.
pub fn paths(metainfo: &Metainfo) -> Vec<String> {
    let limits = Limits { tokens: usize::MAX };
    // It was read before, within the limits of that.
    let Ok(document) = decode_with(metainfo.raw_info(), limits) else { return Vec::new() };
    let Some(info) = document.root().as_dict() else { return Vec::new() };
    let text = |key: &[u8]| info.get_str(key).filter(|text| !text.is_empty()).map(str::as_bytes);
    let plain = || info.get(b"name").and_then(|name| name.as_bytes());
    let name = text(b"name.utf-8").or_else(plain).unwrap_or_default();
    let mut root = String::new();
    encode(name, &mut root);
    if !metainfo.is_multi_file {
        return vec![root];
    }
    let mut all = Vec::new();
    for file in info.get_list(b"files").into_iter().flatten() {
        let mut path = root.clone();
        let Some(file) = file.as_dict() else { return Vec::new() };
        let is_text = |list: &List<'_, '_>| list.iter().all(|name| name.as_str().is_some());
        let utf8 = file.get_list(b"path.utf-8").filter(|list| !list.is_empty() && is_text(list));
        let names = utf8.or_else(|| file.get_list(b"path"));
        for name in names.into_iter().flatten().filter_map(|name| name.as_bytes()) {
            if !matches!(name, b"" | b".") {
                path.push('/');
                encode(name, &mut path);
            }
        }
        all.push(path);
    }
    all
}

/// The URL of a file, of which [`paths`] gave `path`.
pub fn file_url(base: &str, is_multi_file: bool, path: &str) -> String {
    match (base.ends_with('/'), is_multi_file) {
        (true, _) => format!("{base}{path}"),
        (false, true) => format!("{base}/{path}"),
        (false, false) => base.to_owned(),
    }
}

/// Percent-encodes everything but the unreserved characters of RFC 3986.
fn encode(name: &[u8], into: &mut String) {
    for &byte in name {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            into.push(char::from(byte));
        } else {
            write!(into, "%{byte:02X}").expect("a String takes everything");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn torrent(info: &str) -> Metainfo {
        Metainfo::from_info(info.as_bytes()).expect("a torrent")
    }

    #[test]
    fn names_are_those_of_the_torrent() {
        let single = torrent(&format!(
            "d6:lengthi5e4:name7:a b#\u{e9}x12:piece lengthi16384e6:pieces20:{}e",
            "h".repeat(20)
        ));
        assert_eq!(paths(&single), ["a%20b%23%C3%A9x"]);
        assert_eq!(file_url("http://h/x.iso", false, "n"), "http://h/x.iso");
        assert_eq!(file_url("http://h/d/", false, "n"), "http://h/d/n");
        let multi = torrent(&format!(
            "d5:filesld6:lengthi5e4:pathl3:a:b3:?.xeed6:lengthi1e4:pathl1:ceee4:name1:n12:piece lengthi16384e\
             6:pieces20:{}e",
            "h".repeat(20)
        ));
        assert_eq!(paths(&multi), ["n/a%3Ab/%3F.x", "n/c"]);
        assert_eq!(file_url("http://h/d", true, "n/c"), "http://h/d/n/c");
        assert_eq!(file_url("http://h/d/", true, "n/c"), "http://h/d/n/c");
    }
}
