//! What must hold at every step.

use std::time::Duration;

use ccbt_protocol::candidates::MAX_CANDIDATES;
use ccbt_protocol::ids::PieceIndex;
use ccbt_protocol::peer::MAX_UPLOAD_QUEUE;
use ccbt_protocol::picker::PieceState;

use crate::node::{Node, Part, Plan, Role};
use crate::world::{World, truth};

/// Requests to one peer at most: what the request window may grow to.
const REQUESTS_MAX: usize = 4096;
/// A loss is known to all parts of a torrent by then: two messages.
const HEARD_BY_PARTS: Duration = Duration::from_millis(10);

impl World {
    /// The cheap ones, after whatever happens to a node.
    pub fn check_quickly(&self, node: usize) {
        let node = &self.nodes[node];
        for part in &node.parts {
            assert!(part.memory.len() <= node.plan.memory_max, "more memory than there is");
            assert!(part.torrent.peer_count() == part.conns, "connections of a part");
        }
        assert!(node.links.len() <= 2 * node.plan.peers_max, "{} connections", node.links.len());
        assert!(node.candidates.len() <= MAX_CANDIDATES);
    }

    /// All of them. O(pieces + peers).
    pub fn check_fully(&self, at: usize) {
        self.check_quickly(at);
        let node = &self.nodes[at];
        for part in &node.parts {
            self.check_part(at, node, part);
        }
        if let Some(Role::Home(lender)) = node.parts.first().map(|part| &part.role) {
            lender.check(&node.parts[0].torrent);
            self.check_leases(at, node);
        }
    }

    fn check_part(&self, at: usize, node: &Node, part: &Part) {
        let picker = part.torrent.picker();
        picker.check_invariants();
        for piece in self.geometry.pieces() {
            let state = picker.state(piece);
            let holds = matches!(state, PieceState::Active | PieceState::Hashing | PieceState::Writing);
            assert_eq!(part.memory.contains_key(&piece), holds, "memory of {piece} at {at}, {state:?}");
            // The other parts of a torrent hear of a loss a little later.
            let lost_now = node.lost.get(&piece).is_some_and(|lost| self.now - *lost < HEARD_BY_PARTS);
            if state == PieceState::Have && !lost_now {
                let tokens = node.disk.get(&piece);
                let tokens = tokens.unwrap_or_else(|| panic!("{at} claims {piece}, which is not on disk"));
                assert!(is_right(piece, tokens), "{at} claims {piece}, which is corrupt");
            }
        }
        for key in part.torrent.peer_keys() {
            let peer = part.torrent.peer(key);
            for block in peer.expected() {
                assert!(picker.requesters(block) > 0, "{at} owes itself {block:?}");
            }
            assert!(peer.expected().count() <= REQUESTS_MAX, "requests to one peer");
            assert!(part.torrent.upcoming_uploads(key).count() <= MAX_UPLOAD_QUEUE, "uploads to one peer");
        }
    }

    fn check_leases(&self, at: usize, node: &Node) {
        if node.parts.len() == 1 {
            return;
        }
        for piece in self.geometry.pieces() {
            let fetches = |part: &&Part| {
                !matches!(part.torrent.picker().state(piece), PieceState::Elsewhere | PieceState::Have)
            };
            assert!(node.parts.iter().filter(fetches).count() <= 1, "{at} fetches {piece} twice");
        }
    }

    /// What a finished node must be like.
    pub fn assert_complete(&self, at: usize) {
        let node = &self.nodes[at];
        assert!(node.is_finished(), "node {at} is not finished: {}", self.describe(at));
        for piece in self.geometry.pieces() {
            assert!(is_right(piece, &node.disk[&piece]), "piece {piece} of node {at}");
        }
        assert!(node.parts.iter().all(|part| part.memory.is_empty()), "memory of {at} is left");
        self.check_fully(at);
    }

    /// For messages of assertions.
    pub fn describe(&self, at: usize) -> String {
        let node = &self.nodes[at];
        let have = node.have().map_or(0, |have| have.count());
        let states: Vec<String> = node.parts.iter().map(|part| self.describe_part(part)).collect();
        let (links, known) = (node.links.len(), node.candidates.len());
        let fetching = node.fetching.as_ref().map(|fetching| fetching.peer_count());
        let Plan { manner, shards, memory_max, fast, up, peers_max, .. } = node.plan;
        let rule = (&node.plan.torrent.choker, node.plan.torrent.super_seeding);
        let plan = (manner, shards, memory_max, fast, up, peers_max, rule);
        format!(
            "{plan:?} online {} have {have} links {links} known {known} fetching {fetching:?} {states:?} faults {:?}",
            node.online,
            node.faults.iter().rev().take(5).collect::<Vec<_>>()
        )
    }

    fn describe_part(&self, part: &Part) -> String {
        let count = |wanted: PieceState| {
            let picker = part.torrent.picker();
            self.geometry.pieces().filter(|piece| picker.state(*piece) == wanted).count()
        };
        use PieceState::{Active, Elsewhere, Hashing, Missing, Writing};
        let counts = [Missing, Active, Hashing, Writing, Elsewhere].map(count);
        format!("missing, active, hashing, writing, elsewhere {counts:?} conns {}", part.conns)
    }
}

pub fn is_right(piece: PieceIndex, tokens: &[u64]) -> bool {
    tokens.iter().zip(0..).all(|(token, nth)| *token == truth(piece, nth))
}
