//! Open descriptors, a bounded number of them.
//!
//! Role: a torrent of 100,000 files never has all of them open. Owner: the storage thread. Invariant: at most
//! `max` descriptors, as long as fewer than `max` operations are in flight (the storage thread divides that
//! among the devices); a descriptor with operations in flight (another holder of its `Rc`) is never closed.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use ccbt_protocol::ids::TorrentKey;

use crate::error::{ErrorKind, StorageError};

/// Torrent, file and whether the descriptor is the `O_DIRECT` one.
pub(super) type HandleKey = (TorrentKey, u32, bool);

/// How often an operation that ran out of descriptors or kernel memory is tried.
const TRIES: u32 = 4;
/// Descriptors closed before each further try.
const GIVEN_UP: usize = 16;

#[derive(Debug)]
struct Handle {
    fd: Rc<OwnedFd>,
    used: u64,
}

#[derive(Debug)]
pub(super) struct Handles {
    open: HashMap<HandleKey, Handle>,
    /// The same by time of last use.
    by_use: BTreeMap<u64, HandleKey>,
    clock: u64,
    max: usize,
}

impl Handles {
    pub(super) fn new(max: usize) -> Self {
        Self { open: HashMap::new(), by_use: BTreeMap::new(), clock: 0, max: max.max(1) }
    }

    /// Descriptors kept open at most.
    pub(super) fn max(&self) -> usize {
        self.max
    }

    /// Descriptors open now.
    pub(super) fn open(&self) -> usize {
        self.open.len()
    }

    pub(super) fn get(&mut self, key: HandleKey) -> Option<Rc<OwnedFd>> {
        let handle = self.open.get_mut(&key)?;
        if handle.used != self.clock {
            self.by_use.remove(&handle.used);
            self.clock += 1;
            handle.used = self.clock;
            self.by_use.insert(self.clock, key);
        }
        Some(Rc::clone(&handle.fd))
    }

    pub(super) fn insert(&mut self, key: HandleKey, fd: OwnedFd) -> Rc<OwnedFd> {
        while self.open.len() >= self.max && self.close_idle(1) {}
        self.clock += 1;
        let fd = Rc::new(fd);
        let before = self.open.insert(key, Handle { fd: Rc::clone(&fd), used: self.clock });
        assert!(before.is_none(), "a file opened twice");
        self.by_use.insert(self.clock, key);
        fd
    }

    /// Closes up to `count` descriptors that nothing uses, least recently used first. Whether there was any.
    fn close_idle(&mut self, count: usize) -> bool {
        let idle = self.by_use.iter().filter(|(_, key)| Rc::strong_count(&self.open[*key].fd) == 1);
        let victims: Vec<(u64, HandleKey)> = idle.take(count).map(|(used, key)| (*used, *key)).collect();
        for (used, key) in &victims {
            self.by_use.remove(used);
            self.open.remove(key);
        }
        !victims.is_empty()
    }

    /// Closes the descriptors of one file.
    pub(super) fn close_file(&mut self, torrent: TorrentKey, file: u32) {
        for direct in [false, true] {
            if let Some(handle) = self.open.remove(&(torrent, file, direct)) {
                self.by_use.remove(&handle.used);
            }
        }
    }

    /// Closes a torrent's descriptors.
    pub(super) fn close_torrent(&mut self, torrent: TorrentKey) {
        self.by_use.retain(|_, key| key.0 != torrent);
        self.open.retain(|key, _| key.0 != torrent);
    }

    /// Runs `open`, and when it says that descriptors or memory are exhausted, closes some that are idle and
    /// tries again, a few times.
    pub(super) fn retrying<R>(
        &mut self,
        mut open: impl FnMut() -> Result<R, StorageError>,
    ) -> Result<R, StorageError> {
        for _ in 1..TRIES {
            match open() {
                Err(error) if error.kind() == ErrorKind::Exhausted && self.close_idle(GIVEN_UP) => {}
                other => return other,
            }
        }
        open()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn key(file: u32) -> HandleKey {
        (TorrentKey(file / 10), file, false)
    }

    fn null() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn the_least_recently_used_idle_one_is_closed() {
        let mut handles = Handles::new(3);
        let busy = handles.insert(key(0), null());
        drop(handles.insert(key(1), null()));
        drop(handles.insert(key(2), null()));
        drop(handles.get(key(1)));
        drop(handles.insert(key(3), null()));
        let open: Vec<bool> = (0..4).map(|file| handles.get(key(file)).is_some()).collect();
        assert_eq!(open, [true, true, false, true], "2 went: 0 is in use, 1 was used later");
        drop(busy);
        handles.close_torrent(TorrentKey(0));
        assert!(handles.open.is_empty() && handles.by_use.is_empty());
    }

    #[test]
    fn exhaustion_closes_idle_ones_and_ends() {
        let mut handles = Handles::new(100);
        for file in 0..40 {
            handles.insert(key(file), null());
        }
        let mut tries = 0;
        let result: Result<(), _> = handles.retrying(|| {
            tries += 1;
            Err(StorageError::from_errno(crate::error::Op::Open, "x".as_ref(), libc::EMFILE))
        });
        assert_eq!((result.unwrap_err().kind(), tries, handles.open.len()), (ErrorKind::Exhausted, TRIES, 0));
    }
}
