//! The network between members: latency for each link and message, bandwidth, loss, duplication, and
//! links that are cut, clogged, half open or reset. Reordering follows from the latencies.
//!
//! **Invariant:** a message arrives whole and unchanged or not at all, as over TCP with its checksums.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use cairn_core::node::Input;
use cairn_core::rng::Rng;
use cairn_core::types::MemberId;

use crate::cluster::Cluster;
use crate::coverage::Point;
use crate::options::{MS, SECOND};
use crate::queue::Event;

/// Messages that a clogged or throttled link holds; more are lost.
const HELD_MAX: usize = 500;
/// Of what waits for a throttled link, the messages that the kernel sends although the sender has ended.
const KERNEL_MAX: usize = 4;

type Link = (MemberId, MemberId);

/// What is wrong with a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// It carries nothing, and the sender may notice.
    Cut,
    /// It carries nothing, and the sender notices nothing.
    HalfOpen,
    /// It holds what it is given until the fault ends.
    Clog,
    /// It carries everything, and all of it once more when the fault ends.
    Echo,
    /// It carries so many bytes a second.
    Throttle(u64),
}

/// The state of the links.
#[derive(Debug)]
pub struct Network {
    /// Directed links with the faults on them.
    troubles: BTreeSet<(Link, u64, Trouble)>,
    held: BTreeMap<u64, Vec<(Link, Bytes)>>,
    /// Connections that were reset: messages of an earlier epoch are lost.
    epochs: BTreeMap<Link, u64>,
    /// What waits at the sender of a throttled link, in order; and the latest arrival on each link so far.
    backlog: BTreeMap<Link, VecDeque<Bytes>>,
    latest: BTreeMap<Link, u64>,
    pub(crate) rng: Rng,
}

impl Network {
    /// A network without faults.
    pub fn new(seed: u64) -> Self {
        Self {
            troubles: BTreeSet::new(),
            held: BTreeMap::new(),
            epochs: BTreeMap::new(),
            backlog: BTreeMap::new(),
            latest: BTreeMap::new(),
            rng: Rng::derive(seed, &[0x0e7]),
        }
    }

    fn on(&self, from: MemberId, to: MemberId) -> impl Iterator<Item = (u64, Trouble)> + '_ {
        let link = (from, to);
        let range = (link, 0, Trouble::Cut)..=(link, u64::MAX, Trouble::Throttle(u64::MAX));
        self.troubles.range(range).map(|(_, fault, trouble)| (*fault, *trouble))
    }

    /// How many bytes a second a link carries; `None` for as many as it likes.
    fn bandwidth(&self, from: MemberId, to: MemberId) -> Option<u64> {
        self.on(from, to).find_map(|(_, trouble)| match trouble {
            Trouble::Throttle(bandwidth) => Some(bandwidth),
            _ => None,
        })
    }

    /// Whether a message would get through in time.
    pub fn open(&self, from: MemberId, to: MemberId) -> bool {
        self.on(from, to).all(|(_, trouble)| matches!(trouble, Trouble::Echo | Trouble::Throttle(_)))
    }

    /// Something is wrong with one direction.
    pub fn trouble(&mut self, from: MemberId, to: MemberId, fault: u64, trouble: Trouble) {
        self.troubles.insert(((from, to), fault, trouble));
    }

    /// Keeps a message until a fault ends; false when there is no room for it.
    fn hold(&mut self, fault: u64, link: Link, message: Bytes) -> bool {
        let held = self.held.entry(fault).or_default();
        let room = held.len() < HELD_MAX;
        if room {
            held.push((link, message));
        }
        room
    }

    /// Ends one fault; what it held.
    fn heal(&mut self, fault: u64) -> Vec<(Link, Bytes)> {
        self.troubles.retain(|(_, by, _)| *by != fault);
        self.held.remove(&fault).unwrap_or_default()
    }

    fn epoch(&self, from: MemberId, to: MemberId) -> u64 {
        self.epochs.get(&(from, to)).copied().unwrap_or(0)
    }
}

impl Cluster {
    pub(crate) fn send(&mut self, from: MemberId, to: MemberId, message: Bytes) {
        self.trace.note(&[3, from, to]);
        self.trace.bytes(&message);
        self.stats.messages += 1;
        let troubles: Vec<(u64, Trouble)> = self.network.on(from, to).collect();
        let has = |wanted: Trouble| troubles.iter().any(|(_, trouble)| *trouble == wanted);
        let cut = has(Trouble::Cut) || !self.members.contains_key(&to);
        let silent = !cut && has(Trouble::HalfOpen);
        let lost = self.chaotic && self.network.rng.chance(self.options.loss, 1000);
        let told = self.network.rng.chance(1, 2);
        self.tell_sender(from, to, cut, !silent && lost && told, told);
        if cut || silent {
            return self.coverage.hit(Point::MessageCut);
        }
        if lost {
            return self.coverage.hit(Point::MessageLost);
        }
        let holds = |wanted: Trouble| troubles.iter().find(|(_, trouble)| *trouble == wanted);
        if let Some((fault, _)) = holds(Trouble::Clog) {
            if self.network.hold(*fault, (from, to), message) {
                self.coverage.hit(Point::MessageClogged);
            }
            return;
        }
        if let Some((fault, _)) = holds(Trouble::Echo)
            && self.network.hold(*fault, (from, to), message.clone())
        {
            self.coverage.hit(Point::MessageDuplicated);
        }
        if self.network.bandwidth(from, to).is_none() {
            return self.carry(from, to, &message);
        }
        let backlog = self.network.backlog.entry((from, to)).or_default();
        if backlog.len() < HELD_MAX {
            backlog.push_back(message);
            self.coverage.hit(Point::MessageThrottled);
        }
        if self.network.backlog[&(from, to)].len() == 1 {
            self.pace(from, to);
        }
    }

    /// Carries the first message of a backlog when the link has had the time for it.
    fn pace(&mut self, from: MemberId, to: MemberId) {
        let first = self.network.backlog.get(&(from, to)).and_then(VecDeque::front);
        let (Some(first), Some(bandwidth)) = (first, self.network.bandwidth(from, to)) else { return };
        let takes = first.len() as u64 * SECOND / bandwidth.max(1);
        self.schedule(takes, Event::Drip { from, to });
    }

    /// A throttled link has had the time for a message.
    pub(crate) fn drip(&mut self, from: MemberId, to: MemberId) {
        let first = self.network.backlog.get_mut(&(from, to)).and_then(VecDeque::pop_front);
        if let Some(message) = first {
            self.carry(from, to, &message);
            self.pace(from, to);
        }
    }

    /// What a process that ended had not handed to its kernel is never sent.
    pub(crate) fn forget_backlog(&mut self, from: MemberId) {
        for ((sender, _), backlog) in &mut self.network.backlog {
            if *sender == from {
                backlog.truncate(KERNEL_MAX);
            }
        }
    }

    /// What the sender's transport notices of a message that is lost, or of one that is not.
    fn tell_sender(&mut self, from: MemberId, to: MemberId, cut: bool, lost: bool, told: bool) {
        let Some(process) = self.members.get_mut(&from).and_then(|member| member.process.as_mut()) else {
            return;
        };
        let boot = process.boot;
        if cut || lost {
            if process.connected.remove(&to) || told {
                // A transport may be wrong about the end of a process.
                let input = match self.network.rng.chance(1, 8) {
                    true => Input::PeerLost { peer: to },
                    false => Input::PeerUnreachable { peer: to },
                };
                self.feed_later(from, boot, input);
            }
        } else if process.connected.insert(to) {
            self.feed_later(from, boot, Input::PeerConnected { peer: to });
        }
    }

    fn carry(&mut self, from: MemberId, to: MemberId, message: &Bytes) {
        let copies = 1 + u64::from(self.chaotic && self.network.rng.chance(self.options.duplicate, 1000));
        let usual = self.options.network.max;
        // Each link has a latency of its own, besides that of each message.
        let own =
            if self.options.far_links && (from ^ to).count_ones().is_multiple_of(3) { 3 * usual } else { 0 };
        for copy in 0..copies {
            let drawn = self.options.network.draw(&mut self.network.rng);
            self.coverage.add(Point::MessageSlow, u64::from(drawn > usual));
            let mut at = self.now + own + drawn;
            if copy > 0 {
                self.coverage.hit(Point::MessageDuplicated);
                if self.network.rng.chance(1, 3) {
                    at += self.network.rng.below(5 * SECOND);
                }
            }
            let latest = self.network.latest.entry((from, to)).or_default();
            if at < *latest {
                self.coverage.hit(Point::MessageReordered);
            }
            *latest = (*latest).max(at);
            let epoch = self.network.epoch(from, to);
            let event = Event::Deliver { from, to, epoch, message: message.clone() };
            self.schedule(at - self.now, event);
        }
    }

    /// A message has arrived.
    pub(crate) fn deliver(&mut self, from: MemberId, to: MemberId, epoch: u64, message: Bytes) {
        let boot = self.members.get(&to).and_then(|member| member.process.as_ref()).map(|p| p.boot);
        if epoch < self.network.epoch(from, to) {
            return self.coverage.hit(Point::MessageCut);
        }
        if let Some(boot) = boot {
            self.feed(to, boot, Input::Peer { from, message });
        }
    }

    /// A fault of the network ends; what a clogged or throttled link held arrives in a burst.
    pub(crate) fn heal(&mut self, fault: u64) {
        for ((from, to), message) in self.network.heal(fault) {
            let epoch = self.network.epoch(from, to);
            let delay = self.network.rng.below(MS);
            self.schedule(delay, Event::Deliver { from, to, epoch, message });
        }
        let network = &self.network;
        let free = |link: &&Link| network.bandwidth(link.0, link.1).is_none();
        for link in network.backlog.keys().filter(free).copied().collect::<Vec<_>>() {
            let messages = self.network.backlog.remove(&link).unwrap_or_default();
            messages.iter().for_each(|message| self.carry(link.0, link.1, message));
        }
    }

    /// Every fault of the network ends.
    pub(crate) fn heal_all(&mut self) {
        let faults: BTreeSet<u64> = self.network.troubles.iter().map(|(_, fault, _)| *fault).collect();
        for fault in faults.into_iter().chain(self.network.held.keys().copied().collect::<Vec<_>>()) {
            self.heal(fault);
        }
    }

    /// The connections of two members break: what was on its way is lost, and both notice.
    pub(crate) fn reset(&mut self, one: MemberId, other: MemberId) {
        for (from, to) in [(one, other), (other, one)] {
            *self.network.epochs.entry((from, to)).or_default() += 1;
            self.network.backlog.remove(&(from, to));
            let Some(process) = self.members.get_mut(&from).and_then(|member| member.process.as_mut()) else {
                continue;
            };
            let boot = process.boot;
            if process.connected.remove(&to) {
                self.feed_later(from, boot, Input::PeerUnreachable { peer: to });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;
    use crate::runtime::Runtime;

    /// Sim seeds 630 and 948: heartbeats of a leader that had ended long ago came in one by one over a link
    /// that had been throttled, and nobody campaigned.
    #[test]
    fn a_throttled_link_forgets_who_has_ended_and_lets_go_when_it_heals() {
        Runtime::run(1, |runtime| {
            let mut cluster = Cluster::new(Options::steady(1, 1, 1), runtime);
            let ids: Vec<MemberId> = cluster.members.keys().copied().collect();
            let (from, to) = (ids[0], ids[1]);
            cluster.network.trouble(from, to, 1, Trouble::Throttle(1000));
            for _ in 0..10 {
                cluster.send(from, to, vec![0; 1000].into());
            }
            let waiting =
                |cluster: &Cluster| cluster.network.backlog.get(&(from, to)).map_or(0, VecDeque::len);
            assert_eq!(waiting(&cluster), 10);
            cluster.crash(from);
            assert_eq!(waiting(&cluster), KERNEL_MAX);
            cluster.heal(1);
            assert_eq!(waiting(&cluster), 0);
            assert!(cluster.network.latest[&(from, to)] < SECOND, "it arrives as over any other link");
        });
    }
}
