//! JSON that is safe to look at in a terminal.

use ccbt_protocol::metainfo::escape_for_terminal;
use serde::Serialize;
use std::borrow::Cow;
use std::fmt::Write;

/// `value` on one line. Control and direction characters that JSON allows as they are (DEL, C1, bidi) become
/// `\uXXXX`, so the text means the same to programs and cannot drive a terminal.
pub fn to_line(value: &impl Serialize) -> String {
    escaped(serde_json::to_string(value).expect("no map has keys other than strings"))
}

/// A line of JSON, escaped as [`to_line`] says: such characters stand in strings only.
pub fn escaped(json: String) -> String {
    let mut char_bytes = [0; 4];
    let mut is_unsafe =
        |c: char| matches!(escape_for_terminal(c.encode_utf8(&mut char_bytes)), Cow::Owned(_));
    if !json.chars().any(&mut is_unsafe) {
        return json;
    }
    let mut safe = String::with_capacity(json.len() + 32);
    for c in json.chars() {
        if is_unsafe(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(safe, "\\u{unit:04x}").expect("a String takes every write");
            }
        } else {
            safe.push(c);
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_characters_are_escaped_and_mean_the_same() {
        let text = "a\x1b[2J\n\u{9b}\x7f\u{202e}ü日\"\\";
        let line = to_line(&text);
        assert_eq!(line, "\"a\\u001b[2J\\n\\u009b\\u007f\\u202eü日\\\"\\\\\"");
        assert_eq!(serde_json::from_str::<String>(&line).expect("valid"), text);
    }
}
