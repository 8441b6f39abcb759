//! Cairn's wire layer: gRPC services, HTTP, peer transport and conversions.

pub mod convert;
pub mod handle;
pub mod proto;
pub mod services;
