//! Metrics; see the next commit.
