//! Cairn's server process: configuration, driver, files, metrics.

pub mod wal_disk;
