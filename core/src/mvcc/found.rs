//! The rows of an answer, and the values of many of them.
//!
//! Keys that were written one after another lie one after another in the history. So the values of a long
//! answer are read in the order of their revisions: a step to the next row costs a fraction of a lookup,
//! which is made only where the next one is not near.

use std::ops::{Bound, ControlFlow};

use bytes::Bytes;

use super::copies::Copies;
use super::record::RecordRef;
use super::view::{StoreView, Version, no_put};
use crate::backend::{Table, View};
use crate::error::Fatal;
use crate::types::{KeyValue, Revision};

/// Fewer values are looked up one by one.
const WALK_MIN: usize = 8;
/// How many rows to step over rather than to look up the next one.
const STEPS_MAX: usize = 4;
/// Comparisons between two pauses of a sort.
const PAUSE_COMPARES: usize = 1024;

/// A row of an answer.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) kv: KeyValue,
    /// Where the value is, until it is fetched.
    value_at: Option<Revision>,
}

/// The place of a row in the answer, by where its value is.
type Wanted = (Revision, usize);

impl Found {
    pub(super) fn new(key: Bytes, version: Version) -> Self {
        let Version { at, meta, value } = version;
        let value_at = value.is_none().then_some(at);
        let kv = KeyValue {
            key,
            create_revision: meta.create_revision,
            mod_revision: at.main,
            version: meta.version,
            value: value.unwrap_or_default(),
            lease: meta.lease,
        };
        Self { kv, value_at }
    }
}

/// Whether the next value is likely to be a few rows behind this one.
fn near(at: Revision, next: &[Wanted]) -> bool {
    next.first().is_some_and(|(next, _)| next.main - at.main <= STEPS_MAX as i64)
}

impl StoreView {
    /// Fetches the values that are not there yet.
    pub(super) fn fetch_values(&self, found: &mut [Found], copies: &mut Copies) -> Result<(), Fatal> {
        if found.len() < WALK_MIN {
            for Found { kv, value_at } in found {
                if let Some(at) = value_at.take() {
                    kv.value = self.value(at)?;
                }
            }
            return Ok(());
        }
        let wanted = found.iter_mut().enumerate();
        let mut wanted: Vec<Wanted> =
            wanted.filter_map(|(place, found)| Some((found.value_at.take()?, place))).collect();
        let mut compared = 0;
        wanted.sort_unstable_by(|left, right| {
            compared += 1;
            if compared % PAUSE_COMPARES == 0 {
                self.rows.pause();
            }
            left.cmp(right)
        });
        let mut rest = &wanted[..];
        while let Some(((at, place), next)) = rest.split_first() {
            if near(*at, next) {
                rest = self.walk(rest, |place, value| found[place].kv.value = copies.copy(value))?;
            } else {
                found[*place].kv.value = self.value(*at)?;
                rest = next;
            }
        }
        Ok(())
    }

    /// Hands over the first value, and those after it that are reached by a few steps each. Returns the
    /// others.
    fn walk<'a>(
        &self,
        wanted: &'a [Wanted],
        mut take: impl FnMut(usize, &[u8]),
    ) -> Result<&'a [Wanted], Fatal> {
        let Some((first, _)) = wanted.first() else { return Ok(wanted) };
        let (mut rest, mut steps) = (wanted, 0);
        self.rows.scan(
            Table::History,
            Bound::Included(&first.to_bytes()),
            Bound::Unbounded,
            |key, row| {
                let Some(((at, place), next)) = rest.split_first() else { return Ok(ControlFlow::Break(())) };
                if key != at.to_bytes() {
                    steps += 1;
                    let on = steps <= STEPS_MAX && rest.len() < wanted.len();
                    return Ok(if on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) });
                }
                let record = RecordRef::decode(key, row)?;
                if record.meta.tombstone {
                    return Err(no_put(*at));
                }
                take(*place, record.value);
                (rest, steps) = (next, 0);
                Ok(if near(*at, next) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
            },
        )?;
        if rest.len() == wanted.len() { Err(no_put(*first)) } else { Ok(rest) }
    }
}
