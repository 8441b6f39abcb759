//! What connects us with each peer, to tell the end of its process from a message that was lost.
//!
//! A process that ends takes every connection with it at once, and its port refuses new ones. Anything
//! less, such as one direction that broke or a connection that could be made again, is no such sign.
//!
//! Invariant: a peer is called lost at most once between two connections to it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use cairn_core::types::MemberId;
use tokio::sync::Notify;

/// Our connection to a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Ours {
    /// There was none since the last loss.
    #[default]
    None,
    Open,
    /// It broke, and there was no attempt at another yet.
    Broken,
    /// It broke, and another could not be made.
    Refused,
}

#[derive(Debug, Default)]
struct Contact {
    ours: Ours,
    /// Streams that the peer opened to us.
    theirs: u32,
    /// Tells who waits to dial the peer that it is there.
    came: Arc<Notify>,
}

/// All peers.
#[derive(Debug, Default)]
pub(super) struct Contacts(Mutex<BTreeMap<MemberId, Contact>>);

impl Contacts {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<MemberId, Contact>> {
        self.0.lock().expect("no code panics while it holds the contacts")
    }

    /// Our connection stands.
    pub(super) fn opened(&self, id: MemberId) {
        self.lock().entry(id).or_default().ours = Ours::Open;
    }

    /// Our connection broke.
    pub(super) fn broke(&self, id: MemberId) {
        let mut peers = self.lock();
        let contact = peers.entry(id).or_default();
        if contact.ours == Ours::Open {
            contact.ours = Ours::Broken;
        }
    }

    /// An attempt to connect failed; true when the peer is lost with that.
    pub(super) fn refused(&self, id: MemberId) -> bool {
        let mut peers = self.lock();
        let contact = peers.entry(id).or_default();
        if contact.ours == Ours::Broken {
            contact.ours = Ours::Refused;
        }
        contact.lost()
    }

    /// The peer opened a stream to us.
    pub(super) fn accepted(&self, id: MemberId) {
        let mut peers = self.lock();
        let contact = peers.entry(id).or_default();
        contact.theirs += 1;
        contact.came.notify_one();
    }

    /// What is notified when the peer opens a stream to us.
    pub(super) fn came(&self, id: MemberId) -> Arc<Notify> {
        self.lock().entry(id).or_default().came.clone()
    }

    /// A stream of the peer's ended; true when the peer is lost with that.
    pub(super) fn ended(&self, id: MemberId) -> bool {
        let mut peers = self.lock();
        let contact = peers.entry(id).or_default();
        contact.theirs = contact.theirs.saturating_sub(1);
        contact.lost()
    }
}

impl Contact {
    fn lost(&mut self) -> bool {
        let lost = self.ours == Ours::Refused && self.theirs == 0;
        if lost {
            self.ours = Ours::None;
        }
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_lost_once_and_only_with_everything() {
        let contacts = Contacts::default();
        assert!(!contacts.refused(1), "it was never connected");
        contacts.opened(1);
        contacts.accepted(1);
        contacts.accepted(1);
        contacts.broke(1);
        assert!(!contacts.refused(1), "its streams to us are open");
        assert!(!contacts.ended(1));
        assert!(contacts.ended(1));
        assert!(!contacts.refused(1), "it is known");

        contacts.opened(1);
        contacts.broke(1);
        contacts.opened(1);
        assert!(!contacts.refused(1), "it could be reached again");
        contacts.accepted(1);
        assert!(!contacts.ended(1), "we are still connected to it");
        contacts.broke(1);
        assert!(contacts.refused(1));
    }
}
