//! etcd's nine guarantees of a watch, checked for one watcher over any number of streams, response by
//! response, against the list of changes:
//!
//! *filter* (only what was asked for), *ordered*, *unique*, *atomic* (a revision is never split),
//! *bookmarkable* (a progress notification overtakes nothing), *resumable* (nothing from before the
//! place that was asked for), *reliable* (nothing is left out, nothing invented), *prevKV*, *isCreate*.
//!
//! **Invariant:** a violation names exactly one of the nine.

use serde::{Deserialize, Serialize};

use crate::history::{Change, Keys, Kv, Violation};
use crate::replay::Replay;

/// What a watcher asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Request {
    pub keys: Keys,
    /// 0: from now on.
    pub start: i64,
    pub no_put: bool,
    pub no_delete: bool,
    pub prev_kv: bool,
}

/// One event as it was sent; a deletion has no value and no creation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Event {
    pub delete: bool,
    pub kv: Kv,
    pub prev: Option<Kv>,
}

/// What a member sent, each with the revision in its header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Sent {
    Created {
        revision: i64,
    },
    Events {
        revision: i64,
        events: Vec<Event>,
    },
    Progress {
        revision: i64,
    },
    /// The watcher is over; not 0: because of a compaction to this revision.
    Canceled {
        revision: i64,
        compact_revision: i64,
    },
}

/// What a response means for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Fine,
    /// The watcher is over; begin again.
    Canceled,
}

/// One watcher as its client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watcher {
    /// What was asked for the last time.
    pub request: Request,
    /// Everything up to this revision has been received; `None` until the watcher is created.
    pub delivered: Option<i64>,
    /// Events received.
    pub events: u64,
}

fn broken(rule: &str, what: String) -> Violation {
    Violation::new(&format!("watch {rule}"), what, &[])
}

impl Watcher {
    /// A watcher that is about to be created.
    pub fn new(request: Request) -> Self {
        let delivered = (request.start > 0).then_some(request.start - 1);
        Self { request, delivered, events: 0 }
    }

    /// Goes on where the last stream ended; the revision to ask for.
    pub fn resume(&mut self) -> i64 {
        if let Some(delivered) = self.delivered {
            self.request.start = delivered + 1;
        }
        self.request.start
    }

    fn wants(&self, key: &str, delete: bool) -> bool {
        let dropped = if delete { self.request.no_delete } else { self.request.no_put };
        self.request.keys.contains(key) && !dropped
    }

    fn expected<'a>(&self, replay: &'a Replay, after: i64) -> impl Iterator<Item = &'a Change> {
        let changes = replay.between(after, i64::MAX).iter();
        changes.filter(|change| self.wants(&change.key, change.value.is_none()))
    }

    /// How many changes there are that this watcher has not been sent.
    pub fn missing(&self, replay: &Replay) -> usize {
        self.delivered.map_or(0, |delivered| self.expected(replay, delivered).count())
    }

    /// A response came; `compacted` is the newest compaction of the cluster, `newest` its revision.
    ///
    /// # Errors
    /// It breaks a guarantee.
    pub fn received(
        &mut self,
        sent: &Sent,
        replay: &Replay,
        newest: i64,
        compacted: i64,
    ) -> Result<Verdict, Violation> {
        let (Sent::Created { revision }
        | Sent::Events { revision, .. }
        | Sent::Progress { revision }
        | Sent::Canceled { revision, .. }) = sent;
        if *revision > newest {
            let what = format!("revision {revision} does not exist, the last is {newest}");
            return Err(broken("bookmarkable", what));
        }
        match sent {
            Sent::Created { revision } => {
                if self.request.start <= 0 {
                    self.delivered = Some(*revision);
                }
                Ok(Verdict::Fine)
            }
            Sent::Canceled { compact_revision: 0, .. } => Ok(Verdict::Canceled),
            Sent::Canceled { compact_revision, .. } => self.compacted(*compact_revision, compacted),
            Sent::Progress { revision } => self.progress(*revision, replay).map(|()| Verdict::Fine),
            Sent::Events { revision, events } => {
                let last = self.take(events, replay, compacted)?;
                if *revision < last {
                    let what = format!("the header says {revision}, the events go up to {last}");
                    return Err(broken("bookmarkable", what));
                }
                self.events += events.len() as u64;
                self.delivered = Some(last);
                Ok(Verdict::Fine)
            }
        }
    }

    fn known(&self) -> Result<i64, Violation> {
        self.delivered.ok_or_else(|| broken("resumable", "a response before the creation".to_owned()))
    }

    fn progress(&self, revision: i64, replay: &Replay) -> Result<(), Violation> {
        match self.expected(replay, self.known()?).next() {
            Some(change) if change.revision <= revision => {
                let what = format!("a notification of {revision} overtook {change:?}");
                Err(broken("bookmarkable", what))
            }
            _ => Ok(()),
        }
    }

    /// Compares events with what has to come next; the revision of the last.
    fn take(&self, events: &[Event], replay: &Replay, compacted: i64) -> Result<i64, Violation> {
        let delivered = self.known()?;
        let mut last = delivered;
        let mut expected = self.expected(replay, delivered);
        for event in events {
            if !self.wants(&event.kv.key, event.delete) {
                return Err(broken("filter", format!("nobody asked for {event:?}")));
            }
            if event.kv.mod_revision <= delivered {
                return Err(self.sent_before(event, delivered));
            }
            if event.kv.mod_revision < last {
                return Err(broken("ordered", format!("after {last} came {event:?}")));
            }
            let Some(wanted) = expected.next() else {
                let what = format!("after {last} nothing was to come, but {event:?} did");
                let again = event.kv.mod_revision == last;
                return Err(broken(if again { "unique" } else { "reliable" }, what));
            };
            compare(event, wanted, last)?;
            self.compare_before(event, wanted, replay, compacted)?;
            last = wanted.revision;
        }
        match expected.next() {
            Some(change) if !events.is_empty() && change.revision == last => {
                Err(broken("atomic", format!("revision {last} was split: {change:?} is missing")))
            }
            _ => Ok(last),
        }
    }

    fn sent_before(&self, event: &Event, delivered: i64) -> Violation {
        if self.events == 0 || event.kv.mod_revision < self.request.start {
            broken("resumable", format!("asked for what follows {delivered}, received {event:?}"))
        } else {
            broken("unique", format!("{event:?} was sent before: all up to {delivered} had come"))
        }
    }

    fn compare_before(
        &self,
        event: &Event,
        wanted: &Change,
        replay: &Replay,
        compacted: i64,
    ) -> Result<(), Violation> {
        let now = replay.at(&wanted.key, wanted.revision);
        if let Some(now) = now
            && (now.create_revision, now.version) != (event.kv.create_revision, event.kv.version)
        {
            return Err(broken("isCreate", format!("expected {now:?}, received {event:?}")));
        }
        if now.is_some_and(|now| *now != event.kv) {
            return Err(broken("reliable", format!("expected {now:?}, received {event:?}")));
        }
        let before = replay.at(&wanted.key, wanted.revision - 1);
        let fine = match (self.request.prev_kv, before) {
            (false, _) | (true, None) => event.prev.is_none(),
            // A compaction may have taken it.
            (true, Some(before)) => match &event.prev {
                Some(prev) => prev == before,
                None => wanted.revision <= compacted,
            },
        };
        if fine { Ok(()) } else { Err(broken("prevKV", format!("expected {before:?} before {event:?}"))) }
    }

    fn compacted(&mut self, to: i64, truly: i64) -> Result<Verdict, Violation> {
        let next = self.delivered.map_or(0, |delivered| delivered + 1);
        if to > truly {
            return Err(broken("reliable", format!("compacted to {to}, in truth to {truly}")));
        }
        if next > to {
            return Err(broken(
                "resumable",
                format!("ended as compacted at {to} though it had come to {next}"),
            ));
        }
        self.delivered = Some(to - 1);
        Ok(Verdict::Canceled)
    }
}

fn compare(event: &Event, wanted: &Change, last: i64) -> Result<(), Violation> {
    let same = event.kv.mod_revision == wanted.revision && event.kv.key == wanted.key;
    let what = || format!("after {last} expected {wanted:?}, received {event:?}");
    if !same {
        let again = event.kv.mod_revision == last && wanted.revision > last;
        return Err(broken(if again { "unique" } else { "reliable" }, what()));
    }
    if event.delete != wanted.value.is_none() {
        return Err(broken("reliable", what()));
    }
    Ok(())
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
