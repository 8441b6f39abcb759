//! Cairn's server process: configuration, driver, files, metrics.
