//! Transactions: compares, the branch they choose, and its operations in order.
//!
//! All compares, also those of nested transactions, are decided on the state before the transaction.
//! The chosen branches make a [`Plan`]; the plan is checked as a whole, and only then executed.
//!
//! **Invariant:** nothing is written before every operation of the plan is known to succeed (etcd
//! PR18799), and reads are executed on every member alike (etcd #18667).

use std::cmp::Ordering;
use std::ops::ControlFlow;

use bytes::Bytes;

use super::store::{Outcome, Store, Writing};
use super::view::{Ranged, StoreView};
use crate::api::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, PutRequest, RangeRequest, RangeResponse,
    RequestOp, ResponseBody, ResponseOp, TxnRequest, TxnResponse,
};
use crate::error::{Error, Fatal};
use crate::planted::{self, Bug};
use crate::types::{KeyRange, KeyValue, LeaseId};

/// A transaction whose branches are chosen.
struct Plan<'a> {
    succeeded: bool,
    steps: Vec<Step<'a>>,
}

enum Step<'a> {
    Range(&'a RangeRequest),
    Put(&'a PutRequest),
    DeleteRange(&'a DeleteRangeRequest),
    Txn(Plan<'a>),
}

impl Plan<'_> {
    fn operations(&self) -> usize {
        let operations = |step: &Step<'_>| if let Step::Txn(plan) = step { plan.operations() } else { 1 };
        self.steps.iter().map(operations).sum()
    }
}

fn compare_key(compare: &Compare, kv: &KeyValue) -> bool {
    let order = match &compare.target {
        CompareTarget::Version(version) => kv.version.cmp(version),
        CompareTarget::Create(revision) => kv.create_revision.cmp(revision),
        CompareTarget::Mod(revision) => kv.mod_revision.cmp(revision),
        CompareTarget::Value(value) => kv.value.cmp(value),
        CompareTarget::Lease(lease) => kv.lease.cmp(lease),
    };
    match compare.result {
        CompareResult::Equal => order == Ordering::Equal,
        CompareResult::NotEqual => order != Ordering::Equal,
        CompareResult::Greater => order == Ordering::Greater,
        CompareResult::Less => order == Ordering::Less,
    }
}

impl StoreView {
    /// Whether every key of the compare's range satisfies it. A range without keys counts as one
    /// missing key, whose numbers are 0 and whose value compares as false, whatever the relation.
    fn holds(&self, compare: &Compare) -> Result<bool, Fatal> {
        let by_value = matches!(compare.target, CompareTarget::Value(_));
        let range = KeyRange::new(compare.key.clone(), compare.range_end.clone());
        let (mut any, mut all) = (false, true);
        self.counts.range();
        self.visit(&range, i64::MAX, None, |_, version| {
            any = true;
            let kv = KeyValue {
                key: Bytes::new(),
                create_revision: version.meta.create_revision,
                mod_revision: version.at.main,
                version: version.meta.version,
                value: if by_value { self.value(version.at)? } else { Bytes::new() },
                lease: version.meta.lease,
            };
            all = compare_key(compare, &kv);
            Ok(if all { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        Ok(if any { all } else { !by_value && compare_key(compare, &KeyValue::default()) })
    }

    fn plan<'a>(&self, request: &'a TxnRequest) -> Result<Plan<'a>, Fatal> {
        let mut succeeded = true;
        for compare in &request.compare {
            if !self.holds(compare)? {
                succeeded = false;
                break;
            }
        }
        let branch = if succeeded { &request.success } else { &request.failure };
        let step = |op: &'a RequestOp| {
            Ok(match op {
                RequestOp::Range(request) => Step::Range(request),
                RequestOp::Put(request) => Step::Put(request),
                RequestOp::DeleteRange(request) => Step::DeleteRange(request),
                RequestOp::Txn(request) => Step::Txn(self.plan(request)?),
            })
        };
        Ok(Plan { succeeded, steps: branch.iter().map(step).collect::<Result<_, Fatal>>()? })
    }

    /// Checks the puts in order. `deleted` gathers the deletions that come before: a put that keeps
    /// the value or lease of a key finds none to keep after one of these.
    fn check_puts(
        &self,
        plan: &Plan<'_>,
        deleted: &mut Vec<KeyRange>,
        lease_exists: &dyn Fn(LeaseId) -> bool,
    ) -> Result<Result<(), Error>, Fatal> {
        for step in &plan.steps {
            let checked = match step {
                Step::Put(put) => {
                    let needs_key = put.ignore_value || put.ignore_lease;
                    if needs_key
                        && (deleted.iter().any(|range| range.contains(&put.key))
                            || self.index(&put.key)?.is_none_or(|row| row.meta.tombstone))
                    {
                        Err(Error::KeyNotFound)
                    } else if put.lease != 0 && !lease_exists(put.lease) {
                        Err(Error::LeaseNotFound)
                    } else {
                        Ok(())
                    }
                }
                Step::Txn(plan) => self.check_puts(plan, deleted, lease_exists)?,
                Step::DeleteRange(request) => {
                    deleted.push(request.range());
                    Ok(())
                }
                Step::Range(_) => Ok(()),
            };
            if checked.is_err() {
                return Ok(checked);
            }
        }
        Ok(Ok(()))
    }

    fn check_ranges(&self, plan: &Plan<'_>) -> Result<(), Error> {
        plan.steps.iter().try_for_each(|step| match step {
            // Alone, a negative revision means now; in a transaction etcd takes it as it is.
            Step::Range(range) if range.revision < self.compact_revision.min(0) => Err(Error::Compacted),
            Step::Range(range) => self.check_revision(range.revision),
            Step::Txn(plan) => self.check_ranges(plan),
            Step::Put(_) | Step::DeleteRange(_) => Ok(()),
        })
    }

    fn planned_range(&self, request: &RangeRequest) -> Result<RangeResponse, Fatal> {
        match self.range(request, None)? {
            Ok(Ranged::Done(response)) => Ok(response),
            Ok(Ranged::TooLong) => unreachable!("a range without a bound is never too long"),
            Err(error) => unreachable!("the range was checked with its plan: {error}"),
        }
    }

    /// Answers a transaction that [`super::is_read_only`].
    ///
    /// # Errors
    /// The outer error is the environment's, the inner one the client's.
    pub fn txn(&self, request: &TxnRequest) -> Result<Result<TxnResponse, Error>, Fatal> {
        let plan = self.plan(request)?;
        if let Err(error) = self.check_ranges(&plan) {
            return Ok(Err(error));
        }
        self.counts.txn(plan.operations());
        self.read(&plan).map(Ok)
    }

    fn read(&self, plan: &Plan<'_>) -> Result<TxnResponse, Fatal> {
        let step = |step: &Step<'_>| {
            Ok(match step {
                Step::Range(request) => ResponseOp::Range(self.planned_range(request)?),
                Step::Txn(plan) => ResponseOp::Txn(self.read(plan)?),
                Step::Put(_) | Step::DeleteRange(_) => panic!("a view was asked to write"),
            })
        };
        let responses = plan.steps.iter().map(step).collect::<Result<_, Fatal>>()?;
        Ok(TxnResponse { revision: self.revision(), succeeded: plan.succeeded, responses })
    }
}

impl Store {
    /// Applies a transaction.
    ///
    /// # Errors
    /// The backend failed or a row is corrupt; the client's errors are in the outcome.
    pub fn txn(
        &mut self,
        request: &TxnRequest,
        lease_exists: &dyn Fn(LeaseId) -> bool,
    ) -> Result<Outcome, Fatal> {
        let before = self.view();
        let plan = before.plan(request)?;
        let mut checked = before.check_puts(&plan, &mut Vec::new(), lease_exists)?;
        if checked.is_ok() {
            checked = before.check_ranges(&plan);
        }
        if let Err(error) = checked {
            if planted::on(Bug::TxnInPart)
                && let Some(Step::Put(put)) = plan.steps.first()
                && put.lease == 0
            {
                let changes = self.put(put, lease_exists)?.changes;
                return Ok(Outcome { result: Err(error), changes });
            }
            return Ok(Outcome::failed(error));
        }
        // The view goes before the writes: while it lives, each would copy what it shares.
        drop(before);
        self.reads.txn(plan.operations());
        let mut writing = self.writing();
        let mut response = self.execute(&plan, &mut writing)?;
        let revision = self.revision() + i64::from(!writing.changes.is_empty());
        set_revision(&mut response, revision);
        Ok(self.finish(writing, ResponseBody::Txn(response)))
    }

    fn execute(&mut self, plan: &Plan<'_>, writing: &mut Writing) -> Result<TxnResponse, Fatal> {
        let mut responses = Vec::with_capacity(plan.steps.len());
        for step in &plan.steps {
            responses.push(match step {
                Step::Range(request) => ResponseOp::Range(self.view().planned_range(request)?),
                Step::Put(request) => {
                    let row = self.index(&request.key)?;
                    ResponseOp::Put(self.write_put(request, row, writing)?)
                }
                Step::DeleteRange(request) => {
                    ResponseOp::DeleteRange(self.write_delete_range(request, writing)?)
                }
                Step::Txn(plan) => ResponseOp::Txn(self.execute(plan, writing)?),
            });
        }
        Ok(TxnResponse { revision: 0, succeeded: plan.succeeded, responses })
    }
}

/// The revision after the transaction is known only when its last operation is done.
fn set_revision(response: &mut TxnResponse, revision: i64) {
    response.revision = revision;
    for response in &mut response.responses {
        if let ResponseOp::Txn(nested) = response {
            set_revision(nested, revision);
        }
    }
}
