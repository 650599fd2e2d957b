//! `ccbt-fast info`: what a torrent file says, for people and for programs.

use std::fmt::Write;

use ccbt_fast::{Magnet, Metainfo, TorrentSource};
use ccbt_protocol::metainfo::{FileEntry, escape_for_terminal};
use serde::Serialize;

use crate::args::InfoArgs;
use crate::console::print_line;
use crate::failure::Failure;
use crate::{json, units};

/// Reads and prints.
pub fn run(args: &InfoArgs) -> Result<(), Failure> {
    let metainfo = TorrentSource::from(args.torrent.as_path()).load()?;
    if args.json {
        print_line(&json::to_line(&Info::of(&metainfo)));
    } else {
        print_line(text(&metainfo).trim_end());
    }
    Ok(())
}

/// The object of `--json`. Sizes in bytes, the date in seconds since 1970.
#[derive(Serialize)]
pub struct Info<'a> {
    name: &'a str,
    info_hash: String,
    length: u64,
    stored_length: u64,
    piece_length: u32,
    piece_count: u32,
    private: bool,
    multi_file: bool,
    hybrid: bool,
    files: Vec<File>,
    trackers: &'a [Vec<String>],
    web_seeds: &'a [String],
    comment: Option<&'a str>,
    created_by: Option<&'a str>,
    creation_date: Option<i64>,
    source: Option<&'a str>,
    magnet: String,
}

#[derive(Serialize)]
struct File {
    path: String,
    length: u64,
    offset: u64,
    pad: bool,
    executable: bool,
    hidden: bool,
    symlink: Option<String>,
}

impl From<&FileEntry> for File {
    fn from(file: &FileEntry) -> Self {
        Self {
            path: file.path.join("/"),
            length: file.len,
            offset: file.offset,
            pad: file.pad,
            executable: file.executable,
            hidden: file.hidden,
            symlink: file.symlink.as_ref().map(|target| target.join("/")),
        }
    }
}

impl<'a> Info<'a> {
    /// From a torrent that was read.
    pub fn of(metainfo: &'a Metainfo) -> Self {
        Self {
            name: &metainfo.name,
            info_hash: metainfo.info_hash.to_string(),
            length: metainfo.geometry.total_len(),
            stored_length: metainfo.stored_len(),
            piece_length: metainfo.geometry.piece_len(),
            piece_count: metainfo.geometry.piece_count(),
            private: metainfo.private,
            multi_file: metainfo.is_multi_file,
            hybrid: metainfo.is_hybrid,
            files: metainfo.files.iter().map(File::from).collect(),
            trackers: &metainfo.trackers,
            web_seeds: &metainfo.web_seeds,
            comment: metainfo.comment.as_deref(),
            created_by: metainfo.created_by.as_deref(),
            creation_date: metainfo.creation_date,
            source: metainfo.source.as_deref(),
            magnet: Magnet::of(metainfo).to_string(),
        }
    }
}

fn text(metainfo: &Metainfo) -> String {
    let geometry = &metainfo.geometry;
    let mut page = Page { text: String::new() };
    page.row("Name", &metainfo.name);
    page.row("Info-hash", &metainfo.info_hash.to_string());
    page.row("Size", &size(geometry.total_len()));
    let pieces = format!("{} of {}", geometry.piece_count(), units::bytes(u64::from(geometry.piece_len())));
    page.row("Pieces", &pieces);
    page.row("Private", if metainfo.private { "yes: peers come from its trackers only" } else { "no" });
    if metainfo.is_hybrid {
        page.row("Version", "1 and 2 (the v2 side is not used)");
    }
    for (label, value) in
        [("Comment", &metainfo.comment), ("Created by", &metainfo.created_by), ("Source", &metainfo.source)]
    {
        if let Some(value) = value {
            page.row(label, value);
        }
    }
    if let Some(date) = metainfo.creation_date {
        page.row("Created", &units::date(date));
    }
    for (nth, tier) in metainfo.trackers.iter().enumerate() {
        for url in tier {
            page.row(&format!("Tracker {}", nth + 1), url);
        }
    }
    for url in &metainfo.web_seeds {
        page.row("Web seed", url);
    }
    page.row("Magnet", &Magnet::of(metainfo).to_string());
    page.files(&metainfo.files);
    page.text
}

fn size(bytes: u64) -> String {
    if bytes < 1024 { units::bytes(bytes) } else { format!("{} ({bytes} bytes)", units::bytes(bytes)) }
}

struct Page {
    text: String,
}

impl Page {
    fn row(&mut self, label: &str, value: &str) {
        let value = escape_for_terminal(value);
        writeln!(self.text, "{:<12} {value}", format!("{label}:")).expect("a String takes every write");
    }

    fn files(&mut self, files: &[FileEntry]) {
        let shown: Vec<(usize, &FileEntry)> =
            files.iter().enumerate().filter(|(_, file)| !file.pad).collect();
        self.row("Files", &shown.len().to_string());
        for (index, file) in shown {
            let path = file.path.join("/");
            let marks = [(file.executable, " [executable]"), (file.hidden, " [hidden]")];
            let marks: String = marks.iter().filter(|(is_set, _)| *is_set).map(|(_, mark)| *mark).collect();
            let target = file.symlink.as_ref().map(|target| format!(" -> {}", target.join("/")));
            let line = format!("{path}{}{marks}", target.unwrap_or_default());
            let line = escape_for_terminal(&line);
            writeln!(self.text, "{index:>6}  {:>11}  {line}", units::bytes(file.len))
                .expect("a String takes every write");
        }
        let padding: u64 = files.iter().filter(|file| file.pad).map(|file| file.len).sum();
        if padding > 0 {
            self.row("Padding", &format!("{}, not stored", units::bytes(padding)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ccbt_protocol::metainfo::build::{Builder, InputFile};

    fn metainfo() -> Metainfo {
        let file = |name: &str, len| InputFile { path: vec![name.into()], len, ..InputFile::default() };
        let run = InputFile { executable: true, ..file("run", 2000) };
        let link = InputFile { symlink: Some(vec!["run".into()]), ..file("link", 0) };
        let plan = Builder::multi_file("a b", vec![file("readme", 20_000), run, link])
            .piece_len(16384)
            .align(true)
            .private(true)
            .trackers(vec![vec!["http://t.example/a?x=1".into()], vec!["udp://u.example:1".into()]])
            .web_seeds(vec!["http://w.example/".into()])
            .comment("one\ntwo\x1b[2J")
            .creation_date(Some(0))
            .plan()
            .expect("sensible");
        let hashes = vec![[1; 20]; plan.geometry().piece_count() as usize];
        Metainfo::parse(&plan.finish(&hashes)).expect("what was built is read")
    }

    #[test]
    fn the_page_shows_everything_escaped() {
        let text = text(&metainfo());
        for part in [
            "Name:        a b\n",
            "Pieces:      3 of 16.0 KiB\n",
            "Private:     yes",
            "Comment:     one\\ntwo\\u{1b}[2J\n",
            "Created:     1970-01-01 00:00:00 UTC\n",
            "Tracker 1:   http://t.example/a?x=1\n",
            "Tracker 2:   udp://u.example:1\n",
            "Web seed:    http://w.example/\n",
            "Files:       3\n",
            "     19.5 KiB  a b/readme\n",
            "  a b/run [executable]\n",
            "  a b/link -> a b/run\n",
            "Padding:     12.5 KiB, not stored\n",
        ] {
            assert!(text.contains(part), "{part:?} in:\n{text}");
        }
        assert!(!text.contains('\x1b'));
    }

    #[test]
    fn json_holds_the_same() {
        let metainfo = metainfo();
        let value: serde_json::Value =
            serde_json::from_str(&json::to_line(&Info::of(&metainfo))).expect("valid");
        assert_eq!(value["info_hash"], metainfo.info_hash.to_string());
        assert_eq!((&value["private"], &value["piece_length"]), (&true.into(), &16384.into()));
        assert_eq!(value["length"].as_u64(), Some(metainfo.geometry.total_len()));
        assert_eq!(value["stored_length"], 22_000);
        assert_eq!(value["comment"], "one\ntwo\x1b[2J");
        assert_eq!(value["trackers"][1][0], "udp://u.example:1");
        let files = value["files"].as_array().expect("a list");
        assert_eq!(files[0]["path"], "a b/readme");
        assert!(files.iter().any(|file| file["pad"] == true));
        assert!(files.iter().any(|file| file["symlink"] == "a b/run"));
    }

    #[test]
    fn the_magnet_link_is_encoded() {
        let link = Magnet::of(&metainfo()).to_string();
        assert!(link.starts_with("magnet:?xt=urn:btih:") && link.contains("&dn=a%20b&xl="));
        assert!(link.ends_with(
            "&tr=http%3A%2F%2Ft.example%2Fa%3Fx%3D1&tr=udp%3A%2F%2Fu.example%3A1\
             &ws=http%3A%2F%2Fw.example%2F"
        ));
    }
}
