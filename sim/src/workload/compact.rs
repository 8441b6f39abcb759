//! Compactions, physical or not, often right at the present.

use cairn_core::api::Request;

use super::Draw;

/// A compaction.
pub fn request(draw: &mut Draw<'_>) -> Request {
    let back = if draw.rng.chance(1, 2) { 0 } else { draw.rng.below(30) as i64 };
    Request::Compact { revision: (draw.revision - back).max(1), physical: draw.rng.chance(1, 2) }
}
