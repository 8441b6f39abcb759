//! A failed history as one self-contained HTML page: lanes of clients and members over time, operations
//! with arguments and replies, bands of faults, the leader of each term, lines of commits, and the first
//! operation that cannot be explained.
//!
//! Owns the form of the data that `page.html` reads, and that file. It judges nothing.

use serde::Serialize;

use crate::history::{Operation, Violation};

/// What a mark in a member's lane says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The process starts.
    Up,
    /// The process ends.
    Down,
    /// It leads; the value is the term.
    Leader,
    /// It follows; the value is the term.
    Follower,
    /// It campaigns; the value is the term.
    Candidate,
    /// It knows everything up to the value to be committed.
    Commit,
    /// A fault; the value is how long it lasts, 0 for a moment.
    Fault,
    /// Anything else worth a word.
    Note,
}

/// Something that happened to a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Mark {
    pub at: u64,
    /// 0 for all members.
    pub member: u64,
    pub kind: Kind,
    pub value: u64,
    pub text: String,
}

/// Everything that the page shows. Times are nanoseconds.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct Page<'a> {
    pub title: String,
    /// The command that shows the failure again.
    pub replay: String,
    pub violation: &'a Violation,
    /// When it was noticed.
    pub failed_at: u64,
    /// Ids and names.
    pub members: &'a [(u64, String)],
    pub operations: &'a [Operation],
    pub marks: &'a [Mark],
}

impl Page<'_> {
    /// The page.
    pub fn html(&self) -> String {
        // A reply may contain anything, so nothing in it may end the script.
        let data = serde_json::to_string(self).unwrap_or_default().replace('<', "\\u003c");
        include_str!("page.html").replace("/*DATA*/null", &data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_is_in_the_page_and_cannot_leave_its_script() {
        let violation = Violation::new("rule", "</script><b>bold</b>", &[1]);
        let page = Page {
            title: "a title".to_owned(),
            replay: "again".to_owned(),
            violation: &violation,
            failed_at: 5,
            members: &[(1, "m0".to_owned())],
            operations: &[],
            marks: &[],
        };
        let html = page.html();
        assert!(html.contains("\"title\":\"a title\"") && html.contains("\\u003c/script>"));
        assert!(!html.contains("/*DATA*/") && !html.contains("<b>bold"));
        assert_eq!(html.matches("</script>").count(), 1);
    }
}
