//! Which rows answer a range, and the values of many of them.
//!
//! A range first selects its rows by the index, which tells all of a row but its value. So a long answer
//! can be measured and begun before the values are read.
//!
//! Keys that were written one after another lie one after another in the history. So the values of a long
//! answer are read in the order of their revisions: a step to the next row costs a fraction of a lookup,
//! which is made only where the next one is not near.
//!
//! **Invariant:** a value has the length that its row tells, or the read ends in a [`Fatal`].

use std::cmp::Ordering;
use std::ops::{Bound, ControlFlow, Range};

use bytes::Bytes;

use super::copies::Copies;
use super::record::{RecordRef, corrupt};
use super::view::{StoreView, Version, no_put};
use crate::api::{RangeRequest, RangeResponse, SortOrder, SortTarget};
use crate::backend::{Table, View};
use crate::error::{Error, Fatal};
use crate::types::{KeyRange, KeyValue, LeaseId, Revision};

/// Fewer values are looked up one by one.
const WALK_MIN: usize = 8;
/// How many rows to step over rather than to look up the next one.
const STEPS_MAX: usize = 4;
/// Comparisons between two pauses of a sort.
const PAUSE_COMPARES: usize = 1024;

/// The rows of an answer, whose values may not have been read yet.
#[derive(Debug)]
pub struct Selected<'a> {
    view: &'a StoreView,
    rows: Vec<Row>,
    bytes: RowBytes,
    more: bool,
    count: i64,
}

/// The keys and values that rows refer to.
#[derive(Debug, Default)]
struct RowBytes {
    /// The key of a request for one key.
    single: Option<Bytes>,
    /// The keys of other requests, one behind the other.
    keys: Vec<u8>,
    /// The values that were read.
    values: Vec<Bytes>,
}

/// What the index tells of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SelectedRow<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The revision of the key's creation.
    pub create_revision: i64,
    /// The revision of its value.
    pub mod_revision: i64,
    /// Changes since its creation.
    pub version: i64,
    /// The lease that it is attached to, or 0.
    pub lease: LeaseId,
    /// The length of its value.
    pub value_len: usize,
}

/// A row, as small as it can be: there may be many.
#[derive(Debug)]
struct Row {
    key_start: usize,
    key_len: u32,
    value_len: Option<u32>,
    /// The place of its value among those that were read.
    value: Option<u32>,
    at: Revision,
    create_revision: i64,
    version: i64,
    lease: LeaseId,
}

/// A value that was read.
enum Value<'a> {
    /// In memory of its own.
    Own(Bytes),
    /// Where it lies.
    Lying(&'a [u8]),
}

/// The place of a row in the answer, by where its value is.
type Wanted = (Revision, usize);

/// Lengths and places in an answer: requests, and the memory for answers, are far smaller.
fn small(number: usize) -> u32 {
    u32::try_from(number).expect("an answer has less than four billion rows, and each less bytes")
}

impl RowBytes {
    fn add_value(&mut self, value: Bytes) -> u32 {
        self.values.push(value);
        small(self.values.len() - 1)
    }

    fn add_row(&mut self, key: &[u8], version: Version) -> Row {
        let key_start = self.keys.len();
        if self.single.is_none() {
            self.keys.extend_from_slice(key);
        }
        let Version { at, meta, value, value_len } = version;
        Row {
            key_start,
            key_len: small(key.len()),
            value_len,
            value: value.map(|value| self.add_value(value)),
            at,
            create_revision: meta.create_revision,
            version: meta.version,
            lease: meta.lease,
        }
    }

    fn value(&self, row: &Row) -> Option<&Bytes> {
        row.value.map(|place| &self.values[place as usize])
    }
}

impl Row {
    fn key_place(&self) -> Range<usize> {
        self.key_start..self.key_start + self.key_len as usize
    }

    fn passes(&self, request: &RangeRequest) -> bool {
        let within =
            |number: i64, min: i64, max: i64| (min == 0 || number >= min) && (max == 0 || number <= max);
        within(self.at.main, request.min_mod_revision, request.max_mod_revision)
            && within(self.create_revision, request.min_create_revision, request.max_create_revision)
    }

    fn check(&self, value: &[u8]) -> Result<(), Fatal> {
        match self.value_len {
            Some(len) if len as usize != value.len() => {
                let what = format!("the index says {len} bytes of this value, and it has {}", value.len());
                Err(corrupt(Table::History, &self.at.to_bytes(), &what))
            }
            _ => Ok(()),
        }
    }

    /// Looks the value up.
    fn read(&self, view: &StoreView) -> Result<Bytes, Fatal> {
        let value = view.value(self.at)?;
        self.check(&value)?;
        Ok(value)
    }
}

/// Whether the next value is likely to be a few rows behind this one.
fn near(at: Revision, next: &[Wanted]) -> bool {
    next.first().is_some_and(|(next, _)| next.main - at.main <= STEPS_MAX as i64)
}

impl StoreView {
    /// Selects the rows that answer a range request; `None` when more than `rows_max` index rows would
    /// have to be visited.
    ///
    /// # Errors
    /// The outer error is the environment's, the inner one the client's.
    pub fn select(
        &self,
        request: &RangeRequest,
        rows_max: Option<usize>,
    ) -> Result<Result<Option<Selected<'_>>, Error>, Fatal> {
        self.counts.range();
        if let Err(error) = self.check_revision(request.revision) {
            return Ok(Err(error));
        }
        // A transaction reads its own writes, which lie above the store's revision.
        let revision = if request.revision > 0 { request.revision } else { i64::MAX };
        let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let filtered = [
            request.min_mod_revision,
            request.max_mod_revision,
            request.min_create_revision,
            request.max_create_revision,
        ] != [0; 4];
        // etcd fetches one row more than the limit unless an *order* or a filter is given; a target
        // without an order then sorts what the limit has left (seen with 3.4.23).
        let fetched_max = if request.sort_order != SortOrder::None || filtered {
            usize::MAX
        } else {
            limit.saturating_add(1)
        };
        let range = request.range();
        let single = match &range {
            KeyRange::Single(key) => Some(key.clone()),
            _ => None,
        };
        let mut bytes = RowBytes { single, ..RowBytes::default() };
        let (mut count, mut rows) = (0_i64, Vec::new());
        let finished = self.visit(&range, revision, rows_max, |key, version| {
            count += 1;
            if !request.count_only && rows.len() < fetched_max {
                rows.push(bytes.add_row(key, version));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if !finished {
            return Ok(Ok(None));
        }
        if filtered {
            rows.retain(|row| row.passes(request));
        }
        let mut selected = Selected { view: self, rows, bytes, more: false, count };
        selected.sort(request)?;
        selected.more = selected.rows.len() > limit;
        selected.rows.truncate(limit);
        if request.keys_only {
            selected.bytes.values = vec![Bytes::new()];
            for row in &mut selected.rows {
                (row.value, row.value_len) = (Some(0), Some(0));
            }
        }
        Ok(Ok(Some(selected)))
    }
}

impl Selected<'_> {
    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Whether the limit has left out others.
    pub fn more(&self) -> bool {
        self.more
    }

    /// The keys in the range, returned or not.
    pub fn count(&self) -> i64 {
        self.count
    }

    /// A row, with the length of its value. [`Selected::measure`] comes first.
    ///
    /// # Panics
    /// There are not so many rows.
    pub fn row(&self, place: usize) -> SelectedRow<'_> {
        let row = &self.rows[place];
        SelectedRow {
            key: self.bytes.single.as_deref().unwrap_or_else(|| &self.bytes.keys[row.key_place()]),
            create_revision: row.create_revision,
            mod_revision: row.at.main,
            version: row.version,
            lease: row.lease,
            value_len: row.value_len.expect("the rows were measured") as usize,
        }
    }

    /// Sees to it that the length of each value is known: rows of an earlier format do not tell it, and
    /// then the values are read here.
    ///
    /// # Errors
    /// The backend failed or a row is corrupt.
    pub fn measure(&mut self) -> Result<(), Fatal> {
        if self.rows.iter().all(|row| row.value_len.is_some()) {
            return Ok(());
        }
        self.fetch_values()?;
        for row in &mut self.rows {
            row.value_len = self.bytes.value(row).map(|value| small(value.len()));
        }
        Ok(())
    }

    /// Shows `take` each row's place and value, in any order, until it breaks.
    ///
    /// # Errors
    /// As [`Selected::measure`].
    pub fn values(&self, mut take: impl FnMut(usize, &[u8]) -> ControlFlow<()>) -> Result<(), Fatal> {
        for (place, row) in self.rows.iter().enumerate() {
            if let Some(value) = self.bytes.value(row)
                && take(place, value).is_break()
            {
                return Ok(());
            }
        }
        read_values(self.view, &self.rows, |place, value| match value {
            Value::Own(value) => take(place, &value),
            Value::Lying(value) => take(place, value),
        })
    }

    /// The answer with all values.
    ///
    /// # Errors
    /// As [`Selected::measure`].
    pub fn response(mut self) -> Result<RangeResponse, Fatal> {
        if self.rows.len() >= WALK_MIN {
            self.fetch_values()?;
        }
        let keys = Bytes::from(std::mem::take(&mut self.bytes.keys));
        let key_value = |row: &Row| {
            Ok(KeyValue {
                key: self.bytes.single.clone().unwrap_or_else(|| keys.slice(row.key_place())),
                create_revision: row.create_revision,
                mod_revision: row.at.main,
                version: row.version,
                value: self
                    .bytes
                    .value(row)
                    .map_or_else(|| row.read(self.view), |value| Ok(value.clone()))?,
                lease: row.lease,
            })
        };
        let kvs = self.rows.iter().map(key_value).collect::<Result<_, Fatal>>()?;
        Ok(RangeResponse { kvs, more: self.more, count: self.count })
    }

    fn sort(&mut self, request: &RangeRequest) -> Result<(), Fatal> {
        let descending = request.sort_order == SortOrder::Descend;
        let number = |row: &Row| match request.sort_target {
            SortTarget::Version => row.version,
            SortTarget::Create => row.create_revision,
            SortTarget::Mod => row.at.main,
            SortTarget::Key | SortTarget::Value => 0,
        };
        let directed = |order: Ordering| if descending { order.reverse() } else { order };
        match request.sort_target {
            SortTarget::Key if descending => self.rows.reverse(),
            SortTarget::Key => {}
            SortTarget::Value => {
                self.fetch_values()?;
                let bytes = &self.bytes;
                self.rows.sort_by(|left, right| directed(bytes.value(left).cmp(&bytes.value(right))));
            }
            _ => self.rows.sort_by(|left, right| directed(number(left).cmp(&number(right)))),
        }
        Ok(())
    }

    /// Reads the values that are not there yet.
    fn fetch_values(&mut self) -> Result<(), Fatal> {
        let Self { view, rows, bytes, .. } = self;
        let (mut copies, mut read) = (Copies::default(), Vec::new());
        read_values(view, rows, |place, value| {
            let value = match value {
                Value::Own(value) => value,
                Value::Lying(value) => copies.copy(value),
            };
            read.push((place, bytes.add_value(value)));
            ControlFlow::Continue(())
        })?;
        for (place, value) in read {
            rows[place].value = Some(value);
        }
        Ok(())
    }
}

/// Reads the values that `rows` lack, in the order of their revisions.
fn read_values(
    view: &StoreView,
    rows: &[Row],
    mut take: impl FnMut(usize, Value<'_>) -> ControlFlow<()>,
) -> Result<(), Fatal> {
    let missing = rows.iter().enumerate().filter(|(_, row)| row.value.is_none());
    let mut wanted: Vec<Wanted> = missing.map(|(place, row)| (row.at, place)).collect();
    let mut compared = 0;
    wanted.sort_unstable_by(|left, right| {
        compared += 1;
        if compared % PAUSE_COMPARES == 0 {
            view.rows.pause();
        }
        left.cmp(right)
    });
    let mut flow = ControlFlow::Continue(());
    let mut rest = &wanted[..];
    while flow.is_continue()
        && let Some(((at, place), next)) = rest.split_first()
    {
        if near(*at, next) {
            rest = walk(view, rest, |place, value| {
                rows[place].check(value)?;
                flow = take(place, Value::Lying(value));
                Ok(flow)
            })?;
        } else {
            flow = take(*place, Value::Own(rows[*place].read(view)?));
            rest = next;
        }
    }
    Ok(())
}

/// Hands over the first value, and those after it that are reached by a few steps each, until `take`
/// breaks. Returns the others.
fn walk<'a>(
    view: &StoreView,
    wanted: &'a [Wanted],
    mut take: impl FnMut(usize, &[u8]) -> Result<ControlFlow<()>, Fatal>,
) -> Result<&'a [Wanted], Fatal> {
    let Some((first, _)) = wanted.first() else { return Ok(wanted) };
    let (mut rest, mut steps) = (wanted, 0);
    view.rows.scan(Table::History, Bound::Included(&first.to_bytes()), Bound::Unbounded, |key, row| {
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
        let flow = take(*place, record.value)?;
        (rest, steps) = (next, 0);
        Ok(if near(*at, next) { flow } else { ControlFlow::Break(()) })
    })?;
    if rest.len() == wanted.len() { Err(no_put(*first)) } else { Ok(rest) }
}
