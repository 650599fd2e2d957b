//! Names from strangers made safe to create: [`component`] sanitises one name, [`sanitise`] a list of them.
//!
//! Invariant: what comes out is never empty, `.` or `..`, holds no `/`, NUL, control or direction character, and is at
//! most [`MAX_COMPONENT_LEN`] bytes. The same input gives the same output, always: resuming depends on it.
//!
//! What points outside the folder is refused rather than repaired; what is merely awkward is repaired.

use super::display::is_unsafe_to_show;
use super::error::PathProblem;
use super::{MAX_COMPONENT_LEN, MAX_PATH_DEPTH, MAX_PATH_LEN};
use sha1::{Digest, Sha1};

/// Longest extension, dot included, that shortening a name keeps.
const EXTENSION_LEN_MAX: usize = 32;

/// One name; `None` when it is empty or `.` and to be dropped.
pub(super) fn component(raw: &[u8]) -> Result<Option<String>, PathProblem> {
    match raw {
        b"" | b"." => return Ok(None),
        b".." => return Err(PathProblem::Parent),
        _ => {}
    }
    if raw[0] == b'/' {
        return Err(PathProblem::Absolute);
    }
    if raw.contains(&b'/') {
        return Err(PathProblem::Separator);
    }
    if raw.contains(&0) {
        return Err(PathProblem::Nul);
    }
    let mut name = String::from_utf8_lossy(raw).into_owned();
    if name.chars().any(is_unsafe_to_show) {
        name = name.chars().map(|c| if is_unsafe_to_show(c) { '_' } else { c }).collect();
    }
    if name.len() > MAX_COMPONENT_LEN {
        name = with_tag(&name, raw);
    }
    Ok(Some(name))
}

/// A list of names as one path: at least one component is left.
pub(super) fn sanitise<'a>(raw: impl Iterator<Item = &'a [u8]>) -> Result<Vec<String>, PathProblem> {
    let mut path = Vec::new();
    for name in raw {
        path.extend(component(name)?);
        if path.len() > MAX_PATH_DEPTH {
            return Err(PathProblem::TooDeep);
        }
    }
    if path.is_empty() {
        return Err(PathProblem::Empty);
    }
    within_limits(&path)?;
    Ok(path)
}

/// Whether the kernel would take `path`, whose components are sanitised.
pub(super) fn within_limits(path: &[String]) -> Result<(), PathProblem> {
    if path.len() > MAX_PATH_DEPTH {
        return Err(PathProblem::TooDeep);
    }
    // One separator between two components.
    let len = path.iter().map(|name| name.len() + 1).sum::<usize>() - 1;
    if len > MAX_PATH_LEN { Err(PathProblem::TooLong) } else { Ok(()) }
}

/// `name` with eight hexadecimal digits of `identity`'s hash before its extension, shortened to fit: `name~0a1b2c3d.ext`.
/// Names that were alike after repair stay apart, and are the same each time.
pub(super) fn with_tag(name: &str, identity: &[u8]) -> String {
    let hash: [u8; 20] = Sha1::digest(identity).into();
    let dot = name.rfind('.').filter(|&dot| dot > 0 && name.len() - dot <= EXTENSION_LEN_MAX);
    let (stem, extension) = name.split_at(dot.unwrap_or(name.len()));
    let tag = format!("~{:02x}{:02x}{:02x}{:02x}", hash[0], hash[1], hash[2], hash[3]);
    let room = MAX_COMPONENT_LEN - tag.len() - extension.len();
    let stem = &stem[..stem.floor_char_boundary(room)];
    format!("{stem}{tag}{extension}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_table() {
        use PathProblem::*;
        type Case<'a> = (&'a [u8], Result<Option<&'a str>, PathProblem>);
        let table: &[Case<'_>] = &[
            (b"plain.txt", Ok(Some("plain.txt"))),
            (b"", Ok(None)),
            (b".", Ok(None)),
            (b"..", Err(Parent)),
            (b"...", Ok(Some("..."))),
            (b".hidden", Ok(Some(".hidden"))),
            (b"/", Err(Absolute)),
            (b"/etc", Err(Absolute)),
            (b"a/b", Err(Separator)),
            (b"a/../../b", Err(Separator)),
            (b"a\0b", Err(Nul)),
            (b"\0", Err(Nul)),
            (b"C:\\x", Ok(Some("C:\\x"))),
            (b"a\nb\x1b[0m\x7f", Ok(Some("a_b_[0m_"))),
            ("x\u{85}y".as_bytes(), Ok(Some("x_y"))),
            ("gpj\u{202e}exe.\u{2066}".as_bytes(), Ok(Some("gpj_exe._"))),
            (b"bad\xff\xfeutf", Ok(Some("bad\u{fffd}\u{fffd}utf"))),
            ("Ünï 日本".as_bytes(), Ok(Some("Ünï 日本"))),
            // What looks like a separator, or like the way up, is a character like others to Linux.
            ("..\u{2215}..\u{2215}etc".as_bytes(), Ok(Some("..\u{2215}..\u{2215}etc"))),
            ("a\u{ff0f}b\u{2044}c\u{29f8}d".as_bytes(), Ok(Some("a\u{ff0f}b\u{2044}c\u{29f8}d"))),
            ("\u{2025}".as_bytes(), Ok(Some("\u{2025}"))),
            ("\u{ff0e}\u{ff0e}".as_bytes(), Ok(Some("\u{ff0e}\u{ff0e}"))),
            (b"..\\..\\etc", Ok(Some("..\\..\\etc"))),
            // Bytes that a lenient decoder would take for a slash or a dot.
            (b"..\xc0\xaf..", Ok(Some("..\u{fffd}\u{fffd}.."))),
            (b"\xc0\xae\xc0\xae", Ok(Some("\u{fffd}\u{fffd}\u{fffd}\u{fffd}"))),
            (b"\xe0\x80\xaf", Ok(Some("\u{fffd}\u{fffd}\u{fffd}"))),
            // Devices elsewhere, files here.
            (b"CON", Ok(Some("CON"))),
            (b"nul.txt", Ok(Some("nul.txt"))),
            (b"COM1:", Ok(Some("COM1:"))),
        ];
        for (raw, expected) in table {
            let name = component(raw);
            assert_eq!(name.as_ref().map(Option::as_deref).map_err(|problem| *problem), *expected, "{raw:?}");
        }
    }

    #[test]
    fn paths_table() {
        let names = |list: &[&[u8]]| sanitise(list.iter().copied());
        assert_eq!(names(&[b"a", b".", b"", b"b"]).unwrap(), ["a", "b"]);
        assert_eq!(names(&[]), Err(PathProblem::Empty));
        assert_eq!(names(&[b".", b""]), Err(PathProblem::Empty));
        assert_eq!(names(&[b"a", b"..", b"b"]), Err(PathProblem::Parent));
        assert_eq!(names(&[b"a".as_slice(); MAX_PATH_DEPTH + 1]), Err(PathProblem::TooDeep));
        assert_eq!(names(&[[b'a'; 255].as_slice(); 16]).unwrap().len(), 16);
        assert_eq!(names(&[[b'a'; 255].as_slice(); 17]), Err(PathProblem::TooLong));
    }

    #[test]
    fn long_names_keep_their_extension_and_stay_apart() {
        let long = |end: &str| component(format!("{}{end}", "é".repeat(150)).as_bytes()).unwrap().unwrap();
        let one = long(" 1.mkv");
        assert!(one.len() <= 255 && one.len() > 250 && one.ends_with(".mkv"), "{one}");
        assert_ne!(one, long(" 2.mkv"));
        assert_eq!(one, long(" 1.mkv"));
        assert_eq!(component(&[b'a'; 255]).unwrap().unwrap().len(), 255);
        assert_eq!(component(&[b'.'; 300]).unwrap().unwrap().len(), 255);
    }

    proptest! {
        #[test]
        fn what_comes_out_is_safe(raw in proptest::collection::vec(any::<u8>(), 0..600)) {
            let raw: Vec<u8> = raw.into_iter().filter(|b| *b != b'/' && *b != 0).collect();
            prop_assume!(raw != b"..");
            let name = component(&raw).unwrap();
            prop_assert_eq!(name.is_none(), raw.is_empty() || raw == b".");
            if let Some(name) = name {
                prop_assert!(!name.is_empty() && name != "." && name != ".." && name.len() <= 255);
                prop_assert!(!name.chars().any(is_unsafe_to_show));
                // What is clean stays as it is.
                prop_assert_eq!(component(name.as_bytes()).unwrap().unwrap(), name);
            }
        }
    }
}
