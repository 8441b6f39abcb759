//! What must hold after every drain. A violation is a bug and stops the process.

use super::Node;

impl Node {
    /// Checks the watermarks; cheap enough to run always.
    ///
    /// # Panics
    /// When an invariant does not hold.
    pub fn invariants(&self) {
        if self.failed {
            return;
        }
        let log = &self.raw.raft.raft_log;
        assert!(
            self.flush.flushed() <= self.applied,
            "flushed {} is beyond applied {}",
            self.flush.flushed(),
            self.applied
        );
        if self.snapshots.installing.is_none() {
            assert!(
                self.applied <= log.committed,
                "applied {} is beyond committed {}",
                self.applied,
                log.committed
            );
        }
        assert!(
            log.committed <= log.last_index(),
            "committed {} is beyond the last entry {}",
            log.committed,
            log.last_index()
        );
        assert!(self.append.durable <= self.append.emitted, "an append was durable before it was emitted");
        assert!(
            self.store.compact_revision() <= self.store.revision(),
            "compacted {} is beyond revision {}",
            self.store.compact_revision(),
            self.store.revision()
        );
    }
}
