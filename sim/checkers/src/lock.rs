//! Locks by their fencing tokens (the revision of the lock's key), not by mutual exclusion: a holder
//! that was paused may still believe that it holds, so what counts is that tokens are unique, grow with
//! each grant, and that the protected resource never accepts an older token after a newer one
//! (Jepsen: etcd 3.4.3; etcd #11456).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::history::Violation;

/// The rule's name.
pub const RULE: &str = "lock fencing";

/// What happened to a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Asked for at the first time, granted with a token at the second.
    Granted {
        /// When it was asked for.
        call: u64,
    },
    /// The protected resource accepted a write with the token.
    Accepted,
    /// The holder gave it back, or its lease was seen to end.
    Released,
}

/// One thing that happened, in the order of the times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct LockEvent {
    pub at: u64,
    pub client: u64,
    pub token: i64,
    pub step: Step,
}

/// Checks one lock's events.
///
/// # Errors
/// A token was granted twice or out of order, was granted while the lock was certainly not free, or was
/// accepted after a newer one.
pub fn check(events: &[LockEvent]) -> Result<(), Violation> {
    let fail = |what: String| Err(Violation::new(RULE, what, &[]));
    let mut holders: BTreeMap<i64, u64> = BTreeMap::new();
    let mut granted: Vec<(u64, i64)> = Vec::new();
    let mut newest_accepted = 0;
    for event in events {
        match event.step {
            Step::Granted { call } => {
                if let Some(other) = holders.insert(event.token, event.client) {
                    return fail(format!(
                        "token {} was granted to {other} and to {}",
                        event.token, event.client
                    ));
                }
                // A grant that had been made before this one was asked for has an older token.
                let older = granted.iter().filter(|(at, _)| *at < call).map(|(_, token)| *token).max();
                if older.is_some_and(|older| older > event.token) {
                    return fail(format!("token {} was granted after {older:?}", event.token));
                }
                granted.push((event.at, event.token));
            }
            Step::Accepted => {
                if holders.get(&event.token) != Some(&event.client) {
                    return fail(format!("{} used token {}, which it never had", event.client, event.token));
                }
                if event.token < newest_accepted {
                    return fail(format!("token {} was accepted after {newest_accepted}", event.token));
                }
                newest_accepted = event.token;
            }
            Step::Released => {
                if !holders.contains_key(&event.token) {
                    return fail(format!("token {} was released and never granted", event.token));
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(at: u64, client: u64, token: i64, step: Step) -> LockEvent {
        LockEvent { at, client, token, step }
    }

    fn granted(at: u64, client: u64, token: i64) -> LockEvent {
        event(at, client, token, Step::Granted { call: at - 1 })
    }

    fn complaint(events: &[LockEvent]) -> String {
        check(events).unwrap_err().what
    }

    #[test]
    fn a_paused_holder_is_no_contradiction_until_its_token_is_accepted() {
        let (first, second) = (granted(1, 1, 5), granted(4, 2, 7));
        let good = [first, event(2, 1, 5, Step::Accepted), second, event(6, 2, 7, Step::Accepted)];
        check(&good).unwrap();
        let late = event(8, 1, 5, Step::Accepted);
        assert!(complaint(&[good.as_slice(), &[late]].concat()).contains("accepted after 7"));
    }

    #[test]
    fn tokens_are_unique_and_grow() {
        assert!(complaint(&[granted(1, 1, 5), granted(4, 2, 5)]).contains("granted to 1 and to 2"));
        assert!(complaint(&[granted(1, 1, 7), granted(4, 2, 5)]).contains("was granted after"));
        let together = [granted(3, 1, 7), event(4, 2, 5, Step::Granted { call: 1 })];
        check(&together).unwrap();
    }

    #[test]
    fn tokens_have_owners() {
        assert!(complaint(&[granted(1, 1, 5), event(2, 2, 5, Step::Accepted)]).contains("never had"));
        assert!(complaint(&[event(2, 2, 5, Step::Released)]).contains("never granted"));
    }
}
