//! The guarantees of a watch (etcd's nine): ordered, unique, reliable, atomic, filtered, bookmarkable,
//! resumable, with the right previous versions and creations. Every response is compared with the
//! changes that the model has for the watcher's range after what it has been sent.

use cairn_core::api::{WatchCreateRequest, WatchFilter, WatchResponse};
use cairn_core::types::{Event, EventKind, KeyRange};

use crate::model::Model;

/// One watcher as its client sees it, over any number of streams.
#[derive(Clone, Debug)]
pub struct WatchState {
    /// What was asked for the last time.
    pub request: WatchCreateRequest,
    /// Everything up to this revision has been received; `None` until the watcher is created.
    pub delivered: Option<i64>,
    /// Events received.
    pub events: u64,
}

/// What a response means for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Fine,
    /// The watcher is over; begin again.
    Canceled,
}

impl WatchState {
    /// A watcher that is about to be created.
    pub fn new(request: WatchCreateRequest) -> Self {
        let delivered = (request.start_revision > 0).then_some(request.start_revision - 1);
        Self { request, delivered, events: 0 }
    }

    /// The request that goes on where the last stream ended.
    pub fn resume(&mut self) -> WatchCreateRequest {
        if let Some(delivered) = self.delivered {
            self.request.start_revision = delivered + 1;
        }
        self.request.clone()
    }

    fn expected<'a>(&self, model: &'a Model, after: i64) -> impl Iterator<Item = &'a (i64, Event)> {
        let range = KeyRange::new(self.request.key.clone(), self.request.range_end.clone());
        let filters = self.request.filters.clone();
        let first = model.events.partition_point(|(main, _)| *main <= after);
        model.events[first..].iter().filter(move |(_, event)| {
            let dropped = match event.kind {
                EventKind::Put => filters.contains(&WatchFilter::NoPut),
                EventKind::Delete => filters.contains(&WatchFilter::NoDelete),
            };
            range.contains(&event.kv.key) && !dropped
        })
    }

    /// How many events the model has that this watcher has not been sent.
    pub fn missing(&self, model: &Model) -> usize {
        self.delivered.map_or(0, |delivered| self.expected(model, delivered).count())
    }

    /// A response came.
    ///
    /// # Errors
    /// It breaks a guarantee.
    pub fn received(&mut self, response: &WatchResponse, model: &Model) -> Result<Verdict, String> {
        if response.revision > model.revision {
            return Err(format!(
                "revision {} does not exist, the last is {}",
                response.revision, model.revision
            ));
        }
        if response.canceled {
            return self.canceled(response, model);
        }
        if response.created {
            if self.request.start_revision <= 0 {
                self.delivered = Some(response.revision);
            }
            return Ok(Verdict::Fine);
        }
        let delivered = self.delivered.ok_or("a response before the creation")?;
        if response.events.is_empty() {
            if let Some((main, event)) = self.expected(model, delivered).next()
                && *main <= response.revision
            {
                return Err(format!("a notification of {} overtook {main}: {event:?}", response.revision));
            }
            return Ok(Verdict::Fine);
        }
        let mut last = delivered;
        {
            let mut expected = self.expected(model, delivered);
            for event in &response.events {
                let Some((main, wanted)) = expected.next() else {
                    return Err(format!("after {last} nothing was to come, but {event:?} did"));
                };
                let plain = |event: &Event| (event.kind, event.kv.clone());
                if plain(event) != plain(wanted) {
                    return Err(format!("after {last} expected {wanted:?}, received {event:?}"));
                }
                let prev = event.prev_kv.as_ref();
                let fine = match (self.request.prev_kv, &wanted.prev_kv) {
                    (false, _) | (true, None) => prev.is_none(),
                    (true, Some(wanted)) => {
                        prev == Some(wanted) || (prev.is_none() && *main <= model.compact)
                    }
                };
                if !fine {
                    return Err(format!("expected the previous version of {wanted:?}, received {prev:?}"));
                }
                last = *main;
            }
            if let Some((main, event)) = expected.next()
                && *main == last
            {
                return Err(format!("revision {last} was split: {event:?} is missing"));
            }
        }
        if response.revision < last {
            return Err(format!("the header says {}, the events go up to {last}", response.revision));
        }
        self.events += response.events.len() as u64;
        self.delivered = Some(last);
        Ok(Verdict::Fine)
    }

    fn canceled(&mut self, response: &WatchResponse, model: &Model) -> Result<Verdict, String> {
        if response.compact_revision == 0 {
            return Ok(Verdict::Canceled);
        }
        let next = self.delivered.map_or(0, |delivered| delivered + 1);
        if response.compact_revision > model.compact {
            return Err(format!("compacted to {}, in truth {}", response.compact_revision, model.compact));
        }
        if next > response.compact_revision {
            return Err(format!(
                "ended as compacted at {} though it had come to {next}",
                response.compact_revision
            ));
        }
        self.delivered = Some(response.compact_revision - 1);
        Ok(Verdict::Canceled)
    }
}
