//! The JSON form of a line, and the time format both forms share.
//!
//! Keys stand in zap's order: level, ts, caller, msg, then the event's fields
//! in the order they were given.

use std::time::{SystemTime, UNIX_EPOCH};

use super::Record;

/// The record as one line, with its line break.
pub(super) fn line(record: &Record) -> String {
    let mut out = format!("{{\"level\":\"{}\",\"ts\":\"{}\"", record.level.as_str(), timestamp(record.time));
    let mut pair = |key: &str, value: &serde_json::Value| {
        out.push(',');
        out.push_str(&serde_json::Value::from(key).to_string());
        out.push(':');
        out.push_str(&value.to_string());
    };
    pair("caller", &record.caller.as_str().into());
    pair("msg", &record.msg.as_str().into());
    for (key, value) in &record.fields {
        pair(key, value);
    }
    out.push_str("}\n");
    out
}

/// `2006-01-02T15:04:05.000000Z`, always UTC.
pub(super) fn timestamp(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (seconds, micros) = (since.as_secs(), since.subsec_micros());
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// The Gregorian date of a day number since 1970-01-01. Years are counted from
/// March here, so that the leap day is the last day of a year.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}
