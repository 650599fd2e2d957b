//! Which folders clients may name.
//!
//! Role: the check of every folder that comes with a call, against `daemon.allowed_folders` and the sandbox. Owner:
//! [`super::core`]. What the configuration names itself (`disk.output`, `disk.move_completed`) is the user's word and not
//! asked for; below a torrent's folder no link is followed.

use std::path::{Path, PathBuf};

use super::api::ApiError;
use super::core::Core;
use crate::sandbox::is_within;

impl Core {
    /// Refuses `folder`, the value of a call's field `what`, if a torrent may not be there.
    pub fn may_use(&self, folder: &Path, what: &str) -> Result<(), ApiError> {
        let shown = folder.display();
        // Named from wherever the daemon was started, it would be anywhere.
        if !folder.is_absolute() {
            let message = format!("{what} must be an absolute path, not {shown}");
            return Err(ApiError::new(400, "relative_path", message));
        }
        let allowed = &self.reloader.daemon().allowed_folders;
        if !allowed.is_empty() {
            let own = std::path::absolute(&self.config.effect(None).torrent.output).ok();
            let all: Vec<PathBuf> = allowed.iter().cloned().chain(own).collect();
            if !is_within(folder, all.iter().map(PathBuf::as_path)) {
                let all: Vec<String> = all.iter().map(|folder| folder.display().to_string()).collect();
                let message = format!(
                    "{what}: {shown} is outside of the folders that clients may name: choose one below {}, or add it \
                     to daemon.allowed_folders",
                    all.join(", ")
                );
                return Err(ApiError::new(403, "folder_not_allowed", message));
            }
        }
        self.within_sandbox(folder)
    }

    /// Refuses a folder that could not be used.
    pub fn within_sandbox(&self, folder: &Path) -> Result<(), ApiError> {
        let Some(sandbox) = &self.sandbox else { return Ok(()) };
        sandbox.check(folder).map_err(|message| ApiError::new(400, "outside_sandbox", message))
    }
}
