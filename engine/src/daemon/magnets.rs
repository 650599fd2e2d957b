//! Magnet links of the daemon, until their metadata is there and they become torrents.
//!
//! A link is kept as `torrents/HASH.magnet` before its adding is answered, and looked for again after a restart. It is not
//! in the queue: metadata is small. All that can be done with it meanwhile is to ask why, to look at
//! its peers, and to remove it.

use std::io;
use std::time::Instant;

use ccbt_protocol::ids::InfoHash;
use tokio::sync::oneshot;

use super::api::{Activity, Add, ApiError, Event, Removed, Torrent as Row};
use super::core::{Answer, Core};
use super::explaining::Explaining;
use crate::checkpoints::now;
use crate::explain::Rest;
use crate::session::{Looking, MagnetHandle, MagnetOptions};
use crate::{Magnet, TorrentEvent};

type Reply = oneshot::Sender<Result<Answer, ApiError>>;

/// A link whose metadata is looked for.
#[derive(Debug)]
pub(super) struct Pending {
    handle: MagnetHandle,
    /// How its torrent is to be added; its `magnet` is the link.
    how: Add,
    added_at: i64,
    /// What was found is no torrent.
    trouble: Option<String>,
    /// It is being removed; who waits for that.
    leaving: Option<Reply>,
}

impl Pending {
    /// Its handle in the session.
    pub fn handle(&self) -> &MagnetHandle {
        &self.handle
    }

    /// Begins to find out why its metadata is not there yet.
    pub fn explain(&self, hash: InfoHash, looking: Looking) -> Explaining {
        let magnet = self.handle.magnet();
        Explaining {
            info_hash: hash.to_string(),
            name: magnet.name.clone().unwrap_or_else(|| hash.to_string()),
            looking,
            rest: self.how.paused.then_some(Rest::Paused),
            error: self.trouble.clone().map(|trouble| (trouble, false)),
        }
    }

    fn row(&self) -> Row {
        let magnet = self.handle.magnet();
        let status = self.handle.status();
        Row {
            info_hash: magnet.info_hash.to_string(),
            name: magnet.name.clone().unwrap_or_else(|| magnet.info_hash.to_string()),
            state: match (&self.leaving, &self.trouble) {
                (Some(_), _) => Activity::Removing,
                (None, Some(_)) => Activity::Error,
                (None, None) => Activity::FetchingMetadata,
            },
            position: 0,
            paused: self.how.paused,
            forced: false,
            bytes_total: magnet.len.unwrap_or(0),
            bytes_done: 0,
            downloaded: 0,
            uploaded: 0,
            ratio: 0.0,
            down_rate: 0,
            up_rate: 0,
            peers: status.peers,
            eta_seconds: None,
            seeded_seconds: 0,
            added_at: self.added_at,
            completed_at: None,
            output: self
                .how
                .output
                .as_ref()
                .map(|dir| dir.to_string_lossy().into_owned())
                .unwrap_or_default(),
            error: self.trouble.clone(),
        }
    }
}

impl Core {
    /// Looks for the metadata of the link in `how`, and then adds its torrent.
    pub fn add_magnet(&mut self, how: Add) -> Result<Answer, ApiError> {
        let text = how.magnet.as_deref().unwrap_or_default();
        let magnet =
            Magnet::parse(text).map_err(|error| ApiError::new(400, "bad_magnet", error.to_string()))?;
        let hash = magnet.info_hash;
        if self.torrents.contains_key(&hash) || self.magnets.contains_key(&hash) {
            return Err(ApiError::new(409, "duplicate", format!("the torrent {hash} is here already")));
        }
        if let Some(dir) = &how.output {
            self.may_use(dir, "output")?;
        }
        super::actions::check_web_seeds(&how.web_seeds)?;
        self.state.add_magnet(hash, &how).map_err(|error| {
            let text = format!("the daemon's state cannot be written: {error}; nothing was done");
            ApiError::new(500, "state", text)
        })?;
        let row = self.look_for(magnet, how)?;
        self.subscribers.tell(&Event::Added(Box::new(row.clone())));
        Ok(Answer::Torrent(Box::new(row)))
    }

    fn look_for(&mut self, magnet: Magnet, how: Add) -> Result<Row, ApiError> {
        let hash = magnet.info_hash;
        let effect = self.config.effect(Some((&hash, magnet.name.as_deref().unwrap_or_default())));
        let mut options = MagnetOptions::from(&effect.torrent);
        options.peers.extend(&how.peers);
        super::actions::bind(&mut options.bind_to, how.bind_to.as_ref());
        let handle = self.session.add_magnet(magnet, options);
        let handle = handle.map_err(|error| ApiError::new(409, "gone", error.to_string()))?;
        self.keys.insert(handle.key(), hash);
        let pending = Pending { handle, how, added_at: now(), trouble: None, leaving: None };
        let row = pending.row();
        self.magnets.insert(hash, pending);
        Ok(row)
    }

    /// Goes on with what the folder of the state has.
    pub fn restore_magnets(&mut self) -> io::Result<()> {
        for how in self.state.magnets()? {
            let magnet = how.magnet.as_deref().and_then(|text| Magnet::parse(text).ok());
            let Some(magnet) = magnet.filter(|magnet| !self.torrents.contains_key(&magnet.info_hash)) else {
                continue;
            };
            if let Err(error) = self.look_for(magnet, how) {
                tracing::error!("a magnet link is not looked for: {error}");
            }
        }
        Ok(())
    }

    /// Its torrent is there, or was added from a file meanwhile. Whether there was such a link.
    pub fn forget_magnet(&mut self, hash: InfoHash) -> bool {
        let Some(pending) = self.magnets.remove(&hash) else { return false };
        self.keys.remove(&pending.handle.key());
        let result = self.state.remove_magnet(hash);
        self.told_once(result);
        true
    }

    /// What lists show of them.
    pub fn magnet_rows(&self) -> impl Iterator<Item = Row> + '_ {
        self.magnets.values().map(Pending::row)
    }

    /// Something that the session tells of a magnet.
    pub fn magnet_happened(&mut self, hash: InfoHash, event: TorrentEvent) {
        match event {
            TorrentEvent::MetadataComplete => self.found(hash),
            TorrentEvent::Failed { message, .. } => {
                tracing::warn!("{hash}: {message}");
                let pending = self.magnets.get_mut(&hash).expect("looked up by the caller");
                pending.trouble = Some(message.clone());
                self.subscribers.tell(&Event::Error { info_hash: hash.to_string(), message, retry: false });
            }
            TorrentEvent::Removed => {
                let Some(pending) = self.magnets.remove(&hash) else { return };
                self.keys.remove(&pending.handle.key());
                self.subscribers.tell(&Event::Removed { info_hash: hash.to_string() });
                if let Some(reply) = pending.leaving {
                    let removed = Removed { info_hash: hash.to_string(), ..Removed::default() };
                    // Whoever asked may be gone.
                    let _ = reply.send(Ok(Answer::Removed(removed)));
                }
            }
            TorrentEvent::Tracker { url, reason } => tracing::debug!("{hash}: tracker {url}: {reason}"),
            _ => {}
        }
    }

    /// The metadata is there: its torrent takes the link's place.
    fn found(&mut self, hash: InfoHash) {
        let Some(Ok(metainfo)) = self.magnets[&hash].handle.metainfo() else { return };
        if self.magnets[&hash].leaving.is_some() {
            return;
        }
        let (handle, how) = (self.magnets[&hash].handle.clone(), self.magnets[&hash].how.clone());
        let bytes = metainfo.to_torrent();
        if let Err(error) = self.add_found(metainfo, &bytes, &how, Some(handle.magnet())) {
            tracing::error!("{hash}: {}", error.message);
            if let Some(pending) = self.magnets.get_mut(&hash) {
                pending.trouble = Some(error.message);
            }
        }
        self.decide(Instant::now());
    }

    /// Stops looking for the magnet that `id` names; gives `reply` back when it names none.
    pub fn remove_magnet(&mut self, id: &str, reply: Reply) -> Option<Reply> {
        let Some(hash) = self.find_magnet(id) else { return Some(reply) };
        if let Err(error) = self.state.remove_magnet(hash) {
            let _ = reply.send(Err(ApiError::new(500, "state", error.to_string())));
            return None;
        }
        let pending = self.magnets.get_mut(&hash).expect("found just now");
        pending.leaving = Some(reply);
        self.session.remove_magnet(&pending.handle);
        None
    }
}
