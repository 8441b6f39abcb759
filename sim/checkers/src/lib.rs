//! Judges histories: what clients asked, what they were told, and when.
//!
//! One property a file, each a function from a plain history to the first contradiction. The simulator
//! and `cairn-jepsen` use the same checkers, so the types here are this package's own ([`history`]) and
//! nothing of the system under test is linked: a checker that shared code with the store would share
//! its bugs, and a history of real processes has never seen the core's types.
//!
//! **Invariant:** a checker reads no clock and draws nothing: the same history has the same verdict. One
//! that searches has a budget in steps and says `Unknown` when it is spent, never `fine`.

pub mod append;
pub mod durability;
pub mod hash;
pub mod history;
pub mod lease;
pub mod lock;
pub mod monotone;
pub mod page;
pub mod register;
pub mod replay;
pub mod revision_order;
mod scc;
pub mod serializable;
pub mod watch;
pub mod wgl;

pub use history::{Action, Body, Change, Compare, History, Keys, Kv, Operation, Outcome, Violation};
pub use replay::Replay;
