//! What a scenario hands back: figures when it held, otherwise a failure with its evidence.
//!
//! A failure collects notes on its way up (the seed, the members' log tails, the operations around
//! it), so that one printed page is enough to start looking.

use std::fmt;

/// Why a scenario did not hold, and the evidence that was collected.
#[derive(Debug)]
pub struct Failure {
    what: String,
    notes: Vec<String>,
}

impl Failure {
    /// A failure that no evidence has been added to yet.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), notes: Vec::new() }
    }

    /// Adds one piece of evidence; it is printed below the failure.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FAILED: {}", self.what)?;
        for note in &self.notes {
            write!(f, "\n{note}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

impl From<String> for Failure {
    fn from(what: String) -> Self {
        Self::new(what)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(error.to_string())
    }
}

/// Named measurements in the order in which they were taken.
#[derive(Debug, Default)]
pub struct Figures(Vec<(String, String)>);

impl Figures {
    /// Adds one measurement.
    pub fn add(&mut self, name: impl Into<String>, value: impl fmt::Display) {
        self.0.push((name.into(), value.to_string()));
    }

    /// Adds all measurements of `other`.
    pub fn extend(&mut self, other: Figures) {
        self.0.extend(other.0);
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.0 {
            writeln!(f, "{name:<44} {value}")?;
        }
        Ok(())
    }
}
