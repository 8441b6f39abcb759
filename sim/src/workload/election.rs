//! etcd's election, as its clients build it: candidates claim a key as for a lock, and the leader
//! proclaims for as long as it leads.

use cairn_core::api::Request;

use super::Draw;
use super::lock::Claim;
use super::script::{Record, Script, Told};

/// Proclamations of one leader before it resigns.
const PROCLAMATIONS: u64 = 8;

/// A candidate.
#[derive(Clone, Debug, Default)]
pub struct Election(Claim);

impl Script for Election {
    fn next(&mut self, draw: &mut Draw<'_>) -> Request {
        self.0.next("election", draw)
    }

    fn told(&mut self, told: Told<'_>, record: &mut Record) {
        self.0.told(told, PROCLAMATIONS, &mut record.election);
    }
}
