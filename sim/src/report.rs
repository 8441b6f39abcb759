//! A failing seed as a folder: the options, the trace, the history as JSON, the members' disks, the
//! command that shows it again, and one HTML page.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use cairn_checkers::Violation;
use cairn_checkers::page::Page;

use crate::cluster::{Report, run};
use crate::disk::Folder;
use crate::options::Options;
use crate::planted::{assertion, finder};
use crate::recording::{Recorded, Recording};
use crate::shrink::OpName;

/// A failure, before it is written.
#[derive(Debug)]
pub struct Failure {
    options: Options,
    what: String,
    replay: String,
    recording: Recording,
}

/// Runs a seed and keeps what is needed for a report if it fails.
///
/// # Errors
/// It fails.
pub fn record(options: Options, replay: String) -> Result<Report, Box<Failure>> {
    let recording = Recording::default();
    let recorded = Options { recording: Some(recording.clone()), ..options.clone() };
    let what = match catch_unwind(AssertUnwindSafe(|| run(recorded))) {
        Ok(mut report) => match report.violation.take() {
            Some(what) => what,
            None => return Ok(report),
        },
        Err(panic) => assertion(panic.as_ref()),
    };
    Err(Box::new(Failure { options, what, replay, recording }))
}

impl Failure {
    /// What was noticed.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// The faults and the operations of the run, by their names.
    pub fn names(&self) -> (Vec<u64>, Vec<OpName>) {
        self.recording.with(|recorded| (recorded.faults.clone(), recorded.asked.clone()))
    }

    /// Writes the folder; the page's path.
    ///
    /// # Errors
    /// The file system refused.
    pub fn write(&self, folder: &Path) -> io::Result<PathBuf> {
        fs::create_dir_all(folder)?;
        let page = folder.join("report.html");
        self.recording.with(|recorded| {
            fs::write(folder.join("options.txt"), format!("{:#?}\n", self.options))?;
            fs::write(folder.join("replay.txt"), format!("{}\n", self.replay))?;
            fs::write(folder.join("violation.txt"), format!("{}\n", self.what))?;
            fs::write(folder.join("trace.txt"), recorded.lines.join("\n") + "\n")?;
            let history = serde_json::to_vec_pretty(&recorded.operations)?;
            fs::write(folder.join("history.json"), history)?;
            for (member, disk) in &recorded.disks {
                for (place, name) in [(Folder::Wal, "wal"), (Folder::Snap, "snap")] {
                    let folder = folder.join("disks").join(member).join(name);
                    fs::create_dir_all(&folder)?;
                    for file in disk.list(place) {
                        fs::write(folder.join(&file), disk.bytes(place, &file).unwrap_or_default())?;
                    }
                }
            }
            fs::write(&page, self.page(recorded))
        })?;
        Ok(page)
    }

    fn page(&self, recorded: &Recorded) -> String {
        let violation = Violation::new(finder(&self.what), self.what.clone(), &recorded.blamed);
        let page = Page {
            title: format!("Cairn: seed {}", self.options.seed),
            replay: self.replay.clone(),
            violation: &violation,
            failed_at: recorded.now,
            members: &recorded.members,
            operations: &recorded.operations,
            marks: &recorded.marks,
        };
        page.html()
    }
}
