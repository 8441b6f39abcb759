//! `watch`: one watcher, printed as its events arrive.
//!
//! Each response is written and flushed before the next one is read. The command ends by ctrl-C
//! (quietly, 130) or when the server cancels the watcher.

use std::fmt::Write as _;

use cairn_net::proto::etcdserverpb as pb;
use cairn_net::proto::etcdserverpb::watch_client::WatchClient;
use cairn_net::proto::etcdserverpb::watch_request::RequestUnion;
use cairn_net::proto::mvccpb::event::EventType;
use clap::{ArgAction, Args};
use prost::Message as _;

use crate::cli::{Words, boolean, int64};
use crate::client::{Client, prefix_end};
use crate::error::{CtlError, EXIT_INTERRUPTED, Outcome};
use crate::output::{self, Format, json, json::Object};

/// What a shell reports for a command that SIGINT ended.
const EXIT_SIGINT: u8 = 130;

/// The flags of `watch`.
#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    words: Words,
    /// Watch on a prefix if prefix is set
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = boolean, action = ArgAction::Set)]
    prefix: bool,
    /// Revision to start watching
    #[arg(long, default_value = "0", value_parser = int64, allow_hyphen_values = true)]
    rev: i64,
    /// get the previous key-value pair before the event happens
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = boolean, action = ArgAction::Set)]
    prev_kv: bool,
    /// get periodic watch progress notification from server
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = boolean, action = ArgAction::Set)]
    progress_notify: bool,
}

/// Runs `watch`.
pub(crate) async fn watch(client: &Client, args: WatchArgs) -> Outcome {
    let (key, end) = match args.words.args.len() {
        1 | 2 => (args.words.bytes(0), args.words.bytes(1)),
        0 => match std::env::var("ETCDCTL_WATCH_KEY") {
            Ok(key) if !key.is_empty() => {
                let end = std::env::var("ETCDCTL_WATCH_RANGE_END").unwrap_or_default();
                (key.into_bytes(), end.into_bytes())
            }
            _ => return Err(CtlError::args("bad number of arguments")),
        },
        _ => return Err(CtlError::args("bad number of arguments")),
    };
    if args.prefix && !end.is_empty() {
        return Err(CtlError::args("`range_end` and `--prefix` are mutually exclusive"));
    }
    let (key, range_end) = match (args.prefix, key.is_empty()) {
        (true, true) => (vec![0], vec![0]),
        (true, false) => (key.clone(), prefix_end(&key)),
        // etcd's client watches the first key there can be when none is given.
        (false, true) => (vec![0], end),
        (false, false) => (key, end),
    };
    let create = pb::WatchCreateRequest {
        key: key.into(),
        range_end: range_end.into(),
        start_revision: args.rev,
        progress_notify: args.progress_notify,
        prev_kv: args.prev_kv,
        ..Default::default()
    };
    tokio::select! {
        biased;
        _ = tokio::signal::ctrl_c() => Err(CtlError::silent(EXIT_SIGINT)),
        outcome = follow(client, create) => outcome,
    }
}

async fn follow(client: &Client, create: pb::WatchCreateRequest) -> Outcome {
    let channel = client.connect_to(&client.global.endpoints, None).await?;
    let mut watch = WatchClient::new(channel).max_decoding_message_size(usize::MAX);
    let request = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    // The request stream must stay open: closing it ends the watcher.
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let _ = sender.send(request).await;
    let mut stream = watch.watch(tokio_stream::wrappers::ReceiverStream::new(receiver)).await?.into_inner();
    let ended = || CtlError::new(EXIT_INTERRUPTED, "watch is canceled by the server");
    loop {
        let Some(response) = stream.message().await? else { return Err(ended()) };
        if response.canceled {
            let reason = match (response.compact_revision, response.cancel_reason.as_str()) {
                (1.., _) => "etcdserver: mvcc: required revision has been compacted",
                (_, "") => "etcdserver: mvcc: required revision is a future revision",
                (_, reason) => reason,
            };
            eprintln!("watch was canceled ({reason})");
            return Err(ended());
        }
        if response.created {
            continue;
        }
        if response.events.is_empty() {
            let revision = response.header.unwrap_or_default().revision;
            output::print_line(&format!("progress notify: {revision}"))?;
        }
        show(client, &response)?;
    }
}

fn show(client: &Client, response: &pb::WatchResponse) -> Outcome {
    match client.format {
        Format::Simple => {
            let mut out = Vec::new();
            for event in &response.events {
                out.extend_from_slice(event.r#type().as_str_name().as_bytes());
                out.push(b'\n');
                if let Some(kv) = &event.prev_kv {
                    output::push_kv(&mut out, kv, client.global.hex, false);
                }
                if let Some(kv) = &event.kv {
                    output::push_kv(&mut out, kv, client.global.hex, false);
                }
            }
            output::print(&out)
        }
        Format::Json => {
            let events = json::list(&response.events, |event| {
                let mut object = Object::new();
                if event.r#type() == EventType::Delete {
                    object = object.raw("type", 1);
                }
                if let Some(kv) = &event.kv {
                    object = object.raw("kv", json::kv(kv));
                }
                if let Some(kv) = &event.prev_kv {
                    object = object.raw("prev_kv", json::kv(kv));
                }
                object.end()
            });
            let line = Object::new()
                .raw("Header", json::header_object(&response.header.unwrap_or_default()))
                .raw("Events", events)
                .raw("CompactRevision", response.compact_revision)
                .raw("Canceled", false)
                .raw("Created", false)
                .end();
            output::print_line(&line)
        }
        Format::Fields => {
            let mut out = String::new();
            output::push_header(&mut out, &response.header.unwrap_or_default());
            for event in &response.events {
                let _ = writeln!(out, "\"Type\" : {}", event.r#type().as_str_name());
                if let Some(kv) = &event.prev_kv {
                    output::push_kv_fields(&mut out, "Prev", kv);
                }
                if let Some(kv) = &event.kv {
                    output::push_kv_fields(&mut out, "", kv);
                }
            }
            output::print(out.as_bytes())
        }
        Format::Protobuf => output::print(&response.encode_to_vec()),
        Format::Table => Err(client.format.unsupported()),
    }
}
