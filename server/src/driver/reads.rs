//! Long reads, on threads of their own over immutable views: the node never waits for them.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use cairn_core::api::{RangeResponse, Response, ResponseBody};
use cairn_core::error::Fatal;
use cairn_core::node::ReadTask;
use cairn_net::bulk;
use cairn_net::handle::Reply;
use cairn_net::services::rows;
use crossbeam_channel::{Sender, TrySendError, bounded};

use super::{Event, Inbox, Stopped};
use crate::metrics::Metrics;

/// Long reads that may wait; beyond, clients are told to come back.
const QUEUE_MAX: usize = 1024;
/// A read that is over within this time gives way to nobody.
const SHORT: Duration = Duration::from_millis(2);
/// The values of so many rows are read by a thread of the least priority.
const BULK_ROWS_MIN: usize = 50_000;

/// A read and the request that it answers.
pub(super) struct ReadJob {
    pub(super) id: u64,
    pub(super) task: ReadTask,
    /// Whether a long range may be answered in frames.
    pub(super) in_frames: bool,
}

impl ReadJob {
    fn run(&self, events: &Inbox) -> Result<Result<(), Stopped>, Fatal> {
        let done = |result| events.send(Event::ReadDone { id: self.id, result });
        let whole = |response| Reply { response, view: None, frames: None };
        let selected = if self.in_frames { self.task.select()? } else { None };
        let mut selected = match selected {
            None => return Ok(done(self.task.run()?.map(whole))),
            Some(Err(error)) => return Ok(done(Err(error))),
            Some(Ok(selected)) => selected,
        };
        let header = self.task.header();
        if selected.len() < rows::ROWS_MIN {
            let body = ResponseBody::Range(selected.response()?);
            return Ok(done(Ok(whole(Response { header, body }))));
        }
        selected.measure()?;
        let (frames, mut writer) = rows::lay_out(header, &selected);
        let body = ResponseBody::Range(RangeResponse::default());
        let sent = done(Ok(Reply { frames: Some(frames), ..whole(Response { header, body }) }));
        if selected.len() >= BULK_ROWS_MIN {
            let written = thread::scope(|scope| {
                let encode = bulk::spawn_scoped(scope, "encode", || writer.write());
                encode.map(|encode| encode.join().expect("a panic ends the process"))
            });
            match written {
                Ok(written) => return written.map(|()| sent),
                Err(error) => tracing::warn!(%error, "no thread for a long answer"),
            }
        }
        writer.write()?;
        Ok(sent)
    }
}

/// A few threads that run reads.
pub(crate) struct ReadPool {
    jobs: Sender<ReadJob>,
}

impl ReadPool {
    /// Starts the threads; they end with the pool.
    pub(crate) fn start_threads(
        threads: usize,
        events: &Inbox,
        metrics: &Arc<Metrics>,
    ) -> std::io::Result<Self> {
        let (jobs, queue) = bounded::<ReadJob>(QUEUE_MAX);
        for number in 0..threads {
            let queue = queue.clone();
            let (events, metrics) = (events.clone(), metrics.clone());
            thread::Builder::new().name(format!("read-{number}")).spawn(move || {
                for job in queue {
                    let _open = metrics.view_opened();
                    let done = bulk::run(SHORT, || job.run(&events));
                    if done.unwrap_or_else(|fatal| events.send(Event::Fatal(fatal))).is_err() {
                        return;
                    }
                }
            })?;
        }
        Ok(Self { jobs })
    }

    /// Queues a read; false when the queue is full.
    pub(super) fn start(&self, job: ReadJob) -> bool {
        !matches!(self.jobs.try_send(job), Err(TrySendError::Full(_)))
    }
}
