//! The multi-version store. (Contract only; the implementation lands in this folder.)

/// An immutable view of the store at one moment.
#[derive(Clone, Debug)]
pub struct StoreView;
