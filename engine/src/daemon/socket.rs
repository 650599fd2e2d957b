//! The Unix socket and the token: made so that nobody else can use them, not even for a moment.
//!
//! Called once at the start, before anything runs. Invariant: the socket is never reachable by others (it gets its place by
//! a rename out of a folder that only we can enter), a live daemon's socket is never replaced, and nothing but a socket is.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rand::Rng;

/// Bytes of a path that the kernel takes (`sun_path`), without the final zero.
const PATH_BYTES_MAX: usize = 107;
/// Characters of a token at least: 128 bits in hexadecimal.
const TOKEN_LEN_MIN: usize = 32;
const TOKEN_LEN_MAX: u64 = 4096;

/// Why there is no control.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Somebody listens at the socket.
    #[error("a daemon listens at {} already: stop it, or name another socket with --socket", .0.display())]
    Taken(PathBuf),
    /// The socket's folder belongs to somebody else or lets others in.
    #[error("the folder {} must be yours and closed to others (chmod 700), or name another socket with --socket",
        .0.display())]
    Folder(PathBuf),
    /// The path is too long for a socket.
    #[error("{} is longer than the {PATH_BYTES_MAX} bytes that a socket may have; name another one with --socket",
        .0.display())]
    Long(PathBuf),
    /// Something that is no socket is there.
    #[error("{} is not a socket; remove it, or name another one with --socket", .0.display())]
    NotASocket(PathBuf),
    /// The token cannot be used.
    #[error("the token file {}: {problem}", .path.display())]
    Token {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// There is no folder to put it in.
    #[error("there is no home folder: name the socket with --socket and the state's folder with --state-dir")]
    NoHome,
    /// The system refuses.
    #[error("cannot listen at {place}: {source}")]
    Io {
        /// Where.
        place: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A listening socket, whose file goes when it is dropped.
#[derive(Debug)]
pub(super) struct Socket {
    pub listener: UnixListener,
    path: PathBuf,
    /// Device and inode, so that another daemon's is not removed.
    id: Option<(u64, u64)>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if id(&self.path) == self.id {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn id(path: &Path) -> Option<(u64, u64)> {
    path.symlink_metadata().ok().map(|found| (found.dev(), found.ino()))
}

/// Listens at `path` with mode 0600. A folder that is not there is made with mode 0700; with `own_folder` one that is there
/// must be ours and closed to others.
pub(super) fn listen(path: &Path, own_folder: bool) -> Result<Socket, ControlError> {
    let at = |source| ControlError::Io { place: path.display().to_string(), source };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(at)?;
    if own_folder {
        let found = folder.symlink_metadata().map_err(at)?;
        let is_ours = found.uid() == rustix::process::geteuid().as_raw();
        if !found.is_dir() || !is_ours || found.mode() & 0o077 != 0 {
            return Err(ControlError::Folder(folder.to_owned()));
        }
    }
    // Room for the folder that it is made in.
    const NEW: &str = ".ccbt-XXXXXX/s";
    let longest = path.as_os_str().len().max(folder.as_os_str().len() + 1 + NEW.len());
    if longest > PATH_BYTES_MAX {
        return Err(ControlError::Long(path.to_owned()));
    }
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(at(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(ControlError::NotASocket(path.to_owned())),
        Ok(_) => match UnixStream::connect(path) {
            Ok(_) => return Err(ControlError::Taken(path.to_owned())),
            // Nobody listens any more.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(at(error)),
        },
    }
    let closed = tempfile::Builder::new().prefix(".ccbt-").rand_bytes(6).tempdir_in(folder).map_err(at)?;
    let new = closed.path().join("s");
    let listener = UnixListener::bind(&new).map_err(at)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).map_err(at)?;
    fs::rename(&new, path).map_err(at)?;
    Ok(Socket { listener, path: path.to_owned(), id: id(path) })
}

/// The token in the file at `path`, which is made with a random one if it is not there.
pub(super) fn token(path: &Path) -> Result<String, ControlError> {
    let wrong = |problem: String| ControlError::Token { path: path.to_owned(), problem };
    let failed = |error: io::Error| wrong(error.to_string());
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    }
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(mut file) => {
            let mut bytes = [0u8; 32];
            rand::rng().fill_bytes(&mut bytes);
            let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            file.write_all(format!("{token}\n").as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
            return Ok(token);
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(error)),
    }
    let metadata = fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() || metadata.mode() & 0o077 != 0 {
        return Err(wrong("it must be a file that others cannot read (chmod 600)".to_owned()));
    }
    read_token(path).map_err(wrong)
}

/// The token in a file.
pub(super) fn read_token(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(TOKEN_LEN_MAX).read_to_string(&mut text).map_err(|error| error.to_string())?;
    let token = text.trim();
    if token.len() < TOKEN_LEN_MIN || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        let problem =
            format!("it must hold at least {TOKEN_LEN_MIN} letters and digits; remove it for a new one");
        return Err(problem);
    }
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        path.symlink_metadata().expect("it is there").mode() & 0o777
    }

    #[test]
    fn a_socket_is_ours_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("ccbt/d.sock");
        let socket = listen(&path, true).expect("nothing is there");
        assert_eq!((mode(&path), mode(path.parent().expect("made"))), (0o600, 0o700));
        assert_eq!(fs::read_dir(dir.path().join("ccbt")).expect("listed").count(), 1, "nothing else stays");
        assert!(matches!(listen(&path, true), Err(ControlError::Taken(_))));
        drop(socket);
        assert!(!path.exists());
        // One whose daemon has died.
        drop(UnixListener::bind(&path).expect("bound"));
        assert!(path.exists());
        let socket = listen(&path, true).expect("nobody listens");
        assert_eq!(mode(&path), 0o600);
        UnixStream::connect(&path).expect("the new one listens");
        drop(socket);
        fs::write(&path, b"mine").expect("written");
        assert!(matches!(listen(&path, true), Err(ControlError::NotASocket(_))));
        assert_eq!(fs::read(&path).expect("it stays"), b"mine");
    }

    #[test]
    fn a_folder_that_lets_others_in_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("ccbt");
        DirBuilder::new().mode(0o755).create(&folder).expect("made");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("set");
        let path = folder.join("d.sock");
        assert!(matches!(listen(&path, true), Err(ControlError::Folder(_))));
        assert!(listen(&path, false).is_ok(), "the user has named it");
        let long = dir.path().join("x".repeat(120));
        assert!(matches!(listen(&long, false), Err(ControlError::Long(_))));
    }

    #[test]
    fn tokens_are_made_once_and_read_back() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("a/token");
        let token = token(&path).expect("made");
        assert_eq!((token.len(), mode(&path)), (64, 0o600));
        assert_eq!(super::token(&path).expect("read"), token);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("set");
        assert!(matches!(super::token(&path), Err(ControlError::Token { .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("set");
        fs::write(&path, "short\n").expect("written");
        assert!(matches!(super::token(&path), Err(ControlError::Token { .. })));
    }
}
