//! Watchers: of the present, the past and the future, with and without what was before.

use cairn_core::api::{WatchCreateRequest, WatchFilter};

use super::Draw;

/// A watcher that starts at `resume`, or anywhere.
pub fn create(draw: &mut Draw<'_>) -> WatchCreateRequest {
    let (key, range_end) = draw.range();
    let start_revision = match draw.rng.below(4) {
        0 => 0,
        1 => draw.revision + draw.rng.below(20) as i64,
        _ => (draw.revision - draw.rng.below(60) as i64).max(1),
    };
    let filters = match draw.rng.below(8) {
        0 => vec![WatchFilter::NoPut],
        1 => vec![WatchFilter::NoDelete],
        _ => Vec::new(),
    };
    WatchCreateRequest {
        key,
        range_end,
        start_revision,
        progress_notify: draw.rng.chance(1, 2),
        filters,
        prev_kv: draw.rng.chance(1, 2),
        ..WatchCreateRequest::default()
    }
}
