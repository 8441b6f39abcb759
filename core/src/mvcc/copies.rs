//! Copies of many short byte strings that live and go together, as the values of an answer.
//!
//! An allocation for each would cost more than the copy, and its release on another thread as much again.
//! They are slices of shared blocks instead.
//!
//! **Invariant:** a copy keeps its block alive, so what outlives the answer is copied by itself.

use bytes::{Bytes, BytesMut};

/// The first block; each is twice the one before, so that a short answer takes little.
const BLOCK_MIN: usize = 256;
/// The largest size that the allocator hands out without a lock.
const BLOCK_MAX: usize = 32 << 10;
/// What is longer has memory of its own.
const SHORT_MAX: usize = BLOCK_MAX / 8;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Copies {
    /// What is left of the last block.
    free: BytesMut,
    block_bytes: usize,
}

impl Copies {
    pub(super) fn copy(&mut self, bytes: &[u8]) -> Bytes {
        if bytes.is_empty() || bytes.len() > SHORT_MAX {
            return Bytes::copy_from_slice(bytes);
        }
        if self.free.capacity() < bytes.len() {
            self.block_bytes = (self.block_bytes * 2).clamp(BLOCK_MIN, BLOCK_MAX);
            self.free = BytesMut::with_capacity(self.block_bytes.max(bytes.len()));
        }
        self.free.extend_from_slice(bytes);
        self.free.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_equal_whatever_their_lengths() {
        let mut copies = Copies::default();
        let originals: Vec<Vec<u8>> = (0..2000_usize).map(|n| vec![n as u8; n * n % 5000]).collect();
        let copied: Vec<Bytes> = originals.iter().map(|bytes| copies.copy(bytes)).collect();
        assert!(originals.iter().eq(copied.iter()));
    }
}
