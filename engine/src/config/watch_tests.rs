use super::*;
use crate::config::Trust;
use std::os::unix::fs::symlink;

fn source(path: &Path) -> Source {
    Source { path: path.to_owned(), trust: Trust::Full, needed: false }
}

/// Whether a change is noticed, given the time to settle.
fn noticed(watcher: &mut Watcher) -> bool {
    let now = Instant::now();
    watcher.has_changed(now) || watcher.has_changed(now + SETTLED_AFTER)
}

#[test]
fn what_editors_do_to_a_file_is_noticed_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("ccbt.toml");
    let other = dir.path().join(".ccbt.toml.swp");
    let mut watcher = Watcher::new(&[source(&path)]).expect("inotify is there");
    assert!(!noticed(&mut watcher), "nothing has happened");
    let mut step = |what: &str, expected: bool, change: &dyn Fn()| {
        change();
        assert_eq!(noticed(&mut watcher), expected, "{what}");
        assert!(!noticed(&mut watcher), "{what}, once");
    };
    step("made", true, &|| fs::write(&path, "a").expect("written"));
    step("written", true, &|| fs::write(&path, "bc").expect("written"));
    step("another file", false, &|| fs::write(&other, "d").expect("written"));
    step("replaced", true, &|| fs::rename(&other, &path).expect("renamed"));
    step("removed", true, &|| fs::remove_file(&path).expect("removed"));
    step("made again", true, &|| fs::write(&path, "a").expect("written"));
}

#[test]
fn folders_that_come_later_and_links_are_followed() {
    let dir = tempfile::tempdir().expect("a folder");
    let (folder, path) = (dir.path().join("a/b"), dir.path().join("a/b/ccbt.toml"));
    let link = dir.path().join("link.toml");
    let elsewhere = tempfile::tempdir().expect("a folder");
    let (one, two) = (elsewhere.path().join("one"), elsewhere.path().join("two"));
    fs::write(&one, "1").expect("written");
    fs::write(&two, "22").expect("written");
    symlink(&one, &link).expect("linked");
    let mut watcher = Watcher::new(&[source(&path), source(&link)]).expect("inotify is there");
    fs::create_dir(dir.path().join("a")).expect("made");
    assert!(!noticed(&mut watcher), "an empty folder is no configuration");
    fs::create_dir(&folder).expect("made");
    assert!(!noticed(&mut watcher));
    fs::write(&path, "x").expect("written");
    assert!(noticed(&mut watcher), "a file in a folder that came later");
    fs::write(&one, "111").expect("written");
    assert!(noticed(&mut watcher), "a file that a link leads to");
    let new = dir.path().join("new");
    symlink(&two, &new).expect("linked");
    fs::rename(&new, &link).expect("renamed");
    assert!(noticed(&mut watcher), "a link to another file");
    fs::write(&two, "2222").expect("written");
    assert!(noticed(&mut watcher), "and that file");
}

#[test]
fn a_change_is_left_to_settle() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("ccbt.toml");
    let mut watcher = Watcher::new(&[source(&path)]).expect("inotify is there");
    fs::write(&path, "a").expect("written");
    let now = Instant::now();
    assert!(!watcher.has_changed(now));
    assert!(!watcher.has_changed(now + SETTLED_AFTER / 2));
    assert!(watcher.has_changed(now + SETTLED_AFTER));
}
