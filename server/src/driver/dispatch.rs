//! Outputs to those who perform them. Each arm is one hand-over; nothing here waits.

use cairn_core::api::ResponseBody;
use cairn_core::error::Error;
use cairn_core::node::Output;
use cairn_net::handle::Reply;

use super::reads::ReadJob;
use super::{Driver, LogJob, Notice, StorageJob};

impl Driver {
    pub(super) fn dispatch(&mut self, output: Output) {
        match output {
            Output::Append { seq, append } => {
                let lone = self.is_lone();
                self.workers.log.send(LogJob::Append { seq, append }, lone);
            }
            Output::Repair { seq, entries } => self.to_log(LogJob::Repair { seq, entries }),
            Output::ReleaseLog { index } => self.to_log(LogJob::Release { index }),
            Output::Send { to, message } => self.workers.peers.send(to, message),
            Output::Reply { id, result } => {
                let result = result.map(|response| {
                    let view = match response.body {
                        ResponseBody::Snapshot { view } => self.node.take_view(view),
                        _ => None,
                    };
                    Reply { response, view, frames: None }
                });
                self.answer(id, result);
            }
            Output::StartRead { id } => {
                let in_frames = self.waiters.get(&id).is_some_and(|waiter| waiter.in_frames);
                if let Some(task) = self.node.take_read(id)
                    && !self.workers.reads.start(ReadJob { id, task, in_frames })
                {
                    self.answer(id, Err(Error::TooManyRequests));
                }
            }
            Output::Watch { stream, batch } => {
                if let Some(out) = self.streams.get(&stream) {
                    // A closed stream will say so itself.
                    let _ = out.send(batch);
                }
            }
            Output::CloseWatch { stream } => {
                self.streams.remove(&stream);
            }
            Output::Flush { flush } => self.to_storage(StorageJob::Flush { flush }),
            Output::Compact { from, to } => self.to_storage(StorageJob::Compact { from, to }),
            Output::Defragment => self.to_storage(StorageJob::Defragment),
            Output::InstallSnapshot => self.to_storage(StorageJob::Install),
            Output::DiscardSnapshot => self.to_storage(StorageJob::Discard),
            Output::SendSnapshot { to, view, header } => {
                if let Some(view) = self.node.take_view(view) {
                    self.workers.peers.send_snapshot(to, header, view);
                }
            }
            Output::SetPeer { id, urls } => self.workers.peers.set_peer(id, urls),
            Output::RemovePeer { id } => self.workers.peers.remove_peer(id),
            Output::Event(event) => {
                self.status_due = true;
                let _ = self.workers.notices.send(Notice::Node(event));
            }
            Output::Fatal(fatal) => self.fail(fatal),
        }
    }

    fn to_log(&self, job: LogJob) {
        self.workers.log.send(job, false);
    }

    /// Whether at most one request is under way and no other member waits for anything.
    fn is_lone(&self) -> bool {
        self.waiters.len() <= 1 && self.workers.status.borrow().members.len() <= 1
    }

    /// A thread that is gone has reported why before it went.
    fn to_storage(&self, job: StorageJob) {
        let _ = self.workers.storage.send(job);
    }
}
