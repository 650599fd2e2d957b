//! Names for people to read. Every place that prints text from a torrent, peer or tracker goes through here.

use std::borrow::Cow;
use std::fmt::Write;

/// Whether `c` could drive a terminal or make text read otherwise than it is stored: control characters, line and
/// paragraph separators, and the characters that set or override the direction of writing.
pub fn is_unsafe_to_show(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `text` with control and direction characters written as `\n`, `\t` or `\u{1b}`; borrowed when there are none.
/// The result is for reading, not for parsing: a backslash in `text` stays as it is.
pub fn escape_for_terminal(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unsafe_to_show) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            '\t' => shown.push_str("\\t"),
            c if is_unsafe_to_show(c) => {
                write!(shown, "{}", c.escape_unicode()).expect("a String takes every write");
            }
            c => shown.push(c),
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dangerous_characters_are_spelt_out() {
        assert!(matches!(escape_for_terminal("plain ünï 日本 \\"), Cow::Borrowed(_)));
        assert_eq!(escape_for_terminal("a\x1b[2J\r\n\tb\u{9b}\x7f"), "a\\u{1b}[2J\\r\\n\\tb\\u{9b}\\u{7f}");
        assert_eq!(escape_for_terminal("gpj\u{202e}.exe\u{2028}"), "gpj\\u{202e}.exe\\u{2028}");
    }
}
