//! What is measured of a swarm.

use std::time::Duration;

use crate::world::World;

/// How the pieces are spread over nodes.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    /// Copies of the piece that has the fewest.
    pub fewest: u32,
    /// Pieces that somebody has.
    pub pieces: usize,
    /// Entropy of the copies, 1 = all pieces have equally many.
    pub evenness: f64,
}

impl World {
    /// Over `nodes`, those that are offline left out.
    pub fn spread(&self, nodes: &[usize]) -> Spread {
        let mut copies = vec![0u32; self.geometry.piece_count() as usize];
        for have in nodes.iter().filter_map(|node| self.nodes[*node].have()) {
            have.iter().for_each(|piece| copies[piece.as_usize()] += 1);
        }
        let all = f64::from(copies.iter().sum::<u32>()).max(1.0);
        let shares = copies.iter().filter(|count| **count > 0).map(|count| f64::from(*count) / all);
        let entropy: f64 = shares.map(|share| -share * share.ln()).sum();
        let fewest = copies.iter().copied().min().unwrap_or(0);
        let pieces = copies.iter().filter(|count| **count > 0).count();
        Spread { fewest, pieces, evenness: entropy / f64::from(self.geometry.piece_count()).ln() }
    }

    /// How long each of `nodes` took, in seconds; they have all finished.
    pub fn times(&self, nodes: &[usize]) -> Vec<f64> {
        let time = |node: &usize| {
            let node = &self.nodes[*node];
            node.finished.expect("it has finished").saturating_duration_since(node.joined).as_secs_f64()
        };
        nodes.iter().map(time).collect()
    }

    /// Payload bytes that a node has received and sent.
    pub fn payload(&self, node: usize) -> (u64, u64) {
        let node = &self.nodes[node];
        node.parts.iter().fold((node.received, node.sent), |(down, up), part| {
            let stats = part.torrent.stats();
            (down + stats.downloaded, up + stats.uploaded)
        })
    }

    /// Whether everybody who means well has everything.
    pub fn all_finished(&self) -> bool {
        self.nodes.iter().filter(|node| node.is_good()).all(crate::node::Node::is_finished)
    }

    /// Lets the swarm finish, and says who does not.
    pub fn finish(&mut self, time: Duration) {
        if self.run_until(time, |world| world.all_finished()) {
            return;
        }
        let late: Vec<String> = (0..self.nodes.len())
            .filter(|node| self.nodes[*node].is_good() && !self.nodes[*node].is_finished())
            .map(|node| format!("{node}: {}", self.describe(node)))
            .collect();
        let origin = self.describe(0);
        panic!(
            "{} nodes do not finish within {time:?}:\n{}\nthe origin: {origin}",
            late.len(),
            late.join("\n")
        );
    }
}

pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}
