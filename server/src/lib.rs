//! Cairn's server process: configuration, driver, files, metrics.

pub mod config;
pub mod log;
pub mod version;
pub mod wal_disk;
