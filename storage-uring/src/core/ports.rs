//! The clients of the storage thread, as it sees them.
//!
//! Role: takes their commands and gives their answers. Owner: the storage thread. Invariant: a client's
//! answers fit into its channel (capacity: its `max_jobs`, which bounds what it has under way), so sending
//! never waits; its bell is rung at most once per turn of the loop.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError};
use slab::Slab;

use crate::doorbell::Doorbell;
use crate::messages::{StorageCmd, StorageDone};

/// Commands taken from one client per turn: bounds the time between two looks at the ring.
const COMMANDS_PER_TURN: usize = 256;

/// A client that announces itself.
#[derive(Debug)]
pub(crate) struct NewClient {
    pub(crate) commands: Receiver<StorageCmd>,
    pub(crate) answers: Sender<StorageDone>,
    pub(crate) bell: Arc<Doorbell>,
}

#[derive(Debug)]
struct Port {
    client: NewClient,
    /// Commands taken and not yet answered.
    under_way: usize,
    answered: bool,
    gone: bool,
}

#[derive(Debug)]
pub(super) struct Ports {
    newcomers: Receiver<NewClient>,
    ports: Slab<Port>,
}

impl Ports {
    pub(super) fn new(newcomers: Receiver<NewClient>) -> Self {
        Self { newcomers, ports: Slab::new() }
    }

    /// Appends the commands that wait, each with its client's number.
    pub(super) fn take(&mut self, commands: &mut Vec<(usize, StorageCmd)>) {
        for client in self.newcomers.try_iter() {
            self.ports.insert(Port { client, under_way: 0, answered: false, gone: false });
        }
        for (number, port) in &mut self.ports {
            for _ in 0..COMMANDS_PER_TURN {
                match port.client.commands.try_recv() {
                    Ok(command) => {
                        port.under_way += 1;
                        commands.push((number, command));
                    }
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => {
                        port.gone = true;
                        break;
                    }
                }
            }
        }
        self.ports.retain(|_, port| !(port.gone && port.under_way == 0));
    }

    /// Whether somebody wants something.
    pub(super) fn waiting(&self) -> bool {
        !self.newcomers.is_empty() || self.ports.iter().any(|(_, port)| !port.client.commands.is_empty())
    }

    pub(super) fn answer(&mut self, client: usize, answer: StorageDone) {
        let port = &mut self.ports[client];
        port.under_way -= 1;
        port.answered = true;
        match port.client.answers.try_send(answer) {
            // A client that is gone lets its buffers go with the answers.
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(_)) => unreachable!("more answers than the client has commands under way"),
        }
    }

    /// Wakes the clients that were answered since the last call.
    pub(super) fn ring(&mut self) {
        for (_, port) in &mut self.ports {
            if std::mem::take(&mut port.answered) {
                port.client.bell.ring();
            }
        }
    }
}
