//! `lease grant`, `revoke`, `timetolive`, `list` and `keep-alive`.

use std::fmt::Write as _;
use std::time::Duration;

use cairn_net::proto::etcdserverpb as pb;
use cairn_net::proto::etcdserverpb::lease_client::LeaseClient;
use clap::{ArgAction, Args, Subcommand};
use prost::Message;
use tonic::transport::Channel;

use crate::cli::{Words, boolean, int64, parse_i64};
use crate::client::Client;
use crate::error::{CtlError, EXIT_BAD_CONNECTION, EXIT_ERROR, Outcome};
use crate::output::{self, Format, json, json::Object};

/// What a shell reports for a command that SIGINT ended.
const EXIT_SIGINT: u8 = 130;

/// The sub-commands of `lease`.
#[derive(Debug, Subcommand)]
pub(crate) enum LeaseCommand {
    /// Creates leases
    Grant(Words),
    /// Revokes leases
    Revoke(Words),
    /// Get lease information
    Timetolive(TimeToLiveArgs),
    /// List all active leases
    List(Words),
    /// Keeps leases alive (renew)
    KeepAlive(KeepAliveArgs),
}

/// The flags of `lease timetolive`.
#[derive(Debug, Args)]
pub(crate) struct TimeToLiveArgs {
    #[command(flatten)]
    words: Words,
    /// Get keys attached to this lease
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = boolean, action = ArgAction::Set)]
    keys: bool,
}

/// The flags of `lease keep-alive`.
#[derive(Debug, Args)]
pub(crate) struct KeepAliveArgs {
    #[command(flatten)]
    words: Words,
    /// Resets the keep-alive time to its original value and exits immediately
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = boolean, action = ArgAction::Set)]
    once: bool,
}

/// Runs a sub-command.
pub(crate) async fn run(client: &Client, command: LeaseCommand) -> Outcome {
    match command {
        LeaseCommand::Grant(words) => grant(client, &words).await,
        LeaseCommand::Revoke(words) => revoke(client, &words).await,
        LeaseCommand::Timetolive(args) => time_to_live(client, &args).await,
        LeaseCommand::List(_) => list(client).await,
        LeaseCommand::KeepAlive(args) => keep_alive(client, &args).await,
    }
}

fn lease_id(words: &Words) -> Outcome<i64> {
    parse_i64(&words.text(0), 16)
        .map_err(|error| CtlError::args(format!("bad lease ID arg ({error}), expecting ID in Hex")))
}

/// Prints what `simple`, `json` and `fields` make of a response.
fn show(
    client: &Client,
    response: &impl Message,
    simple: String,
    json: String,
    header: Option<pb::ResponseHeader>,
    fields: &[(&str, i64)],
) -> Outcome {
    match client.format {
        Format::Simple => output::print(simple.as_bytes()),
        Format::Json => output::print_line(&json),
        Format::Fields => {
            let mut out = String::new();
            output::push_header(&mut out, &header.unwrap_or_default());
            for (name, number) in fields {
                let _ = writeln!(out, "\"{name}\" : {number}");
            }
            output::print(out.as_bytes())
        }
        Format::Protobuf => output::print(&response.encode_to_vec()),
        Format::Table => Err(client.format.unsupported()),
    }
}

async fn grant(client: &Client, words: &Words) -> Outcome {
    if words.args.len() != 1 {
        return Err(CtlError::args("lease grant command needs TTL argument"));
    }
    let ttl = int64(&words.text(0)).map_err(|error| CtlError::args(format!("bad TTL ({error})")))?;
    let mut lease = LeaseClient::new(client.connect().await?);
    let granted = client.call(lease.lease_grant(pb::LeaseGrantRequest { ttl, id: 0 })).await;
    let response =
        granted.map_err(|error| CtlError::new(error.code, format!("failed to grant lease ({error})")))?;
    let simple = format!("lease {:016x} granted with TTL({}s)\n", response.id, response.ttl);
    let json = Object::new()
        .embedded(&response.header)
        .raw("ID", response.id)
        .raw("TTL", response.ttl)
        .text("Error", &response.error)
        .end();
    let fields = [("ID", response.id), ("TTL", response.ttl)];
    show(client, &response, simple, json, response.header, &fields)
}

async fn revoke(client: &Client, words: &Words) -> Outcome {
    if words.args.len() != 1 {
        return Err(CtlError::args("lease revoke command needs 1 argument"));
    }
    let id = lease_id(words)?;
    let mut lease = LeaseClient::new(client.connect().await?);
    let revoked = client.call(lease.lease_revoke(pb::LeaseRevokeRequest { id })).await;
    let response =
        revoked.map_err(|error| CtlError::new(error.code, format!("failed to revoke lease ({error})")))?;
    let json = Object::new().header(&response.header).end();
    show(client, &response, format!("lease {id:016x} revoked\n"), json, response.header, &[])
}

async fn time_to_live(client: &Client, args: &TimeToLiveArgs) -> Outcome {
    if args.words.args.len() != 1 {
        return Err(CtlError::args("lease timetolive command needs lease ID as argument"));
    }
    let id = lease_id(&args.words)?;
    let mut lease = LeaseClient::new(client.connect().await?);
    let request = pb::LeaseTimeToLiveRequest { id, keys: args.keys };
    let response = client.call(lease.lease_time_to_live(request)).await?;
    let mut simple = match (response.granted_ttl, response.ttl) {
        (0, -1) => format!("lease {id:016x} already expired"),
        (granted, left) => {
            let mut line = format!("lease {id:016x} granted with TTL({granted}s), remaining({left}s)");
            if args.keys {
                let keys: Vec<_> = response.keys.iter().map(|key| String::from_utf8_lossy(key)).collect();
                let _ = write!(line, ", attached keys([{}])", keys.join(" "));
            }
            line
        }
    };
    simple.push('\n');
    let keys = match response.keys.as_slice() {
        [] => "null".to_owned(),
        keys => json::list(keys, |key| json::bytes(key)),
    };
    let json = Object::new()
        .embedded(&response.header)
        .raw("id", response.id)
        .raw("ttl", response.ttl)
        .raw("granted-ttl", response.granted_ttl)
        .raw("keys", keys)
        .end();
    let fields = [("ID", response.id), ("TTL", response.ttl), ("GrantedTTL", response.granted_ttl)];
    show(client, &response, simple, json, response.header, &fields)?;
    if client.format == Format::Fields {
        for key in &response.keys {
            output::print_line(&format!("\"Key\" : {}", output::quote(key)))?;
        }
    }
    Ok(())
}

async fn list(client: &Client) -> Outcome {
    let mut lease = LeaseClient::new(client.connect().await?);
    let response = client.call(lease.lease_leases(pb::LeaseLeasesRequest {})).await?;
    let mut simple = format!("found {} leases\n", response.leases.len());
    for lease in &response.leases {
        let _ = writeln!(simple, "{:016x}", lease.id);
    }
    let leases = json::list(&response.leases, |lease| Object::new().raw("id", lease.id).end());
    let json = Object::new().embedded(&response.header).raw("leases", leases).end();
    let fields: Vec<_> = response.leases.iter().map(|lease| ("ID", lease.id)).collect();
    show(client, &response, simple, json, response.header, &fields)
}

async fn keep_alive(client: &Client, args: &KeepAliveArgs) -> Outcome {
    if args.words.args.len() != 1 {
        return Err(CtlError::args("lease keep-alive command needs lease ID as argument"));
    }
    let id = lease_id(&args.words)?;
    let channel = client.connect().await?;
    if args.once {
        let response = renew(&channel, id).await?;
        if response.ttl <= 0 {
            return Err(CtlError::new(EXIT_BAD_CONNECTION, "etcdserver: requested lease not found"));
        }
        return show_renewal(client, &response);
    }
    let renewals = async {
        loop {
            let response = renew(&channel, id).await?;
            if response.ttl <= 0 {
                return output::print_line(&format!("lease {id:016x} expired or revoked."));
            }
            show_renewal(client, &response)?;
            tokio::time::sleep(pause(response.ttl)).await;
        }
    };
    tokio::select! {
        biased;
        _ = tokio::signal::ctrl_c() => Err(CtlError::silent(EXIT_SIGINT)),
        ended = renewals => ended,
    }
}

fn show_renewal(client: &Client, response: &pb::LeaseKeepAliveResponse) -> Outcome {
    let simple = format!("lease {:016x} keepalived with TTL({})\n", response.id, response.ttl);
    let json = Object::new().embedded(&response.header).raw("ID", response.id).raw("TTL", response.ttl).end();
    let fields = [("ID", response.id), ("TTL", response.ttl)];
    show(client, response, simple, json, response.header, &fields)
}

/// How long to wait before the next renewal.
pub(crate) fn pause(ttl: i64) -> Duration {
    Duration::from_millis(u64::try_from(ttl).unwrap_or(1).saturating_mul(1000) / 3)
}

/// Renews a lease once; a TTL of 0 or less says that it is gone.
pub(crate) async fn renew(channel: &Channel, id: i64) -> Outcome<pb::LeaseKeepAliveResponse> {
    let request = tokio_stream::once(pb::LeaseKeepAliveRequest { id });
    let mut answers = LeaseClient::new(channel.clone()).lease_keep_alive(request).await?.into_inner();
    let answer = answers.message().await?;
    answer.ok_or_else(|| CtlError::new(EXIT_ERROR, "the server ended the stream without an answer"))
}
