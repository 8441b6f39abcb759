//! Watch streams.

use cairn_core::api::{WatchCreateRequest, WatchFilter, WatchResponse};
use cairn_core::types::{Event, EventKind};

use super::key_value;
use crate::proto::{etcdserverpb as pb, mvccpb};
use mvccpb::event::EventType;
use pb::watch_create_request::FilterType;

/// Reads the request for a watcher. A filter that the definition does not have filters nothing, as in
/// etcd.
pub fn watch_create_request(wire: pb::WatchCreateRequest) -> WatchCreateRequest {
    let filters = wire
        .filters
        .iter()
        .filter_map(|filter| match FilterType::try_from(*filter) {
            Ok(FilterType::Noput) => Some(WatchFilter::NoPut),
            Ok(FilterType::Nodelete) => Some(WatchFilter::NoDelete),
            Err(_) => None,
        })
        .collect();
    WatchCreateRequest {
        key: wire.key,
        range_end: wire.range_end,
        start_revision: wire.start_revision,
        progress_notify: wire.progress_notify,
        filters,
        prev_kv: wire.prev_kv,
        watch_id: wire.watch_id,
        fragment: wire.fragment,
    }
}

impl From<WatchCreateRequest> for pb::WatchCreateRequest {
    fn from(request: WatchCreateRequest) -> Self {
        let filters = request
            .filters
            .iter()
            .map(|filter| match filter {
                WatchFilter::NoPut => FilterType::Noput.into(),
                WatchFilter::NoDelete => FilterType::Nodelete.into(),
            })
            .collect();
        Self {
            key: request.key,
            range_end: request.range_end,
            start_revision: request.start_revision,
            progress_notify: request.progress_notify,
            filters,
            prev_kv: request.prev_kv,
            watch_id: request.watch_id,
            fragment: request.fragment,
        }
    }
}

/// An event towards the wire.
pub fn event(event: Event) -> mvccpb::Event {
    let kind = match event.kind {
        EventKind::Put => EventType::Put,
        EventKind::Delete => EventType::Delete,
    };
    mvccpb::Event {
        r#type: kind.into(),
        kv: Some(key_value(event.kv)),
        prev_kv: event.prev_kv.map(key_value),
    }
}

/// A message of a watch stream towards the wire, without header, watcher and events, which are
/// written apart.
pub fn watch_response_rest(response: &WatchResponse) -> pb::WatchResponse {
    pb::WatchResponse {
        created: response.created,
        canceled: response.canceled,
        compact_revision: response.compact_revision,
        cancel_reason: response.cancel_reason.clone(),
        fragment: response.fragment,
        ..pb::WatchResponse::default()
    }
}
