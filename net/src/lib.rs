//! Cairn's wire layer: gRPC services, HTTP, peer transport and conversions.

pub mod handle;
pub mod peer;
