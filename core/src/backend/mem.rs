//! A backend that lives in memory, for tests and for simulations that do not exercise the engine.
//!
//! **Invariant:** it keeps the contract of [`Backend`] to the letter: a batch is visible wholly or not
//! at all, and a view never changes. It survives nothing but the loss of its handle's owner.

use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use imbl::OrdMap;

use super::overlay::no_keys_between;
use super::{Backend, Batch, Row, Size, Table, View};
use crate::error::Fatal;

#[derive(Clone, Debug, Default)]
struct State {
    tables: [OrdMap<Bytes, Bytes>; Table::ALL.len()],
    bytes: u64,
}

/// The backend; clones share one state.
#[derive(Clone, Debug, Default)]
pub struct MemBackend {
    state: Arc<RwLock<Arc<State>>>,
}

impl MemBackend {
    /// An empty backend.
    pub fn new() -> Self {
        Self::default()
    }

    /// Goes on with another's state, as when a received snapshot is installed.
    pub fn replace(&self, other: MemBackend) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = other.state();
    }

    fn state(&self) -> Arc<State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Backend for MemBackend {
    fn view(&self) -> Result<Arc<dyn View>, Fatal> {
        Ok(self.state())
    }

    fn commit(&self, batch: &Batch) -> Result<(), Fatal> {
        let mut state = State::clone(&self.state());
        for (table, key, value) in &batch.changes {
            let rows = &mut state.tables[*table as usize];
            let old = match value {
                Some(value) => rows.insert(key.clone(), value.clone()),
                None => rows.remove(key),
            };
            let length = |value: &Option<Bytes>| value.as_ref().map_or(0, |v| key.len() + v.len()) as u64;
            state.bytes = state.bytes + length(value) - length(&old);
        }
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(state);
        Ok(())
    }

    fn size(&self) -> Size {
        let bytes = self.state().bytes;
        Size { total: bytes, in_use: bytes }
    }
}

impl View for State {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Fatal> {
        Ok(self.tables[table as usize].get(key).cloned())
    }

    fn range<'a>(
        &'a self,
        table: Table,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
    ) -> Result<Box<dyn Iterator<Item = Row> + 'a>, Fatal> {
        if no_keys_between(start, end) {
            return Ok(Box::new(std::iter::empty()));
        }
        let rows = self.tables[table as usize].range::<_, [u8]>((start, end));
        Ok(Box::new(rows.map(|(key, value)| Ok((key.clone(), value.clone())))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_are_snapshots_and_sizes_follow() {
        let backend = MemBackend::new();
        let row = |value: Option<&'static [u8]>| Batch {
            changes: vec![(Table::Meta, Bytes::from_static(b"k"), value.map(Bytes::from_static))],
        };
        backend.commit(&row(Some(b"one"))).unwrap();
        let before = backend.view().unwrap();
        assert_eq!(backend.size().total, 4);
        backend.commit(&row(None)).unwrap();
        assert_eq!(before.get(Table::Meta, b"k").unwrap().as_deref(), Some(&b"one"[..]));
        assert_eq!(backend.view().unwrap().get(Table::Meta, b"k").unwrap(), None);
        assert_eq!(backend.size().total, 0);
    }
}
