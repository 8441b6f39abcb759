//! Cairn's server process: configuration, driver, files, metrics.

pub mod backend_file;
mod boot;
pub mod config;
mod corruption;
pub mod data_dir;
mod debug_vars;
mod driver;
mod events;
pub mod log;
mod member;
pub mod metrics;
mod peer_calls;
mod ports;
mod run;
pub mod version;
pub mod views;
pub mod wal_disk;

pub use run::run;
