//! The client's side of safety: whatever was answered must follow from the committed log.

pub mod convergence;
pub mod durability;
pub mod history;
pub mod lease;
pub mod linearizability;
