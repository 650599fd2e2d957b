//! Whether a folder lies below others, whatever links and `..` say.
//!
//! Called by [`super::Sandbox::check`] and by the daemon before it uses a folder that a client named. Links are looked at
//! as they are now: who may change folders on the way may change them afterwards.

use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

/// Where `folder` leads; its end need not be there. `None`: that cannot be known, for it goes up again from a name that is
/// not there, a link leads nowhere, or something on the way is no folder or may not be looked at.
fn resolved(folder: &Path) -> Option<PathBuf> {
    for above in folder.ancestors() {
        match above.canonicalize() {
            Ok(there) => {
                let rest = folder.strip_prefix(above).expect("an ancestor");
                let is_plain = rest.components().all(|part| matches!(part, Component::Normal(_)));
                return is_plain.then(|| there.join(rest));
            }
            // A link that leads nowhere is there itself.
            Err(error) if error.kind() == ErrorKind::NotFound && above.symlink_metadata().is_err() => {}
            Err(_) => return None,
        }
    }
    None
}

/// Whether `folder` is one of `roots` or lies below one.
pub(crate) fn is_within<'a>(folder: &Path, mut roots: impl Iterator<Item = &'a Path>) -> bool {
    let Some(folder) = resolved(folder) else { return false };
    roots.any(|root| resolved(root).is_some_and(|root| folder.starts_with(root)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn folders_are_within_or_not_whatever_links_say() {
        let (inside, outside) = (tempfile::tempdir().expect("made"), tempfile::tempdir().expect("made"));
        let (inside, outside) = (inside.path(), outside.path());
        symlink(outside, inside.join("away")).expect("linked");
        symlink(inside, outside.join("home")).expect("linked");
        symlink("/nowhere", inside.join("dangling")).expect("linked");
        symlink("round", inside.join("round")).expect("linked");
        std::fs::write(inside.join("file"), "").expect("written");
        std::fs::create_dir(inside.join("sub")).expect("made");
        let is_within = |folder: PathBuf| is_within(&folder, [Path::new("/not/there"), inside].into_iter());
        for good in ["", "sub", "new", "new/er", "sub/../new"] {
            assert!(is_within(inside.join(good)), "{good}");
        }
        assert!(is_within(outside.join("home/x")) && is_within("/not/there/x".into()));
        for bad in [
            "..",
            "away",
            "away/new",
            "new/../../x",
            "new/../x",
            "sub/../../x",
            "dangling",
            "dangling/x",
            "round/x",
            "file/x",
        ] {
            assert!(!is_within(inside.join(bad)), "{bad}");
        }
        assert!(!is_within(PathBuf::from(format!("{}x", inside.display()))));
    }
}
