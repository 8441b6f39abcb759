//! Cairn's server process: configuration, driver, files, metrics.
//!
//! `config` turns the command line, the environment and a YAML file into one
//! validated value; `log` turns `tracing` events into zap-shaped lines;
//! `version` holds the numbers that clients see.

pub mod config;
pub mod log;
pub mod version;
