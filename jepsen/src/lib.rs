//! Real processes under faults, with checkers.
