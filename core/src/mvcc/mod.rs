//! The multi-version store: every key at every revision since the last compaction.
//!
//! A request enters through [`Store`], the only writer, or is answered by a [`StoreView`], an
//! immutable moment of it. `record` has the bytes of the rows, `txn` transactions, `check` the rules
//! that a request must pass before it is proposed, `select` which rows answer a range and how the values of many are read,
//! `compact` the physical removal of old revisions and `hash` etcd's HashKV.
//!
//! **Invariant:** the state after a command is a pure function of the command and the state before.
//! When rows were flushed or physically compacted can never be seen in an answer.

mod check;
mod compact;
mod copies;
mod counts;
mod hash;
mod record;
mod select;
mod store;
mod txn;
mod view;
mod whole;

pub use check::{
    check_delete_range, check_put, check_range, check_txn, is_read_only, is_serializable, put_cost, txn_cost,
};
pub use compact::{Compaction, compact_batch};
pub use counts::StoreCounts;
pub use hash::HashKv;
pub use select::{Selected, SelectedRow};
pub use store::{Change, META_COMPACT_REVISION, META_COMPACTED, META_REVISION, Outcome, Store, StoreOptions};
pub use view::{Ranged, StoreRow, StoreView};
pub use whole::HistoryRow;

pub use crate::backend::overlay::Pending;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
