//! What a run did, as a hash and, when asked for, as lines to read.
//!
//! **Invariant:** everything that a run does passes here in order, so two runs of a seed with equal
//! hashes did the same. Printing never changes the hash.

use crate::recording::{Recorded, Recording};

/// The hash (FNV-1a) and the printer.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    verbose: bool,
    steps: u64,
    recording: Option<Recording>,
}

impl Trace {
    /// A trace that prints its lines if `verbose`, and keeps them if there is a recording.
    pub fn new(verbose: bool, recording: Option<Recording>) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, verbose, steps: 0, recording }
    }

    /// The hash of everything so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How many things happened.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Notes one thing by numbers that identify it.
    pub fn note(&mut self, what: &[u64]) {
        self.steps += 1;
        for word in what {
            self.hash = (self.hash ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
        }
    }

    /// Notes bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.hash =
                (self.hash ^ u64::from_le_bytes(word)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
        }
    }

    /// Prints a line with the time if anybody reads.
    pub fn line(&self, now: u64, text: impl FnOnce() -> String) {
        if self.verbose || self.recording.is_some() {
            let line = format!("{:>12.6} {}", now as f64 / 1e9, text());
            if self.verbose {
                println!("{line}");
            }
            self.record(|recorded| {
                recorded.now = now;
                recorded.lines.push(line);
            });
        }
    }

    /// Adds to the recording if there is one. Like a line, it never changes the hash.
    pub fn record(&self, body: impl FnOnce(&mut Recorded)) {
        if let Some(recording) = &self.recording {
            recording.with(body);
        }
    }
}
