//! The operator who changes the membership, one step after another: adds a learner, starts it,
//! promotes it, removes a member.

use cairn_core::api::Request;
use cairn_core::rng::Rng;

/// What the operator does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Asks this.
    Ask(Request),
    /// Nothing now.
    Wait,
}

/// Draws a step from the member lists that the cluster has now.
pub fn step(rng: &mut Rng, voters: &[u64], learners: &[u64], number: u64, wanted: usize) -> Step {
    let any = |rng: &mut Rng, ids: &[u64]| ids[rng.below(ids.len() as u64) as usize];
    if !learners.is_empty() {
        return Step::Ask(match rng.below(8) {
            0 => Request::MemberRemove { id: any(rng, learners) },
            _ => Request::MemberPromote { id: any(rng, learners) },
        });
    }
    if voters.len() > wanted || (voters.len() > 2 && rng.chance(1, 4)) {
        return Step::Ask(Request::MemberRemove { id: any(rng, voters) });
    }
    if voters.len() <= wanted && rng.chance(1, 2) {
        let peer_urls = vec![format!("http://10.0.0.{}:{}", 1 + number % 250, 3000 + number)];
        let is_learner = !rng.chance(1, 6);
        return Step::Ask(Request::MemberAdd { peer_urls, is_learner, unix_seconds: number });
    }
    Step::Wait
}
