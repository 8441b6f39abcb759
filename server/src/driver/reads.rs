//! Long reads, on threads of their own over immutable views: the node never waits for them.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use cairn_core::node::ReadTask;
use cairn_net::bulk;
use cairn_net::handle::Reply;
use crossbeam_channel::{Sender, TrySendError, bounded};

use super::{Event, Inbox};
use crate::metrics::Metrics;

/// Long reads that may wait; beyond, clients are told to come back.
const QUEUE_MAX: usize = 1024;
/// A read that is over within this time gives way to nobody.
const SHORT: Duration = Duration::from_millis(2);

/// A few threads that run reads.
pub(crate) struct ReadPool {
    jobs: Sender<(u64, ReadTask)>,
}

impl ReadPool {
    /// Starts the threads; they end with the pool.
    pub(crate) fn start_threads(
        threads: usize,
        events: &Inbox,
        metrics: &Arc<Metrics>,
    ) -> std::io::Result<Self> {
        let (jobs, queue) = bounded::<(u64, ReadTask)>(QUEUE_MAX);
        for number in 0..threads {
            let queue = queue.clone();
            let (events, metrics) = (events.clone(), metrics.clone());
            thread::Builder::new().name(format!("read-{number}")).spawn(move || {
                for (id, task) in queue {
                    let _open = metrics.view_opened();
                    let event = match bulk::run(SHORT, || task.run()) {
                        Ok(result) => Event::ReadDone {
                            id,
                            result: result.map(|response| Reply { response, view: None }),
                        },
                        Err(fatal) => Event::Fatal(fatal),
                    };
                    if events.send(event).is_err() {
                        return;
                    }
                }
            })?;
        }
        Ok(Self { jobs })
    }

    /// Queues a read; false when the queue is full.
    pub(crate) fn start(&self, id: u64, task: ReadTask) -> bool {
        !matches!(self.jobs.try_send((id, task)), Err(TrySendError::Full(_)))
    }
}
