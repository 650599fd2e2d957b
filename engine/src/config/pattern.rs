//! Which torrents a `[torrent."…"]` is for. Pure.

use std::fmt;

use ccbt_protocol::ids::InfoHash;

/// Characters of a pattern at most.
const LEN_MAX: usize = 1000;

/// An info-hash, or a name with `*` (any characters, also none) and `?` (one character).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// In lower case if it is an info-hash.
    text: String,
    is_hash: bool,
}

impl Pattern {
    /// 40 hexadecimal digits are an info-hash. `None`: empty or too long.
    pub fn new(text: &str) -> Option<Self> {
        let is_hash = text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let text = if is_hash { text.to_ascii_lowercase() } else { text.to_owned() };
        (!text.is_empty() && text.chars().count() <= LEN_MAX).then_some(Self { text, is_hash })
    }

    /// Whether it names one torrent by its hash: then it counts more than names.
    pub fn is_hash(&self) -> bool {
        self.is_hash
    }

    /// Whether it is for the torrent of that hash and name.
    pub fn is_for(&self, info_hash: &InfoHash, name: &str) -> bool {
        if self.is_hash { self.text == info_hash.to_string() } else { matches_glob(&self.text, name) }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

/// Whether `name` fits `pattern`, where `*` stands for any characters and `?` for one. Takes the product of the lengths at
/// most: a star never goes back behind the one before it.
pub fn matches_glob(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut of, mut star) = (0, 0, None);
    while of < name.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, of));
                at += 1;
            }
            Some(c) if *c == '?' || *c == name[of] => (at, of) = (at + 1, of + 1),
            _ => match &mut star {
                Some((star_at, taken)) => {
                    *taken += 1;
                    (at, of) = (*star_at + 1, *taken);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_hashes() {
        let hash = InfoHash([0xab; 20]);
        let is_for =
            |pattern: &str, name: &str| Pattern::new(pattern).expect("a pattern").is_for(&hash, name);
        for (pattern, name, expected) in [
            ("ubuntu-*", "ubuntu-24.04.iso", true),
            ("ubuntu-*", "Ubuntu-24.04.iso", false),
            ("*", "", true),
            ("*.iso", "a.iso", true),
            ("*.iso", "a.iso.part", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("a?c", "aéc", true),
            ("a?c", "ac", false),
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("", "x", false),
        ] {
            let found = Pattern::new(pattern).is_some_and(|pattern| pattern.is_for(&hash, name));
            assert_eq!(found, expected, "{pattern} {name}");
        }
        assert!(is_for(&"ab".repeat(20), "whatever") && is_for(&"AB".repeat(20), "whatever"));
        assert!(!is_for(&"ac".repeat(20), "whatever"));
        assert!(is_for(&"?".repeat(40), &"ab".repeat(20)), "a name may look like a hash");
        let (stars, name) = ("*a".repeat(400), "a".repeat(900) + "b");
        assert!(!is_for(&stars, &name), "and that takes no exponential time");
    }
}
