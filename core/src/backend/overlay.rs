//! The overlay: what has been applied but not committed to the backend yet.
//!
//! Writes go to an *active* layer in memory. A flush freezes it, hands its rows to the backend as one
//! batch and keeps answering from the frozen layer until the commit is known; below both lies a
//! snapshot of the backend. A layer is a persistent map, so a view of all three costs three
//! reference counts, and a view never sees a later write.
//!
//! The layer that was flushed last is kept as a cache for single rows unless it is large, until the next
//! flush. Only a compaction deletes rows behind the overlay's back, and those nobody may ask for: the cache
//! can answer with one until the compaction is reported, ranges cannot.
//!
//! **Invariant:** what a read returns depends on the writes alone, never on whether or when they were
//! flushed. The overlay knows nothing of revisions or of what its rows mean.

use std::fmt;
use std::iter::Peekable;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use imbl::OrdMap;
use imbl::ordmap::RangedIter;
use imbl::shared_ptr::DefaultSharedPtr;

use super::{Backend, Batch, Row, Table, View};
use crate::error::Fatal;
use crate::planted::{self, Bug};

/// Bytes up to which a flushed layer is worth its memory as a cache.
const RECENT_BYTES_MAX: usize = 16 << 20;

/// One table's changes; `None` hides a row of the layers below.
type Changes = OrdMap<Bytes, Option<Bytes>>;
type Layer = [Changes; Table::ALL.len()];

/// An immutable view of the two layers over a snapshot of the backend.
#[derive(Clone)]
pub struct OverlayView {
    active: Arc<Layer>,
    frozen: Option<Arc<Layer>>,
    /// The layer flushed last: the base has its rows too, but reading them there is dearer.
    recent: Option<Arc<Layer>>,
    base: Arc<dyn View>,
}

impl fmt::Debug for OverlayView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = |layer: &Layer| layer.iter().map(OrdMap::len).sum::<usize>();
        f.debug_struct("OverlayView")
            .field("active", &rows(&self.active))
            .field("frozen", &self.frozen.as_deref().map(rows))
            .field("base", &self.base)
            .finish()
    }
}

/// Whether no key lies between the bounds; the engines below panic when asked for such a range.
pub(crate) fn no_keys_between(start: Bound<&[u8]>, end: Bound<&[u8]>) -> bool {
    match (start, end) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(start), Bound::Included(end)) => start > end,
        (Bound::Included(start) | Bound::Excluded(start), Bound::Included(end) | Bound::Excluded(end)) => {
            start >= end
        }
    }
}

impl OverlayView {
    /// One row's value.
    ///
    /// # Errors
    /// As [`View::get`].
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Fatal> {
        if let Some(change) = self.active[table as usize].get(key) {
            return Ok(change.clone());
        }
        if let Some(change) = self.frozen.as_ref().and_then(|layer| layer[table as usize].get(key)) {
            return Ok(change.clone());
        }
        if let Some(change) = self.recent.as_ref().and_then(|layer| layer[table as usize].get(key)) {
            return Ok(change.clone());
        }
        self.base.get(table, key)
    }

    /// Rows in ascending order of key.
    ///
    /// # Errors
    /// As [`View::range`].
    pub fn range<'a>(
        &'a self,
        table: Table,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
    ) -> Result<Rows<'a>, Fatal> {
        if no_keys_between(start, end) {
            return Ok(Rows { active: None, frozen: None, base: None });
        }
        let changes = |layer: &'a Layer| {
            let changes = &layer[table as usize];
            (!changes.is_empty()).then(|| changes.range::<_, [u8]>((start, end)).peekable())
        };
        Ok(Rows {
            active: changes(&self.active),
            frozen: self.frozen.as_deref().and_then(changes),
            base: Some(self.base.range(table, start, end)?.peekable()),
        })
    }
}

impl View for OverlayView {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Fatal> {
        self.get(table, key)
    }

    fn range<'a>(
        &'a self,
        table: Table,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
    ) -> Result<Box<dyn Iterator<Item = Row> + 'a>, Fatal> {
        Ok(Box::new(self.range(table, start, end)?))
    }
}

type LayerRows<'a> = Peekable<RangedIter<'a, Bytes, Option<Bytes>, DefaultSharedPtr>>;

/// The rows of a range, merged from the three levels; the uppermost level that has a key decides.
pub struct Rows<'a> {
    active: Option<LayerRows<'a>>,
    frozen: Option<LayerRows<'a>>,
    base: Option<Peekable<Box<dyn Iterator<Item = Row> + 'a>>>,
}

/// The key at the head of a layer; an exhausted layer is dropped, so that later calls are cheap.
fn head<'a>(layer: &mut Option<LayerRows<'a>>) -> Option<&'a Bytes> {
    let key = layer.as_mut()?.peek().map(|(key, _)| *key);
    if key.is_none() {
        *layer = None;
    }
    key
}

impl Iterator for Rows<'_> {
    type Item = Row;

    fn next(&mut self) -> Option<Row> {
        loop {
            let (active, frozen) = (head(&mut self.active), head(&mut self.frozen));
            let upper = match (active, frozen) {
                (None, None) => return self.base.as_mut()?.next(),
                (Some(active), Some(frozen)) => active.min(frozen),
                (Some(key), None) | (None, Some(key)) => key,
            };
            if let Some(base) = &mut self.base {
                match base.peek() {
                    Some(Ok((key, _))) if key > upper => {}
                    Some(Ok((key, _))) if key == upper => drop(base.next()),
                    Some(_) => return base.next(),
                    None => self.base = None,
                }
            }
            let mut change = None;
            if frozen == Some(upper) {
                change = self.frozen.as_mut().and_then(Iterator::next);
            }
            if active == Some(upper) {
                change = self.active.as_mut().and_then(Iterator::next);
            }
            if let Some((key, Some(value))) = change {
                return Some(Ok((key.clone(), value.clone())));
            }
        }
    }
}

/// How much waits to be flushed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// Rows of the active layer.
    pub entries: usize,
    /// Their keys and values.
    pub bytes: usize,
    /// Whether a frozen layer is on its way to the backend.
    pub flushing: bool,
}

/// A frozen layer on its way to the backend. To gather its rows and to free those of the layer before
/// takes milliseconds, which belong to whoever writes them and not to whoever runs the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flush {
    frozen: Arc<Layer>,
    /// The layer flushed before: nobody may need it any more, and then it is freed with this.
    spent: Option<Arc<Layer>>,
}

impl Flush {
    /// The rows.
    pub fn into_batch(self) -> Batch {
        let mut changes = Vec::with_capacity(self.rows());
        for table in Table::ALL {
            let rows = self.frozen[table as usize].iter();
            changes.extend(rows.map(|(key, value)| (table, key.clone(), value.clone())));
        }
        if planted::on(Bug::AppliedAheadOfData) {
            let newest = changes.iter().rposition(|(table, ..)| *table == Table::Index);
            newest.map(|at| changes.remove(at));
        }
        Batch { changes }
    }

    /// How many they are.
    pub fn rows(&self) -> usize {
        self.frozen.iter().map(OrdMap::len).sum()
    }
}

/// The writer's side of the overlay.
#[derive(Debug)]
pub struct Overlay {
    view: OverlayView,
    entries: usize,
    bytes: usize,
    frozen_bytes: usize,
}

impl Overlay {
    /// An empty overlay over the backend's last commit.
    ///
    /// # Errors
    /// The backend has no readable view.
    pub fn new(backend: &dyn Backend) -> Result<Self, Fatal> {
        let view = OverlayView { active: Arc::default(), frozen: None, recent: None, base: backend.view()? };
        Ok(Self { view, entries: 0, bytes: 0, frozen_bytes: 0 })
    }

    /// The present state; clone it to keep it.
    pub fn view(&self) -> &OverlayView {
        &self.view
    }

    /// Writes a row, or deletes it with `None`.
    pub fn set(&mut self, table: Table, key: Bytes, value: Option<Bytes>) {
        let length = |value: &Option<Bytes>| value.as_ref().map_or(0, Bytes::len);
        let (key_len, value_len) = (key.len(), length(&value));
        match Arc::make_mut(&mut self.view.active)[table as usize].insert(key, value) {
            Some(old) => self.bytes = self.bytes + value_len - length(&old),
            None => {
                self.entries += 1;
                self.bytes += key_len + value_len;
            }
        }
    }

    /// What waits to be flushed.
    pub fn pending(&self) -> Pending {
        Pending { entries: self.entries, bytes: self.bytes, flushing: self.view.frozen.is_some() }
    }

    /// Freezes the active layer, for the backend to write; `None` while an earlier flush is under way or
    /// when there is nothing to write.
    pub fn take_flush(&mut self) -> Option<Flush> {
        if self.view.frozen.is_some() || self.entries == 0 {
            return None;
        }
        let frozen = std::mem::take(&mut self.view.active);
        self.view.frozen = Some(frozen.clone());
        self.frozen_bytes = self.bytes;
        (self.entries, self.bytes) = (0, 0);
        Some(Flush { frozen, spent: self.view.recent.take() })
    }

    /// The backend has committed the frozen layer: reads go to its new snapshot instead.
    ///
    /// # Errors
    /// The backend has no readable view.
    pub fn flushed(&mut self, backend: &dyn Backend) -> Result<(), Fatal> {
        assert!(self.view.frozen.is_some(), "a flush was reported that nobody started");
        self.view.base = backend.view()?;
        let frozen = self.view.frozen.take();
        self.view.recent = frozen.filter(|_| self.frozen_bytes <= RECENT_BYTES_MAX);
        Ok(())
    }

    /// Reads go to the backend's last commit from now on (after a compaction or defragmentation).
    ///
    /// # Errors
    /// The backend has no readable view.
    pub fn refresh(&mut self, backend: &dyn Backend) -> Result<(), Fatal> {
        self.view.base = backend.view()?;
        self.view.recent = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::mem::MemBackend;
    use crate::rng::Rng;
    use std::collections::BTreeMap;

    fn key(number: u64) -> Bytes {
        Bytes::from(format!("{number:02}"))
    }

    fn rows(view: &OverlayView, start: Bound<&[u8]>, end: Bound<&[u8]>) -> Vec<(Bytes, Bytes)> {
        view.range(Table::Index, start, end).unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn answers_do_not_depend_on_flushes() {
        for seed in 0..200 {
            let mut rng = Rng::new(seed);
            let backend = MemBackend::new();
            let mut overlay = Overlay::new(&backend).unwrap();
            let mut model = BTreeMap::new();
            let mut in_flight: Option<Batch> = None;
            let mut kept = Vec::new();
            for step in 0..300 {
                match rng.below(20) {
                    0 => in_flight = overlay.take_flush().map(Flush::into_batch).or(in_flight),
                    1 => {
                        if let Some(batch) = in_flight.take() {
                            backend.commit(&batch).unwrap();
                            overlay.flushed(&backend).unwrap();
                        }
                    }
                    2 => {
                        kept.truncate(3);
                        kept.push((overlay.view().clone(), model.clone()));
                    }
                    3..8 => {
                        let gone = key(rng.below(30));
                        model.remove(&gone);
                        overlay.set(Table::Index, gone, None);
                    }
                    _ => {
                        let (key, value) = (key(rng.below(30)), Bytes::from(format!("{step}")));
                        model.insert(key.clone(), value.clone());
                        overlay.set(Table::Index, key, Some(value));
                    }
                }
                let probe = key(rng.below(30));
                assert_eq!(overlay.view().get(Table::Index, &probe).unwrap(), model.get(&probe).cloned());
                let (from, to) = (key(rng.below(30)), key(rng.below(30)));
                let expected: Vec<_> = model
                    .iter()
                    .filter(|(key, _)| **key >= from && **key < to)
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect();
                let (start, end) = (Bound::Included(from.as_ref()), Bound::Excluded(to.as_ref()));
                assert_eq!(rows(overlay.view(), start, end), expected, "seed {seed} step {step}");
            }
            kept.push((overlay.view().clone(), model));
            for (view, model) in kept {
                assert_eq!(
                    rows(&view, Bound::Unbounded, Bound::Unbounded),
                    model.into_iter().collect::<Vec<_>>()
                );
            }
        }
    }

    #[test]
    fn pending_counts_what_a_flush_would_write() {
        let backend = MemBackend::new();
        let mut overlay = Overlay::new(&backend).unwrap();
        assert_eq!(overlay.take_flush(), None);
        overlay.set(Table::Meta, key(1), Some(Bytes::from_static(b"long")));
        overlay.set(Table::Meta, key(1), Some(Bytes::from_static(b"x")));
        overlay.set(Table::Meta, key(2), None);
        assert_eq!(overlay.pending(), Pending { entries: 2, bytes: 5, flushing: false });
        assert_eq!(overlay.take_flush().unwrap().into_batch().changes.len(), 2);
        overlay.set(Table::Meta, key(3), None);
        assert_eq!(overlay.pending(), Pending { entries: 1, bytes: 2, flushing: true });
        assert_eq!(overlay.take_flush(), None);
    }
}
