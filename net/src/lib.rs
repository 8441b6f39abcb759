//! Cairn's wire layer: gRPC services, HTTP, peer transport and conversions.

pub mod bulk;
pub mod connection_threads;
pub mod convert;
pub mod handle;
pub mod http;
pub mod listener;
pub mod peer;
pub mod proto;
pub mod services;
