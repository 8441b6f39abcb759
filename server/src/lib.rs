//! Cairn's server process: configuration, driver, files, metrics.

pub mod config;
pub mod log;
pub mod metrics;
pub mod version;
pub mod views;
pub mod wal_disk;
