//! The console form of a line: tab-separated time, level, caller and message,
//! then the fields as one JSON object when there are any.

use super::Record;
use super::json::timestamp;

/// The record as one line, with its line break.
pub(super) fn line(record: &Record) -> String {
    let mut out =
        format!("{}\t{}\t{}\t{}", timestamp(record.time), record.level.as_str(), record.caller, record.msg);
    if !record.fields.is_empty() {
        let pairs: Vec<String> = record
            .fields
            .iter()
            .map(|(key, value)| format!("{}: {value}", serde_json::Value::from(key.as_str())))
            .collect();
        out.push_str(&format!("\t{{{}}}", pairs.join(", ")));
    }
    out.push('\n');
    out
}
