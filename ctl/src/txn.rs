//! `txn`: compares and requests from the input, three lists that end with an empty line.
//!
//! The requests of a list are command lines of `put`, `get` and `del`.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::BufRead;

use cairn_net::proto::etcdserverpb as pb;
use cairn_net::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use cairn_net::proto::etcdserverpb::kv_client::KvClient;
use cairn_net::proto::etcdserverpb::request_op::Request;
use cairn_net::proto::etcdserverpb::response_op::Response;
use clap::{ArgAction, Args, Parser};
use prost::Message as _;

use crate::cli::{Words, boolean, int64, parse_i64};
use crate::client::Client;
use crate::error::{CtlError, Outcome};
use crate::kv;
use crate::output::{self, Format, json::Object};

/// The input cannot be understood.
const EXIT_INVALID_INPUT: u8 = 3;

/// The flags of `txn`.
#[derive(Debug, Args)]
pub(crate) struct TxnArgs {
    #[command(flatten)]
    words: Words,
    /// Input transaction in interactive mode
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = boolean, action = ArgAction::Set)]
    interactive: bool,
}

/// A request within a transaction.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true, disable_help_subcommand = true)]
enum Operation {
    Put(kv::PutArgs),
    Get(kv::GetArgs),
    Del(kv::DelArgs),
}

/// Runs `txn`.
pub(crate) async fn txn(client: &Client, args: TxnArgs) -> Outcome {
    if !args.words.args.is_empty() {
        return Err(CtlError::args("txn command does not accept argument"));
    }
    let request = read(&mut std::io::stdin().lock(), args.interactive)?;
    let mut kv = KvClient::new(client.connect().await?).max_decoding_message_size(usize::MAX);
    let response = client.call(kv.txn(request)).await?;
    match client.format {
        Format::Simple => output::print(&simple(&response, client.global.hex)),
        Format::Json => output::print_line(&json(&response)),
        Format::Fields => output::print(fields(&response).as_bytes()),
        Format::Protobuf => output::print(&response.encode_to_vec()),
        Format::Table => Err(client.format.unsupported()),
    }
}

fn read(input: &mut dyn BufRead, interactive: bool) -> Outcome<pb::TxnRequest> {
    let mut list = |prompt: &str| -> Outcome<Vec<String>> {
        if interactive {
            output::print_line(prompt)?;
        }
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if input.read_line(&mut line)? == 0 {
                return Err(CtlError::new(EXIT_INVALID_INPUT, "EOF"));
            }
            match line.trim() {
                "" => return Ok(lines),
                line => lines.push(line.to_owned()),
            }
        }
    };
    let invalid = |text| CtlError::new(EXIT_INVALID_INPUT, text);
    let compares = list("compares:")?;
    let compare = compares.iter().map(|line| compare(line).map_err(invalid)).collect::<Outcome<_>>()?;
    let mut requests = |prompt| -> Outcome<Vec<pb::RequestOp>> {
        list(prompt)?.iter().map(|line| request(line).map_err(invalid)).collect()
    };
    let success = requests("success requests (get, put, del):")?;
    let failure = requests("failure requests (get, put, del):")?;
    Ok(pb::TxnRequest { compare, success, failure })
}

/// `target("key") relation "value"`.
fn compare(line: &str) -> Result<pb::Compare, String> {
    let malformed = || format!("malformed comparison: {line}");
    let (target, rest) = line.split_once('(').ok_or_else(malformed)?;
    let (key, rest) = quoted(rest).ok_or_else(malformed)?;
    let rest = rest.strip_prefix(')').ok_or_else(malformed)?.trim_start();
    let (relation, rest) = rest.split_once(' ').ok_or_else(malformed)?;
    let (value, _) = quoted(rest.trim_start()).ok_or_else(malformed)?;
    let result = match relation {
        "=" => CompareResult::Equal,
        "!=" => CompareResult::NotEqual,
        ">" => CompareResult::Greater,
        "<" => CompareResult::Less,
        _ => return Err(malformed()),
    };
    let text = String::from_utf8_lossy(&value).into_owned();
    let number = |radix| {
        let number = if radix == 10 { int64(&text) } else { parse_i64(&text, radix) };
        number.map_err(|_| format!("invalid txn compare request: {line}"))
    };
    let (target, target_union) = match target.trim() {
        "ver" | "version" => (CompareTarget::Version, TargetUnion::Version(number(10)?)),
        "c" | "create" => (CompareTarget::Create, TargetUnion::CreateRevision(number(10)?)),
        "m" | "mod" => (CompareTarget::Mod, TargetUnion::ModRevision(number(10)?)),
        "val" | "value" => (CompareTarget::Value, TargetUnion::Value(value.into())),
        "lease" => (CompareTarget::Lease, TargetUnion::Lease(number(16)?)),
        other => return Err(format!("malformed comparison: {line} (unknown target {other})")),
    };
    Ok(pb::Compare {
        result: result.into(),
        target: target.into(),
        key: key.into(),
        target_union: Some(target_union),
        ..Default::default()
    })
}

/// A text in Go's double quotes at the beginning of `input`, and what follows it.
fn quoted(input: &str) -> Option<(Vec<u8>, &str)> {
    let mut rest = input.strip_prefix('"')?;
    let mut out = Vec::new();
    loop {
        let character = rest.chars().next()?;
        rest = &rest[character.len_utf8()..];
        match character {
            '"' => return Some((out, rest)),
            '\\' => {
                let escape = rest.chars().next()?;
                rest = &rest[escape.len_utf8()..];
                out.push(match escape {
                    'a' => 0x07,
                    'b' => 0x08,
                    'f' => 0x0c,
                    'n' => b'\n',
                    'r' => b'\r',
                    't' => b'\t',
                    'v' => 0x0b,
                    '\\' => b'\\',
                    '"' => b'"',
                    'x' => {
                        let byte = u8::from_str_radix(rest.get(..2)?, 16).ok()?;
                        rest = &rest[2..];
                        byte
                    }
                    _ => return None,
                });
            }
            other => out.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

/// The words of a command line; double quotes group.
fn words(line: &str) -> Option<Vec<OsString>> {
    use std::os::unix::ffi::OsStringExt as _;
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        let (word, after) = match quoted(rest) {
            Some(quoted) => quoted,
            None if rest.starts_with('"') => return None,
            None => {
                let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                (rest.as_bytes()[..end].to_vec(), &rest[end..])
            }
        };
        words.push(OsString::from_vec(word));
        rest = after.trim_start();
    }
    Some(words)
}

fn request(line: &str) -> Result<pb::RequestOp, String> {
    let words = words(line).filter(|words| words.len() > 1);
    let words = words.ok_or_else(|| format!("invalid txn compare request: {line}"))?;
    let invalid = || format!("invalid txn request: {line}");
    let request = match Operation::try_parse_from(words).map_err(|_| invalid())? {
        Operation::Put(args) => Request::RequestPut(kv::put_request(&args).map_err(|error| error.text)?),
        Operation::Get(args) => Request::RequestRange(kv::get_request(&args).map_err(|error| error.text)?),
        Operation::Del(args) => {
            Request::RequestDeleteRange(kv::del_request(&args).map_err(|error| error.text)?)
        }
    };
    Ok(pb::RequestOp { request: Some(request) })
}

fn simple(response: &pb::TxnResponse, hex: bool) -> Vec<u8> {
    let mut out = if response.succeeded { b"SUCCESS\n".to_vec() } else { b"FAILURE\n".to_vec() };
    for response in response.responses.iter().filter_map(|response| response.response.as_ref()) {
        out.push(b'\n');
        out.extend(match response {
            Response::ResponsePut(put) => kv::simple_put(put, hex),
            Response::ResponseRange(range) => kv::simple_get(range, hex, false),
            Response::ResponseDeleteRange(del) => kv::simple_del(del, hex),
            Response::ResponseTxn(txn) => simple(txn, hex),
        });
    }
    out
}

fn json(response: &pb::TxnResponse) -> String {
    let operation = |response: &pb::ResponseOp| {
        let (name, body) = match &response.response {
            Some(Response::ResponsePut(put)) => ("ResponsePut", kv::json_put(put)),
            Some(Response::ResponseRange(range)) => ("ResponseRange", kv::json_get(range)),
            Some(Response::ResponseDeleteRange(del)) => ("ResponseDeleteRange", kv::json_del(del)),
            Some(Response::ResponseTxn(txn)) => ("ResponseTxn", json(txn)),
            None => return "{\"Response\":null}".to_owned(),
        };
        Object::new().raw("Response", Object::new().raw(name, body).end()).end()
    };
    Object::new()
        .header(&response.header)
        .opt_bool("succeeded", response.succeeded)
        .opt_list("responses", &response.responses, operation)
        .end()
}

fn fields(response: &pb::TxnResponse) -> String {
    let mut out = String::new();
    output::push_header(&mut out, &response.header.unwrap_or_default());
    let _ = writeln!(out, "\"Succeeded\" : {}", response.succeeded);
    for response in response.responses.iter().filter_map(|response| response.response.as_ref()) {
        out.push_str(&match response {
            Response::ResponsePut(put) => kv::fields_put(put),
            Response::ResponseRange(range) => kv::fields_get(range),
            Response::ResponseDeleteRange(del) => kv::fields_del(del),
            Response::ResponseTxn(txn) => fields(txn),
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_end_with_an_empty_line() {
        let input = "mod(\"a\") > \"0\"\n\nput a \"x y\"\nget a --limit=1\n\ndel \"\\x01\" --prefix\n\n";
        let request = read(&mut input.as_bytes(), false).unwrap();
        assert_eq!((request.compare.len(), request.success.len(), request.failure.len()), (1, 2, 1));
        let Some(Request::RequestPut(put)) = &request.success[0].request else { panic!("{request:?}") };
        assert_eq!(put.value, "x y");
        let Some(Request::RequestDeleteRange(del)) = &request.failure[0].request else {
            panic!("{request:?}")
        };
        assert_eq!((&del.key[..], &del.range_end[..]), (&b"\x01"[..], &b"\x02"[..]));
    }

    #[test]
    fn wrong_lines_are_named() {
        let text = |input: &str| read(&mut input.as_bytes(), false).unwrap_err().text;
        assert_eq!(text("xyz\n\n"), "malformed comparison: xyz");
        assert_eq!(
            text("foo(\"a\") = \"b\"\n\n"),
            "malformed comparison: foo(\"a\") = \"b\" (unknown target foo)"
        );
        assert_eq!(text("mod(\"a\") = \"b\"\n\n"), "invalid txn compare request: mod(\"a\") = \"b\"");
        assert_eq!(text("\nfoo\n\n"), "invalid txn compare request: foo");
        assert_eq!(text("\nfoo a\n\n"), "invalid txn request: foo a");
        assert_eq!(text("\nput a b\n"), "EOF");
    }
}
