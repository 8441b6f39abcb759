//! How a command fails: a text for stderr and one of etcdctl's exit codes.
//!
//! Every error ends here and is printed once, by `main`. The codes are a contract that scripts rely
//! on, so a command names the code explicitly and never invents a new one.

use tonic::{Code, Status};

/// A command failed for a reason that has no code of its own.
pub(crate) const EXIT_ERROR: u8 = 1;
/// The cluster could not be reached or hung up.
pub(crate) const EXIT_BAD_CONNECTION: u8 = 2;
/// A flag's value or an output format is not supported.
pub(crate) const EXIT_BAD_FEATURE: u8 = 4;
/// The server ended a watch, or a file could not be written.
pub(crate) const EXIT_INTERRUPTED: u8 = 5;
/// The arguments are wrong.
pub(crate) const EXIT_BAD_ARGS: u8 = 128;

/// What `Error:` is followed by, and the exit code.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct CtlError {
    /// The exit code.
    pub(crate) code: u8,
    /// The text; empty when everything has been said already.
    pub(crate) text: String,
}

/// The result of a command.
pub(crate) type Outcome<T = ()> = Result<T, CtlError>;

impl CtlError {
    /// An error with a code of the list above.
    pub(crate) fn new(code: u8, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    /// Wrong arguments.
    pub(crate) fn args(text: impl Into<String>) -> Self {
        Self::new(EXIT_BAD_ARGS, text)
    }

    /// The command has printed its own failures.
    pub(crate) fn silent(code: u8) -> Self {
        Self::new(code, "")
    }

    /// The time for the command has run out.
    pub(crate) fn deadline() -> Self {
        Self::new(EXIT_ERROR, "context deadline exceeded")
    }
}

impl From<Status> for CtlError {
    fn from(status: Status) -> Self {
        Self::new(EXIT_ERROR, status_text(&status))
    }
}

impl From<std::io::Error> for CtlError {
    fn from(error: std::io::Error) -> Self {
        Self::new(EXIT_ERROR, error.to_string())
    }
}

/// etcd's own errors are shown bare; a deadline by its client's name; the rest as gRPC prints them.
pub(crate) fn status_text(status: &Status) -> String {
    let message = status.message();
    if message.starts_with("etcdserver:") || message.starts_with("auth:") {
        return message.to_owned();
    }
    match status.code() {
        Code::DeadlineExceeded => "context deadline exceeded".to_owned(),
        Code::Cancelled if message.contains("Timeout") => "context deadline exceeded".to_owned(),
        code => format!("rpc error: code = {code:?} desc = {message}"),
    }
}

/// Go's text for a number that does not parse, as etcdctl shows it.
pub(crate) fn number_error(function: &str, input: &str, overflow: bool) -> String {
    let why = if overflow { "value out of range" } else { "invalid syntax" };
    format!("strconv.{function}: parsing {}: {why}", crate::output::quote(input.as_bytes()))
}
