//! The nodes that are kept between runs: one small file, replaced as a whole.

use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use ccbt_protocol::dht::Saved;
use ccbt_protocol::dht::saved::FILE_MAX;

/// What the last run left; nothing when there is no file that can be used.
pub(super) fn load(path: &Path) -> Saved {
    let bytes = match std::fs::metadata(path) {
        Ok(meta) if meta.is_file() && meta.len() <= FILE_MAX as u64 => std::fs::read(path),
        Ok(_) => Err(io::Error::other("it is no file of ours")),
        Err(error) => Err(error),
    };
    match bytes {
        Ok(bytes) => Saved::decode(&bytes).unwrap_or_else(|| {
            tracing::warn!(path = %path.display(), "the file of DHT nodes cannot be read; it is made anew");
            Saved::default()
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Saved::default(),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the file of DHT nodes cannot be read");
            Saved::default()
        }
    }
}

/// Writes a file beside it and puts it in its place: a crash leaves the old one or the new one.
pub(super) fn save(path: &Path, saved: &Saved) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    // Several processes may share the folder.
    let new = path.with_extension(format!("new{}", std::process::id()));
    let written = (|| {
        let _ = std::fs::remove_file(&new);
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(&saved.encode())?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&new);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use ccbt_protocol::dht::{Contact, NodeId};

    #[test]
    fn what_is_saved_is_loaded_and_damage_is_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("below").join("dht.state");
        assert_eq!(load(&path), Saved::default());
        let node = Contact { id: NodeId([3; 20]), addr: "8.8.8.8:9".parse().expect("an address") };
        let saved = Saved { ids: [Some(NodeId([1; 20])), None], nodes: vec![node] };
        save(&path, &saved).expect("written");
        save(&path, &saved).expect("replaced");
        assert_eq!(load(&path), saved);
        assert_eq!(std::fs::read_dir(path.parent().expect("a folder")).expect("listed").count(), 1);
        std::fs::write(&path, b"d1:x").expect("written");
        assert_eq!(load(&path), Saved::default());
        std::fs::write(&path, vec![b'd'; FILE_MAX + 1]).expect("written");
        assert_eq!(load(&path), Saved::default());
        std::fs::remove_file(&path).expect("removed");
        std::fs::create_dir(&path).expect("made");
        assert_eq!(load(&path), Saved::default());
        assert!(save(&path, &saved).is_err());
        assert_eq!(std::fs::read_dir(path.parent().expect("a folder")).expect("listed").count(), 1);
    }
}
