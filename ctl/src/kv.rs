//! `put`, `get`, `del` and `compaction`.
//!
//! Requests are built by functions of their own, because `txn` reads the same commands from its
//! input. Every printer exists in all formats that etcdctl has for the command.

use std::fmt::Write as _;
use std::io::Read as _;

use cairn_net::proto::etcdserverpb as pb;
use cairn_net::proto::etcdserverpb::kv_client::KvClient;
use cairn_net::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use clap::{ArgAction, Args};
use prost::Message as _;

use crate::cli::{Words, boolean, int64, parse_i64};
use crate::client::{Client, prefix_end};
use crate::error::{CtlError, EXIT_BAD_FEATURE, EXIT_ERROR, Outcome};
use crate::output::{self, Format, json, json::Object};

/// The flags of `put`.
#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    #[command(flatten)]
    words: Words,
    /// lease ID (in hexadecimal) to attach to the key
    #[arg(long, default_value = "0")]
    lease: String,
    /// return the previous key-value pair before modification
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = boolean, action = ArgAction::Set)]
    prev_kv: bool,
    /// updates the key using its current value
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = boolean, action = ArgAction::Set)]
    ignore_value: bool,
    /// updates the key using its current lease
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = boolean, action = ArgAction::Set)]
    ignore_lease: bool,
}

/// The flags of `get`.
#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    #[command(flatten)]
    words: Words,
    /// Linearizable(l) or Serializable(s)
    #[arg(long, default_value = "l")]
    consistency: String,
    /// Order of results; ASCEND or DESCEND (ASCEND by default)
    #[arg(long, default_value = "")]
    order: String,
    /// Sort target; CREATE, KEY, MODIFY, VALUE, or VERSION
    #[arg(long, default_value = "")]
    sort_by: String,
    /// Maximum number of results
    #[arg(long, default_value = "0", value_parser = int64, allow_hyphen_values = true)]
    limit: i64,
    /// Get keys with matching prefix
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = boolean, action = ArgAction::Set)]
    prefix: bool,
    /// Get keys that are greater than or equal to the given key using byte compare
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = boolean, action = ArgAction::Set)]
    from_key: bool,
    /// Specify the kv revision
    #[arg(long, default_value = "0", value_parser = int64, allow_hyphen_values = true)]
    rev: i64,
    /// Get only the keys
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = boolean, action = ArgAction::Set)]
    keys_only: bool,
    /// Get only the count
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = boolean, action = ArgAction::Set)]
    count_only: bool,
    /// Only write values when using the "simple" output format
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = boolean, action = ArgAction::Set)]
    print_value_only: bool,
}

/// The flags of `del`.
#[derive(Debug, Args)]
pub(crate) struct DelArgs {
    #[command(flatten)]
    words: Words,
    /// delete keys with matching prefix
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = boolean, action = ArgAction::Set)]
    prefix: bool,
    /// return deleted key-value pairs
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = boolean, action = ArgAction::Set)]
    prev_kv: bool,
    /// delete keys that are greater than or equal to the given key using byte compare
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = boolean, action = ArgAction::Set)]
    from_key: bool,
    /// delete the range [key, range_end)
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = boolean, action = ArgAction::Set)]
    range: bool,
}

/// The flags of `compaction`.
#[derive(Debug, Args)]
pub(crate) struct CompactionArgs {
    #[command(flatten)]
    words: Words,
    /// 'true' to wait for compaction to physically remove all old revisions
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = boolean, action = ArgAction::Set)]
    physical: bool,
}

const CHOOSE_ONE: &str = "`--prefix` and `--from-key` cannot be set at the same time, choose one";
const ONE_ARGUMENT: &str =
    "too many arguments, only accept one argument when `--prefix` or `--from-key` is set";

/// Runs `put`.
pub(crate) async fn put(client: &Client, args: PutArgs) -> Outcome {
    let request = put_request(&args)?;
    let mut kv = KvClient::new(client.connect().await?);
    let response = client.call(kv.put(request)).await?;
    match client.format {
        Format::Simple => output::print(&simple_put(&response, client.global.hex)),
        Format::Json => output::print_line(&json_put(&response)),
        Format::Fields => output::print(fields_put(&response).as_bytes()),
        Format::Protobuf => output::print(&response.encode_to_vec()),
        Format::Table => Err(client.format.unsupported()),
    }
}

/// The request of a `put`.
pub(crate) fn put_request(args: &PutArgs) -> Outcome<pb::PutRequest> {
    const USAGE: &str = "put command needs 1 argument and input from stdin or 2 arguments";
    if args.words.args.is_empty() {
        return Err(CtlError::args(USAGE));
    }
    if args.ignore_value && args.words.args.len() > 1 {
        return Err(CtlError::args("put command needs only 1 argument when 'ignore-value' is set"));
    }
    let lease = parse_i64(&args.lease, 16)
        .map_err(|e| CtlError::args(format!("bad lease ID ({e}), expecting ID in Hex")))?;
    let value = if args.ignore_value {
        Vec::new()
    } else if args.words.args.len() > 1 {
        args.words.bytes(1)
    } else {
        let mut value = Vec::new();
        // An empty or closed input is a forgotten argument, not an empty value.
        match std::io::stdin().read_to_end(&mut value) {
            Ok(n) if n > 0 => value,
            _ => return Err(CtlError::args(USAGE)),
        }
    };
    Ok(pb::PutRequest {
        key: args.words.bytes(0).into(),
        value: value.into(),
        lease,
        prev_kv: args.prev_kv,
        ignore_value: args.ignore_value,
        ignore_lease: args.ignore_lease,
    })
}

/// Runs `get`.
pub(crate) async fn get(client: &Client, args: GetArgs) -> Outcome {
    let request = get_request(&args)?;
    if args.print_value_only && client.format != Format::Simple {
        return Err(CtlError::args("print-value-only is only for `--write-out=simple`"));
    }
    if args.count_only && client.format != Format::Fields {
        return Err(CtlError::args("--count-only is only for `--write-out=fields`"));
    }
    let mut kv = KvClient::new(client.connect().await?.clone()).max_decoding_message_size(usize::MAX);
    let response = client.call(kv.range(request)).await?;
    match client.format {
        Format::Simple => output::print(&simple_get(&response, client.global.hex, args.print_value_only)),
        Format::Json => output::print_line(&json_get(&response)),
        Format::Fields => output::print(fields_get(&response).as_bytes()),
        Format::Protobuf => output::print(&response.encode_to_vec()),
        Format::Table => Err(client.format.unsupported()),
    }
}

/// The request of a `get`.
pub(crate) fn get_request(args: &GetArgs) -> Outcome<pb::RangeRequest> {
    let words = &args.words;
    if words.args.is_empty() {
        return Err(CtlError::args(
            "get command needs one argument as key and an optional argument as range_end",
        ));
    }
    if args.prefix && args.from_key {
        return Err(CtlError::args(CHOOSE_ONE));
    }
    let feature = |text: String| CtlError::new(EXIT_BAD_FEATURE, text);
    let serializable = match args.consistency.as_str() {
        "l" => false,
        "s" => true,
        other => {
            return Err(feature(format!("unknown consistency flag {}", output::quote(other.as_bytes()))));
        }
    };
    if words.args.len() > 1 && (args.prefix || args.from_key) {
        return Err(CtlError::args(ONE_ARGUMENT));
    }
    let mut order = match args.order.to_uppercase().as_str() {
        "" => SortOrder::None,
        "ASCEND" => SortOrder::Ascend,
        "DESCEND" => SortOrder::Descend,
        _ => return Err(feature(format!("bad sort order {}", args.order))),
    };
    let target = match args.sort_by.to_uppercase().as_str() {
        "" | "KEY" => SortTarget::Key,
        "CREATE" => SortTarget::Create,
        "MODIFY" => SortTarget::Mod,
        "VALUE" => SortTarget::Value,
        "VERSION" => SortTarget::Version,
        _ => return Err(feature(format!("bad sort target {}", args.sort_by))),
    };
    if target == SortTarget::Key && order == SortOrder::Ascend {
        // The server's natural order: asking for it would make the server sort.
        order = SortOrder::None;
    } else if target != SortTarget::Key && order == SortOrder::None {
        order = SortOrder::Ascend;
    }
    let (key, range_end) = range(words, args.prefix, args.from_key);
    Ok(pb::RangeRequest {
        key: key.into(),
        range_end: range_end.into(),
        limit: args.limit,
        revision: args.rev,
        sort_order: order.into(),
        sort_target: target.into(),
        serializable,
        keys_only: args.keys_only,
        count_only: args.count_only,
        ..Default::default()
    })
}

/// The key and the end of a range; an empty key stands for the first key there can be.
fn range(words: &Words, prefix: bool, from_key: bool) -> (Vec<u8>, Vec<u8>) {
    let key = words.bytes(0);
    if (prefix || from_key) && key.is_empty() {
        (vec![0], vec![0])
    } else if prefix {
        let end = prefix_end(&key);
        (key, end)
    } else if from_key {
        (key, vec![0])
    } else {
        (key, words.bytes(1))
    }
}

/// Runs `del`.
pub(crate) async fn del(client: &Client, args: DelArgs) -> Outcome {
    let request = del_request(&args)?;
    let mut kv = KvClient::new(client.connect().await?);
    let response = client.call(kv.delete_range(request)).await?;
    match client.format {
        Format::Simple => output::print(&simple_del(&response, client.global.hex)),
        Format::Json => output::print_line(&json_del(&response)),
        Format::Fields => output::print(fields_del(&response).as_bytes()),
        Format::Protobuf => output::print(&response.encode_to_vec()),
        Format::Table => Err(client.format.unsupported()),
    }
}

/// The request of a `del`.
pub(crate) fn del_request(args: &DelArgs) -> Outcome<pb::DeleteRangeRequest> {
    if args.words.args.is_empty() || args.words.args.len() > 2 {
        return Err(CtlError::args(
            "del command needs one argument as key and an optional argument as range_end",
        ));
    }
    if args.prefix && args.from_key {
        return Err(CtlError::args(CHOOSE_ONE));
    }
    if args.words.args.len() > 1 && (args.prefix || args.from_key) {
        return Err(CtlError::args(ONE_ARGUMENT));
    }
    let (key, range_end) = range(&args.words, args.prefix, args.from_key);
    Ok(pb::DeleteRangeRequest { key: key.into(), range_end: range_end.into(), prev_kv: args.prev_kv })
}

/// Runs `compaction`.
pub(crate) async fn compaction(client: &Client, args: CompactionArgs) -> Outcome {
    if args.words.args.len() != 1 {
        return Err(CtlError::args("compaction command needs 1 argument"));
    }
    let revision = int64(&args.words.text(0)).map_err(|e| CtlError::new(EXIT_ERROR, e))?;
    let mut kv = KvClient::new(client.connect().await?);
    client.call(kv.compact(pb::CompactionRequest { revision, physical: args.physical })).await?;
    output::print_line(&format!("compacted revision {revision}"))
}

/// `OK` and the previous pair.
pub(crate) fn simple_put(response: &pb::PutResponse, hex: bool) -> Vec<u8> {
    let mut out = b"OK\n".to_vec();
    if let Some(kv) = &response.prev_kv {
        output::push_kv(&mut out, kv, hex, false);
    }
    out
}

/// The pairs.
pub(crate) fn simple_get(response: &pb::RangeResponse, hex: bool, value_only: bool) -> Vec<u8> {
    let mut out = Vec::new();
    for kv in &response.kvs {
        output::push_kv(&mut out, kv, hex, value_only);
    }
    out
}

/// The count and the previous pairs.
pub(crate) fn simple_del(response: &pb::DeleteRangeResponse, hex: bool) -> Vec<u8> {
    let mut out = format!("{}\n", response.deleted).into_bytes();
    for kv in &response.prev_kvs {
        output::push_kv(&mut out, kv, hex, false);
    }
    out
}

/// A put's response as JSON.
pub(crate) fn json_put(response: &pb::PutResponse) -> String {
    let object = Object::new().header(&response.header);
    match &response.prev_kv {
        Some(kv) => object.raw("prev_kv", json::kv(kv)).end(),
        None => object.end(),
    }
}

/// A range's response as JSON.
pub(crate) fn json_get(response: &pb::RangeResponse) -> String {
    Object::new()
        .header(&response.header)
        .opt_list("kvs", &response.kvs, json::kv)
        .opt_bool("more", response.more)
        .opt_number("count", response.count)
        .end()
}

/// A deletion's response as JSON.
pub(crate) fn json_del(response: &pb::DeleteRangeResponse) -> String {
    Object::new()
        .header(&response.header)
        .opt_number("deleted", response.deleted)
        .opt_list("prev_kvs", &response.prev_kvs, json::kv)
        .end()
}

/// A put's response as fields.
pub(crate) fn fields_put(response: &pb::PutResponse) -> String {
    let mut out = String::new();
    output::push_header(&mut out, &response.header.unwrap_or_default());
    if let Some(kv) = &response.prev_kv {
        output::push_kv_fields(&mut out, "Prev", kv);
    }
    out
}

/// A range's response as fields.
pub(crate) fn fields_get(response: &pb::RangeResponse) -> String {
    let mut out = String::new();
    output::push_header(&mut out, &response.header.unwrap_or_default());
    for kv in &response.kvs {
        output::push_kv_fields(&mut out, "", kv);
    }
    let _ = writeln!(out, "\"More\" : {}\n\"Count\" : {}", response.more, response.count);
    out
}

/// A deletion's response as fields.
pub(crate) fn fields_del(response: &pb::DeleteRangeResponse) -> String {
    let mut out = String::new();
    output::push_header(&mut out, &response.header.unwrap_or_default());
    let _ = writeln!(out, "\"Deleted\" : {}", response.deleted);
    for kv in &response.prev_kvs {
        output::push_kv_fields(&mut out, "Prev", kv);
    }
    out
}
