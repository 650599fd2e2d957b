//! What is due: steps of nodes, and what arrives over links.

use super::*;

impl World {
    pub(super) fn take(&mut self, what: What) {
        match what {
            What::Arrive { link, end, packet } => self.arrive(link, end, packet),
            What::Reset { link, end } => {
                let Some(the_link) = &self.links[link] else { return };
                let node = the_link.ends[end].node;
                if the_link.ends[end].open {
                    self.close(link, end, true);
                    self.pump(node);
                }
            }
            What::Release { link, end, block } => {
                let Some(the_link) = &mut self.links[link] else { return };
                let this = &mut the_link.ends[end];
                let Some(place) = this.releases.iter().position(|held| *held == block) else { return };
                this.releases.remove(place);
                let (at, Whose::Part(part, key)) = (this.node, this.whose) else { return };
                self.nodes[at].parts[part].torrent.released(key, block);
                self.pump(at);
            }
            What::Node { node, epoch, what } => {
                if self.nodes[node].epoch == epoch && self.nodes[node].online {
                    self.happen(node, what);
                }
            }
        }
    }

    pub(super) fn arrive(&mut self, link: usize, end: usize, packet: Packet) {
        let Some(the_link) = &mut self.links[link] else { return };
        let latency = the_link.latency;
        let this = &mut the_link.ends[end];
        if let Packet::Block(block, _) = &packet {
            this.in_flight -= block.len as usize;
        }
        let (at, open) = (this.node, this.open);
        let other = &the_link.ends[1 - end];
        let sender = (other.node, other.whose, other.open);
        if !open {
            // A host that is up says that it knows of no such connection; one that is down says nothing.
            if self.nodes[at].online {
                self.at(self.now + latency, What::Reset { link, end: 1 - end });
            }
            return;
        }
        if let Err(fault) = self.receive(link, end, packet) {
            let ip = self.links[link].as_ref().expect("seen just now").ends[end].addr.ip();
            self.nodes[at].faults.push((ip, fault));
            self.close(link, end, true);
        }
        self.pump(at);
        // The sender has room for more.
        if let (node, Whose::Part(part, key), true) = sender
            && self.links[link].as_ref().is_some_and(|link| link.ends[1 - end].open)
        {
            self.wants_to_send(node, part, key);
            self.send_blocks(node);
        }
    }
}
