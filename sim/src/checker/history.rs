//! The whole history at the end of a run, judged from outside: by what clients were told and the list of
//! changes, without a look into any member. Where this and the checks after each step disagree, one of
//! them is wrong.

use cairn_checkers::{
    Operation, Replay, Violation, append, durability, hash, lock, monotone, register, revision_order,
    serializable,
};

use crate::workload::script::Record;

/// Steps of the search for a linearization of one key.
const SEARCH_STEPS: u64 = 50_000;

/// Judges a history; `search` also looks for a linearization of each key.
///
/// # Errors
/// The first contradiction.
pub fn check(ops: &[Operation], replay: &Replay, search: bool) -> Result<(), Violation> {
    let effects = durability::effects(ops, replay)?;
    revision_order::check(ops, &effects, replay)?;
    serializable::check(ops, replay)?;
    monotone::check(ops)?;
    hash::check(ops)?;
    if search {
        register::check(ops, SEARCH_STEPS)?;
    }
    Ok(())
}

/// Judges what clients with a script did.
///
/// # Errors
/// The first contradiction.
pub fn check_scripts(record: &Record) -> Result<(), Violation> {
    append::check(&record.appends)?;
    lock::check(&record.lock.in_order())?;
    lock::check(&record.election.in_order())
}

#[cfg(test)]
mod tests {
    use cairn_checkers::append::Step as Appended;
    use cairn_checkers::lock::Step;

    use super::*;
    use crate::cluster::Cluster;
    use crate::options::Options;
    use crate::runtime::Runtime;

    /// What scripts did in a run without faults.
    fn scripts(seed: u64) -> Record {
        Runtime::run(seed, |runtime| {
            let options = Options { scripts: true, clients: 16, ..Options::steady(seed, 20, 50) };
            let mut cluster = Cluster::new(options, runtime);
            cluster.run();
            assert_eq!(cluster.violation, None);
            cluster.scripts
        })
    }

    #[test]
    fn what_scripts_did_reaches_the_checkers_and_a_change_of_it_is_a_contradiction() {
        let (mut swapped, mut late) = (0, 0);
        for seed in 1..4 {
            let record = scripts(seed);
            check_scripts(&record).unwrap();

            // A list that was read in another order than anybody else read it.
            let mut broken = record.clone();
            let lists = broken.appends.iter_mut().flat_map(|txn| txn.steps.iter_mut());
            let list = lists.filter_map(|step| match step {
                Appended::Read { list, .. } if list.len() > 4 => Some(list),
                _ => None,
            });
            if let Some(list) = list.last() {
                list.swap(0, 1);
                assert!(check_scripts(&broken).unwrap_err().to_string().contains("incompatible order"));
                swapped += 1;
            }

            // A write that was accepted after that of a later holder.
            for claims in [&record.lock, &record.election] {
                let mut events = claims.in_order();
                let accepted = events.iter().position(|event| event.step == Step::Accepted);
                let newest = events.last().map(|event| event.token);
                if let Some(at) = accepted.filter(|at| newest.is_some_and(|token| token > events[*at].token))
                {
                    let event = events.remove(at);
                    events.push(event);
                    assert!(lock::check(&events).unwrap_err().to_string().contains("was accepted after"));
                    late += 1;
                }
            }
        }
        assert!(swapped >= 2 && late >= 2, "{swapped} {late}: the scripts did too little");
    }
}
