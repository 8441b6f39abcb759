//! What is sent on watch streams: one message stands for the responses to all watchers that are told
//! the same, and its events are shared with the messages of other streams.
//!
//! Invariant: nothing here depends on whether an encoding is cached.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::types::Event;

/// The events of a response. Clones share them, and what whoever sends them made of them.
#[derive(Clone, Default)]
pub struct WatchEvents(Option<Arc<Shared>>);

struct Shared {
    events: Vec<Event>,
    encoded: OnceLock<Bytes>,
}

impl WatchEvents {
    /// The events in the form of the wire; `encode` runs at most once for all clones, and is always
    /// the same function.
    pub fn encoded(&self, encode: impl FnOnce(&[Event]) -> Bytes) -> Bytes {
        match &self.0 {
            Some(shared) => shared.encoded.get_or_init(|| encode(&shared.events)).clone(),
            None => Bytes::new(),
        }
    }
}

impl From<Vec<Event>> for WatchEvents {
    fn from(events: Vec<Event>) -> Self {
        if events.is_empty() {
            return Self::default();
        }
        Self(Some(Arc::new(Shared { events, encoded: OnceLock::new() })))
    }
}

impl Deref for WatchEvents {
    type Target = [Event];
    fn deref(&self) -> &[Event] {
        self.0.as_ref().map_or(&[], |shared| &shared.events)
    }
}

impl<'a> IntoIterator for &'a WatchEvents {
    type Item = &'a Event;
    type IntoIter = std::slice::Iter<'a, Event>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl PartialEq for WatchEvents {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for WatchEvents {}

impl std::fmt::Debug for WatchEvents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (**self).fmt(f)
    }
}

/// One message of a watch stream. `revision` goes into its header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct WatchResponse {
    pub revision: i64,
    pub watch_id: i64,
    pub created: bool,
    pub canceled: bool,
    pub compact_revision: i64,
    pub cancel_reason: String,
    pub fragment: bool,
    pub events: WatchEvents,
}

/// The same response to each of some watchers of a stream, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchBatch {
    /// The watchers; at least one.
    pub watch_ids: Arc<[i64]>,
    /// The response to the first.
    pub response: WatchResponse,
}

impl WatchBatch {
    /// The responses one by one.
    pub fn responses(&self) -> impl Iterator<Item = WatchResponse> {
        self.watch_ids.iter().map(|&watch_id| WatchResponse { watch_id, ..self.response.clone() })
    }
}

impl From<WatchResponse> for WatchBatch {
    fn from(response: WatchResponse) -> Self {
        Self { watch_ids: Arc::new([response.watch_id]), response }
    }
}
