//! Log lines in the shape of etcd's: one JSON object (or tab-separated line) an event.
//!
//! Owns the translation of `tracing` events, the level threshold and the
//! outputs. Code logs with `tracing` macros; field names with dashes are
//! written as string literals. An event field `zap_level` ("panic", "fatal")
//! raises an error event to a level that `tracing` does not have; it is not printed.
//! Invariant: a failing output never fails the server: its lines are dropped.
//! Times are UTC; the civil date is computed here (`json::timestamp`), which
//! spares a date crate.

mod console;
mod json;
mod output;

use std::fmt;
use std::io;
use std::sync::Mutex;
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use self::output::Sink;
use crate::config::Notice;

/// zap's levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// For developers.
    Debug,
    /// Normal events.
    Info,
    /// Something an operator should look at.
    Warn,
    /// Something failed.
    Error,
    /// A bug; the process ends.
    Panic,
    /// The process cannot go on.
    Fatal,
}

impl LogLevel {
    /// The level of this name, as zap reads it.
    pub fn parse(text: &str) -> Option<LogLevel> {
        Some(match text.to_ascii_lowercase().as_str() {
            "debug" => LogLevel::Debug,
            "info" | "" => LogLevel::Info,
            "warn" => LogLevel::Warn,
            "error" => LogLevel::Error,
            "panic" => LogLevel::Panic,
            "fatal" => LogLevel::Fatal,
            _ => return None,
        })
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Debug => "debug",
            LogLevel::Info => "info",
            LogLevel::Warn => "warn",
            LogLevel::Error => "error",
            LogLevel::Panic => "panic",
            LogLevel::Fatal => "fatal",
        }
    }

    fn of(level: Level) -> LogLevel {
        match level {
            Level::TRACE | Level::DEBUG => LogLevel::Debug,
            Level::INFO => LogLevel::Info,
            Level::WARN => LogLevel::Warn,
            Level::ERROR => LogLevel::Error,
        }
    }
}

/// The form of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object.
    Json,
    /// Columns for people.
    Console,
}

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogOutput {
    /// Standard error; also `default`, since systemd gathers it.
    Stderr,
    /// Standard output.
    Stdout,
    /// The systemd journal.
    Journal,
    /// A file, appended to.
    File(String),
}

impl LogOutput {
    /// The output of this name; what is no known name is a path.
    pub fn parse(name: &str) -> LogOutput {
        match name {
            "default" | "stderr" => LogOutput::Stderr,
            "stdout" => LogOutput::Stdout,
            "systemd/journal" => LogOutput::Journal,
            path => LogOutput::File(path.to_owned()),
        }
    }
}

/// When a log file is replaced and which old ones are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    /// Size at which the file is replaced.
    pub size_bytes_max: u64,
    /// Days an old file is kept; 0 is for ever.
    pub age_days_max: u64,
    /// Old files to keep; 0 is all.
    pub backups_max: u64,
}

/// The logger's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// The lowest level that is written.
    pub level: LogLevel,
    /// The form of a line.
    pub format: LogFormat,
    /// Where lines go.
    pub outputs: Vec<LogOutput>,
    /// How the one log file is rotated, if at all.
    pub rotation: Option<Rotation>,
}

/// One event, ready to be written.
#[derive(Debug)]
struct Record {
    level: LogLevel,
    time: SystemTime,
    caller: String,
    msg: String,
    fields: Vec<(String, serde_json::Value)>,
}

/// A `tracing` layer that writes zap-shaped lines.
#[derive(Debug)]
pub struct ZapLayer {
    level: LogLevel,
    format: LogFormat,
    sinks: Mutex<Vec<Sink>>,
}

/// Opens the outputs and makes the layer the process's logger. The error text
/// is etcd's for an output that cannot be opened.
pub fn init(config: &LogConfig) -> Result<(), String> {
    let subscriber = tracing_subscriber::registry().with(ZapLayer::open(config)?);
    tracing::subscriber::set_global_default(subscriber).map_err(|error| error.to_string())
}

/// Writes what `config::load` had to say before there was a logger.
pub fn write_notices(notices: &[Notice]) {
    for notice in notices {
        // Names known only at run time travel as one field of pairs, which keeps their order.
        let zap_fields = serde_json::json!(notice.fields).to_string();
        match notice.level {
            LogLevel::Debug => tracing::debug!(zap_fields, "{}", notice.msg),
            LogLevel::Info => tracing::info!(zap_fields, "{}", notice.msg),
            LogLevel::Warn => tracing::warn!(zap_fields, "{}", notice.msg),
            _ => tracing::error!(zap_fields, "{}", notice.msg),
        }
    }
}

impl ZapLayer {
    /// Opens the outputs.
    pub fn open(config: &LogConfig) -> Result<ZapLayer, String> {
        let sinks = config
            .outputs
            .iter()
            .map(|output| Sink::open(output, config.rotation))
            .collect::<Result<_, _>>()?;
        Ok(ZapLayer { level: config.level, format: config.format, sinks: Mutex::new(sinks) })
    }

    /// A layer that writes to any writer.
    pub fn to_writer(level: LogLevel, format: LogFormat, writer: Box<dyn io::Write + Send>) -> ZapLayer {
        ZapLayer { level, format, sinks: Mutex::new(vec![Sink::Writer(writer)]) }
    }
}

impl<S: Subscriber> Layer<S> for ZapLayer {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        // An error event may turn out to be a panic or fatal one.
        LogLevel::of(*metadata.level()) >= self.level || *metadata.level() == Level::ERROR
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut record = Record {
            level: LogLevel::of(*metadata.level()),
            time: SystemTime::now(),
            caller: caller(metadata.file(), metadata.line()),
            msg: String::new(),
            fields: Vec::new(),
        };
        event.record(&mut record);
        if record.level < self.level {
            return;
        }
        let line = match self.format {
            LogFormat::Json => json::line(&record),
            LogFormat::Console => console::line(&record),
        };
        let mut sinks = self.sinks.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for sink in sinks.iter_mut() {
            sink.write(record.level, &line);
        }
    }
}

/// `directory/file.rs:line`, as zap shortens it.
fn caller(file: Option<&str>, line: Option<u32>) -> String {
    let file = file.unwrap_or("unknown");
    let mut slashes = file.rmatch_indices('/').map(|(at, _)| at);
    let start = slashes.nth(1).map_or(0, |at| at + 1);
    format!("{}:{}", &file[start..], line.unwrap_or(0))
}

impl Record {
    fn push(&mut self, field: &Field, value: serde_json::Value) {
        match (field.name(), &value) {
            ("message", serde_json::Value::String(text)) => self.msg.clone_from(text),
            ("zap_level", serde_json::Value::String(text)) => {
                self.level = LogLevel::parse(text).map_or(self.level, |level| level.max(self.level));
            }
            ("zap_fields", serde_json::Value::String(text)) => {
                if let Ok(pairs) = serde_json::from_str::<Vec<(String, serde_json::Value)>>(text) {
                    self.fields.extend(pairs);
                }
            }
            (name, _) => self.fields.push((name.to_owned(), value)),
        }
    }
}

impl Visit for Record {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, value.into());
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.push(field, value.into());
    }
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.push(field, value.to_string().into());
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push(field, format!("{value:?}").into());
    }
}

#[cfg(test)]
mod tests;
