//! The overlay: what has been applied but not committed to the backend yet.
//!
//! Writes go to an *active* layer in memory. A flush freezes it, hands its rows to the backend as one
//! batch and keeps answering from the frozen layer until the commit is known; below both lies a
//! snapshot of the backend. A layer is a persistent map, so a view of all three costs three
//! reference counts, and a view never sees a later write.
//!
//! The layer that was flushed last is kept as a cache for single rows unless it is large, until the next
//! flush; and for scans of a table that grows at its end, if they begin where that layer does or later. Only a
//! compaction deletes rows behind the overlay's back, and those nobody may ask for: the cache can answer with
//! one until the compaction is reported, ranges cannot.
//!
//! **Invariant:** what a read returns depends on the writes alone, never on whether or when they were
//! flushed. The overlay knows nothing of revisions or of what its rows mean.

use std::fmt;
use std::iter::Peekable;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use bytes::Bytes;
use imbl::OrdMap;
use imbl::ordmap::RangedIter;
use imbl::shared_ptr::DefaultSharedPtr;

use super::{Backend, Batch, Row, Table, View, Visit};
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
            return Ok(Rows { changes: Merged::default(), base: None });
        }
        let base = Some(self.base.range(table, start, end)?.peekable());
        Ok(Rows { changes: self.changes(table, start, end), base })
    }

    /// Shows `visit` the rows of [`OverlayView::range`] where they lie, and perhaps, as
    /// [`OverlayView::get`] would find them, rows that a compaction is removing.
    ///
    /// # Errors
    /// As [`View::scan`].
    pub fn scan(
        &self,
        table: Table,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, Fatal>,
    ) -> Result<(), Fatal> {
        if no_keys_between(start, end) {
            return Ok(());
        }
        let mut changes = self.changes(table, start, end);
        let mut flow = ControlFlow::Continue(());
        let mut below = |key: &[u8], value: &[u8]| {
            while let Some(changed) = changes.key()
                && changed < key
                && flow.is_continue()
            {
                flow = changes.show(&mut visit)?;
            }
            if flow.is_continue() {
                let changed = changes.key().is_some_and(|changed| changed == key);
                flow = if changed { changes.show(&mut visit)? } else { visit(key, value)? };
            }
            Ok(flow)
        };
        match self.recent_from(table, start) {
            Some(recent) => {
                for (key, value) in recent.range::<_, [u8]>((start, end)) {
                    if let Some(value) = value
                        && below(key, value)?.is_break()
                    {
                        break;
                    }
                }
            }
            None => self.base.scan(table, start, end, &mut below)?,
        }
        while flow.is_continue() && changes.key().is_some() {
            flow = changes.show(&mut visit)?;
        }
        Ok(())
    }

    /// The recent layer, if no other row that was flushed lies at or after `start`.
    fn recent_from(&self, table: Table, start: Bound<&[u8]>) -> Option<&Changes> {
        let recent = self.recent.as_deref().filter(|_| table.grows_at_its_end())?;
        let (Bound::Included(start) | Bound::Excluded(start)) = start else { return None };
        let changes = &recent[table as usize];
        changes.get_min().filter(|(first, _)| first.as_ref() <= start).map(|_| changes)
    }

    /// The changes of both layers; there is a key between the bounds.
    fn changes<'a>(&'a self, table: Table, start: Bound<&[u8]>, end: Bound<&[u8]>) -> Merged<'a> {
        let changes = |layer: &'a Layer| {
            let changes = &layer[table as usize];
            (!changes.is_empty()).then(|| changes.range::<_, [u8]>((start, end)).peekable())
        };
        Merged { active: changes(&self.active), frozen: self.frozen.as_deref().and_then(changes) }
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

    fn scan(
        &self,
        table: Table,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), Fatal> {
        self.scan(table, start, end, visit)
    }

    fn pause(&self) {
        self.base.pause();
    }
}

type LayerRows<'a> = Peekable<RangedIter<'a, Bytes, Option<Bytes>, DefaultSharedPtr>>;

/// The changes of a range, merged from the two layers; the upper one decides.
#[derive(Default)]
struct Merged<'a> {
    active: Option<LayerRows<'a>>,
    frozen: Option<LayerRows<'a>>,
}

/// The key at the head of a layer; an exhausted layer is dropped, so that later calls are cheap.
fn head<'a>(layer: &mut Option<LayerRows<'a>>) -> Option<&'a Bytes> {
    let key = layer.as_mut()?.peek().map(|(key, _)| *key);
    if key.is_none() {
        *layer = None;
    }
    key
}

impl<'a> Merged<'a> {
    /// The next change's key.
    fn key(&mut self) -> Option<&'a Bytes> {
        match (head(&mut self.active), head(&mut self.frozen)) {
            (Some(active), Some(frozen)) => Some(active.min(frozen)),
            (key, None) | (None, key) => key,
        }
    }

    /// The next change.
    fn next(&mut self) -> Option<(&'a Bytes, &'a Option<Bytes>)> {
        let key = self.key()?;
        let mut change = None;
        if head(&mut self.frozen) == Some(key) {
            change = self.frozen.as_mut().and_then(Iterator::next);
        }
        if head(&mut self.active) == Some(key) {
            change = self.active.as_mut().and_then(Iterator::next);
        }
        change
    }

    /// Shows the next change's row, unless that was deleted.
    fn show(
        &mut self,
        visit: &mut impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, Fatal>,
    ) -> Result<ControlFlow<()>, Fatal> {
        match self.next() {
            Some((key, Some(value))) => visit(key, value),
            _ => Ok(ControlFlow::Continue(())),
        }
    }
}

/// The rows of a range, merged from the changes and what lies below them; a change decides.
pub struct Rows<'a> {
    changes: Merged<'a>,
    base: Option<Peekable<Box<dyn Iterator<Item = Row> + 'a>>>,
}

impl Iterator for Rows<'_> {
    type Item = Row;

    fn next(&mut self) -> Option<Row> {
        loop {
            let Some(upper) = self.changes.key() else { return self.base.as_mut()?.next() };
            if let Some(base) = &mut self.base {
                match base.peek() {
                    Some(Ok((key, _))) if key > upper => {}
                    Some(Ok((key, _))) if key == upper => drop(base.next()),
                    Some(_) => return base.next(),
                    None => self.base = None,
                }
            }
            if let Some((key, Some(value))) = self.changes.next() {
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
        let rows: Vec<_> = view.range(Table::Index, start, end).unwrap().map(Result::unwrap).collect();
        // A scan shows the same, up to wherever it is stopped.
        for shown_max in [1, 3, usize::MAX] {
            let mut shown = Vec::new();
            let visit = |key: &[u8], value: &[u8]| {
                shown.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
                Ok(if shown.len() < shown_max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
            };
            view.scan(Table::Index, start, end, visit).unwrap();
            assert_eq!(shown, rows[..rows.len().min(shown_max)]);
        }
        rows
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
    fn scans_of_the_history_do_not_depend_on_flushes() {
        let backend = MemBackend::new();
        let mut overlay = Overlay::new(&backend).unwrap();
        let mut model = Vec::new();
        for step in 0..60 {
            let (key, value) = (key(step), Bytes::from(format!("{step}")));
            overlay.set(Table::History, key.clone(), Some(value.clone()));
            model.push((key, value));
            // From no layer to all three.
            match step {
                9 | 29 | 49 => {
                    backend.commit(&overlay.take_flush().unwrap().into_batch()).unwrap();
                    overlay.flushed(&backend).unwrap();
                }
                54 => drop(overlay.take_flush().unwrap()),
                _ => {}
            }
            for (from, (start, _)) in model.iter().enumerate() {
                let mut shown = Vec::new();
                let visit = |key: &[u8], value: &[u8]| {
                    shown.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
                    Ok(ControlFlow::Continue(()))
                };
                overlay.view().scan(Table::History, Bound::Included(start), Bound::Unbounded, visit).unwrap();
                assert_eq!(shown, model[from..], "step {step} from {from}");
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
