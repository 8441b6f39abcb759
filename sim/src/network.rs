//! The network between members: latency for each message, loss, duplication, and links that are cut
//! in one direction or both. Reordering follows from the latencies.

use std::collections::BTreeSet;

use cairn_core::node::Input;
use cairn_core::rng::Rng;
use cairn_core::types::MemberId;

use crate::cluster::{Cluster, Event};

/// The state of the links.
#[derive(Debug)]
pub struct Network {
    /// Directed links that carry nothing, each with the fault that cut it.
    cut: BTreeSet<(MemberId, MemberId, u64)>,
    pub(crate) rng: Rng,
}

impl Network {
    /// A network without faults.
    pub fn new(seed: u64) -> Self {
        Self { cut: BTreeSet::new(), rng: Rng::derive(seed, &[0x0e7]) }
    }

    /// Whether a message would get through.
    pub fn open(&self, from: MemberId, to: MemberId) -> bool {
        self.cut.range((from, to, 0)..=(from, to, u64::MAX)).next().is_none()
    }

    /// Cuts one direction.
    pub fn cut(&mut self, from: MemberId, to: MemberId, fault: u64) {
        self.cut.insert((from, to, fault));
    }

    /// Ends one fault.
    pub fn heal(&mut self, fault: u64) {
        self.cut.retain(|(_, _, by)| *by != fault);
    }

    /// Ends all faults.
    pub fn heal_all(&mut self) {
        self.cut.clear();
    }
}

impl Cluster {
    pub(crate) fn send(&mut self, from: MemberId, to: MemberId, message: bytes::Bytes) {
        self.trace.note(&[3, from, to]);
        self.trace.bytes(&message);
        self.stats.messages += 1;
        let open = self.network.open(from, to) && self.members.contains_key(&to);
        let lost = self.chaotic && self.network.rng.chance(self.options.loss, 1000);
        let told = self.network.rng.chance(1, 2);
        if let Some(process) = self.members.get_mut(&from).and_then(|member| member.process.as_mut()) {
            let boot = process.boot;
            let connected = process.connected.contains(&to);
            if !open || (lost && told) {
                if process.connected.remove(&to) || told {
                    // A transport may be wrong about the end of a process.
                    let input = match self.network.rng.chance(1, 8) {
                        true => Input::PeerLost { peer: to },
                        false => Input::PeerUnreachable { peer: to },
                    };
                    self.feed_later(from, boot, input);
                }
            } else if !connected {
                process.connected.insert(to);
                self.feed_later(from, boot, Input::PeerConnected { peer: to });
            }
        }
        if !open || lost {
            return;
        }
        let copies = 1 + u64::from(self.chaotic && self.network.rng.chance(self.options.duplicate, 1000));
        for copy in 0..copies {
            let mut delay = self.options.network.draw(&mut self.network.rng);
            if copy > 0 && self.network.rng.chance(1, 3) {
                delay += self.network.rng.below(5 * crate::options::SECOND);
            }
            self.schedule(delay, Event::Deliver { from, to, message: message.clone() });
        }
    }
}
