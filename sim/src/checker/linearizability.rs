//! Strict serializability by revisions: the committed log is the order, an answered write has its
//! place in it, and a read names the revision that it saw. So each answer is checked on its own: it
//! is what the model says at that place, and the place is not before anything that a client had been
//! told when it asked.

use std::collections::BTreeMap;

use cairn_core::api::{RangeRequest, Request, ResponseBody};
use cairn_core::command::CommandId;
use cairn_core::error::Error;

use crate::history::{Answer, Op, is_unknown};
use crate::model::Model;

/// What clients have been told.
#[derive(Debug, Default)]
pub struct Linearizability {
    /// The newest revision.
    pub floor: i64,
    /// The newest acknowledged compaction.
    pub compact_floor: i64,
    /// Commands that were certainly refused, with the error: they must never be applied.
    refused: BTreeMap<CommandId, Error>,
    /// Answers that were checked against the model.
    pub checked: u64,
}

impl Linearizability {
    /// A command was committed.
    ///
    /// # Errors
    /// Its client was told that it was refused.
    pub fn committed(&self, id: CommandId) -> Result<(), String> {
        match self.refused.get(&id) {
            Some(error) => Err(format!("{id:?} was refused with {error:?} and is in the log")),
            None => Ok(()),
        }
    }

    /// An answer came.
    ///
    /// # Errors
    /// It does not follow from the log.
    pub fn answered(&mut self, op: &Op, answer: &Answer, model: &Model) -> Result<(), String> {
        self.check(op, answer, model)
            .map_err(|what| format!("{what}\n  asked: {op:?}\n  answered: {answer:?}"))?;
        if let Ok(response) = answer {
            let stale = match &op.request {
                Request::Range(range) => range.serializable,
                Request::Put(_) | Request::DeleteRange(_) | Request::Txn(_) => false,
                Request::LeaseRevoke { .. } | Request::LeaseGrant { .. } => false,
                Request::Compact { revision, .. } => {
                    self.compact_floor = self.compact_floor.max(*revision);
                    true
                }
                _ => true,
            };
            if !stale {
                self.floor = self.floor.max(response.header.revision);
            }
        }
        Ok(())
    }

    fn check(&mut self, op: &Op, answer: &Answer, model: &Model) -> Result<(), String> {
        match &op.request {
            Request::Range(range) => self.range(op, range, answer, model),
            Request::Txn(txn) if cairn_core::mvcc::is_read_only(txn) => {
                let Ok(response) = answer else { return Ok(()) };
                let revision = response.header.revision;
                // etcd serves a transaction without operations locally.
                if !cairn_core::mvcc::is_serializable(txn) {
                    self.recent(op, revision)?;
                }
                self.checked += 1;
                if txn.compare.is_empty() {
                    same(&response.body, &ResponseBody::Txn(model.read_txn(txn, revision)))?;
                }
                Ok(())
            }
            Request::Put(_)
            | Request::DeleteRange(_)
            | Request::Txn(_)
            | Request::LeaseGrant { .. }
            | Request::LeaseRevoke { .. }
            | Request::Compact { .. } => self.write(op, answer, model),
            _ => Ok(()),
        }
    }

    fn recent(&self, op: &Op, revision: i64) -> Result<(), String> {
        if revision < op.floor {
            return Err(format!("stale: answered at revision {revision}, {} was known before", op.floor));
        }
        Ok(())
    }

    fn range(&mut self, op: &Op, range: &RangeRequest, answer: &Answer, model: &Model) -> Result<(), String> {
        match answer {
            Ok(response) => {
                let revision = response.header.revision;
                if revision > model.revision {
                    return Err(format!(
                        "revision {revision} does not exist, the last is {}",
                        model.revision
                    ));
                }
                if !range.serializable {
                    self.recent(op, revision)?;
                    if range.revision > 0 && range.revision < op.compact_floor {
                        return Err(format!("read below the compaction to {}", op.compact_floor));
                    }
                }
                if range.revision > revision {
                    return Err("read in the future".to_owned());
                }
                let at = if range.revision > 0 { range.revision } else { revision };
                self.checked += 1;
                same(&response.body, &ResponseBody::Range(model.range(range, at)))
            }
            Err(Error::Compacted) if range.revision <= 0 || range.revision >= model.compact => {
                Err(format!("not compacted: the compaction is at {}", model.compact))
            }
            Err(Error::FutureRevision) if range.revision <= op.floor && !range.serializable => {
                Err(format!("not in the future: {} was known", op.floor))
            }
            Err(_) => Ok(()),
        }
    }

    fn write(&mut self, op: &Op, answer: &Answer, model: &Model) -> Result<(), String> {
        let id = CommandId { origin: op.member, boot: op.boot, seq: op.id };
        match (answer, model.results.get(&id)) {
            (Err(error), None) => {
                if !is_unknown(error) {
                    self.refused.insert(id, error.clone());
                }
                Ok(())
            }
            (Ok(_), None) => Err("acknowledged, but not in the committed log".to_owned()),
            (Err(error), Some(_)) if is_unknown(error) => Ok(()),
            (answer, Some(applied)) => {
                self.checked += 1;
                let expected = applied.result.as_ref().ok_or("the model has no answer")?;
                match (answer, expected) {
                    (Ok(response), Ok(expected)) => {
                        same(&response.body, expected)?;
                        let physical = matches!(op.request, Request::Compact { physical: true, .. });
                        if response.header.revision != applied.revision && !physical {
                            return Err(format!(
                                "the header says revision {}, it was {}",
                                response.header.revision, applied.revision
                            ));
                        }
                        self.recent(op, response.header.revision)
                    }
                    (Err(error), Err(expected)) if error == expected => Ok(()),
                    (_, expected) => Err(format!("the model says {expected:?}")),
                }
            }
        }
    }
}

fn same(found: &ResponseBody, expected: &ResponseBody) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("the model says {expected:?}")) }
}
